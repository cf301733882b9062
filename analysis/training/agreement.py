"""How well an emulated gradient agrees with the float32 one, as sums that add up over layers."""

from dataclasses import dataclass
from math import inf, isnan, log10, nan, sqrt

import numpy as np

from analysis.training.mlp import Array


@dataclass(frozen=True)
class Agreement:
    """Sums over the elements of a reference g and an emulated gradient e, in float64; `a + b` pools two tensors.

    Every ratio with a zero denominator is NaN, and so is every ratio but the counts' once `nonfinite` is not 0.
    """

    size: int  # elements
    nonzero: int  # of g
    new_zero: int  # g != 0 and e == 0
    nonfinite: int  # of e: infinities and NaNs
    energy: float  # sum of g^2
    energy_zeroed: float  # sum of g^2 over the new zeros
    energy_emulated: float  # sum of e^2
    energy_error: float  # sum of (e - g)^2
    product: float  # sum of e g

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def overflowed(self) -> bool:
        return self.nonfinite > 0

    @property
    def new_zero_of_nonzero(self) -> float:
        return self.new_zero / self.nonzero if self.nonzero else nan

    @property
    def energy_lost(self) -> float:
        """Share of the energy of g that sat in the new zeros."""
        return self.energy_zeroed / self.energy if self.energy and not self.overflowed else nan

    @property
    def sqnr_db(self) -> float:
        """10 log10 of energy over error energy; infinite where the two agree exactly."""
        if not self.energy or self.overflowed or isnan(self.energy_error):
            return nan
        return 10 * log10(self.energy / self.energy_error) if self.energy_error else inf

    @property
    def cosine(self) -> float:
        norms = sqrt(self.energy) * sqrt(self.energy_emulated)
        return self.product / norms if norms and not self.overflowed else nan

    @property
    def gain(self) -> float:
        """<e, g> / <g, g>: below 1 the emulated gradient is shrunk."""
        return self.product / self.energy if self.energy and not self.overflowed else nan


def agree(reference: Array, emulated: Array) -> Agreement:
    """Compare two gradients of one shape; the reference must be finite. Raises ValueError otherwise."""
    if reference.shape != emulated.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {emulated.shape}")
    g, e = reference.astype(np.float64).ravel(), emulated.astype(np.float64).ravel()
    if not np.isfinite(g).all():
        raise ValueError("the reference gradient holds infinities or NaNs")
    nonfinite = int(e.size - np.isfinite(e).sum())
    zeroed = np.where(e == 0, g, 0.0)
    counts = (g.size, int(np.count_nonzero(g)), int(np.count_nonzero(zeroed)), nonfinite)
    energy, energy_zeroed = float(g @ g), float(zeroed @ zeroed)
    if nonfinite:
        return Agreement(*counts, energy, energy_zeroed, nan, nan, nan)
    error = e - g
    return Agreement(*counts, energy, energy_zeroed, float(e @ e), float(error @ error), float(e @ g))
