"""MX: blocks with one power of two each (OCP Microscaling Formats v1.0)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fpemu.arrays import Codes, as_counter, decode, encode, refuse_subclass
from fpemu.formats import FORMATS, FloatFormat, FormatName
from fpemu.kernels.spec import LANE32, LANE64
from fpemu.policies import Cast, Overflow, Policy, Rounding, Stochastic
from fpemu.scaling.blocks import Array, Cut, as_extent, blocks_shape, cut_along, reduce_blocks, slabs, spread
from fpemu.scaling.mx_rules import ScaleRule, rule_numbers
from fpemu.scaling.scaled import Scaled, fates_of
from fpemu.scaling.values import Values, element_format, host_values
from fpemu.targets.environment import in_default_environment

E8M0, FLOAT32 = FORMATS["e8m0"], FORMATS["float32"]
SCALE_NAN = 0xFF
SMALLEST_SCALE, LARGEST_SCALE = 0, 254  # codes of 2**-127 and 2**127


class Special(Policy):
    """What infinities and NaNs do to their block; OCP MX v1.0 leaves it open."""

    NAN_BLOCK = "nan-block"  #: one of either makes the scale NaN, and so the block (microxcaling). The default
    ELEMENT = (
        "element"  #: the scale is that of the finite elements; infinity clamps; a NaN stays, where the format has one
    )


@in_default_environment
def mx(
    x: ArrayLike,
    format: FormatName,
    *,
    block: int = 32,
    axis: int = -1,
    rule: ScaleRule | str = ScaleRule.FLOOR,
    special: Special | str = Special.NAN_BLOCK,
    rounding: Rounding | str = Rounding.NEAREST_EVEN,
    random_bits: int = 32,
    stochastic: Stochastic | str = Stochastic.A,
    seed: int = 0,
    offset: int = 0,
    out: Codes | None = None,
) -> Scaled:
    """Blocks of elements with a common power of two: MXFP8, MXFP6, MXFP4 and their like.

    Each block gets an exponent e from its largest magnitude by ``rule`` (``ScaleRule`` defines and sources them), clamped
    to at least -127; beyond 127 the scale is NaN.  A block of zeros has e = -127, as in microxcaling.  Its elements are
    x / 2**e, exactly, then rounded once and saturated: "normal numbers that exceed the max normal" are clamped, "preserving
    the sign" (OCP MX v1.0, 6.3).  A block whose scale is NaN (0xFF) decodes to NaN; the codes of its elements are 0.

    Parameters
    ----------
    x: float16, float32, float64 or an ml_dtypes array, of at least one axis.
    format: of the elements: e4m3 or e5m2 (MXFP8), e2m3 or e3m2 (MXFP6), e2m1 (MXFP4), or any signed format with a zero
        whose values float32 holds.
    block: elements of a block; along the axis the last one is as short as it has to be.
    axis: along which blocks run.
    rule: ``floor``, ``ceil``, ``even``, ``rceil``, ``nearest``.
    special: what infinities and NaNs do: ``nan-block``, or ``element``: the scale is that of the finite elements, an
        infinity clamps, and a NaN is kept in a format that has one (else its block is NaN).
    rounding, random_bits, stochastic, seed, offset: of the elements, as for ``fpemu.encode``; the random word of an element
        is that of its C-order index in x.
    out: a C-contiguous array of x's shape and the format's ``code_dtype`` for the codes.

    Returns
    -------
    Scaled with ``scale_format`` E8M0: scales are uint8 codes, of 2**(code - 127), as many along the axis as there are blocks.

    Raises
    ------
    TypeError: x is not floating point, or lies on a GPU; block, axis or seed is no int; ``out`` is no such array.
    ValueError: block < 1, ``out`` of another shape or layout, no such axis, a 0-d array, an unknown rule or policy (the message lists the valid ones).
    """
    values, extent = host_values(x), as_extent("block", block)
    cut = cut_along(axis, extent, values.shape)
    chosen, policy = ScaleRule(rule), Special(special)
    seed, offset = as_counter("seed", seed), as_counter("offset", offset)
    cast = Cast(element_format(format), rounding, Overflow.SATURATE, random_bits=random_bits, stochastic=stochastic)
    codes = None if out is None else _checked(out, values.shape, cast.format)
    from fpemu.targets import host_scaling

    if host_scaling.takes(values, cast, extent, cut[-1] == extent):
        return _in_loops(values, cast, cut, chosen, policy, extent, codes)
    result = _in_steps(values, cast, cut, chosen, policy, seed, offset)
    if codes is None:
        return result
    codes[...] = result.codes
    return replace(result, codes=codes)


def _checked(out: Any, shape: tuple[int, ...], format: FloatFormat) -> Codes:
    if not isinstance(out, np.ndarray) or out.dtype != format.code_dtype:
        raise TypeError(
            f"out must be a NumPy array of {format.code_dtype}, not {getattr(out, 'dtype', type(out).__name__)}"
        )
    refuse_subclass(out, "out")
    if out.shape != shape or not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError(f"out must be C-contiguous, writeable and of shape {shape}; it has shape {out.shape}")
    return out


def _in_loops(
    x: Values, cast: Cast, cut: Cut, rule: ScaleRule, special: Special, block: int, out: Codes | None
) -> Scaled:
    """float32, blocks along the last axis, to nearest even: one compiled pass; blocks it leaves go the general way."""
    from fpemu.targets import host_scaling

    codes, scales, fates, later = host_scaling.quantise(x, cast, block, *rule_numbers(rule, cast.format, LANE32), out)
    if later.size:
        rest = _in_steps(np.ascontiguousarray(x).reshape(-1, block)[later], cast, (1, block), rule, special, 0, 0)
        codes.reshape(-1, block)[later], scales[later], fates[later] = rest.codes, rest.scales[:, 0], rest.fates[:, 0]
    shape = blocks_shape(x.shape, cut)
    return Scaled(
        codes.reshape(x.shape) if out is None else out,
        scales.reshape(shape),
        cast.format,
        E8M0,
        cut,
        fates.reshape(shape),
    )


def _in_steps(x: Values, cast: Cast, cut: Cut, rule: ScaleRule, special: Special, seed: int, offset: int) -> Scaled:
    """Any format, rounding and layout: slab by slab, in float64, which has no subnormals of float32 for a machine to flush."""
    parts = slabs(x.shape, cut)
    if len(parts) == 1:
        return _slab(x, cast, cut, rule, special, seed, offset)
    shape = blocks_shape(x.shape, cut)
    codes, scales, fates = (
        np.empty(x.shape, cast.format.code_dtype),
        np.empty(shape, np.uint8),
        np.empty(shape, np.uint8),
    )
    for first, here, blocks in parts:
        part = _slab(x[here], cast, cut, rule, special, seed, offset + first)
        codes[here], scales[blocks], fates[blocks] = part.codes, part.scales, part.fates
    return Scaled(codes, scales, cast.format, E8M0, cut, fates)


def _slab(x: Values, cast: Cast, cut: Cut, rule: ScaleRule, special: Special, seed: int, offset: int) -> Scaled:
    """The same of whole arrays."""
    format = cast.format
    if x.dtype == np.float32:
        x = np.asarray(decode(np.ascontiguousarray(x).view(np.uint32), FLOAT32, dtype=np.float64))
    # 1. The largest magnitude of each block, as float64 bits, which are ordered like magnitudes.
    magnitude = np.abs(x)
    finite = np.isfinite(x)
    nan = (
        ~reduce_blocks(np.minimum, finite, cut)
        if special is Special.NAN_BLOCK
        else reduce_blocks(np.maximum, np.isnan(x) & (not format.has_nan), cut)
    )
    if x.size == 0:
        nan = np.zeros_like(nan)
    amax = reduce_blocks(np.maximum, np.where(finite, magnitude, 0), cut).astype(np.float64)
    # 2. Its scale.
    scales = scale_codes(amax, format, rule)
    nan |= scales == SCALE_NAN
    scales[nan] = SCALE_NAN
    # 3. The elements.
    scaled = divided(x, scales, cut)
    scaled = np.where(spread(nan, cut, x.shape), 0.0, scaled) if nan.any() else scaled
    codes: Codes = np.asarray(encode(scaled, cast, seed=seed, offset=offset % 2**64))
    beyond = np.abs(scaled) > format.max
    fates = fates_of(x, codes, beyond, nan, format, cut)
    return Scaled(codes, scales, format, E8M0, cut, fates)


def scale_codes(amax: Array, format: FloatFormat, rule: ScaleRule) -> Array:
    """The E8M0 codes of blocks by their largest finite magnitudes, float64; 0xFF beyond 2**127.

    (A magnitude that is subnormal in float64 is far below the smallest scale: element formats are float32's.)
    """
    raised, lower = rule_numbers(rule, format, LANE64)
    biased = ((amax.view(np.uint64) + np.uint64(raised)) >> np.uint64(LANE64.trailing_bits)).astype(np.int64) - lower
    codes = np.maximum(biased - LANE64.bias + E8M0.bias, SMALLEST_SCALE)
    codes = np.where(codes > LARGEST_SCALE, SCALE_NAN, codes)
    return np.where(amax == 0, SMALLEST_SCALE, codes).astype(np.uint8)


# Below any element format by more than stochastic rounding looks at: its values are multiples of 2**-149, of which 33 bits
# decide.
_TINY = 2.0**-1000


def divided(x: Values, scales: Array, cut: Cut) -> Array:
    """x / 2**e in float64, as every rounding to an element format sees it.

    The product with 2**-e is exact but where it falls below 2**-1022, from float64 only; whatever is that small stands for
    any non-zero number below all roundings' reach.
    """
    inverse = np.ldexp(1.0, E8M0.bias - scales.astype(np.int32))
    with np.errstate(all="ignore"):
        result = np.multiply(x, spread(inverse, cut, x.shape), dtype=np.float64)
    if x.dtype == np.float64:
        lost = (np.abs(result) < _TINY) & (x != 0)
        if lost.any():
            result = np.where(lost, np.copysign(_TINY, x), result)
    return np.asarray(result)
