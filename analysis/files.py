"""Files written whole or not at all, and their digests; imports nothing beyond the standard library."""

from __future__ import annotations

import errno
import os
import stat
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that at every moment it is there in its old or in its new state.

    An existing file keeps its permissions, and a symbolic link stays one; what is no file stays what it is, and is an OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path = Path(os.path.realpath(path))
    mode = _mode(path)
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, mode)
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _mode(path: Path) -> int:
    """The permissions that a file has, or gets."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return 0o644
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "is no regular file, and is not replaced by one", str(path))
    return stat.S_IMODE(mode)


def digest(content: bytes) -> str:
    """SHA-256 as hexadecimal text."""
    return sha256(content).hexdigest()
