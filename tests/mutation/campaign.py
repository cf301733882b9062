"""A run from the copy of the tree to the last mutant; what is finished is kept, and an interrupted run goes on from there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic
from typing import Any

from analysis.files import write_whole
from tests.mutation import covering, recorder, trial
from tests.mutation.candidates import Mutant, draw, files, mutants, required_arguments

OWN = Path(__file__).parents[2]
COPIED = ("analysis", "benchmarks", "fpemu", "tests", "reports", "README.md", "CHANGELOG.md")
COPIED += ("pyproject.toml", "setup.cfg", "tox.ini")
# what only draws and reports: with it changed, outcomes stand
DRAWING = ("__main__.py", "candidates.py", "operators.py", "report.py", "survivors.toml")
KILLED, TIMED_OUT, SURVIVED, UNCOVERED = "killed", "timed out", "survived", "not covered"
STOPPED = {-signal.SIGPROF, -signal.SIGKILL}
PYTEST_OK, PYTEST_NONE = 0, 5


class CampaignError(Exception):
    """What makes the numbers worthless: tests that fail without a mutant."""


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: killer is the test that failed first, tests how many it ran against, left_out those beyond the time."""

    key: str
    status: str
    seconds: float = 0.0
    killer: str = ""
    tests: int = 0
    left_out: int = 0


@dataclass(frozen=True)
class Settings:
    """number (0: all), seed, only (files or folders, none: all): of the draw.  seconds: of tests for a mutant.  patience: of a test.

    tests: files to record; none: all that reach the code by imports.  jobs: processes at a time.
    """

    number: int = 300
    seed: int = 1
    only: tuple[str, ...] = ()
    seconds: float = 60.0
    patience: float = 20.0
    tests: tuple[str, ...] = ()
    jobs: int = 2


class Campaign:
    def __init__(self, root: Path, work: Path, settings: Settings, say: Callable[[str], None]) -> None:
        self.root, self.work, self.settings, self.say = root, work.resolve(), settings, say
        self.tree, self.records = self.work / "tree", self.work / "records"
        self.state = self.work / "outcomes.json"

    def run(self) -> tuple[list[Mutant], dict[str, Outcome]]:
        """The drawn mutants and what became of them, by key."""
        self.copy()
        drawn = self.drawn()
        self.record()
        return drawn, self.try_all(drawn)

    def copy(self) -> None:
        """The tree as it is now; times of files are kept, by which Numba knows what it compiled."""
        self.work.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.tree, ignore_errors=True)
        self.tree.mkdir()
        ignore = shutil.ignore_patterns("__pycache__", ".partial")
        for name in COPIED:
            if (self.root / name).is_dir():
                shutil.copytree(self.root / name, self.tree / name, ignore=ignore)
            elif (self.root / name).exists():
                shutil.copy2(self.root / name, self.tree / name)

    def drawn(self) -> list[Mutant]:
        """Of all candidates, or of those in the files asked for."""
        required, found = required_arguments(self.tree), []
        for file in files(self.tree):
            if not self.settings.only or any(file.startswith(name) for name in self.settings.only):
                found += mutants(file, (self.tree / file).read_bytes(), required)
        number = self.settings.number or len(found)
        chosen = draw(found, number, self.settings.seed)
        self.say(f"{len(chosen)} of {len(found)} mutants drawn with seed {self.settings.seed}")
        return chosen

    # ---- which tests run which line -----------------------------------------------------------------------------------
    def fingerprint(self) -> str:
        """Of the code, the tests, how they are run, and which of them are recorded."""
        whole = sha256(repr((self.settings.tests, self.settings.seconds, self.settings.patience, sys.version)).encode())
        for path in sorted(self.tree.rglob("*")):
            draws = path.parent.name == "mutation" and path.name in DRAWING
            if path.is_file() and "__pycache__" not in path.parts and not draws:
                whole.update(path.relative_to(self.tree).as_posix().encode() + b"\0" + path.read_bytes())
        return whole.hexdigest()

    def record(self) -> None:
        """Run the tests once with the recorder, unless these very files were recorded before."""
        made, fingerprint = self.records / "of", self.fingerprint()
        if made.exists() and made.read_text() == fingerprint:
            self.say("tests by line: as recorded before")
            return
        self.state.unlink(missing_ok=True)
        shutil.rmtree(self.records, ignore_errors=True)
        self.records.mkdir()
        start, tests = monotonic(), self.settings.tests or covering.reaching(self.tree)
        self.say(f"recording which tests of {len(tests)} files run which line, some minutes")
        command = [sys.executable, "-m", "pytest", "-q", "-n", str(self.settings.jobs), "--dist", "worksteal"]
        command += ["-p", "tests.mutation.recorder", "-p", "no:cacheprovider", *tests]
        environment = {**os.environ, recorder.FOLDER: str(self.records), "PYTHONPATH": f"{self.tree}{os.pathsep}{OWN}"}
        with open(self.work / "recording.log", "wb") as log:
            code = subprocess.run(command, cwd=self.tree, env=environment, stdout=log, stderr=log).returncode
        if code:
            raise CampaignError(f"the tests fail without a mutant: see {log.name}")
        write_whole(made, fingerprint.encode())
        self.say(f"recorded in {monotonic() - start:.0f} s")

    # ---- trials -------------------------------------------------------------------------------------------------------
    def try_all(self, drawn: Sequence[Mutant]) -> dict[str, Outcome]:
        """Each mutant not tried before; first, as a control, a file of each with nothing changed."""
        record = covering.read(self.records, self.tree)
        imported_by = covering.importers(self.tree, sorted({mutant.file for mutant in drawn}))
        done = self.kept()
        plans = []
        for mutant in drawn:
            if mutant.key in done:
                continue
            tests = record.tests(mutant, imported_by[mutant.file])
            chosen = covering.within(tests, record.seconds, self.settings.seconds)
            plans.append((mutant, chosen, len(tests) - len(chosen)))
        controls = {mutant.file: (mutant, chosen, 0) for mutant, chosen, _ in plans if chosen}
        trials = [(None, *plan) for plan in controls.values()] + [(plan[0], *plan) for plan in plans]
        self.say(f"{len(plans)} mutants to try, {len(done)} tried before, {len(controls)} controls")
        if trials:
            trial.preload()
        start = said = monotonic()
        for place, (mutant, outcome) in enumerate(self._outcomes(trials, record.seconds), start=1):
            if mutant is None:
                if outcome.status != SURVIVED:
                    raise CampaignError(
                        f"{outcome.killer or 'tests'} failed without a mutant: see {self.work / 'logs'}"
                    )
                continue
            done[mutant.key] = outcome
            write_whole(self.state, json.dumps([vars(one) for one in done.values()], indent=1).encode())
            if monotonic() - said >= 60 or place == len(trials):
                said = monotonic()
                alive = sum(done[one.key].status in (SURVIVED, UNCOVERED) for one in drawn if one.key in done)
                self.say(f"{place} of {len(trials)} trials, {alive} mutants alive, {(said - start) / 60:.1f} min")
        return {mutant.key: done[mutant.key] for mutant in drawn}

    def kept(self) -> dict[str, Outcome]:
        """What is known of these very files."""
        rows = json.loads(self.state.read_text()) if self.state.exists() else []
        return {row["key"]: Outcome(**row) for row in rows}

    def _outcomes(self, trials: Sequence[Any], seconds: dict[str, float]) -> Iterator[tuple[Mutant | None, Outcome]]:
        """As they end, ``jobs`` at a time."""
        logs = self.work / "logs"
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir()
        waiting, running = list(enumerate(trials)), {}
        try:
            while waiting or running:
                while waiting and len(running) < self.settings.jobs:
                    place, (mutant, example, tests, left_out) = waiting.pop(0)
                    if not tests:
                        yield mutant, Outcome(example.key, UNCOVERED)
                        continue
                    content = mutant.applied((self.tree / mutant.file).read_bytes()) if mutant else None
                    took = [seconds[test] for test in tests]
                    one = trial.Trial(example.file, content, tests, took, self.settings.patience)
                    result = logs / f"{place:04d}.json"
                    process = get_context("fork").Process(target=trial.run, args=(one, self.tree, result))
                    process.start()
                    running[process.sentinel] = (process, mutant, example, one, left_out, result, monotonic())
                ended = connection.wait(list(running), timeout=1.0)
                for sentinel, (process, mutant, example, one, left_out, result, begun) in list(running.items()):
                    if sentinel not in ended and monotonic() - begun < one.wall_limit:
                        continue
                    late = sentinel not in ended
                    _end(process)
                    del running[sentinel]
                    status = TIMED_OUT if late or process.exitcode in STOPPED else KILLED
                    passing = (
                        {PYTEST_OK, PYTEST_NONE} if mutant else {PYTEST_OK}
                    )  # none: their names went with the mutant
                    status = SURVIVED if process.exitcode in passing and not late else status
                    killer = json.loads(result.read_text()) if result.exists() else ""
                    passed = monotonic() - begun
                    yield mutant, Outcome(example.key, status, round(passed, 1), killer, len(one.tests), left_out)
        finally:
            for process, *_ in running.values():
                _end(process)


def _end(process: BaseProcess) -> None:
    """The process, and what it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
