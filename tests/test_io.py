"""Do files keep codes and formats, and does a damaged, foreign or interrupted one do no harm?"""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpemu.io
from fpemu.formats import FORMATS, FloatFormat
from fpemu.io import VERSION, load, save, writing_whole

CUSTOM = FloatFormat("mine", bits=12, precision=5, bias=70, infinities=False, high_nans=3)
# Not the alias e4m3, which is another format: a name of one's own is no identity of the catalogue's.
IEEE_LIKE = FloatFormat.ieee(4, 3)


@pytest.mark.parametrize("format", [*list(FORMATS.values())[:15], FORMATS["binary16p7uf"], CUSTOM, IEEE_LIKE], ids=str)
def test_codes_and_format_come_back(tmp_path: Path, format: FloatFormat) -> None:
    codes = np.random.default_rng(1).integers(0, 1 << format.bits, (3, 5), np.uint64).astype(format.code_dtype)
    save(tmp_path / "x", codes, format)
    back, same = load(tmp_path / "x")
    assert same == format
    assert back.dtype == format.code_dtype
    assert np.array_equal(back, codes)


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (7,), (2, 3, 4)])
def test_shapes_come_back(tmp_path: Path, shape: tuple[int, ...]) -> None:
    save(tmp_path / "x.npz", np.ones(shape, np.uint8), "e4m3")
    assert load(tmp_path / "x.npz")[0].shape == shape


def test_layout_and_byte_order_do_not_matter(tmp_path: Path) -> None:
    codes = np.arange(24, dtype=np.uint16).reshape(4, 6)
    for i, same in enumerate((codes, np.asfortranarray(codes), codes.astype(">u2"), codes[::-1, ::2][::-1].copy())):
        save(tmp_path / f"{i}.npz", same, "fp16")
        assert np.array_equal(load(tmp_path / f"{i}.npz")[0], same)


def test_the_name_is_taken_as_it_is_and_numpy_reads_it(tmp_path: Path) -> None:
    save(tmp_path / "weights.codes", np.arange(3, dtype=np.uint8), "e5m2")
    assert os.listdir(tmp_path) == ["weights.codes"]
    with np.load(tmp_path / "weights.codes", allow_pickle=False) as file:
        assert file["codes"].tolist() == [0, 1, 2]
        assert json.loads(file["format"].item())["format"]["name"] == "float8_e5m2"


def test_ml_dtypes_arrays_bring_their_format(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    save(tmp_path / "x", np.array([1.0, -2.0], ml_dtypes.bfloat16))
    codes, format = load(tmp_path / "x")
    assert format is FORMATS["bf16"] or format == FORMATS["bf16"]
    assert codes.tolist() == [0x3F80, 0xC000]


# ---- what is refused ------------------------------------------------------------------------------------------------
def test_codes_beyond_the_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found 0 to 0x10"):
        save(tmp_path / "x", np.array([0, 16], np.uint8), "e2m1")
    assert os.listdir(tmp_path) == []


def test_a_catalogue_name_with_other_facts_is_refused(tmp_path: Path) -> None:
    impostor = FloatFormat(**{**asdict(FORMATS["float8_e5m2"]), "bias": 16})
    with pytest.raises(ValueError, match="bias 16, not 15"):
        save(tmp_path / "x", np.zeros(2, np.uint8), impostor)


def archive(path: Path, identity: Any, codes: Any, **more: Any) -> Path:
    np.savez(
        path, codes=codes, format=np.array(identity if isinstance(identity, str) else json.dumps(identity)), **more
    )
    return path


def identity(**facts: Any) -> dict[str, Any]:
    return {"fpemu": VERSION, "format": {**asdict(FORMATS["e4m3"]), **facts}}


@pytest.mark.parametrize(
    ("name_and_facts", "codes", "message"),
    [
        (identity(bias=8), np.zeros(2, np.uint8), "other facts than this catalogue's: bias 8, not 7"),
        ({"fpemu": VERSION + 1, "format": {}}, np.zeros(2, np.uint8), "this fpemu reads version"),
        (identity(precision=40), np.zeros(2, np.uint8), "its format is none"),
        (identity(colour="red"), np.zeros(2, np.uint8), "its format is none"),
        ({"fpemu": VERSION}, np.zeros(2, np.uint8), "its format is none"),
        (identity(), np.zeros(2, np.uint16), "damaged: codes of float8_e4m3fn are uint8, found uint16"),
        (identity(), np.zeros(2, np.float32), "damaged: codes"),
        ("{not json", np.zeros(2, np.uint8), "not a file of fpemu.save"),
        ('["fpemu"]', np.zeros(2, np.uint8), "not a file of fpemu.save"),
    ],
)
def test_identities_that_are_none(tmp_path: Path, name_and_facts: Any, codes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(archive(tmp_path / "x.npz", name_and_facts, codes))


def test_codes_in_a_file_are_checked_against_the_format(tmp_path: Path) -> None:
    facts = {"fpemu": VERSION, "format": asdict(FORMATS["e2m1"])}
    with pytest.raises(ValueError, match=r"x\.npz: float4_e2m1fn has codes 0 to 0xf"):
        load(archive(tmp_path / "x.npz", facts, np.array([255], np.uint8)))


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(ran),))

    np.savez(tmp_path / "x.npz", codes=np.array([Trap()], object), format=np.array(json.dumps(identity())))
    np.savez(tmp_path / "y.npz", codes=np.zeros(1, np.uint8), format=np.array([Trap()], object))
    for name in ("x.npz", "y.npz"):
        with pytest.raises(ValueError, match="damaged"):
            load(tmp_path / name)
    assert not ran.exists()


def test_foreign_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").write_bytes(b"")
    np.save(tmp_path / "x.npy", np.zeros(3))
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    for name, message in (("text", "not an .npz"), ("empty", "not an .npz"), ("x.npy", "not an .npz")):
        with pytest.raises(ValueError, match=message):
            load(tmp_path / name)
    with pytest.raises(ValueError, match=r"not a file of fpemu\.save"):
        load(tmp_path / "other.npz")


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    save(tmp_path / "x", np.arange(200, dtype=np.uint8) % 100, "e4m3")
    whole = (tmp_path / "x").read_bytes()
    for size in range(0, len(whole), 7):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(ValueError, match="cut: "):
            load(tmp_path / "cut")


def test_a_flipped_bit_never_gives_other_codes_silently(tmp_path: Path) -> None:
    codes = np.arange(50, dtype=np.uint8)
    save(tmp_path / "x", codes, "e4m3")
    whole = bytearray((tmp_path / "x").read_bytes())
    noticed = 0
    for place in range(len(whole)):
        damaged = whole.copy()
        damaged[place] ^= 0x10
        (tmp_path / "bad").write_bytes(damaged)
        try:
            back, format = load(tmp_path / "bad")
        except ValueError as error:
            noticed += str(error).startswith(str(tmp_path / "bad"))
        else:  # only dates and the like may change unnoticed
            assert np.array_equal(back, codes)
            assert format == FORMATS["e4m3"]
    assert noticed > len(whole) // 2


def test_a_shape_that_lies_does_not_allocate(tmp_path: Path) -> None:
    save(tmp_path / "x", np.zeros(8, np.uint8), "e4m3")
    with zipfile.ZipFile(tmp_path / "x") as old, zipfile.ZipFile(tmp_path / "y", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "codes.npy":
                assert b"(8,), }" + b" " * 11 in data
                data = data.replace(b"(8,), }" + b" " * 11, b"(999999999999,), }")
            new.writestr(name, data)
    with pytest.raises(ValueError, match=r"damaged: cut short: shape .* takes 999999999999 bytes, found 8"):
        load(tmp_path / "y")


# ---- whole or not at all --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_save_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    save(tmp_path / "x", np.array([1], np.uint8), "e4m3")
    before = (tmp_path / "x").read_bytes()

    def half(stream: Any, **arrays: Any) -> None:
        stream.write(b"PK half of a file")
        raise error

    monkeypatch.setattr(fpemu.io.np, "savez", half)
    with pytest.raises(type(error)):
        save(tmp_path / "x", np.array([2], np.uint8), "e4m3")
    assert (tmp_path / "x").read_bytes() == before
    assert os.listdir(tmp_path) == ["x"]


def test_a_written_file_is_synced_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append("fsync"), real_sync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (steps.append("replace"), real_replace(a, b))[1])
    with writing_whole(tmp_path / "x") as stream:
        stream.write(b"abc")
    assert steps == ["fsync", "replace"]
    assert (tmp_path / "x").read_bytes() == b"abc"


def test_a_link_is_followed_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with writing_whole(tmp_path / "link") as stream:
        stream.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "no" / "x", np.zeros(1, np.uint8), "e4m3")
