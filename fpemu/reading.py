"""Files from elsewhere: regular ones alone, no more memory than they are worth, and whatever is wrong with them in one line.

Every reader begins here: ``open_regular`` and ``read_whole`` for files, ``opened_archive`` and ``open_member`` for .npz, ``read_header``
and ``load_npy`` for .npy, ``strict_json`` for JSON.  Nothing is unpickled, and nothing is unpacked to disk.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from math import prod
from typing import IO, Any, BinaryIO, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from fpemu.shown import shown

MOST_BYTES = 1 << 30  # that a packed array may take in memory; what is stored as it is takes no more than in its file
MOST_HEADER = 1 << 16  # bytes of an .npy's head; that of an array without fields takes 128
PIECE = 1 << 22  # bytes unpacked at one time
# What zipfile and NumPy raise for a damaged archive; OSError is among it, for offsets before the file's beginning.
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OSError, OverflowError)
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what NumPy writes; others unpack to any size at once
KINDS = {
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a block device",
}


class NotRegular(OSError, ValueError):
    """A pipe, a socket or a device where a file should be."""


# ---- files ----------------------------------------------------------------------------------------------------------
def open_regular(file: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, opened for reading; nothing else is waited for.

    Raises
    ------
    NotRegular: (an OSError and a ValueError) a pipe, a socket or a device.
    OSError: no such file, a directory (IsADirectoryError), no permission.
    """
    path = os.fspath(file)
    _check_regular(os.stat(path).st_mode, path)
    # Without waiting, should it have become a pipe meanwhile.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check_regular(os.fstat(handle).st_mode, path)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _check_regular(mode: int, path: str) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise NotRegular(
            errno.ESPIPE, f"{KINDS.get(stat.S_IFMT(mode), 'no file')}, and only regular files are read", path
        )


def read_whole(file: str | os.PathLike[str], most: int = MOST_BYTES) -> bytes:
    """All bytes of a regular file; ValueError, before any is read, where they are more than ``most``."""
    with open_regular(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > most:
            raise ValueError(f"{shown(os.fspath(file))}: {size:,} bytes, and at most {most:,} are read")
        return stream.read()


# ---- JSON -----------------------------------------------------------------------------------------------------------
def strict_json(text: bytes | str) -> Any:
    """What a JSON text says.  ValueError, one line, for anything the standard does not have: NaN, names that repeat, other encodings; and
    for nesting without end."""

    def refused(name: str) -> Any:
        raise ValueError(f"{name} is no number of JSON")

    try:
        whole = text if isinstance(text, str) else text.decode("utf-8")
        return json.loads(whole, object_pairs_hook=_table, parse_constant=refused)
    except UnicodeDecodeError as error:
        raise ValueError(f"no UTF-8 at byte {error.start}") from None
    except (RecursionError, MemoryError):
        raise ValueError("nested too deeply") from None


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = _twice(name for name, _ in pairs)
    if twice is not None:
        raise ValueError(f"the name '{shown(twice)}' stands twice")
    return dict(pairs)


def _twice(names: Iterable[str]) -> str | None:
    """The first name that has been there before."""
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


# ---- .npy -----------------------------------------------------------------------------------------------------------
class Header(NamedTuple):
    """What the head of an .npy says."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int  # bytes before the data

    @property
    def order(self) -> Literal["C", "F"]:
        """Of the elements, as NumPy calls it."""
        return "F" if self.fortran else "C"

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of data that follow."""
        return self.size * self.dtype.itemsize


def read_header(stream: IO[bytes]) -> Header:
    """The head of an .npy of any version, the stream left at its data; ValueError where it is none, or longer than MOST_HEADER."""
    magic = stream.read(8)
    if len(magic) < 8 or magic[:6] != b"\x93NUMPY":
        raise ValueError("it does not begin as an .npy does")
    version = (magic[6], magic[7])
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} of the .npy layout, and 1.0, 2.0 and 3.0 are read")
    width = 2 if version == (1, 0) else 4
    length = int.from_bytes(read_exactly(stream, width), "little")
    if length > MOST_HEADER:
        raise ValueError(f"a head of {length:,} bytes, and at most {MOST_HEADER:,} are read")
    text = read_exactly(stream, length)
    try:
        shape, fortran, dtype = _parsed(text, version)
    except (
        SyntaxError,
        TypeError,
        OverflowError,
        RecursionError,
        MemoryError,
        ValueError,
        tokenize.TokenError,
    ) as error:
        raise ValueError(f"its head is damaged ({first_line(error)})") from None
    if any(isinstance(n, bool) or n < 0 for n in shape):
        raise ValueError(f"its head is damaged (shape {shape})")
    return Header(shape, fortran, dtype, 8 + width + length)


def _parsed(text: bytes, version: tuple[int, int]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """NumPy's own reading of a head's text; version 3 differs in its encoding alone, which an escape makes the same."""
    if version == (3, 0):
        text = text.decode("utf-8").encode("latin1", "backslashreplace")
    stream = BytesIO(len(text).to_bytes(4, "little") + text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, on heads that Python 2 wrote
        return np.lib.format.read_array_header_2_0(stream, max_header_size=2 * MOST_HEADER)


def check_length(header: Header, total: int) -> None:
    """ValueError unless a file of ``total`` bytes holds exactly the data its head announces."""
    found = total - header.offset
    if not header.dtype.hasobject and found != header.nbytes:
        state = "cut short" if found < header.nbytes else "too long"
        raise ValueError(f"{state}: shape {header.shape} of {header.dtype} takes {header.nbytes} bytes, found {found}")


def load_npy(file: str | os.PathLike[str]) -> NDArray[Any]:
    """The array of an .npy, mapped, not read; ValueError where it is damaged or pickled."""
    with open_regular(file) as stream:
        header = read_header(stream)
        _refuse_objects(header)
        check_length(header, os.fstat(stream.fileno()).st_size)
        if not header.nbytes:
            return np.zeros(header.shape, header.dtype)
        return np.asarray(np.memmap(cast(Any, stream), header.dtype, "r", header.offset, header.shape, header.order))


def _refuse_objects(header: Header) -> None:
    if header.dtype.hasobject:
        raise ValueError("pickled objects are refused: they could run any program")


# ---- .npz -----------------------------------------------------------------------------------------------------------
@contextmanager
def opened_archive(path: str) -> Iterator[zipfile.ZipFile]:
    """An .npz; ValueError with the path where it is none, OSError where it cannot be read."""
    with open_regular(path) as stream:
        try:
            archive = zipfile.ZipFile(stream)
            _check_members(archive, os.fstat(stream.fileno()).st_size)
        except DAMAGE as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            raise ValueError(f"{shown(path)}: not an .npz archive, or cut short ({first_line(error)})") from None
        with archive:
            yield archive


def _check_members(archive: zipfile.ZipFile, size: int) -> None:
    members = archive.infolist()
    twice = _twice(member.filename for member in members)
    if twice is not None:
        raise ValueError(f"two members are called {shown(twice)}")
    if sum(member.compress_size for member in members) > size:
        raise ValueError("its members take more bytes than it has")


def open_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
    """A member's unpacked bytes, as a stream; ValueError where it is encrypted, or packed as NumPy packs nothing."""
    if member.flag_bits & 1:
        raise ValueError("encrypted")
    if member.compress_type not in METHODS:
        name = zipfile.compressor_names.get(member.compress_type, f"method {member.compress_type}")  # type: ignore[attr-defined]
        raise ValueError(f"packed with {name}; an .npz is stored or deflated")
    return archive.open(member)


def load_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int = MOST_BYTES) -> NDArray[Any]:
    """The array of a member.  ValueError, before the memory is taken, where it is packed and unpacks to more than ``most``."""
    with open_member(archive, member) as stream:
        header = read_header(stream)
        _refuse_objects(header)
        check_length(header, member.file_size)
        allowed = max(most, member.compress_size)  # what is stored takes what it takes in the file
        if header.nbytes > allowed:
            raise ValueError(f"unpacks to {header.nbytes:,} bytes, and at most {allowed:,} are taken")
        data = bytearray()
        while len(data) < header.nbytes:
            data += read_exactly(stream, min(PIECE, header.nbytes - len(data)))
    flat: NDArray[Any] = np.frombuffer(data, header.dtype)
    return flat.reshape(header.shape, order=header.order)


def array_names(path: str) -> list[str]:
    """Names of the arrays of an .npz; ValueError as ``opened_archive``."""
    with opened_archive(path) as archive:
        return [
            member.filename.removesuffix(".npy") for member in archive.infolist() if member.filename.endswith(".npy")
        ]


def load_array(path: str, name: str, most: int = MOST_BYTES) -> NDArray[Any]:
    """One array of an .npz, by name.  Raises ValueError as ``load_member``; KeyError for a name that is not there."""
    with opened_archive(path) as archive:
        return load_member(archive, archive.getinfo(f"{name}.npy"), most)


def load_arrays(content: bytes, most: int = MOST_BYTES) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz that is in memory already; ValueError where they unpack to more than ``most`` together, or are damaged."""
    with zipfile.ZipFile(BytesIO(content)) as archive:
        _check_members(archive, len(content))
        total = sum(member.file_size for member in archive.infolist())
        if total > most:
            raise ValueError(f"unpacks to {total:,} bytes, and at most {most:,} are taken")
        return {
            member.filename.removesuffix(".npy"): load_member(archive, member, most) for member in archive.infolist()
        }


def read_exactly(stream: IO[bytes], size: int) -> bytes:
    """So many bytes; EOFError where there are fewer."""
    data = stream.read(size)
    if len(data) != size:
        raise EOFError(f"cut short: {size - len(data)} bytes missing")
    return data


# ---- messages -------------------------------------------------------------------------------------------------------
def first_line(error: BaseException) -> str:
    """What an error says, on one line that prints; its kind where it says nothing."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return shown(lines[0]) if lines else type(error).__name__
