"""How well an emulated gradient agrees with the float32 one, as counts and sums that add up over layers."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

import numpy as np

import fpemu as fp
from analysis.training.mlp import Array


@dataclass(frozen=True)
class Agreement:
    """Of the elements of a reference g, all finite, and an emulated gradient e; ``a + b`` pools two tensors.

    Every ratio with a zero denominator is NaN.  SQNR, cosine and gain are those of ``fpemu.errors``: where an e is not
    finite the SQNR is -inf and the others NaN.
    """

    nonzero: int  # of g
    new_zero: int  # g != 0 and e == 0
    energy: float  # sum of g^2
    energy_zeroed: float  # sum of g^2 over the new zeros
    errors: fp.Errors

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            self.nonzero + other.nonzero,
            self.new_zero + other.new_zero,
            self.energy + other.energy,
            self.energy_zeroed + other.energy_zeroed,
            self.errors.merge(other.errors),
        )

    @property
    def size(self) -> int:
        """Elements."""
        return self.errors.elements

    @property
    def nonfinite(self) -> int:
        """Infinities and NaNs of e."""
        return self.errors.nan + self.errors.infinite

    @property
    def overflowed(self) -> bool:
        return not self.errors.finite

    @property
    def new_zero_of_nonzero(self) -> float:
        return self.new_zero / self.nonzero if self.nonzero else nan

    @property
    def energy_lost(self) -> float:
        """Share of the energy of g that sat in the new zeros; NaN where an e is not finite."""
        return self.energy_zeroed / self.energy if self.energy and not self.overflowed else nan

    @property
    def sqnr_db(self) -> float:
        return self.errors.sqnr_db

    @property
    def cosine(self) -> float:
        return self.errors.cosine

    @property
    def gain(self) -> float:
        """<e, g> / <g, g>: below 1 the emulated gradient is shrunk."""
        return self.errors.gain


def agree(reference: Array, emulated: Array) -> Agreement:
    """Compare two gradients of one shape; the reference must be finite. Raises ValueError otherwise."""
    if reference.shape != emulated.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {emulated.shape}")
    errors = fp.errors(reference, emulated)
    if errors.compared < errors.elements:
        raise ValueError("the reference gradient holds infinities or NaNs")
    g = reference.astype(np.float64).ravel()
    zeroed = np.where(emulated.ravel() == 0, g, 0.0)
    counts = int(np.count_nonzero(g)), int(np.count_nonzero(zeroed))
    return Agreement(*counts, float(np.sum(g * g)), float(np.sum(zeroed * zeroed)), errors)
