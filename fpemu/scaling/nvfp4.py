"""NVFP4: blocks of E2M1 elements with E4M3 scales, under one float32 scale of the tensor."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fpemu.arrays import as_counter, decode, encode
from fpemu.formats import FORMATS
from fpemu.policies import Cast, Overflow, Rounding, Stochastic
from fpemu.scaling.blocks import Array, cut_last, reduce_blocks, spread
from fpemu.scaling.scaled import Scaled, fates_of
from fpemu.scaling.values import single_values
from fpemu.targets.environment import in_default_environment

E2M1, E4M3, FLOAT32 = FORMATS["e2m1"], FORMATS["e4m3"], FORMATS["float32"]
TO_SCALE = Cast(E4M3, overflow=Overflow.SATURATE)
SMALLEST_GLOBAL = np.float32(FLOAT32.smallest_normal)


@in_default_environment
def nvfp4(
    x: ArrayLike,
    block: tuple[int, ...] = (1, 16),
    *,
    global_scale: float | None = None,
    minimum_scale: float = 0.0,
    four_over_six: bool = False,
    rounding: Rounding | str = Rounding.NEAREST_EVEN,
    random_bits: int = 32,
    stochastic: Stochastic | str = Stochastic.A,
    seed: int = 0,
    offset: int = 0,
) -> Scaled:
    """Two levels of scales (NVIDIA, Pretraining LLMs with NVFP4, arXiv 2509.25149; Transformer Engine).

    Every operation is one of float32, rounded to nearest even:

    1. The tensor's scale g is amax / 2688, for 448 x 6 is the largest value of both levels; of finite elements; at least
       2**-126; 1 for a tensor of zeros.
    2. A block's scale s is the E4M3 value nearest to (amax / 6) / g, at most 448.
    3. An element is x / (s g), rounded to E2M1, saturating.  A block whose s is zero is *dead*: its codes are zero.

    A block with an infinity or a NaN gets the scale NaN, and decodes to it.

    Parameters
    ----------
    x: floating point, with at least as many axes as the block; float64 is rounded to float32 first.
    block: extents along the last axes: (1, 16), or (16, 16) for weights; short at the edges.
    global_scale: g, where it is known already (delayed, or of a larger tensor).
    minimum_scale: of blocks (torchao: 2**-6, the smallest normal E4M3; here 0), a value of E4M3.
    four_over_six: give a block the scale 1.5 times as large, under which its largest element becomes 4 instead of 6, where the sum of
        squared errors is smaller; ties keep 6 (Four Over Six, arXiv 2512.02010).
    rounding, random_bits, stochastic, seed, offset: of the elements, as for ``fpemu.encode``.

    Returns
    -------
    Scaled with ``scale_format`` E4M3 and ``global_scale``.

    Raises
    ------
    TypeError: x is not floating point, or lies on a GPU; block is no tuple of ints.
    ValueError: extents below 1, too few axes, a global scale that is no positive finite number, a minimum that is no E4M3 value.
    """
    values = single_values(x)
    cut = cut_last(block, values.shape, "block")
    cast = Cast(E2M1, rounding, Overflow.SATURATE, random_bits=random_bits, stochastic=stochastic)
    seed, offset = as_counter("seed", seed), as_counter("offset", offset)
    finite = np.isfinite(values)
    known = np.where(finite, values, np.float32(0))
    nan = (
        ~reduce_blocks(np.minimum, finite, cut)
        if values.size
        else np.zeros(reduce_blocks(np.maximum, known, cut).shape, bool)
    )
    amax = reduce_blocks(np.maximum, np.abs(known), cut)
    g = _global(amax) if global_scale is None else _given(global_scale)
    least = _minimum(minimum_scale)

    def quantized(divisor: float) -> tuple[Array, Array, Array]:
        """Scales, codes and quotients with the largest element at ``divisor``."""
        with np.errstate(all="ignore"):
            wanted = np.asarray(amax / np.float32(divisor) / g, np.float32)
            scales = np.where(amax > 0, np.maximum(np.asarray(encode(wanted, TO_SCALE)), least), np.uint8(0)).astype(
                np.uint8
            )
            unit = spread(np.asarray(decode(scales, E4M3)) * g, cut, values.shape)
            quotients = np.where(unit > 0, known / np.where(unit > 0, unit, np.float32(1)), np.float32(0))
        return scales, np.asarray(encode(quotients.astype(np.float32), cast, seed=seed, offset=offset)), quotients

    scales, codes, quotients = quantized(E2M1.max)
    if four_over_six:
        others = quantized(4.0)
        better = _error(known, others[1], others[0], g, cut) < _error(known, codes, scales, g, cut)
        chosen = spread(better, cut, values.shape)
        scales = np.where(better, others[0], scales)
        codes, quotients = np.where(chosen, others[1], codes), np.where(chosen, others[2], quotients)
    scales[nan] = np.uint8(E4M3.magnitude_mask)
    codes = np.where(spread(nan, cut, values.shape), np.uint8(0), codes)
    fates = fates_of(values, codes, np.abs(quotients) > np.float32(E2M1.max), nan, E2M1, cut)
    return Scaled(codes, scales, E2M1, E4M3, cut, fates, global_scale=g)


def _global(amax: Array) -> np.float32:
    """Of a tensor, from the largest magnitudes of its blocks."""
    largest = amax.max(initial=np.float32(0))
    with np.errstate(all="ignore"):
        return np.float32(1) if largest == 0 else np.maximum(largest / np.float32(E4M3.max * E2M1.max), SMALLEST_GLOBAL)


def _given(scale: float) -> np.float32:
    with np.errstate(all="ignore"):
        single = np.float32(scale)
    if not (np.isfinite(single) and single > 0):
        raise ValueError(f"global_scale must be a positive finite float32, not {scale}")
    return single


def _minimum(scale: float) -> np.uint8:
    code = np.asarray(encode(np.float32(scale), TO_SCALE))
    if not scale >= 0 or float(decode(code, E4M3)) != scale:
        raise ValueError(f"minimum_scale must be 0 or a positive value of {E4M3.name}, not {scale}")
    return np.uint8(code)


def _error(x: Array, codes: Array, scales: Array, g: np.float32, cut: tuple[int, ...]) -> Array:
    """The sum of squared errors of each block, in float64."""
    unit = spread(np.asarray(decode(scales, E4M3, dtype=np.float64)) * np.float64(g), cut, x.shape)
    with np.errstate(all="ignore"):
        error = np.asarray(decode(codes, E2M1, dtype=np.float64)) * unit - x
        return reduce_blocks(np.add, error * error, cut)
