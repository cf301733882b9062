"""A run from the copy of the tree to the last mutant; what is finished is kept, and an interrupted run goes on from there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from time import monotonic

from analysis.files import write_whole
from tests.mutation import covering, recorder, trial
from tests.mutation.candidates import Mutant, draw, files, mutants, required_arguments

OWN = Path(__file__).parents[2]
# the history, environments, caches and quick results stay behind
LEFT_BEHIND = (
    ".git",
    ".tox",
    ".venv",
    ".cache",
    ".*_cache",
    ".hypothesis",
    "__pycache__",
    ".partial",
    "quick",
    "*.egg-info",
)
# what only draws and reports: with it changed, outcomes stand
DRAWING = ("__main__.py", "candidates.py", "operators.py", "report.py", "survivors.toml")
KILLED, TIMED_OUT, SURVIVED, UNCOVERED = "killed", "timed out", "survived", "not covered"


class CampaignError(Exception):
    """What makes the numbers worthless: tests that fail without a mutant."""


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: killer is the test that failed first, tests how many cover it, left_out those beyond the time."""

    key: str
    status: str
    seconds: float = 0.0
    killer: str = ""
    tests: int = 0
    left_out: int = 0


@dataclass(frozen=True)
class Settings:
    """number (0: all), seed, only (files or folders, none: all): of the draw.

    seconds: of processor time for the tests of a mutant, after which no other begins.  patience: of a test.

    tests: files to record; none: all that reach the code by imports.  jobs: processes at a time.
    """

    number: int = 300
    seed: int = 1
    only: tuple[str, ...] = ()
    seconds: float = 60.0
    patience: float = 20.0
    tests: tuple[str, ...] = ()
    jobs: int = 2


@dataclass(frozen=True)
class Plan:
    """Which tests try a mutant, in order."""

    mutant: Mutant
    tests: list[str]


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
        named = shutil.ignore_patterns(*LEFT_BEHIND)

        def left_behind(folder: str, names: list[str]) -> set[str]:
            return named(folder, names) | {name for name in names if Path(folder, name).resolve() == self.work}

        shutil.copytree(self.root, self.tree, ignore=left_behind)

    def drawn(self) -> list[Mutant]:
        """Of all candidates, or of those in the files asked for; not in functions for libraries that are not installed."""
        required, found = required_arguments(self.tree), []
        for file in files(self.tree):
            if not self.settings.only or any(file.startswith(name) for name in self.settings.only):
                found += mutants(file, (self.tree / file).read_bytes(), required)
        absent = {package for mutant in found for package in mutant.needs if not find_spec(package)}
        there = [mutant for mutant in found if not mutant.needs & absent]
        chosen = draw(there, self.settings.number or len(there), self.settings.seed)
        self.say(f"{len(chosen)} of {len(there)} mutants drawn with seed {self.settings.seed}")
        if absent:
            self.say(
                f"not among them: {len(found) - len(there)} in functions for {', '.join(sorted(absent))} (not installed)"
            )
        return chosen

    # ---- which tests run which line -----------------------------------------------------------------------------------
    def fingerprint(self) -> str:
        """Of the code, the tests, and which of them are recorded."""
        whole = sha256(repr((self.settings.tests, sys.version)).encode())
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
        output = self.work / "recording.log"
        with (
            open(output, "wb") as log,
            subprocess.Popen(command, cwd=self.tree, env=environment, stdout=log, stderr=log) as process,
        ):
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(60)
                    break
                done = re.findall(r"\[ *(\d+%)\]", output.read_text())
                self.say(f"recording, {(monotonic() - start) / 60:.0f} min, {done[-1] if done else '0%'}")
        if process.returncode:
            raise CampaignError(f"the tests fail without a mutant: see {output}")
        write_whole(made, fingerprint.encode())
        self.say(f"recorded in {monotonic() - start:.0f} s")

    # ---- trials -------------------------------------------------------------------------------------------------------
    def try_all(self, drawn: Sequence[Mutant]) -> dict[str, Outcome]:
        """Each mutant not tried before; first, as a control, a file of each with nothing changed."""
        record = covering.read(self.records, self.tree)
        imported_by = covering.importers(self.tree, files(self.tree))
        done = self.kept()
        plans: list[Plan] = []
        for mutant in drawn:
            if mutant.key not in done:
                tests = record.tests(mutant, imported_by[mutant.file])
                plans.append(Plan(mutant, covering.in_order(tests, record.seconds)))
        for plan in plans:
            if not plan.tests:
                done[plan.mutant.key] = Outcome(plan.mutant.key, UNCOVERED)
        covered = [plan for plan in plans if plan.tests]
        controls = list({plan.mutant.file: plan for plan in covered}.values())
        self.say(f"{len(covered)} mutants to try, {len(done)} tried before or not covered, {len(controls)} controls")
        if covered:
            trial.preload()
            self.control(controls, record.seconds)
            self.try_plans(covered, record.seconds, done)
        return {mutant.key: done[mutant.key] for mutant in drawn}

    def control(self, plans: Sequence[Plan], seconds: dict[str, float]) -> None:
        """The same tests, run in the same way for a shorter time, with nothing changed: CampaignError if one fails."""
        trials = [self.trial(plan, seconds, changed=False) for plan in plans]
        for place, ended in trial.run_all(trials, self.tree, self.logs("controls"), self.settings.jobs):
            if not ended.passed:
                test = ended.killer or f"the run of {plans[place].mutant.file}"
                raise CampaignError(f"{test} fails without a mutant: see {self.work / 'controls'}")
        self.say("every control passed")

    def try_plans(self, plans: Sequence[Plan], seconds: dict[str, float], done: dict[str, Outcome]) -> None:
        """Outcomes are added to ``done`` and kept as they come."""
        start = said = monotonic()
        alive = 0
        trials = [self.trial(plan, seconds, changed=True) for plan in plans]
        for number, (place, ended) in enumerate(
            trial.run_all(trials, self.tree, self.logs("logs"), self.settings.jobs), start=1
        ):
            plan = plans[place]
            status = SURVIVED if ended.passed or ended.none else TIMED_OUT if ended.late else KILLED
            key = plan.mutant.key
            done[key] = Outcome(key, status, ended.seconds, ended.killer, len(plan.tests), ended.left_out)
            write_whole(self.state, json.dumps([vars(one) for one in done.values()], indent=1).encode())
            alive += status == SURVIVED
            if monotonic() - said >= 60 or number == len(plans):
                said = monotonic()
                self.say(f"{number} of {len(plans)} mutants tried, {alive} survived, {(said - start) / 60:.1f} min")

    def trial(self, plan: Plan, seconds: dict[str, float], changed: bool) -> trial.Trial:
        mutant = plan.mutant
        content = mutant.applied((self.tree / mutant.file).read_bytes()) if changed else None
        took = [seconds[test] for test in plan.tests]
        enough = self.settings.seconds if changed else self.settings.seconds / 4
        return trial.Trial(mutant.file, content, plan.tests, took, enough, self.settings.patience)

    def logs(self, name: str) -> Path:
        """An empty folder."""
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def kept(self) -> dict[str, Outcome]:
        """What is known of these very files; a survivor whose time left tests out may have more time now."""
        rows = json.loads(self.state.read_text()) if self.state.exists() else []
        known = {row["key"]: Outcome(**row) for row in rows}
        return {key: one for key, one in known.items() if one.status != SURVIVED or not one.left_out}
