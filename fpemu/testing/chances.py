"""How probable it is that a stochastic conversion goes where it went: exact probabilities, and bounds of their sums.

A sum of independent draws with probabilities of mean p is s or more out of n, for s > n p, with a chance of at most
exp(-n KL(s / n, p)), and s or less likewise below (Chernoff; Hoeffding 1963, theorem 1: for unequal probabilities too).
That holds for any n, so that no count is too small; a test fails where the bound is below its share of FALSE_ALARMS.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu.policies import Stochastic

Array = NDArray[Any]

FALSE_ALARMS = 1e-6  # at most, over all tests of one check


def outward(position: Array, random_bits: int, variant: Stochastic) -> Array:
    """The probability of the outer neighbour (IEEE P3109 v4.0, 4.7.2), exact in float64."""
    scaled = np.ldexp(position, random_bits)
    whole = np.floor(scaled)
    words = whole if variant is Stochastic.A else np.rint(scaled)
    if variant is Stochastic.B:
        words = whole + (scaled - whole >= 0.5)
    return np.asarray(np.ldexp(words, -random_bits))


def divergence(seen: Array, expected: Array) -> Array:
    """KL of two probabilities, in nats; infinite where what was seen cannot be."""
    seen, expected = np.asarray(seen, np.float64), np.asarray(expected, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        one = np.where(seen == 0, 0.0, seen * np.log(seen / expected))
        other = np.where(seen == 1, 0.0, (1 - seen) * np.log((1 - seen) / (1 - expected)))
    return np.asarray(np.maximum(one + other, 0.0))


def surprise(count: Array, draws: Array, mean: Array) -> Array:
    """-log of the bound of the chance of a count at least so far from its expectation on its side; 0 without draws."""
    safe = np.maximum(draws, 1)
    return np.where(draws > 0, draws * divergence(count / safe, np.clip(mean, 0.0, 1.0)), 0.0)


def allowed(tests: int) -> float:
    """The surprise from which one of so many two-sided tests fails, so that all together raise few false alarms."""
    return float(np.log(2 * max(tests, 1) / FALSE_ALARMS))
