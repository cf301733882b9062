"""Many tensors at a glance: one row for each, in the order asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

from fpemu.shown import shown

if TYPE_CHECKING:
    from fpemu.cli.losses import Inspected

MOST_TABLES = 12  # tensors that are shown with a table each, unless told otherwise

# What comes first in each order; equals stay in the order of the files.
ORDERS: dict[str, Callable[[Inspected], Any]] = {
    "file": lambda one: 0,
    "name": lambda one: one.name,
    "size": lambda one: -one.stats.size,
    "amax": lambda one: -one.stats.amax,
    "zero": lambda one: -_worst(loss.new_zero_of_nonzero for loss in one.stats),
    "overflow": lambda one: -_worst(loss.saturated_of_nonzero for loss in one.stats),
    "sqnr": lambda one: -_worst(-loss.sqnr_db for loss in one.stats),
}


def in_order(found: Sequence[Inspected], order: str) -> list[Inspected]:
    """The tensors, the largest or the worst of their formats first; by name from a to z."""
    return sorted(found, key=ORDERS[order])


def _worst(values: Iterable[float]) -> float:
    """The largest; of none, or of what is a share of nothing, less than any."""
    return max((value for value in values if not isnan(value)), default=-float("inf"))


def lines(found: Sequence[Inspected]) -> list[str]:
    """A line for each tensor below a line of headings, as long as they have to be, in columns."""
    headings, body = rows(found)
    widths = [max(map(len, column)) for column in zip(headings, *body, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            f"{cell:{'>' if i else '<'}{width}}" for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *others])

    return [line(headings), "  ".join("-" * width for width in widths), *map(line, body)]


def rows(found: Sequence[Inspected]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, one for each tensor: its shape and largest magnitude; by format the share of the non-zeros that became
    zero and the signal to noise; and in which formats what share of them overflowed."""
    from fpemu.plots import short_name

    several = len({one.file for one in found}) > 1
    formats = [short_name(loss.format) for loss in found[0].stats] if found else []
    headings = ["tensor", "shape", "largest |x|", *(f"{name} {what}" for name in formats for what in ("to 0", "dB"))]
    return [*headings, "overflowed"], [_row(one, formats, several) for one in found]


def _row(one: Inspected, formats: Sequence[str], several: bool) -> list[str]:
    from fpemu.cli.losses import decibels, percent

    cells = [shown(one.title if several else one.name), "x".join(map(str, one.shape)) or "-", f"{one.stats.amax:.3g}"]
    over = []
    for name, loss in zip(formats, one.stats, strict=True):
        cells += [percent(loss.new_zero_of_nonzero), decibels(loss.sqnr_db)]
        if loss.saturated:
            over.append(f"{name} {percent(loss.saturated_of_nonzero)}")
    return [*cells, ", ".join(over) or "-"]
