"""Float32 scales: of a whole tensor, by its own amax or by the past's, and of tiles (as Transformer Engine or torchao has them).

These schemes are defined by float32 operations: a scale is max / amax, rounded to float32; an element is x times the scale,
rounded to float32, then to the format, saturating; and what decoding multiplies by is 1 / scale, rounded to float32.  Subnormals are
kept, whatever the calling thread was told (targets/environment.py).

A scale of finite values and its inverse are positive and finite: max / amax stays between the smallest float32 with a finite
inverse, just above 2**-128, and the largest; powers of two between 2**-127 and 2**127.  (The former matters to formats whose largest
value lies below 4 alone.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fpemu.arrays import as_counter, encode, nan_refused
from fpemu.formats import FORMATS, FloatFormat, FormatName
from fpemu.policies import Cast, Overflow, Policy, Rounding, Stochastic, as_int
from fpemu.scaling.blocks import Array, Cut, as_extent, blocks_shape, cut_last, reduce_blocks, slabs, spread, whole
from fpemu.scaling.scaled import Facts, Scaled
from fpemu.scaling.values import element_format, single_values
from fpemu.targets.environment import in_default_environment

FLOAT32 = FORMATS["float32"]
LARGEST_SCALE = np.float32(FLOAT32.max)
# As bits, for they are subnormal, and whoever imports this may flush those.
SMALLEST_SCALE = np.uint32(0x00200001).view(np.float32)  # an ulp above 2**-128, whose inverse is no float32
SMALLEST_POWER = np.uint32(0x00400000).view(np.float32)  # 2**-127


class AmaxRule(Policy):
    """How a scale comes from a largest magnitude; max: the largest value of the format."""

    #: max / amax; no NaN counts for amax; 1 where that is 0 or infinite (NVIDIA/TransformerEngine d0067d0, 2026-08-22,
    #: transformer_engine/common/recipe/recipe_common.cuh, compute_scale_from_amax; current_scaling.cu).  The default
    TRANSFORMER_ENGINE = "transformer-engine"
    #: max / amax, which is at least 1e-12, in float64, then float32; a NaN makes the scale NaN, an infinity 0 (pytorch/ao v0.18.0,
    #: torchao/float8/float8_utils.py, amax_to_scale; prototype/blockwise_fp8_training/kernels.py).  Its powers of two come
    #: from a float32 log2, which is up to one too large just below them; here they are exact.
    TORCHAO = "torchao"


AMAX_FLOOR = 1e-12  # torchao's


@in_default_environment
def per_tensor(
    x: ArrayLike,
    format: FormatName,
    *,
    rule: AmaxRule | str = AmaxRule.TRANSFORMER_ENGINE,
    power_of_two: bool = False,
    rounding: Rounding | str = Rounding.NEAREST_EVEN,
    random_bits: int = 32,
    stochastic: Stochastic | str = Stochastic.A,
    seed: int = 0,
    offset: int = 0,
) -> Scaled:
    """A tensor with one scale, from its own largest magnitude: current scaling.

    The scale is max / amax (Transformer Engine, Float8CurrentScaling): of all elements but NaNs, 1 where that is zero or infinite,
    and the largest float32 where the quotient is infinite; or torchao's (``AmaxRule``).

    Parameters
    ----------
    x: floating point, of any shape; float64 is rounded to float32 first.
    format: of the elements, e4m3 or e5m2, or any signed format with a zero whose values float32 holds.
    rule: ``transformer-engine`` or ``torchao``, whose amax is at least 1e-12.
    power_of_two: round the scale down to a power of two.
    rounding, random_bits, stochastic, seed, offset: of the elements, as for ``fpemu.encode``.

    Returns
    -------
    Scaled with float32 ``scales`` of shape (1, 1, ...), what codes are multiplied by, and ``encode_scales``, what elements were.

    Raises
    ------
    TypeError: x is not floating point, or lies on a GPU; seed is no int.  ValueError: an unknown format, rule or policy; a NaN, for a
        format that has none.
    """
    values = single_values(x)
    cast = _saturating(format, rounding, random_bits, stochastic)
    return _by_own_amax(values, whole(values.shape), cast, AmaxRule(rule), power_of_two, seed, offset)


@in_default_environment
def tiles(
    x: ArrayLike,
    format: FormatName,
    tile: tuple[int, ...] = (1, 128),
    *,
    rule: AmaxRule | str = AmaxRule.TRANSFORMER_ENGINE,
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
    return _by_own_amax(values, cut, cast, AmaxRule(rule), power_of_two, seed, offset)


class Algorithm(Policy):
    """Which of the recorded largest magnitudes counts."""

    MAX = "max"  #: the largest of the history. The default
    MOST_RECENT = "most-recent"  #: the last one


@in_default_environment
class DelayedScaling:
    """One tensor's scale, from what was seen in the past (NVIDIA/TransformerEngine d0067d0, 2026-08-22,
    transformer_engine/common/recipe/delayed_scaling.cu, the bulk update).

    ``quantize`` uses the scale at hand and records the largest magnitude, for which no NaN counts.  ``update``, at the end of a pass,
    works out the next scale:

    1. A pass that saw zeros alone changes nothing: neither the history nor the scale.
    2. amax is the largest of the history with the current pass's, or the current one (``algorithm``).
    3. The history of n slots moves on by one; slot 0, where the next pass is recorded, becomes zero: n - 1 passes stay.
    4. The scale becomes (max 2**-margin) / amax in float32, where amax is finite; else it stays.  An infinite quotient becomes the
       largest float32, and one that underflows zero, whose inverse is infinite.  An infinity stays in the history, and the scale with
       it, as long as any other number.

    Attributes
    ----------
    scale: float32, what the next elements are multiplied by; 1 at first.
    history: float32, (history,); slot 0 is the current pass.
    """

    def __init__(
        self,
        format: FormatName,
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
        margin: powers of two that stay free above amax; negative ones clip.
        roll_zeros: take a pass that saw zeros alone as any other: the history moves on, and the scale follows what is left of it (the
            same file's kernel for one tensor).

        Raises TypeError for a history or margin that is no int, or a roll_zeros that is no bool; ValueError for a history below 1, a
        margin under which max 2**-margin is zero or infinite in float32, an unknown format or algorithm.
        """
        self.format = element_format(format)
        self.history = np.zeros(as_extent("history", history), np.float32)
        self.algorithm = Algorithm(algorithm)
        self.margin = as_int("margin", margin)
        self._largest = _scaled_max(self.format, self.margin)
        if not isinstance(roll_zeros, bool):
            raise TypeError(f"roll_zeros must be a bool, not {type(roll_zeros).__name__}")
        self.roll_zeros = roll_zeros
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
        amax = amax_of(values, cut, np.fmax)
        self.history[0] = np.fmax(self.history[0], amax.max(initial=0))
        return scaled_by(values, np.full(amax.shape, self.scale, np.float32), cast, cut, seed, offset)

    def update(self) -> None:
        """A pass is over: work out the next scale."""
        current = self.history[0]
        if current == 0 and not self.roll_zeros:
            return
        amax = np.fmax.reduce(self.history) if self.algorithm is Algorithm.MAX else current
        self.history = np.roll(self.history, -1)
        self.history[0] = 0
        if np.isfinite(amax) and amax > 0:
            with np.errstate(all="ignore"):
                self.scale = np.minimum(self._largest / amax, LARGEST_SCALE)


# ---- what they share ------------------------------------------------------------------------------------------------
def _saturating(format: FormatName, rounding: Rounding | str, random_bits: int, stochastic: Stochastic | str) -> Cast:
    return Cast(element_format(format), rounding, Overflow.SATURATE, random_bits=random_bits, stochastic=stochastic)


def _scaled_max(format: FloatFormat, margin: int) -> np.float32:
    """max 2**-margin, both factors and the product in float32."""
    with np.errstate(all="ignore"):
        found = np.float32(format.max) * np.float32(2.0 ** -min(max(margin, -200), 200))
    if not 0 < found < np.inf:
        raise ValueError(
            f"margin {margin} makes {format.max:g} x 2**-margin {found:g} in float32; it must be positive and finite"
        )
    return found


def amax_of(x: Array, cut: Cut, gather: np.ufunc) -> Array:
    """The largest magnitude of each block: np.fmax, of what is no NaN (0 where there is nothing else); np.maximum, NaN where one is."""
    largest = np.zeros(blocks_shape(x.shape, cut), np.float32)  # (zeros: what the largest of nothing is)
    with np.errstate(all="ignore"):
        for _, here, blocks in slabs(x.shape, cut, within=True):
            largest[blocks] = gather(reduce_blocks(gather, np.abs(x[here]), cut), largest[blocks])
    return largest


def _by_own_amax(x: Array, cut: Cut, cast: Cast, rule: AmaxRule, power_of_two: bool, seed: Any, offset: Any) -> Scaled:
    """Blocks whose scales come from their own largest magnitudes."""
    gather = np.fmax if rule is AmaxRule.TRANSFORMER_ENGINE else np.maximum
    scales = scales_of(amax_of(x, cut, gather), cast.format, rule, power_of_two)
    return scaled_by(x, scales, cast, cut, seed, offset)


def scales_of(amax: Array, format: FloatFormat, rule: AmaxRule, power_of_two: bool) -> Array:
    """max / amax, for each block, float32."""
    usable = np.isfinite(amax)
    with np.errstate(all="ignore"):
        if rule is AmaxRule.TRANSFORMER_ENGINE:
            usable &= amax > 0
            unusable = np.ones_like(amax)
            quotients = np.float32(format.max) / amax
        else:
            unusable = np.float32(1) / amax  # infinity: 0; NaN: NaN
            quotients = (format.max / np.maximum(amax.astype(np.float64), AMAX_FLOOR)).astype(np.float32)
    scales = np.clip(quotients, SMALLEST_SCALE, LARGEST_SCALE)
    return np.where(usable, _power_below(scales) if power_of_two else scales, unusable).astype(np.float32)


def _power_below(scales: Array) -> Array:
    """Positive scales rounded down to powers of two, at least 2**-127."""
    _, exponents = np.frexp(scales)
    powers: Array = np.maximum(np.ldexp(np.float32(1), exponents - 1), SMALLEST_POWER)
    return powers


def scaled_by(x: Array, scales: Array, cast: Cast, cut: Cut, seed: Any, offset: Any) -> Scaled:
    """Elements times their block's scale, in the format; for each block what decoding multiplies by."""
    seed, offset = as_counter("seed", seed), as_counter("offset", offset)
    codes, facts = np.empty(x.shape, cast.format.code_dtype), Facts.none(scales.shape, cast.format)
    with np.errstate(all="ignore"):
        inverses = np.asarray(np.float32(1) / scales, np.float32)
        for first, here, blocks in slabs(x.shape, cut, within=True):
            part = x[here]
            product = np.asarray(part * spread(scales[blocks], cut, part.shape), np.float32)
            if cast.raises_on_nan and np.isnan(product).any():
                raise nan_refused(cast, first + int(np.argmax(np.isnan(product))), x.shape)
            codes[here] = encode(product, cast, seed=seed, offset=(offset + first) % 2**64)
            beyond = np.abs(product) > np.float32(cast.format.max)
            facts.take(blocks, Facts.of(part, codes[here], beyond, cast.format, cut))
    fates = facts.fates(np.zeros(scales.shape, bool))
    return Scaled(codes, inverses, cast.format, FLOAT32, cut, fates, encode_scales=scales)
