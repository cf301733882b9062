"""The definition of a conversion, in exact rationals: slow, short, and the judge of every kernel.

It shares no code with ``kernels/``: it takes the independent facts of a ``FloatFormat`` and the members of the policy
enums, and works out everything else from the standards.

The non-negative values of a format are the rungs of a ladder, numbered by their codes without sign.  Above the largest
finite value the ladder goes on as if the exponent were unbounded.  A conversion takes these steps:

1. NaN, infinity and zero go where the policies say; a subnormal input may be flushed first.
2. Place: between which two neighbouring rungs does |x| lie, and how far up the gap?
3. Round: the policy picks one of the two.
4. Fit: a rung above the largest finite value is an overflow, a rung below the smallest normal one may be flushed.

Sources, by number in the text below: IEEE 754-2019; OCP OFP8 v1.0; OCP MX v1.0; IEEE P3109 report v4.0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from fpemu.formats import FloatFormat, FormatName, as_format
from fpemu.naming import formats_by_name
from fpemu.policies import Cast, NaN, Overflow, Rounding, Stochastic, Subnormals, as_cast
from fpemu.targets.environment import in_default_environment

Real = Fraction | float  #: a rational; a float only for what is none: nan, inf, -inf and -0.0

HALF = Fraction(1, 2)


# ---- the ladder -----------------------------------------------------------------------------------------------------
def power_of_two(exponent: int) -> Fraction:
    """2**exponent, exactly."""
    return Fraction(1 << exponent) if exponent >= 0 else Fraction(1, 1 << -exponent)


def floor_log2(x: Fraction) -> int:
    """The integer e with 2**e <= x < 2**(e + 1), for x > 0; by comparison, never by logarithm."""
    e = x.numerator.bit_length() - x.denominator.bit_length()
    return e if power_of_two(e) <= x else e - 1


def smallest_normal_exponent(format: FloatFormat) -> int:
    """emin: exponent field 1 starts there, or field 0 in a format without subnormals."""
    return int(format.subnormals) - format.bias


def rung(number: int, format: FloatFormat) -> Fraction:
    """The value of magnitude code ``number``, as if no code above were infinity or NaN.

    IEEE 754, 3.4: (2^t + T) 2^(E - bias - t), and T 2^(emin - t) where the exponent field E is 0.
    """
    t = format.precision - 1
    field, trailing = divmod(number, 1 << t)
    if format.subnormals and field == 0:
        return trailing * power_of_two(smallest_normal_exponent(format) - t)
    return ((1 << t) + trailing) * power_of_two(field - format.bias - t)


def last_rung(format: FloatFormat) -> int:
    """The code of the largest finite value: NaNs are at the top of the magnitude codes, infinity just below them."""
    return (1 << (format.bits - format.signed)) - 1 - format.high_nans - format.infinities


@dataclass(frozen=True)
class Gap:
    """Where a magnitude lies: on or above the rung ``inner_code``, below the rung ``outer_code``.

    A code above the format's largest finite one is only a number on the ladder.
    """

    inner_code: int
    outer_code: int
    inner: Fraction
    outer: Fraction
    position: Fraction  #: how far up the gap, 0 (the magnitude is ``inner``) to below 1

    @property
    def guard(self) -> int:
        """The first discarded bit: whether the magnitude lies in the upper half of the gap."""
        return int(self.position >= HALF)

    @property
    def sticky(self) -> int:
        """Whether any discarded bit after the guard bit is set."""
        return int(self.position not in (0, HALF))


def place(magnitude: Fraction, format: FloatFormat) -> Gap | None:
    """The gap in which a positive magnitude lies; None below the first rung of a format without zero.

    P3109, 4.7.1: the spacing is 2^Q with Q = max(floor(log2 |x|), emin) - p + 1.
    """
    t, emin = format.precision - 1, smallest_normal_exponent(format)
    exponent = floor_log2(magnitude)
    if not format.subnormals and exponent < emin:
        return None
    exponent = max(exponent, emin)
    steps, rest = divmod(magnitude, power_of_two(exponent - t))
    # Each binade above the lowest has 2^t rungs; in the lowest, steps counts from zero.
    inner = steps + ((exponent - emin) << t) - (0 if format.subnormals else 1 << t)
    return Gap(inner, inner + 1, rung(inner, format), rung(inner + 1, format), rest / power_of_two(exponent - t))


# ---- codes to values ------------------------------------------------------------------------------------------------
@in_default_environment
def value(code: int, format: FormatName) -> Real:
    """What a code means: a Fraction, or the float nan, inf, -inf or -0.0.

    A NaN bears the sign of its code where the format has NaNs of both signs.  Raises ValueError for a code beyond the
    format's width.
    """
    format = as_format(format)
    code = int(code)
    if not 0 <= code < 1 << format.bits:
        raise ValueError(f"{format.name} has codes 0 to {(1 << format.bits) - 1:#x}, not {code:#x}")
    width = format.bits - format.signed
    negative, magnitude = bool(code >> width), code & ((1 << width) - 1)
    if negative and magnitude == 0 and not format.negative_zero:
        return math.nan
    beyond = magnitude - last_rung(format)
    if beyond > format.infinities:
        return math.copysign(math.nan, -1.0 if negative else 1.0)
    if beyond > 0:
        return -math.inf if negative else math.inf
    exact = rung(magnitude, format)
    if exact == 0 and negative:
        return -0.0
    return -exact if negative else exact


def canonical_nan(format: FloatFormat) -> int | None:
    """The quiet NaN without sign, or None.

    IEEE 754, 6.2.1: "the first bit of the trailing significand" of a quiet NaN is 1.  Of those the one whose other
    trailing bits are 0, if it is a NaN; else the NaN at the top; else the sign bit alone where that is no zero.
    """
    top = (1 << (format.bits - format.signed)) - 1
    if format.high_nans:
        t = format.precision - 1
        quiet = top if t == 0 else (top >> t << t) + (1 << (t - 1))
        return quiet if quiet > top - format.high_nans else top
    return top + 1 if format.signed and not format.negative_zero else None


@in_default_environment
def as_real(x: object) -> Real:
    """A float, NumPy float, int or Fraction as an exact value.  Raises TypeError for anything else."""
    if isinstance(x, (float, np.float16, np.float32)):
        x = float(x)  # exact: float64 holds the others
        return Fraction(x) if math.isfinite(x) and (x or math.copysign(1, x) > 0) else x
    if isinstance(x, (int, np.integer, Fraction)) and not isinstance(x, bool):
        return Fraction(x) if isinstance(x, Fraction) else Fraction(int(x))
    raise TypeError(f"take a float, an int or a Fraction, not {type(x).__name__}")


@in_default_environment
def as_float(real: Real) -> float:
    """The value as a float.  Raises ValueError where float64 does not hold it."""
    if isinstance(real, float):
        return real
    try:
        near = float(real)
    except OverflowError:
        near = math.inf
    if not math.isfinite(near) or Fraction(near) != real:
        raise ValueError("float64 does not hold this value")
    return near


def is_negative(real: Real) -> bool:
    """The sign bit, of zeros and NaNs too."""
    return math.copysign(1.0, real) < 0 if isinstance(real, float) else real < 0


@in_default_environment
def neighbours(x: object, format: FormatName) -> tuple[Real | None, Real | None]:
    """The greatest value of the format that is <= x and the smallest that is >= x; x twice if it is one of them.

    Infinities count as values; None where there is no value on that side.  Raises ValueError for NaN.
    """
    format, real = as_format(format), as_real(x)
    if isinstance(real, float) and math.isnan(real):
        raise ValueError("NaN has no neighbours")
    negative = is_negative(real)
    magnitude: Real = -real if negative else real
    infinity: Real | None = math.inf if format.infinities else None
    largest = rung(last_rung(format), format)
    inner: Real | None
    outer: Real | None
    if magnitude > largest:
        inner = infinity if magnitude == math.inf and infinity else largest
        outer = infinity
    elif magnitude == 0:
        inner = outer = Fraction(0)
        if not format.subnormals:  # no zero: the first values on either side of it
            first = rung(0, format)
            return (-first if format.signed else None), first
    else:
        assert isinstance(magnitude, Fraction)
        gap = place(magnitude, format)
        if gap is None:
            inner, outer = (-rung(0, format) if format.signed else None), rung(0, format)
        else:
            inner, outer = gap.inner, gap.outer if gap.position else gap.inner
    if not negative:
        return inner, outer
    if not format.signed:
        return None, Fraction(0) if format.subnormals else rung(0, format)
    return (None if outer is None else -outer), (None if inner is None else -inner)


# ---- rounding: which of the two neighbours --------------------------------------------------------------------------
Choice = tuple[bool, str]  # whether the outer neighbour (the larger magnitude) is taken, and why
Rule = Callable[[Gap, bool, Cast, int | None], Choice]


def _nearest(tie: Callable[[Gap, Cast], Choice]) -> Rule:
    def choose(gap: Gap, negative: bool, cast: Cast, word: int | None) -> Choice:
        return tie(gap, cast) if gap.position == HALF else (gap.position > HALF, "the nearer")

    return choose


def _tie_even(gap: Gap, cast: Cast) -> Choice:
    """IEEE 754, 4.3.1: the one "with an even least significant digit"; if neither has, "the larger in magnitude".

    The last bit of the code is that digit, except where p = 1: there it is the last bit of the exponent, which is what
    P3109, 4.7.2 goes by, and the significands are 1 (or 0, in zero).
    """
    if cast.format.precision > 1 or cast.format.ties == "code" or gap.inner == 0:
        return gap.inner_code % 2 == 1, "tie to the even code"
    return True, "tie to the larger magnitude, as no significand is even"


def _tie_away(gap: Gap, cast: Cast) -> Choice:
    """IEEE 754, 4.3.1, roundTiesToAway."""
    return True, "tie to the larger magnitude"


def _toward_zero(gap: Gap, negative: bool, cast: Cast, word: int | None) -> Choice:
    return False, "toward zero"


def _up(gap: Gap, negative: bool, cast: Cast, word: int | None) -> Choice:
    return not negative, "upward"


def _down(gap: Gap, negative: bool, cast: Cast, word: int | None) -> Choice:
    return negative, "downward"


def _to_odd(gap: Gap, negative: bool, cast: Cast, word: int | None) -> Choice:
    """P3109, 4.7.2, ToOdd.  On the grid {0, smallest normal} both may be even: an inexact result is not zero."""
    return gap.outer_code % 2 == 1 or gap.inner_code % 2 == 0, "to the odd code"


def _stochastic(gap: Gap, negative: bool, cast: Cast, word: int | None) -> Choice:
    """P3109, 4.7.2: the discarded fraction v meets N random bits R."""
    n, v = cast.random_bits, gap.position
    if word is None or not 0 <= word < 1 << n:
        raise ValueError(f"stochastic rounding needs a random_word of {n} bits, not {word!r}")
    outward = {
        Stochastic.A: lambda: math.floor(v * 2**n) + word >= 2**n,
        Stochastic.B: lambda: math.floor(v * 2 ** (n + 1)) + 2 * word + 1 >= 2 ** (n + 1),
        Stochastic.C: lambda: round(v * 2**n) + word >= 2**n,  # round() of a Fraction: ties to even
    }[cast.stochastic]()
    return outward, f"by the random word {word:#x} of {n} bits"


RULES: dict[Rounding, Rule] = {
    Rounding.NEAREST_EVEN: _nearest(_tie_even),
    Rounding.NEAREST_AWAY: _nearest(_tie_away),
    Rounding.TOWARD_ZERO: _toward_zero,
    Rounding.UP: _up,
    Rounding.DOWN: _down,
    Rounding.TO_ODD: _to_odd,
    Rounding.STOCHASTIC: _stochastic,
}


# ---- fitting: what is not among the values --------------------------------------------------------------------------
@dataclass(frozen=True)
class Fits:
    """The first that the format has: of a finite value beyond the largest finite one, and of an infinite input.

    ``below``, ``infinite_below``: of negative ones in an unsigned format, outside the domain whatever their magnitude.
    """

    finite: str
    infinite: str
    below: str
    infinite_below: str


FITS: dict[Overflow, Fits] = {
    # IEEE 754, 7.4; OFP8 non-saturating.
    Overflow.IEEE: Fits("infinity, NaN, limit", "infinity, NaN, limit", "NaN, limit", "NaN, limit"),
    # OFP8 saturating; P3109, 4.7.5, SatFinite.
    Overflow.SATURATE: Fits("limit", "limit", "limit", "limit"),
    # ONNX Cast 19 to 23, saturate=1, of the formats without -0 (unsigned ones: our own decision).
    Overflow.PROPAGATE: Fits("limit", "infinity, NaN, limit", "limit", "NaN, limit"),
    # P3109, 4.7.5, SatNone: a finite domain clamps; for ``below`` see ``_below``.
    Overflow.P3109: Fits("infinity, limit", "infinity, limit", "NaN, limit", "NaN, limit"),
    # P3109, 4.7.5, SatPropagate.
    Overflow.P3109_PROPAGATE: Fits("limit", "infinity, limit", "limit", "limit"),
    Overflow.NAN: Fits("NaN, limit", "NaN, limit", "NaN, limit", "NaN, limit"),
}


def _fit(places: str, negative: bool, cast: Cast) -> tuple[int, str]:
    """Code and name of the first place of a row that the format has."""
    format = cast.format
    sign = 1 << (format.bits - 1) if negative and format.signed else 0
    for there in places.split(", "):
        if there == "infinity" and format.infinities:
            return last_rung(format) + 1 | sign, there
        if there == "NaN" and (nan := _nan(negative, cast)) is not None:
            return nan, there
    if negative and not format.signed:
        return 0, "the lowest value"
    return last_rung(format) | sign, "the largest finite value"


def _nan(negative: bool, cast: Cast) -> int | None:
    """The NaN code of that sign, or None."""
    format = cast.format
    code = canonical_nan(format) if cast.nan_code is None else cast.nan_code
    keeps_sign = format.signed and format.high_nans > 0 and cast.nan is not NaN.UNSIGNED
    return code if code is None or not (negative and keeps_sign) else code | 1 << (format.bits - 1)


def _overflow(negative: bool, cast: Cast) -> tuple[int, str]:
    """A finite value whose rounded magnitude is beyond the largest finite one.

    IEEE 754, 7.4: a directed rounding that points inward gives the largest finite value of that sign.
    """
    if negative and not cast.format.signed:
        code, name = _below(cast)
        return code, f"negative: {name}"
    code, name = _fit(FITS[cast.overflow].finite, negative, cast)
    inward = {
        Rounding.TOWARD_ZERO: True,
        Rounding.UP: negative,
        Rounding.DOWN: not negative,
        # P3109, 4.7.3, ToOdd: the odd one of the largest finite value and infinity; OFP8 is silent, so never NaN.
        Rounding.TO_ODD: name != "infinity" or code % 2 == 0,
    }.get(cast.rounding, False)
    if inward:
        code, name = _fit("limit", negative, cast)
    return code, f"overflow: {name}"


def _below(cast: Cast) -> tuple[int, str]:
    """A finite value below the lowest one of an unsigned format.

    P3109, 4.7.5, SatNone: under TowardZero and TowardPositive the lowest value, else NaN.
    """
    inward = cast.overflow is Overflow.P3109 and cast.rounding in (Rounding.TOWARD_ZERO, Rounding.UP)
    return _fit("limit" if inward else FITS[cast.overflow].below, True, cast)


def _zero(negative: bool, cast: Cast) -> tuple[int, str]:
    """A zero of that sign; IEEE 754, 6.3: a conversion keeps the sign, of a result rounded to zero too."""
    format = cast.format
    if not format.subnormals:
        code, name = _below(cast)  # (of the formats without zero all are unsigned)
        return code, f"no zero: {name}"
    return (1 << (format.bits - 1) if negative and format.signed and format.negative_zero else 0), "zero"


def _below_first(negative: bool, cast: Cast) -> tuple[int, str]:
    """Below the smallest value of a format without zero: that value, except where the rounding points away from it."""
    if negative:
        return _overflow(negative, cast)
    if cast.rounding in (Rounding.TOWARD_ZERO, Rounding.DOWN):
        return _zero(negative, cast)
    return 0, "the smallest value"


# ---- values to codes ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Explanation:
    """One conversion, step by step."""

    x: Real
    code: int
    value: Real  #: what the code means
    gap: Gap | None  #: where |x| lies on the ladder; None for zero, infinity and NaN
    rule: str  #: the rule that decided between the neighbours, or sent x elsewhere
    lower: Real | None  #: the greatest value of the format <= x, None if there is none
    upper: Real | None  #: the smallest >= x
    via: Explanation | None = None  #: the rounding to an intermediate format that came first

    @property
    def error(self) -> Fraction | None:
        """value - x, or None where one of them is no number."""
        number = [Fraction(v) if math.isfinite(v) else None for v in (self.value, self.x)]
        return None if number[0] is None or number[1] is None else number[0] - number[1]


@in_default_environment
@formats_by_name('reference.encode(x, "e4m3", source="float32")', 3)
def encode(
    x: object,
    cast: Cast | FormatName,
    random_word: int | None = None,
    *,
    source: FormatName | None = None,
) -> int:
    """The code of a value.

    Parameters
    ----------
    x: a float, NumPy float16/32/64, int or Fraction.
    cast: a Cast, or a format with the default policies.
    random_word: the N = ``cast.random_bits`` random bits of stochastic rounding.
    source: the format x comes from, for ``flush-input``; "float64" is understood.  Default: that of the type of x;
        ints and Fractions have none.

    Raises
    ------
    ValueError: NaN for a format without NaN and no policy that names another result; a missing random word.
    TypeError: another type of x.
    """
    return explain(x, cast, random_word, source=source).code


@in_default_environment
@formats_by_name('reference.explain(x, "e4m3", source="float32")', 3)
def explain(
    x: object,
    cast: Cast | FormatName,
    random_word: int | None = None,
    *,
    source: FormatName | None = None,
) -> Explanation:
    """``encode`` with the steps taken.  Parameters and errors as there."""
    cast, real = as_cast(cast), as_real(x)
    if cast.via is not None:
        first = explain(x, cast.via, random_word, source=source)
        then = explain(first.value, cast.replace(via=None), random_word, source=cast.via.format)
        return replace(then, x=real, via=first)
    code, rule, gap = _decide(real, cast, random_word, _source_emin(x, source))
    nan = isinstance(real, float) and math.isnan(real)
    lower, upper = (None, None) if nan else neighbours(real, cast.format)
    return Explanation(real, code, value(code, cast.format), gap, rule, lower, upper)


def _source_emin(x: object, source: FormatName | None) -> int | None:
    """The exponent of the smallest normal value of the source; None where it has no subnormals."""
    if source is None:
        return {np.float16: -14, np.float32: -126, np.float64: -1022, float: -1022}.get(type(x))
    if source == "float64":
        return -1022
    format = as_format(source)
    return smallest_normal_exponent(format) if format.subnormals else None


def _decide(real: Real, cast: Cast, word: int | None, source_emin: int | None) -> tuple[int, str, Gap | None]:
    format, negative = cast.format, is_negative(real)
    # 1. What is no number, or zero.
    if isinstance(real, float) and math.isnan(real):
        return *_nan_input(negative, cast), None
    if isinstance(real, float) and math.isinf(real):
        fits = FITS[cast.overflow]
        below = negative and not format.signed
        code, rule = _fit(fits.infinite_below if below else fits.infinite, negative, cast)
        return code, f"infinity: {rule}", None
    magnitude = abs(Fraction(real))
    if cast.subnormals is Subnormals.FLUSH_INPUT and source_emin is not None and magnitude < power_of_two(source_emin):
        return *_zero(negative, cast), None
    if magnitude == 0:
        return *_zero(negative, cast), None
    smallest_normal = power_of_two(smallest_normal_exponent(format))
    if cast.subnormals is Subnormals.FLUSH_OUTPUT_BEFORE and magnitude < smallest_normal:
        return _zero(negative, cast)[0], "flushed: below the smallest normal", place(magnitude, format)
    # 2. Place.
    gap = place(magnitude, format)
    if gap is None:
        return *_below_first(negative, cast), None
    to_min = cast.subnormals is Subnormals.ROUND_TO_MIN and magnitude < smallest_normal
    if to_min:
        gap = Gap(0, 1 << (format.precision - 1), Fraction(0), smallest_normal, magnitude / smallest_normal)
    # 3. Round.
    if gap.position == 0:
        outward, rule = False, "exact"
    elif to_min and gap.position == HALF and cast.rounding is Rounding.NEAREST_EVEN:
        outward, rule = True, "half of the smallest normal goes up"
    else:
        outward, rule = RULES[cast.rounding](gap, negative, cast, word)
    number = gap.outer_code if outward else gap.inner_code
    # 4. Fit.
    if cast.subnormals is Subnormals.FLUSH_OUTPUT and 0 < rung(number, format) < smallest_normal:
        return _zero(negative, cast)[0], "flushed: subnormal after rounding", gap
    if rung(number, format) == 0:
        return _zero(negative, cast)[0], rule, gap
    if number > last_rung(format) or (negative and not format.signed):
        code, fate = _overflow(negative, cast)
        return code, f"{rule}; {fate}", gap
    return number | (1 << (format.bits - 1) if negative else 0), rule, gap


def _nan_input(negative: bool, cast: Cast) -> tuple[int, str]:
    code = _nan(negative, cast)
    if cast.nan is NaN.MAX:
        return last_rung(cast.format), "NaN: the largest finite value"
    if cast.nan is NaN.ZERO:
        return _zero(False, cast)[0], "NaN: zero"
    if cast.nan is NaN.NEGATED_ZERO:
        return _zero(not negative, cast)[0], "NaN: a zero of the other sign"
    if cast.nan is NaN.LIMIT:
        return encode(
            math.inf * (-1 if negative else 1), Cast(cast.format, overflow="saturate")
        ), "NaN: the largest finite value of its sign"
    if cast.nan is NaN.RAISE or code is None:
        raise ValueError(f"NaN cannot become {cast.format.name}: name a policy, nan='max' or nan='zero'")
    return code, "NaN: the canonical one"
