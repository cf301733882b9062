"""Traces of amax or log2(amax), one value a step, and the scales and overflows recorded beside them: .npy, .npz, .csv and other text.

Nothing is guessed: a unit is known by a column's name or asked for, and so is which scale a column holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu.cli.trace_names import (
    CHOICE,
    LOG2,
    MAGNITUDE,
    OVERFLOW,
    SCALE_AFTER,
    SCALE_USED,
    SCALES,
    STEPS,
    last_part,
    listed,
    meaning,
    quoted,
    refuse_other,
    unit_of,
)
from fpemu.cli.trace_tables import TraceError, column_of, read_table
from fpemu.reading import DAMAGE, array_names, first_line, load_array, load_npy
from fpemu.scaling.loss_recordings import LARGEST_LOG, LEAST_LOG, Recording
from fpemu.shown import shown

Column = tuple[NDArray[np.float64], NDArray[np.bool_]]  # numbers, and which are not there


@dataclass(frozen=True)
class Asked:
    """What a user says of a file: the unit of its numbers, and columns by their meaning."""

    unit: str | None = None
    column: str | None = None
    scale: str | None = None
    scale_after: str | None = None
    overflow: str | None = None


@dataclass(frozen=True)
class Trace:
    """A recording and how it was read.  scale, overflow: columns, None where there are none. scale_is: "used" or "after"."""

    recording: Recording
    column: str | None
    unit: str
    scale: str | None
    scale_is: str | None
    overflow: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Columns:
    """A file's columns: their names, None where it has none; how to read one; what a row is called in messages."""

    names: list[str] | None
    reader: Callable[[str | None, bool], Column]  # of a name, and whether it holds flags
    row: Callable[[int], str]
    kind: str = "column"

    def read(self, name: str | None, flags: bool = False) -> Column:
        """The numbers of a column; of flags, true and false are 1 and 0."""
        if name is not None and self.names is None:
            raise TraceError(f"it has no header, so no {self.kind} {quoted(name)}")
        return self.reader(name, flags)


def read_trace(path: str, asked: Asked) -> Trace:
    """A file's trace.  Raises TraceError, one line that says what is valid, and OSError."""
    try:
        return _trace(_opened(path), asked)
    except TraceError:
        raise
    except DAMAGE as error:
        if isinstance(error, OSError):
            raise
        raise TraceError(first_line(error).removeprefix(f"{shown(path)}: ")) from None


# ---- files ----------------------------------------------------------------------------------------------------------
def _opened(path: str) -> _Columns:
    kind = os.path.splitext(path)[1].lower()
    if kind == ".npy":
        whole = load_npy(path)
        return _Columns(None, lambda _, flags: _plain(whole, flags), lambda step: f"element {step}")
    if kind == ".npz":
        return _archive(path)
    table = read_table(path)
    if table.names is None and len(table.rows[0]) > 1:
        raise TraceError(f"{len(table.rows[0])} columns and no header: name the columns, and choose one with --column")
    return _Columns(
        table.names,
        lambda name, flags: table.numbers(0 if name is None else column_of(table, name), flags),
        lambda step: f"row {table.lines[step]}",
    )


def _archive(path: str) -> _Columns:
    names = array_names(path)

    def read(name: str | None, flags: bool) -> Column:
        if name not in names:
            raise TraceError(f"no array {quoted(str(name))}; there are: {listed(names)}")
        return _plain(load_array(path, str(name)), flags)

    return _Columns(names, read, lambda step: f"element {step}", "array")


def _plain(values: Any, flags: bool) -> Column:
    if values.ndim != 1 or not values.size or values.dtype.kind not in ("fiub" if flags else "fiu"):
        raise TraceError(f"a trace is one number a step, not {values.dtype} of shape {values.shape}")
    return values.astype(np.float64), np.zeros(len(values), bool)


# ---- columns --------------------------------------------------------------------------------------------------------
def _trace(columns: _Columns, asked: Asked) -> Trace:
    name = _chosen(columns, asked)
    values, blank = columns.read(name)
    unit = unit_of(name, asked.unit)
    scale, scale_is = _scale_column(columns, asked)
    overflow = asked.overflow or _known(columns, OVERFLOW)
    scales = None if scale is None else _scales(columns, scale, scale_is == "after")
    flags = None if overflow is None else _flags(columns, overflow)
    for label, other in ((scale, scales), (overflow, flags)):
        if other is not None and len(other) != len(values):
            raise TraceError(f"{len(values)} steps, and {len(other)} in {quoted(str(label))}")
    overflowed = _checked(columns, unit, (values, blank), scales, flags)
    with np.errstate(divide="ignore"):
        logs = np.log2(values) if unit == MAGNITUDE else values
    recording = Recording(logs, scales, overflowed)
    return Trace(recording, name, unit, scale, scale_is, overflow, tuple(_notes(columns, recording, scale)))


def _chosen(columns: _Columns, asked: Asked) -> str | None:
    """The column of amax: the one asked for, or the only one with a name that says a unit, or the only one."""
    names, wanted, what = columns.names, asked.column, columns.kind
    if names is None:
        if wanted is not None:
            raise TraceError(f"it has no header, so no {what} {quoted(wanted)}")
        return None
    if wanted is not None and wanted not in names:
        raise TraceError(f"no {what} {quoted(wanted)}; there are: {listed(names)}")
    if wanted is not None or len(names) == 1:
        name = names[0] if wanted is None else wanted
        refuse_other(name)
        return name
    known = [name for name in names if meaning(name).unit]
    if len(known) != 1:
        why = "" if known else f" (none is amax or log2_amax by its name{_norms(names)}; {CHOICE})"
        raise TraceError(f"which {what}? choose one with --column: {listed(known or names)}{why}")
    return known[0]


def _norms(names: list[str]) -> str:
    """Why a norm that stands there is not taken."""
    reasons = ((name, meaning(name).refused) for name in names)
    return next((f"; {shown(name)}: {why}" for name, why in reasons if "norm" in why), "")


def _known(columns: _Columns, valid: tuple[str, ...]) -> str | None:
    """The column whose name, without prefixes, is one of some; None where there is none or several."""
    found = [name for name in columns.names or [] if last_part(name) in valid]
    return found[0] if len(found) == 1 else None


def _scale_column(columns: _Columns, asked: Asked) -> tuple[str | None, str | None]:
    """The column of recorded scales, and whether it is the scale that a step used or the one after."""
    if asked.scale is not None and asked.scale_after is not None:
        raise TraceError("--scale and --scale-after say the same thing: give one of them")
    for name, is_what in (
        (asked.scale, "used"),
        (asked.scale_after, "after"),
        (_known(columns, SCALE_USED), "used"),
        (_known(columns, SCALE_AFTER), "after"),
    ):
        if name is not None:
            return name, is_what
    return None, None


def _scales(columns: _Columns, name: str, after: bool) -> NDArray[np.float64]:
    """The scale that each step used; NaN where it is not there."""
    values, blank = columns.read(name)
    wrong = ~blank & ~((values > 0) & (values < inf))
    if wrong.any():
        step = int(np.argmax(wrong))
        raise TraceError(f"{columns.row(step)}: {values[step]:g} in {quoted(name)} is no scale: positive and finite")
    return np.concatenate(([np.nan], values[:-1])) if after else values


def _flags(columns: _Columns, name: str) -> NDArray[np.float64]:
    """Whether each step overflowed, 0 or 1; NaN where it is not said."""
    values, blank = columns.read(name, flags=True)
    wrong = ~blank & (values != 0) & (values != 1)
    if wrong.any():
        step = int(np.argmax(wrong))
        raise TraceError(
            f"{columns.row(step)}: {values[step]:g} in {quoted(name)} is neither 0 nor 1: whether that step overflowed"
        )
    return values


def _checked(
    columns: _Columns, unit: str, amax: Column, scales: NDArray[np.float64] | None, flags: NDArray[np.float64] | None
) -> NDArray[np.bool_]:
    """Which steps overflowed.  Raises TraceError, with the row, for what contradicts the unit or another column."""
    values, blank = amax
    unknown = np.full(len(values), np.nan)
    said, scale = unknown if flags is None else flags, unknown if scales is None else scales
    silent, open_scale = np.isnan(said), np.isnan(scale)
    nan, infinite, finite = np.isnan(values) & ~blank, values == inf, np.isfinite(values)
    least = 0 if unit == MAGNITUDE else LEAST_LOG
    for wrong, why in (
        (finite & (values < least) | (values == -inf) & (unit == MAGNITUDE), _BELOW[unit]),
        (finite & (values > LARGEST_LOG) & (unit != MAGNITUDE), _ABOVE),
        ((nan | infinite) & (said == 0), "contradicts the 0 in the column of overflows"),
        (nan & silent & open_scale, _ALONE),
        (blank & silent, "is not a step, unless a column of overflows has its 0 or 1"),
    ):
        if wrong.any():
            step = int(np.argmax(wrong))
            what = "an empty cell" if blank[step] else f"{values[step]:g}"
            raise TraceError(f"{columns.row(step)}: {what} {why}")
    return np.asarray(np.where(silent, nan | infinite, said == 1), bool)


_BELOW = {
    MAGNITUDE: "is no amax: amax is never negative; --unit log2 is for logarithms",
    LOG2: f"is log2 of no float64, whose logarithms end at {LEAST_LOG}",
}
_ABOVE = f"is log2 of no float64, whose logarithms end at {LARGEST_LOG}: --unit magnitude is for amax itself"
_ALONE = "is no number; with the recorded scale (--scale) or overflow (--overflow) beside it, it is an overflow"


def _notes(columns: _Columns, recording: Recording, scale: str | None) -> list[str]:
    """What a reader should know of how the file was taken."""
    notes = []
    open_steps = int((recording.overflow & np.isnan(recording.scale)).sum())
    if open_steps:
        beside = [name for name in columns.names or [] if last_part(name) in SCALES]
        where = f" ({listed(beside)}?)" if beside and scale is None else ""
        notes.append(
            f"{open_steps:,} step{'s' * (open_steps > 1)} overflowed at a scale that is not recorded{where}: name its column with --scale, or "
            "--scale-after where it is the scale after the step"
        )
    steps = _known(columns, STEPS)
    if steps is not None:
        apart = np.diff(columns.read(steps)[0])
        gaps = np.flatnonzero((apart > 1) | (apart < 0))
        if gaps.size:
            notes.append(
                f"{columns.row(int(gaps[0]) + 1)}: {shown(steps)} jumps, and rows are taken as consecutive steps"
            )
    return notes
