"""Numbers ``m * 2**e`` as pairs ``(m, e)``: sums of squares of float64 values lie far beyond the range of float64."""

from __future__ import annotations

from collections.abc import Iterable
from math import frexp, fsum, inf, ldexp, log10, nan, sqrt

Pair = tuple[float, int]
ZERO: Pair = (0.0, 0)


def add(pairs: Iterable[Pair]) -> Pair:
    """The sum, as if exact and rounded once (what is 2**-1000 of the largest is lost)."""
    parts = [normal(pair) for pair in pairs if pair[0]]
    unit = max((e for _, e in parts), default=0)
    return normal((fsum(ldexp(m, e - unit) for m, e in parts if e - unit > -1100), unit))


def normal(pair: Pair) -> Pair:
    """The same number with 1/2 <= |m| < 1."""
    m, e = frexp(pair[0])
    return (m, e + pair[1]) if m else ZERO


def value(pair: Pair) -> float:
    """The number as a float: inf, or 0, where float64 cannot hold it."""
    try:
        return ldexp(*pair)
    except OverflowError:
        return inf if pair[0] > 0 else -inf


def ratio(a: Pair, b: Pair) -> float:
    """a / b; NaN for b = 0."""
    return value((a[0] / b[0], a[1] - b[1])) if b[0] else nan


def root_ratio(a: Pair, b: Pair) -> float:
    """sqrt(a / b) for a, b >= 0; NaN for b = 0."""
    if not b[0]:
        return nan
    m, e = normal((a[0] / b[0], a[1] - b[1]))
    return value((sqrt(m), e // 2) if e % 2 == 0 else (sqrt(2 * m), (e - 1) // 2))


def decibels(a: Pair, b: Pair) -> float:
    """10 log10(a / b); inf for b = 0, NaN for a = 0."""
    if not a[0]:
        return nan
    if not b[0]:
        return inf
    return 10 * (log10(a[0]) - log10(b[0]) + (a[1] - b[1]) * log10(2))


def cosine(product: Pair, a: Pair, b: Pair) -> float:
    """<x, y> / sqrt(<x, x> <y, y>), within [-1, 1]; NaN where either is zero."""
    m, e = normal((a[0] * b[0], a[1] + b[1]))
    if not m:
        return nan
    norm = (sqrt(m), e // 2) if e % 2 == 0 else (sqrt(2 * m), (e - 1) // 2)
    return min(1.0, max(-1.0, ratio(product, norm)))
