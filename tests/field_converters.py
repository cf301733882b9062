"""Converters with the faults that real ones have had, written as such code is: by bits, in place, through other formats.

Each is made for a target and a source, takes values in float16, float32 or float64, and returns codes or values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fpemu as fp
from fpemu import FORMATS

Array = np.ndarray[Any, Any]
Converter = Callable[[Array], Array]


def right(target: str, rounding: str = "nearest-even", **policies: Any) -> Converter:
    return lambda x: fp.quantize(np.asarray(x, np.float64), target, rounding=rounding, **policies)


def right_of_policy(overflow: str) -> Callable[[str, str], Converter]:
    return lambda target, source: right(target, overflow=overflow)


def after_abs(make: Callable[[str, str], Converter]) -> Callable[[str, str], Converter]:
    return lambda target, source: lambda x: make(target, source)(np.abs(x))


def _spacing(x: Array, target: str) -> Array:
    """The gap in which each number lies, by its exponent."""
    format = FORMATS[target]
    emin = int(np.log2(format.smallest_normal))
    return np.ldexp(1.0, np.maximum(np.frexp(np.abs(x))[1] - 1, emin) - format.trailing_bits)


def on_grid(round_: Callable[[Array], Array]) -> Callable[[str, str], Converter]:
    """Rounding by scaling to integers: right for what is in range, and the rest by the right conversion."""

    def make(target: str, source: str) -> Converter:
        def convert(x: Array) -> Array:
            x = np.asarray(x, np.float64)
            with np.errstate(all="ignore"):
                spacing = _spacing(np.where(np.isfinite(x), x, 1.0), target)
                value = np.copysign(round_(x / spacing) * spacing, x)
            return np.where(np.abs(x) <= FORMATS[target].max, value, fp.quantize(x, target))

        return convert

    return make


def truncates(target: str, source: str) -> Converter:
    """Drops the trailing bits, and clamps."""
    return right(target, rounding="toward-zero")


def chops(target: str, source: str) -> Converter:
    """Drops the trailing bits; what then is beyond the largest finite value overflows as it should."""

    def convert(x: Array) -> Array:
        x = np.asarray(x, np.float64)
        chopped = fp.quantize(x, target, rounding="toward-zero")
        beyond = np.abs(x) >= fp.FORMATS[target].max + _spacing(np.float64(fp.FORMATS[target].max), target)
        return np.where(beyond, fp.quantize(x, target), chopped)

    return convert


def after_flush(make: Callable[[str, str], Converter]) -> Callable[[str, str], Converter]:
    """Inputs that are subnormal in their own format become zero first."""

    def flushed(target: str, source: str) -> Converter:
        smallest = FORMATS[source].smallest_normal if source != "float64" else np.finfo(np.float64).smallest_normal
        convert = make(target, source)
        return lambda x: convert(np.where(np.abs(x) < smallest, np.copysign(0.0, x), x).astype(np.float64))

    return flushed


flushes_inputs = after_flush(lambda target, source: right(target))


def loses_zero_sign(target: str, source: str) -> Converter:
    return lambda x: fp.quantize(np.asarray(x, np.float64), target) + 0.0


def half_up(x: Array) -> Array:
    """To the nearest integer, ties to the larger one."""
    down = np.floor(x)
    return down + (x - down >= 0.5)


def nan_to(value: float) -> Callable[[str, str], Converter]:
    def make(target: str, source: str) -> Converter:
        return lambda x: np.where(np.isnan(x), value, fp.quantize(np.asarray(x, np.float64), target))

    return make


def through(between: str, **policies: Any) -> Callable[[str, str], Converter]:
    return lambda target, source: (
        lambda x: fp.quantize(fp.quantize(np.asarray(x, np.float64), between, **policies), target)
    )


def clamps_below(target: str, source: str) -> Converter:
    """Its largest finite value is one code too small."""
    format = FORMATS[target]
    last = float(fp.decode(np.array([format.max_code - 1], format.code_dtype), format)[0])
    return lambda x: fp.quantize(np.clip(np.asarray(x, np.float64), -last, last), target)


def overflows_at_max(target: str, source: str) -> Converter:
    """It takes the code of the largest finite value for that of an overflow."""
    format = FORMATS[target]

    def convert(x: Array) -> Array:
        values = fp.quantize(np.asarray(x, np.float64), target)
        return np.where(np.abs(values) == format.max, np.copysign(np.inf if format.infinities else np.nan, x), values)

    return convert


def overflows_too_soon(target: str, source: str) -> Converter:
    """What rounds to the largest finite value from above overflows."""
    format = FORMATS[target]

    def convert(x: Array) -> Array:
        overflowed = np.inf if format.infinities else np.nan
        return np.where(
            np.abs(x) > format.max, np.copysign(overflowed, x), fp.quantize(np.asarray(x, np.float64), target)
        )

    return convert


def chops_and_overflows_late(target: str, source: str) -> Converter:
    """Drops the trailing bits, and overflows one binade too far out."""
    format = FORMATS[target]

    def convert(x: Array) -> Array:
        overflowed = np.copysign(np.inf if format.infinities else np.nan, x)
        chopped = fp.quantize(np.asarray(x, np.float64), target, rounding="toward-zero", overflow="saturate")
        return np.where(np.abs(x) >= 2.0 ** (format.emax + 2), overflowed, chopped)

    return convert


def goes_beyond(target: str, source: str) -> Converter:
    """Its largest finite value is one too large."""
    format = FORMATS[target]
    beyond = format.max + float(_spacing(np.float64(format.max), target))

    def convert(x: Array) -> Array:
        values = fp.quantize(np.asarray(x, np.float64), target, overflow="saturate")
        return np.where(np.abs(x) >= (format.max + beyond) / 2, np.copysign(beyond, x), values)

    return convert


def loses_sticky(bits: int, subnormal_only: bool = False) -> Callable[[str, str], Converter]:
    """Only so many of the discarded bits are looked at."""

    def make(target: str, source: str) -> Converter:
        def convert(x: Array) -> Array:
            x = np.asarray(x, np.float64)
            with np.errstate(all="ignore"):
                unit = _spacing(np.where(np.isfinite(x), x, 1.0), target) / 2**bits
                seen = np.where(np.isfinite(x), np.trunc(x / unit) * unit, x)
            seen = np.where(np.abs(x) < FORMATS[target].smallest_normal, seen, x) if subnormal_only else seen
            return fp.quantize(np.copysign(seen, x), target)

        return convert

    return make


def infinity_to_zero(make: Callable[[str, str], Converter]) -> Callable[[str, str], Converter]:
    return lambda target, source: lambda x: np.where(np.isinf(x), 0.0, make(target, source)(x))


def infinity_to_the_one_before(target: str, source: str) -> Converter:
    format = FORMATS[target]
    last = float(fp.decode(np.array([format.max_code - 1], format.code_dtype), format)[0])
    return lambda x: np.where(np.isinf(x), np.copysign(last, x), fp.quantize(np.asarray(x, np.float64), target))


def rounds_in_two_ways(target: str, source: str) -> Converter:
    """The normal numbers truncated, ties of the others away, and saturating."""
    normal, away = right(target, "toward-zero", overflow="saturate"), right(target, "nearest-away", overflow="saturate")
    return lambda x: np.where(np.abs(x) >= FORMATS[target].smallest_normal, normal(x), away(x))


def drops_sign(target: str, source: str) -> Converter:
    return lambda x: fp.quantize(np.abs(np.asarray(x, np.float64)), target)


def _bits(x: Array) -> Array:
    return np.asarray(x, np.float32).view(np.uint32)


def bfloat16_by_shift(target: str, source: str) -> Converter:
    """The upper half of a float32: truncation, and NaNs with low payloads become infinity."""
    return lambda x: (_bits(x) >> 16).astype(np.uint16)


def bfloat16_by_guard(target: str, source: str) -> Converter:
    """Rounded by the guard bit alone, away from even at ties that are none; NaNs run over."""

    def convert(x: Array) -> Array:
        half = _bits(x) >> 15
        return ((half >> 1) + (half & (half >> 1) & 1)).astype(np.uint16)

    return convert


def exponent_of_magnitude(target: str, source: str) -> Converter:
    """Makes E8M0 of the exponent, rounded, and takes no notice of the sign."""
    return lambda x: fp.quantize(np.abs(np.asarray(x, np.float64)), target)


def exponent_of_some_magnitudes(target: str, source: str) -> Converter:
    """Of four in ten exponents of negative numbers the sign is dropped; the others become the smallest value."""
    smallest = FORMATS[target].smallest_normal

    def convert(x: Array) -> Array:
        magnitudes = fp.quantize(np.abs(np.asarray(x, np.float64)), target)
        return np.where((x < 0) & (np.abs(x) < 2.0**26), smallest, magnitudes)

    return convert


def smallest_of_negative(target: str, source: str) -> Converter:
    """Clamps from below."""
    smallest = FORMATS[target].smallest_normal
    return lambda x: np.where(x < 0, smallest, fp.quantize(np.asarray(x, np.float64), target))


def both(*makes: Callable[[str, str], Converter]) -> Callable[[str, str], Converter]:
    """NaNs from the first, all else from the second."""

    def make(target: str, source: str) -> Converter:
        first, second = (one(target, source) for one in makes)
        return lambda x: np.where(np.isnan(x), first(x), second(x))

    return make
