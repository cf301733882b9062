"""Does ``fpemu inspect`` read checkpoints exactly, and say in a line what is wrong with a damaged one?"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from implementations import JIT

import fpemu as fp
from fpemu.cli import main
from fpemu.cli import tensors as reader

pytestmark = pytest.mark.skipif(not JIT, reason="takes too long without the compiler")
X = (np.random.default_rng(0).standard_normal((5, 7)) * 2.0**-12).astype(np.float32)
HELD: dict[str, tuple[str, Any]] = {
    "layer.weight": ("F32", X),
    "layer.half": ("F16", X.astype(np.float16)),
    "wide": ("F64", X.astype(np.float64)),
    "brain": ("BF16", fp.encode(X, "bf16")),
    "eight": ("F8_E4M3", fp.encode(X * 2**14, "e4m3")),
    "eight.back": ("F8_E5M2", fp.encode(X, "e5m2")),
    "count": ("I64", np.arange(3)),
    "none": ("F32", np.zeros((0, 4), np.float32)),
    "eight.amd": ("F8_E4M3FNUZ", fp.encode(X * 2**14, "e4m3fnuz")),
    "eight.amd.back": ("F8_E5M2FNUZ", fp.encode(X, "e5m2fnuz")),
    "scales": ("F8_E8M0", fp.encode(np.abs(X), "e8m0")),
    "six": ("F6_E2M3", fp.encode(np.vstack([X, X, X, X])[:, :4] * 2**12, "e2m3")),
    "six.wide": ("F6_E3M2", fp.encode(X[:4] * 2**12, "e3m2")),
    "four": ("F4", fp.encode(X[:4] * 2**12, "e2m1")),
    "odd": ("F3", np.zeros(2, np.uint8)),
    "pairs": ("C64", np.zeros(2, np.complex64)),
}
FORMATS = {"BF16": "bf16", "F8_E4M3": "e4m3", "F8_E5M2": "e5m2", "F8_E4M3FNUZ": "e4m3fnuz", "F8_E5M2FNUZ": "e5m2fnuz",
           "F8_E8M0": "e8m0", "F6_E2M3": "e2m3", "F6_E3M2": "e3m2", "F4": "e2m1"}  # fmt: skip
SKIPPED = ("I64", "F3", "C64")


def written(path: Path, held: dict[str, tuple[str, Any]] = HELD, **change: Any) -> Path:
    header: dict[str, Any] = {"__metadata__": {"format": "np"}}
    body = b""
    for name, (kind, array) in held.items():
        packed = kind in FORMATS and fp.FORMATS[FORMATS[kind]].bits < 8
        data = (fp.pack(array.reshape(-1), FORMATS[kind]) if packed else np.ascontiguousarray(array)).tobytes()
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    for name, facts in change.items():
        header[name] = {**header[name], **facts}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def inspected(path: Path, *options: str) -> tuple[Any, Any]:
    result = CliRunner().invoke(main, ["inspect", str(path), "--json", *options], prog_name="fpemu")
    return result, json.loads(result.stdout) if result.exit_code == 0 else None


def check(found: Any, names: dict[str, Any]) -> None:
    """Each tensor's statistics are those of its values."""
    shown = {one["name"]: one for one in found["files"][0]["tensors"]}
    assert set(shown) == set(names)
    for name, values in names.items():
        expected = fp.tensor_stats(values, ["fp16", "e4m3"])
        assert shown[name]["shape"] == list(values.shape)
        assert [row["new_zero"] for row in shown[name]["casts"]] == [one.new_zero for one in expected], name
        assert shown[name]["nonzero"] == expected.nonzero and shown[name]["amax"] == expected.amax, name


def values_of(kind: str, array: Any) -> Any:
    format = FORMATS.get(kind)
    return array if format is None else fp.decode(array, format)


def test_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "model.safetensors")
    result, found = inspected(path, "--formats", "fp16,e4m3")
    check(found, {name: values_of(kind, array) for name, (kind, array) in HELD.items() if kind not in SKIPPED})
    for told in (
        "count: skipped, integers (I64)",
        "odd: skipped, elements of F3",
        "pairs: skipped, complex numbers (C64)",
    ):
        assert told in result.stderr
    dtypes = {one["name"]: one["dtype"] for one in found["files"][0]["tensors"]}
    assert dtypes["four"] == "codes of float4_e2m1fn" and "taken to be packed from the lowest bit" in dtypes["six"]
    monkeypatch.setattr(reader, "CHUNK_BYTES", 24)  # in pieces
    check(
        inspected(path, "--formats", "fp16,e4m3")[1],
        {n: values_of(k, a) for n, (k, a) in HELD.items() if k not in SKIPPED},
    )


def test_the_first_of_two_fp4_is_the_low_half(tmp_path: Path) -> None:
    path = written(
        tmp_path / "x.safetensors",
        {"w": ("U8", np.array([0x21, 0x43, 0x75], np.uint8))},
        w={"dtype": "F4", "shape": [2, 3]},
    )
    (entry,) = reader.tensors(str(path), None)
    assert isinstance(entry, reader.Tensor)
    assert entry.shape == (2, 3) and entry.format is fp.FORMATS["e2m1"]
    assert np.concatenate(list(entry.pieces)).tolist() == [1, 2, 3, 4, 5, 7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"brain": {"data_offsets": [0, 70]}}, "over another or beyond the end"),
        ({"layer.weight": {"shape": [5, 8]}}, "cannot take 140 bytes"),
        ({"four": {"shape": [4, 8]}}, "four, F4 of shape [4, 8], cannot take 14 bytes"),
        ({"four": {"shape": [3, 9]}}, "cannot take 14 bytes"),
        ({"layer.weight": {"shape": None}}, "has no dtype, shape or data_offsets"),
    ],
)
def test_damaged_safetensors(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    result, _ = inspected(written(tmp_path / "model.safetensors", **change))
    assert result.exit_code == 1 and message in result.stderr


def test_cut_and_foreign_files(tmp_path: Path) -> None:
    path = written(tmp_path / "model.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    assert "beyond the end" in inspected(path)[0].stderr
    path.write_bytes((5).to_bytes(8, "little") + b"{no}}")
    assert "no JSON" in inspected(path)[0].stderr
    path.write_bytes(b"\x00" * 40)
    assert "neither .npy, .npz, .safetensors nor .pt" in inspected(path)[0].stderr


def test_pt_without_torch_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import zipfile

    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    result, _ = inspected(path)
    assert result.exit_code == 1 and "needs PyTorch" in result.stderr


def test_pt(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    held = {
        "model": {
            "weight": torch.from_numpy(X.copy()),
            "brain": torch.from_numpy(X.copy()).to(torch.bfloat16),
            "steps": torch.tensor(3),
        },
        "eight": [torch.from_numpy(X * 2**14).to(torch.float8_e4m3fn), torch.from_numpy(X.T.copy()).t()],
        "epoch": 4,
    }
    path = tmp_path / "model.pt"
    torch.save(held, path)
    result, found = inspected(path, "--formats", "fp16,e4m3")
    assert result.exit_code == 0, result.output
    names = {
        "model.weight": X,
        "model.brain": fp.quantize(X, "bf16"),
        "eight.0": fp.quantize(X * 2**14, "e4m3"),
        "eight.1": X,
    }
    check(found, names)
    assert "model.steps" in result.stderr
    torch.save({"model": os.system}, path)  # a pickle that could run
    result, _ = inspected(path)
    assert result.exit_code == 1 and "weights_only" in result.stderr
