"""IEEE P3109 as its report v4.0 writes it, table by table, in exact rationals; it takes nothing from the library.

A datum is a Fraction, or one of the floats nan, inf and -inf.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import NamedTuple

Datum = Fraction | float
NAN, INF = math.nan, math.inf

# The report's names, and the library's.
SATURATIONS = {"SatFinite": "saturate", "SatPropagate": "p3109-propagate", "SatNone": "p3109"}
ROUNDINGS = {
    "NearestTiesToEven": "nearest-even", "NearestTiesToAway": "nearest-away", "TowardPositive": "up",
    "TowardNegative": "down", "TowardZero": "toward-zero", "ToOdd": "to-odd",
}  # fmt: skip
STOCHASTIC = ("StochasticA", "StochasticB", "StochasticC")


class Binary(NamedTuple):
    """``Binary{K}p{P}{s,u}{e,f}``."""

    K: int
    P: int
    signed: bool
    extended: bool

    @property
    def name(self) -> str:
        return f"binary{self.K}p{self.P}{'s' if self.signed else 'u'}{'e' if self.extended else 'f'}"

    @property
    def B(self) -> int:
        return 1 << (self.K - self.P - 1 if self.signed else self.K - self.P)


def family(*widths: int) -> list[Binary]:
    """Every format of these widths: P up to K, or K - 1 beside a sign."""
    return [
        Binary(K, P, signed, extended)
        for K in widths
        for signed in (True, False)
        for P in range(1, K + (not signed))
        for extended in (True, False)
    ]


def power(exponent: int) -> Fraction:
    return Fraction(2) ** exponent


# ---- 4.7.2 and 4.7.6: codes --------------------------------------------------------------------------------------------
@cache
def decoded(f: Binary) -> tuple[Datum, ...]:
    """What every code means."""
    return tuple(_decode(f, x) for x in range(1 << f.K))


def _decode(f: Binary, x: int) -> Datum:
    half, whole = 1 << (f.K - 1), 1 << f.K
    if x == (half if f.signed else whole - 1):
        return NAN
    if f.extended and x == (half - 1 if f.signed else whole - 2):
        return INF
    if f.signed and x > half:
        return -_decode(f, x - half)
    biased, trailing = divmod(x, 1 << (f.P - 1))
    if biased == 0:
        return trailing * power(1 - f.P) * power(1 - f.B)
    return (1 + trailing * power(1 - f.P)) * power(biased - f.B)


@cache
def codes_of(f: Binary) -> dict[Datum, int]:
    return {X: x for x, X in enumerate(decoded(f)) if X == X}


def encode(f: Binary, Z: Datum) -> int:
    if Z != Z:
        return 1 << (f.K - 1) if f.signed else (1 << f.K) - 1
    return codes_of(f)[Z]  # a KeyError: what is no datum of the format


@cache
def extremes(f: Binary) -> tuple[Fraction, Fraction]:
    """The least and the greatest finite value."""
    finite = [X for X in decoded(f) if isinstance(X, Fraction)]
    return min(finite), max(finite)


# ---- 4.7.4: rounding ---------------------------------------------------------------------------------------------------
def rnite(x: Fraction) -> int:
    below = math.floor(x)
    return below if x < below + Fraction(1, 2) or (x == below + Fraction(1, 2) and below % 2 == 0) else below + 1


# Whether the larger magnitude is taken: of the fraction v, X, whether the code is even, N and R.
AWAY: dict[str, Callable[[Fraction, Fraction, bool, int, int], bool]] = {
    "TowardZero": lambda v, X, even, N, R: False,
    "TowardPositive": lambda v, X, even, N, R: v > 0 and X > 0,
    "TowardNegative": lambda v, X, even, N, R: v > 0 and X < 0,
    "NearestTiesToAway": lambda v, X, even, N, R: 2 * v >= 1,
    "NearestTiesToEven": lambda v, X, even, N, R: 2 * v > 1 or (2 * v == 1 and not even),
    "ToOdd": lambda v, X, even, N, R: v > 0 and even,
    "StochasticA": lambda v, X, even, N, R: math.floor(v * 2**N) + R >= 2**N,
    "StochasticB": lambda v, X, even, N, R: math.floor(v * 2 ** (N + 1)) + 2 * R + 1 >= 2 ** (N + 1),
    "StochasticC": lambda v, X, even, N, R: rnite(v * 2**N) + R >= 2**N,
}


def floor_log2(x: Fraction) -> int:
    e = x.numerator.bit_length() - x.denominator.bit_length()
    return e if power(e) <= x else e - 1


def round_to_precision(f: Binary, mode: str, X: Datum, N: int = 0, R: int = 0) -> Datum:
    if not isinstance(X, Fraction) or X == 0:
        return X
    Q = max(floor_log2(abs(X)), 1 - f.B) - f.P + 1
    real = abs(X) * power(-Q)
    S = math.floor(real)
    even = S % 2 == 0 if f.P > 1 else S == 0 or (Q + f.B) % 2 == 0
    S += AWAY[mode](real - S, X, even, N, R)
    return (1 if X > 0 else -1) * S * power(Q)


# ---- 4.7.5: saturation -------------------------------------------------------------------------------------------------
# In order, the first that matches: mode, roundings (None: any), which X, signed (None: either), extended, result.
SATURATE = [
    ("SatFinite", None, "+inf", None, None, "hi"),
    ("SatFinite", None, "-inf", None, None, "lo"),
    ("SatFinite", None, "X < lo", None, None, "lo"),
    ("SatFinite", None, "X > hi", None, None, "hi"),
    ("SatPropagate", None, "+inf", None, True, "+inf"),
    ("SatPropagate", None, "+inf", None, None, "hi"),
    ("SatPropagate", None, "-inf", True, True, "-inf"),
    ("SatPropagate", None, "-inf", None, None, "lo"),
    ("SatPropagate", None, "X < lo", None, None, "lo"),
    ("SatPropagate", None, "X > hi", None, None, "hi"),
    ("SatNone", None, "+inf", None, True, "+inf"),
    ("SatNone", None, "+inf", None, None, "hi"),
    ("SatNone", None, "-inf", True, True, "-inf"),
    ("SatNone", None, "-inf", False, None, "NaN"),
    ("SatNone", None, "-inf", None, None, "lo"),
    ("SatNone", ("ToOdd",), "X > hi", False, True, "hi"),
    ("SatNone", ("TowardZero", "TowardNegative"), "X > hi", None, None, "hi"),
    ("SatNone", ("TowardZero", "TowardPositive"), "X < lo", None, None, "lo"),
    ("SatNone", None, "X < lo", True, True, "-inf"),
    ("SatNone", None, "X < lo", False, None, "NaN"),
    ("SatNone", None, "X < lo", None, None, "lo"),
    ("SatNone", None, "X > hi", None, True, "+inf"),
    ("SatNone", None, "X > hi", None, None, "hi"),
]


def saturate(f: Binary, saturation: str, mode: str, X: Datum) -> Datum:
    lo, hi = extremes(f)
    if X != X or lo <= X <= hi:
        return X
    which = {INF: "+inf", -INF: "-inf"}.get(X) or ("X > hi" if hi < X else "X < lo")
    for of, modes, when, signed, extended, result in SATURATE:
        if (of, when) != (saturation, which) or (modes is not None and mode not in modes):
            continue
        if signed in (None, f.signed) and extended in (None, f.extended):
            return {"lo": lo, "hi": hi, "+inf": INF, "-inf": -INF, "NaN": NAN}[result]
    raise AssertionError("the table is complete")


def project(f: Binary, mode: str, saturation: str, X: Datum, N: int = 0, R: int = 0) -> int:
    """4.7.3."""
    return encode(f, saturate(f, saturation, mode, round_to_precision(f, mode, X, N, R)))


# ---- 4.10: arithmetic --------------------------------------------------------------------------------------------------
def sign(X: Datum) -> int:
    return (X > 0) - (X < 0)


def infinite(X: Datum) -> bool:
    return X in (INF, -INF)


def add(X: Datum, Y: Datum) -> Datum:
    """4.10.3."""
    if X != X or Y != Y or (infinite(X) and infinite(Y) and X != Y):
        return NAN
    return X if infinite(X) else Y if infinite(Y) else X + Y


def subtract(X: Datum, Y: Datum) -> Datum:
    """4.10.3."""
    return add(X, -Y)


def multiply(X: Datum, Y: Datum) -> Datum:
    """4.10.4."""
    if X != X or Y != Y or (infinite(X) and Y == 0) or (X == 0 and infinite(Y)):
        return NAN
    return sign(X) * sign(Y) * INF if infinite(X) or infinite(Y) else X * Y


def divide(X: Datum, Y: Datum) -> Datum:
    """4.10.5."""
    if X != X or Y != Y or (infinite(X) and infinite(Y)) or Y == 0:
        return NAN
    if infinite(X):
        return sign(X) * sign(Y) * INF
    return Fraction(0) if infinite(Y) else X / Y


def fma(X: Datum, Y: Datum, Z: Datum) -> Datum:
    """4.10.6: add(multiply(X, Y), Z), to which the report calls its table equivalent."""
    return add(multiply(X, Y), Z)


def minimum(X: Datum, Y: Datum) -> Datum:
    """4.11.1."""
    return NAN if X != X or Y != Y else min(X, Y)


def maximum(X: Datum, Y: Datum) -> Datum:
    """4.11.1."""
    return NAN if X != X or Y != Y else max(X, Y)


def minimum_number(X: Datum, Y: Datum) -> Datum:
    """4.11.1."""
    return Y if X != X else X if Y != Y else min(X, Y)


def maximum_number(X: Datum, Y: Datum) -> Datum:
    """4.11.1."""
    return Y if X != X else X if Y != Y else max(X, Y)


EXTREMES: dict[str, Callable[..., Datum]] = {
    "minimum": minimum, "maximum": maximum, "minimum_number": minimum_number, "maximum_number": maximum_number,
}  # fmt: skip
SIGNS: dict[str, Callable[..., Datum]] = {"negate": lambda X: -X, "absolute": abs}  # 4.10.1
OPERATIONS: dict[str, tuple[Callable[..., Datum], int]] = {
    "add": (add, 2), "subtract": (subtract, 2), "multiply": (multiply, 2), "divide": (divide, 2), "fma": (fma, 3),
}  # fmt: skip
