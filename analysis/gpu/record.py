"""Record what a device does: part by part, each twice, each kept when it is done; then the whole recording at once.

    <out>/.partial/<gpu>/<part>.npz     what is kept of an unfinished run
    <out>/<gpu>-<date>/                 manifest.json and the .npz files; written once, never changed

Nothing here knows what a device is; device.py does.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis import environment, fingerprint
from analysis.files import digest, write_whole
from analysis.gpu.device import Device
from analysis.gpu.driver import DriverError
from analysis.gpu.hashing import Hashes, chunk_hashes, is_nan
from analysis.gpu.inputs import EVERYTHING, Codes, Coverage
from analysis.gpu.kinds import CONVERSIONS, Kind
from analysis.gpu.part import REPLAYED, NoPrediction, Numbers, Part, Unavailable
from analysis.gpu.recording import SCHEMA, SURPRISES, PartData, about, archive, files_of, hash_facts, write
from fpemu.reading import load_arrays, read_whole

Tell = Callable[[str], None]


class CannotRecord(Exception):
    """There is nothing to record, or the recording is there already; one line."""


def record(
    device: Device,
    out: Path,
    *,
    kind: Kind = CONVERSIONS,
    parts: Iterable[Part] | None = None,
    coverage: Coverage = EVERYTHING,
    tell: Tell = print,
) -> Path:
    """Record the parts on a device, going on where an interrupted run stopped.

    Parameters
    ----------
    device: where. out: the folder that gets ``<gpu>-<date>/``. kind: what is recorded. parts: which (default: all).
    coverage: which chunks of each part. tell: called with one line for each part.

    Returns
    -------
    Path: the folder of the finished recording.

    Raises
    ------
    CannotRecord: the folder of the day exists, or not one hardware instruction could be recorded.
    DriverError: the device failed; the parts done so far are kept.
    """
    facts, software = device.facts(), device.software()
    slug = re.sub(r"[^a-z0-9]+", "-", str(facts["name"]).lower()).strip("-")
    place = out / f"{slug}-{datetime.now(UTC):%Y-%m-%d}{kind.suffix}"
    if place.exists():
        raise CannotRecord(f"{place} is a finished recording, and is not written again: choose another --out")
    partial = out / ".partial" / f"{slug}{kind.suffix}"
    write_whole(out / ".partial" / ".gitignore", b"*\n")
    made_with = {
        "fpemu": environment.fpemu_version(),
        "commit": environment.commit(),  # None where the sources came without their repository
        "sources_sha256": fingerprint.library(),
    }
    made_on = {
        "device": facts,
        "software": software,
        "hash": hash_facts(kind),
        "coverage": coverage.ranges,
        **made_with,
    }
    done: dict[str, PartData] = {}
    not_recorded: list[dict[str, str]] = []
    chosen = list(kind.parts.values() if parts is None else parts)
    for part in chosen:
        path = partial / f"{part.name}.npz"
        key = {**made_on, "kernel": part.kernel}
        data = load_part(path, key)
        if data is None:
            try:
                data = measure(device, part, part.cover(coverage), about(facts, software))
            except Unavailable as error:
                not_recorded.append({"name": part.name, "how": part.how, "reason": str(error)})
                tell(f"{part.name}: not recorded: {error}")
                continue
            save_part(path, key, data)
            tell(f"{part.name}: {_told(data)}")
        else:
            tell(f"{part.name}: kept from before")
        done[part.name] = data
    if not any(kind.parts[name].is_hardware for name in done):
        reasons = "; ".join(sorted({entry["reason"] for entry in not_recorded})) or "no parts"
        raise CannotRecord(f"not one hardware instruction could be recorded: {reasons}")
    if kind.timed:
        tell("timing")
    manifest = {
        "kind": kind.title,
        "schema": SCHEMA,
        "device": facts,
        "software": software,
        **made_with,
        "recorded": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(sum(data.facts["seconds"] for data in done.values()), 3),
        "hash": hash_facts(kind),
        **(_timings(device) if kind.timed else {"timings": [], "timings_note": None}),
        "not_recorded": not_recorded,
        "not_asked_for": [name for name, part in kind.parts.items() if part not in chosen],
    }
    _publish(kind, partial, place, done, manifest)
    return place


def _told(data: PartData) -> str:
    facts = data.facts
    words = f"{facts['inputs']:,} outputs in {facts['seconds']:.1f} s"
    if not facts["deterministic"]:
        words += f", {facts['chunks_differing_on_repeat']} chunks differ when repeated"
    if facts["unpredicted"] is not None:
        words += f", {facts['unpredicted']:,} unpredicted and {facts['other_nan_codes']:,} other NaN codes"
    return words


def _timings(device: Device) -> dict[str, Any]:
    try:
        return {"timings": device.timings(), "timings_note": None}
    except DriverError as error:
        return {"timings": [], "timings_note": str(error)}


# ---- one part -------------------------------------------------------------------------------------------------------
def measure(device: Device, part: Part, coverage: Coverage, versions: Mapping[str, str]) -> PartData:
    """Run a part over its inputs twice. Raises Unavailable, and what the device raises."""
    clock = time.perf_counter()
    size, offsets = part.chunk, part.kept_offsets()
    hashes: list[Hashes] = []
    class_hashes: list[Hashes] = []
    again: list[Hashes] = []
    codes: list[Codes] = []
    surprises = _Surprises(part, versions)
    for first, stop in coverage.blocks(min(device.block_chunks, part.block_chunks)):
        block = device.codes(part, first, stop)
        raw, by_class = chunk_hashes(block, part.holder, size)
        hashes.append(raw)
        class_hashes.append(by_class)
        codes.append(block.reshape(-1, size)[part.kept_chunks(np.arange(first, stop)) - first][:, offsets].copy())
        surprises.look(block, raw, first)
        again.append(chunk_hashes(device.codes(part, first, stop), part.holder, size)[0])
    differing = int(np.count_nonzero(np.concatenate(hashes) != np.concatenate(again)))
    facts = {
        "how": part.how,
        **part.facts(),
        "inputs": int(coverage.chunks.size * size),
        "chunks": [list(ends) for ends in coverage.ranges],
        "deterministic": differing == 0,
        "chunks_differing_on_repeat": differing,
        **surprises.facts(),
        "seconds": round(time.perf_counter() - clock, 3),
        "kernel": device.detail(part),
    }
    return PartData(
        coverage, np.concatenate(hashes), np.concatenate(class_hashes), np.concatenate(codes), surprises.pairs(), facts
    )


class _Surprises:
    """Outputs whose code is not the predicted one: how many, and the first of them with their codes.

    They are looked for while the codes are there, since later only hashes and the kept codes are.
    """

    def __init__(self, part: Part, versions: Mapping[str, str]) -> None:
        self._part = part
        self._pairs: list[NDArray[np.uint32]] = []
        self._found: Counter[int] = Counter()  # by class, where chunks have one
        self._stored: Counter[int] = Counter()
        self._nans = 0
        self._error: str | None = None
        self._classed = part.class_of_chunks(np.arange(1)) is not None
        self._most = SURPRISES // (len(part.classes) if self._classed else 1)
        try:
            self._prediction = part.prediction(versions)
        except NoPrediction as error:
            self._error = str(error)

    def look(self, codes: Codes, hashes: Hashes, first: int) -> None:
        """Compare the codes of chunks from ``first`` on; an error of the prediction is noted, not raised."""
        if self._error is None:
            try:
                self._look(codes, hashes, first)
            except Exception as error:  # what the device did is worth keeping without it
                self._error = f"{type(error).__name__}: {' '.join(str(error).split())}"

    def _look(self, codes: Codes, hashes: Hashes, first: int) -> None:
        part, size = self._part, self._part.chunk
        for start in range(0, hashes.size, REPLAYED):
            chunks = np.arange(first + start, first + min(start + REPLAYED, hashes.size))
            ours = part.predicted(self._prediction, chunks)
            wrong = np.flatnonzero(chunk_hashes(ours, part.holder, size)[0] != hashes[start : start + REPLAYED])
            for place in wrong:
                here = slice(place * size, (place + 1) * size)
                theirs = codes[(start + place) * size : (start + place + 1) * size]
                self._compare(chunks[place : place + 1], theirs, ours[here])

    def _compare(self, chunk: Numbers, theirs: Codes, ours: Codes) -> None:
        differs = theirs != ours
        nans = differs & is_nan(theirs, self._part.holder) & is_nan(ours, self._part.holder)
        index = np.flatnonzero(differs & ~nans)
        classes = self._part.class_of_chunks(chunk)
        kind = 0 if classes is None else int(classes[0])
        self._nans += int(np.count_nonzero(nans))
        self._found[kind] += index.size
        index = index[: self._most - self._stored[kind]]
        self._stored[kind] += index.size
        numbers = chunk[0] * self._part.chunk + index
        self._pairs.append(np.stack([numbers, theirs[index]], axis=1).astype(np.uint32))

    def pairs(self) -> NDArray[np.uint32]:
        """The first SURPRISES of them, shape (n, 2): number and code."""
        return np.concatenate([np.empty((0, 2), np.uint32), *self._pairs])

    def facts(self) -> dict[str, Any]:
        """Counts over all inputs; None where the prediction failed, with the reason."""
        if self._error is not None:
            return {"unpredicted": None, "other_nan_codes": None, "prediction_failed": self._error}
        found: dict[str, Any] = {"unpredicted": self._found.total(), "other_nan_codes": self._nans}
        if self._classed:
            found["unpredicted_by_class"] = {name: self._found[i] for i, name in enumerate(self._part.classes)}
        return found


# ---- what is kept of an unfinished run ------------------------------------------------------------------------------
def save_part(path: Path, key: Mapping[str, Any], data: PartData) -> None:
    """Keep a finished part, whole or not at all."""
    about = json.dumps({"key": key, "facts": data.facts}).encode()
    arrays: dict[str, NDArray[Any]] = {
        "about": np.frombuffer(about, np.uint8),
        "hashes": data.hashes,
        "class_hashes": data.class_hashes,
        "surprises": data.surprises,
    }
    if data.codes is not None:
        arrays["codes"] = data.codes
    write_whole(path, archive(arrays))


def load_part(path: Path, key: Mapping[str, Any]) -> PartData | None:
    """A kept part; None if there is none, it is damaged, or it is of another device, software or source."""
    try:
        kept = load_arrays(read_whole(path))
        about = json.loads(kept["about"].tobytes())
        if about["key"] != json.loads(json.dumps(key)):
            return None
        coverage = Coverage(tuple((first, stop) for first, stop in about["facts"]["chunks"]))
        arrays = kept["hashes"], kept["class_hashes"], kept["codes"], kept["surprises"]
        return PartData(coverage, *arrays, about["facts"])
    except Exception:
        return None


# ---- the end --------------------------------------------------------------------------------------------------------
def _publish(kind: Kind, partial: Path, place: Path, done: dict[str, PartData], manifest: dict[str, Any]) -> None:
    """Make the folder aside, then move it into place; then nothing partial is needed any more."""
    files, places = files_of(kind, done)
    entries = [{"name": name, **places[name], **data.facts} for name, data in done.items()]
    manifest["parts"] = _told_once(entries)
    manifest["files"] = [
        {"file": name, "bytes": len(content), "sha256": digest(content)} for name, content in files.items()
    ]
    made = partial / "finished"
    shutil.rmtree(made, ignore_errors=True)
    write(made, manifest, files)
    if place.exists():
        raise CannotRecord(f"{place} appeared meanwhile, and is not written again")
    os.replace(made, place)
    shutil.rmtree(partial, ignore_errors=True)
    if [path.name for path in partial.parent.iterdir()] == [".gitignore"]:
        shutil.rmtree(partial.parent)


def _told_once(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries of parts, of which those with the same kernel as an earlier one say whose it is."""
    first: dict[str, str] = {}
    for entry in entries:
        if entry["kernel"]:
            owner = first.setdefault(json.dumps(entry["kernel"], sort_keys=True), entry["name"])
            if owner != entry["name"]:
                entry["kernel"] = {"same_as": owner}
    return entries
