"""Does the lab keep what was measured, refuse what is stale or damaged, and publish nothing but its results?"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fpemu as fp
from analysis import environment, experiment, figures, fingerprint, runner, store
from analysis.__main__ import main
from analysis.experiment import Profile, Verdict, load
from analysis.files import digest
from analysis.results import Result, ResultError
from tests.analysis.fakes import Fakes
from tests.children import PATIENCE, child, wait_until

ROOT = Path(__file__).resolve().parents[2]


def run(name: str, reports: Path, profile: Profile | None = None, *, fresh: bool = False) -> runner.Outcome:
    """Run as a new process would: modules are read again."""
    importlib.invalidate_caches()
    sys.modules.pop(f"analysis.experiments.{name}", None)
    return runner.run(load(name), profile or Profile(), reports, fresh=fresh)


def kept_units(reports: Path) -> list[Path]:
    return sorted(reports.glob(".partial/*/*/*.npz"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- resuming -------------------------------------------------------------------------------------------------------
def test_a_run_makes_a_whole_result_and_leaves_nothing_partial(fakes: Fakes, reports: Path) -> None:
    outcome = run(fakes.write(), reports)
    assert (outcome.units, outcome.measured, outcome.verdict.status) == (4, 4, "holds")
    assert sorted(files_of(reports / "e90_fake")) == ["line.png", "points.csv", "result.json"]
    assert not (reports / ".partial").exists()
    record = json.loads((reports / "e90_fake" / "result.json").read_text())
    assert record["environment"]["numpy"] == np.__version__
    assert record["tables"][0]["sha256"] == digest((reports / "e90_fake" / "points.csv").read_bytes())
    assert record["started"] <= record["finished"] and record["started"].endswith("+00:00")
    assert len(record["units"]) == 4 and record["seconds"] >= 0


def test_an_interrupted_run_resumes_and_ends_like_an_uninterrupted_one(
    fakes: Fakes, reports: Path, tmp_path: Path
) -> None:
    fakes.write()
    run("e90_fake", tmp_path / "straight")
    fakes.measured()
    stop = tmp_path / "stop"
    stop.touch()
    fakes.write(measure=f"if unit['index'] == 2 and Path({str(stop)!r}).exists(): raise KeyboardInterrupt")
    with pytest.raises(runner.Interrupted, match="2 of 4 units are kept"):
        run("e90_fake", reports)
    assert fakes.measured() == ["0", "1", "2"]
    assert len(kept_units(reports)) == 2
    assert not (reports / "e90_fake").exists()
    stop.unlink()
    assert run("e90_fake", reports).measured == 2
    assert fakes.measured() == ["2", "3"]
    straight, resumed = (files_of(folder / "e90_fake") for folder in (tmp_path / "straight", reports))
    assert straight["points.csv"] == resumed["points.csv"]
    assert straight["line.png"] == resumed["line.png"]


COMMAND = """
import sys
import analysis.experiments
analysis.experiments.__path__ = [sys.argv[1]]
from analysis.__main__ import main
sys.exit(main(["run", "e90_fake", "--reports", sys.argv[2]]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_killed_process_loses_at_most_the_unit_it_was_at(
    fakes: Fakes, reports: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    asleep = tmp_path / "asleep"
    fakes.write(measure=f"if unit['index'] == 2: Path({str(asleep)!r}).touch(); import time; time.sleep({PATIENCE})")
    with child([sys.executable, "-c", COMMAND, str(fakes.folder), str(reports)], cwd=ROOT) as process:
        wait_until(asleep.exists, process)
        process.send_signal(number)
        said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == code, said
    assert len(kept_units(reports)) == 2
    if number == signal.SIGINT:
        assert "2 of 4 units are kept; the same command resumes" in said
        assert "Traceback" not in said


def test_what_is_up_to_date_is_not_measured_again_unless_fresh(fakes: Fakes, reports: Path) -> None:
    run(fakes.write(), reports)
    before = files_of(reports / "e90_fake")
    fakes.measured()
    assert run("e90_fake", reports).measured == 0
    assert fakes.measured() == []
    assert files_of(reports / "e90_fake") == before
    assert run("e90_fake", reports, fresh=True).measured == 4


def test_a_failing_unit_keeps_the_units_before_it(fakes: Fakes, reports: Path) -> None:
    fakes.write(measure="assert unit['index'] != 3, 'three is odd'")
    with pytest.raises(runner.Failed, match=r"e90_fake failed \(index=3\): AssertionError: three is odd"):
        run("e90_fake", reports)
    assert len(kept_units(reports)) == 3
    assert "three is odd" in (reports / ".partial/e90_fake/failure.txt").read_text()
    assert (reports / ".partial/.gitignore").read_text() == "*\n"


# ---- redrawing ------------------------------------------------------------------------------------------------------
def redraw(name: str, reports: Path) -> Verdict:
    importlib.invalidate_caches()
    sys.modules.pop(f"analysis.experiments.{name}", None)
    return runner.redraw(load(name), reports)


def test_words_and_verdict_are_made_anew_and_the_run_stays(fakes: Fakes, reports: Path) -> None:
    run(fakes.write(), reports, Profile("full", 2))
    before, files = json.loads((reports / "e90_fake/result.json").read_text()), files_of(reports / "e90_fake")
    fakes.measured()
    fakes.write(title="Another", measure="values = None  # another measurement: another fingerprint")
    source = fakes.folder / "e90_fake.py"
    source.write_text(source.read_text().replace("The mean is", "Their mean is").replace('"holds",', '"no claim",'))
    assert fingerprint.of(load("e90_fake")) != before["fingerprint"]
    assert redraw("e90_fake", reports).status == "no claim"
    after = json.loads((reports / "e90_fake/result.json").read_text())
    assert after["title"] == "Another" and after["verdict"]["summary"].startswith("Their mean is")
    assert {key: after[key] for key in runner.RUN_FACTS} == {key: before[key] for key in runner.RUN_FACTS}
    assert files_of(reports / "e90_fake")["points.csv"] == files["points.csv"]
    assert fakes.measured() == [] and not (reports / ".partial").exists()


def test_redrawing_keeps_the_units_of_a_run_that_is_not_done(fakes: Fakes, reports: Path) -> None:
    run(fakes.write(), reports)
    fakes.write(units=5, measure="assert unit['index'] != 4")
    with pytest.raises(runner.Failed):
        run("e90_fake", reports)
    assert len(kept_units(reports)) == 4
    redraw("e90_fake", reports)
    assert len(kept_units(reports)) == 4


def test_redraw_says_what_it_cannot_do(fakes: Fakes, reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fakes.write()
    where = ["--reports", str(reports)]
    assert main(["redraw", "e90_fake", *where]) == 1
    assert "e90_fake/result.json: No such file" in capsys.readouterr().err
    run("e90_fake", reports)
    assert main(["redraw", *where]) == 0
    assert "e90_fake: holds. The mean is" in (said := capsys.readouterr().out) and "index.html" in said
    table = reports / "e90_fake/points.csv"
    table.write_text(table.read_text().replace("0.", "1.", 1))
    assert main(["redraw", "e90_fake", *where]) == 1
    assert "points.csv: is not the table" in capsys.readouterr().err


# ---- staleness ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"measure": "unit = dict(unit)"}, True),
        ({"draw": "ax.set_title('new')"}, False),
        ({"title": "Another title"}, False),
        ({"imports": "# only a comment\n"}, False),
        ({"imports": "import math\n"}, True),
    ],
)
def test_only_a_change_that_can_change_the_tables_measures_again(
    fakes: Fakes, reports: Path, change: dict[str, str], again: bool
) -> None:
    run(fakes.write(), reports)
    fakes.write(**change)  # type: ignore[arg-type]
    assert run("e90_fake", reports).measured == (4 if again else 0)
    record = json.loads((reports / "e90_fake" / "result.json").read_text())
    assert record["title"] == change.get("title", "A fake")


def test_partial_units_of_other_sources_profiles_or_seeds_are_not_mixed_in(fakes: Fakes, reports: Path) -> None:
    interrupted = "if unit['index'] == 3: raise KeyboardInterrupt"
    fakes.write(measure=interrupted)
    for profile in (Profile("quick", 3), Profile("full", 3), Profile("quick", 4)):
        with pytest.raises(runner.Interrupted):
            run("e90_fake", reports, profile)
        assert fakes.measured() == ["0", "1", "2", "3"]
    fakes.write(measure="unit = dict(unit)")
    assert run("e90_fake", reports, Profile("quick", 3)).measured == 4
    fakes.write(measure=interrupted)
    with pytest.raises(runner.Interrupted):
        run("e90_fake", reports, Profile("full", 3))
    assert fakes.measured()[-1:] == ["3"]


def test_a_change_of_the_library_or_of_an_imported_lab_module_is_seen(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.write(imports="from analysis.landmarks import window\n")
    with_import = fingerprint.of(load("e90_fake"))
    source = fingerprint._source_of("analysis.landmarks")
    assert source is not None
    other = fakes.folder / "landmarks.py"
    other.write_text(source.read_text() + "\nCHANGED = True\n")
    original = fingerprint._source_of
    monkeypatch.setattr(
        fingerprint, "_source_of", lambda name: other if name == "analysis.landmarks" else original(name)
    )
    assert fingerprint.of(load("e90_fake")) != with_import
    monkeypatch.setattr(fingerprint, "_source_of", original)
    assert fingerprint.of(load("e90_fake")) == with_import
    monkeypatch.setattr(fingerprint, "library", lambda: "another library")
    assert fingerprint.of(load("e90_fake")) != with_import


def test_the_library_digest_covers_every_source_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "fpemu"
    shutil.copytree(ROOT / "fpemu", copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fp, "__path__", [str(copy)])
    before = fingerprint.library.__wrapped__()
    deepest = max(copy.rglob("*.py"), key=lambda path: len(path.parts))
    deepest.write_text(deepest.read_text() + "# changed\n")
    assert fingerprint.library.__wrapped__() != before


# ---- damage ---------------------------------------------------------------------------------------------------------
def _pickled(path: Path) -> None:
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["0"] = np.array([object] * 5, dtype=object)
    np.savez(path, **arrays)


def _of_another_unit(path: Path) -> None:
    shutil.copy(next(other for other in sorted(path.parent.glob("*.npz")) if other != path), path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not an archive"),
        lambda path: path.write_bytes(
            bytes([byte ^ (0x55 * (180 < i < 220)) for i, byte in enumerate(path.read_bytes())])
        ),
        _pickled,
        _of_another_unit,
    ],
    ids=["truncated", "empty", "text", "flipped bits", "pickled", "another unit"],
)
def test_a_damaged_partial_unit_is_measured_again(fakes: Fakes, reports: Path, tmp_path: Path, damage: object) -> None:
    run(fakes.write(), tmp_path / "straight")
    stop = tmp_path / "stop"
    stop.touch()
    fakes.write(measure=f"if unit['index'] == 2 and Path({str(stop)!r}).exists(): raise KeyboardInterrupt")
    with pytest.raises(runner.Interrupted):
        run("e90_fake", reports)
    damage(kept_units(reports)[0])  # type: ignore[operator]
    stop.unlink()
    assert run("e90_fake", reports).measured == 3
    name = "e90_fake/points.csv"
    assert (reports / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_no_flipped_byte_of_a_kept_unit_changes_its_tables(tmp_path: Path) -> None:
    path = tmp_path / "u.npz"
    table = store.tidy("points", pd.DataFrame({"x": [0.1, 0.2], "name": ["a", "b"]}))
    store.save_unit(path, {"unit": 1}, {"points": table}, {"seconds": 1.5})
    content = path.read_bytes()
    refused = 0
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x41]) + content[position + 1 :])
        loaded = store.load_unit(path, {"unit": 1})
        refused += loaded is None
        if loaded is not None:
            pd.testing.assert_frame_equal(loaded[0]["points"], table, check_exact=True)
            assert loaded[1] == {"seconds": 1.5}
    assert refused > len(content) // 2


@pytest.mark.parametrize("file", ["points.csv", "result.json"])
def test_a_damaged_result_is_not_trusted(fakes: Fakes, reports: Path, file: str) -> None:
    run(fakes.write(), reports)
    path = reports / "e90_fake" / file
    path.write_bytes(path.read_bytes()[:-20])
    assert run("e90_fake", reports).measured == 4


def test_a_kill_between_the_two_moves_is_put_right(
    fakes: Fakes, reports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(fakes.write(), reports)
    before = files_of(reports / "e90_fake")
    real, moves = os.replace, []

    def replace(source: Path, target: Path) -> None:
        if Path(source).is_dir():
            moves.append(target)
            if len(moves) == 2:
                raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch, pytest.raises(runner.Interrupted):
        patch.setattr(os, "replace", replace)
        run("e90_fake", reports, fresh=True)
    assert not (reports / "e90_fake").exists()
    runner.recover(reports)
    assert files_of(reports / "e90_fake") == before


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    path = tmp_path / "file"
    store.write_whole(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(os, broken, fail)
        store.write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    store.write_whole(path, b"new")
    assert path.read_bytes() == b"new"


# ---- tables ---------------------------------------------------------------------------------------------------------
@given(
    st.lists(
        st.tuples(
            st.floats(), st.floats(width=32), st.integers(-(2**63), 2**63 - 1), st.booleans(),
            st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=5) | st.sampled_from(["nan", "", "1", "True"]),
        ),
        min_size=1, max_size=8,
    )
)  # fmt: skip
def test_a_table_reads_back_as_it_was_written(rows: list[tuple[object, ...]]) -> None:
    table = pd.DataFrame(rows, columns=["wide", "narrow", "whole", "flag", "text"])
    table = store.tidy("points", table.astype({"narrow": np.float32}))
    again = store.from_csv(store.to_csv(table), store.column_types(table))
    pd.testing.assert_frame_equal(table, again, check_exact=True)
    for column in ("wide", "narrow"):  # assert_frame_equal takes -0.0 for 0.0
        assert np.array_equal(np.signbit(table[column].dropna()), np.signbit(again[column].dropna()))


def test_a_unit_reads_back_as_it_was_kept(tmp_path: Path) -> None:
    tables = {
        "one": store.tidy("one", pd.DataFrame({"x": [0.1, np.nan, -0.0], "name": ["", "ü", "a,b"], "n": [1, 2, 3]})),
        "none": store.tidy("none", pd.DataFrame({"x": np.zeros(0)})),
    }
    store.save_unit(tmp_path / "u.npz", {"unit": 1}, tables, {"seconds": 1.5})
    loaded = store.load_unit(tmp_path / "u.npz", {"unit": 1})
    assert loaded is not None and loaded[1] == {"seconds": 1.5}
    assert list(loaded[0]) == ["one", "none"]
    for name, table in tables.items():
        pd.testing.assert_frame_equal(loaded[0][name], table, check_exact=True)
    assert store.load_unit(tmp_path / "u.npz", {"unit": 2}) is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame({"x": [1, "a"]}), "column x: only numbers"),
        (pd.DataFrame({"x": [object()]}), "column x: only numbers"),
        (pd.DataFrame({"x": ["a", None]}), "column x: only numbers"),
        (pd.DataFrame([[1, 2]], columns=["x", "x"]), "column names repeat"),
        (pd.DataFrame([[1]]), "every column needs a name"),
        ([1], "must be a pandas DataFrame"),
    ],
)
def test_a_table_that_cannot_be_kept_is_refused(table: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        store.tidy("points", table)  # type: ignore[arg-type]


def test_missing_numbers_become_nan() -> None:
    table = store.tidy("points", pd.DataFrame([{"x": 256, "y": None}, {"x": None, "y": None}]))
    assert store.column_types(table) == {"x": "float64", "y": "float64"}


# ---- the contract ---------------------------------------------------------------------------------------------------
def test_a_module_that_is_no_experiment_is_told_all_it_lacks(fakes: Fakes) -> None:
    (fakes.folder / "e91_bare.py").write_text("TITLE = 'x'\ndef plan(profile): return []\n")
    with pytest.raises(TypeError) as caught:
        load("e91")
    for name in ("__doc__", "QUESTION", "CLAIMS", "CAPTIONS", "measure", "draw", "verdict"):
        assert name in str(caught.value)
    assert "TITLE" not in str(caught.value) and "plan" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": 0}, "no units"),
        ({"measure": "return {}"}, "no tables"),
        ({"measure": "return {'Bad Name': pd.DataFrame({'x': [1]})}"}, "table name 'Bad Name'"),
        ({"measure": "return {'points': pd.DataFrame({f'x{unit}': [1]})}"}, "different columns in different units"),
        ({"draw": "return {}"}, r"figures \[\] and captions \['line'\] differ"),
    ],
)
def test_a_broken_promise_is_named(fakes: Fakes, reports: Path, change: dict[str, object], message: str) -> None:
    fakes.write(**change)  # type: ignore[arg-type]
    with pytest.raises(runner.Failed, match=message):
        run("e90_fake", reports)
    assert not (reports / "e90_fake").exists()


def test_profiles_and_verdicts_check_themselves() -> None:
    assert (Profile("quick").pick(quick=1, full=2), Profile("full").pick(quick=1, full=2)) == (1, 2)
    for bad in (0, -1, True, 1.5):
        with pytest.raises(ValueError, match="at least 1"):
            Profile("quick", bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="quick, full"):
        Profile("fast")
    with pytest.raises(ValueError, match="holds, holds with conditions"):
        Verdict("maybe", "Perhaps.")


def test_every_experiment_of_the_lab_has_a_number_of_its_own() -> None:
    numbers = [name.partition("_")[0] for name in experiment.names()]
    assert "e02" in numbers and len(set(numbers)) == len(numbers)


# ---- the command line -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "valid"),
    [
        (["run", "e99"], "e90_fake"),
        (["run", "--profile", "fast"], "quick"),
        (["run", "--seeds", "0"], "x>=1"),
        (["run", "--seeds", "many"], "integer"),
        (["run", "--frobnicate"], "--frobnicate"),
        (["frobnicate"], "list, redraw, report, run"),
        (["report", "--reports", __file__], "is a file"),
    ],
)
def test_a_wrong_command_line_is_one_line_that_helps(
    fakes: Fakes, capsys: pytest.CaptureFixture[str], arguments: list[str], valid: str
) -> None:
    fakes.write()
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    assert valid in said.err
    assert fakes.measured() == []


def test_run_all_then_report_and_a_failure_does_not_lose_the_others(
    fakes: Fakes, reports: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.write("e90_fails", measure="raise ValueError('first line\\nsecond line')")
    fakes.write("e91_works")
    (fakes.folder / "e92_broken.py").write_text("import nothing_of_this_name\n")
    assert main(["run", "--seeds", "1", "--reports", str(reports)]) == 1
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 2
    assert "e90_fails failed (index=0): ValueError: first line second line" in errors[0]
    assert "e92_broken" in errors[1] and "nothing_of_this_name" in errors[1]
    assert "Traceback" not in said.err
    assert "e91_works: holds" in said.out
    assert (reports / "e91_works/result.json").exists() and (reports / "index.html").exists()
    assert main(["list", "--reports", str(reports)]) == 1
    assert "cannot be loaded" in capsys.readouterr().out


def test_interruption_on_the_command_line(fakes: Fakes, reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fakes.write(measure="if unit['index'] == 1: raise KeyboardInterrupt")
    assert main(["run", "--reports", str(reports)]) == 130
    assert "e90_fake: 1 of 4 units are kept; the same command resumes" in capsys.readouterr().err


def test_the_environment_names_versions_but_no_person_host_or_path() -> None:
    text = json.dumps(environment.describe())
    assert np.__version__ in text
    assert str(Path.home()) not in text and str(ROOT) not in text and os.uname().nodename not in text.split('"')


# ---- the report -----------------------------------------------------------------------------------------------------
@pytest.fixture
def published(fakes: Fakes, reports: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    fakes.write(title="Fakes <script>alert(1)</script> & | `code`")
    assert main(["run", "--reports", str(reports)]) == 0
    assert main(["report", "--check", "--reports", str(reports)]) == 0
    capsys.readouterr()
    return reports


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("README.md", "The mean is", "The mean is not"),
        ("README.md", "42 m", "43 m"),
        ("e90_fake/points.csv", "0,", "1,"),
        ("e90_fake/result.json", '"holds"', '"no claim"'),
    ],
)
def test_check_catches_what_was_edited_by_hand(
    published: Path, capsys: pytest.CaptureFixture[str], file: str, old: str, new: str
) -> None:
    _edit(published / file, old, new)
    assert main(["report", "--check", "--reports", str(published)]) == 1
    stale = "README.md" if file.endswith("json") else file
    assert f"stale: {stale}" in capsys.readouterr().err
    if file.endswith("csv"):
        assert main(["report", "--reports", str(published)]) == 1


@pytest.mark.parametrize("file", ["README.md", "e90_fake/points.csv", "e90_fake/line.png"])
def test_check_catches_what_is_missing(published: Path, capsys: pytest.CaptureFixture[str], file: str) -> None:
    (published / file).unlink()
    assert main(["report", "--check", "--reports", str(published)]) == 1
    assert f"stale: {file}" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", '{"experiment": "e90_fake"}', "\xff"])
def test_a_damaged_result_file_is_named(published: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    (published / "e90_fake/result.json").write_text(content, encoding="latin-1")
    for arguments in (["report"], ["report", "--check"]):
        assert main([*arguments, "--reports", str(published)]) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: e90_fake/result.json") and said.count("\n") == 1


def test_a_result_does_not_reach_outside_its_folder(published: Path) -> None:
    _edit(published / "e90_fake/result.json", '"points.csv"', '"../points.csv"')
    with pytest.raises(ResultError, match="plain file name"):
        Result.read(published / "e90_fake")


def test_the_page_stands_alone_and_escapes_what_it_shows(published: Path) -> None:
    page = (published / "index.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r"<link|@import|url\(|src=\"(?!data:image/png;base64,[A-Za-z0-9+/])", page)
    images = re.findall(r"<img [^>]*>", page)
    assert len(images) == 1 and all(re.search(r'alt="[^"]{10,}"', image) for image in images)
    for text in (
        "Is it so?",
        "42 %",
        "A book; second-hand",
        "The mean is",
        "prefers-color-scheme: dark",
        environment.cpu_model(),
    ):
        assert text in page
    gallery = (published / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", gallery):
        assert (published / target).is_file(), target


def test_reports_need_results(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--reports", str(reports)]) == 1
    assert "no finished experiment" in capsys.readouterr().err


# ---- figures --------------------------------------------------------------------------------------------------------
def test_every_named_format_has_its_own_colour_and_name() -> None:
    named = {name for name in fp.FORMATS if not name.startswith("binary")}
    assert set(figures.FORMAT_COLOURS) == set(figures.FORMAT_LABELS) == named
    colours = [figures.colour(name) for name in named]
    assert len(set(colours)) == len(named) and figures.P3109_COLOUR not in colours
    assert all(re.fullmatch("#[0-9A-F]{6}", colour) for colour in colours)


def test_the_four_main_colours_stay_apart_for_the_colour_blind() -> None:
    """Viénot, Brettel and Mollon 1999: linear RGB seen without the long- or middle-wave cones."""
    without = {
        "protan": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        "deutan": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    }
    names = ("fp16", "bf16", "e4m3", "e5m2")
    seen = [[int(figures.colour(name)[i : i + 2], 16) / 255 for i in (1, 3, 5)] for name in names]
    for matrix in (np.eye(3), *without.values()):
        linear = np.clip(np.asarray(seen) ** 2.2 @ np.asarray(matrix).T, 0, 1) ** (1 / 2.2)
        apart = np.linalg.norm(linear[:, None] - linear[None], axis=-1)[np.triu_indices(4, 1)]
        assert apart.min() > 0.15


def test_ticks_are_few_multiples_of_a_power_of_two() -> None:
    for low, high in ((-3, 5), (-24, 15), (-149, 128), (-32768, 32767)):
        ticks = np.asarray(figures.PowerOfTwoStep(12).tick_values(low, high))
        steps = np.unique(np.diff(ticks))
        assert len(steps) == 1 and np.log2(steps[0]).is_integer()
        assert 5 <= len(ticks) <= 13 and ticks.min() >= low and ticks.max() <= high


def test_a_log2_axis_reads_as_powers_of_two() -> None:
    with figures.style():
        figure, ax = plt.subplots()
        ax.plot([-24, 16], [-10, 0])
        figures.log2_axis(ax, "magnitude (V)")
        figures.log2_axis(ax, "error (V)", axis="y")
        figures.shade_window(ax, "fp16", shift=3)
        figure.canvas.draw()
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("magnitude (V)", "error (V)")
        assert "$2^{-8}$" in [tick.get_text() for tick in ax.get_xticklabels()]
        edges = {
            round(x, 9)
            for patch in ax.patches
            for x in patch.get_extents().transformed(ax.transData.inverted()).intervalx
        }
        fp16 = fp.FORMATS["fp16"]
        assert edges == {round(np.log2(v) - 3, 9) for v in (fp16.smallest_subnormal, fp16.smallest_normal, fp16.max)}
        with pytest.raises(ValueError, match="'x' or 'y'"):
            figures.log2_axis(ax, "z", axis="z")
        plt.close(figure)


def test_the_style_leaves_matplotlib_as_it_was() -> None:
    before = dict(plt.rcParams)
    with figures.style():
        assert dict(plt.rcParams) != before
    assert dict(plt.rcParams) == before


def test_a_png_obeys_its_limit_or_is_refused() -> None:
    with figures.style():
        figure, ax = plt.subplots(figsize=(3, 2))
        ax.imshow(np.random.default_rng(0).random((150, 250, 3)), aspect="auto")
        plain, _ = plt.subplots()
    assert len(figures.png_bytes(plain)) < figures.MAX_PNG_BYTES
    full, lower = figures.png_bytes(figure, limit=10**8), figures.png_bytes(figure, limit=60_000)
    assert lower[:8] == full[:8] == b"\x89PNG\r\n\x1a\n" and len(lower) <= 60_000 < len(full)
    with pytest.raises(ValueError, match="stays above 10 KiB"):
        figures.png_bytes(figure, limit=10 * 1024)
    plt.close("all")


def test_a_spoilt_layout_is_an_error(fakes: Fakes, reports: Path) -> None:
    fakes.write(draw="figure.set_size_inches(0.5, 0.5); ax.set_ylabel('long ' * 40, fontsize=40)")
    with pytest.raises(runner.Failed, match="layout not applied"):
        run("e90_fake", reports)
