"""What sums over a tensor and an approximation of it say: the one definition of SQNR, relative RMS, bias, cosine and gain.

``tensor_stats`` sums in one pass over codes, ``errors`` over two arrays; both ask here.  Every ratio with nothing in its
denominator is NaN, and a result that is not finite outweighs everything else: one is enough to spoil the whole.
"""

from __future__ import annotations

from math import inf, nan
from typing import NamedTuple

from fpemu import pairs
from fpemu.pairs import Pair


class Moments(NamedTuple):
    """Sums over the elements whose reference r is finite; x is what stands for r.

    elements: how many they are, zeros included.  finite: whether every x is.  signal, result, product, noise: sums of r^2, x^2,
    r x and (x - r)^2, in a common unit.  error: sum of x - r.
    """

    elements: int
    signal: Pair
    result: Pair
    product: Pair
    noise: Pair
    error: Pair
    finite: bool = True

    @property
    def sqnr_db(self) -> float:
        """10 log10(signal / noise); inf where nothing is lost, -inf where an x is not finite, NaN for a reference of zeros."""
        return pairs.decibels(self.signal, self.noise) if self.finite else -inf

    @property
    def relative_rms(self) -> float:
        """sqrt(noise / signal); inf where an x is not finite, NaN for a reference of zeros."""
        return pairs.root_ratio(self.noise, self.signal) if self.finite else inf

    @property
    def cosine(self) -> float:
        """product / sqrt(signal result), within [-1, 1]; NaN where either is zero or an x is not finite."""
        return pairs.cosine(self.product, self.signal, self.result) if self.finite else nan

    @property
    def gain(self) -> float:
        """product / signal; NaN for a reference of zeros or where an x is not finite."""
        return pairs.ratio(self.product, self.signal) if self.finite else nan

    @property
    def bias(self) -> float:
        """error / elements, in units of r; NaN of nothing or where an x is not finite."""
        return pairs.ratio(self.error, (float(self.elements), 0)) if self.finite else nan
