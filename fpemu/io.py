"""Codes that travel: files that keep codes together with what they are codes of.

A file is an ordinary ``.npz`` without pickles and with two members: ``codes``, and ``format``, a JSON text with the
version of this layout and every fact of the format.  NumPy alone can read it.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike

from fpemu.arrays import Codes
from fpemu.arrays import codes_of as codes_of
from fpemu.formats import FORMATS, FloatFormat, FormatName

VERSION = 1
CODES, FORMAT = "codes.npy", "format.npy"
_IDENTITY_LIMIT = 1 << 16  # bytes; an identity takes a few hundred
# What zipfile and NumPy raise for a damaged archive; OSError is among it, for offsets before the file's beginning.
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OSError)


def save(file: str | os.PathLike[str], codes: ArrayLike, format: FormatName | None = None) -> None:
    """Write codes with their format's identity, whole or not at all.

    Parameters
    ----------
    file: path; taken as it is, no suffix is added.  An existing file is replaced only once the new one is complete.
    codes: integers of any shape, or an ml_dtypes array, which brings its own format.
    format: what they are codes of.

    Raises
    ------
    TypeError, ValueError: codes that are not integers or lie beyond the format; a format that bears the name of a
        catalogue format but has other facts.
    OSError: the file cannot be written.
    """
    array, source = codes_of(codes, format)
    changed = _changed_facts(source)
    if changed:
        raise ValueError(f"{source.name} is the name of a catalogue format with other facts ({changed}): rename yours")
    identity = json.dumps({"fpemu": VERSION, "format": asdict(source)})
    with writing_whole(file) as stream:
        np.savez(stream, codes=array.astype(array.dtype.newbyteorder("<"), copy=False), format=np.array(identity))


def load(file: str | os.PathLike[str]) -> tuple[Codes, FloatFormat]:
    """The codes of a file and their format, as ``save`` wrote them.

    Returns
    -------
    (codes, format): codes in the format's ``code_dtype``, of the shape saved.

    Raises
    ------
    ValueError: not such a file; one that is truncated, damaged, pickled, or of a later version; codes beyond the
        format; a name whose facts differ from this catalogue's.
    OSError: the file cannot be read (FileNotFoundError where it does not exist).
    """
    path = os.fspath(file)
    with opened_archive(path) as archive:
        format = read_identity(archive, path)
        if format is None:
            raise ValueError(f"{path}: an .npz, but not a file of fpemu.save: it has no {FORMAT[:-4]} beside codes")
        try:
            with archive.open(CODES) as stream:
                header = read_header(stream)
                if header.dtype != format.code_dtype:
                    raise ValueError(f"codes of {format.name} are {format.code_dtype}, found {header.dtype}")
                check_length(header, archive.getinfo(CODES).file_size)
            with archive.open(CODES) as stream:
                codes = np.lib.format.read_array(stream, allow_pickle=False)
        except DAMAGE as error:
            raise ValueError(f"{path}: damaged: {error}") from None
    try:
        return codes_of(codes, format)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


# ---- archives and their members -------------------------------------------------------------------------------------
@contextmanager
def opened_archive(path: str) -> Iterator[zipfile.ZipFile]:
    """An .npz; ValueError with the path where it is none."""
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise ValueError(f"{path}: not an .npz archive, or cut short ({error})") from None
    with archive:
        yield archive


def read_identity(archive: zipfile.ZipFile, path: str) -> FloatFormat | None:
    """The format of a file that ``save`` wrote, None for any other archive.

    Raises ValueError where the identity is damaged, of another version, or at odds with the catalogue.
    """
    if not {CODES, FORMAT} <= set(archive.namelist()) or archive.getinfo(FORMAT).file_size > _IDENTITY_LIMIT:
        return None
    try:
        with archive.open(FORMAT) as stream:
            text = np.lib.format.read_array(stream, allow_pickle=False)
        identity = json.loads(text.item()) if text.dtype.kind == "U" and text.ndim == 0 else None
    except json.JSONDecodeError:
        identity = None
    except DAMAGE as error:
        raise ValueError(f"{path}: damaged: {error}") from None
    if not isinstance(identity, dict) or "fpemu" not in identity:
        return None
    if identity["fpemu"] != VERSION:
        raise ValueError(f"{path}: version {identity['fpemu']} of the layout; this fpemu reads version {VERSION}")
    try:
        format = FloatFormat(**identity["format"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged: its format is none ({error})") from None
    changed = _changed_facts(format)
    if changed:
        raise ValueError(f"{path}: {format.name} was saved with other facts than this catalogue's: {changed}")
    return format


def _changed_facts(format: FloatFormat) -> str:
    """How a format differs from the catalogue's of the same name; empty where it does not, or there is none."""
    known = FORMATS.get(format.name)
    if known is None or known.name != format.name:  # an alias is no identity
        return ""
    facts = asdict(known)
    return ", ".join(f"{key} {value}, not {facts[key]}" for key, value in asdict(format).items() if value != facts[key])


class Header(NamedTuple):
    """What the head of an .npy says."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int  # bytes before the data

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of data that follow."""
        return self.size * self.dtype.itemsize


def read_header(stream: IO[bytes]) -> Header:
    """The head of an .npy, the stream left at its data; ValueError where it is none."""
    version = np.lib.format.read_magic(cast(BinaryIO, stream))
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version[0]}.{version[1]} of the .npy layout (structured arrays) is not read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's, on heads that Python 2 wrote
            shape, fortran, dtype = readers[version](cast(BinaryIO, stream))
    except (SyntaxError, TypeError, tokenize.TokenError) as error:
        raise ValueError(f"its head is damaged ({error})") from None
    return Header(shape, fortran, dtype, stream.tell())


def check_length(header: Header, total: int) -> None:
    """ValueError unless a file of ``total`` bytes holds exactly the data its head announces."""
    found = total - header.offset
    if not header.dtype.hasobject and found != header.nbytes:
        state = "cut short" if found < header.nbytes else "too long"
        raise ValueError(f"{state}: shape {header.shape} of {header.dtype} takes {header.nbytes} bytes, found {found}")


# ---- whole or not at all --------------------------------------------------------------------------------------------
@contextmanager
def writing_whole(file: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A stream whose bytes become the file when the block ends well; otherwise nothing is left behind."""
    target = Path(os.path.realpath(os.fspath(file)))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
