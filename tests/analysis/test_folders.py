"""Where do results go, is a fuller one safe from a lesser one, and does a run tell what it is at?"""

from __future__ import annotations

import io
import re
import subprocess
from pathlib import Path
from threading import Event

import pytest
from rich.console import Console

import analysis.__main__ as command
from analysis import progress, runner
from analysis.__main__ import main
from analysis.experiment import Profile, load
from analysis.results import Result
from tests.analysis import committed
from tests.analysis.fakes import Fakes

NAME = "e90_fake"


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.fixture
def checkout(fakes: Fakes, reports: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout's reports/, with a full result and its pages."""
    monkeypatch.setattr(command, "REPORTS", reports)
    fakes.write()
    assert main(["run", "--profile", "full", "--seeds", "4"]) == 0
    fakes.measured()
    return reports


# ---- where results go -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("names", [[], ["e90"]])
def test_a_quick_run_leaves_the_full_results_alone(
    checkout: Path, capsys: pytest.CaptureFixture[str], names: list[str]
) -> None:
    before = files(checkout)
    capsys.readouterr()
    assert main(["run", *names]) == 0
    said = capsys.readouterr().out
    after = files(checkout)
    assert {name: after[name] for name in before} == before
    added = after.keys() - before.keys()
    assert added and all(name.startswith("quick/") for name in added)
    page = checkout / "quick" / "index.html"
    assert said.splitlines()[-1] == f"the report: {page}"
    assert "<title>fpemu: quick reports" in page.read_text() and "All results here are quick" in page.read_text()
    for file in ("README.md", "claims.md"):
        assert "quick" not in (checkout / file).read_text() if (checkout / file).exists() else file == "claims.md"
    assert "All results here are quick" in (checkout / "quick" / "README.md").read_text()
    assert Result.read(checkout / "quick" / NAME).record["profile"] == "quick"


def test_the_page_of_full_results_does_not_call_them_quick(checkout: Path) -> None:
    assert main(["run"]) == 0 and main(["report"]) == 0
    assert "quick" not in re.sub(r"<style>.*?</style>", "", (checkout / "index.html").read_text(), flags=re.S)
    assert main(["report", "--check"]) == 0


def test_list_shows_both(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["run"])
    capsys.readouterr()
    assert main(["list"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "(full, seeds 4)" in said and "(quick, seeds 3)" in said


def test_the_page_is_not_checked_but_an_old_one_is_noted(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkout / "index.html").write_text("of yesterday")
    assert main(["report", "--check"]) == 0
    assert "note: index.html is of other results" in capsys.readouterr().err
    (checkout / "index.html").unlink()
    assert main(["report", "--check"]) == 0
    assert capsys.readouterr().err == ""


def test_git_does_not_see_what_the_lab_makes() -> None:
    made = ["reports/quick/index.html", f"reports/quick/{NAME}/result.json", "reports/index.html", "reports/.partial/x"]
    if not (committed.ROOT / ".git").exists():
        pytest.skip("no repository")
    done = subprocess.run(["git", "check-ignore", *made], cwd=committed.ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == made
    tracked = subprocess.run(["git", "ls-files", "reports/index.html"], cwd=committed.ROOT, capture_output=True)
    assert tracked.stdout == b""


# ---- a fuller result stays ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("there", "then", "why"),
    [
        (("full", 3), ("quick", 3), "full, this run quick"),
        (("full", 3), ("quick", 8), "full, this run quick"),
        (("quick", 4), ("quick", 3), "4 seeds, this run 3"),
        (("full", 4), ("full", 3), "4 seeds, this run 3"),
        (("quick", 4), ("full", 3), "4 seeds, this run 3"),
    ],
)
def test_a_lesser_result_does_not_replace_a_fuller_one(
    fakes: Fakes,
    reports: Path,
    capsys: pytest.CaptureFixture[str],
    there: tuple[str, int],
    then: tuple[str, int],
    why: str,
) -> None:
    def arguments(profile: str, seeds: int) -> list[str]:
        return ["run", "e90", "--profile", profile, "--seeds", str(seeds), "--reports", str(reports)]

    fakes.write()
    assert main(arguments(*there)) == 0
    before = files(reports)
    fakes.write(measure="unit = dict(unit)")  # other sources: nothing of the result is up to date
    fakes.measured()
    for more in ([], ["--fresh"]):
        capsys.readouterr()
        assert main([*arguments(*then), *more]) == 1
        said = capsys.readouterr().err
        assert f"error: {NAME}: the result there is fuller ({why}) and stays; --replace replaces it" in said
        assert files(reports) == before and fakes.measured() == []
    assert main([*arguments(*then), "--replace"]) == 0
    record = Result.read(reports / NAME).record
    assert (record["profile"], record["seeds"]) == then


def test_running_everything_keeps_the_fuller_and_is_content(
    fakes: Fakes, reports: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.write()
    assert main(["run", "e90", "--seeds", "4", "--reports", str(reports)]) == 0
    fakes.write("e91_other")
    assert main(["run", "--reports", str(reports)]) == 0
    assert "note: e90_fake: the result there is fuller" in capsys.readouterr().err
    assert [Result.read(reports / name).record["seeds"] for name in (NAME, "e91_other")] == [4, 3]


def test_equal_and_fuller_results_replace(fakes: Fakes, reports: Path) -> None:
    for profile, seeds in (("quick", 3), ("quick", 3), ("quick", 4), ("full", 4), ("full", 4)):
        fakes.write(imports=f"import math  # noqa\nROUND = '{profile}{seeds}'\n")
        assert main(["run", "e90", "--profile", profile, "--seeds", str(seeds), "--reports", str(reports)]) == 0
        assert Result.read(reports / NAME).record["profile"] == profile


def test_less_of_what_there_is_to_measure_is_lesser(fakes: Fakes, reports: Path) -> None:
    extent = "def extent(units):\n    return len(units)\n"
    fakes.write(imports=extent, units=4)
    runner.run(_loaded(), Profile(), reports)
    fakes.write(imports=extent, units=3)
    with pytest.raises(runner.Fuller, match="it covers 4, this run 3"):
        runner.run(_loaded(), Profile(), reports)
    fakes.write(units=3)  # without an extent a plan may shrink
    assert runner.run(_loaded(), Profile(), reports).units == 3


@pytest.mark.parametrize("name", ["e03", "e04", "e37", "e38"])
def test_experiments_that_measure_what_they_find_say_how_much_that_is(name: str) -> None:
    experiment = load(name)
    plan = experiment.plan(Profile())
    found = [unit for unit in plan if "none" not in unit.values() and "absent" not in unit.values()]
    assert experiment.extent(plan) == len(found)  # type: ignore[attr-defined]
    assert experiment.extent([]) == 0  # type: ignore[attr-defined]


def test_a_fuller_result_that_came_meanwhile_stays(
    fakes: Fakes, reports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.write()
    runner.run(_loaded(), Profile("full"), reports)
    full = files(reports / NAME)
    (reports / NAME).rename(reports / "aside")
    original = runner._Job._measure

    def measure(job: runner._Job, *arguments: object) -> object:
        done = original(job, *arguments)  # type: ignore[arg-type]
        (reports / "aside").rename(reports / NAME)
        return done

    monkeypatch.setattr(runner._Job, "_measure", measure)
    with pytest.raises(runner.Fuller):
        runner.run(_loaded(), Profile("quick"), reports)
    assert files(reports / NAME) == full


def test_units_kept_of_a_fuller_run_survive_a_lesser_one(fakes: Fakes, reports: Path) -> None:
    fakes.write(measure="if profile.name == 'full' and unit['index'] == 2: raise KeyboardInterrupt")
    for _ in range(2):
        with pytest.raises(runner.Interrupted):
            runner.run(_loaded(), Profile("full"), reports)
        assert len(sorted(reports.glob(".partial/*/full-3/*.npz"))) == 2
        runner.run(_loaded(), Profile("quick"), reports)


def _loaded() -> object:
    import importlib
    import sys

    importlib.invalidate_caches()
    sys.modules.pop(f"analysis.experiments.{NAME}", None)
    return load(NAME)


# ---- what a run tells -----------------------------------------------------------------------------------------------
def test_a_run_begins_with_how_much_how_long_and_where(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    for arguments, takes in (
        (["run"], progress.QUICK),
        (["run", "--profile", "full", "--seeds", "4"], "s when last measured"),
        (["run", "e90", "--seeds", "2"], ""),
    ):
        main(arguments)
        first = capsys.readouterr().out.splitlines()[0]
        assert first.startswith("1 experiment, ") and takes in first
        assert f"results go to {checkout}" in first


def test_a_file_gets_a_line_now_and_then() -> None:
    written = io.StringIO()
    told = Event()

    class Telling(io.TextIOBase):
        def write(self, text: str) -> int:
            if text.count("done"):
                told.set()
            return written.write(text)

    lines = progress.Lines(Console(file=Telling(), width=60), 7, every=0.01)  # type: ignore[arg-type]
    with lines:
        lines.begin("e01_first")
        lines.end("4 of 4 units measured")
        lines.begin("e02_second")(3, 9, "seed=0 format=e4m3")
        told.clear()
        assert told.wait(900)
    last = written.getvalue().splitlines()[-1]
    assert re.fullmatch(
        r"after 0\.\d min: 1 of 7 experiments done; e02_second: 3 of 9 units, now seed=0 format=e4m3", last
    )
    assert progress.LINE_EVERY <= 60


def test_bars_are_for_terminals() -> None:
    assert isinstance(progress.reporter(Console(file=io.StringIO()), 1), progress.Lines)
    assert isinstance(progress.reporter(Console(file=io.StringIO(), force_terminal=True), 1), progress.Bars)


def test_bars_show_units_and_failures() -> None:
    file = io.StringIO()
    with progress.Bars(Console(file=file, force_terminal=True, width=100)) as bars:
        bars.begin("e01_first")(1, 4, "seed=0")
        bars.end("4 of 4 units measured")
        bars.begin("e02_second")(1, 4, "seed=1")
        bars.end("failed", failed=True)
    said = file.getvalue()
    assert "4/4 units" in said and "1/4 units" in said and "failed" in said


# ---- committed results ----------------------------------------------------------------------------------------------
def test_tests_see_the_committed_results_whatever_a_run_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr(committed, "ROOT", tmp_path)
    result = tmp_path / "reports" / "e01" / "result.json"
    result.parent.mkdir(parents=True)
    result.write_text("committed")
    seen = committed.committed_reports.__wrapped__
    assert seen() == tmp_path / "reports"  # no repository: what is there
    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "results")
    assert seen() == tmp_path / "reports"
    result.write_text("a run's")
    assert (seen() / "e01" / "result.json").read_text() == "committed"
    git("add", "-A")
    assert (seen() / "e01" / "result.json").read_text() == "a run's"
    (tmp_path / "reports" / "e02").mkdir()
    (tmp_path / "reports" / "e02" / "result.json").write_text("a run's")
    assert [path.name for path in seen().iterdir()] == ["e01"]
