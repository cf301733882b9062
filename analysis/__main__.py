"""``python -m analysis``: list the experiments, run them (resumable), make the report.

Exit codes: 0 all well; 1 an experiment failed, one that was named has a fuller result, or a report is stale;
2 a wrong command line; 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape as without_markup
from rich.table import Table

from analysis import experiment as contract
from analysis import progress, results, runner
from analysis import report as pages
from analysis.experiment import PROFILES, Profile
from analysis.lock import Occupied, alone
from fpemu.shown import shown

REPORTS = Path(__file__).resolve().parent.parent / "reports"
QUICK = "quick"  # the folder of quick results beside the full ones, which version control does not see
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
    default=None,
    show_default="reports/ of the checkout, for quick runs reports/quick/",
    help="Folder of the results.",
)


wait_option = click.option(
    "--wait", is_flag=True, help="Where another lab works in the folder, wait for its end instead of giving up."
)


def escape(text: str) -> str:
    """Text for rich, without markup and in characters that print."""
    return without_markup(shown(text))


@contextmanager
def _alone(folder: Path, command: str, wait: bool) -> Iterator[None]:
    """The folder to ourselves; one line where another lab has it."""

    def tell(line: str) -> None:
        err.print(f"[yellow]note:[/] {escape(line)}", soft_wrap=True)

    try:
        with alone(folder, f"python -m analysis {command}", tell if wait else None):
            yield
    except Occupied as error:
        raise click.ClickException(str(error)) from None


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


def folder_of(reports: Path | None, profile: str) -> Path:
    """Where the results of a profile are: the folder that was named, else the checkout's, quick ones in one of their own."""
    return reports or (REPORTS / QUICK if profile == QUICK else REPORTS)


@cli.command("list")
@reports_option
def list_command(reports: Path | None) -> None:
    """What experiments there are, and what they found, in full runs and in quick ones."""
    full = reports or REPORTS
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("experiment", "question", "result"):
        table.add_column(heading, overflow="fold", ratio=3 if heading == "question" else None)
    failed = False
    for name in contract.names():
        try:
            question = contract.load(name).QUESTION
        except Exception as error:
            question, failed = f"cannot be loaded: {type(error).__name__}: {error}", True
        states = [_state(folder / name) for folder in (full, full / QUICK) if (folder / name).exists()]
        table.add_row(name, escape(question), "\n".join(states) or "[dim]not run[/]")
    out.print(table)
    if failed:
        raise click.exceptions.Exit(1)


def _state(folder: Path) -> str:
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
@click.option("--replace", is_flag=True, help="Let a lesser result (quick, of fewer seeds) take a fuller one's place.")
@wait_option
@reports_option
def run_command(
    names: Sequence[str], profile: str, seeds: int, fresh: bool, replace: bool, wait: bool, reports: Path | None
) -> None:
    """Run experiments (all, and then the report, if none is named).

    Every finished unit is kept: an interrupted run goes on where it stopped, and what is up to date is not measured
    again. A quick run writes into reports/quick/, and a fuller result is never replaced by a lesser one unless told so.
    One lab at a time works in a folder.
    """
    chosen = list(dict.fromkeys(names)) or contract.names()
    folder = folder_of(reports, profile)
    wanted = Profile(profile, seeds)
    with _alone(folder, " ".join(["run", *names]), wait):
        _announce(chosen, wanted, folder)
        _run_and_report(chosen, names, wanted, reports, fresh=fresh, replace=replace)


def _run_and_report(
    chosen: Sequence[str], names: Sequence[str], wanted: Profile, reports: Path | None, *, fresh: bool, replace: bool
) -> None:
    """Run, say what came of it, and make the pages where all were run; ``names``: those that were asked for."""
    folder = folder_of(reports, wanted.name)
    failures, spared = _run_all(chosen, wanted, folder, fresh=fresh, replace=replace)
    for fuller in spared:
        err.print(
            f"[{'red' if names else 'yellow'}]{'error' if names else 'note'}:[/] {escape(fuller)}", soft_wrap=True
        )
    for failure in failures:
        err.print(f"[red]error:[/] {escape(failure)}", soft_wrap=True)
    if not names or (reports is None and wanted.name == QUICK and len(failures) < len(chosen)):
        _write_report(folder)
    elif len(failures) + len(spared) < len(chosen):
        where = "" if reports is None else f" --reports {reports}"
        out.print(f"[dim]python -m analysis report{escape(where)} brings the pages up to date[/]", soft_wrap=True)
    if failures or (names and spared):
        raise click.exceptions.Exit(1)


def _announce(chosen: Sequence[str], profile: Profile, folder: Path) -> None:
    """The first line: what is run, how long it takes, where it goes."""
    count = "1 experiment" if len(chosen) == 1 else f"{len(chosen)} experiments"
    takes = progress.expected(chosen, profile, (folder, REPORTS))
    out.print(
        f"{count}, {profile.name}{': ' + takes if takes else ''}; results go to {escape(str(folder))}", soft_wrap=True
    )


def _run_all(
    names: Sequence[str], profile: Profile, reports: Path, *, fresh: bool, replace: bool
) -> tuple[list[str], list[str]]:
    """Run each; returns a line for each that failed, and one for each whose result was left alone, being fuller.

    One failure does not stop the others.
    """
    failures, spared = [], []
    with progress.reporter(err, len(names)) as telling:
        for name in names:
            watch = telling.begin(name)
            try:
                loaded = contract.load(name)
                outcome = runner.run(loaded, profile, reports, fresh=fresh, replace=replace, watch=watch)
            except runner.Fuller as fuller:
                spared.append(str(fuller))
                telling.end("a fuller result stays")
                continue
            except runner.Failed as error:
                failures.append(str(error))
            except runner.Interrupted:
                raise
            except Exception as error:
                failures.append(f"{name} cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())}")
            else:
                status = outcome.verdict.status
                telling.end(
                    "up to date" if not outcome.measured else f"{outcome.measured} of {outcome.units} units measured"
                )
                out.print(f"{name}: [{COLOURS[status]}]{status}[/]. {escape(outcome.verdict.summary)}", soft_wrap=True)
                continue
            telling.end("failed", failed=True)
    return failures, spared


@cli.command("redraw")
@click.argument("names", nargs=-1, type=ExperimentName())
@wait_option
@reports_option
def redraw_command(names: Sequence[str], wait: bool, reports: Path | None) -> None:
    """Make words, verdicts and figures of finished results anew (all, and then the report, if none is named).

    From their tables, with the sources of today; nothing is measured, and what a result says of its run stays.
    """
    folder = reports or REPORTS
    with _alone(folder, " ".join(["redraw", *names]), wait):
        _redraw(names, folder)


def _redraw(names: Sequence[str], folder: Path) -> None:
    there = [path.parent.name for path in sorted(folder.glob(f"*/{results.RESULT}"))]
    for name in list(dict.fromkeys(names)) or there:
        try:
            verdict = runner.redraw(contract.load(name), folder)
        except Exception as error:
            said = str(error) if isinstance(error, results.ResultError) else f"{name}: {type(error).__name__}: {error}"
            raise click.ClickException(said) from error
        out.print(f"{name}: [{COLOURS[verdict.status]}]{verdict.status}[/]. {escape(verdict.summary)}", soft_wrap=True)
    if not names:
        _write_report(folder)


@cli.command("report")
@click.option(
    "--check",
    is_flag=True,
    help="Write nothing; exit 1 and name every file that is stale, altered or forged: verdicts are made anew from their tables.",
)
@wait_option
@reports_option
def report_command(check: bool, wait: bool, reports: Path | None) -> None:
    """Make index.html, README.md and claims.md from the results that are there."""
    folder = reports or REPORTS
    if not check:
        with _alone(folder, "report", wait) if folder.is_dir() else nullcontext():
            _write_report(folder)
        return
    try:
        stale = pages.problems(folder)
        old = not stale and pages.page_is_old(folder)
    except results.ResultError as error:
        for line in error.lines:
            err.print(f"[red]error:[/] {escape(line)}", soft_wrap=True)
        raise click.exceptions.Exit(1) from None
    for problem in stale:
        err.print(f"[red]stale:[/] {escape(problem)}", soft_wrap=True)
    if stale:
        raise click.exceptions.Exit(1)
    if old:
        err.print("[yellow]note:[/] index.html is of other results; python -m analysis report makes it anew")
    out.print("[green]✓[/] the report agrees with its results")


def _write_report(folder: Path) -> None:
    runner.recover(folder)
    try:
        written = pages.write(folder)
    except results.ResultError as error:
        raise click.ClickException(str(error)) from None
    *others, page = (escape(str(path)) for path in written)
    out.print(f"wrote {', '.join(others)}\nthe report: {page}", soft_wrap=True)


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
