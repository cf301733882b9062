"""The tensors of a file, in pieces of bounded size: .npy memory-mapped, .safetensors read, members of .npz streamed out of the archive."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu.cli.checkpoints import is_safetensors, safetensors_entries, safetensors_pieces, why_skipped
from fpemu.cli.torch_files import LEGACY, flat_pieces, torch_entries
from fpemu.formats import FloatFormat
from fpemu.io import CODES, FORMAT, read_identity
from fpemu.reading import (
    DAMAGE,
    Header,
    check_length,
    first_line,
    open_member,
    open_regular,
    opened_archive,
    read_exactly,
    read_header,
)

CHUNK_BYTES = 1 << 24  # of a tensor, in memory at one time
FLOATS = ("float16", "float32", "float64")
OTHER_KINDS = {
    "b": "booleans",
    "c": "complex numbers: inspect the real and imaginary parts",
    "S": "text",
    "U": "text",
    "m": "time spans",
    "M": "dates",
}


@dataclass(frozen=True)
class Tensor:
    """An array in a file, before it is read.  ``format``: what its elements are codes of; None for floats."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    format: FloatFormat | None
    pieces: Iterator[NDArray[Any]]  # flat, in the order of the file


@dataclass(frozen=True)
class Skipped:
    """An array that is not inspected, and why; ``failed`` where that is a fault of the file."""

    name: str
    why: str
    failed: bool = False


def tensors(path: str, raw: FloatFormat | None) -> Iterator[Tensor | Skipped]:
    """What a file holds, one array after another; each must be used up before the next is asked for.

    ``raw``: the format of raw elements and integers of its width.
    Raises ValueError and OSError where the file as a whole cannot be read.
    """
    with open_regular(path) as stream:
        magic = stream.read(len(LEGACY))
    if magic[:6] == b"\x93NUMPY":
        yield _from_npy(path, raw)
    elif magic[:2] == b"PK":
        yield from (_from_torch(path) if _is_torch(path) else _from_npz(path, raw))
    elif magic == LEGACY:
        yield from _from_torch(path)
    elif is_safetensors(magic, os.path.getsize(path)):
        yield from _from_safetensors(path)
    else:
        raise ValueError("empty" if not magic else "neither .npy, .npz, .safetensors nor .pt")


def _is_torch(path: str) -> bool:
    """Whether an archive is one of torch.save.  ValueError for a program of torch.jit.save, which looks like one."""
    try:
        with open_regular(path) as stream, zipfile.ZipFile(stream) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist() if "/" in name}
    except DAMAGE:
        return False
    if {"data.pkl", "constants.pkl"} <= names:
        raise ValueError("a TorchScript program, not a checkpoint: save the state_dict() of what torch.jit.load gives")
    return "data.pkl" in names


def _from_safetensors(path: str) -> Iterator[Tensor | Skipped]:
    for entry in safetensors_entries(path):
        if entry.dtype is None:
            yield Skipped(entry.name, why_skipped(entry))
            continue
        pieces = safetensors_pieces(path, entry, CHUNK_BYTES)
        yield Tensor(entry.name, entry.described, entry.shape, entry.format, pieces)


def _from_torch(path: str) -> Iterator[Tensor | Skipped]:
    for one in torch_entries(path):
        if one.elements is None:
            yield Skipped(one.name, one.why)
            continue
        kind = one.dtype if one.format is None else f"codes of {one.format.name}"
        yield Tensor(one.name, kind, one.shape, one.format, flat_pieces(one.elements, CHUNK_BYTES))


def data_bytes(path: str) -> int:
    """About how many bytes of data a file holds, for the progress bar; 0 where it cannot be read."""
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            with suppress(*DAMAGE), zipfile.ZipFile(stream) as archive:
                size = sum(member.file_size for member in archive.infolist())
            return size
    except OSError:
        return 0


def _from_npy(path: str, raw: FloatFormat | None) -> Tensor | Skipped:
    name = os.path.basename(path)
    with open_regular(path) as stream:
        header = read_header(stream)
        check_length(header, os.fstat(stream.fileno()).st_size)
    kept = _kept(name, header, raw, None)
    if isinstance(kept, Skipped):
        return kept

    def pieces() -> Iterator[NDArray[Any]]:
        # A map of each piece alone: pages of one map of the whole file would stay in memory.
        width = header.dtype.itemsize
        step = CHUNK_BYTES // width
        for start in range(0, header.size, step):
            shape = (min(step, header.size - start),)
            yield _typed(np.asarray(np.memmap(path, header.dtype, "r", header.offset + start * width, shape)), kept)

    return _tensor(name, header, kept, pieces())


def _from_npz(path: str, raw: FloatFormat | None) -> Iterator[Tensor | Skipped]:
    with opened_archive(path) as archive:
        own = read_identity(archive, path)
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        if not members:
            raise ValueError("a zip archive without .npy members: no .npz")
        for member in members:
            if own is not None and member.filename == FORMAT:
                continue
            yield _from_member(archive, member, raw, own if member.filename == CODES else None)


def _from_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, raw: FloatFormat | None, own: FloatFormat | None
) -> Tensor | Skipped:
    name = member.filename.removesuffix(".npy")
    try:
        with open_member(archive, member) as stream:
            header = read_header(stream)
        check_length(header, member.file_size)
    except DAMAGE as error:
        return Skipped(name, f"damaged: {first_line(error)}", failed=True)
    kept = _kept(name, header, raw, own)
    if isinstance(kept, Skipped):
        return kept

    def pieces() -> Iterator[NDArray[Any]]:
        step = CHUNK_BYTES // header.dtype.itemsize * header.dtype.itemsize
        with open_member(archive, member) as stream:
            read_exactly(stream, header.offset)
            for start in range(0, header.nbytes, step):
                data = read_exactly(stream, min(step, header.nbytes - start))
                yield _typed(np.frombuffer(data, header.dtype), kept)

    return _tensor(name, header, kept, pieces())


Kept = FloatFormat | None


def _kept(name: str, header: Header, raw: FloatFormat | None, own: FloatFormat | None) -> Kept | Skipped:
    """The format of an array's elements (None: floats), or why it is skipped."""
    dtype = header.dtype
    width = dtype.itemsize
    if dtype.hasobject:
        return Skipped(name, "pickled objects are refused: they could run any program", failed=True)
    if own is not None:
        fits = dtype.kind == "u" and width == own.code_dtype.itemsize
        return own if fits else Skipped(name, f"damaged: codes of {own.name} are not {dtype}", failed=True)
    if dtype.newbyteorder("=").name in FLOATS:
        return None
    if dtype.kind in "Viu" and dtype.names is None and dtype.subdtype is None:
        if raw is not None and width == raw.code_dtype.itemsize:
            return raw
        what = "integers" if dtype.kind in "iu" else f"raw elements of {width} bytes"
        codes = "if they are codes" if dtype.kind in "iu" else "if that is what NumPy forgot, or another format"
        fit = {1: "e4m3", 2: "bfloat16", 4: "float32"}.get(width)
        if raw is not None:
            size = raw.code_dtype.itemsize
            return Skipped(name, f"{what} ({dtype}), which are no codes of {raw.name}: those take {size} bytes each")
        return Skipped(name, f"{what} ({dtype})" + (f"; --as {fit} {codes}" if fit else ""))
    if dtype.names is not None:
        return Skipped(name, "a structured array: save its fields one by one")
    return Skipped(name, OTHER_KINDS.get(dtype.kind, f"elements of {dtype}, which is not float16, float32 or float64"))


def _typed(flat: NDArray[Any], format: FloatFormat | None) -> NDArray[Any]:
    """Floats as they are; codes, which may lie in the file as raw bytes or signed integers, as unsigned integers."""
    if format is None:
        return flat
    order = flat.dtype.byteorder if flat.dtype.kind in "iu" else "<"
    return flat.view(format.code_dtype.newbyteorder(order)).astype(format.code_dtype, copy=False)


def _tensor(name: str, header: Header, format: FloatFormat | None, pieces: Iterator[NDArray[Any]]) -> Tensor:
    dtype = header.dtype.newbyteorder("=").name if format is None else f"codes of {format.name}"
    return Tensor(name, dtype, header.shape, format, pieces)
