"""Small tables with planted numbers, for verdicts: just inside and just outside what a verdict asks for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf, nextafter, sqrt
from typing import Any

import pandas as pd

from analysis.experiment import STATUSES, Verdict
from tests.analysis.lab import Tables

HOLDS, CONDITIONS, FAILS, NO_CLAIM = STATUSES
Cases = dict[
    str, tuple[Callable[..., Tables], list[tuple[dict[str, Any], str]]]
]  # a builder of tables; its changes, and what they make

SEEDS = (0, 1, 2)
ASIDE = (1.0, 0.5, 8.0)  # the first seed has the median, which is neither the mean nor an end
NEAR = 1e-6  # how far, relatively, "just beside" is where arithmetic rounds


def up(x: float) -> float:
    """The next float64 above."""
    return nextafter(x, inf)


def down(x: float) -> float:
    """The next float64 below."""
    return nextafter(x, -inf)


def seeded(rows: Iterable[Mapping[str, Any]], keys: Sequence[str] = ()) -> pd.DataFrame:
    """Three seeds of every row: floats, but for those of ``keys``, are the medians of what is planted."""
    return pd.DataFrame(
        {"seed": seed}
        | {
            name: value * aside if isinstance(value, float) and name not in keys else value
            for name, value in row.items()
        }
        for row in rows
        for seed, aside in zip(SEEDS, ASIDE, strict=True)
    )


def numbers(text: str) -> list[str]:
    """The numbers in a text, as written; those within names (E4M3, FP16) are none."""
    return re.findall(r"(?<![A-Za-z\d.,])[-+±]?\d[\d,]*(?<!,)(?:\.\d+)?(?:e[-+]?\d+)?", re.sub(r"\bx(?=\d)", "", text))


def said(verdict: Verdict) -> list[str]:
    """The numbers of a summary."""
    return numbers(verdict.summary)


def found(verdict: Verdict) -> list[str]:
    """What the findings say was measured."""
    return [finding.measured for finding in verdict.findings]


# ---- runs compared in pairs -----------------------------------------------------------------------------------------
STUDENT_2 = 0.95 * sqrt(2 / (4 * 0.975 * 0.025))  # the 97.5 % quantile with 2 degrees of freedom, in closed form
BASES = (1.0, 1.1, 1.4)  # losses of the base by seed
BOUND = sqrt((0.1**2 + 0.3**2 + 0.4**2) / 6)  # their deviation, by the squares of their differences
SPREAD = 0.003  # of planted differences: mean - SPREAD, mean, mean + SPREAD
HALF = STUDENT_2 * SPREAD / sqrt(3)  # so that this is half of their interval


def runs(
    tasks: Sequence[str], recipes: Iterable[str], base: str, lows: Mapping[Any, float], **columns: float
) -> pd.DataFrame:
    """Runs whose differences to the base have an interval that begins at ``lows[task, recipe]`` (a little below 0, never the same, where not named).

    An infinite one: the last seed diverged.  ``columns``: further columns, alike in every row.
    """
    rows = []
    for task in tasks:
        for recipe in recipes:
            low = lows.get((task, recipe), -0.001 * (1 + len(rows)))
            for seed, loss in enumerate(BASES):
                apart = 0.0 if recipe == base else low + HALF + SPREAD * (seed - 1)
                if low == inf:
                    apart = inf if seed == 2 else 0.0
                rows.append({"task": task, "recipe": recipe, "seed": seed, "loss": loss + apart, **columns})
    return pd.DataFrame(rows)
