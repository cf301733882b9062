"""Machine code: compiled for one signature, kept on disk, found again by the next process.

A driver is a file of its own, named after everything it was made from; it begins with the digest of the rest, so that a
damaged, truncated or foreign one is no different from none: the driver is compiled anew.  (Numba's own cache raises
then, and where it finds no folder that it can write to.)  Files are looked for, and kept, in the first that serves of

    NUMBA_CACHE_DIR                   if it is set
    __pycache__ beside this file      unless the package is read-only
    the user's cache folder           $XDG_CACHE_HOME/fpemu, ~/.cache/fpemu, or what the system has instead
    a temporary folder                of this user alone, since what is loaded from there is run

and where none does, every process compiles for itself.
"""

from __future__ import annotations

import os
import pickle
import stat
import sys
import tempfile
import uuid
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba
from numba import config, njit
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps
from numba.misc.appdirs import user_cache_dir

from fpemu.notice import notice

# By module: what is compiled, and the seconds that the first of its kind takes on a machine without anything kept
# (2 cores of a server processor; those of matrix products and block scaling are estimates).
KINDS = {
    "cpu": ("conversions", 5),
    "cpu_arithmetic": ("arithmetic", 9),
    "cpu_matmul": ("matrix products", 5),
    "cpu_scaling": ("block scaling", 5),
    "cpu_stats": ("statistics", 4),
    "cpu_sums": ("sums", 9),
}
_DIGEST_SIZE = sha256().digest_size


def machine_code(function: Callable[..., Any], signature: Any) -> Callable[..., Any]:
    """The function compiled for a signature, or found where an earlier process kept it.

    What it may depend on is its own file, its closure, its qualified name, and the kernels and targets of fpemu.
    """
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        return function
    dispatcher = njit(nogil=True)(function)
    dispatcher._cache = _Kept(function)  # type: ignore[attr-defined]
    dispatcher.compile(signature)
    dispatcher.disable_compile()
    return dispatcher


class _Kept(NullCache):
    """What Numba asks for machine code, and gives it to keep."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = getattr(function, "loop", function)  # what it guards (targets/environment.py)

    def load_overload(self, signature: Any, target: Any) -> Any:
        target.refresh()  # the context may not be set up yet
        name = self._file(signature, target.codegen())
        for folder in _folders():
            found = _load(folder / name, target)
            if found is not None:
                return found
        _say_what_is_compiled(self._function.__module__.rpartition(".")[2])
        return None

    def save_overload(self, signature: Any, result: Any) -> None:
        folder = _place()
        if folder is None or result.library.has_dynamic_globals:
            return
        content = dumps(result._reduce())
        try:
            _write_whole(folder / self._file(signature, result.codegen), sha256(content).digest() + content)
        except OSError as error:
            _say_once(f"compiled code cannot be kept in {folder}: {error.strerror or error}")

    def _file(self, signature: Any, codegen: Any) -> str:
        """A name that changes with everything the machine code depends on."""
        function = self._function
        closure = tuple(cell.cell_contents for cell in function.__closure__ or ())
        versions = (numba.__version__, sys.implementation.cache_tag, getattr(sys, "abiflags", ""))
        facts = repr((versions, codegen.magic_tuple(), str(signature), function.__module__, function.__qualname__))
        parts = (
            facts.encode(),
            _source(function.__code__.co_filename),
            _kernels(),
            function.__code__.co_code,
            dumps(closure),
        )
        key = sha256(b"".join(sha256(part).digest() for part in parts)).hexdigest()
        return f"{function.__module__.rpartition('.')[2]}.{function.__name__}-{key[:40]}.nbc"


@cache
def _source(file: str) -> bytes:
    return Path(file).read_bytes()


@cache
def _kernels() -> bytes:
    """Changes with every kernel and target, whichever file it is in (Numba's own cache sees one file alone)."""
    package = Path(__file__).resolve().parent.parent
    paths = sorted(path for folder in ("kernels", "targets") for path in (package / folder).glob("*.py"))
    return b"".join(path.name.encode() + b"\0" + sha256(path.read_bytes()).digest() for path in paths)


def _load(path: Path, target: Any) -> Any:
    """What a file holds; None where it is not there, cannot be read, or is not what was written."""
    try:
        content = path.read_bytes()
        if sha256(content[_DIGEST_SIZE:]).digest() != content[:_DIGEST_SIZE]:
            return None
        return CompileResult._rebuild(target, *pickle.loads(content[_DIGEST_SIZE:]))
    except Exception:  # whatever unpickling something foreign raises
        return None


def _write_whole(path: Path, content: bytes) -> None:
    """So that another process sees all of the file or nothing; readable as any file that the user makes."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        aside.write_bytes(content)
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


# ---- where --------------------------------------------------------------------------------------------------------------
@cache
def _folders() -> tuple[Path, ...]:
    """Where to look, in order."""
    named = Path(config.CACHE_DIR).absolute() if config.CACHE_DIR else None  # type: ignore[attr-defined]
    if named and _can_write(named):
        return (named,)
    user = Path(user_cache_dir("fpemu", appauthor=False))
    usual = [Path(__file__).parent / "__pycache__", *([user] if user.is_absolute() else [])]
    temporary = _private_temporary_folder()
    return (*([named] if named else []), *usual, *([temporary] if temporary else []))


@cache
def _place() -> Path | None:
    """Where to keep; says what is unusual about it."""
    folder = next((folder for folder in _folders() if _can_write(folder)), None)
    if folder is None:
        _say_once(
            "compiled code cannot be kept anywhere: every process compiles anew (NUMBA_CACHE_DIR can name a folder)"
        )
    elif config.CACHE_DIR and folder != _folders()[0]:  # type: ignore[attr-defined]
        _say_once(f"NUMBA_CACHE_DIR ({_folders()[0]}) cannot be written: compiled code is kept in {folder}")
    elif folder == _private_temporary_folder():
        _say_once(
            f"no lasting folder for compiled code can be written: it is kept in {folder} (NUMBA_CACHE_DIR names another)"
        )
    return folder


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


@cache
def _private_temporary_folder() -> Path | None:
    """A folder that this user alone can read and write; None where there is none, or it is not so."""
    try:
        base, here = tempfile.gettempdir(), os.getcwd()
    except OSError:
        return None
    if base == here and base not in (os.environ.get("TMPDIR"), "/tmp", "/var/tmp"):
        return None  # tempfile's last resort, but not a place to leave things in
    user = os.getuid() if hasattr(os, "getuid") else None  # elsewhere a temporary folder is the user's own
    folder = Path(base) / f"fpemu-{'cache' if user is None else user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    mine = user is None or (found.st_uid == user and not found.st_mode & 0o077)
    return folder if stat.S_ISDIR(found.st_mode) and mine else None


# ---- what is said -------------------------------------------------------------------------------------------------------
@cache
def _say_once(line: str) -> None:
    notice(line)


@cache
def _say_what_is_compiled(module: str) -> None:
    if module in KINDS:
        what, seconds = KINDS[module]
        once = ", once" if _place() else ""
        notice(f"compiling {what} for this machine{once}: about {seconds} s")
