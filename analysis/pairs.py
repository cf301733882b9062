"""Runs compared in pairs: the same seed under two recipes, the differences, and Student's interval of their mean.

Weights and batches of a pair are alike, so that what seeds alone move drops out of the difference.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, nan, sqrt
from typing import NamedTuple

import numpy as np
import pandas as pd


class Interval(NamedTuple):
    """A mean and its confidence interval, from so many ``values``; infinite where a value is, NaN ends where there is but one."""

    mean: float
    low: float
    high: float
    values: int

    def within(self, bound: float) -> bool:
        """Whether all of it lies in [-bound, bound]: equivalence, at the interval's level."""
        return -bound <= self.low and self.high <= bound

    def beyond(self, bound: float) -> bool:
        """Whether none of it lies in [-bound, bound]: a difference larger than that, at the interval's level."""
        return self.low > bound or self.high < -bound

    def text(self, unit: float = 1.0, digits: int = 1) -> str:
        """``mean [low, high]`` in a unit, with signs; infinities as ``diverged``."""
        if not np.isfinite(self.mean):
            return "diverged"
        low, high = (f"{end / unit:+.{digits}f}" for end in (self.low, self.high))
        return f"{self.mean / unit:+.{digits}f} [{low}, {high}]"


def interval(values: Iterable[float], level: float = 0.95) -> Interval:
    """Student's t interval of the mean of independent values.  Raises ValueError for none, or a level outside (0, 1)."""
    found = np.array(list(values), np.float64)
    if not found.size or not 0 < level < 1:
        raise ValueError(
            f"an interval needs a value and a level strictly between 0 and 1, got {found.size} and {level}"
        )
    if not np.isfinite(found).all():
        return Interval(inf, inf, inf, found.size)
    if found.size == 1:
        return Interval(float(found[0]), nan, nan, 1)
    # scikit-learn brings scipy, which takes a while to import.
    from scipy.special import stdtrit

    half = float(stdtrit(found.size - 1, (1 + level) / 2)) * float(found.std(ddof=1)) / sqrt(found.size)
    mean = float(found.mean())
    return Interval(mean, mean - half, mean + half, found.size)


def differences(
    table: pd.DataFrame, value: str, base: str, by: tuple[str, ...] = (), of: str = "recipe", over: str = "seed"
) -> pd.DataFrame:
    """``value`` of every row less that of the row of ``base`` with the same ``by`` and seed, as column ``difference``.

    Rows of ``base`` are left out.  ``base``: a value of the column ``of``.  Raises ValueError where a pair lacks its base.
    """
    keys = [*by, over]
    bases = table[table[of] == base][[*keys, value]].rename(columns={value: "base"})
    rows = table[table[of] != base].merge(bases, on=keys, how="left", validate="many_to_one")
    if rows.base.isna().any():
        raise ValueError(f"some runs have no {of} {base!r} of the same {' and '.join(keys)} to be compared with")
    return rows.assign(difference=rows[value] - rows.base)
