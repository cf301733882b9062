"""The definition of scaled formats, block by block, in exact rationals: slow, and the judge of the fast ways.

It shares with them the facts of formats, the names of policies, and ``fpemu.reference``, which rounds elements.  Where a
scheme is *defined* by float32 operations, each is written as the exact result rounded to float32 by that reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

from fpemu import reference
from fpemu.formats import FORMATS, FloatFormat
from fpemu.policies import Cast
from fpemu.reference import floor_log2, power_of_two

FLOAT32, E4M3, E2M1 = FORMATS["float32"], FORMATS["e4m3"], FORMATS["e2m1"]
FLOAT32_MAX = Fraction(FLOAT32.max)


class Block(NamedTuple):
    """A block as it is defined: the code (or value) of its scale, the codes of its elements, its flags by name."""

    scale: int | Fraction
    codes: list[int]
    fates: set[str]


def largest(format: FloatFormat) -> Fraction:
    """The largest finite value."""
    return reference.rung(reference.last_rung(format), format)


# ---- MX -------------------------------------------------------------------------------------------------------------
def _smallest_exponent(holds: Callable[[int], bool], near: int) -> int:
    """The smallest integer e for which ``holds``, which does from some integer within 4 of ``near`` on."""
    return next(e for e in range(near - 4, near + 5) if holds(e))


def mx_exponent(amax: Fraction, format: FloatFormat, rule: str) -> int:
    """The exponent of a block's scale before it is clamped, from the words of the rule."""
    biggest = largest(format)
    emax = floor_log2(biggest)
    k = floor_log2(amax)
    if rule == "floor":  # the largest power of two <= amax, over the largest in the format
        return k - emax
    if rule == "ceil":  # the smallest power of two >= amax, over the same
        return _smallest_exponent(lambda e: amax <= power_of_two(e + emax), k - emax)
    if rule == "even":  # the former, of amax rounded to p significant bits
        unit = power_of_two(k - format.precision + 1)
        return floor_log2(round(amax / unit) * unit) - emax  # round(): ties to even
    if rule == "rceil":  # the smallest at which amax fits
        return _smallest_exponent(lambda e: amax <= biggest * power_of_two(e), k - emax)
    if rule == "nearest":  # 2^(e - 1/2) <= amax / max < 2^(e + 1/2)
        square = amax / biggest * (amax / biggest)
        return _smallest_exponent(lambda e: square < power_of_two(2 * e + 1), k - emax)
    raise ValueError(f"no rule {rule!r}")


def mx_block(xs: Sequence[float], cast: Cast, rule: str, special: str, words: Sequence[int | None]) -> Block:
    """A block of MX.  ``xs``: Python floats; ``words``: the random word of each (None where none is needed)."""
    format = cast.format
    finite = [abs(Fraction(x)) for x in xs if math.isfinite(x)]
    poisoned = (
        any(not math.isfinite(x) for x in xs)
        if special == "nan-block"
        else (any(math.isnan(x) for x in xs) and reference.canonical_nan(format) is None)
    )
    amax = max(finite, default=Fraction(0))
    e = max(mx_exponent(amax, format, rule), -127) if amax else -127
    if poisoned or e > 127:
        return Block(0xFF, [0] * len(xs), {"NAN"})
    scaled = [x if x == 0 or not math.isfinite(x) else Fraction(x) / power_of_two(e) for x in xs]
    codes = [reference.encode(x, cast, word) for x, word in zip(scaled, words, strict=True)]
    return Block(e + 127, codes, fates(xs, scaled, codes, format))


def fates(
    xs: Sequence[float], scaled: Sequence[float | Fraction], codes: Sequence[int], format: FloatFormat
) -> set[str]:
    """The flags of a block whose scale is no NaN, from the words that define them."""
    used = [code for x, code in zip(xs, codes, strict=True) if x != 0]
    alive = any(reference.value(code, format) != 0 for code in codes)
    biggest = float(largest(format))
    flags = {
        "OCCUPIED": bool(used),
        "SEVERAL": len(used) > 1,
        "DEAD": bool(used) and not alive,
        "CLIPPED": any(x > biggest or x < -biggest for x in scaled),
        "SINGLE_CODE": len(used) > 1 and alive and len(set(used)) == 1,
    }
    return {name for name, set_ in flags.items() if set_}


# ---- schemes of float32 operations ----------------------------------------------------------------------------------
TO_FLOAT32 = Cast(FLOAT32)


def single(x: Fraction) -> Fraction:
    """An exact result rounded to float32; beyond its range the largest finite value, to which these schemes clamp."""
    value = reference.value(reference.encode(x, TO_FLOAT32), FLOAT32)
    return Fraction(value) if -math.inf < value < math.inf else (FLOAT32_MAX if x > 0 else -FLOAT32_MAX)


SMALLEST_SCALE = power_of_two(-128) + power_of_two(-149)  # the smallest float32 whose inverse is one


def float_scale(amax: float, format: FloatFormat, down_to_power_of_two: bool, floor: float = 0.0) -> Fraction:
    """max / amax, as Transformer Engine has it; with a floor, as torchao. It and its inverse are numbers of float32."""
    amax = max(amax, floor)
    if not math.isfinite(amax) or amax == 0:
        return Fraction(1)
    scale = max(single(largest(format) / Fraction(amax)), SMALLEST_SCALE)
    return max(power_of_two(floor_log2(scale)), power_of_two(-127)) if down_to_power_of_two else scale


def scaled_block(xs: Sequence[float], scale: Fraction, cast: Cast, words: Sequence[int | None]) -> Block:
    """Elements times a float32 scale; the value of the scale is what decoding multiplies by."""
    scaled: list[float | Fraction] = []
    for x in xs:
        product = Fraction(x) * scale if math.isfinite(x) else x
        # A product beyond float32 clamps to the largest of the format either way; signed zeros keep their signs.
        scaled.append(x if x == 0 or not math.isfinite(x) else single(Fraction(product)) or math.copysign(0.0, x))
    codes = [reference.encode(x, cast, word) for x, word in zip(scaled, words, strict=True)]
    return Block(single(1 / scale), codes, fates(xs, scaled, codes, cast.format))


class NVFP4Scale(NamedTuple):
    """A tensor's scale: what blocks are multiplied by (``transformer-engine``), and what they are decoded with."""

    encode: Fraction
    decode: Fraction


def nvfp4_tensor(amax: Fraction, rule: str = "division", format: FloatFormat = E4M3) -> NVFP4Scale:
    """The tensor's scale, of finite magnitudes (under ``torchao`` it can be 0, and then there is no more to define)."""
    top = largest(format) * largest(E2M1)
    if rule == "transformer-engine":
        encode = single(top / amax) if amax else Fraction(1)
        return NVFP4Scale(encode, single(1 / encode))
    g = single(amax / top)
    return NVFP4Scale(Fraction(0), g if rule == "torchao" else max(g, power_of_two(-126)) if amax else Fraction(1))


def nvfp4_wanted(amax: Fraction, tensor: NVFP4Scale, rule: str, divisor: int | None) -> Fraction:
    """The scale under which a block's largest element becomes ``divisor`` (None: 6, and no choice), not yet rounded to its format."""
    if rule != "transformer-engine":
        return single(single(amax / (divisor or 6)) / tensor.decode)
    if divisor is None:
        return single(amax * single(tensor.encode * single(Fraction(1, 6))))
    return single(single(single(amax / 6) * tensor.encode) * Fraction(6, divisor))


def nvfp4_scaled(x: Fraction, scale: Fraction, tensor: NVFP4Scale, rule: str) -> Fraction:
    """An element in units of its block."""
    unit = single(scale * tensor.decode)
    if rule == "division":
        return single(x / unit) if unit else Fraction(0)
    if rule == "transformer-engine":
        return single(x * (single(1 / unit) if unit else FLOAT32_MAX))
    return single(x * single(single(1 / tensor.decode) / scale))


def nvfp4_block(
    xs: Sequence[float],
    tensor: NVFP4Scale,
    cast: Cast,
    words: Sequence[int | None],
    divisor: int | None = None,
    least: Fraction = Fraction(0),
    rule: str = "division",
    format: FloatFormat = E4M3,
) -> Block:
    """A block whose largest element is to become ``divisor`` (``nvfp4_wanted``); infinities and NaNs under ``division`` alone."""
    if any(not math.isfinite(x) for x in xs):
        return Block(format.magnitude_mask, [0] * len(xs), {"NAN"})
    to_scale = Cast(format, overflow="saturate")
    amax = max(abs(Fraction(x)) for x in xs)
    scale = reference.encode(max(nvfp4_wanted(amax, tensor, rule, divisor), least), to_scale)
    exact = Fraction(reference.value(scale, format))
    dead = not single(exact * tensor.decode)
    scaled: list[float | Fraction] = [
        0.0
        if rule == "division" and dead
        else x
        if x == 0
        else nvfp4_scaled(Fraction(x), exact, tensor, rule) or math.copysign(0.0, x)
        for x in xs
    ]
    codes = [reference.encode(x, cast, word) for x, word in zip(scaled, words, strict=True)]
    if dead:  # whatever the codes are, their values are zero
        return Block(scale, codes, fates(xs, [0.0] * len(xs), [0] * len(xs), cast.format))
    return Block(scale, codes, fates(xs, scaled, codes, cast.format))
