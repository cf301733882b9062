"""Which inputs a recording covers: bit patterns of the source in order, in chunks of 2**16.

A chunk of float32 inputs is one high half with all low halves.  A source of at most 16 bits is a single chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu.formats import FloatFormat

CHUNK_BITS = 16
CHUNK = 1 << CHUNK_BITS

# Low halves whose codes are kept of every chunk: the ends, and ties with what lies beside them. FP16 and TF32 discard 13
# bits (0x1000 is a tie whose lower neighbour is even, 0x3000 one whose lower neighbour is odd), BF16 discards 16
# (0x8000), and the ties of everything shorter have low half 0.
LOW_HALVES = (0x0000, 0x0001, 0x0FFF, 0x1000, 0x1001, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF)

Codes = NDArray[np.unsignedinteger[Any]]


def chunk_inputs(source: FloatFormat) -> int:
    """How many inputs a chunk holds."""
    return min(CHUNK, 1 << source.bits)


def chunks_in_all(source: FloatFormat) -> int:
    """How many chunks hold every input."""
    return (1 << source.bits) // chunk_inputs(source)


def kept_offsets(source: FloatFormat) -> NDArray[np.intp]:
    """The places in a chunk whose codes are kept: of a source of at most 16 bits all."""
    return np.asarray(LOW_HALVES, np.intp) if source.bits > CHUNK_BITS else np.arange(1 << source.bits)


@dataclass(frozen=True)
class Coverage:
    """Ranges of chunks ``[first, stop)`` in rising order.  ``EVERYTHING`` is cut down to what a source has."""

    ranges: tuple[tuple[int, int], ...]

    def of(self, source: FloatFormat) -> Coverage:
        """The same of one source; one of at most 16 bits is always covered whole."""
        last = chunks_in_all(source)
        if last == 1:
            return Coverage(((0, 1),))
        cut = ((first, min(stop, last)) for first, stop in self.ranges)
        return Coverage(tuple((first, stop) for first, stop in cut if first < stop))

    @property
    def chunks(self) -> NDArray[np.int64]:
        """The numbers of all chunks, in order."""
        return np.concatenate([np.arange(first, stop) for first, stop in self.ranges] or [np.empty(0, np.int64)])

    def blocks(self, chunks: int) -> Iterator[tuple[int, int]]:
        """The ranges in pieces of at most so many chunks."""
        for first, stop in self.ranges:
            for start in range(first, stop, chunks):
                yield start, min(start + chunks, stop)


EVERYTHING = Coverage(((0, 1 << 16),))


def patterns(source: FloatFormat, chunks: NDArray[np.int64]) -> Codes:
    """All inputs of chunks, in order, in the source's ``code_dtype``; flat."""
    size = chunk_inputs(source)
    first: Codes = (chunks * size).astype(source.code_dtype)
    inside: Codes = np.arange(size).astype(source.code_dtype)
    return (first[:, None] + inside[None, :]).reshape(-1)


def kept_patterns(source: FloatFormat, chunks: NDArray[np.int64]) -> Codes:
    """The inputs whose codes are kept, shape (chunks, offsets)."""
    inputs = chunks[:, None] * chunk_inputs(source) + kept_offsets(source)[None, :]
    return inputs.astype(source.code_dtype)
