"""Do two labs in one folder keep out of each other's way, and does one that was killed block nobody?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from analysis.__main__ import main
from analysis.lock import FOLDER, Occupied, alone
from analysis.results import Result
from tests.analysis.fakes import Fakes
from tests.children import PATIENCE, child, wait_until

ROOT = Path(__file__).resolve().parents[2]
COMMAND = """
import sys
import analysis.experiments
analysis.experiments.__path__ = [sys.argv[1]]
from analysis.__main__ import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def stops(fakes: Fakes, tmp_path: Path) -> tuple[Path, Path]:
    """A fake that says in its third unit that it is there, and waits to be told to go on."""
    there, go = tmp_path / "there", tmp_path / "go"
    wait = f"Path({str(there)!r}).touch(); import time; [time.sleep(0.02) for _ in range({50 * PATIENCE}) if not Path({str(go)!r}).exists()]"
    fakes.write(measure=f"if unit['index'] == 2: {wait}")
    return there, go


def lab(fakes: Fakes, *arguments: object) -> AbstractContextManager[subprocess.Popen[str]]:
    return child([sys.executable, "-c", COMMAND, str(fakes.folder), *map(str, arguments)], cwd=ROOT)


def test_a_second_lab_says_who_is_there_and_waits_or_goes(
    fakes: Fakes, reports: Path, stops: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    there, go = stops
    run = ["run", "e90_fake", "--reports", reports]
    with lab(fakes, *run) as first:
        wait_until(there.exists, first)
        kept = sorted(path.name for path in (reports / ".partial/e90_fake/quick-3").iterdir())
        for command in (["report"], ["redraw"], ["run"]):
            assert main([*command, "--reports", str(reports)]) == 1
            said = capsys.readouterr()
            assert said.out == "" and said.err.startswith(
                f"error: another lab works in {reports} (process {first.pid}, "
            )
            assert "python -m analysis run e90_fake, since 2" in said.err and said.err.count("\n") == 1
        assert sorted(path.name for path in (reports / ".partial/e90_fake/quick-3").iterdir()) == kept
        with lab(fakes, *run, "--wait") as second:
            note = second.stderr.readline()  # type: ignore[union-attr]
            assert f"process {first.pid}, " in note and "waiting for its end" in note
            go.touch()
            assert first.wait(PATIENCE) == 0
            out, err = second.communicate(timeout=PATIENCE)
            assert second.returncode == 0 and "e90_fake: holds" in out and err == ""
    assert Result.read(reports / "e90_fake").stale_tables() == []
    assert len(fakes.measured()) == 4  # by the first; the second found it up to date
    assert sorted(path.name for path in (reports / FOLDER).iterdir()) == [".gitignore", "lock"]


def test_a_killed_lab_blocks_nobody(fakes: Fakes, reports: Path, stops: tuple[Path, Path]) -> None:
    there, go = stops
    with lab(fakes, "run", "e90_fake", "--reports", reports) as first:
        wait_until(there.exists, first)
        first.send_signal(signal.SIGKILL)
        first.wait(PATIENCE)
    assert (reports / FOLDER / "holder.json").exists()
    go.touch()
    assert main(["run", "e90_fake", "--reports", str(reports)]) == 0
    assert not (reports / FOLDER / "holder.json").exists()


@pytest.mark.parametrize(
    "note", [None, b"", b"[]", b"{}", b'{"process": "x"}', b'{"process": 1, "command": "\\u001b[2J", "since": 3}']
)
def test_a_lock_whose_holder_cannot_be_told_holds_all_the_same(tmp_path: Path, note: bytes | None) -> None:
    with alone(tmp_path, "test"):
        holder = tmp_path / FOLDER / "holder.json"
        assert json.loads(holder.read_bytes())["process"] == os.getpid()
        holder.unlink()
        if note is not None:
            holder.write_bytes(note)
        with pytest.raises(Occupied, match="another lab works in") as caught, alone(tmp_path, "another"):
            pass
        assert str(caught.value).isprintable()
    with alone(tmp_path, "again"):
        pass


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / FOLDER).write_bytes(b"in the way")  # (what nobody may write, an administrator still could)
    assert main(["run", "e02", "--reports", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
