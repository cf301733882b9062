"""Mutants against their tests, each in a process of its own that was forked with the libraries already imported.

The mutant replaces its module as that is imported; no file changes.  So what compares files (stale reports, fingerprints)
kills no mutant, and neither does a test that starts a Python of its own.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic, process_time
from types import CodeType
from typing import Any

import pytest

LIBRARIES = (
    "numpy", "numba", "pandas", "matplotlib.pyplot", "hypothesis", "scipy.stats", "sklearn.datasets", "click", "rich.table",
    "jinja2", "gfloat", "ml_dtypes",
)  # fmt: skip
IMPORTED = "ignore:Module already imported so cannot be rewritten"  # those above
OURS = ("analysis", "benchmarks", "fpemu", "tests")
MEMORY = 16 << 30  # bytes of addresses; a mutant that wants more is killed
FACTOR = 10.0  # how many times what a test took it may take
STOPPED = {-signal.SIGPROF, -signal.SIGKILL}
NO_TESTS = 5  # pytest's exit code


@dataclass(frozen=True)
class Trial:
    """file and content: the module and what it becomes (None: unchanged, a control).  tests: in order.

    seconds: what each test took, without the mutant.  enough: seconds of processor time after which no other test begins.
    patience: how many more a test may take than ten times what it took.
    """

    file: str
    content: bytes | None
    tests: Sequence[str]
    seconds: Sequence[float]
    enough: float
    patience: float

    @property
    def wall_limit(self) -> float:
        """For tests that wait; one that computes for ever is stopped by its own limit."""
        return 6 * self.patience + 5 * min(sum(self.seconds), self.enough + max(self.seconds))


@dataclass(frozen=True)
class Ended:
    """passed: all tests that ran.  late: out of time.  none: nothing ran, since the names of the tests went with the mutant.

    left_out: how many tests there was no time for.
    """

    passed: bool
    late: bool
    none: bool
    killer: str
    left_out: int
    seconds: float


def preload() -> None:
    for name in LIBRARIES:
        importlib.import_module(name)


def run_all(trials: Sequence[Trial], tree: Path, logs: Path, jobs: int) -> Iterator[tuple[int, Ended]]:
    """So many at a time; each by its place, as they end. What tests print is kept in the folder of logs."""
    waiting = list(enumerate(trials))[::-1]
    running: dict[int, _Running] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                place, trial = waiting.pop()
                result = logs / f"{place:04d}.json"
                process = get_context("fork").Process(target=run, args=(trial, tree, result))
                process.start()
                running[process.sentinel] = _Running(place, process, result, monotonic(), trial.wall_limit)
            ended = connection.wait(list(running), timeout=1.0)
            for sentinel, one in list(running.items()):
                if sentinel in ended or monotonic() - one.begun > one.limit:
                    del running[sentinel]
                    yield one.place, one.end(late=sentinel not in ended)
    finally:
        for one in running.values():
            one.end(late=True)


@dataclass(frozen=True)
class _Running:
    place: int
    process: BaseProcess
    result: Path
    begun: float
    limit: float

    def end(self, late: bool) -> Ended:
        """What became of it; whatever it started ends with it."""
        seconds = monotonic() - self.begun
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.join()
        code = self.process.exitcode
        told = {"killer": "", "left_out": 0} | (json.loads(self.result.read_text()) if self.result.exists() else {})
        return Ended(
            code == 0 and not late, late or code in STOPPED, code == NO_TESTS, **told, seconds=round(seconds, 1)
        )


def run(trial: Trial, tree: Path, result: Path) -> None:
    """Runs in the forked process and ends it: exit code of pytest; the test that failed first goes to ``result``."""
    os.setsid()
    output = os.open(result.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.chdir(tree)
    for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
        del sys.modules[name]
    sys.path[:] = [str(tree), *(entry for entry in sys.path[1:] if entry)]
    importlib.invalidate_caches()
    if trial.content is not None:
        sys.meta_path.insert(0, Mutated(tree / trial.file, trial.file, trial.content))
    files = list(dict.fromkeys(test.split("::")[0] for test in trial.tests))
    options = ["-x", "-q", "--tb=short", "--no-header", "-p", "no:cacheprovider", "-n", "0", "-W", IMPORTED]
    code = pytest.main([*options, *files], plugins=[Chosen(trial, result)])
    sys.stdout.flush()
    os._exit(int(code))


class Mutated(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Finds one module, with other content."""

    def __init__(self, path: Path, file: str, content: bytes) -> None:
        module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        super().__init__(module, str(path))
        self.content = content

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.content, self.path, "exec", dont_inherit=True)


class Chosen:
    """A pytest plugin: only these tests, in this order, each within its time, as long as there is time."""

    def __init__(self, trial: Trial, result: Path) -> None:
        self.place = {test: place for place, test in enumerate(trial.tests)}
        self.seconds = dict(zip(trial.tests, trial.seconds, strict=True))
        self.enough, self.patience, self.result = trial.enough, trial.patience, result
        self.begun, self.left_out = False, 0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.place), key=lambda i: self.place[i.nodeid])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self) -> bool | None:
        """True: as if it had run; at least one does."""
        if not self.begun or process_time() < self.enough:
            self.begun = True
            return None
        self.left_out += 1
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        signal.setitimer(signal.ITIMER_PROF, self.patience + FACTOR * self.seconds[item.nodeid])

    def pytest_runtest_logfinish(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.result.write_text(json.dumps({"killer": report.nodeid}))

    def pytest_sessionfinish(self) -> None:
        if self.left_out:
            self.result.write_text(json.dumps({"left_out": self.left_out}))
