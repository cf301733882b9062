"""Is training recorded whole and compared fairly? (The device is a pretended one: the lab's own run, as it is or changed.)"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from implementations import JIT

from analysis.gpu import __main__ as command
from analysis.gpu import training, training_compare
from analysis.gpu.histograms import HIGHEST, LOWEST, histogram
from analysis.gpu.recording import RecordingError, recordings
from analysis.gpu.training import TrainingRecording
from analysis.gpu.training_tasks import MODES, TASKS
from analysis.training.numerics import engine_of
from analysis.training.recipes import RECIPES

pytestmark = pytest.mark.skipif(not JIT, reason="takes too long without the compiler")
STEPS, TASK = 12, TASKS["digits-mlp"]
FACTS = {"is_gpu": False, "name": "cpu pretended", "compute_capability": None}


def pretended(mode_name: str, change: Any = None) -> dict[str, Any]:
    """What a device records that does what the lab does."""
    recipe = MODES[mode_name].emulated(None)
    history = training_compare.emulate(TASK, recipe, TASK.keys(STEPS, TASK.seed))
    steps = history.steps
    arrays: dict[str, Any] = {
        "loss": steps.loss.to_numpy(float).copy(), "scale": steps.scale.to_numpy(float), "skipped": ~steps.applied.to_numpy(bool),
        "amax": np.exp2(steps.log2_amax.to_numpy(float)),
    }  # fmt: skip
    for where, values in history.tensors.items():
        step, role, layer = where.split("/")
        name = f"{layer}.weight" if role == "weight" and "." not in layer else layer
        kept = training_compare.as_kept(recipe, role, name, values)
        arrays[f"histogram/{step}/{role}/{name}"] = histogram(kept)
    return arrays if change is None else change(arrays)


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A recording of a device whose arrays are ``change``d."""

    def make(change: Any = None, modes: tuple[str, ...] = ("fp32", "fp16-amp")) -> Path:
        about = {"step_ms": 1.0, "peak_memory_bytes": None, "skipped": 0, "final_loss": 1.0, "deterministic": True}
        monkeypatch.setattr(training, "device_facts", lambda device: FACTS)
        monkeypatch.setattr(training, "software_facts", lambda: {"torch": "0"})
        monkeypatch.setattr(
            training, "_run", lambda task, mode, keys, device: (pretended(mode.name, change), dict(about))
        )
        import dataclasses

        short = dataclasses.replace(TASK, steps=STEPS)
        return training.record(
            "cpu", tmp_path, tasks=[short], modes=[MODES[name] for name in modes], tell=lambda line: None
        )

    return make


def compared(folder: Path) -> dict[str, training_compare.RunComparison]:
    return {one.mode: one for one in training_compare.compare(TrainingRecording.read(folder))}


def test_a_device_that_does_the_same_never_parts(recorded: Any) -> None:
    folder = recorded()
    assert folder.name.startswith("cpu-pretended-") and folder.name.endswith("-training")
    for one in compared(folder).values():
        assert one.within and one.first_bit is one.parted is one.first_scale is None
        assert "every loss is the same float32" in one.why()
        assert one.gradients.distance.max() == 0 and len(one.at_start) >= 4
    assert set(recordings(folder.parent)) == {folder}


def test_a_device_that_zeroes_more_is_beyond(recorded: Any) -> None:
    def flushes(arrays: dict[str, Any]) -> dict[str, Any]:
        for name, counts in arrays.items():
            if name.startswith("histogram/0/gradient/fc2"):
                moved = int(counts[2:].sum()) // 50
                counts[0] += moved
                counts[2 + int(np.argmax(counts[2:]))] -= moved
        return arrays

    found = compared(recorded(flushes, ("fp16-amp",)))["fp16-amp"]
    assert not found.within and "BEYOND" in found.text()


def test_another_decision_to_skip_is_named(recorded: Any) -> None:
    def skips(arrays: dict[str, Any]) -> dict[str, Any]:
        arrays["skipped"][5] = ~arrays["skipped"][5]
        return arrays

    found = compared(recorded(skips, ("fp16-amp",)))["fp16-amp"]
    assert found.first_scale == 5 and not found.within
    assert found.why().startswith("step 5: the device skips at scale 2^16")


def test_losses_that_part_are_named(recorded: Any) -> None:
    def drifts(arrays: dict[str, Any]) -> dict[str, Any]:
        arrays["loss"][3] *= 1 + 1e-6
        arrays["loss"][7:] *= 1.05
        return arrays

    found = compared(recorded(drifts, ("fp32",)))["fp32"]
    assert (found.first_bit, found.parted) == (3, 7) and found.within  # what training amplifies is no fault
    assert found.why().startswith("step 7: losses differ by more than 1%; bits differ from step 3 on")


def test_the_command_line(recorded: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = recorded()
    assert command.main(["compare", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "no GPU: cpu pretended" in out and out.count("within tolerances") == 2
    assert command.main(["compare", "--json", str(folder)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [run["mode"] for run in told[0]["runs"]] == ["fp32", "fp16-amp"]
    assert command.main(["record", "training", "--device", "cpu", "--out", str(tmp_path)]) == 1
    assert "finished recording, and is not written again" in capsys.readouterr().err
    assert command.main(["record", "training", "--parts", "resnet"]) == 1
    assert "there are: digits-mlp, gpt" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["byte", "initial", "schema", "gone"])
def test_damage_is_named(recorded: Any, damage: str) -> None:
    folder = recorded(modes=("fp32",))
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    if damage == "byte":
        content = bytearray((folder / "digits-mlp.npz").read_bytes())
        content[100] ^= 1
        (folder / "digits-mlp.npz").write_bytes(content)
    elif damage == "initial":
        manifest["tasks"]["digits-mlp"]["initial_sha256"] = "0" * 64
    elif damage == "schema":
        manifest["schema"] = 99
    else:
        (folder / "digits-mlp.npz").unlink()
    path.write_text(json.dumps(manifest))
    with pytest.raises(
        RecordingError,
        match={"byte": "SHA-256", "initial": "initial_sha256", "schema": "schema 1", "gone": "No such file"}[damage],
    ):
        compared(folder)


def test_histograms_by_hand() -> None:
    counts = histogram(np.float32([0, -0.0, 1, 1.5, -2, np.inf, np.nan, 2.0**-70, 2.0**30]))
    assert counts[:2].tolist() == [2, 2] and counts.sum() == 9 and len(counts) == 2 + HIGHEST - LOWEST + 1
    assert counts[2 - LOWEST] == 2 and counts[3 - LOWEST] == 1 and counts[2] == 1 and counts[-1] == 1


def test_every_mode_has_engines_on_every_chip() -> None:
    for chip in ("ampere", "ada", "hopper", "b200"):
        for mode in MODES.values():
            if mode.fp8 and chip == "ampere":
                continue  # which has no FP8 instruction, and records nothing
            recipe = mode.emulated(chip)
            for left, right in (
                (recipe.activation, recipe.weight),
                (recipe.gradient, recipe.weight),
                (recipe.activation, recipe.gradient),
            ):
                engine_of(recipe.engine, recipe.accumulator, recipe.promote_every, left, right)
    assert MODES["fp16-amp"].emulated("hopper").engine == "hopper.wgmma"
    assert MODES["fp32"].emulated("hopper").engine == RECIPES["fp32"].engine
