"""Is whatever a file may hold read right or refused in one line, without waiting, running, or taking memory beyond a bound?"""

from __future__ import annotations

import json
import os
import socket
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpemu as fp
from fpemu import reading
from fpemu.formats import FORMATS
from fpemu.io import VERSION
from tests.test_cli import lines, run, run_json

GOOD = np.array([1.0, 2.0, 0.25], np.float32)


def npy(array: Any = GOOD, version: tuple[int, int] = (1, 0)) -> bytes:
    stream = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, on versions that older ones do not read
        np.lib.format.write_array(stream, np.asarray(array), version, allow_pickle=False)
    return stream.getvalue()


def headed(head: bytes, data: bytes = b"", version: int = 2, length: int | None = None) -> bytes:
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<I", len(head) if length is None else length) + head + data


def shaped(shape: str, descr: str = "'<f4'", data: bytes = GOOD.tobytes()) -> bytes:
    return headed(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode(), data)


def npz(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that stand twice
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def encrypted() -> bytes:
    """An archive that says so of its member, in both places."""
    whole = bytearray(npz(("w.npy", npy())))
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        whole[whole.index(mark) + place] |= 1
    return bytes(whole)


def safetensors(header: Any, data: bytes = GOOD.tobytes(), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(**facts: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12], **facts}}


# ---- what is refused ------------------------------------------------------------------------------------------------
REFUSED: dict[str, tuple[bytes, str]] = {
    "version.npy": (headed(b"{}", version=4), "version 4.0 of the .npy layout"),
    "longhead.npy": (headed(b"{", length=4_000_000_000), "a head of 4,000,000,000 bytes"),
    "cuthead.npy": (headed(b"{", length=100), "cut short"),
    "nohead.npy": (b"\x93NUMPY\x01", "it does not begin as an .npy does"),
    "deep.npy": (headed(b"(" * 60_000), "its head is damaged"),
    "minus.npy": (headed(b"-" * 60_000 + b"1"), "its head is damaged"),
    "nul.npy": (headed(b"\0" * 64), "its head is damaged"),
    "utf8.npy": (headed(b"{'descr': '\xff'}", version=3), "its head is damaged"),
    "negative.npy": (shaped("(-3,)"), "its head is damaged (shape (-3,))"),
    "twice negative.npy": (shaped("(-3, -1)"), "its head is damaged"),
    "true.npy": (shaped("(True, 3)"), "its head is damaged"),
    "infinite.npy": (shaped("(Infinity,)"), "its head is damaged"),
    "huge.npy": (shaped("(3, 10**30)"), "its head is damaged"),
    "wide.npy": (shaped(f"(3, {10**30})"), "cut short: shape (3, 1000000"),
    "object.npy": (shaped("(3,)", "'|O'"), "pickled objects are refused"),
    "nested object.npy": (shaped("(3,)", "[('a', '|O')]"), "pickled objects are refused"),
    "descr.npy": (shaped("(3,)", "'<f99'"), "its head is damaged"),
    "cut.npy": (npy()[:-1], "cut short"),
    "long.npy": (npy() + b"\0", "too long"),
    "lzma.npz": (npz(("w.npy", npy()), method=zipfile.ZIP_LZMA), "w: damaged: packed with lzma"),
    "bzip2.npz": (npz(("w.npy", npy()), method=zipfile.ZIP_BZIP2), "w: damaged: packed with bzip2"),
    "encrypted.npz": (encrypted(), "w: damaged: encrypted"),
    "twice.npz": (npz(("w.npy", npy()), ("w.npy", npy())), "two members are called w.npy"),
    "twice \x1b.npz": (npz(("w\x1b\n.npy", npy()), ("w\x1b\n.npy", npy())), r"two members are called w\x1b\n.npy"),
    "longhead.npz": (npz(("w.npy", headed(b" " * (1 << 20))), method=zipfile.ZIP_DEFLATED), "w: damaged: a head of 1,048,576"),
    "text.npz": (npz(("readme.txt", b"hello")), "without .npy members"),
    "overlap.npz": (npz(("w.npy", npy(np.zeros(4096)))) [:-73], "not an .npz archive, or cut short"),
    "long.safetensors": (safetensors(tensor(), length=10**12), "neither"),
    "nan.safetensors": (safetensors(b'{"w": NaN}'), "NaN is no number of JSON"),
    "infinity.safetensors": (safetensors(tensor(shape=[float("inf")])), "Infinity is no number of JSON"),
    "1e999.safetensors": (safetensors(b'{"w":{"dtype":"F32","shape":[1e999],"data_offsets":[0,12]}}'), "no dtype, shape or data_offsets"),
    "negative.safetensors": (safetensors(tensor(shape=[-3, -1])), "no dtype, shape or data_offsets"),
    "half.safetensors": (safetensors(tensor(shape=[1.5, 2])), "no dtype, shape or data_offsets"),
    "bool.safetensors": (safetensors(tensor(shape=[True, 3])), "no dtype, shape or data_offsets"),
    "text.safetensors": (safetensors(tensor(shape="3")), "no dtype, shape or data_offsets"),
    "offset.safetensors": (safetensors(tensor(data_offsets=[-4, 8])), "no dtype, shape or data_offsets"),
    "back.safetensors": (safetensors(tensor(data_offsets=[12, 0])), "cannot take -12 bytes"),
    "beyond.safetensors": (safetensors(tensor(data_offsets=[4, 16])), "over another or beyond the end"),
    "wide.safetensors": (safetensors(tensor(shape=[10**4000])), "cannot take 12 bytes"),
    "digits.safetensors": (safetensors(b'{"w": 1' + b"0" * 5000 + b"}"), "the header is no JSON"),
    "overlap.safetensors": (safetensors({**tensor(), "v": tensor()["w"]}), "over another or beyond the end"),
    "twice.safetensors": (safetensors(b'{"w": 1, "w": 2}'), "the name 'w' stands twice"),
    "utf8.safetensors": (safetensors(b'{"\xff": 1}'), "no UTF-8 at byte 2"),
    "deep.safetensors": (safetensors(b'{"w": ' + b"[" * 100_000), "nested too deeply"),
    "list.safetensors": (safetensors(b'{"w": []}'), "no dtype, shape or data_offsets"),
}  # fmt: skip


def test_what_is_refused_is_one_line(tmp_path: Path) -> None:
    files = []
    for name, (content, _) in REFUSED.items():
        files.append(tmp_path / name)
        files[-1].write_bytes(content)
    np.save(tmp_path / "good.npy", GOOD)
    tracemalloc.start()
    result = run("inspect", *files, tmp_path / "good.npy", "--formats", "e4m3", code=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    said = lines(result.stderr)
    assert len(said) == len(REFUSED)
    for line, (name, (_, words)) in zip(said, REFUSED.items(), strict=True):
        assert line.startswith(f"fpemu: {tmp_path}/{name}".replace("\x1b", r"\x1b")) and words in line, (name, line)
        assert line.isprintable() and len(line) < 10_000
    assert "good.npy" in result.stdout and peak < 50e6
    for file in files:  # and from the library
        if file.suffix != ".safetensors":
            with pytest.raises(ValueError, match=rf"{file.stem}".split()[0]):
                fp.load(file)
        (fault,) = run_json("inspect", file, "--formats", "e4m3", code=1)["problems"]
        assert fault.isprintable()


def test_one_bad_member_costs_that_member_alone(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(npz(("bad.npy", shaped("(-3,)")), ("w.npy", npy())))
    told = run_json("inspect", tmp_path / "x.npz", "--formats", "e4m3", code=1)
    assert [one["name"] for one in told["files"][0]["tensors"]] == ["w"]
    assert "bad: damaged: its head is damaged" in told["problems"][0]


# ---- what is no file ------------------------------------------------------------------------------------------------
@pytest.fixture
def odd(tmp_path: Path) -> dict[str, str]:
    """Things that are no files, and what is said of them."""
    os.mkfifo(tmp_path / "pipe.npy")
    os.mkfifo(tmp_path / "pipe.csv")
    listening = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    try:
        os.chdir(tmp_path)  # (the name of a socket may not be long)
        listening.bind("socket.npz")
    finally:
        os.chdir(here)
        listening.close()
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "link.npy").symlink_to("pipe.npy")
    (tmp_path / "loop.npy").symlink_to("loop.npy")
    files = {
        "pipe.npy": "a pipe",
        "pipe.csv": "a pipe",
        "socket.npz": "a socket",
        "folder.npz": "Is a directory",
        "link.npy": "a pipe",
    }
    return {
        **{str(tmp_path / name): words for name, words in files.items()},
        str(tmp_path / "loop.npy"): "symbolic link", "/dev/zero": "a device", "/dev/null": "a device",
    }  # fmt: skip


def test_what_is_no_file_is_refused_at_once(odd: dict[str, str]) -> None:
    said = lines(run("inspect", *odd, code=1).stderr)
    for line, (file, words) in zip(said, odd.items(), strict=True):
        assert line.startswith(f"fpemu: {file}: ") and words in line
    readers: list[Callable[[str], Any]] = [fp.load, reading.read_whole, reading.load_npy, reading.array_names]
    for read in readers:
        for file, words in odd.items():
            with pytest.raises(OSError, match=words) as caught:
                read(file)
            assert isinstance(caught.value, ValueError) or words in ("Is a directory", "symbolic link")
            assert caught.value.filename == file
    for file, words in odd.items():
        (line,) = lines(run("scaler", file, code=1).stderr)
        assert words in line and file in line


# ---- what is read ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_version_and_order_of_npy_is_read(tmp_path: Path, version: tuple[int, int], order: Any) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).copy(order)
    (tmp_path / "x.npy").write_bytes(npy(array, version))
    (tmp_path / "x.npz").write_bytes(npz(("x.npy", npy(array, version)), method=zipfile.ZIP_DEFLATED))
    assert reading.load_npy(tmp_path / "x.npy").tolist() == array.tolist()
    assert reading.load_array(str(tmp_path / "x.npz"), "x").tolist() == array.tolist()
    for name in ("x.npy", "x.npz"):
        (one,) = run_json("inspect", tmp_path / name, "--formats", "e4m3")["files"][0]["tensors"]
        assert (one["shape"], one["size"], one["zeros"], one["amax"]) == ([2, 3], 6, 1, 5.0)
    codes = fp.encode(array, "e4m3")
    identity = np.array(json.dumps({"fpemu": VERSION, "format": asdict(FORMATS["e4m3"])}))
    (tmp_path / "c").write_bytes(npz(("codes.npy", npy(codes, version)), ("format.npy", npy(identity, version))))
    back, _ = fp.load(tmp_path / "c")
    assert back.tolist() == codes.tolist()
    back[0, 0] = 1  # and is the caller's own


def test_names_of_fields_in_any_script_are_told(tmp_path: Path) -> None:
    fields = np.zeros(3, np.dtype([("α", "<f4"), ("\x1b[31m", "<f4")]))
    (tmp_path / "x.npy").write_bytes(npy(fields, (3, 0)))
    (line,) = lines(run("inspect", tmp_path / "x.npy", code=1).stderr)
    assert "a structured array" in line and line.isprintable()
    assert reading.load_npy(tmp_path / "x.npy").dtype.names == fields.dtype.names


def test_odd_names_of_members_are_names_and_no_paths(tmp_path: Path) -> None:
    names = ["/conv1/weight", "../up", "a\\b", "w\x1b[2J", "w\n", "‮w", "$x^{", "[bold]w[/bold]", "%s{}", "e" * 3000]
    (tmp_path / "x.npz").write_bytes(npz(*((f"{name}.npy", npy()) for name in names)))
    told = run_json("inspect", tmp_path / "x.npz", "--formats", "e4m3")
    assert [one["name"] for one in told["files"][0]["tensors"]] == names  # lossless
    assert os.listdir(tmp_path) == ["x.npz"] and not (tmp_path.parent / "up.npy").exists()


# ---- memory -----------------------------------------------------------------------------------------------------------
def test_what_unpacks_beyond_the_limit_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    codes = np.zeros(24 << 20, np.uint8)
    identity = np.array(json.dumps({"fpemu": VERSION, "format": asdict(FORMATS["e4m3"])}))
    np.savez_compressed(tmp_path / "bomb.npz", codes=codes, format=identity)
    np.savez(tmp_path / "stored.npz", codes=codes, format=identity)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"bomb\.npz: .*unpacks to 25,165,824 bytes, and at most 1,048,576 are taken"):
        fp.load(tmp_path / "bomb.npz", most_bytes=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6
    assert fp.load(tmp_path / "bomb.npz")[0].size == codes.size  # by default up to 1 GiB
    assert fp.load(tmp_path / "stored.npz", most_bytes=1 << 20)[0].size == codes.size  # takes what the file takes
    with pytest.raises(ValueError, match="unpacks to"):
        reading.load_arrays((tmp_path / "bomb.npz").read_bytes(), 1 << 20)
    with pytest.raises(ValueError, match=r"bomb\.npz: .* bytes, and at most 100 are read"):
        reading.read_whole(tmp_path / "bomb.npz", 100)
    assert fp.load.__kwdefaults__ == {"most_bytes": 1 << 30}
