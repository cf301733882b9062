"""A finished recording as it lies on disk: manifest.json and at most seven .npz files, read without pickles.

Of every part a file holds ``<part>.hashes`` and ``<part>.class_hashes`` (uint64, one a chunk), ``<part>.codes`` (of the
kept outputs, shape (kept chunks, kept)) and ``<part>.surprises`` (uint32, shape (n, 2): numbers of outputs that fpemu of
that day did not predict, beside their codes; at most SURPRISES).  The hashes and codes of a part with a base are stored as the exclusive
or with those of the base, and class hashes as the exclusive or with the hashes: nearly all zeros, which compress away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.files import digest, write_whole
from analysis.gpu.hashing import DEFINITION, Hashes
from analysis.gpu.inputs import Codes, Coverage
from analysis.gpu.kinds import KINDS, Kind
from analysis.gpu.part import Part
from fpemu.reading import DAMAGE, first_line, load_arrays, read_whole, strict_json

SCHEMA = 1
TRAINING = "fpemu recording: training"  # read and written by training.py
TITLES = (*(kind.title for kind in KINDS.values()), TRAINING)
MANIFEST = "manifest.json"
RECORDINGS = Path(__file__).resolve().parents[2] / "reports" / "recordings"
MOST_BYTES = 4 << 20  # of a file
MOST_FILES = 7
SURPRISES = 4096  # of a part, shared alike by its classes where a chunk is of one class

_FIELDS: dict[str, type] = {
    "kind": str,
    "schema": int,
    "device": dict,
    "software": dict,
    "fpemu": str,
    "recorded": str,
    "seconds": float,
    "hash": dict,
    "parts": list,
    "not_recorded": list,
    "timings": list,
    "files": list,
}
_PART_FIELDS = ("name", "file", "base", "chunks", "inputs", "deterministic", "codes")


class RecordingError(Exception):
    """A recording is missing, damaged or of another kind; one line that names the file."""


@dataclass
class PartData:
    """What was recorded of one part; ``codes`` is None where only hashes are."""

    coverage: Coverage
    hashes: Hashes
    class_hashes: Hashes
    codes: Codes | None
    surprises: NDArray[np.uint32]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recording:
    """A folder, its manifest and its parts."""

    folder: Path
    kind: Kind
    manifest: dict[str, Any]
    parts: dict[str, PartData]

    @property
    def name(self) -> str:
        """The folder's name, ``<gpu>-<date>``."""
        return self.folder.name

    @property
    def is_gpu(self) -> bool:
        """Whether this is what a GPU did, and no stand-in."""
        return self.manifest["device"].get("is_gpu") is True

    @property
    def hardware(self) -> str:
        """The GPU's name."""
        return str(self.manifest["device"].get("name", "unknown"))

    @property
    def about(self) -> dict[str, str]:
        """What predictions depend on: the software with its versions, and the device's compute capability."""
        return about(self.manifest["device"], self.manifest["software"])

    @classmethod
    def read(cls, folder: Path) -> Recording:
        """Read a folder, check every digest and every shape; RecordingError names what is wrong with which file."""
        kind, manifest = _read_manifest(folder)
        archives = {entry["file"]: read_archive(folder / entry["file"], entry) for entry in manifest["files"]}
        parts: dict[str, PartData] = {}
        for entry in manifest["parts"]:  # a base comes before what is built on it
            try:
                parts[entry["name"]] = _unpack(kind.parts[entry["name"]], entry, archives[entry["file"]], parts)
            except (KeyError, ValueError, TypeError) as error:
                raise RecordingError(f"{folder.name}/{entry['file']}: {entry['name']}: {error}") from None
        return cls(folder, kind, manifest, parts)


def about(device: Mapping[str, Any], software: Mapping[str, Any]) -> dict[str, str]:
    """Names and versions of the software, and ``compute_capability``."""
    versions = {str(name): str(version) for name, version in software.items()}
    return {**versions, "compute_capability": str(device.get("compute_capability", "unknown"))}


def _read_manifest(folder: Path) -> tuple[Kind, dict[str, Any]]:
    path = f"{folder.name}/{MANIFEST}"
    manifest = read_json(folder)
    kind = _kind(manifest)
    if kind is None or manifest.get("schema") != SCHEMA:
        kinds = " or ".join(repr(one.title) for one in KINDS.values())
        raise RecordingError(f"{path}: is no {kinds} of schema {SCHEMA}")
    for name, type_ in _FIELDS.items():
        if not isinstance(manifest.get(name), (int, float) if type_ is float else type_):
            raise RecordingError(f"{path}: {name} is missing or not of type {type_.__name__}")
    for entry in manifest["files"]:
        if not isinstance(entry, dict) or not {"file", "sha256"} <= set(entry):
            raise RecordingError(f"{path}: an entry of files lacks its name or digest")
        if Path(str(entry["file"])).name != entry["file"]:
            raise RecordingError(f"{path}: {entry['file']!r} is not a plain file name")
    files = {entry["file"] for entry in manifest["files"]}
    for entry in manifest["parts"]:
        lacking = [name for name in _PART_FIELDS if not isinstance(entry, dict) or name not in entry]
        if lacking:
            raise RecordingError(f"{path}: a part lacks {', '.join(lacking)}")
        if str(entry["name"]) not in kind.parts or str(entry["file"]) not in files:
            raise RecordingError(f"{path}: part {entry['name']!r} is unknown or its file is not listed")
    if manifest["hash"] != hash_facts(kind):
        raise RecordingError(f"{path}: hashes, inputs or kept outputs are defined otherwise than here")
    return kind, manifest


def _kind(manifest: Any) -> Kind | None:
    """The kind that a manifest says it is; None if it is none of them."""
    title = manifest.get("kind") if isinstance(manifest, dict) else None
    return next((kind for kind in KINDS.values() if kind.title == title), None)


def read_json(folder: Path) -> Any:
    """The manifest of a folder as it stands there; RecordingError where there is none, or no JSON."""
    path = f"{folder.name}/{MANIFEST}"
    try:
        return strict_json(read_whole(folder / MANIFEST))
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise RecordingError(f"{path}: not JSON ({error})") from None


def read_archive(path: Path, entry: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """The arrays of a file whose digest is the one recorded; RecordingError otherwise."""
    where = f"{path.parent.name}/{path.name}"
    try:
        content = read_whole(path)
    except (OSError, ValueError) as error:
        raise RecordingError(f"{where}: {first_line(error)}") from None
    if digest(content) != entry["sha256"]:
        raise RecordingError(f"{where}: is not the file that was recorded (its SHA-256 differs)")
    try:
        return load_arrays(content)
    except DAMAGE as error:
        raise RecordingError(f"{where}: {first_line(error)}") from None


def _unpack(part: Part, entry: dict[str, Any], arrays: dict[str, NDArray[Any]], done: dict[str, PartData]) -> PartData:
    """A part from its arrays; ValueError where they do not have the shapes that the manifest tells."""
    name = part.name
    coverage = Coverage(tuple((int(first), int(stop)) for first, stop in entry["chunks"]))
    if not all(0 <= first < stop <= part.chunks_in_all for first, stop in coverage.ranges):
        raise ValueError(f"it has chunks 0 to {part.chunks_in_all - 1}")
    base = None if entry["base"] is None else done[entry["base"]]
    if base is not None and base.coverage != coverage:
        raise ValueError("its base covers other chunks")
    hashes = _array(arrays, f"{name}.hashes", np.dtype(np.uint64), coverage.chunks.shape)
    class_hashes = _array(arrays, f"{name}.class_hashes", np.dtype(np.uint64), hashes.shape)
    surprises = arrays[f"{name}.surprises"]
    if surprises.dtype != np.uint32 or surprises.ndim != 2 or surprises.shape[1] != 2:
        raise ValueError("surprises are not pairs of uint32")
    codes = None
    if f"{name}.codes" in arrays:
        shape = (part.kept_chunks(coverage.chunks).size, part.kept_offsets().size)
        codes = _array(arrays, f"{name}.codes", part.holder.code_dtype, shape)
    if base is not None:
        hashes = hashes ^ base.hashes
        if codes is not None:
            if base.codes is None:
                raise ValueError("its base has no codes")
            codes = codes ^ base.codes
    return PartData(coverage, hashes, class_hashes ^ hashes, codes, surprises, entry)


def _array(arrays: dict[str, NDArray[Any]], name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    array = arrays[name]
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name} is {array.dtype} of shape {array.shape}, not {dtype} of shape {shape}")
    return array


# ---- writing --------------------------------------------------------------------------------------------------------
def packed(part: Part, data: PartData, base: PartData | None, codes: bool = True) -> dict[str, NDArray[Any]]:
    """The arrays of a part as they are stored; ``codes=False`` leaves the kept codes out."""
    arrays: dict[str, NDArray[Any]] = {
        "hashes": data.hashes if base is None else data.hashes ^ base.hashes,
        "class_hashes": data.class_hashes ^ data.hashes,
        "surprises": data.surprises,
    }
    if codes and data.codes is not None:
        arrays["codes"] = data.codes if base is None or base.codes is None else data.codes ^ base.codes
    return {f"{part.name}.{name}": array for name, array in arrays.items()}


def archive(arrays: dict[str, NDArray[Any]]) -> bytes:
    """Arrays as the bytes of a compressed .npz; equal arrays are equal bytes."""
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def files_of(kind: Kind, parts: dict[str, PartData]) -> tuple[dict[str, bytes], dict[str, dict[str, Any]]]:
    """The .npz files of a recording, and for each part what the manifest says of where it lies.

    Where a file would be larger than MOST_BYTES the kept codes of its parts are left out, those of the last part first,
    and the manifest says so; ValueError where the hashes alone are too much.
    """
    files: dict[str, bytes] = {}
    places: dict[str, dict[str, Any]] = {}
    for file in dict.fromkeys(kind.parts[name].file for name in parts):
        inside = [name for name in kind.parts if name in parts and kind.parts[name].file == file]
        without: list[str] = []
        while True:
            content = archive(_arrays(kind, parts, inside, without))
            if len(content) <= MOST_BYTES:
                break
            candidates = [name for name in inside if parts[name].codes is not None and name not in without]
            if not candidates:
                raise ValueError(f"{file}.npz would be {len(content) >> 10} KiB with hashes alone")
            without.append(candidates[-1])
        files[f"{file}.npz"] = content
        reason = f"left out: with them the file would be larger than {MOST_BYTES >> 10} KiB"
        for name in inside:
            base = kind.parts[name].base
            places[name] = {
                "file": f"{file}.npz",
                "base": base if base in parts else None,
                "codes": reason if name in without else "kept",
            }
    if len(files) > MOST_FILES:
        raise ValueError(f"a recording has at most {MOST_FILES} .npz files, not {len(files)}")
    return files, places


def _arrays(kind: Kind, parts: dict[str, PartData], inside: list[str], without: list[str]) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for name in inside:
        base = kind.parts[name].base
        arrays |= packed(kind.parts[name], parts[name], parts.get(base) if base else None, name not in without)
    return arrays


def write(folder: Path, manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    """Write the files of a recording to a folder, the manifest last."""
    for name, content in files.items():
        write_whole(folder / name, content)
    text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(folder / MANIFEST, text.encode())


def hash_facts(kind: Kind) -> dict[str, Any]:
    """What the manifest says of the hashes and of the inputs: only what is defined alike can be replayed."""
    return {"definition": DEFINITION, **kind.inputs}


def recordings(folder: Path, kind: Kind | None = None) -> list[Path]:
    """The folders of recordings under a folder, by name; of one kind, or of any (what cannot be read is of any)."""
    found = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}") if not path.parent.name.startswith("."))
    titles = (None, kind.title) if kind is not None else ()
    return [place for place in found if kind is None or title_of(place) in titles]


def title_of(folder: Path) -> str | None:
    """What a folder's manifest says it is; None if it is none of the kinds, or cannot be read."""
    try:
        manifest = strict_json(read_whole(folder / MANIFEST))
    except (OSError, ValueError):
        return None
    kind = manifest.get("kind") if isinstance(manifest, dict) else None
    return kind if kind in TITLES else None
