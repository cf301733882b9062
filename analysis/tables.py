"""What experiments ask of their tidy tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd


def where(table: pd.DataFrame, **values: object) -> pd.DataFrame:
    """The rows whose columns have these values."""
    return table[np.logical_and.reduce([table[column] == value for column, value in values.items()])]


def spread(table: pd.DataFrame, by: str, value: str, over: str = "seed") -> pd.DataFrame:
    """Least, median and greatest ``value`` over the seeds; NaN where any seed has none: no spread rests on fewer seeds."""
    wide = table.pivot(index=by, columns=over, values=value)
    ends = {
        "least": wide.min(axis=1, skipna=False),
        "median": wide.median(axis=1, skipna=False),
        "greatest": wide.max(axis=1, skipna=False),
    }
    return pd.DataFrame(ends)


def medians(table: pd.DataFrame, *by: str) -> dict[Any, dict[str, float]]:
    """The median of every column of numbers, by the values of some columns (a tuple of them where they are several)."""
    grouped = table.groupby(by[0] if len(by) == 1 else list(by)).median(numeric_only=True)
    return dict(zip(grouped.index.tolist(), grouped.to_dict("records"), strict=True))


def percent(share: float, digits: int = 1) -> str:
    """A share as text for a verdict."""
    return f"{100 * share:.{digits}f} %"


def listed(items: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``; nothing for nothing."""
    *others, last = items or [""]
    return f"{', '.join(others)} and {last}" if others else last
