"""Do the two commands of the README say how long they take, what they are at, and leave nothing running?"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.children import PATIENCE, child, interruptible

ROOT = Path(__file__).resolve().parents[1]

WAITING = """
from pathlib import Path
import pytest
from tests import telling

telling.Telling.__init__.__defaults__ = (0.05,)


@pytest.hookimpl
def pytest_sessionstart(session):
    telling.tell_of(session)
"""
TEST = """
import time
from pathlib import Path


def test_first(): ...


def test_second():
    print("captured")
    while "1 of 2 tests done" not in Path("log").read_text():
        time.sleep(0.02)
"""


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_test_run_tells_a_file_what_it_is_at(tmp_path: Path, workers: str) -> None:
    """Although a test hangs meanwhile; it waits for the line."""
    (tmp_path / "conftest.py").write_text(WAITING)
    (tmp_path / "test_waiting.py").write_text(TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    with (tmp_path / "log").open("w") as log:
        subprocess.run(
            [sys.executable, "-m", "pytest", "-n", workers, "-p", "no:cacheprovider"],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, check=True, timeout=PATIENCE,
        )  # fmt: skip
    said = (tmp_path / "log").read_text()
    assert re.search(r"^after 0\.\d min: 1 of 2 tests done$", said, re.M)
    assert "2 passed" in said and "captured" not in said


def test_the_line_comes_every_minute() -> None:
    from tests import telling

    assert telling.LINE_EVERY <= 60


# ---- children --------------------------------------------------------------------------------------------------------
def test_a_child_and_its_children_end_with_the_block(tmp_path: Path) -> None:
    asleep = "import time; time.sleep(900)"
    program = (
        f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {asleep!r}]).pid, flush=True); {asleep}"
    )
    with pytest.raises(ZeroDivisionError), child([sys.executable, "-c", program]) as process:
        assert process.stdout is not None
        grandchild = int(process.stdout.readline())
        raise ZeroDivisionError
    assert process.returncode == -signal.SIGKILL
    last = time.monotonic() + PATIENCE
    while _runs(grandchild):
        assert time.monotonic() < last
        time.sleep(0.02)


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] not in "ZX"


def test_children_can_be_interrupted_although_the_tests_cannot() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup and shells without job control start a job
    try:
        with child([sys.executable, "-c", "print('ready', flush=True); import time; time.sleep(900)"]) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            assert "KeyboardInterrupt" in process.communicate(timeout=PATIENCE)[1]
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        with interruptible():
            assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


# ---- tox --------------------------------------------------------------------------------------------------------------
def test_tox_says_first_how_long_it_takes(tmp_path: Path) -> None:
    pytest.importorskip("tox", reason="tox is not beside the tests here")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TOX", "UV"))}
    done = subprocess.run(
        [sys.executable, "-m", "tox", "run", "-e", "lab,nothing_of_this_name", "--workdir", str(tmp_path)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.stderr.splitlines()[0].startswith("lab: 4 to 6 minutes on 2 cores")
