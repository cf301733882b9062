"""What a cast loses, by the definition: one element after another, in rationals.

Slow and plain, the judge of ``fpemu.stats`` and ``fpemu.histogram``, of which nothing is used here.  Codes are those
of ``fpemu.encode`` and values those of ``fpemu.reference``; what is counted or summed is an exact rational until it
becomes the nearest float.  ``large_row`` is the same for tensors too large for that: NumPy and ``math.fsum``.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

import fpemu as fp
from fpemu import Cast, FloatFormat, Overflow, Rounding, Subnormals, reference
from fpemu.policies import as_cast
from fpemu.reference import floor_log2, power_of_two
from fpemu.tensors import own_format

Array = np.ndarray[Any, Any]
ZERO = Fraction(0)
KINDS = ("new_zero", "new_subnormal", "saturated", "nonfinite_out")


# ---- rationals to floats ---------------------------------------------------------------------------------------------
def nearest_float(exact: Fraction) -> float:
    """The nearest float64, infinity beyond the range."""
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def ratio(part: Fraction, whole: Fraction | int) -> float:
    """part / whole, NaN where the whole is nothing."""
    return nearest_float(part / whole) if whole else math.nan


def log10(exact: Fraction) -> float:
    """Of a positive rational of any size; good to 1e-15 of the result or absolutely, whichever is larger."""
    if Fraction(1, 2) <= exact <= 2:
        return math.log1p(float(exact - 1)) / math.log(10)
    return math.log10(exact.numerator) - math.log10(exact.denominator)


def square_root(exact: Fraction) -> Fraction:
    """To 60 significant bits."""
    shift = 2 * max(0, 64 - floor_log2(exact) // 2)
    return Fraction(math.isqrt(math.floor(exact * power_of_two(shift))), 1 << (shift // 2))


# ---- the inputs ------------------------------------------------------------------------------------------------------
def values_of(x: Array) -> list[reference.Real]:
    """The elements in C order, exactly; what is no rational (-0.0 too) as a float."""
    format = own_format(x.dtype)
    if format is not None:
        return [reference.value(int(code), format) for code in x.reshape(-1).view(f"u{x.itemsize}")]
    return [reference.as_real(v) for v in x.reshape(-1).astype(np.float64).tolist()]


def source_emin(x: Array) -> int | None:
    """Exponent of the smallest normal number of a dtype; None where it has no subnormals."""
    format = own_format(x.dtype)
    if format is not None:
        return reference.smallest_normal_exponent(format) if format.subnormals else None
    return {2: -14, 4: -126, 8: -1022}[x.dtype.itemsize]


def is_below_normal(value: Fraction, x: Array) -> bool:
    """Whether a non-zero value is subnormal in the dtype of ``x``."""
    emin = source_emin(x)
    return emin is not None and abs(value) < power_of_two(emin)


def scaled_value(x: Fraction, scale: float) -> Fraction:
    """x * scale: exact where the scale is a power of two, else x times its significand, rounded to float64 once."""
    significand, exponent = math.frexp(scale)
    if not x or significand == 0.5:
        return x * Fraction(scale)
    product = x * Fraction(significand)
    spacing = power_of_two(max(floor_log2(abs(product)) - 52, -1074))
    return round(product / spacing) * spacing * power_of_two(exponent)  # round() of a Fraction: ties to even


def random_word(seed: int, index: int, cast: Cast) -> int | None:
    """The first bits of splitmix64's finaliser over key + index * golden, from its published constants."""

    def finalise(z: int) -> int:
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    if cast.rounding is not Rounding.STOCHASTIC:
        return None
    golden = 0x9E3779B97F4A7C15
    key = finalise((seed + golden) % 2**64)
    return finalise((key + index * golden) % 2**64) >> (64 - cast.random_bits)


@dataclass(frozen=True)
class Element:
    """A finite element, times the scale, and what its cast gave."""

    x: Fraction  #: as given
    scaled: Fraction
    operand: reference.Real  #: what is rounded: ``scaled``, or a zero of its sign where that is flushed
    word: int | None  #: its random word
    code: int
    q: reference.Real  #: the result, in units of ``scaled``


def elements(x: Array, cast: Cast, scale: float = 1.0, seed: int = 0, offset: int = 0) -> list[Element]:
    """The finite elements, cast: by fp.encode where x is cast as it is, else by the definition of its codes."""
    values = values_of(x)
    as_it_is = scale == 1.0 and all(math.isfinite(value) for value in values)
    codes = np.asarray(fp.encode(x, cast, seed=seed, offset=offset)).reshape(-1) if as_it_is else None
    found = []
    for index, value in enumerate(values):
        if not math.isfinite(value):
            continue
        exact, word = Fraction(value), random_word(seed, offset + index, cast)
        scaled = scaled_value(exact, scale)
        operand = scaled if exact else value
        if cast.subnormals is Subnormals.FLUSH_INPUT and is_below_normal(scaled, x):
            operand = math.copysign(0.0, value)
        code = reference.encode(operand, _flushed(cast), word) if codes is None else int(codes[index])
        found.append(Element(exact, scaled, operand, word, code, reference.value(code, cast.format)))
    return found


def _flushed(cast: Cast) -> Cast:
    """The cast of operands that are flushed already."""
    return replace(cast, subnormals=Subnormals.KEEP) if cast.subnormals is Subnormals.FLUSH_INPUT else cast


# ---- what becomes of an element --------------------------------------------------------------------------------------
def unbounded(format: FloatFormat) -> FloatFormat:
    """The format with its binades going on above the largest finite value, and below zero if it was unsigned.

    One more bit of exponent is enough: ``saturate`` keeps what is beyond that beyond the original maximum.
    """
    signed = format.signed or format.subnormals
    bits = format.bits + 1 + (signed and not format.signed)
    facts: dict[str, Any] = {"bits": bits, "signed": signed, "infinities": False, "high_nans": 0, "negative_zero": True}
    return replace(format, name="unbounded", **facts)


def is_saturated(element: Element, cast: Cast) -> bool:
    """Whether the value rounds beyond the largest finite one or below the lowest, before any overflow policy."""
    format, operand = cast.format, element.operand
    if not format.subnormals and element.x < 0:
        return True
    largest = reference.rung(reference.last_rung(format), format)
    if format.bits == 32:  # no room for another bit
        return _saturates_32(abs(Fraction(operand)), cast, largest)
    wide = replace(_flushed(cast), format=unbounded(format), overflow=Overflow.SATURATE, nan_code=None)
    value = reference.value(reference.encode(operand, wide, element.word), wide.format)
    return value > largest or value < (-largest if format.signed else reference.rung(0, format))


def _saturates_32(magnitude: Fraction, cast: Cast, largest: Fraction) -> bool:
    gap = largest - reference.rung(reference.last_rung(cast.format) - 1, cast.format)
    assert cast.rounding in (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY, Rounding.TOWARD_ZERO)
    assert reference.last_rung(cast.format) % 2 == 1  # so a tie goes up
    return magnitude >= largest + (gap if cast.rounding is Rounding.TOWARD_ZERO else gap / 2)


def is_within(q: reference.Real, bound: Fraction) -> bool:
    """Whether a result is not zero and its magnitude below a bound."""
    return q != 0 and -bound < q < bound


def kinds_of(element: Element, x: Array, cast: Cast) -> set[str]:
    """What became of a non-zero."""
    smallest = power_of_two(reference.smallest_normal_exponent(cast.format))
    happened = {
        "new_zero": element.q == 0,
        "new_subnormal": is_within(element.q, smallest) and not is_below_normal(element.x, x),
        "saturated": is_saturated(element, cast),
        "nonfinite_out": not math.isfinite(element.q),
    }
    return {kind for kind, it_did in happened.items() if it_did}


# ---- one row ---------------------------------------------------------------------------------------------------------
def row(x: Array, cast: Any, scale: float = 1.0, seed: int = 0, offset: int = 0) -> dict[str, Any]:
    """Every attribute of CastLoss, and under ``sizes`` what float sums may be wrong relative to."""
    cast = as_cast(cast)
    whole, finite = values_of(x), elements(x, cast, scale, seed, offset)
    nonzero = [e for e in finite if e.x]
    nonfinite_in = len(whole) - len(finite)
    found: dict[str, Any] = {
        "format": cast.format.name,
        "rounding": cast.rounding.value,
        "overflow": cast.overflow.value,
        "subnormals": cast.subnormals.value,
        "scale": scale,
        "size": len(whole),
        "zeros": len(finite) - len(nonzero),
        "zeros_of_size": ratio(Fraction(len(finite) - len(nonzero)), len(whole)),
        "nonzero": len(nonzero),
        "nonfinite_in": nonfinite_in,
        "nonfinite_in_of_size": ratio(Fraction(nonfinite_in), len(whole)),
    }
    kinds = [kinds_of(element, x, cast) for element in nonzero]
    energy = sum((e.scaled**2 for e in nonzero), ZERO)
    for kind in KINDS:
        of_kind = [e for e, its in zip(nonzero, kinds, strict=True) if kind in its]
        found[kind] = len(of_kind)
        found[f"{kind}_of_nonzero"] = ratio(Fraction(len(of_kind)), len(nonzero))
        found[f"{kind}_of_energy"] = ratio(sum((e.scaled**2 for e in of_kind), ZERO), energy)
    found |= _moments(finite, nonzero, energy, scale)
    found["codes_used"] = len({e.code for e in finite}) if cast.format.bits <= 8 else None
    return found


def _moments(finite: list[Element], nonzero: list[Element], energy: Fraction, scale: float) -> dict[str, Any]:
    """Moments over the finite elements, zeros included; ``error_size`` is the mean of |q - x|."""
    if not all(math.isfinite(e.q) for e in finite):
        return {
            "sqnr_db": -math.inf, "cosine": math.nan, "gain": math.nan, "mean_error": math.nan,
            "max_relative_error": math.inf, "error_size": math.nan,
        }  # fmt: skip
    pairs = [(e.scaled, Fraction(e.q)) for e in finite]
    noise = sum(((q - y) ** 2 for y, q in pairs), ZERO)
    product = sum((q * y for y, q in pairs), ZERO)
    result = sum((q * q for _, q in pairs), ZERO)
    error = sum((q - y for y, q in pairs), ZERO) / Fraction(scale)
    error_size = sum((abs(q - y) for y, q in pairs), ZERO) / Fraction(scale)
    worst = max((abs(Fraction(e.q) - e.scaled) / abs(e.scaled) for e in nonzero), default=None)
    sqnr = (10 * log10(energy / noise) if noise else math.inf) if energy else math.nan
    cosine = math.nan
    if energy and result:
        cosine = nearest_float(abs(product) / square_root(energy * result)) * (1 if product >= 0 else -1)
    return {
        "sqnr_db": sqnr,
        "cosine": cosine,
        "gain": ratio(product, energy),
        "mean_error": ratio(error, len(finite)),
        "max_relative_error": math.nan if worst is None else nearest_float(worst),
        "error_size": ratio(error_size, len(finite)),
    }


def large_row(x: Array, cast: Any) -> dict[str, Any]:
    """``row`` of a float32 tensor of finite values, to 1e-15: products of float32 values are exact in float64."""
    cast = as_cast(cast)
    codes = fp.encode(x, cast)
    y, q = x.astype(np.float64), fp.decode(codes, cast.format).astype(np.float64)
    nonzero = y != 0
    energy = math.fsum(y * y)
    tiny = power_of_two(reference.smallest_normal_exponent(cast.format))
    wide = unbounded(cast.format)
    rounded = fp.decode(fp.encode(x, replace(cast, format=wide, overflow=Overflow.SATURATE, nan_code=None)), wide)
    masks = {
        "new_zero": nonzero & (q == 0),
        "new_subnormal": (q != 0) & (np.abs(q) < float(tiny)) & (np.abs(y) >= 2.0**-126),
        "saturated": np.abs(rounded) > cast.format.max,
        "nonfinite_out": nonzero & ~np.isfinite(q),
    }
    count = int(nonzero.sum())
    found: dict[str, Any] = {"size": x.size, "zeros": x.size - count, "nonzero": count, "nonfinite_in": 0}
    for kind, mask in masks.items():
        found[kind] = int(mask.sum())
        found[f"{kind}_of_nonzero"] = found[kind] / count
        found[f"{kind}_of_energy"] = math.fsum(y[mask] ** 2) / energy
    if np.isfinite(q).all():
        noise, product, result = math.fsum((q - y) ** 2), math.fsum(q * y), math.fsum(q * q)
        found["sqnr_db"] = 10 * math.log10(energy / noise) if noise else math.inf
        found["gain"] = product / energy
        found["cosine"] = product / math.sqrt(energy * result) if result else math.nan
        found["mean_error"] = math.fsum(q - y) / x.size
        found["error_size"] = math.fsum(np.abs(q - y)) / x.size
        found["max_relative_error"] = float((np.abs(q - y)[nonzero] / np.abs(y)[nonzero]).max())
    if cast.format.bits <= 8:
        found["codes_used"] = int(np.unique(codes).size)
    return found


# ---- the histogram ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Bins:
    """The exponent histogram of a tensor, by exact comparison."""

    counts: Counter[int]
    powers: Counter[int]
    energies: dict[int, Fraction]
    zeros: int
    nonfinite: int
    amax: Fraction

    @property
    def energy(self) -> Fraction:
        return sum(self.energies.values(), ZERO)


def histogram(x: Array) -> Bins:
    """Bin e holds 2**e <= |x| < 2**(e+1)."""
    values = values_of(x)
    finite = [abs(Fraction(v)) for v in values if math.isfinite(v)]
    binades = [(floor_log2(v), v) for v in finite if v]
    energies: dict[int, Fraction] = {}
    for e, v in binades:
        energies[e] = energies.get(e, ZERO) + v * v
    return Bins(
        counts=Counter(e for e, _ in binades),
        powers=Counter(e for e, v in binades if v == power_of_two(e)),
        energies=energies,
        zeros=sum(v == 0 for v in finite),
        nonfinite=len(values) - len(finite),
        amax=max(finite, default=ZERO),
    )


@dataclass(frozen=True)
class Fate:
    """What one scale makes of a tensor: counts of the non-zeros and the energy lost, by casting every element."""

    lost: int
    lost_energy: Fraction  #: in units of x
    subnormal: int
    saturated: int


def fate(x: Array, format: FloatFormat | str, k: int, rounding: Rounding | str = Rounding.NEAREST_EVEN) -> Fate:
    """Cast x * 2**k, exactly scaled, and count."""
    cast = Cast(format, rounding)
    smallest = power_of_two(reference.smallest_normal_exponent(cast.format))
    lost = subnormal = saturated = 0
    lost_energy = ZERO
    for value in values_of(x):
        if not math.isfinite(value) or value == 0:
            continue
        scaled = Fraction(value) * power_of_two(k)
        code = reference.encode(scaled, cast)
        q = reference.value(code, cast.format)
        lost += q == 0
        lost_energy += Fraction(value) ** 2 if q == 0 else 0
        subnormal += is_within(q, smallest)
        saturated += is_saturated(Element(Fraction(value), scaled, scaled, None, code, q), cast)
    return Fate(lost, lost_energy, subnormal, saturated)
