"""What a cast loses: one pass over a tensor for several formats, mergeable, with honest denominators.

Every share says of what.  -0 counts as zero; infinities and NaNs among the inputs are counted and kept out of every
moment; a share of nothing is NaN, never 0.  ``errors`` compares any array with a reference by the same definitions
(``fpemu.moments``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from math import inf, isfinite, nan
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu import pairs
from fpemu.arrays import FormatLike, as_counter, bits_of
from fpemu.comparison import Errors, errors
from fpemu.formats import is_format
from fpemu.histogram import ExponentHistogram
from fpemu.moments import Moments
from fpemu.pairs import Pair
from fpemu.policies import Cast, as_cast
from fpemu.targets.environment import in_default_environment

__all__ = ["CastLoss", "Errors", "TensorStats", "errors", "exponent_histogram", "tensor_stats"]


@dataclass(frozen=True)
class CastLoss:
    """What casting a tensor times ``scale`` to one format does to it.  Errors are measured after unscaling.

    Attributes
    ----------
    format: name of the target; rounding, overflow, subnormals: the policies of the cast; scale: the factor.
    size, zeros, nonzero, nonfinite_in: of the input; ``nonzero`` are finite and the denominator of ``*_of_nonzero``.
    zeros_of_size, nonfinite_in_of_size: their shares of the size.
    new_zero: non-zeros that became zero; new_subnormal: that became subnormal and were normal numbers of their own
        dtype; saturated: that rounded beyond the largest finite value (or below the lowest, in unsigned formats),
        whatever the overflow policy made of them; nonfinite_out: that became infinite or NaN.  (A zero in a format
        without one is none of these, but its NaN is a result that is not finite.)
    ``*_of_nonzero``: share of the non-zeros; ``*_of_energy``: share of the sum of squares.
    sqnr_db: 10 log10(sum x^2 / sum (q-x)^2), inf for an exact cast, -inf where a result is not finite (one overflowed
        element is enough: cast with ``overflow="saturate"`` to see the noise of the others).
    cosine: of x and q; gain: <q,x>/<x,x>; mean_error: mean of q - x over the finite elements, zeros included, in units
        of x.  All NaN where a result is not finite.
    max_relative_error: max of |q-x|/|x| over the non-zeros (NaN of none, inf where a result is not finite).
    codes_used: distinct codes among the results of finite inputs (+0 and -0 are two), for formats of at most 8 bits,
        else None.
    """

    format: str
    rounding: str
    overflow: str
    subnormals: str
    scale: float
    size: int
    zeros: int
    zeros_of_size: float
    nonzero: int
    nonfinite_in: int
    nonfinite_in_of_size: float
    new_zero: int
    new_zero_of_nonzero: float
    new_zero_of_energy: float
    new_subnormal: int
    new_subnormal_of_nonzero: float
    new_subnormal_of_energy: float
    saturated: int
    saturated_of_nonzero: float
    saturated_of_energy: float
    nonfinite_out: int
    nonfinite_out_of_nonzero: float
    nonfinite_out_of_energy: float
    sqnr_db: float
    cosine: float
    gain: float
    mean_error: float
    max_relative_error: float
    codes_used: int | None


class Sums(NamedTuple):
    """Sums over the finite inputs of one format, as pairs."""

    signal: Pair
    product: Pair
    result: Pair
    noise: Pair
    error: Pair  # of the first power, in units of x; the others are of the second, in units common to them
    new_zero: Pair
    new_subnormal: Pair
    saturated: Pair
    nonfinite_out: Pair


@in_default_environment
@dataclass(frozen=True, eq=False)
class FormatStats:
    """The mergeable part of a CastLoss."""

    cast: Cast
    sums: Sums
    counts: NDArray[np.int64]  # new_zero, new_subnormal, saturated, nonfinite_out
    largest: float
    used: NDArray[np.uint8] | None

    def merge(self, other: FormatStats) -> FormatStats:
        """Both parts together."""
        return FormatStats(
            self.cast,
            Sums(*(pairs.add([a, b]) for a, b in zip(self.sums, other.sums, strict=True))),
            self.counts + other.counts,
            max(self.largest, other.largest),
            None if self.used is None or other.used is None else self.used | other.used,
        )


@in_default_environment
@dataclass(frozen=True, eq=False)
class TensorStats:
    """Statistics of a tensor and of what casts lose of it: a tidy table, one row for each format.

    ``size``, ``zeros``, ``nonfinite``, ``nonzero``, ``amax``, ``energy`` and ``histogram`` are of the tensor as given;
    ``rows()``, iteration and ``stats[format]`` give the casts of the tensor times ``scale``.
    """

    scale: float
    histogram: ExponentHistogram
    formats: tuple[FormatStats, ...]

    @property
    def size(self) -> int:
        """All elements."""
        return self.histogram.size

    @property
    def zeros(self) -> int:
        """Zeros of either sign."""
        return self.histogram.zeros

    @property
    def nonfinite(self) -> int:
        """Infinities and NaNs."""
        return self.histogram.nonfinite

    @property
    def nonzero(self) -> int:
        """Finite elements that are not zero."""
        return self.histogram.nonzero

    @property
    def amax(self) -> float:
        """The largest finite magnitude."""
        return self.histogram.amax

    @property
    def energy(self) -> float:
        """Sum of squares of the finite elements (inf where float64 cannot hold it; the shares still can be told)."""
        return self.histogram.energy

    def __iter__(self) -> Iterator[CastLoss]:
        return iter([self._loss(part) for part in self.formats])

    def __len__(self) -> int:
        return len(self.formats)

    def __getitem__(self, format: FormatLike) -> CastLoss:
        wanted = as_cast(format)
        found = [part for part in self.formats if part.cast == wanted]
        if not found and not isinstance(format, Cast):
            found = [part for part in self.formats if part.cast.format == wanted.format]
        if len(found) == 1:
            return self._loss(found[0])
        if found:
            raise KeyError(f"{len(found)} casts to {wanted.format.name}: ask with the Cast")
        raise KeyError(f"{wanted.format.name} is not among {', '.join(part.cast.format.name for part in self.formats)}")

    def __repr__(self) -> str:
        facts = f"size={self.size}, zeros={self.zeros}, nonfinite={self.nonfinite}, amax={self.amax:g}, scale={self.scale:g}"
        losses = "".join(
            f"\n  {loss.format}: new_zero {loss.new_zero_of_nonzero:.3%} of non-zeros, {loss.new_zero_of_energy:.3g} of energy; "
            f"saturated {loss.saturated}; sqnr {loss.sqnr_db:.1f} dB; cosine {loss.cosine:.6g}"
            for loss in self
        )
        return f"TensorStats({facts}){losses}"

    def rows(self) -> list[dict[str, Any]]:
        """One dict for each format, in the order asked for; keys are the attributes of CastLoss."""
        return [{field.name: getattr(loss, field.name) for field in fields(loss)} for loss in self]

    def merge(self, other: TensorStats) -> TensorStats:
        """The statistics of both tensors together.

        Counts, histogram and maxima are exact, float sums agree with those of the joined tensor to 1e-12.
        ValueError where the casts or the scale differ.
        """
        if not isinstance(other, TensorStats):
            raise TypeError(f"merge takes TensorStats, not {type(other).__name__}")
        if [part.cast for part in self.formats] != [part.cast for part in other.formats] or self.scale != other.scale:
            raise ValueError("only statistics of the same casts and scale can be merged")
        return replace(
            self,
            histogram=self.histogram.merge(other.histogram),
            formats=tuple(a.merge(b) for a, b in zip(self.formats, other.formats, strict=True)),
        )

    def _loss(self, part: FormatStats) -> CastLoss:
        sums, signal, nonzero = part.sums, part.sums.signal, self.nonzero
        new_zero, new_subnormal, saturated, nonfinite_out = (int(count) for count in part.counts)
        format = part.cast.format
        lost_zeros = not format.has_zero and self.zeros and part.cast.zero_code() > format.max_code
        finite = not nonfinite_out and not lost_zeros
        kinds = {"new_zero": new_zero, "new_subnormal": new_subnormal, "saturated": saturated}
        kinds["nonfinite_out"] = nonfinite_out
        shares: dict[str, Any] = {}
        for kind, count in kinds.items():
            shares[kind] = count
            shares[f"{kind}_of_nonzero"] = count / nonzero if nonzero else nan
            shares[f"{kind}_of_energy"] = pairs.ratio(getattr(sums, kind), signal)
        moments = Moments(nonzero + self.zeros, signal, sums.result, sums.product, sums.noise, sums.error, bool(finite))
        return CastLoss(
            format=format.name,
            rounding=part.cast.rounding.value,
            overflow=part.cast.overflow.value,
            subnormals=part.cast.subnormals.value,
            scale=self.scale,
            size=self.size,
            zeros=self.zeros,
            zeros_of_size=self.zeros / self.size if self.size else nan,
            nonzero=nonzero,
            nonfinite_in=self.nonfinite,
            nonfinite_in_of_size=self.nonfinite / self.size if self.size else nan,
            **shares,
            sqnr_db=moments.sqnr_db,
            cosine=moments.cosine,
            gain=moments.gain,
            mean_error=moments.bias,
            max_relative_error=(part.largest if nonzero else nan) if finite else inf,
            codes_used=None if part.used is None else int(part.used.sum()),
        )


@in_default_environment
def tensor_stats(x: ArrayLike, formats: FormatLike | Sequence[FormatLike], scale: float = 1.0, *, seed: int = 0,
                 offset: int = 0) -> TensorStats:  # fmt: skip
    """What casting ``x * scale`` to each of several formats loses, in one parallel pass.

    Parameters
    ----------
    x: floating-point values as ``fpemu.encode`` takes them, any shape; those of an array on a GPU are counted there, and
        all but the energies of the histogram's bins are the same numbers (those agree to 1e-12).
    formats: formats or Casts, one or several.
    scale: positive and finite.  A power of two scales exactly; with any other, m * 2**e with 1/2 < m < 1, the product
        x * m is rounded to float64 once (to its subnormal grid where x is subnormal there), and 2**e is exact.
        NaNs among the inputs are counted, and are no error in formats without NaN.
    seed, offset: of stochastic rounding, as in ``encode``.

    Raises
    ------
    TypeError, ValueError: as ``encode``, but for NaNs; a scale that is not positive and finite, or that moves a format
        to where its values are subnormal in float64; a format of more than 24 significant bits; a Cast with ``via``.
    """
    if isinstance(formats, Cast) or is_format(formats):
        wanted = [formats]
    elif isinstance(formats, Iterable):
        wanted = list(formats)
    else:
        raise TypeError(f"formats are a format or several, not {type(formats).__name__}")
    casts = tuple(as_cast(format) for format in wanted)
    for cast in casts:
        if cast.via is not None:
            raise ValueError(f"tensor_stats takes no via: quantize to {cast.via.format.name} first")
        cast.format.value_dtype  # noqa: B018  (raises where float64 cannot hold the values)
    factor = _scale(scale)
    bits, source = bits_of(x)
    counters = as_counter("seed", seed), as_counter("offset", offset)
    if not isinstance(bits, np.ndarray):
        from fpemu.targets import device_stats

        return device_stats.collect(bits, source, casts, factor, *counters)
    from fpemu.targets import host_stats

    return host_stats.collect(bits, source, casts, factor, *counters)


@in_default_environment
def exponent_histogram(x: ArrayLike) -> ExponentHistogram:
    """The exponent histogram of ``x`` (values as ``fpemu.encode`` takes them)."""
    return tensor_stats(x, []).histogram


def _scale(scale: float) -> float:
    if isinstance(scale, bool) or not isinstance(scale, (int, float, np.integer, np.floating)):
        raise TypeError(f"scale must be a number, not {type(scale).__name__}")
    try:
        factor = float(scale)
    except OverflowError:
        factor = inf
    if not (factor > 0 and isfinite(factor)):
        raise ValueError(f"scale must be positive and finite, not {scale}")
    return factor
