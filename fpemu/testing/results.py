"""What a function made of some inputs, beside what is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu.arrays import decode
from fpemu.formats import FloatFormat

Array = NDArray[Any]


@dataclass(frozen=True)
class Seen:
    """Inputs as bit patterns, results as codes or as values, and which of them are right."""

    bits: Array
    got: Array
    right: NDArray[np.bool_]

    def at(self, where: Any) -> Seen:
        """Some of them, by index."""
        return Seen(self.bits[where], self.got[where], self.right[where])

    @classmethod
    def joined(cls, pieces: Sequence[Seen]) -> Seen:
        """All of them; results are codes in every piece or values in every piece, as one function returns them."""
        return cls(*(np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("bits", "got", "right")))

    @classmethod
    def nothing(cls) -> Seen:
        """No inputs."""
        return cls(np.zeros(0, np.uint8), np.zeros(0, np.uint8), np.zeros(0, np.bool_))


def as_values(results: Array, format: FloatFormat) -> NDArray[np.float64]:
    """Codes or values as float64 values."""
    if results.dtype.kind == "f":
        return results
    return np.asarray(decode(results, format, dtype=np.float64), np.float64)


def same(one: Array, other: Array, format: FloatFormat) -> NDArray[np.bool_]:
    """Where two results, codes or values, are the same; all NaNs are."""
    if one.dtype.kind == other.dtype.kind == "u":
        equal = one == other
        if equal.all():
            return np.asarray(equal)
        return np.asarray(equal | np.isnan(as_values(one, format)) & np.isnan(as_values(other, format)))
    x, y = as_values(one, format), as_values(other, format)
    return np.asarray((x == y) & (np.signbit(x) == np.signbit(y)) | np.isnan(x) & np.isnan(y))
