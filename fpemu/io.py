"""Codes that travel: files that keep codes together with what they are codes of.

A file is an ordinary ``.npz`` without pickles and with two members: ``codes``, and ``format``, a JSON text with the
version of this layout and every fact of the format.  NumPy alone can read it.
"""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import asdict

import numpy as np
from numpy.typing import ArrayLike

from fpemu.arrays import Codes
from fpemu.arrays import codes_of as codes_of
from fpemu.formats import FORMATS, FloatFormat, FormatName
from fpemu.reading import DAMAGE as DAMAGE
from fpemu.reading import MOST_BYTES, first_line, load_member, open_member, read_header, strict_json
from fpemu.reading import opened_archive as opened_archive
from fpemu.shown import shown
from fpemu.writing import writing_whole as writing_whole

VERSION = 1
CODES, FORMAT = "codes.npy", "format.npy"
_IDENTITY_LIMIT = 1 << 16  # bytes; an identity takes a few hundred


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


def load(file: str | os.PathLike[str], *, most_bytes: int = MOST_BYTES) -> tuple[Codes, FloatFormat]:
    """The codes of a file and their format, as ``save`` wrote them.

    Parameters
    ----------
    file: path of a regular file.
    most_bytes: that the codes may take in memory where the file holds them compressed (``save`` does not): a small file can
        unpack to any size.  1 GiB by default.

    Returns
    -------
    (codes, format): codes in the format's ``code_dtype``, of the shape saved.

    Raises
    ------
    ValueError: not such a file; one that is truncated, damaged, pickled, encrypted, or of a later version; one that unpacks to more
        than ``most_bytes``; codes beyond the format; a name whose facts differ from this catalogue's; a pipe, a socket or a device
        (an OSError too).
    OSError: the file cannot be read (FileNotFoundError where it does not exist).

    Examples
    --------
    >>> import tempfile, fpemu as fp
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fp.save(f"{folder}/x.npz", fp.encode([0.1, 0.2], "e4m3"), "e4m3")
    ...     codes, format = fp.load(f"{folder}/x.npz")
    >>> [hex(code) for code in codes], format.name
    (['0x1d', '0x25'], 'float8_e4m3fn')
    """
    path = os.fspath(file)
    with opened_archive(path) as archive:
        format = read_identity(archive, path)
        if format is None:
            raise ValueError(
                f"{shown(path)}: an .npz, but not a file of fpemu.save: it has no {FORMAT[:-4]} beside codes"
            )
        try:
            member = archive.getinfo(CODES)
            with open_member(archive, member) as stream:
                header = read_header(stream)
            if header.dtype != format.code_dtype:
                raise ValueError(f"codes of {format.name} are {format.code_dtype}, found {header.dtype}")
            codes = load_member(archive, member, most_bytes)
        except DAMAGE as error:
            raise ValueError(f"{shown(path)}: damaged: {first_line(error)}") from None
    try:
        return codes_of(codes, format)
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from None


# ---- identities ------------------------------------------------------------------------------------------------------
def read_identity(archive: zipfile.ZipFile, path: str) -> FloatFormat | None:
    """The format of a file that ``save`` wrote, None for any other archive.

    Raises ValueError where the identity is damaged, of another version, or at odds with the catalogue.
    """
    if not {CODES, FORMAT} <= set(archive.namelist()) or archive.getinfo(FORMAT).file_size > _IDENTITY_LIMIT:
        return None
    try:
        text = load_member(archive, archive.getinfo(FORMAT), _IDENTITY_LIMIT)
    except DAMAGE as error:
        raise ValueError(f"{shown(path)}: damaged: {first_line(error)}") from None
    try:
        identity = strict_json(text.item()) if text.dtype.kind == "U" and text.ndim == 0 else None
    except ValueError:
        identity = None
    if not isinstance(identity, dict) or "fpemu" not in identity:
        return None
    if identity["fpemu"] != VERSION:
        raise ValueError(
            f"{shown(path)}: version {shown(str(identity['fpemu']))} of the layout; this fpemu reads version {VERSION}"
        )
    try:
        format = FloatFormat(**identity["format"])
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{shown(path)}: damaged: its format is none ({first_line(error)})") from None
    changed = _changed_facts(format)
    if changed:
        raise ValueError(f"{shown(path)}: {format.name} was saved with other facts than this catalogue's: {changed}")
    return format


def _changed_facts(format: FloatFormat) -> str:
    """How a format differs from the catalogue's of the same name; empty where it does not, or there is none."""
    known = FORMATS.get(format.name)
    if known is None or known.name != format.name:  # an alias is no identity
        return ""
    facts = asdict(known)
    return ", ".join(f"{key} {value}, not {facts[key]}" for key, value in asdict(format).items() if value != facts[key])
