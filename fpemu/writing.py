"""Files written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import copyfileobj
from threading import Event
from typing import BinaryIO, cast

from fpemu.reading import KINDS

stopped = Event()  # set by a command that has said its last word: nothing is written any more
IN_MEMORY = 1 << 22  # bytes of what goes to a pipe or a device, before they are kept in a temporary file


@contextmanager
def writing_whole(file: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A stream whose bytes become the file when the block ends well; otherwise nothing is left behind.

    An existing file keeps its permissions, a symbolic link stays and its target is written.  What is no file stays what it is: a device
    or a pipe (/dev/null, /dev/stdout, a FIFO that somebody reads) gets the bytes at the end, all at once.

    Raises
    ------
    OSError: a directory, a block device or a socket; a FIFO that nobody reads; a folder that is not there; no space.
    """
    path = os.fspath(file)
    try:
        found = os.stat(path)
    except FileNotFoundError:
        found = None
    if found is None or (stat.S_ISREG(found.st_mode) and not _is_output(found)):
        with _replacing(Path(os.path.realpath(path)), found) as stream:
            yield stream
    else:
        with _passing_on(path, found.st_mode) as stream:
            yield stream


@contextmanager
def _replacing(target: Path, old: os.stat_result | None) -> Iterator[BinaryIO]:
    """A file beside the target that takes its place."""
    temporary = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as stream:
            if old is not None:
                os.chmod(temporary, stat.S_IMODE(old.st_mode))
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if stopped.is_set():
            raise KeyboardInterrupt
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _passing_on(path: str, mode: int) -> Iterator[BinaryIO]:
    """What is written, kept until it is whole, and then written to a device or a pipe."""
    if not (stat.S_ISCHR(mode) or stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(
            code, os.strerror(code) if stat.S_ISDIR(mode) else f"{KINDS.get(stat.S_IFMT(mode))} is not written", path
        )
    try:  # before the work, without waiting for a reader
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "a pipe that nobody reads", path) from None
        raise
    with os.fdopen(handle, "wb") as out, tempfile.SpooledTemporaryFile(IN_MEMORY) as kept:
        yield cast(BinaryIO, kept)
        if stopped.is_set():
            raise KeyboardInterrupt
        os.set_blocking(handle, True)
        kept.seek(0)
        for stream in (sys.stdout, sys.stderr):  # what was printed before comes before
            if stream is not None:
                stream.flush()
        copyfileobj(kept, out)


def _is_output(found: os.stat_result) -> bool:
    """Whether it is what the process prints into: /dev/stdout of a redirected command."""
    for output in (1, 2):
        with suppress(OSError):
            if os.path.samestat(os.fstat(output), found):
                return True
    return False
