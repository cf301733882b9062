"""One value into one format, told in full: a text and a record of what ``reference.explain`` worked out.

Everything is exact: the numbers are rationals, printed in the shortest decimal that means the same, or as an odd
integer times a power of two where float64 does not hold them.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

import numpy as np

from fpemu import reference
from fpemu.formats import FloatFormat
from fpemu.kernels.random import random_counter, random_word, seed_key
from fpemu.policies import Cast, Rounding, Stochastic
from fpemu.reference import Explanation, Gap, Real
from fpemu.targets.environment import in_default_environment

FLOAT64 = "float64"
SHOWN_BITS = 32  # of a discarded tail that may have a thousand
_WIDEST_EXPONENT = 20_000  # beyond it a text is zero or infinity in every source, and no rational is made of it
_HEXADECIMAL = re.compile(r"([+-]?)0x([0-9a-f]*)\.?([0-9a-f]*)(?:p([+-]?\d+))?", re.IGNORECASE)


# ---- text to value --------------------------------------------------------------------------------------------------
@in_default_environment
def parse_value(text: str, source: str = FLOAT64) -> tuple[Real, bool]:
    """The value of a source format nearest to a text, rounded once, and whether the text is exactly that.

    ``text``: a decimal or hexadecimal number, inf or nan; ``source``: float64 or the name of a format.
    Raises ValueError for any other text.
    """
    text = text.strip()
    hexadecimal = _HEXADECIMAL.fullmatch(text)
    try:
        near = float.fromhex(text) if hexadecimal else float(text)
    except OverflowError:
        near = -math.inf if text.startswith("-") else math.inf
    except ValueError:
        raise ValueError(f"{text!r} is no number: write 0.1, 1e-3, 0x1.8p-4, inf or nan") from None
    exact = _rational(text, hexadecimal)
    if source == FLOAT64:
        return near, exact is None or (math.isfinite(near) and Fraction(near) == exact)
    whole: Real = near if exact is None or exact == 0 else exact
    real = reference.value(reference.encode(whole, Cast(source)), source)
    return real, exact is None or (
        not (isinstance(real, float) and not math.isfinite(real)) and Fraction(real) == exact
    )


def _rational(text: str, hexadecimal: re.Match[str] | None) -> Fraction | None:
    """The exact value of a number's text; None for inf and nan.  Absurd exponents are clamped."""
    if re.fullmatch(r"[+-]?(inf|infinity|nan)", text, re.IGNORECASE):
        return None
    if hexadecimal:
        sign, whole, part, exponent = hexadecimal.groups()
        scale = _clamped(exponent or "0") - 4 * len(part)
        return int(f"{sign}{whole}{part}", 16) * reference.power_of_two(scale)
    mantissa, _, exponent = text.lower().replace("_", "").partition("e")
    return Fraction(mantissa) * Fraction(10) ** _clamped(exponent or "0")


def _clamped(exponent: str) -> int:
    return max(-_WIDEST_EXPONENT, min(int(exponent), _WIDEST_EXPONENT))


def parse_code(text: str, format: FloatFormat) -> int:
    """A code in hexadecimal (0x3c), binary (0b00111100) or decimal.  Raises ValueError for any other text."""
    try:
        code = int(text, 0)
    except ValueError:
        raise ValueError(f"{text!r} is no code: write 0x3c, 0b111100 or 60") from None
    reference.value(code, format)  # raises where it is beyond the width
    return code


def word_of(seed: int, index: int, random_bits: int) -> int:
    """The random bits that ``fpemu.encode(x, seed=seed)`` uses for element ``index``."""
    counter = getattr(random_counter, "py_func", random_counter)
    word = getattr(random_word, "py_func", random_word)
    with np.errstate(over="ignore"):
        return int(word(counter(np.uint64(seed_key(seed)), np.uint64(index)))) >> (32 - random_bits)


# ---- value to text --------------------------------------------------------------------------------------------------
@in_default_environment
def number(real: Real) -> str:
    """A value as text; see the module."""
    if isinstance(real, float):
        return repr(real).removesuffix(".0")
    try:
        return repr(reference.as_float(real)).removesuffix(".0")
    except ValueError:
        pass
    bottom = -(real.denominator.bit_length() - 1) or (real.numerator & -real.numerator).bit_length() - 1
    odd = real / reference.power_of_two(bottom)
    return f"{'-' * (odd < 0)}2^{bottom}" if abs(odd) == 1 else f"{odd} * 2^{bottom}"


def power(x: Fraction) -> str:
    """A power of two as such: 2^-7 = 0.0078125."""
    exponent = reference.floor_log2(x)
    return f"2^{exponent}" if abs(exponent) > 20 else f"2^{exponent} = {number(x)}"


def fields(code: int, format: FloatFormat) -> tuple[str, str, str]:
    """A code's bits: sign (empty if unsigned), exponent field, trailing significand (empty where p = 1)."""
    bits, sign, split = f"{code:0{format.bits}b}", int(format.signed), format.bits - format.trailing_bits
    return bits[:sign], bits[sign:split], bits[split:]


def spaced(code: int, format: FloatFormat) -> str:
    """A code's bits with its fields apart: 0 0011 101."""
    return " ".join(part for part in fields(code, format) if part)


def hexadecimal(code: int, format: FloatFormat) -> str:
    """A code in hexadecimal with the digits its width needs."""
    return f"0x{code:0{-(-format.bits // 4)}x}"


def kept_and_discarded(gap: Gap, magnitude: Fraction, format: FloatFormat) -> tuple[str, str, bool]:
    """The significand in binary on the target's grid: bits kept, bits discarded, and whether more of those follow."""
    spacing = gap.outer - gap.inner
    kept, rest = divmod(magnitude / spacing, 1)
    whole_binade = gap.outer_code - gap.inner_code > 1
    digits, tail = f"{int(kept):0{1 if whole_binade else format.precision}b}", ""
    while rest and len(tail) < SHOWN_BITS:
        bit, rest = divmod(rest * 2, 1)
        tail += str(int(bit))
    return digits, tail, bool(rest)


def outward_chances(gap: Gap, cast: Cast) -> int:
    """How many of the 2**random_bits random words send a value in this gap outward (P3109 v4.0, 4.7.2)."""
    scaled = gap.position * 2**cast.random_bits
    chances = {
        Stochastic.A: math.floor(scaled),
        Stochastic.B: math.floor(scaled + Fraction(1, 2)),
        Stochastic.C: round(scaled),  # a Fraction's tie goes to even
    }
    return int(chances[cast.stochastic])


# ---- the record -----------------------------------------------------------------------------------------------------
@in_default_environment
def record(told: Explanation, cast: Cast) -> dict[str, Any]:
    """An explanation as plain data: strings for numbers (exact), ints for codes and bits, None where there is none."""
    format = cast.format
    out: dict[str, Any] = {
        "value": number(told.x),
        "sign": int(reference.is_negative(told.x)),
        "exponent": None,
        "significand": None,
        "format": format.name,
        "rounding": cast.rounding.value,
        "overflow": cast.overflow.value,
        "subnormals": cast.subnormals.value,
        "kept": None,
        "guard": None,
        "sticky": None,
        "discarded": None,
        "toward_zero": None,
        "away_from_zero": None,
        "spacing": None,
        "position": None,
        "decided": told.rule,
        "rule": sentence(told, cast),
        "code": told.code,
        "hex": hexadecimal(told.code, format),
        "bits": spaced(told.code, format),
        "result": number(told.value),
        "error": None if told.error is None else number(told.error),
        "relative_error": None,
        "error_in_spacings": None,
    }
    magnitude = abs(told.x)
    if isinstance(magnitude, Fraction) and magnitude:
        exponent = reference.floor_log2(magnitude)
        bits, _, more = _binary(magnitude / reference.power_of_two(exponent))
        out |= {"exponent": exponent, "significand": bits + ("..." if more else "")}
        if told.error is not None:
            out["relative_error"] = _as_float(abs(told.error) / magnitude)
    gap = told.gap
    if gap is not None and isinstance(magnitude, Fraction):
        kept, discarded, more = kept_and_discarded(gap, magnitude, format)
        spacing = gap.outer - gap.inner
        negative = bool(out["sign"])
        out |= {
            "kept": kept,
            "guard": gap.guard,
            "sticky": gap.sticky,
            "discarded": discarded + ("..." if more else ""),
            "toward_zero": _neighbour(gap.inner_code, gap.inner, negative, format),
            "away_from_zero": _neighbour(gap.outer_code, gap.outer, negative, format),
            "spacing": power(spacing),
            "position": float(gap.position),
            "error_in_spacings": None if told.error is None else _as_float(told.error / spacing),
        }
    return out


def _as_float(x: Fraction) -> float:
    """The nearest float64, an infinity where that is beyond it."""
    try:
        return float(x)
    except OverflowError:
        return math.inf if x > 0 else -math.inf


def _binary(x: Fraction) -> tuple[str, str, bool]:
    whole, rest = divmod(x, 1)
    tail = ""
    while rest and len(tail) < 52:
        bit, rest = divmod(rest * 2, 1)
        tail += str(int(bit))
    return f"{int(whole)}.{tail or '0'}", tail, bool(rest)


def _neighbour(code: int, magnitude: Fraction, negative: bool, format: FloatFormat) -> dict[str, Any]:
    """A neighbour as data; its code is None where the format has no such value."""
    exists = code <= format.max_code and (format.signed or not negative or not magnitude)
    signed = code | format.sign_mask if negative and (code or format.negative_zero) else code
    return {
        "value": number(-magnitude if negative else magnitude),
        "code": signed if exists else None,
        "hex": hexadecimal(signed, format) if exists else None,
        "bits": spaced(signed, format) if exists else None,
    }


@in_default_environment
def sentence(told: Explanation, cast: Cast) -> str:
    """The rule that decided, with the evidence before it."""
    gap = told.gap
    if isinstance(told.x, float) and math.isinf(told.x):
        end = told.rule.partition(": ")[2]
        return f"an infinite input is exact under every rounding; overflow {cast.overflow.value} makes it {end}"
    if gap is None or told.rule == "exact" or told.rule.startswith("flushed: below"):
        return told.rule
    where = {0: "below half way", 1: "above half way" if gap.sticky else "exactly half way"}[gap.guard]
    evidence = f"guard {gap.guard}, sticky {gap.sticky}, {where}"
    if cast.rounding is Rounding.STOCHASTIC and gap.position:
        n, chances = cast.random_bits, outward_chances(gap, cast)
        evidence += f"; {chances} of 2^{n} random words go outward, a share of {float(Fraction(chances, 1 << n)):.6g}"
    return f"{evidence}: {told.rule}" if gap.position else told.rule
