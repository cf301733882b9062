"""Tensors of checkpoints: .safetensors, read by its header alone, and PyTorch's .pt, read by PyTorch itself, weights only."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fpemu.formats import FORMATS, FloatFormat
from fpemu.packing import unpack
from fpemu.reading import open_regular, strict_json
from fpemu.shown import shown

# What the dtypes of the format are: NumPy dtypes of the bytes, and the format of codes.  Those of less than a byte lie packed, and
# shapes count elements; of two in a byte the first is the low half, as in torch's x2 dtypes.  For those of six bits the format says
# nothing: they are read in the same order, and said to be.
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
CODES = {
    "BF16": ("<u2", "bfloat16"),
    "F8_E4M3": ("u1", "float8_e4m3fn"),
    "F8_E5M2": ("u1", "float8_e5m2"),
    "F8_E8M0": ("u1", "float8_e8m0fnu"),
    "F8_E4M3FNUZ": ("u1", "float8_e4m3fnuz"),
    "F8_E5M2FNUZ": ("u1", "float8_e5m2fnuz"),
    "F6_E2M3": ("u1", "float6_e2m3fn"),
    "F6_E3M2": ("u1", "float6_e3m2fn"),
    "F4": ("u1", "float4_e2m1fn"),
}
OTHER = {"BOOL": "booleans", "C64": "complex numbers"}
OTHER |= {f"{sign}{bits}": "integers" for sign in "UI" for bits in (8, 16, 32, 64)}
MOST_HEADER = 100_000_000  # bytes; the format's own limit


class Entry(NamedTuple):
    """A tensor in a .safetensors file: where its bytes lie, and what they are."""

    name: str
    kind: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Of its elements' bytes; None for a kind that is not inspected."""
        if self.kind in FLOATS:
            return np.dtype(FLOATS[self.kind])
        return np.dtype(CODES[self.kind][0]) if self.kind in CODES else None

    @property
    def format(self) -> FloatFormat | None:
        """Of codes; None for floats."""
        return FORMATS[CODES[self.kind][1]] if self.kind in CODES else None

    @property
    def size(self) -> int:
        """How many elements."""
        return math.prod(self.shape)

    @property
    def packed(self) -> bool:
        """Whether several elements lie in a byte."""
        return self.format is not None and self.format.bits < 8

    @property
    def bits(self) -> int | None:
        """Of an element; None for a kind that is not inspected."""
        return self.format.bits if self.format is not None else None if self.dtype is None else 8 * self.dtype.itemsize

    @property
    def described(self) -> str:
        """What its elements are, in words."""
        if self.format is None:
            return str(self.dtype)
        unsaid = ", taken to be packed from the lowest bit" if self.packed and 8 % self.format.bits else ""
        return f"codes of {self.format.name}{unsaid}"


def is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file begins as a .safetensors does: the length of a header that fits, and the header's brace."""
    return len(head) > 8 and head[8:9] == b"{" and 8 + int.from_bytes(head[:8], "little") <= size


def safetensors_entries(path: str) -> list[Entry]:
    """The tensors of a file, in the order of their bytes.  Raises ValueError where the header is none, or does not fit the file."""
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if length > min(size - 8, MOST_HEADER):
            raise ValueError(f"damaged: a header of {length:,} bytes in a file of {size:,}")
        try:
            header = strict_json(stream.read(length))
        except ValueError as error:
            raise ValueError(f"damaged: the header is no JSON ({error})") from None
    if not isinstance(header, dict):
        raise ValueError("damaged: the header is no table of tensors")
    entries = [_entry(name, facts, 8 + length) for name, facts in header.items() if name != "__metadata__"]
    entries.sort(key=lambda entry: entry.start)
    end = 8 + length
    for entry in entries:
        if entry.start < end or entry.stop > size:
            raise ValueError(
                f"damaged: {shown(entry.name)} lies at bytes {entry.start} to {entry.stop}, over another or beyond the end"
            )
        end = entry.stop
    return entries


def _entry(name: str, facts: Any, offset: int) -> Entry:
    try:
        kind, shape = str(facts["dtype"]), tuple(map(_whole, facts["shape"]))
        start, stop = (offset + _whole(n) for n in facts["data_offsets"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"damaged: {shown(name)} has no dtype, shape or data_offsets") from None
    entry = Entry(name, kind, shape, start, stop)
    if stop < start or (entry.bits is not None and entry.size * entry.bits != 8 * (stop - start)):
        raise ValueError(
            f"damaged: {shown(name)}, {shown(kind)} of shape {list(shape)}, cannot take {stop - start} bytes"
        )
    return entry


def _whole(number: Any) -> int:
    """A number of JSON that counts something; ValueError for any other."""
    if type(number) is not int or number < 0:
        raise ValueError(f"{number} counts nothing")
    return number


def safetensors_pieces(path: str, entry: Entry, most: int) -> Iterator[NDArray[Any]]:
    """The elements, flat, in pieces of at most ``most`` bytes, each read by itself."""
    assert entry.dtype is not None and entry.bits is not None
    step = max(most // entry.dtype.itemsize // 8, 1) * 8
    for first in range(0, entry.size, step):
        length = min(step, entry.size - first)
        start, nbytes = entry.start + first * entry.bits // 8, -(-length * entry.bits // 8)
        held = np.fromfile(path, entry.dtype, nbytes // entry.dtype.itemsize, offset=start)
        if held.nbytes != nbytes:
            raise EOFError(f"cut short: {nbytes - held.nbytes} bytes missing")
        yield unpack(held, entry.format, length) if entry.packed and entry.format is not None else held


def why_skipped(entry: Entry) -> str:
    """Why a tensor of another kind is not inspected."""
    return (
        f"{OTHER[entry.kind]} ({entry.kind})"
        if entry.kind in OTHER
        else f"elements of {shown(entry.kind)}, which is no format known here"
    )
