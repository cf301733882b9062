"""The exponent histogram of a tensor, and what it says about loss scales.

A loss scale 2**k moves a tensor along the axis of exponents.  The threshold below which a cast rounds to zero is a
power of two, so one histogram that keeps, for each binade, the number of values, of exact powers of two among them, and
their energy, gives what every power-of-two scale loses to zero *exactly*; what falls inside the binade of another
threshold is bounded from both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import fsum, ldexp, nan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu import pairs
from fpemu.arrays import as_plain
from fpemu.formats import FloatFormat, FormatName, as_format
from fpemu.policies import Rounding
from fpemu.targets.environment import in_default_environment

Shares = dict[str, NDArray[Any]]


@in_default_environment
@dataclass(frozen=True)
class Band:
    """Power-of-two loss scales that serve: 2**lowest to 2**highest; None where there is no bound on that side."""

    lowest: int | None
    highest: int | None

    @property
    def empty(self) -> bool:
        """Whether no scale serves."""
        return self.lowest is not None and self.highest is not None and self.lowest > self.highest

    @property
    def recommended(self) -> int | None:
        """The exponent of the scale farthest from both ends (the upper of two); None where the band is empty.

        With one end open it is the other end: the lowest that loses little enough, or the highest that does not
        overflow (without a margin for what the next step brings).  With both open it is 0.
        """
        if self.empty:
            return None
        if self.lowest is None or self.highest is None:
            return self.lowest if self.lowest is not None else self.highest if self.highest is not None else 0
        return (self.lowest + self.highest + 1) // 2

    def __contains__(self, exponent: int) -> bool:
        return (self.lowest is None or self.lowest <= exponent) and (self.highest is None or exponent <= self.highest)


@in_default_environment
def intersect_bands(bands: Iterable[Band]) -> Band:
    """The scales that serve every tensor: the largest of the lowest, the smallest of the highest."""
    bands = list(bands)
    for band in bands:
        if not isinstance(band, Band):
            raise TypeError(f"intersect_bands takes Bands, not {type(band).__name__}")
    lowest = [band.lowest for band in bands if band.lowest is not None]
    highest = [band.highest for band in bands if band.highest is not None]
    return Band(max(lowest, default=None), min(highest, default=None))


@in_default_environment
@dataclass(frozen=True, eq=False)
class ExponentHistogram:
    """Counts and energies of a tensor's values by binade.

    Attributes
    ----------
    exponents: int64 array of consecutive exponents e; bin e holds 2**e <= abs(x) < 2**(e+1).  Empty if all are zero.
    counts: int64, how many values; powers: int64, how many of them are exactly 2**e in magnitude.
    squares: float64, sums of (x / 2**e)**2, between 1 and 4 for each value: no energy overflows or vanishes in them.
    zeros, nonfinite: zeros of either sign, and infinities and NaNs; neither is in the bins.
    amax: the largest finite magnitude (0.0 if there is none).
    """

    exponents: NDArray[np.int64]
    counts: NDArray[np.int64]
    powers: NDArray[np.int64]
    squares: NDArray[np.float64]
    zeros: int
    nonfinite: int
    amax: float

    @property
    def nonzero(self) -> int:
        """Finite values that are not zero."""
        return int(self.counts.sum())

    @property
    def size(self) -> int:
        """All values."""
        return self.nonzero + self.zeros + self.nonfinite

    @property
    def energies(self) -> NDArray[np.float64]:
        """Sum of squares of each bin (inf, or 0, where float64 cannot hold it)."""
        with np.errstate(over="ignore", under="ignore"):
            return np.ldexp(self.squares, 2 * self.exponents.astype(np.int32))

    @property
    def energy(self) -> float:
        """Sum of squares of the finite values (inf where float64 cannot hold it)."""
        return pairs.value(self._energy)

    @cached_property
    def _energy(self) -> pairs.Pair:
        return self._cumulative[-1]

    @cached_property
    def _energies(self) -> list[pairs.Pair]:
        return [(float(m), 2 * int(e)) for m, e in zip(self.squares, self.exponents, strict=True)]

    def merge(self, other: ExponentHistogram) -> ExponentHistogram:
        """The histogram of both tensors together: counts exactly, energies to rounding."""
        if not isinstance(other, ExponentHistogram):
            raise TypeError(f"merge takes an ExponentHistogram, not {type(other).__name__}")
        return merge_histograms([self, other])

    # ---- what a loss scale loses ------------------------------------------------------------------------------------
    def lost_to_zero(
        self,
        format: FormatName,
        scale_exponents: ArrayLike,
        rounding: Rounding | str = Rounding.NEAREST_EVEN,
    ) -> Shares:
        """What casting x * 2**k rounds to zero, exactly, for each k.

        Parameters
        ----------
        format: a signed format with a zero.
        scale_exponents: integers k, any shape.
        rounding: ``nearest-even``, ``nearest-away`` or ``toward-zero``; their thresholds are powers of two, 2**(s-1)
            (inclusive, exclusive) and 2**s (exclusive) for a smallest subnormal of 2**s.

        Returns
        -------
        dict of arrays of that shape: ``count``, ``of_nonzero``, ``energy`` (absolute), ``of_energy``.  Shares of
        nothing are NaN.

        Raises
        ------
        ValueError: a rounding without such a threshold; an unsigned format (the histogram has no signs) or one without
            zero.
        """
        target, mode = _target(format), Rounding(rounding)
        smallest = target.finest_exponent
        thresholds = {
            Rounding.NEAREST_EVEN: (smallest - 1, True),
            Rounding.NEAREST_AWAY: (smallest - 1, False),
            Rounding.TOWARD_ZERO: (smallest, False),
        }
        if mode not in thresholds:
            valid = ", ".join(rounding.value for rounding in thresholds)
            raise ValueError(f"what {mode.value} loses is no matter of exponents alone; valid: {valid}")
        exponent, inclusive = thresholds[mode]
        k = _integers(scale_exponents)
        count, energy = self._below(exponent - k, inclusive)
        return {
            "count": count,
            "of_nonzero": _share(count, self.nonzero),
            "energy": _each(pairs.value, energy),
            "of_energy": _each(lambda part: min(pairs.ratio(part, self._energy), 1.0), energy),
        }

    def subnormal_bounds(self, format: FormatName, scale_exponents: ArrayLike) -> Shares:
        """Bounds on the share of the non-zeros that nearest-even makes subnormal: ``lower`` and ``upper`` for each k.

        The values just below the smallest normal that round up to it share a binade with others that do not.  Every
        subnormal result counts, where ``CastLoss.new_subnormal`` leaves out inputs that were subnormal already.
        """
        target, k = _target(format), _integers(scale_exponents)
        lost, _ = self._below(target.finest_exponent - 1 - k, True)
        surely, _ = self._below(target.emin - 1 - k, False)
        perhaps, _ = self._below(target.emin - k, False)
        return {
            "lower": _share(np.maximum(surely - lost, 0), self.nonzero),
            "upper": _share(np.maximum(perhaps - lost, 0), self.nonzero),
        }

    def saturated_bounds(self, format: FormatName, scale_exponents: ArrayLike) -> Shares:
        """Bounds on the share of the non-zeros that overflow: ``lower`` and ``upper`` for each k."""
        target, k = _target(format), _integers(scale_exponents)
        below_top, _ = self._below(target.emax - k, True)
        below_next, _ = self._below(target.emax + 1 - k, False)
        return {
            "lower": _share(self.nonzero - below_next, self.nonzero),
            "upper": _share(self.nonzero - below_top, self.nonzero),
        }

    def band(self, format: FormatName, energy_lost: float = 1e-3) -> Band:
        """Scales at which nearest-even rounds at most ``energy_lost`` of the energy to zero and nothing overflows.

        Both ends are exact for this tensor: the lower from the histogram, the upper from ``amax``.  One without non-zeros is
        served by every scale.  Non-finite values are nobody's scale's fault and do not count.

        Raises ValueError for a share outside [0, 1].
        """
        target = _target(format)
        if isinstance(energy_lost, bool) or not isinstance(energy_lost, (int, float, np.integer, np.floating)):
            raise TypeError(f"energy_lost is a share of the energy, 0 to 1, not {type(energy_lost).__name__}")
        if not 0 <= energy_lost <= 1:
            raise ValueError(f"energy_lost is a share of the energy, 0 to 1, not {energy_lost}")
        if not self.nonzero:
            return Band(None, None)
        return Band(self._lowest(target, energy_lost), highest_scale(self.amax, target))

    def _lowest(self, target: FloatFormat, energy_lost: float) -> int | None:
        """The smallest k whose share is at most ``energy_lost`` (it falls as k grows)."""
        threshold = target.finest_exponent - 1
        k = np.arange(threshold - int(self.exponents[-1]) - 1, threshold - int(self.exponents[0]) + 2)
        lost = self.lost_to_zero(target, k)
        # To lose no energy is to lose nothing, however small its share.
        enough = lost["of_energy"] <= energy_lost if energy_lost else lost["count"] == 0
        first = int(np.flatnonzero(enough)[0])
        return None if first == 0 else int(k[first])

    def _below(self, exponents: NDArray[np.int64], inclusive: bool) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Count, and energy as pairs, of the values below 2**exponent, or up to it."""
        low, bins = int(self.exponents[0]) if self.exponents.size else 0, self.exponents.size
        place = np.clip(exponents - low, 0, bins)
        count = np.concatenate([[0], np.cumsum(self.counts)])[place]
        sums = self._cumulative
        powers = np.zeros(exponents.shape, np.int64)
        if inclusive and bins:
            inside = (exponents >= low) & (exponents < low + bins)
            powers[inside] = self.powers[exponents[inside] - low]
        energy = np.empty(exponents.shape, object)
        for index, at in np.ndenumerate(place):
            energy[index] = pairs.add([sums[at], (float(powers[index]), 2 * int(exponents[index]))])
        return np.asarray(count + powers), energy

    @cached_property
    def _cumulative(self) -> list[pairs.Pair]:
        """Energy of the first n bins, n = 0, 1, ..."""
        return list(accumulate(self._energies, lambda a, b: pairs.add([a, b]), initial=pairs.ZERO))


EMPTY = ExponentHistogram(
    np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), zeros=0, nonfinite=0, amax=0.0
)


@in_default_environment
def merge_histograms(parts: Sequence[ExponentHistogram]) -> ExponentHistogram:
    """The histogram of several tensors together: counts exactly, energies as if added exactly and rounded once."""
    filled = [part for part in parts if part.exponents.size]
    low = min((int(part.exponents[0]) for part in filled), default=0)
    high = max((int(part.exponents[-1]) + 1 for part in filled), default=0)
    counts, powers = np.zeros(high - low, np.int64), np.zeros(high - low, np.int64)
    squares: list[list[float]] = [[] for _ in range(high - low)]
    for part in filled:
        start = int(part.exponents[0]) - low
        counts[start : start + part.counts.size] += part.counts
        powers[start : start + part.powers.size] += part.powers
        for b in np.flatnonzero(part.counts):
            squares[start + b].append(float(part.squares[b]))
    return ExponentHistogram(
        np.arange(low, high, dtype=np.int64),
        counts,
        powers,
        np.array([fsum(column) for column in squares]),
        zeros=sum(part.zeros for part in parts),
        nonfinite=sum(part.nonfinite for part in parts),
        amax=max((part.amax for part in parts), default=0.0),
    )


@in_default_environment
def highest_scale(amax: float, format: FormatName) -> int | None:
    """The largest k for which amax * 2**k does not overflow when rounded to nearest even; None for amax = 0.

    Overflow begins at the middle of the largest finite value and the next that an unbounded exponent would give: the
    middle itself overflows where the largest finite code is odd.
    """
    target = as_format(format)
    if not amax > 0:
        return None
    significand, exponent = target.scientific(target.max_code)
    middle = 2 * significand + 1  # in units of 2**(exponent - 1)
    mantissa, amax_exponent = np.frexp(np.float64(amax))
    scaled = int(ldexp(float(mantissa), 53))  # amax = scaled * 2**(amax_exponent - 53), exactly
    k = target.emax - int(amax_exponent) + 2  # one binade too high at least; at most three steps down

    def overflows(k: int) -> bool:
        shift = (int(amax_exponent) - 53 + k) - (exponent - 1)
        left, right = (scaled << shift, middle) if shift >= 0 else (scaled, middle << -shift)
        return left > right or (left == right and _middle_overflows(target))

    while overflows(k):
        k -= 1
    return k


def _middle_overflows(target: FloatFormat) -> bool:
    """Whether the tie between the largest finite value and the next goes to the next."""
    return bool(target.max_code & 1) if target.ties == "code" or target.precision > 1 else True


def _target(format: FormatName) -> FloatFormat:
    target = as_format(format)
    if not target.has_zero:
        raise ValueError(f"{target.name} has no zero, so nothing is lost to it")
    if not target.signed:
        raise ValueError(f"{target.name} is unsigned, and the histogram has no signs: use tensor_stats")
    return target


def _integers(values: ArrayLike) -> NDArray[np.int64]:
    array = as_plain(values, "exponents")
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"scale exponents are integers k of scales 2**k, not {array.dtype}")
    if array.size and (int(array.min()) < -(2**31) or int(array.max()) > 2**31):
        raise ValueError("scale exponents must lie within +-2**31")
    return array.astype(np.int64)


def _share(part: NDArray[Any], whole: float) -> NDArray[np.float64]:
    """part / whole, NaN where the whole is nothing."""
    return np.asarray(np.asarray(part, np.float64) / whole if whole else np.full(np.shape(part), nan))


def _each(function: Callable[[pairs.Pair], float], values: NDArray[Any]) -> NDArray[np.float64]:
    """A function of pairs over an object array of them."""
    out = np.empty(values.shape)
    for index, pair in np.ndenumerate(values):
        out[index] = function(pair)
    return out
