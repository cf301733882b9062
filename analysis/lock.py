"""One lab at a time in a folder of results: the second says who is there, and waits or goes.

The lock is the system's own, on ``.lab/lock``: it ends with the process that holds it, however that ends.  ``.lab/holder.json``
beside it says who that is, and decides nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from analysis.files import write_whole
from fpemu.shown import shown

FOLDER = ".lab"
EVERY = 0.2  # seconds between two looks whether the other has ended


class Occupied(Exception):
    """Another lab works in the folder; one line that says who."""


@contextmanager
def alone(reports: Path, command: str, tell: Callable[[str], None] | None = None) -> Iterator[None]:
    """Nobody else writes into a folder of results for as long as the context lasts.

    Parameters
    ----------
    reports: the folder; made where it is not there.
    command: what is run, for others to read.
    tell: called with a line before waiting for the other; without it another is an Occupied at once.

    Raises
    ------
    Occupied: another process holds the folder.
    OSError: the folder cannot be written, or its file system knows no locks.
    """
    place = reports / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / "lock")
    _take(lock, reports, tell)
    holder = place / "holder.json"
    try:
        write_whole(place / ".gitignore", b"*\n")
        about = {"process": os.getpid(), "command": command, "since": datetime.now().isoformat(" ", "seconds")}
        write_whole(holder, json.dumps(about).encode())
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _take(lock: FileLock, reports: Path, tell: Callable[[str], None] | None) -> None:
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if tell is None:
                raise Occupied(f"{holder_told(reports)}; --wait waits for its end") from None
            tell(f"{holder_told(reports)}; waiting for its end")
            lock.acquire(timeout=-1, poll_interval=EVERY)
    except NotImplementedError as error:
        raise OSError(f"{reports}: its file system knows no locks ({error})") from None


def holder_told(reports: Path) -> str:
    """Who works in a folder, as far as it has said so."""
    try:
        about = json.loads((reports / FOLDER / "holder.json").read_bytes())
        who = f"process {int(about['process'])}, {shown(str(about['command']))}, since {shown(str(about['since']))}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"another lab works in {reports}"
    return f"another lab works in {reports} ({who})"
