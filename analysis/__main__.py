"""``python -m analysis``: list the experiments, run them (resumable), make the report.

Exit codes: 0 all well; 1 an experiment failed or a report is stale; 2 a wrong command line; 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from analysis import experiment as contract
from analysis import report as pages
from analysis import results, runner
from analysis.experiment import PROFILES, Experiment, Profile

REPORTS = Path(__file__).resolve().parent.parent / "reports"
COLOURS = {
    "holds": "green",
    "holds with conditions": "yellow",
    "does not hold at this scale": "red",
    "no claim": "cyan",
}

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class ExperimentName(click.ParamType[str]):
    """An experiment by name (e02_format_atlas) or number (e02)."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return contract.resolve(value)
        except ValueError as error:
            raise click.UsageError(str(error), ctx) from None


reports_option = click.option(
    "--reports",
    type=click.Path(path_type=Path, file_okay=False),
    default=REPORTS,
    show_default="reports/ of the checkout",
    help="Folder of the results.",
)


class Commands(click.Group):
    """A group that lists its commands when it is asked for one it does not have."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"no command {args[0]!r}; there are: {', '.join(sorted(self.commands))}")
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """The laboratory of fpemu: experiments, their results, their report."""


@cli.command("list")
@reports_option
def list_command(reports: Path) -> None:
    """What experiments there are, and what they found."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("experiment", "question", "result"):
        table.add_column(heading, overflow="fold", ratio=3 if heading == "question" else None)
    failed = False
    for name in contract.names():
        try:
            question = contract.load(name).QUESTION
        except Exception as error:
            question, failed = f"cannot be loaded: {type(error).__name__}: {error}", True
        table.add_row(name, escape(question), _state(reports / name))
    out.print(table)
    if failed:
        raise click.exceptions.Exit(1)


def _state(folder: Path) -> str:
    if not folder.exists():
        return "[dim]not run[/]"
    try:
        record = results.Result.read(folder).record
    except results.ResultError as error:
        return f"[red]{escape(str(error))}[/]"
    status = record["verdict"]["status"]
    return f"[{COLOURS[status]}]{status}[/] [dim]({record['profile']}, seeds {record['seeds']})[/]"


@cli.command("run")
@click.argument("names", nargs=-1, type=ExperimentName())
@click.option(
    "--profile",
    type=click.Choice(PROFILES),
    default="quick",
    show_default=True,
    help="Minutes on a laptop, or everything.",
)
@click.option(
    "--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Seeds where chance plays a part."
)
@click.option("--fresh", is_flag=True, help="Measure again what is already there.")
@reports_option
def run_command(names: Sequence[str], profile: str, seeds: int, fresh: bool, reports: Path) -> None:
    """Run experiments (all, and then the report, if none is named).

    Every finished unit is kept: an interrupted run goes on where it stopped, and what is up to date is not measured
    again.
    """
    chosen = list(dict.fromkeys(names)) or contract.names()
    failures = _run_all(chosen, Profile(profile, seeds), fresh, reports)
    if not names:
        _write_report(reports)
    elif len(failures) < len(chosen):
        out.print("[dim]python -m analysis report brings the pages up to date[/]")
    for failure in failures:
        err.print(f"[red]error:[/] {escape(failure)}", soft_wrap=True)
    if failures:
        raise click.exceptions.Exit(1)


def _run_all(names: Sequence[str], profile: Profile, fresh: bool, reports: Path) -> list[str]:
    """Run each; returns one line for each that failed. One failure does not stop the others."""
    failures = []
    progress = Progress(
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.fields[name]}"),
        BarColumn(bar_width=28),
        TextColumn("{task.completed:.0f}/{task.total:.0f} units"),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[doing]}[/]"),
        console=err,
    )
    with progress:
        for name in names:
            task = progress.add_task(name, name=name, total=1, doing="loading")
            try:
                loaded = contract.load(name)
                outcome = _run_one(loaded, profile, fresh, reports, progress, task)
            except runner.Failed as error:
                failures.append(str(error))
            except runner.Interrupted:
                raise
            except Exception as error:
                failures.append(f"{name} cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())}")
            else:
                status = outcome.verdict.status
                kept = "up to date" if not outcome.measured else f"{outcome.measured} of {outcome.units} units measured"
                progress.update(task, completed=outcome.units, total=outcome.units, doing=kept)
                out.print(f"{name}: [{COLOURS[status]}]{status}[/]. {escape(outcome.verdict.summary)}", soft_wrap=True)
                continue
            progress.update(task, doing="[red]failed[/]")
            progress.stop_task(task)
    return failures


def _run_one(
    experiment: Experiment, profile: Profile, fresh: bool, reports: Path, progress: Progress, task: TaskID
) -> runner.Outcome:
    def watch(done: int, units: int, doing: str) -> None:
        progress.update(task, completed=done, total=units, doing=escape(doing))

    replaced = _finished_profile(reports / contract.short_name(experiment))
    if replaced == "full" and profile.name == "quick":
        progress.console.print(
            f"[yellow]note:[/] a full result of {contract.short_name(experiment)} is being replaced by a quick one"
        )
    return runner.run(experiment, profile, reports, fresh=fresh, watch=watch)


def _finished_profile(folder: Path) -> str | None:
    try:
        return str(results.Result.read(folder).record["profile"])
    except results.ResultError:
        return None


@cli.command("redraw")
@click.argument("names", nargs=-1, type=ExperimentName())
@reports_option
def redraw_command(names: Sequence[str], reports: Path) -> None:
    """Make words, verdicts and figures of finished results anew (all, and then the report, if none is named).

    From their tables, with the sources of today; nothing is measured, and what a result says of its run stays.
    """
    for name in list(dict.fromkeys(names)) or [
        path.parent.name for path in sorted(reports.glob(f"*/{results.RESULT}"))
    ]:
        try:
            verdict = runner.redraw(contract.load(name), reports)
        except Exception as error:
            said = str(error) if isinstance(error, results.ResultError) else f"{name}: {type(error).__name__}: {error}"
            raise click.ClickException(said) from error
        out.print(f"{name}: [{COLOURS[verdict.status]}]{verdict.status}[/]. {escape(verdict.summary)}", soft_wrap=True)
    if not names:
        _write_report(reports)


@cli.command("report")
@click.option("--check", is_flag=True, help="Write nothing; exit 1 and name every file that is stale.")
@reports_option
def report_command(check: bool, reports: Path) -> None:
    """Make index.html and README.md from the results that are there."""
    if not check:
        _write_report(reports)
        return
    try:
        stale = pages.problems(reports)
    except results.ResultError as error:
        raise click.ClickException(str(error)) from None
    for problem in stale:
        err.print(f"[red]stale:[/] {escape(problem)}", soft_wrap=True)
    if stale:
        raise click.exceptions.Exit(1)
    out.print("[green]✓[/] the report agrees with its results")


def _write_report(reports: Path) -> None:
    runner.recover(reports)
    try:
        written = pages.write(reports)
    except results.ResultError as error:
        raise click.ClickException(str(error)) from None
    out.print("wrote " + ", ".join(escape(str(path)) for path in written), soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, and says in one line what is wrong."""
    try:
        code = cli.main(args=arguments, prog_name="python -m analysis", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        out.print(error.format_message(), markup=False)
        return 2
    except click.ClickException as error:
        err.print(f"[red]error:[/] {escape(' '.join(error.format_message().split()))}", soft_wrap=True)
        return error.exit_code
    except runner.Interrupted as error:
        err.print(f"interrupted: {error}; the same command resumes", soft_wrap=True)
        return 130
    except (KeyboardInterrupt, click.Abort):
        err.print("interrupted: finished units are kept; the same command resumes")
        return 130
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        err.print(f"[red]error:[/] {escape(f'{where}{error.strerror or error}')}", soft_wrap=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
