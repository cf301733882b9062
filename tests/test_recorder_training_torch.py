"""Does the lab train as PyTorch does? Its autocast and GradScaler on the CPU, on the lab's weights and batches."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from analysis.gpu import training, training_compare  # noqa: E402
from analysis.gpu.training import TrainingRecording  # noqa: E402
from analysis.gpu.training_tasks import MODES, TASKS  # noqa: E402


@pytest.mark.parametrize("name", TASKS)
def test_autocast_is_emulated(name: str, tmp_path: Path) -> None:
    """Scales and skipped steps are the same; losses agree until sums in another order have been amplified."""
    task = dataclasses.replace(TASKS[name], steps=45)
    modes = [mode for mode in MODES.values() if not mode.fp8]
    folder = training.record("cpu", tmp_path, tasks=[task], modes=modes, tell=lambda line: None)
    found = {one.mode: one for one in training_compare.compare(TrainingRecording.read(folder))}
    assert set(found) == {"fp32", "fp16-amp", "bf16-amp"}
    for mode, one in found.items():
        assert one.within, one.text()
        curve = one.curve
        assert np.array_equal(curve.scale, curve.scale_emulated) and np.array_equal(
            curve.skipped, curve.skipped_emulated
        )
        gap = np.abs(curve.loss - curve.loss_emulated) / curve.loss
        # The last place of a product's result: 2^-24, 2^-11, 2^-8; a loss averages over hundreds of them.
        unit = {"fp32": 2.0**-24, "fp16-amp": 2.0**-11, "bf16-amp": 2.0**-8}[mode]
        assert gap[0] <= 4 * unit and gap.max() <= 64 * unit, (mode, gap.max())
    scales = found["fp16-amp"].curve.scale
    assert scales.max() > scales[0]  # it grew, so growth was compared too


def test_fp8_on_a_cpu_says_why_not(tmp_path: Path) -> None:
    task = dataclasses.replace(TASKS["digits-mlp"], steps=2)
    lines: list[str] = []
    with pytest.raises(training.CannotRecord, match="_scaled_mm on a CPU"):
        training.record("cpu", tmp_path, tasks=[task], modes=[MODES["fp8"]], tell=lines.append)
    assert "not recorded" in lines[0]
    with pytest.raises(training.CannotRecord, match="sees no GPU"):
        training.record("cuda", tmp_path)
