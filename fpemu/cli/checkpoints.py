"""Tensors of checkpoints: .safetensors, read by its header alone, and PyTorch's .pt, read by PyTorch itself, weights only."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fpemu.formats import FORMATS, FloatFormat
from fpemu.reading import first_line, open_regular, strict_json
from fpemu.shown import shown

# What the dtypes of the format are: NumPy dtypes of the bytes, and the format of codes.
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
CODES = {
    "BF16": ("<u2", "bfloat16"),
    "F8_E4M3": ("u1", "float8_e4m3fn"),
    "F8_E5M2": ("u1", "float8_e5m2"),
    "F8_E8M0": ("u1", "float8_e8m0fnu"),
}
OTHER = {"BOOL": "booleans"} | {f"{sign}{bits}": "integers" for sign in "UI" for bits in (8, 16, 32, 64)}
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
    if stop < start or (entry.dtype is not None and math.prod(shape) * entry.dtype.itemsize != stop - start):
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
    """The elements, flat, in pieces of at most ``most`` bytes, each mapped by itself."""
    assert entry.dtype is not None
    step = max(most // entry.dtype.itemsize, 1)
    count = math.prod(entry.shape)
    for first in range(0, count, step):
        length = min(step, count - first)
        yield np.asarray(np.memmap(path, entry.dtype, "r", entry.start + first * entry.dtype.itemsize, (length,)))


def why_skipped(entry: Entry) -> str:
    """Why a tensor of another kind is not inspected."""
    return (
        f"{OTHER[entry.kind]} ({entry.kind})"
        if entry.kind in OTHER
        else f"elements of {shown(entry.kind)}, which is no format known here"
    )


# ---- PyTorch --------------------------------------------------------------------------------------------------------
TORCH_CODES = tuple(name for name in FORMATS if name.startswith("bfloat") or name.startswith("float8_"))
TORCH_FLOATS = ("float16", "float32", "float64")


class TorchTensor(NamedTuple):
    """A tensor of a .pt: its elements, flat, as floats or as codes of a format; ``elements`` is None for a kind that is not inspected."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    format: FloatFormat | None
    elements: NDArray[Any] | None


def torch_tensors(path: str) -> Iterator[TorchTensor]:
    """The tensors of a .pt, nested names joined by dots.

    Memory-mapped and read with ``weights_only``: nothing in the file can run.  Raises ValueError where PyTorch is missing or refuses the file.
    """
    try:
        import torch
    except ImportError:
        raise ValueError("a PyTorch checkpoint needs PyTorch to be read; or save it as .safetensors") from None
    try:
        held = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # whatever a damaged or unsafe file makes of it
        raise ValueError(f"PyTorch does not load it with weights_only: {first_line(error)[:200]}") from None
    for name, tensor in _named(held, ""):
        kind = str(tensor.dtype).removeprefix("torch.")
        flat = tensor.detach().contiguous().reshape(-1)
        elements: NDArray[Any] | None = None
        if kind in TORCH_FLOATS:
            elements = flat.numpy()
        elif kind in TORCH_CODES:
            width = {1: (torch.uint8, np.uint8), 2: (torch.int16, np.uint16)}[flat.element_size()]
            elements = flat.view(width[0]).numpy().view(width[1])
        format = FORMATS[kind] if kind in TORCH_CODES else None
        yield TorchTensor(name, kind, tuple(tensor.shape), format, elements)


def _named(held: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Tensors in dicts and lists, by their path."""
    if hasattr(held, "dtype") and hasattr(held, "detach"):
        yield name or "tensor", held
    elif isinstance(held, Mapping):
        for key, value in held.items():
            yield from _named(value, f"{name}.{key}" if name else str(key))
    elif isinstance(held, (list, tuple)):
        for place, value in enumerate(held):
            yield from _named(value, f"{name}.{place}" if name else str(place))
