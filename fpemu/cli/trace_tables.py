"""Tables of text: .csv of any usual separator, and what ``numpy.savetxt`` writes, as columns of numbers with the row of each."""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from fpemu.cli.trace_names import listed, quoted
from fpemu.reading import read_whole

WIDTHS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip
SEPARATORS = ("\t", ";", ",")
BLANKS = None  # the separator of fields that any number of blanks parts
NO_NAME = re.compile(r"[-+.,\d]|$|(na|n/a|nan|inf|infinity|none|null|\?)$", re.IGNORECASE)  # what may be a first number
TRUTH = {"true": 1.0, "false": 0.0}


class TraceError(ValueError):
    """A file that holds no trace; one line."""


@dataclass(frozen=True)
class Table:
    """Rows of text. names: of the columns, None where they have none. lines: where each row stands in the file, from 1."""

    names: list[str] | None
    rows: list[list[str]]
    lines: list[int]

    def numbers(self, place: int, flags: bool) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """A column, and which of its cells are empty (NaN); of flags, true and false are 1 and 0.

        Raises TraceError for a cell that is no number.
        """
        cells = [row[place].strip() for row in self.rows]
        found = [self._number(cell, line, flags) for cell, line in zip(cells, self.lines, strict=True)]
        return np.array(found), np.array([not cell for cell in cells], bool)

    @staticmethod
    def _number(cell: str, line: int, flags: bool) -> float:
        if not cell:
            return math.nan
        if flags and cell.lower() in TRUTH:
            return TRUTH[cell.lower()]
        value = number(cell)
        if value is None:
            raise TraceError(f"row {line}: {quoted(cell)} is no number")
        digits = cell.lower().partition("e")[0]
        if (math.isinf(value) and "inf" not in cell.lower()) or (value == 0 and digits.strip("+-0.")):
            raise TraceError(f"row {line}: {quoted(cell)} lies beyond float64")
        return value


def number(text: str) -> float | None:
    """A number in decimal digits, inf or nan; None for anything else."""
    text = text.strip()
    try:
        return None if "_" in text or not text.isascii() else float(text)
    except ValueError:
        return None


def read_table(path: str) -> Table:
    """A file's rows.  Its names are its first row, if that has a word in it, or the last comment above its numbers that has as many
    fields as they.  Raises TraceError, OSError."""
    text = _decoded(read_whole(path))
    comments, lines = _split(text)
    if not lines:
        raise TraceError("empty")
    separator = _separator(lines)
    try:
        placed = list(_fields(lines, separator))
    except csv.Error as error:
        raise TraceError(f"it is no table: {error}") from None
    (first, header), body = placed[0], placed
    names: list[str] | None = None
    if any(cell.strip() and number(cell) is None for cell in header):
        names, body = header, placed[1:]
        if not body:
            raise TraceError("a header, and no rows below it")
    elif comments and comments[-1][0] < first:
        told = _row(comments[-1][1], separator)
        names = told if len(told) == len(header) and any(number(cell) is None for cell in told) else None
    for line, row in body:
        if len(row) != len(header):
            raise TraceError(f"row {line} has {len(row)} fields, row {first} has {len(header)}")
    stripped = None if names is None else [name.strip() for name in names]
    return Table(stripped, [row for _, row in body], [line for line, _ in body])


def column_of(table: Table, name: str) -> int:
    """Where a column stands.  Raises TraceError for none or several of that name, and for a number where a name should be."""
    names = table.names or []
    if name not in names:
        raise TraceError(f"no column {quoted(name)}; there are: {listed(names)}")
    if names.count(name) > 1:
        raise TraceError(f"{names.count(name)} columns are called {quoted(name)}: rename them")
    if NO_NAME.match(name):
        raise TraceError(f"{quoted(name)} stands where a name should: a column needs one, or no header at all")
    return names.index(name)


def _decoded(content: bytes) -> str:
    """Text, without byte-order marks."""
    encoding = next((name for mark, name in WIDTHS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding).lstrip("\ufeff")
    except UnicodeDecodeError as error:
        raise TraceError(f"no text in {encoding.upper()}: {error.reason} at byte {error.start}") from None
    if "\0" in text:
        raise TraceError("no text: it has NUL characters (UTF-16 needs its byte-order mark)")
    return text


Lines = list[tuple[int, str]]


def _split(text: str) -> tuple[Lines, Lines]:
    """Comments above the first row, without their marks, and all lines from there to the last that is not blank; with their numbers."""
    comments: Lines = []
    lines: Lines = []
    for place, line in enumerate(io.StringIO(text, newline=None), 1):
        if line.lstrip().startswith("#"):
            if not lines:
                comments.append((place, line.strip().lstrip("#").strip()))
        elif lines or line.strip():
            lines.append((place, line))
    while lines and not lines[-1][1].strip():
        lines.pop()
    return comments, lines


def _separator(lines: Lines) -> str | None:
    """What parts the fields: of what gives the first two rows the same number of fields, more than one, what gives the most."""
    first = list(islice((line for _, line in lines if line.strip()), 2))
    found: dict[str | None, int] = {}
    for separator in (*SEPARATORS, BLANKS):
        try:
            counts = {len(_row(line, separator)) for line in first}
        except csv.Error:
            continue
        if len(counts) == 1 and min(counts) > 1 and (separator is not BLANKS or not found):
            found[separator] = min(counts)
    if len(found) > 1:
        raise TraceError(f"fields could be parted by {' or '.join(repr(one) for one in found)}: quote them")
    return next(iter(found), ",")


def _row(line: str, separator: str | None) -> list[str]:
    if separator is BLANKS:
        return line.split()
    return next(csv.reader([line.rstrip("\n")], delimiter=separator, skipinitialspace=True, strict=True), [])


def _fields(lines: Lines, separator: str | None) -> Iterator[tuple[int, list[str]]]:
    """The fields of each row, and its line; a quoted field may hold several lines.

    A blank line is an empty cell of a lone column, nothing in a wider table.
    """
    if separator is BLANKS:
        yield from ((place, line.split()) for place, line in lines if line.strip())
        return
    places = [place for place, _ in lines]
    reader = csv.reader((line for _, line in lines), delimiter=separator, skipinitialspace=True, strict=True)
    begun, width = 0, 0
    for row in reader:
        width = width or len(row)
        if row or width == 1:
            yield places[begun], row or [""]
        begun = reader.line_num
