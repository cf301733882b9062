"""What the commands share: option types, the console, the shape of an error."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from fpemu.engines import Engine, as_engine
from fpemu.formats import FloatFormat, as_format
from fpemu.reading import first_line
from fpemu.shown import shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # generic only from click 8.4 on

PIPE_WIDTH = 120  # columns where the output is no terminal
WIDE = 110  # columns from which a table need not be narrow


class FormatName(ParamType):
    """A format by name or alias."""

    name = "format"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> FloatFormat:
        try:
            return as_format(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class FormatNames(ParamType):
    """Formats by name or alias, separated by commas."""

    name = "format,format,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[FloatFormat, ...]:
        if isinstance(value, tuple):
            return value
        names = [name for name in value.split(",") if name.strip()]
        if not names:
            self.fail("name at least one format", param, ctx)
        try:
            formats = [as_format(name) for name in names]
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return tuple(dict.fromkeys(formats))


class EngineName(ParamType):
    """An engine by name or alias."""

    name = "engine"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Engine:
        try:
            return as_engine(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def flush() -> None:
    """What is printed reaches its place now, and a full one says so now."""
    if sys.stdout is not None:
        sys.stdout.flush()


def close_outputs() -> None:
    """Standard output goes nowhere from here on: what could not be printed is not tried again at exit."""
    with suppress(OSError, ValueError):
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
        os.close(sink)


@contextmanager
def told_of(path: str) -> Iterator[None]:
    """A file is written meanwhile; says so, or in one line why not."""
    try:
        yield
    except OSError as error:
        raise click.ClickException(f"{path}: {first_line(error)}") from None
    click.echo(f"wrote {shown(path)}", err=True)


def console() -> Console:
    """The console of standard output; wide enough for a table where it is a pipe."""
    from rich.console import Console

    out = Console(highlight=False, soft_wrap=False, emoji=False, markup=False)
    return out if out.is_terminal else Console(highlight=False, emoji=False, markup=False, width=PIPE_WIDTH)


def plain_table(*headings: str, left: int = 1) -> Table:
    """A table whose first ``left`` columns are text and the others numbers; closer together in a narrow terminal."""
    from rich import box
    from rich.table import Table

    wide = console().width >= WIDE
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 3 if wide else 0, 0, 0), pad_edge=False, show_edge=wide)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < left else "right", overflow="fold")
    return table


def print_json(data: Any) -> None:
    """One JSON document on standard output: NaN is null, an infinity the string "Infinity" or "-Infinity"."""
    text = json.dumps(_jsonable(data), indent=2, allow_nan=False)
    sys.stdout.write(text + "\n")


def _jsonable(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _jsonable(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_jsonable(value) for value in data]
    if hasattr(data, "tolist"):  # NumPy arrays and scalars
        return _jsonable(data.tolist())
    if isinstance(data, float) and not math.isfinite(data):
        return None if math.isnan(data) else "Infinity" if data > 0 else "-Infinity"
    return data
