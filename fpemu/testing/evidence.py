"""What a function made of inputs of every region, and what has been found out about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu.formats import FloatFormat
from fpemu.policies import Cast
from fpemu.testing.hypotheses import Hypothesis, policy
from fpemu.testing.places import REGIONS, Places
from fpemu.testing.results import as_values

Array = NDArray[Any]
Mask = NDArray[np.bool_]


@dataclass
class Named:
    """A fault and the inputs that show it, as indices."""

    name: str
    detail: str
    where: Array


@dataclass
class Evidence:
    """Inputs, their results and the right ones, as values in float64; and what has been found out about them.

    Attributes
    ----------
    x, got, right: float64. wrong: where the results are not right. source: the format of the inputs, None for float64.
    """

    cast: Cast
    source: FloatFormat | None
    x: Array
    got: Array
    right: Array
    wrong: Mask
    found: list[Named] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.places = Places.of(self.x, self.cast.format)
        self.region = self.places.regions()
        self.open = self.wrong.copy()  # wrong inputs that nothing explains yet
        self.fitted: Hypothesis = policy(self.cast, self.source)
        self.extent = ""  # where that holds

    def among(self, *regions: str) -> Mask:
        """Which inputs lie in one of these regions."""
        return np.isin(self.region, [REGIONS.index(region) for region in regions])

    def name(self, mask: Mask, name: str, detail: str = "") -> None:
        """Say what these wrong inputs show."""
        mask = mask & self.wrong
        if not mask.any():
            return
        where, self.open[mask] = np.flatnonzero(mask), False
        same = next((one for one in self.found if (one.name, one.detail) == (name, detail)), None)
        if same is None:
            self.found.append(Named(name, detail, where))
        else:
            same.where = np.union1d(same.where, where)

    @cached_property
    def largest(self) -> tuple[float, float, float]:
        """The value below the largest finite one, that one, and the next on the ladder."""
        format = self.cast.format
        last = np.array([format.max_code - 1, format.max_code], format.code_dtype)
        below, largest = as_values(last, format).tolist()
        return below, largest, float(Places.of(np.array([largest]), format).outer[0])


# ---- what a result is, in words -----------------------------------------------------------------------------------------
def words(values: Array, of: Evidence) -> Array:
    """For each value what it is: NaN, infinity, the largest finite value, zero, or another value."""
    size = np.abs(values)
    return np.select(
        [
            np.isnan(values),
            np.isinf(values),
            size == of.largest[1],
            values == 0,
            size == of.cast.format.smallest_subnormal,
            size == of.largest[0],
        ],
        ["NaN", "infinity", "the largest finite value", "zero", "the smallest value", "the value before the largest"],
        "another value",
    )


def by_words(of: Evidence, where: Mask, name: str, *, dropped: str | None = None) -> None:
    """Name what these became, by what it is and by what it should be."""
    where = where & of.open
    got, right = words(of.got, of), words(of.right, of)
    for made in np.unique(got[where]):
        for wanted in np.unique(right[where & (got == made)]):
            these = where & (got == made) & (right == wanted)
            if dropped and wanted == "NaN":
                of.name(these, dropped, f"becomes {made}")
            else:
                of.name(these, name, f"becomes {made}, not {wanted}")


def matches(one: Array, other: Array) -> Mask:
    """Where two magnitudes are the same, all NaNs being so."""
    return np.asarray((np.abs(one) == np.abs(other)) | np.isnan(one) & np.isnan(other))


def joined(*texts: str) -> str:
    """Those that say something."""
    return ", ".join(text for text in texts if text)
