"""NVFP4: blocks of E2M1 elements with 8-bit scales, under one float32 scale of the tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fpemu.arrays import as_counter, decode, encode
from fpemu.formats import FORMATS, FloatFormat, FormatName
from fpemu.policies import Cast, NaN, Overflow, Rounding, Stochastic
from fpemu.scaling.blocks import Array, Cut, blocks_shape, cut_last, reduce_blocks, slabs, spread
from fpemu.scaling.nvfp4_rules import ARITHMETIC, Arithmetic, NVFP4Rule, Tensor
from fpemu.scaling.scale_formats import as_scale_format
from fpemu.scaling.scaled import Scaled, fates_of
from fpemu.scaling.values import single_values
from fpemu.targets.environment import in_default_environment

E2M1 = FORMATS["e2m1"]


@in_default_environment
def nvfp4(
    x: ArrayLike,
    block: tuple[int, ...] = (1, 16),
    *,
    rule: NVFP4Rule | str = NVFP4Rule.DIVISION,
    scale_format: FormatName = "e4m3",
    amax: float | None = None,
    global_scale: float | None = None,
    minimum_scale: float | None = None,
    four_over_six: bool = False,
    rounding: Rounding | str = Rounding.NEAREST_EVEN,
    random_bits: int = 32,
    stochastic: Stochastic | str = Stochastic.A,
    seed: int = 0,
    offset: int = 0,
) -> Scaled:
    """Two levels of scales (NVIDIA, Pretraining LLMs with NVFP4, arXiv 2509.25149).

    The tensor's scale g is amax / 2688, for 448 x 6 is the largest value of both levels; a block's scale s is the E4M3 value nearest
    to (amax / 6) / g, at most 448; an element is x / (s g), rounded to E2M1, saturating.  Every operation is one of float32, rounded to
    nearest even; ``rule`` says which, in which order: ``division``, the default, ``transformer-engine`` or ``torchao``
    (``NVFP4Rule`` has the formulas and their sources; scales and codes are those of the original bit for bit, torchao's as a CPU
    computes them: on CUDA torch divides by 6 and 2688 as products with their reciprocals).  A block whose s g is zero is *dead*.

    An infinity or a NaN makes its block NaN under ``division``; the others do what their originals do.  Where a scale is NaN, the codes
    of its block are 0.

    Parameters
    ----------
    x: floating point, with at least as many axes as the block; float64 is rounded to float32 first.
    block: extents along the last axes: (1, 16), or (16, 16) for weights; short at the edges.
    rule: the order of operations.
    scale_format: of blocks: e4m3, or ue4m3 (the same codes), ue5m3, whose largest value takes the place of 448, or any format of up to
        8 bits with a zero and a NaN (``SCALE_FORMATS`` has the sources of the first two).
    amax: the largest magnitude of the tensor, where it is known already (calibrated, or of a larger tensor).
    global_scale: g itself, instead; under ``transformer-engine`` S is then 1 / g.
    minimum_scale: of blocks, those of zeros among them: a value of ``scale_format``.  None is 0, and under ``torchao`` the
        smallest normal value.
    four_over_six: give a block the scale 1.5 times as large, under which its largest element becomes 4 instead of 6, where the sum of
        squared errors is smaller; ties keep 6 (Four Over Six, arXiv 2512.02010).  The sums are float64's; Transformer
        Engine's candidates are its own, but it compares sums of float32, of magnitudes unless told otherwise.
    rounding, random_bits, stochastic, seed, offset: of the elements, as for ``fpemu.encode``.

    Returns
    -------
    Scaled with uint8 ``scales``, codes of ``scale_format``, and ``global_scale`` g.  (Transformer Engine's own decoding
    multiplies by amax and 1 / 2688 instead of g.)

    Raises
    ------
    TypeError: x is not floating point, or lies on a GPU; block is no tuple of ints.
    ValueError: extents below 1, too few axes, an unknown rule or format, an amax that is negative or NaN, a global scale that is no
        positive finite number, both of them, a minimum that is no value of the format, four over six under torchao.

    Examples
    --------
    >>> import numpy as np
    >>> from fpemu.scaling import nvfp4
    >>> x = np.float32([[6.0, 3.0, 0.4, -0.1]])
    >>> q = nvfp4(x, (1, 4), rule="transformer-engine")
    >>> q.codes.tolist(), hex(q.scales[0, 0])
    ([[7, 5, 1, 8]], '0x7e')
    """
    values = single_values(x)
    cut = cut_last(block, values.shape, "block")
    how, to = ARITHMETIC[NVFP4Rule(rule)], as_scale_format(scale_format, E2M1.max)
    if four_over_six and how.four is None:
        raise ValueError(
            f"{NVFP4Rule(rule).value} has no four over six; the rules that have: {', '.join(_with_four())}"
        )
    cast = Cast(E2M1, rounding, Overflow.SATURATE, nan=how.nan, random_bits=random_bits, stochastic=stochastic)
    seed, offset = as_counter("seed", seed), as_counter("offset", offset)
    least = _minimum(minimum_scale, to, how)
    shape = blocks_shape(values.shape, cut)
    largest = np.empty(shape, np.float32)
    codes, scales, fates = np.empty(values.shape, np.uint8), np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    parts = slabs(values.shape, cut)
    with np.errstate(all="ignore"):
        for _, here, blocks in parts:
            known, _ = _known(values[here], cut, how)
            largest[blocks] = how.gather(reduce_blocks(how.gather, np.abs(known), cut), np.float32(0))
        tensor = _tensor(largest, to, how, amax, global_scale)
        plan = Plan(how, to, cast, cut, tensor, least, four_over_six)
        for first, here, blocks in parts:
            part = _slab(values[here], largest[blocks], plan, seed, (offset + first) % 2**64)
            codes[here], scales[blocks], fates[blocks] = part.codes, part.scales, part.fates
    return Scaled(codes, scales, E2M1, to, cut, fates, global_scale=np.float32(tensor.decode))


class Plan(NamedTuple):
    """What all blocks of a tensor have in common."""

    how: Arithmetic
    to: FloatFormat
    cast: Cast
    cut: Cut
    tensor: Tensor
    least: np.uint8
    four_over_six: bool


def _slab(x: Array, largest: Array, plan: Plan, seed: int, offset: int) -> Scaled:
    """Some blocks, by their largest magnitudes."""
    how, to, cast, cut, tensor, least, four_over_six = plan
    known, nan = _known(x, cut, how)

    def quantized(wanted: Array) -> Candidate:
        scales = np.maximum(np.asarray(encode(wanted, Cast(to, overflow=Overflow.SATURATE, nan=NaN.UNSIGNED))), least)
        scaled = how.scaled(known, spread(np.asarray(decode(scales, to)), cut, x.shape), tensor)
        return Candidate(scales, np.asarray(encode(scaled, cast, seed=seed, offset=offset)), scaled)

    if four_over_six and how.four is not None:
        six, four = map(quantized, how.four(largest, tensor))
        chosen = _chosen(known, six, four, to, tensor, cut)
    else:
        chosen = quantized(how.block(largest, tensor))
    return _result(x, chosen, nan, to, tensor, cut)


class Candidate(NamedTuple):
    """Blocks at one choice of scales: their codes, the elements' codes, and the elements before they were rounded."""

    scales: Array
    codes: Array
    scaled: Array


def _known(x: Array, cut: Cut, how: Arithmetic) -> tuple[Array, Array]:
    """The elements that take part, and whether each block is NaN whatever they say."""
    if not how.poisons or not x.size:
        return x, np.zeros(blocks_shape(x.shape, cut), bool)
    finite = np.isfinite(x)
    return np.where(finite, x, np.float32(0)), ~reduce_blocks(np.minimum, finite, cut)


def _tensor(largest: Array, to: FloatFormat, how: Arithmetic, amax: float | None, global_scale: float | None) -> Tensor:
    """The tensor's scale: from its blocks' largest magnitudes, or as it was given."""
    if amax is not None and global_scale is not None:
        raise ValueError("amax and global_scale say the same thing: give one of them")
    if global_scale is not None:
        return how.given(_single("global_scale", global_scale, "a positive finite float32", lambda g: 0 < g < np.inf))
    if amax is None:
        found = how.gather.reduce(largest, axis=None, initial=np.float32(0))
    else:
        found = _single("amax", amax, "a magnitude: 0 or more", lambda a: a >= 0)
    return how.tensor(found, np.float32(to.max * E2M1.max))


def _single(name: str, value: float, what: str, holds: Callable[[np.float32], Any]) -> np.float32:
    single = np.float32(value)
    if not holds(single):
        raise ValueError(f"{name} must be {what}, not {value}")
    return single


def _minimum(scale: float | None, to: FloatFormat, how: Arithmetic) -> np.uint8:
    """The code of the smallest scale there may be."""
    if scale is None:
        scale = to.smallest_normal if how.floored else 0.0
    code = np.asarray(encode(np.float32(scale), Cast(to, overflow=Overflow.SATURATE)))
    if not scale >= 0 or float(decode(code, to)) != scale:
        raise ValueError(f"minimum_scale must be 0 or a positive value of {to.name}, not {scale}")
    return np.uint8(code)


def _with_four() -> list[str]:
    return [rule.value for rule, how in ARITHMETIC.items() if how.four is not None]


def _chosen(x: Array, six: Candidate, four: Candidate, to: FloatFormat, tensor: Tensor, cut: Cut) -> Candidate:
    """Block by block the candidate with less squared error; ties, and errors that are no numbers, keep the former."""
    better = _error(x, four, to, tensor, cut) < _error(x, six, to, tensor, cut)
    at_elements = spread(better, cut, x.shape)
    return Candidate(
        np.where(better, four.scales, six.scales),
        np.where(at_elements, four.codes, six.codes),
        np.where(at_elements, four.scaled, six.scaled),
    )


def _error(x: Array, candidate: Candidate, to: FloatFormat, tensor: Tensor, cut: Cut) -> Array:
    """The sum of squared errors of each block, in float64."""
    scales = np.asarray(decode(candidate.scales, to, dtype=np.float64)) * np.float64(tensor.decode)
    error = np.asarray(decode(candidate.codes, E2M1, dtype=np.float64)) * spread(scales, cut, x.shape) - x
    return reduce_blocks(np.add, error * error, cut)


def _result(x: Array, chosen: Candidate, nan: Array, to: FloatFormat, tensor: Tensor, cut: Cut) -> Scaled:
    """What became of the blocks: of NaN ones nothing is left, of those that decode to zero no code counts."""
    nan_code = np.uint8(to.nan_code or 0)  # (every format of scales has one)
    scales = np.where(nan, nan_code, chosen.scales)
    nan = scales == nan_code
    codes = np.where(spread(nan, cut, x.shape), np.uint8(0), chosen.codes)
    units = np.asarray(decode(scales, to)) * tensor.decode
    alive = spread(units > 0, cut, x.shape)
    beyond = alive & (np.abs(chosen.scaled) > np.float32(E2M1.max))
    fates = fates_of(x, np.where(alive, codes, np.uint8(0)), beyond, ~np.isfinite(units), E2M1, cut)
    return Scaled(codes, scales, E2M1, to, cut, fates, global_scale=np.float32(tensor.decode))
