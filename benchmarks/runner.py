"""The whole run: works, waiting times, threads; with what is needed to say where it was made."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from statistics import median

from click import ClickException
from numba import config
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

import fpemu as fp
from analysis import environment
from benchmarks import contenders, latency, tables, threshold
from benchmarks.measure import measure
from benchmarks.results import PEER, THREADS, Crossing, Measured, Results, Wait
from benchmarks.works import WORKS, Inputs, Work

FACTS = ("fpemu", "commit", "python", "numba", "cpu", "cores", "machine", "system")


Step = tuple[str, str, Callable[[], None]]  # name, group, and what is done


def run(size: int, threads: int, rounds: int, only: str, out: Console, err: Console) -> Results:
    """Measure everything whose name or group contains ``only``."""
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        raise ClickException("NUMBA_DISABLE_JIT is set: there is nothing to measure")
    inputs = Inputs(size)
    works: list[Measured] = []
    waits: list[Wait] = []
    crossings: list[Crossing] = []

    def work_step(work: Work) -> None:
        works.append(measure(work, inputs, threads, rounds))
        out.print(line(works[-1]), soft_wrap=True)

    def wait_step(measure_group: latency.Group, name: str) -> None:
        for wait in measure_group(name, threads, rounds):
            waits.append(wait)
            out.print(f"{escape(wait.name)}: {tables.seconds_text(median(wait.seconds))}", soft_wrap=True)

    def crossing_step(choice: threshold.Choice, work: Work, prepare: contenders.Prepare) -> None:
        crossings.append(threshold.crossing(choice, work, prepare, threads, rounds, size))

    steps: list[Step] = [(work.name, work.group, partial(work_step, work)) for work in WORKS]
    steps += [(name, name, partial(wait_step, group, name)) for name, group in latency.GROUPS.items()]
    steps += [
        (f"{choice.name}, {work.name}", choice.name, partial(crossing_step, choice, work, prepare))
        for choice in threshold.CHOICES
        for work, prepare in threshold.WORKS
        if threads > 1 or choice.name != THREADS
    ]
    steps = [step for step in steps if any(only.lower() in text.lower() for text in step[:2])]
    if not steps:
        raise ClickException(f"no work has {only!r} in its name or group")

    absent = [name for name, version in packages().items() if version == "absent"]
    if absent:
        out.print(f"[dim]not installed, so left out: {', '.join(absent)}[/]")
    columns = (TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.completed}/{task.total}"))
    try:
        with Progress(*columns, TimeElapsedColumn(), console=err, transient=True) as progress:
            task = progress.add_task("", total=len(steps))
            for name, _, do in steps:
                progress.update(task, description=escape(name))
                do()
                progress.advance(task)
    finally:
        fp.set_threads(None)
    return Results(
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        size,
        threads,
        rounds,
        {name: value for name, value in environment.describe().items() if name in FACTS and value is not None},
        packages(),
        works,
        waits,
        crossings,
    )


def packages() -> dict[str, str]:
    """Versions of the peers."""
    return {name: environment.version(name) for name in contenders.PACKAGES}


def line(work: Measured) -> str:
    """A work in one line."""
    rate, share = tables.gelem(median(work.ours.rates)), median(work.share(work.ours))
    roof = tables.ROOF[work.unit]
    parts = [f"{escape(tables.arrows(work.name))}: [bold]{rate}[/] G{work.unit}/s, {share:.2f} of {roof}"]
    for row in work.contenders:
        if row.role == PEER and row.seconds:
            differ = f" [red]({row.differing:,} of {row.compared:,} differ)[/]" if row.differing else ""
            parts.append(f"{row.name} {tables.times(median(work.times(row)))}{differ}")
        elif row.refused:
            parts.append(f"[dim]{row.name} refuses[/]")
    return ", ".join(parts)
