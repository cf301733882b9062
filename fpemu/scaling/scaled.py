"""``Scaled``: an array as codes and scales, and what became of its blocks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fpemu.arrays import Codes, Values, decode
from fpemu.comparison import Errors, errors
from fpemu.formats import FORMATS, FloatFormat
from fpemu.scaling.blocks import Array, Cut, reduce_blocks, spread
from fpemu.targets.environment import in_default_environment

FLOAT32 = FORMATS["float32"]


class Fate(IntFlag):
    """What happened to a block.  A block whose scale is no number has that flag only."""

    OCCUPIED = 1  #: some input is not zero
    SEVERAL = 2  #: more than one is not
    NAN = 4  #: the scale is no number (with the tensor's, if there is one), and so is no element
    DEAD = 8  #: occupied, and every element became zero
    CLIPPED = (
        16  #: an input, scaled but not yet rounded, exceeds the largest finite value of the format (infinity does)
    )
    SINGLE_CODE = 32  #: several, not dead, and all inputs that are not zero have the same code, its sign included


@in_default_environment
@dataclass(frozen=True, eq=False, repr=False)
class Scaled:
    """An array in a scaled format.

    Attributes
    ----------
    codes: codes of the elements, of the shape of the array (uint8 for formats of up to 8 bits, uint16, uint32).
    scales: one for each block, of the shape ``blocks_shape``: ceil(length / extent) along each axis.  Codes of
        ``scale_format``, or float32 values where that is float32.  An element's value is its code's times its block's
        scale (times ``global_scale``).
    format, scale_format: of elements and scales.
    cut: the extents of a block, one for each axis.
    fates: what became of each block, ``Fate`` flags as uint8, of the shape of ``scales``.
    global_scale: a float32 factor of all (NVFP4), or None.
    encode_scales: float32 of the shape of ``scales``: what elements were multiplied by before they were rounded, where
        that is not the exact inverse of ``scales`` (schemes with float32 scales); else None.
    """

    codes: Codes
    scales: Array
    format: FloatFormat
    scale_format: FloatFormat
    cut: Cut
    fates: Array
    global_scale: np.float32 | None = None
    encode_scales: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self.codes.shape

    def scale_values(self, dtype: DTypeLike = np.float32) -> Array:
        """What codes are multiplied by, ``global_scale`` included.

        In float64 it is exact.  In float32 the product of two scales is rounded to nearest even, as a float32 machine
        has it; a single scale is exact.
        """
        dtype = np.dtype(dtype)
        if self.scale_format == FLOAT32:
            scales = self.scales.astype(dtype, copy=False)
        else:
            scales = np.asarray(decode(self.scales, self.scale_format, dtype=dtype))
        if self.global_scale is None:
            return scales
        with np.errstate(all="ignore"):
            return np.asarray(scales * np.asarray(self.global_scale, dtype))

    def dequantize(self, dtype: DTypeLike = np.float32) -> Values:
        """The values: element times ``scale_values(dtype)``.

        dtype: float32 or float64.  In float64 every value is exact (for elements of up to 26 significant bits); in
        float32 the product is rounded once, to nearest even: that matters below 2**-126 and for scales that are not powers
        of two.  Raises TypeError for another dtype.
        """
        dtype = np.dtype(dtype)
        if dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise TypeError(f"dtype must be float32 or float64, not {dtype}")
        values = np.asarray(decode(self.codes, self.format, dtype=dtype))
        with np.errstate(all="ignore"):
            return np.asarray(values * spread(self.scale_values(dtype), self.cut, self.shape))

    def errors(self, reference: ArrayLike, dtype: DTypeLike = np.float32) -> Errors:
        """How far ``dequantize(dtype)`` lies from the array it was made of, or any other of its shape.

        See ``fpemu.errors``: SQNR, relative RMS, bias, cosine, gain, and the largest error in ulps of the reference.
        Raises TypeError, ValueError as that and ``dequantize``.
        """
        return errors(reference, self.dequantize(dtype))

    # ---- counts -----------------------------------------------------------------------------------------------------
    def which(self, fate: Fate) -> Array:
        """Whether each block has one of these flags; bools of the shape of ``scales``."""
        return np.asarray((self.fates & np.uint8(fate)) != 0)

    @property
    def blocks(self) -> int:
        """How many blocks there are; the denominator of ``clipped`` and ``nan``."""
        return self.fates.size

    @property
    def occupied(self) -> int:
        """Blocks with an input that is not zero (NaN blocks aside); the denominator of ``dead``."""
        return int(self.which(Fate.OCCUPIED).sum())

    @property
    def several(self) -> int:
        """Blocks with more than one input that is not zero (NaN blocks aside); the denominator of ``single_code``."""
        return int(self.which(Fate.SEVERAL).sum())

    @property
    def nan(self) -> int:
        """Blocks whose scale is no number."""
        return int(self.which(Fate.NAN).sum())

    @property
    def dead(self) -> int:
        """Occupied blocks all of whose elements became zero."""
        return int(self.which(Fate.DEAD).sum())

    @property
    def clipped(self) -> int:
        """Blocks where an input, scaled but not yet rounded, exceeds the largest finite value of the format."""
        return int(self.which(Fate.CLIPPED).sum())

    @property
    def single_code(self) -> int:
        """Blocks of several non-zero inputs that all have the same code (and are not dead)."""
        return int(self.which(Fate.SINGLE_CODE).sum())

    def __repr__(self) -> str:
        counts = ", ".join(
            f"{name}={getattr(self, name)}" for name in ("blocks", "dead", "clipped", "single_code", "nan")
        )
        return f"Scaled({self.format.name} x {self.scale_format.name}, shape={self.shape}, cut={self.cut}, {counts})"


def fates_of(x: Array, codes: Codes, beyond: Array, nan: Array, format: FloatFormat, cut: Cut) -> Array:
    """The flags of blocks.

    Parameters
    ----------
    x: inputs.  codes: theirs, in a format.
    beyond: bool for each element, whether it exceeds the largest finite value once scaled.
    nan: bool for each block, whether its scale is NaN.
    """
    return Facts.of(x, codes, beyond, format, cut).fates(nan)


class Facts(NamedTuple):
    """What the flags of blocks follow from, an array of their shape each; of parts of a block too.

    Attributes
    ----------
    occupied: how many elements are not zero.
    alive: whether any became another code than zero's; clipped: whether any was beyond the largest finite value.
    largest, smallest: codes of those that are not zero.
    """

    occupied: Array
    alive: Array
    clipped: Array
    largest: Array
    smallest: Array

    @classmethod
    def of(cls, x: Array, codes: Codes, beyond: Array, format: FloatFormat, cut: Cut) -> Facts:
        """Parameters as of ``fates_of``."""
        occupied = x != 0
        zero = (codes & codes.dtype.type(format.magnitude_mask)) == 0
        if not format.negative_zero:
            zero = codes == 0
        return cls(
            reduce_blocks(np.add, occupied.astype(np.uint64), cut),
            reduce_blocks(np.maximum, ~zero, cut),
            reduce_blocks(np.maximum, beyond, cut),
            reduce_blocks(np.maximum, np.where(occupied, codes, codes.dtype.type(0)), cut),
            reduce_blocks(np.minimum, np.where(occupied, codes, np.iinfo(codes.dtype).max), cut),
        )

    @classmethod
    def none(cls, shape: tuple[int, ...], format: FloatFormat) -> Facts:
        """Of blocks without elements."""
        kind = format.code_dtype
        highest = np.full(shape, np.iinfo(kind).max, kind)
        return cls(
            np.zeros(shape, np.uint64), np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(shape, kind), highest
        )

    def take(self, blocks: tuple[Any, ...], more: Facts) -> None:
        """Add what is found of more elements of some blocks."""
        for mine, theirs, join in zip(
            self, more, (np.add, np.maximum, np.maximum, np.maximum, np.minimum), strict=True
        ):
            mine[blocks] = join(mine[blocks], theirs)

    def fates(self, nan: Array) -> Array:
        """The flags; ``nan``: of blocks whose scale is NaN that alone."""
        some, several = self.occupied > 0, self.occupied > 1
        fates = np.zeros(nan.shape, np.uint8)
        for fate, has in (
            (Fate.OCCUPIED, some),
            (Fate.SEVERAL, several),
            (Fate.DEAD, some & ~self.alive),
            (Fate.CLIPPED, self.clipped),
            (Fate.SINGLE_CODE, several & self.alive & (self.largest == self.smallest)),
        ):
            fates |= np.where(has, np.uint8(fate), np.uint8(0))
        return np.where(nan, np.uint8(Fate.NAN), fates)
