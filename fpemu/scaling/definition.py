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

FLOAT32, E4M3 = FORMATS["float32"], FORMATS["e4m3"]
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
        "CLIPPED": any(bool(abs(x) > biggest) for x in scaled if x == x),
        "SINGLE_CODE": len(used) > 1 and alive and len(set(used)) == 1,
    }
    return {name for name, set_ in flags.items() if set_}
