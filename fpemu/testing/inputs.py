"""The inputs that a conversion is tried on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fpemu.arrays import as_ml_dtype, cast, decode, encode
from fpemu.dtypes import dtype_name
from fpemu.formats import FloatFormat, as_format
from fpemu.policies import Cast
from fpemu.testing.regions import REGIONS, points

TAKES = ("values", "codes", "ml_dtypes", "torch")
RANDOM = 1 << 16  # bit patterns drawn
CENTRES = 64  # ties, and values, that are looked at from many distances
CHUNK = 1 << 22  # inputs at a time, where all are tried


@dataclass(frozen=True)
class Source:
    """What inputs come in: a NumPy dtype, or codes of a format of at most 16 bits."""

    name: str
    format: FloatFormat | None  #: None for float64
    dtype: np.dtype[Any]  #: of the values
    takes: str  #: one of TAKES

    @classmethod
    def of(cls, source: FloatFormat | DTypeLike, takes: str = "values") -> Source:
        """Raises TypeError and ValueError for what no input can come in."""
        if takes not in TAKES:
            raise ValueError(f"takes must be one of {', '.join(TAKES)}, not {takes!r}")
        name = source if isinstance(source, FloatFormat) else dtype_name(source) or np.dtype(source).name
        if isinstance(name, str) and name in ("float64", "fp64", "double"):
            return cls("float64", None, np.dtype(np.float64), takes)
        format = as_format(name)
        if format.bits > 16 and format.name != "float32":
            raise ValueError(f"inputs come in float64, float32 or a format of at most 16 bits, not {format.name}")
        dtype = np.dtype(np.float16) if format.name == "float16" else format.value_dtype
        return cls(format.name, format, dtype, takes)

    @property
    def bits(self) -> int:
        """Width of an input."""
        return 64 if self.format is None else self.format.bits

    @property
    def is_native(self) -> bool:
        """Whether NumPy has a dtype of exactly these values."""
        return self.format is None or self.format.name in ("float16", "float32")

    # ---- inputs as bit patterns ------------------------------------------------------------------------------------
    def all(self, chunk: int = CHUNK) -> Iterator[NDArray[Any]]:
        """Every bit pattern, in pieces."""
        assert self.format is not None
        for start in range(0, 1 << self.bits, chunk):
            yield np.arange(start, min(start + chunk, 1 << self.bits), dtype=np.uint64).astype(self.format.code_dtype)

    def chosen(self, target: FloatFormat, seed: int) -> NDArray[Any]:
        """The bit patterns of every region of the target, in both signs, at many distances from ties, and random ones."""
        unsigned = np.dtype(f"u{self.dtype.itemsize}")
        found = [points(region, target, self.dtype).view(unsigned) for region in REGIONS]
        found += [self._around(points(region, target, self.dtype)) for region in ("tie", "value")]
        magnitudes = np.unique(np.concatenate(found))
        sign = unsigned.type(1 << (8 * unsigned.itemsize - 1))
        drawn = np.random.default_rng(seed).integers(0, 1 << self.bits, RANDOM, dtype=unsigned)
        return np.concatenate([magnitudes, magnitudes | sign, drawn])

    def _around(self, centres: NDArray[Any]) -> NDArray[Any]:
        """Bit patterns that differ from some of these in one place of the significand, or lie as far below.

        What an intermediate format or a lost bit does to a number depends on how far from a tie it lies.
        """
        unsigned = np.dtype(f"u{self.dtype.itemsize}")
        some = centres[:: max(1, centres.size // CENTRES)].view(unsigned).astype(np.uint64)[:, None]
        distances = np.uint64(1) << np.arange(np.finfo(self.dtype).nmant, dtype=np.uint64)
        both = np.concatenate([(some + distances).ravel(), (some - np.minimum(distances, some)).ravel()])
        return both[both < np.uint64(int(np.array(np.inf, self.dtype).view(unsigned)))].astype(unsigned)

    # ---- bit patterns as what functions take, and as exact values --------------------------------------------------
    def values(self, bits: NDArray[Any]) -> NDArray[Any]:
        """The values, in the narrowest NumPy dtype that holds them."""
        if self.is_native:
            return bits.view(self.dtype)
        assert self.format is not None
        return decode(bits, self.format)

    def given(self, bits: NDArray[Any]) -> Any:
        """What the function under test is called with."""
        if self.takes == "codes":
            return bits
        if self.takes == "ml_dtypes":
            if self.format is None:
                return bits.view(np.float64)
            return as_ml_dtype(bits, self.format)
        if self.takes == "torch":
            return self._tensor(bits)
        return self.values(bits)

    def _tensor(self, bits: NDArray[Any]) -> Any:
        """As a tensor of torch's dtype of that name."""
        try:
            import torch
        except ImportError:
            raise ValueError("torch is not installed") from None
        dtype = getattr(torch, self.name, None)
        if dtype is None:
            raise ValueError(f"torch has no dtype for {self.name}: its inputs are taken as values or codes")
        return torch.from_numpy(np.array(bits)).view(dtype)  # (a copy: what torch gets must be writable)

    def right(self, bits: NDArray[Any], to: Cast) -> NDArray[Any]:
        """The right codes."""
        return encode(bits.view(np.float64), to) if self.format is None else cast(bits, source=self.format, target=to)
