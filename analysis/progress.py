"""How a run tells what it is at: bars in a terminal; in a file, where bars show nothing, a plain line a minute."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from analysis.experiment import PROFILES, Profile, names
from analysis.results import Result, ResultError
from analysis.runner import Watch

LINE_EVERY = 60.0  # seconds between two lines of a run whose output is no terminal
QUICK = "4 to 6 minutes on 2 cores"  # all experiments, compiled code kept from an earlier run or not


class Reporter(Protocol):
    """What a run tells as it goes: of each experiment when it begins, where it is, and how it ended."""

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...  # fmt: skip
    def begin(self, name: str) -> Watch: ...
    def end(self, how: str, *, failed: bool = False) -> None: ...


class Bars:
    """A bar an experiment, for a terminal."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.fields[name]}"),
            BarColumn(bar_width=28),
            TextColumn("{task.completed:.0f}/{task.total:.0f} units"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[doing]}[/]"),
            console=console,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, name: str) -> Watch:
        task = self._task = self._progress.add_task(name, name=name, total=1, doing="loading")
        self._units = 1

        def watch(done: int, units: int, doing: str) -> None:
            self._units = units
            self._progress.update(task, completed=done, total=units, doing=escape(doing))

        return watch

    def end(self, how: str, *, failed: bool = False) -> None:
        if failed:
            self._progress.update(self._task, doing=f"[red]{escape(how)}[/]")
            self._progress.stop_task(self._task)
        else:
            self._progress.update(self._task, completed=self._units, total=self._units, doing=escape(how))


class Lines:
    """A line now and then, for a file: how long it has taken, how much is done, what is being done."""

    def __init__(self, console: Console, experiments: int, every: float = LINE_EVERY) -> None:
        self._console, self._experiments, self._every = console, experiments, every
        self._ended, self._at = 0, ""
        self._stop = Event()
        self._thread = Thread(target=self._tell, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def begin(self, name: str) -> Watch:
        self._at = f"{name}: loading"

        def watch(done: int, units: int, doing: str) -> None:
            self._at = f"{name}: {done} of {units} units, now {doing}"

        return watch

    def end(self, how: str, *, failed: bool = False) -> None:
        self._ended += 1
        self._at = ""

    def _tell(self) -> None:
        while not self._stop.wait(self._every):
            minutes = (time.monotonic() - self._started) / 60
            line = f"after {minutes:.1f} min: {self._ended} of {self._experiments} experiments done"
            self._console.print(f"{line}; {self._at}" if self._at else line, markup=False, soft_wrap=True)


def reporter(console: Console, experiments: int) -> Reporter:
    """The one that suits where the output goes."""
    return Bars(console) if console.is_terminal else Lines(console, experiments)


def expected(chosen: Sequence[str], profile: Profile, folders: Sequence[Path]) -> str:
    """How long a run will take, as far as earlier ones tell; empty where nothing is known.

    ``folders``: where results of earlier runs may be. A run of other seeds, or of more, is no measure.
    """
    if profile.name == PROFILES[0] and list(chosen) == names():
        return QUICK
    seconds = [_seconds(name, profile, folders) for name in chosen]
    if any(known is None for known in seconds):
        return ""
    total = sum(known or 0 for known in seconds)
    return f"{total:.0f} s when last measured" if total < 90 else f"{total / 60:.0f} minutes when last measured"


def _seconds(name: str, profile: Profile, folders: Sequence[Path]) -> float | None:
    for folder in folders:
        try:
            record = Result.read(folder / name).record
        except ResultError:
            continue
        if (record["profile"], record["seeds"]) == (profile.name, profile.seeds):
            return float(record["seconds"])
    return None
