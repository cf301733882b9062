"""``python -m benchmarks``: measure, and make the tables.

Exit codes: 0 all well (also where a target is missed: that is a result); 1 an error, or a table is stale; 2 a wrong
command line; 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import tables
from benchmarks.results import FILE, Results, ResultsError

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

UNITS = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


class Size(click.ParamType[int]):
    """A number of elements: 65536, 512Ki, 64Mi."""

    name = "size"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        digits = value.rstrip("KMGi")
        unit = value[len(digits) :]
        if not digits.isdecimal() or unit not in UNITS or int(digits) * UNITS[unit] < 1024:
            self.fail(f"{value!r} is not a size: write at least 1024 elements as 65536, 512Ki or 64Mi", param, ctx)
        return int(digits) * UNITS[unit]


results_option = click.option(
    "--results",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=FILE,
    show_default="benchmarks/results.json",
    help="The file of samples.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """fpemu beside its peers and beside a plain copy of the same bytes."""


@cli.command("run")
@click.option("--size", type=Size(), default="64Mi", show_default=True, help="Elements of the large arrays.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Of fpemu, the copy, torch.")
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True, help="Turns of each contender.")
@click.option("--only", default="", metavar="PATTERN", help="Works whose name or group has this in it; writes no file.")
@results_option
def run_command(size: int, threads: int, rounds: int, only: str, path: Path) -> None:
    """Measure every work side by side and keep all samples.

    The file is written when all is measured, whole or not at all.
    """
    from benchmarks import runner

    results = runner.run(size, threads, rounds, only, out, err)
    _print_verdicts(results)
    if only:
        out.print("[dim]a part of the works: no file written[/]")
    else:
        results.write(path)
        out.print(f"wrote {escape(str(path))}; now: python -m benchmarks tables", soft_wrap=True)


def _print_verdicts(results: Results) -> None:
    grid = Table(box=None, pad_edge=False, header_style="dim", title_justify="left")
    for heading in ("work", "target", "measured", ""):
        grid.add_column(heading, justify="right" if heading == "measured" else "left")
    for name, target, value in results.verdicts():
        state = "[dim]not measured[/]" if value is None else "[green]met[/]" if target.met(value) else "[red]not met[/]"
        grid.add_row(escape(name), str(target), "" if value is None else tables.value_text(target, value), state)
    out.print(grid)


@cli.command("tables")
@click.option("--check", is_flag=True, help="Write nothing; exit 1 and name every file that is stale.")
@results_option
def tables_command(check: bool, path: Path) -> None:
    """Write the tables of README.md and benchmarks/README.md from the samples."""
    pages = tables.pages(Results.read(path), tables.SHORT, tables.LONG)
    stale = [file for file, (found, wanted) in pages.items() if found != wanted]
    for file in stale:
        name = escape(str(file.relative_to(tables.ROOT)))
        if check:
            err.print(f"[red]stale:[/] {name}: python -m benchmarks tables brings it up to date", soft_wrap=True)
        else:
            tables.write(file, pages[file][1])
            out.print(f"wrote {name}")
    if stale and check:
        raise click.exceptions.Exit(1)
    if not stale:
        out.print("[green]✓[/] the tables agree with the results")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, and says in one line what is wrong."""
    try:
        code = cli.main(args=arguments, prog_name="python -m benchmarks", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        out.print(error.format_message(), markup=False)
        return 2
    except click.ClickException as error:
        err.print(f"[red]error:[/] {escape(' '.join(error.format_message().split()))}", soft_wrap=True)
        return error.exit_code
    except (ResultsError, tables.TableError) as error:
        err.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        return 1
    except (KeyboardInterrupt, click.Abort):
        err.print("interrupted: nothing was written")
        return 130
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        err.print(f"[red]error:[/] {escape(f'{where}{error.strerror or error}')}", soft_wrap=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
