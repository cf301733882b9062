"""Traces of log2(amax), one value a step, from .npy, .npz, .csv and plain text."""

from __future__ import annotations

import csv
import io
import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu.reading import DAMAGE, array_names, first_line, load_array, load_npy, read_whole
from fpemu.shown import shown

LOG, PLAIN = ("log2_amax", "log2(amax)"), ("amax", "grad_amax", "absmax", "abs_max")


class TraceError(ValueError):
    """A file that holds no trace; one line."""


def read_trace(path: str, linear: bool, column: str | None) -> NDArray[np.float64]:
    """A trace, as log2 of amax: -inf where amax is 0, +inf where it is infinite or NaN.

    ``linear``: the numbers are amax itself (a column called amax is, without being told).  ``column``: of a .csv, or an array
    of an .npz.  Raises TraceError, OSError.
    """
    kind = os.path.splitext(path)[1].lower()
    try:
        if kind == ".npy":
            values, name = load_npy(path), ""
        elif kind == ".npz":
            values, name = _from_npz(path, column)
        else:
            values, name = _from_text(path, column)
    except TraceError:
        raise
    except DAMAGE as error:
        if isinstance(error, OSError):
            raise
        raise TraceError(first_line(error).removeprefix(f"{shown(path)}: ")) from None
    return _as_logs(values, linear or name.lower() in PLAIN)


def _as_logs(values: Any, linear: bool) -> NDArray[np.float64]:
    if values.ndim != 1 or not values.size or values.dtype.kind not in "fiu":
        raise TraceError(f"a trace is one number a step, not {values.dtype} of shape {values.shape}")
    numbers = np.asarray(values, np.float64)
    if not linear:
        return numbers
    if (numbers < 0).any():
        raise TraceError("amax is never negative; without --linear the numbers are read as log2(amax)")
    with np.errstate(divide="ignore"):
        return np.where(np.isfinite(numbers), np.log2(numbers), np.inf)


def _from_npz(path: str, column: str | None) -> tuple[Any, str]:
    name = _chosen(array_names(path), column, "array")
    return load_array(path, name), name


def _from_text(path: str, column: str | None) -> tuple[Any, str]:
    text = io.StringIO(read_whole(path).decode("utf-8"), newline="")
    try:
        rows = [row for row in csv.reader(text) if row and not row[0].lstrip().startswith("#")]
    except csv.Error as error:
        raise TraceError(f"it is no table: {error}") from None
    if not rows:
        raise TraceError("empty")
    header = [cell.strip() for cell in rows[0]]
    if all(_number(cell) is not None for cell in header):
        if column is not None:
            raise TraceError(f"it has no header, so no column {column!r}")
        if len(header) > 1:
            raise TraceError(f"{len(header)} columns and no header: name the columns, and choose one with --column")
        place, name, body = 0, "", rows
    else:
        name = _chosen(header, column, "column")
        place, body = header.index(name), rows[1:]
    numbers = []
    for line, row in enumerate(body, start=1 + len(rows) - len(body)):
        number = _number(row[place]) if place < len(row) else None
        if number is None:
            raise TraceError(f"row {line}: {row[place] if place < len(row) else 'nothing'!r} is no number")
        numbers.append(number)
    return np.array(numbers), name


def _chosen(names: list[str], wanted: str | None, what: str) -> str:
    if wanted is not None:
        if wanted not in names:
            raise TraceError(f"no {what} {wanted!r}; there are: {', '.join(names)}")
        return wanted
    known = [name for name in names if name.lower() in (*LOG, *PLAIN)]
    if len(names) == 1 or len(known) == 1:
        return (known or names)[0]
    raise TraceError(f"which {what}? choose one with --column: {', '.join(names)}")


def _number(text: str) -> float | None:
    try:
        value = float(text.strip())
    except ValueError:
        return None
    return math.inf if math.isnan(value) else value
