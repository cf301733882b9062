"""Is compiled code found again, and a place to keep it, is damage survived, and is what takes time said, once?"""

from __future__ import annotations

import os
import pickle
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from implementations import JIT

import fpemu.notice
from fpemu.targets import machine_code as kept
from tests.children import PATIENCE

if not JIT:
    pytest.skip("the cache belongs to the compiler", allow_module_level=True)

from numba import types

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place there is."""
    monkeypatch.setattr(kept, "_folders", lambda: (tmp_path,))
    monkeypatch.setattr(kept, "_place", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(kept, "notice", lines.append)
    for once in (kept._say_once, kept._say_what_is_compiled):
        once.cache_clear()
    return lines


def adder(number: int, name: str = "add") -> Callable[[int], int]:
    def add(x: int) -> int:
        return x + number

    add.__qualname__ = name
    return add


def compiled(number: int = 1, name: str = "add", number_type: Any = types.int64) -> Any:
    return kept.machine_code(adder(number, name), number_type(number_type))


def was_found(driver: Any) -> bool:
    hits, misses = (sum(counts.values()) for counts in (driver.stats.cache_hits, driver.stats.cache_misses))
    assert hits + misses == 1
    return bool(hits)


# ---- kept and found -------------------------------------------------------------------------------------------------
def test_what_was_compiled_is_found_and_does_the_same(folder: Path) -> None:
    first, again = compiled(), compiled()
    assert (was_found(first), was_found(again)) == (False, True)
    assert first(41) == again(41) == 42
    (file,) = folder.iterdir()
    assert file.name.startswith("test_machine_code.add-") and file.suffix == ".nbc"
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~_umask()  # as any file of the user's: others may read it


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    "change",
    [{"number": 2}, {"name": "add_facts"}, {"number_type": types.int32}],
    ids=["closure", "facts", "signature"],
)
def test_other_facts_are_other_code(folder: Path, change: dict[str, Any]) -> None:
    compiled()
    assert not was_found(compiled(**change))
    assert len(list(folder.iterdir())) == 2


def test_an_edited_kernel_is_other_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled()
    monkeypatch.setattr(kept, "_kernels", lambda: b"edited")
    assert not was_found(compiled())


# ---- damage ---------------------------------------------------------------------------------------------------------
def _sealed(content: bytes) -> bytes:
    return sha256(content).digest() + content


DAMAGE: dict[str, Callable[[Path, bytes], object]] = {
    "empty": lambda path, whole: path.write_bytes(b""),
    "shorter than a digest": lambda path, whole: path.write_bytes(whole[:10]),
    "truncated": lambda path, whole: path.write_bytes(whole[: len(whole) // 2]),
    "last byte lost": lambda path, whole: path.write_bytes(whole[:-1]),
    "garbage": lambda path, whole: path.write_bytes(bytes(range(256)) * 64),
    "a bit of the code": lambda path, whole: path.write_bytes(
        whole[:-3000] + bytes([whole[-3000] ^ 1]) + whole[-2999:]
    ),
    "another pickle": lambda path, whole: path.write_bytes(_sealed(pickle.dumps({"not": "code"}))),
    "not a pickle": lambda path, whole: path.write_bytes(_sealed(b"\x80garbage")),
    "Numba's own": lambda path, whole: path.write_bytes(whole[32:]),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_compiled_anew_and_mended(folder: Path, damage: Callable[[Path, bytes], object]) -> None:
    compiled()
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    damage(file, whole)
    again = compiled()
    assert not was_found(again) and again(41) == 42
    assert was_found(compiled())


def test_nothing_is_unpickled_that_is_not_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flipped bit in the instructions would be run."""
    compiled()
    (file,) = folder.iterdir()
    whole, unpickled = file.read_bytes(), []
    monkeypatch.setattr(kept.pickle, "loads", unpickled.append)
    for place in range(0, len(whole), len(whole) // 200):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert kept._load(file, None) is None
    assert unpickled == []
    file.write_bytes(whole)
    kept._load(file, None)
    assert unpickled == [whole[32:]]


def test_a_file_that_cannot_be_read_or_replaced_is_compiled_anew_each_time(folder: Path, said: list[str]) -> None:
    compiled()
    (file,) = folder.iterdir()
    file.unlink()
    file.mkdir()  # as a superuser can read whatever has no permissions
    for _ in range(2):
        again = compiled()
        assert not was_found(again) and again(41) == 42
    assert said == [f"compiled code cannot be kept in {folder}: Is a directory"]
    assert list(folder.iterdir()) == [file]


def test_a_full_disk_is_said_once_and_leaves_nothing(
    folder: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert [compiled(number)(1) for number in (1, 2)] == [2, 3]
    assert said == [f"compiled code cannot be kept in {folder}: No space left on device"]
    assert list(folder.iterdir()) == []


# ---- places ---------------------------------------------------------------------------------------------------------
PLACES = """
import sys
from pathlib import Path
import fpemu.targets.machine_code as kept
if "read-only package" in sys.argv[2:]:
    kept.__file__ = "/proc/nothing/machine_code.py"
if "no temporary folder" in sys.argv[2:]:
    def refuse():
        raise FileNotFoundError("No usable temporary directory found")
    kept.tempfile.gettempdir = refuse
sys.path.insert(0, sys.argv[1])
from numba import types
import cpu
drivers = [kept.machine_code(getattr(cpu, name), types.int64(types.int64)) for name in ("one", "two")]
assert [driver(1) for driver in drivers] == [2, 3]
print(sum(sum(driver.stats.cache_hits.values()) for driver in drivers))
"""
COMPILES = "fpemu: compiling conversions for this machine{}: about 5 s"


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., tuple[int, list[str]]]:
    """Compiles two functions of a module that is called as fpemu's are: how many were found, what was said."""
    (tmp_path / "cpu.py").write_text("def one(x):\n    return x + 1\n\n\ndef two(x):\n    return x + 2\n")
    unset = ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "TMPDIR", "FPEMU_QUIET")

    def run(*facts: str, **environment: object) -> tuple[int, list[str]]:
        known = {name: value for name, value in os.environ.items() if name not in unset}
        done = subprocess.run(
            [sys.executable, "-c", PLACES, str(tmp_path), *facts],
            env=known | {"PYTHONPATH": str(ROOT)} | {name: str(value) for name, value in environment.items()},
            capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return int(done.stdout), done.stderr.splitlines()

    return run


Process = Callable[..., tuple[int, list[str]]]


def test_the_folder_that_is_named(process: Process, tmp_path: Path) -> None:
    assert process(NUMBA_CACHE_DIR=tmp_path / "new" / "cache") == (0, [COMPILES.format(", once")])
    assert len(list((tmp_path / "new" / "cache").iterdir())) == 2
    assert process(NUMBA_CACHE_DIR=tmp_path / "new" / "cache") == (2, [])


def test_a_read_only_package_is_kept_in_the_users_cache(process: Process, tmp_path: Path) -> None:
    for where in ({"XDG_CACHE_HOME": tmp_path / "xdg"}, {"HOME": tmp_path / "home"}):
        assert process("read-only package", **where) == (0, [COMPILES.format(", once")])
        assert process("read-only package", **where) == (2, [])
    for folder in ("xdg/fpemu", "home/.cache/fpemu"):
        assert len(list((tmp_path / folder).iterdir())) == 2


@pytest.mark.parametrize("home", ["/dev/null", "/proc/nothing"])
def test_without_a_home_it_is_a_temporary_folder_and_that_is_said(process: Process, tmp_path: Path, home: str) -> None:
    found, said = process("read-only package", HOME=home, TMPDIR=tmp_path)
    place = tmp_path / f"fpemu-{os.getuid()}"
    assert found == 0 and said == [
        f"fpemu: no lasting folder for compiled code can be written: it is kept in {place} (NUMBA_CACHE_DIR names another)",
        COMPILES.format(", once"),
    ]
    assert stat.S_IMODE(place.stat().st_mode) == 0o700 and len(list(place.iterdir())) == 2
    assert process("read-only package", HOME=home, TMPDIR=tmp_path) == (2, [])


def test_a_named_folder_that_cannot_be_written_is_said(process: Process, tmp_path: Path) -> None:
    facts = {"NUMBA_CACHE_DIR": "/proc/nothing", "HOME": tmp_path}
    found, said = process("read-only package", **facts)
    assert found == 0 and said == [
        f"fpemu: NUMBA_CACHE_DIR (/proc/nothing) cannot be written: compiled code is kept in {tmp_path}/.cache/fpemu",
        COMPILES.format(", once"),
    ]
    assert process("read-only package", **facts) == (2, [])


def test_nowhere_to_keep_it_is_done_without_and_said_once(process: Process) -> None:
    for _ in range(2):
        found, said = process("read-only package", "no temporary folder", HOME="/dev/null")
        assert found == 0 and said == [
            "fpemu: compiled code cannot be kept anywhere: every process compiles anew (NUMBA_CACHE_DIR can name a folder)",
            COMPILES.format(""),
        ]


def test_silence_is_a_variable_away(process: Process) -> None:
    assert process("read-only package", "no temporary folder", HOME="/dev/null", FPEMU_QUIET=1) == (0, [])


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path / f"fpemu-{os.getuid()}"


def test_code_is_not_loaded_from_where_others_can_write(temporary: Path, tmp_path: Path) -> None:
    look = kept._private_temporary_folder.__wrapped__
    assert look() == temporary and look() == temporary
    temporary.chmod(0o777)
    assert look() is None
    temporary.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    temporary.symlink_to(tmp_path / "elsewhere")
    assert look() is None
    temporary.unlink()
    temporary.write_text("a file")
    assert look() is None


def test_the_working_directory_is_not_a_temporary_folder(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(temporary.parent)
    assert kept._private_temporary_folder.__wrapped__() is None
    assert not temporary.exists()


# ---- what is said ---------------------------------------------------------------------------------------------------
def test_every_module_that_compiles_has_a_name_and_a_time() -> None:
    targets = ROOT / "fpemu" / "targets"
    compiling = {path.stem for path in targets.glob("cpu*.py") if "return compiled(" in path.read_text()}
    assert compiling == set(kept.KINDS)


def test_a_notice_is_one_line_on_standard_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FPEMU_QUIET", raising=False)
    fpemu.notice.notice("hear, hear")
    assert capsys.readouterr() == ("", "fpemu: hear, hear\n")
    monkeypatch.setattr(sys, "stderr", None)
    fpemu.notice.notice("nobody hears")


def test_the_command_says_what_it_compiles_beside_its_json(tmp_path: Path) -> None:
    import json

    np.save(tmp_path / "x.npy", np.linspace(-1, 1, 100, dtype=np.float32))
    environment = {name: value for name, value in os.environ.items() if name != "FPEMU_QUIET"}
    said = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "fpemu", "inspect", str(tmp_path / "x.npy"), "--formats", "e4m3", "--json"],
            env=environment | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")},
            capture_output=True, text=True, timeout=PATIENCE, check=True, cwd=ROOT,
        )  # fmt: skip
        assert json.loads(done.stdout)
        said.append(done.stderr.splitlines())
    first, second = said
    assert first and all(line.startswith("fpemu: compiling ") for line in first) and len(set(first)) == len(first)
    assert second == []
