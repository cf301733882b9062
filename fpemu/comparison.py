"""``errors``: how far an array lies from a reference, in one record that can be merged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import reduce
from math import inf, isnan, nan
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu import pairs
from fpemu.arrays import bits_of, decode
from fpemu.formats import FloatFormat, FormatName, as_format
from fpemu.kernels.spec import Lane
from fpemu.moments import Moments
from fpemu.pairs import Pair
from fpemu.targets.environment import in_default_environment
from fpemu.targets.walk import boxes, flat

Wide = NDArray[np.float64]
CHUNK = 1 << 16  # elements looked at together: the temporaries stay in the cache, whatever the size of the arrays


class Sums(NamedTuple):
    """Over the elements at which both are finite: sums of squares and products, and of the errors mean and spread.

    spread: sum of (error - mean)^2.  (Mean and spread, not a sum of errors: what is constant is seen to be constant.)
    """

    elements: int
    signal: Pair = pairs.ZERO
    result: Pair = pairs.ZERO
    product: Pair = pairs.ZERO
    noise: Pair = pairs.ZERO
    mean: Pair = pairs.ZERO
    spread: Pair = pairs.ZERO

    def merge(self, other: Sums) -> Sums:
        """Both parts together (mean and spread as Chan, Golub and LeVeque merge them)."""
        if not (self.elements and other.elements):
            return self if self.elements else other
        count = self.elements + other.elements
        signal, result, product, noise = (pairs.add([a, b]) for a, b in zip(self[1:5], other[1:5], strict=True))
        apart = pairs.add([other.mean, (-self.mean[0], self.mean[1])])
        mean = pairs.add([self.mean, (apart[0] * other.elements / count, apart[1])])
        between = (apart[0] * apart[0] * (self.elements / count) * other.elements, 2 * apart[1])
        return Sums(count, signal, result, product, noise, mean, pairs.add([self.spread, other.spread, between]))


@in_default_environment
@dataclass(frozen=True)
class Errors:
    """How far x lies from a reference r; ``fpemu.stats.errors`` makes it.

    An element takes part where r is finite; where r is an infinity or a NaN it is only counted.  One x that is not finite
    where r is spoils the figures: sqnr_db is then -inf, relative_rms and largest_ulp inf, the others NaN.

    Attributes
    ----------
    elements: of the arrays.
    compared: elements that take part: all but ``reference_nan`` and ``reference_infinite``.
    reference_nan, reference_infinite: elements at which r is a NaN, an infinity.
    specials_lost: of these, at how many x is not the same (a NaN for a NaN, the infinity of the same sign).
    nan, infinite: elements that take part at which x is a NaN, an infinity.
    sqnr_db: 10 log10(sum r^2 / sum (x-r)^2), in dB; inf where x = r everywhere, NaN where r is zero everywhere.
    relative_rms: sqrt(sum (x-r)^2 / sum r^2), no unit: 10^(-sqnr_db / 20).
    bias: mean of x - r over the elements that take part, zeros included, with its sign and in units of r; NaN of none.
    bias_z: bias over its standard error s / sqrt(n), s^2 = sum (x-r-bias)^2 / (n-1): how many standard errors it lies from
        zero, if errors are independent.  NaN for n < 2 and where x = r everywhere, +-inf where all errors are one number.
    cosine: sum r x / sqrt(sum r^2 sum x^2), within [-1, 1]; NaN where r or x is zero everywhere.
    gain: sum r x / sum r^2, no unit: the projection of x on r, below 1 where x is shrunk; NaN where r is zero everywhere.
    largest_ulp: the largest |x-r| in units of the last place of r, in ``ulp_format``; NaN of no elements.  The unit is
        2^(max(floor(log2 |r|), emin) - t), with the format's smallest normal exponent emin and t trailing bits; that of the
        lowest binade for r = 0; r beyond the format's range has the unit its binade would have.  inf beyond float64 (an error of
        1 at r = 0 is 2^1074 ulps of float64).
    ulp_format: name of the format.
    """

    elements: int
    reference_nan: int
    reference_infinite: int
    specials_lost: int
    nan: int
    infinite: int
    largest_ulp: float
    ulp_format: str
    sums: Sums = field(repr=False)

    @property
    def compared(self) -> int:
        """Elements with a finite reference."""
        return self.elements - self.reference_nan - self.reference_infinite

    @property
    def finite(self) -> bool:
        """Whether x is finite wherever the reference is."""
        return not (self.nan or self.infinite)

    @property
    def moments(self) -> Moments:
        """The sums that the figures follow from."""
        sums = self.sums
        error = (sums.mean[0] * sums.elements, sums.mean[1])
        return Moments(sums.elements, sums.signal, sums.result, sums.product, sums.noise, error, self.finite)

    @property
    def sqnr_db(self) -> float:
        """Signal over noise, in dB."""
        return self.moments.sqnr_db

    @property
    def relative_rms(self) -> float:
        """Root mean square of the error over that of the reference."""
        return self.moments.relative_rms

    @property
    def bias(self) -> float:
        """Mean of x - r, in units of r."""
        return pairs.value(self.sums.mean) if self.finite and self.sums.elements else nan

    @property
    def bias_z(self) -> float:
        """Bias over its standard error."""
        n, (mean, e), spread = self.sums.elements, self.sums.mean, self.sums.spread
        if not self.finite or n < 2 or not (mean or spread[0]):
            return nan
        if not spread[0]:
            return inf if mean > 0 else -inf
        size = pairs.root_ratio((mean * mean, 2 * e), (spread[0] / n / (n - 1), spread[1]))
        return size if mean >= 0 else -size

    @property
    def cosine(self) -> float:
        """Of the angle between both."""
        return self.moments.cosine

    @property
    def gain(self) -> float:
        """Projection of x on the reference."""
        return self.moments.gain

    def merge(self, other: Errors) -> Errors:
        """The errors of both pairs of arrays together.

        Counts and largest_ulp are exact, the other figures agree with those of the joined arrays to rounding.
        Raises TypeError for anything else, ValueError where ulps are of different formats.
        """
        if not isinstance(other, Errors):
            raise TypeError(f"merge takes Errors, not {type(other).__name__}")
        if self.ulp_format != other.ulp_format:
            raise ValueError(f"ulps of {self.ulp_format} and of {other.ulp_format} cannot be merged: name one format")
        counted = ("elements", "reference_nan", "reference_infinite", "specials_lost", "nan", "infinite")
        counts = {name: getattr(self, name) + getattr(other, name) for name in counted}
        largest = _larger(self.largest_ulp, other.largest_ulp)
        return replace(self, **counts, largest_ulp=largest, sums=self.sums.merge(other.sums))

    def row(self) -> dict[str, Any]:
        """Every attribute as a dict, for a table."""
        names = (
            "elements", "compared", "reference_nan", "reference_infinite", "specials_lost", "nan", "infinite",
            "sqnr_db", "relative_rms", "bias", "bias_z", "cosine", "gain", "largest_ulp", "ulp_format",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        return f"Errors({', '.join(f'{name}={value!r}' for name, value in self.row().items())})"


@in_default_environment
def errors(reference: ArrayLike, x: ArrayLike, *, format: FormatName | None = None) -> Errors:
    """How far ``x`` lies from ``reference``: SQNR, relative RMS, bias, cosine, gain, largest error in ulps.

    Parameters
    ----------
    reference, x: floating-point values as ``fpemu.encode`` takes them, on the host and of one shape (any, with any
        strides); their dtypes may differ.  Both are taken to float64, exactly; nothing is broadcast.
    format: what ulps are those of; default the dtype of ``reference`` (float64 for a list).  Give the format that ``x`` was
        rounded to for errors in its spacings: at most 1/2 for rounding to nearest within its range.

    Returns
    -------
    Errors: what each figure is, and when it is NaN or infinite, stands there.  Each sum is within 2^-47 of the sum of the
    magnitudes of its terms, whatever their range: sums of squares beyond float64 are held as m * 2^e.

    Raises
    ------
    TypeError: values that are not floating point, masked arrays, arrays on a GPU.
    ValueError: shapes differ; an unknown format.

    Examples
    --------
    >>> import numpy as np
    >>> import fpemu as fp
    >>> x = np.float32([1.0, 1.1, -2.3, 0.0])
    >>> found = fp.errors(x, fp.quantize(x, "e4m3"), format="e4m3")
    >>> round(found.sqnr_db, 2), round(found.bias, 4), round(found.largest_ulp, 3)
    (33.8, 0.0187, 0.2)
    """
    r_bits, r_source = _host(reference, "reference")
    x_bits, x_source = _host(x, "x")
    if r_bits.shape != x_bits.shape:
        raise ValueError(f"reference and x must have one shape, not {r_bits.shape} and {x_bits.shape}")
    ulp = r_source if format is None else as_format(format)
    name = "float64" if isinstance(ulp, Lane) else ulp.name
    chunks = _chunks((r_bits, r_source), (x_bits, x_source))
    return _merged((_compared(r, q, ulp, name) for r, q in chunks), Errors(0, 0, 0, 0, 0, 0, nan, name, Sums(0)))


def _host(values: ArrayLike, what: str) -> tuple[NDArray[Any], FloatFormat | Lane]:
    bits, source = bits_of(values)
    if not isinstance(bits, np.ndarray):
        raise TypeError(f"{what} lies on a GPU: errors() compares arrays on the host, copy it there first")
    return bits, source


def _chunks(*sides: tuple[NDArray[Any], FloatFormat | Lane]) -> Iterator[tuple[Wide, Wide]]:
    """Both arrays as flat float64 values, a piece at a time."""
    for _, index in boxes(sides[0][0].shape, CHUNK):
        r, q = (_wide(flat(bits[index]), source) for bits, source in sides)
        yield r, q


def _wide(bits: NDArray[Any], source: FloatFormat | Lane) -> Wide:
    return bits.view(np.float64) if isinstance(source, Lane) else np.asarray(decode(bits, source, dtype=np.float64))


def _merged(parts: Iterable[Errors], nothing: Errors) -> Errors:
    """All together, as a balanced tree: a part is rounded into the whole log2(parts) times, and few are held at once."""
    held: list[tuple[int, Errors]] = []  # how many parts, as a power of two, and their errors
    for part in parts:
        level = 0
        while held and held[-1][0] == level:
            level, part = level + 1, held.pop()[1].merge(part)
        held.append((level, part))
    return reduce(lambda total, one: one[1].merge(total), reversed(held), nothing)


def _compared(r: Wide, x: Wide, ulp: FloatFormat | Lane, name: str) -> Errors:
    """The errors of a piece."""
    size, usual = r.size, np.isfinite(r)
    r_nan = r_infinite = specials_lost = 0
    if not usual.all():
        r_nan = int(np.isnan(r).sum())
        r_infinite = size - int(usual.sum()) - r_nan
        specials_lost = int((~usual & ~((r == x) | (np.isnan(r) & np.isnan(x)))).sum())
        r, x = r[usual], x[usual]
    kept = np.isfinite(x)
    x_nan = x_infinite = 0
    if not kept.all():
        x_nan = int(np.isnan(x).sum())
        x_infinite = x.size - int(kept.sum()) - x_nan
        r, x = r[kept], x[kept]
    if not r.size:
        sums, largest = Sums(0), nan
    else:
        sums, largest = _sums(r, x, ulp)
    largest = inf if x_nan or x_infinite else largest
    return Errors(size, r_nan, r_infinite, specials_lost, x_nan, x_infinite, largest, name, sums)


def _sums(r: Wide, x: Wide, ulp: FloatFormat | Lane) -> tuple[Sums, float]:
    """Over finite values: each side is brought near 1 by a power of two before it is squared."""
    with np.errstate(over="ignore", under="ignore"):
        error, half = x - r, 0
        places = _ulps(error, r, ulp)
        beyond = np.isinf(error)
        if (
            beyond.any()
        ):  # a difference of two values near the largest: what halving costs the others is nothing beside it
            error, half = x / 2 - r / 2, 1
            places[beyond] = 2 * _ulps(error[beyond], r[beyond], ulp)
        (r, i), (x, j), (e, k) = _near_one(r), _near_one(x), _near_one(error)
        constant = e.min() == e.max()
        mean = float(e[0] if constant else np.sum(e) / e.size)
        apart = e - mean
        spread = 0.0 if constant else float(np.sum(apart * apart))
        k += half
        sums = Sums(
            r.size,
            (float(np.sum(r * r)), 2 * i),
            (float(np.sum(x * x)), 2 * j),
            (float(np.sum(r * x)), i + j),
            (float(np.sum(e * e)), 2 * k),
            (mean, k),
            (spread, 2 * k),
        )
        return sums, float(places.max())


def _near_one(values: Wide) -> tuple[Wide, int]:
    """Values over a power of two that brings the largest below 1, and its exponent."""
    exponent = int(np.frexp(np.abs(values).max())[1])
    return np.ldexp(values, -exponent), exponent


def _ulps(error: Wide, r: Wide, ulp: FloatFormat | Lane) -> Wide:
    """Magnitudes of errors in units of the last place of the reference."""
    binade = np.where(r == 0, ulp.emin, np.frexp(r)[1] - 1)
    return np.asarray(np.ldexp(np.abs(error), ulp.trailing_bits - np.maximum(binade, ulp.emin)))


def _larger(a: float, b: float) -> float:
    """The larger, a NaN being nothing."""
    return b if isnan(a) else a if isnan(b) else max(a, b)
