"""Float32 scales: of a whole tensor, by its own amax or by the past's, and of tiles (as Transformer Engine has them).

These schemes are defined by float32 operations: a scale is max / amax, rounded to float32; an element is x times the scale,
rounded to float32, then to the format, saturating; and what decoding multiplies by is 1 / scale, rounded to float32.  Subnormals are
kept, whatever the calling thread was told (targets/environment.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fpemu.arrays import as_counter, encode
from fpemu.formats import FORMATS, FloatFormat
from fpemu.policies import Cast, Overflow, Policy, Rounding, Stochastic
from fpemu.scaling.blocks import Array, Cut, as_extent, cut_last, reduce_blocks, spread, whole
from fpemu.scaling.scaled import Scaled, fates_of
from fpemu.scaling.values import element_format, single_values
from fpemu.targets.environment import in_default_environment

FLOAT32 = FORMATS["float32"]
LARGEST_SCALE = np.float32(FLOAT32.max)
EXPONENT_BITS = np.uint32(0x7F800000)


@in_default_environment
def per_tensor(
    x: ArrayLike,
    format: FloatFormat | str,
    *,
    power_of_two: bool = False,
    rounding: Rounding | str = Rounding.NEAREST_EVEN,
    random_bits: int = 32,
    stochastic: Stochastic | str = Stochastic.A,
    seed: int = 0,
    offset: int = 0,
) -> Scaled:
    """A tensor with one scale, from its own largest magnitude: current scaling.

    The scale is max / amax (Transformer Engine, Float8CurrentScaling), 1 where amax is zero, infinite or NaN, and the
    largest float32 where the quotient is infinite.

    Parameters
    ----------
    x: floating point, of any shape; float64 is rounded to float32 first.
    format: of the elements, e4m3 or e5m2, or any signed format with a zero whose values float32 holds.
    power_of_two: round the scale down to a power of two.
    rounding, random_bits, stochastic, seed, offset: of the elements, as for ``fpemu.encode``.

    Returns
    -------
    Scaled with float32 ``scales`` of shape (1, 1, ...), what codes are multiplied by, and ``encode_scales``, what elements were.

    Raises
    ------
    TypeError: x is not floating point, or lies on a GPU; seed is no int.  ValueError: an unknown format or policy.
    """
    values = single_values(x)
    cast = _saturating(format, rounding, random_bits, stochastic)
    cut = whole(values.shape)
    return scaled_by(values, scales_of(amax_of(values, cut), cast.format, power_of_two), cast, cut, seed, offset)


@in_default_environment
def tiles(
    x: ArrayLike,
    format: FloatFormat | str,
    tile: tuple[int, ...] = (1, 128),
    *,
    power_of_two: bool = True,
    rounding: Rounding | str = Rounding.NEAREST_EVEN,
    random_bits: int = 32,
    stochastic: Stochastic | str = Stochastic.A,
    seed: int = 0,
    offset: int = 0,
) -> Scaled:
    """A tensor with a float32 scale for each tile: 1 x 128 and 128 x 128 (DeepSeek-V3; Transformer Engine, Float8BlockScaling).

    Parameters
    ----------
    x: floating point, with at least as many axes as the tile; float64 is rounded to float32 first.
    tile: extents along the last axes; tiles at the edges are as short as they have to be.
    power_of_two: round scales down to powers of two, as Transformer Engine does by default.
    The others: as for ``per_tensor``, which is this with one tile.

    Returns
    -------
    Scaled with float32 ``scales``, ceil(length / extent) along each axis.

    Raises
    ------
    TypeError: x is not floating point, or lies on a GPU; tile is no tuple of ints.  ValueError: extents below 1, or too few axes.
    """
    values = single_values(x)
    cast = _saturating(format, rounding, random_bits, stochastic)
    cut = cut_last(tile, values.shape, "tile")
    return scaled_by(values, scales_of(amax_of(values, cut), cast.format, power_of_two), cast, cut, seed, offset)


class Algorithm(Policy):
    """Which of the recorded largest magnitudes counts."""

    MAX = "max"  #: the largest of the history. The default
    MOST_RECENT = "most-recent"  #: the last one


@in_default_environment
class DelayedScaling:
    """One tensor's scale, from what was seen in the past (Transformer Engine, DelayedScaling).

    ``quantize`` uses the scale at hand and records the largest magnitude; ``update``, at the end of a pass, works out the next scale:

    1. amax is the largest of the history with the current pass's, or the current one (``algorithm``).
    2. The history of n slots moves on by one; slot 0, where the next pass is recorded, becomes zero: n - 1 passes stay.
    3. The scale becomes (max / amax) / 2**margin in float32, where amax is finite and not zero; else it stays.  An infinite
       quotient becomes the largest float32.

    Attributes
    ----------
    scale: float32, what the next elements are multiplied by; 1 at first.
    history: float32, (history,); slot 0 is the current pass.
    """

    def __init__(
        self,
        format: FloatFormat | str,
        *,
        history: int = 1024,
        algorithm: Algorithm | str = Algorithm.MAX,
        margin: int = 0,
        roll_zeros: bool = False,
    ) -> None:
        """State at the start.

        Parameters
        ----------
        format: of the elements. history: slots. algorithm: ``max`` or ``most-recent``.
        margin: powers of two that stay free above amax.
        roll_zeros: move the history on after a pass that saw zeros alone; Transformer Engine's bulk kernel does not.

        Raises TypeError for a history or margin that is no int, ValueError for a history below 1, an unknown format or algorithm.
        """
        self.format = element_format(format)
        self.history = np.zeros(as_extent("history", history), np.float32)
        self.algorithm = Algorithm(algorithm)
        if isinstance(margin, bool) or not isinstance(margin, int):
            raise TypeError(f"margin must be an int, not {type(margin).__name__}")
        self.margin, self.roll_zeros = margin, roll_zeros
        self.scale = np.float32(1)

    def quantize(
        self,
        x: ArrayLike,
        *,
        rounding: Rounding | str = Rounding.NEAREST_EVEN,
        random_bits: int = 32,
        stochastic: Stochastic | str = Stochastic.A,
        seed: int = 0,
        offset: int = 0,
    ) -> Scaled:
        """Scale by the past, record the present: parameters, result and errors as of ``per_tensor``."""
        values = single_values(x)
        cast = _saturating(self.format, rounding, random_bits, stochastic)
        cut = whole(values.shape)
        amax = amax_of(values, cut)
        self.history[0] = np.maximum(self.history[0], amax.max(initial=0))
        return scaled_by(values, np.full(amax.shape, self.scale, np.float32), cast, cut, seed, offset)

    def update(self) -> None:
        """A pass is over: work out the next scale."""
        current = self.history[0]
        amax = self.history.max() if self.algorithm is Algorithm.MAX else current
        if current != 0 or self.roll_zeros:
            self.history = np.roll(self.history, -1)
            self.history[0] = 0
        if np.isfinite(amax) and amax > 0:
            with np.errstate(all="ignore"):
                scale = np.float32(self.format.max) / amax / np.float32(2.0**self.margin)
            self.scale = np.minimum(scale, LARGEST_SCALE)


# ---- what they share ------------------------------------------------------------------------------------------------
def _saturating(
    format: FloatFormat | str, rounding: Rounding | str, random_bits: int, stochastic: Stochastic | str
) -> Cast:
    return Cast(element_format(format), rounding, Overflow.SATURATE, random_bits=random_bits, stochastic=stochastic)


def amax_of(x: Array, cut: Cut) -> Array:
    """The largest magnitude of each block; NaN where one is."""
    with np.errstate(all="ignore"):
        return reduce_blocks(np.maximum, np.abs(x), cut)


def scales_of(amax: Array, format: FloatFormat, power_of_two: bool) -> Array:
    """max / amax in float32, for each block."""
    usable = np.isfinite(amax) & (amax > 0)
    with np.errstate(all="ignore"):
        scales = np.float32(format.max) / np.where(usable, amax, np.float32(1))
    scales = np.where(usable, np.minimum(scales, LARGEST_SCALE), np.float32(1)).astype(np.float32)
    return (scales.view(np.uint32) & EXPONENT_BITS).view(np.float32) if power_of_two else scales


def scaled_by(x: Array, scales: Array, cast: Cast, cut: Cut, seed: Any, offset: Any) -> Scaled:
    """Elements times their block's scale, in the format; for each block what decoding multiplies by."""
    seed, offset = as_counter("seed", seed), as_counter("offset", offset)
    with np.errstate(all="ignore"):
        product = np.asarray(x * spread(scales, cut, x.shape), np.float32)
        inverses = np.asarray(np.float32(1) / scales, np.float32)
    codes = np.asarray(encode(product, cast, seed=seed, offset=offset))
    beyond = np.abs(product) > np.float32(cast.format.max)
    fates = fates_of(x, codes, beyond, np.zeros(scales.shape, bool), cast.format, cut)
    return Scaled(codes, inverses, cast.format, FLOAT32, cut, fates, encode_scales=scales)
