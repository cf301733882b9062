"""Record how PyTorch trains the lab's networks on a device, and read such a recording.

    <out>/.partial/<device>-training/<task>-<mode>.npz    what is kept of an unfinished recording
    <out>/<device>-<date>-training/                       manifest.json and one .npz a task; written once, never changed

An .npz holds the keys of the task's batches as ``keys``, and of every mode ``<mode>/loss`` (of each step, before its update), ``scale``,
``skipped``, ``amax`` (of the unscaled gradients); of captured steps ``<mode>/histogram/<step>/<role>/<layer>`` (int64: zeros, not finite,
one count a power of two) and ``values/...`` (the first elements, float32) of gradients by outputs (role ``gradient``) and by parameters
(``weight``), as they are held: scaled.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis import environment, fingerprint
from analysis.files import digest, write_whole
from analysis.gpu.part import Unavailable
from analysis.gpu.record import CannotRecord
from analysis.gpu.recording import MANIFEST, TRAINING, RecordingError, archive, read_archive, read_json, write
from analysis.gpu.training_tasks import KEPT, MODES, TASKS, Mode, Task
from fpemu.reading import load_arrays, read_whole

SCHEMA = 1
SUFFIX = "-training"
LIBRARIES = ("numpy", "torch", "scikit-learn", "nvidia-cublas")

Arrays = dict[str, NDArray[Any]]
Tell = Callable[[str], None]


def record(
    device: str,
    out: Path,
    *,
    tasks: Iterable[Task] | None = None,
    modes: Iterable[Mode] | None = None,
    tell: Tell = print,
) -> Path:
    """Train every task in every mode, twice, on ``cuda`` or ``cpu``, going on where an interrupted run stopped.

    Returns the folder of the finished recording.  Raises CannotRecord where torch or the device is missing, nothing could be
    recorded, or the folder of the day exists.
    """
    facts, software = device_facts(device), software_facts()
    slug = re.sub(r"[^a-z0-9]+", "-", str(facts["name"]).lower()).strip("-")
    place = out / f"{slug}-{datetime.now(UTC):%Y-%m-%d}{SUFFIX}"
    if place.exists():
        raise CannotRecord(f"{place} is a finished recording, and is not written again: choose another --out")
    partial = out / ".partial" / f"{slug}{SUFFIX}"
    write_whole(out / ".partial" / ".gitignore", b"*\n")
    made_with = {
        "fpemu": environment.fpemu_version(), "commit": environment.commit(), "sources_sha256": fingerprint.library(),
    }  # fmt: skip
    files: dict[str, bytes] = {}
    runs: list[dict[str, Any]] = []
    not_recorded: list[dict[str, str]] = []
    for task in TASKS.values() if tasks is None else tasks:
        keys = task.keys(task.steps, task.seed)
        held: Arrays = {"keys": keys}
        for mode in MODES.values() if modes is None else modes:
            name = f"{task.name}-{mode.name}"
            key = {"device": facts, "software": software, **made_with, "keys": digest(keys.tobytes())}
            try:
                kept = _load(partial / f"{name}.npz", key)
                arrays, about = _run(task, mode, keys, device) if kept is None else kept
            except Unavailable as error:
                not_recorded.append({"task": task.name, "mode": mode.name, "reason": str(error)})
                tell(f"{name}: not recorded: {error}")
                continue
            if kept is None:
                note = np.frombuffer(json.dumps({"key": key, "about": about}).encode(), np.uint8)
                write_whole(partial / f"{name}.npz", archive({"about": note, **arrays}))
            tell(f"{name}: {_told(about, kept is not None)}")
            held |= {f"{mode.name}/{what}": array for what, array in arrays.items()}
            runs.append({"task": task.name, "mode": mode.name, "file": f"{task.name}.npz", **about})
        files[f"{task.name}.npz"] = archive(held)
    if not runs:
        raise CannotRecord("; ".join(sorted({entry["reason"] for entry in not_recorded})) or "no tasks")
    manifest = {
        "kind": TRAINING, "schema": SCHEMA, "device": facts, "software": software, **made_with,
        "recorded": datetime.now(UTC).isoformat(timespec="seconds"), "kept": KEPT,
        "tasks": {task.name: _about_task(task) for task in TASKS.values()},
        "runs": runs, "not_recorded": not_recorded,
        "files": [{"file": name, "bytes": len(content), "sha256": digest(content)} for name, content in files.items()],
    }  # fmt: skip
    made = partial / "finished"
    shutil.rmtree(made, ignore_errors=True)
    write(made, manifest, files)
    os.replace(made, place)
    shutil.rmtree(partial, ignore_errors=True)
    if [path.name for path in partial.parent.iterdir()] == [".gitignore"]:
        shutil.rmtree(partial.parent)
    return place


def _about_task(task: Task) -> dict[str, Any]:
    """What of a task a replay must share."""
    return {
        "steps": task.steps, "warmup": task.warmup, "seed": task.seed, "optimizer": str(task.rule), "data_sha256": task.data(),
        "initial_sha256": initial_digest(task),
    }  # fmt: skip


def initial_digest(task: Task) -> str:
    """Of the initial weights."""
    values = task.network().initialise(task.seed)
    return digest(b"".join(name.encode() + value.tobytes() for name, value in sorted(values.items())))


def _run(task: Task, mode: Mode, keys: NDArray[Any], device: str) -> tuple[Arrays, dict[str, Any]]:
    """Two runs; what is recorded of the first, and whether the second was the same."""
    from analysis.gpu.torch_training import Unsupported, run

    try:
        arrays, about = run(task, mode, keys, device)
        again, _ = run(task, mode, keys, device)
    except Unsupported as error:
        raise Unavailable(str(error)) from None
    same = np.flatnonzero(arrays["loss"] != again["loss"])
    return arrays, {
        **about,
        "deterministic": not same.size,
        "first_step_differing_on_repeat": int(same[0]) if same.size else None,
    }


def _told(about: dict[str, Any], kept: bool) -> str:
    words = "kept from before; " if kept else ""
    memory = about["peak_memory_bytes"]
    words += f"{about['step_ms']:.2f} ms a step, {about['skipped']} skipped, final loss {about['final_loss']}"
    return (
        words
        + (f", {memory / 2**20:.0f} MiB" if memory else "")
        + ("" if about["deterministic"] else ", not repeatable")
    )


def _load(path: Path, key: dict[str, Any]) -> tuple[Arrays, dict[str, Any]] | None:
    """A kept run; None if there is none, it is damaged, or of another device, software or source."""
    try:
        kept = load_arrays(read_whole(path))
        note = json.loads(kept.pop("about").tobytes())
        return (kept, note["about"]) if note["key"] == json.loads(json.dumps(key)) else None
    except Exception:
        return None


# ---- the device -----------------------------------------------------------------------------------------------------
def device_facts(device: str) -> dict[str, Any]:
    """Of ``cuda`` or ``cpu``; CannotRecord where torch or the device is missing."""
    try:
        import torch
    except ImportError:
        raise CannotRecord("PyTorch is not installed") from None
    if device == "cpu":
        return {"is_gpu": False, "name": f"cpu {environment.cpu_model()}", "compute_capability": None}
    if not torch.cuda.is_available():
        raise CannotRecord("PyTorch sees no GPU; --device cpu records its CPU autocast instead")
    capability = torch.cuda.get_device_capability()
    return {"is_gpu": True, "name": torch.cuda.get_device_name(), "compute_capability": "{}.{}".format(*capability)}


def software_facts() -> dict[str, str]:
    """Names and versions."""
    import torch

    found = {name: environment.version(name) for name in LIBRARIES}
    return {
        "python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}",
        "torch_cuda": str(torch.version.cuda), "threads": str(torch.get_num_threads()),
        **{name: version for name, version in found.items() if version != "absent"},
    }  # fmt: skip


# ---- reading --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class TrainingRecording:
    """A folder, its manifest, the keys of each task and the arrays of each run by (task, mode)."""

    folder: Path
    manifest: dict[str, Any]
    keys: Arrays
    runs: dict[tuple[str, str], Arrays]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def is_gpu(self) -> bool:
        """Whether a GPU did it."""
        return self.manifest["device"].get("is_gpu") is True

    @classmethod
    def read(cls, folder: Path) -> TrainingRecording:
        """Read a folder and check digests and shapes; RecordingError names what is wrong with which file."""
        where = f"{folder.name}/{MANIFEST}"
        manifest = read_json(folder)
        if not is_training(manifest) or manifest.get("schema") != SCHEMA:
            raise RecordingError(f"{where}: is no {TRAINING!r} of schema {SCHEMA}")
        keys: Arrays = {}
        runs: dict[tuple[str, str], Arrays] = {}
        try:
            archives = {entry["file"]: read_archive(folder / entry["file"], entry) for entry in manifest["files"]}
            for run in manifest["runs"]:
                task, mode, arrays = str(run["task"]), str(run["mode"]), archives[run["file"]]
                if task not in TASKS or mode not in MODES:
                    raise RecordingError(f"{where}: there is no task {task!r} in mode {mode!r}")
                keys[task] = arrays["keys"]
                own = {name[len(mode) + 1 :]: array for name, array in arrays.items() if name.startswith(f"{mode}/")}
                for name in ("loss", "scale", "skipped", "amax"):
                    if own[name].shape != (len(keys[task]),):
                        raise RecordingError(f"{folder.name}/{run['file']}: {mode}/{name} has not one value a step")
                runs[task, mode] = own
        except (KeyError, TypeError) as error:
            raise RecordingError(f"{where}: {error} is missing or malformed") from None
        return cls(folder, manifest, keys, runs)


def is_training(manifest: Any) -> bool:
    """Whether a manifest is that of a recording of training."""
    return isinstance(manifest, dict) and manifest.get("kind") == TRAINING
