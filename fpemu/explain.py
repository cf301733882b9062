"""One value into one format, told step by step: the bits kept and discarded, both neighbours, the rule that decided.

Everything is worked out in exact rationals from the facts of the format and the policies of the cast; nothing here
runs a kernel.  The tests hold it equal to ``fpemu.encode``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from fpemu.formats import FLOAT64_EMIN, FloatFormat, as_format
from fpemu.policies import Cast, Rounding, Stochastic, Subnormals, as_cast

HALF = Fraction(1, 2)
INFINITY, NAN = "infinity", "nan"
Value = Fraction | str  # a finite value, or one of the two words above, the sign apart


def power(exponent: int) -> Fraction:
    """Two to an integer power, exactly."""
    return Fraction(1 << exponent) if exponent >= 0 else Fraction(1, 1 << -exponent)


def floor_log2(magnitude: Fraction) -> int:
    """The exponent of the binade a positive magnitude lies in."""
    guess = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    return guess if magnitude >= power(guess) else guess - 1


def value_of(code: int, format: FloatFormat) -> tuple[bool, Value]:
    """What a code means: its sign, and its magnitude, ``INFINITY`` or ``NAN``."""
    if not 0 <= code < 1 << format.bits:
        raise ValueError(f"{format.name} has codes 0 to {(1 << format.bits) - 1:#x}, not {code:#x}")
    negative, magnitude = bool(code & format.sign_mask), code & format.magnitude_mask
    if negative and magnitude == 0 and not format.negative_zero:
        return False, NAN
    if magnitude <= format.max_code:
        significand, exponent = format.scientific(magnitude)
        return negative, significand * power(exponent)
    return negative, INFINITY if magnitude == format.infinity_code else NAN


@dataclass(frozen=True)
class Neighbour:
    """A value beside the input on the target's grid, its exponent unbounded above."""

    magnitude: Fraction
    code: int | None  # with its sign; None where the format has no such value


@dataclass(frozen=True)
class Explanation:
    """How a value became a code.  Neighbours, bits and errors are None for zeros, infinities and NaNs.

    value: magnitude of the input; ``negative`` its sign.
    exponent: of its binade; ``significand`` its bits, 1.xxx, exact.
    kept, guard, sticky: the integer of spacings kept, the first bit discarded, and whether any later one is set.
    inner, outer: the neighbours toward and away from zero; equal to each other for an exact value.
    spacing: distance of the two; ``position`` of the input between them, 0 to 1.
    rule: what decided, one sentence a step.
    code, result_negative, result: what came out.
    error: result minus input, signed; None where either is not finite.
    """

    value: Value
    negative: bool
    cast: Cast
    rule: tuple[str, ...]
    code: int
    result_negative: bool
    result: Value
    exponent: int | None = None
    significand: str | None = None
    kept: int | None = None
    guard: int | None = None
    sticky: int | None = None
    inner: Neighbour | None = None
    outer: Neighbour | None = None
    spacing: Fraction | None = None
    position: Fraction | None = None

    @property
    def error(self) -> Fraction | None:
        """Result minus input."""
        if isinstance(self.value, str) or isinstance(self.result, str):
            return None
        return (-1) ** self.result_negative * self.result - (-1) ** self.negative * self.value

    @property
    def relative_error(self) -> Fraction | None:
        """The size of the error over that of the input; None for a zero input."""
        error = self.error
        return None if error is None or isinstance(self.value, str) or not self.value else abs(error) / self.value


def explain(
    x: float | tuple[bool, Value],
    format: Cast | FloatFormat | str,
    *,
    source_emin: int = FLOAT64_EMIN,
    word: int = 0,
    **policies: Any,
) -> Explanation:
    """How ``x`` becomes a code.

    Parameters
    ----------
    x: a float, or ``(negative, magnitude)`` as ``value_of`` gives it.
    format: a name, FloatFormat or Cast, with ``policies`` as for ``fpemu.Cast``.
    source_emin: exponent of the smallest normal value where x comes from, for the policy ``flush-input``.
    word: the 32 random bits of stochastic rounding, of which the top ``random_bits`` are used.

    Raises
    ------
    TypeError, ValueError: as ``fpemu.encode``; a word beyond 32 bits; a Cast with ``via`` (explain its two steps).
    """
    cast = as_cast(format, **policies)
    if cast.via is not None:
        raise ValueError("a cast that goes via another format rounds twice: explain the two steps one by one")
    if not 0 <= word < 1 << 32:
        raise ValueError(f"word must be 0 to 2**32 - 1, not {word}")
    negative, value = _split(x) if isinstance(x, float) else x
    if isinstance(value, str):
        return _special(negative, value, cast)
    flushed = _flushed_input(value, cast, source_emin)
    if not value or flushed:
        return _zero(negative, value, cast, flushed)
    return _finite(negative, value, cast, word)


def _split(x: float) -> tuple[bool, Value]:
    negative = math.copysign(1.0, x) < 0
    if math.isnan(x):
        return negative, NAN
    return (negative, INFINITY) if math.isinf(x) else (negative, abs(Fraction(x)))


def _made(negative: bool, value: Value, cast: Cast, rule: tuple[str, ...], code: int, **bits: Any) -> Explanation:
    return Explanation(value, negative, cast, rule, code, *value_of(code, cast.format), **bits)


# ---- what is not rounded --------------------------------------------------------------------------------------------
def _special(negative: bool, value: str, cast: Cast) -> Explanation:
    name = cast.format.name
    if value == NAN:
        if cast.raises_on_nan:
            why = "its policy is to raise" if cast.format.has_nan else "it has no code for it"
            raise ValueError(f"NaN cannot become {name}: {why}; name a policy: nan='max' or nan='zero'")
        return _made(negative, value, cast, (f"NaN follows nan={cast.nan.value!r}.",), cast.nan_code_for(negative))
    code = cast.infinity_code(negative)
    rule = f"An infinite input is exact under every rounding and follows overflow={cast.overflow.value!r}"
    return _made(negative, value, cast, (f"{rule}: {_meaning(code, cast.format)}.",), code)


def _flushed_input(value: Fraction, cast: Cast, source_emin: int) -> str:
    """Why an input counts as zero before it is rounded; empty where it does not."""
    if cast.subnormals is Subnormals.FLUSH_INPUT and value < power(source_emin):
        return f"The input is below 2^{source_emin}, the smallest normal value where it comes from"
    if cast.subnormals is Subnormals.FLUSH_OUTPUT_BEFORE and value < power(cast.format.emin):
        return f"The input is below 2^{cast.format.emin}, the smallest normal value of {cast.format.name}"
    return ""


def _zero(negative: bool, value: Fraction, cast: Cast, flushed: str) -> Explanation:
    format = cast.format
    if not format.has_zero:
        code = cast.overflow_code(True) if negative and not format.signed and value else cast.zero_code()
        rule = f"{format.name} has no zero; under overflow={cast.overflow.value!r} it becomes {_meaning(code, format)}."
    else:
        code = format.sign_mask if negative and format.negative_zero else 0
        rule = "Zero is exact." if code or not negative else f"Zero is exact; {format.name} has no negative zero."
    first = (f"{flushed}: subnormals={cast.subnormals.value!r} makes it zero.",) if flushed else ()
    return _made(negative, value, cast, (*first, rule), code)


# ---- rounding -------------------------------------------------------------------------------------------------------
def _finite(negative: bool, value: Fraction, cast: Cast, word: int) -> Explanation:
    format, t = cast.format, cast.format.trailing_bits
    # The grid: spacing 2**(b - t) in binade b, and below the lowest binade the spacing stays what it is there.
    exponent = floor_log2(value)
    tiny = exponent < format.emin
    to_min = tiny and cast.subnormals is Subnormals.ROUND_TO_MIN and format.subnormals
    binade = max(exponent, format.emin)
    spacing = power(binade if to_min else binade - t)
    kept, rest = divmod(value / spacing, 1)

    def code_of(count: int) -> int:
        """The magnitude code of so many spacings, unbounded above; below 0 where a zeroless format has none."""
        step = count << t if to_min else count + ((binade - format.emin) << t)
        return step - (0 if format.subnormals else 1 << t)

    def neighbour(count: int) -> Neighbour:
        code = code_of(count)
        exists = 0 <= code <= format.max_code and (format.signed or not negative or count == 0)
        return Neighbour(count * spacing, _signed(code, negative, format) if exists else None)

    odd = bool((code_of(kept) if format.ties == "code" else kept) & 1)
    if to_min and cast.rounding is Rounding.NEAREST_EVEN:
        odd = True  # the exact half goes up
    up, why = _round(cast, negative, kept, rest, odd, word)
    code, rules = _packed(negative, code_of(kept + up), (kept + up) * spacing, cast)
    significand = _binary(value / power(exponent))
    return _made(
        negative, value, cast, (why, *rules), code,
        exponent=exponent, significand=significand, kept=kept, guard=int(rest >= HALF), sticky=int(rest * 2 % 1 != 0),
        inner=neighbour(kept), outer=neighbour(kept + bool(rest)), spacing=spacing, position=rest,
    )  # fmt: skip


def _packed(negative: bool, code: int, rounded: Fraction, cast: Cast) -> tuple[int, tuple[str, ...]]:
    """What becomes of a rounded magnitude: its code with its sign, and the sentences where it does not fit."""
    format = cast.format
    if negative and not format.signed and (code or not format.has_zero):
        code = cast.overflow_code(True)
        return code, (f"{format.name} has no negative values: overflow={cast.overflow.value!r} gives {_meaning(code, format)}.",)
    if code < 0 or (not format.has_zero and code < format.smallest_code):
        inward = cast.rounding in (Rounding.TOWARD_ZERO, Rounding.UP if negative else Rounding.DOWN)
        end = cast.zero_code() if inward else _signed(format.smallest_code, negative, format)
        way = "this rounding goes down to zero, which it has not" if inward else "the smallest value is the nearest it has"
        return end, (f"{format.name} has neither zero nor subnormals; {way}: {_meaning(end, format)}.",)
    if code > format.max_code:
        end = cast.overflow_code(negative)
        rule = f"overflow={cast.overflow.value!r} under rounding={cast.rounding.value!r} gives {_meaning(end, format)}"
        return end, (f"With unbounded exponent that is {number(rounded)}, beyond the largest finite value: {rule}.",)
    if cast.subnormals is Subnormals.FLUSH_OUTPUT and format.subnormals and 0 < code < format.smallest_normal_code:
        return _signed(0, negative, format), ("The result is subnormal: subnormals='flush-output' makes it zero.",)
    return _signed(code, negative, format), ()


def _round(cast: Cast, negative: bool, kept: int, rest: Fraction, odd: bool, word: int) -> tuple[bool, str]:
    """Whether the magnitude goes up to the outer neighbour, and why."""
    if not rest:
        return False, "Exact: nothing is discarded, so every rounding gives the same."
    if cast.rounding is Rounding.STOCHASTIC:
        return _stochastic(cast, rest, kept, word)
    return _RULES[cast.rounding](rest, odd, negative)


def _nearest(tie: Callable[[bool], tuple[bool, str]]) -> Callable[[Fraction, bool, bool], tuple[bool, str]]:
    def rule(rest: Fraction, odd: bool, negative: bool) -> tuple[bool, str]:
        if rest == HALF:
            up, why = tie(odd)
            return up, f"Guard 1, sticky 0: exactly half way; {why}."
        return rest > HALF, (
            "Guard 1, sticky 1: above half way, so the outer neighbour is nearer."
            if rest > HALF
            else "Guard 0: below half way, so the inner neighbour is nearer."
        )

    return rule


def _even_tie(odd: bool) -> tuple[bool, str]:
    return odd, f"the inner neighbour is {'odd' if odd else 'even'}, so the tie goes {'outward' if odd else 'inward'}"


def _to_odd(rest: Fraction, odd: bool, negative: bool) -> tuple[bool, str]:
    side, parity = ("inner", "odd: it stays") if odd else ("outer", "odd: it goes there")
    return not odd, f"Inexact, and of the two neighbours the {side} one is {parity}."


_RULES: dict[Rounding, Callable[[Fraction, bool, bool], tuple[bool, str]]] = {
    Rounding.NEAREST_EVEN: _nearest(_even_tie),
    Rounding.NEAREST_AWAY: _nearest(lambda odd: (True, "the tie goes away from zero")),
    Rounding.TOWARD_ZERO: lambda rest, odd, negative: (False, "Inexact: toward zero is the inner neighbour."),
    Rounding.UP: lambda rest, odd, negative: (
        not negative,
        f"Inexact: up, for a {'negative' if negative else 'positive'} value, is the {'in' if negative else 'out'}er neighbour.",
    ),
    Rounding.DOWN: lambda rest, odd, negative: (
        negative,
        f"Inexact: down, for a {'negative' if negative else 'positive'} value, is the {'out' if negative else 'inn'}er neighbour.",
    ),
    Rounding.TO_ODD: _to_odd,
}


def outward_chances(rest: Fraction, kept: int, cast: Cast) -> int:
    """How many of the 2**random_bits random numbers send a value to its outer neighbour."""
    scaled = (kept + rest) * power(cast.random_bits)
    whole = {
        Stochastic.A: math.floor(scaled),
        Stochastic.B: math.floor(scaled + HALF),
        Stochastic.C: round(scaled),  # Python rounds a Fraction's tie to even
    }[cast.stochastic]
    return whole - (kept << cast.random_bits)


def _stochastic(cast: Cast, rest: Fraction, kept: int, word: int) -> tuple[bool, str]:
    n = cast.random_bits
    random, chances = word >> (32 - n), outward_chances(rest, kept, cast)
    up = random + chances >= 1 << n
    return up, (
        f"Variant {cast.stochastic.value}: {chances:#x} of 2^{n} random numbers go outward "
        f"({float(Fraction(chances, 1 << n)):.6g}); {random:#x} goes {'out' if up else 'in'}ward."
    )


# ---- text -----------------------------------------------------------------------------------------------------------
def _signed(magnitude_code: int, negative: bool, format: FloatFormat) -> int:
    """A magnitude code with its sign, where the format has that value with a sign."""
    return magnitude_code | format.sign_mask if negative and (magnitude_code or format.negative_zero) else magnitude_code


def _meaning(code: int, format: FloatFormat) -> str:
    return describe(*value_of(code, format))


def _binary(significand: Fraction) -> str:
    """A significand of 1 to 2 in binary, exact (a dyadic rational)."""
    bits = significand.denominator.bit_length() - 1
    digits = f"{significand.numerator:b}"
    return f"{digits[0]}.{digits[1:]}" if bits else digits


def number(value: Fraction) -> str:
    """A dyadic rational in the shortest decimal that means it as a float64, else as an integer times a power of two."""
    try:
        short = float(value)
    except OverflowError:
        short = math.inf
    if math.isfinite(short) and Fraction(short) == value:
        return repr(short).removesuffix(".0")
    two = (value.denominator.bit_length() - 1) or -((value.numerator & -value.numerator).bit_length() - 1)
    return f"{value.numerator << two if two < 0 and False else value / power(-two)} * 2^{-two}"


def describe(negative: bool, value: Value) -> str:
    """A value with its sign in words or digits."""
    words = {INFINITY: "infinity", NAN: "NaN"}
    return ("-" if negative else "") + (words[value] if isinstance(value, str) else number(value))


def fields(code: int, format: FloatFormat) -> tuple[str, str, str]:
    """A code's bits as sign (empty if unsigned), exponent field and trailing significand (empty if p = 1)."""
    bits, split = f"{code:0{format.bits}b}", format.bits - format.trailing_bits
    return bits[: int(format.signed)], bits[int(format.signed) : split], bits[split:]


__all__ = ["Explanation", "Neighbour", "as_format", "describe", "explain", "fields", "number", "outward_chances", "value_of"]
