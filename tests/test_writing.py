"""Is what is written whole or not there, are things that are no files left what they are, and is nothing written after the last word?"""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import fpemu as fp
from fpemu import writing
from fpemu.writing import writing_whole
from tests.children import PATIENCE, child, wait_until
from tests.test_cli import lines, run

PROGRAM = "import sys; from fpemu.cli import main; main(sys.argv[1:])"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes and devices of POSIX")


@pytest.fixture
def tensor(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    np.save(folder / "x.npy", np.array([1.0, 2.0, 1e-9], np.float32))
    return folder / "x.npy"


def written(path: Path, content: bytes = b"new") -> None:
    with writing_whole(path) as stream:
        stream.write(content)


def test_permissions_stay_and_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "file").chmod(0o640)
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "to nothing").symlink_to("made")
    for name in ("link", "to nothing"):
        written(tmp_path / name)
        assert (tmp_path / name).is_symlink() and (tmp_path / name).read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    mask = os.umask(0o027)
    try:
        written(tmp_path / "fresh")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "fresh").stat().st_mode) == 0o640
    assert sorted(os.listdir(tmp_path)) == ["file", "fresh", "link", "made", "to nothing"]
    written(tmp_path / ("n" * 255))  # a name as long as there are


def test_a_pipe_gets_the_bytes_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    got: list[bytes] = []
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="a pipe that nobody reads"):
        written(pipe)
    content = np.random.default_rng(0).bytes(1 << 18)  # more than a pipe holds
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    collected = threading.Thread(target=lambda: got.append(reader.communicate(timeout=PATIENCE)[0]))
    collected.start()
    while collected.is_alive():
        try:
            written(pipe, content)
            break
        except OSError as error:  # it does not read yet
            if error.errno != errno.ENXIO:
                raise
            time.sleep(0.02)
    collected.join(PATIENCE)
    assert got == [content]
    assert stat.S_ISFIFO(pipe.stat().st_mode) and os.listdir(tmp_path) == ["pipe"]


def test_devices_get_the_bytes_and_folders_are_refused(tmp_path: Path) -> None:
    written(Path("/dev/null"))
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(OSError, match="No space left"):
        written(Path("/dev/full"), b"x" * 10_000)
    with pytest.raises(IsADirectoryError):
        written(tmp_path)
    with pytest.raises(OSError, match="No such file"):
        fp.save(tmp_path / "no" / "x", np.zeros(1, np.uint8), "e4m3")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("option", ["--html", "--png"])
def test_the_command_says_in_a_line_where_it_cannot_write(tmp_path: Path, tensor: Path, option: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    for target, words in (
        ("/dev/full", "No space left on device"), (tmp_path / "pipe", "a pipe that nobody reads"), (tmp_path / "no" / "x", "No such file or directory"),
    ):  # fmt: skip
        result = run("inspect", tensor, option, target, "--formats", "e4m3", code=1)
        assert lines(result.stderr) == [f"Error: {target}: {words}"]
    (usage,) = lines(run("inspect", tensor, option, tmp_path, code=2).stderr)[-1:]
    assert "is a directory" in usage
    run("inspect", tensor, option, "/dev/null", "--formats", "e4m3")
    assert sorted(os.listdir(tmp_path)) == ["in", "pipe"]


def test_full_and_closed_outputs_are_one_line(tensor: Path) -> None:
    for arguments in (
        ["explain", "0.1", "e4m3", "--json"],
        ["formats", "e4m3", "--json"],
        ["inspect", str(tensor), "--formats", "e4m3"],
    ):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, *arguments], stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE
            )
        assert (done.returncode, done.stderr) == (1, b"fpemu: cannot print: No space left on device\n"), arguments


def test_standard_output_as_a_file_gets_the_page_after_the_table(tmp_path: Path, tensor: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, "inspect", str(tensor), "--formats", "e4m3", "--html", "/dev/stdout"]
    piped = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    with open(tmp_path / "out", "wb") as out:
        subprocess.run(command, stdout=out, timeout=PATIENCE, check=True)
    assert (tmp_path / "out").read_text() == piped
    table, page = piped.split("<!DOCTYPE html>")
    assert "became zero" in table and page.rstrip().endswith("</html>")
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


def test_nothing_is_written_after_the_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt that Python forgot (in a callback) leaves the command running, but it writes nothing any more."""
    monkeypatch.setattr(writing, "stopped", threading.Event())
    for target in (tmp_path / "x", Path("/dev/null")):
        writing.stopped.clear()
        with pytest.raises(KeyboardInterrupt), writing_whole(target) as stream:
            stream.write(b"x")
            writing.stopped.set()
    assert os.listdir(tmp_path) == []


def test_an_interrupt_while_a_page_is_made_leaves_nothing(tmp_path: Path, tensor: Path) -> None:
    there = tmp_path / "there"
    slow = f"""
import sys, time, pathlib
import fpemu.cli.page as page
def never(*_):
    pathlib.Path({str(there)!r}).touch()
    time.sleep({PATIENCE})
page.page = never
{PROGRAM}
"""
    arguments = [
        "inspect",
        str(tensor),
        "--formats",
        "e4m3",
        "--html",
        str(tmp_path / "x.html"),
        "--png",
        str(tmp_path / "x.png"),
    ]
    with child([sys.executable, "-c", slow, *arguments]) as process:
        wait_until(there.exists, process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and lines(err) == ["fpemu: interrupted"]
    assert sorted(os.listdir(tmp_path)) == ["in", "there"]


def test_no_space_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "x", b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        written(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"old" and os.listdir(tmp_path) == ["x"]
