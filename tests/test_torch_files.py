"""Does one odd entry of a .pt cost that entry alone, with its reason, and does nothing of a file ever run?  (``tox -e torch``)"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import enum
import json
import pathlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import fpemu as fp
from fpemu.cli import main
from fpemu.cli.torch_files import LEGACY, torch_entries

torch = pytest.importorskip("torch", reason="torch is not installed: tox -e torch")
pytestmark = pytest.mark.filterwarnings("ignore")
X = torch.arange(1.0, 7.0).reshape(2, 3)
RAN: list[str] = []


class Marked(torch.Tensor):
    """A tensor that means something."""


class Settings(dict):  # type: ignore[type-arg]
    """As trainers keep them."""


class Names(list):  # type: ignore[type-arg]
    """A list of their own."""


class Phase(enum.Enum):
    WARM = 1


@dataclasses.dataclass
class State:
    step: int
    average: Any


Pair = collections.namedtuple("Pair", "first second")


class Runs:
    """An object that does something when it is loaded."""

    def __reduce__(self) -> Any:
        return _ran, ("loaded",)


def _ran(what: str) -> str:
    RAN.append(what)
    return what


def entries(held: Any, path: Path, **how: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors of a file by name, as float32 values, and why the others are not."""
    torch.save(held, path, **how)
    found = list(torch_entries(str(path)))
    values = {
        one.name: one.elements if one.format is None else fp.decode(one.elements, one.format)
        for one in found
        if one.elements is not None
    }
    return values, {one.name: one.why for one in found if one.elements is None}


ODD: dict[str, tuple[Callable[[], Any], str]] = {
    "meta": (lambda: torch.empty(3, device="meta"), "a meta tensor has no elements"),
    "coo": (lambda: X.to_sparse(), "layout torch.sparse_coo"),
    "csr": (lambda: X.to_sparse_csr(), "layout torch.sparse_csr"),
    "quantized": (lambda: torch.quantize_per_tensor(X, 0.1, 0, torch.qint8), "a quantized tensor"),
    "nested": (lambda: torch.nested.nested_tensor([X, X]), "a nested tensor"),
    "jagged": (lambda: torch.nested.nested_tensor([X, X], layout=torch.jagged), "NestedTensor"),
    "complex": (lambda: torch.ones(2, dtype=torch.complex64), "elements of torch.complex64, which are no floats"),
    "half complex": (lambda: torch.ones(2, dtype=torch.complex32), "torch.complex32 are not taken"),
    "integers": (lambda: torch.arange(3), "elements of torch.int64"),
    "bools": (lambda: torch.ones(2, dtype=torch.bool), "elements of torch.bool"),
    "a subclass": (lambda: X.clone().as_subclass(Marked), "Marked is not taken"),
    "objects": (lambda: np.array([X.numpy(), None], object), "not loaded"),
    "an array": (lambda: np.ones(3), "an object of numpy"),
    "a module": (lambda: torch.nn.Linear(2, 2), "an object of torch.nn.modules.linear.Linear"),
    "a phase": (lambda: Phase.WARM, "Phase, which is not loaded"),
    "what runs": (lambda: Runs(), "_ran, which is not loaded"),
    "a path": (lambda: pathlib.PurePosixPath("x"), "PurePosixPath"),
    "a function": (lambda: argparse.ArgumentParser, "ArgumentParser"),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", ODD)
def test_an_odd_entry_costs_itself(kind: str, legacy: bool, tmp_path: Path) -> None:
    make, why = ODD[kind]
    odd = make()
    if legacy and kind in ("quantized", "half complex", "jagged", "nested", "a module"):
        pytest.skip("not written in the old layout, or not read from it by PyTorch")
    values, reasons = entries(
        {"first": X, "odd": odd, "last": [X * 2]}, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy
    )
    np.testing.assert_array_equal(values["first"], X.numpy())
    np.testing.assert_array_equal(values["last.0"], 2 * X.numpy())
    told = " ".join(f"{name}: {reason}" for name, reason in reasons.items())
    assert why in told and "\n" not in told and "\x1b" not in told
    assert not RAN


def test_all_of_them_together(tmp_path: Path) -> None:
    values, reasons = entries({**{kind: make() for kind, (make, _) in ODD.items()}, "weight": X}, tmp_path / "x.pt")
    assert {"weight", "a module._parameters.weight"} <= set(values)
    told = " ".join(reasons.values())
    for kind, (_, why) in ODD.items():
        assert why in told, kind
    assert not RAN


def test_what_lies_beside_the_weights(tmp_path: Path) -> None:
    """Scalars of NumPy and what holds no tensors cost nothing; tensors inside of objects are found."""
    held = {
        "loss": np.float32(1.5),
        "step": np.int64(3),
        "args": argparse.Namespace(lr=0.1, ema=X),
        "state": State(3, {"w": X + 1}),
        "pair": Pair(X + 2, 4),
        "hyper": Settings(lr=1, w=X + 3),
        "names": Names(["a", X + 4]),
        "by_name": collections.defaultdict(list, a=[X + 5]),
        "ordered": collections.OrderedDict(w=X + 6),
        3: X + 7,
        "none": None,
    }
    values, reasons = entries(held, tmp_path / "x.pt")
    found = {name: float(value[0, 0]) for name, value in values.items()}
    assert found == {"args.ema": 1, "state.average.w": 2, "pair.0": 3, "hyper.w": 4, "names.1": 5, "by_name.a.0": 6,
                     "ordered.w": 7, "3": 8}  # fmt: skip
    assert set(reasons) == {"args", "state", "pair"}
    assert reasons["args"] == "an object of argparse.Namespace, which is not loaded: only tensors in it are looked at"


def test_every_floating_dtype_and_layout(tmp_path: Path) -> None:
    names = [
        "float16",
        "bfloat16",
        "float32",
        "float64",
        "float8_e4m3fn",
        "float8_e5m2",
        "float8_e4m3fnuz",
        "float8_e5m2fnuz",
    ]
    held: dict[str, Any] = {name: X.to(getattr(torch, name)) for name in names}
    held["scales"] = torch.tensor([126, 127, 128], dtype=torch.uint8).view(torch.float8_e8m0fnu)
    held["fp4"] = torch.tensor([[0x21, 0x43]], dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    held |= {"turned": X.t(), "sliced": X[:, 1:], "empty": X[:0], "one": X[1, 2], "grad": torch.nn.Parameter(X.clone())}
    held["negative"] = torch.complex(X, -X).conj().imag
    values, reasons = entries(held, tmp_path / "x.pt")
    assert not reasons
    for name in [*names, "grad", "negative"]:
        np.testing.assert_array_equal(values[name], X.numpy())
    assert values["scales"].tolist() == [0.5, 1.0, 2.0] and values["fp4"].tolist() == [[0.5, 1.0, 1.5, 2.0]]
    np.testing.assert_array_equal(values["turned"], X.numpy().T)
    np.testing.assert_array_equal(values["sliced"], X.numpy()[:, 1:])
    assert values["empty"].shape == (0, 3) and values["one"] == 6


def test_shared_memory_is_inspected_once(tmp_path: Path) -> None:
    values, reasons = entries({"embed": X, "head": {"weight": X}, "row": X[0], "turned": X.t()}, tmp_path / "x.pt")
    assert set(values) == {"embed", "row", "turned"}
    assert reasons == {"head.weight": "the same memory as embed, which is inspected"}


def test_a_container_within_itself(tmp_path: Path) -> None:
    held: dict[str, Any] = {"w": X}
    held["again"] = held
    assert set(entries(held, tmp_path / "x.pt")[0]) == {"w"}


# ---- by the command -------------------------------------------------------------------------------------------------
def inspected(path: Path) -> Any:
    return CliRunner().invoke(main, ["inspect", str(path), "--json", "--formats", "e4m3"], prog_name="fpemu")


def test_pieces_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fpemu.cli import tensors as reader

    x = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    torch.save({"turned": x.t(), "half": x.to(torch.bfloat16)}, tmp_path / "x.pt")
    whole = json.loads(inspected(tmp_path / "x.pt").stdout)
    monkeypatch.setattr(reader, "CHUNK_BYTES", 300)
    cut = json.loads(inspected(tmp_path / "x.pt").stdout)
    for one, other in zip(whole["files"][0]["tensors"], cut["files"][0]["tensors"], strict=True):
        assert one["size"] == other["size"] == 2000 and one["histogram"] == other["histogram"]


def test_a_program_and_a_damaged_file_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    result = inspected(path)
    assert result.exit_code == 1 and "a TorchScript program" in result.stderr and result.stderr.count("\n") == 1
    torch.save({"w": X}, path, _use_new_zipfile_serialization=False)
    assert path.read_bytes().startswith(LEGACY)
    path.write_bytes(path.read_bytes()[:-30])
    result = inspected(path)
    assert result.exit_code == 1 and result.stderr.count("\n") == 1 and "Traceback" not in result.stderr


def test_a_call_of_the_system_is_refused_with_its_name(tmp_path: Path) -> None:
    import os

    torch.save({"w": X, "call": os.system}, tmp_path / "x.pt")
    result = inspected(tmp_path / "x.pt")
    assert result.exit_code == 1 and "system" in result.stderr and "blocked" in result.stderr
    assert "\x1b" not in result.stderr and result.stderr.count("\n") == 1
