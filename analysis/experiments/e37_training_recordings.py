"""Does the emulated training follow what PyTorch did?

Every recording of training in reports/recordings/ is repeated in the laboratory: the same weights, batches and rates,
FP32, FP16 with GradScaler and BF16 under torch.autocast. Losses, scales, skipped steps and the histograms of gradients
are set side by side. A recording of a CPU is PyTorch's CPU autocast, and no word about a GPU.

What to see: the same scales and skipped steps, losses that part only where sums in another order have been amplified by
training, and at the first step the same gradients, power of two by power of two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.experiment import Claim, Finding, Profile, Unit, Verdict
from analysis.figures import in_figure, log2_axis
from analysis.gpu import training_compare
from analysis.gpu.recording import MANIFEST, RECORDINGS, TRAINING, recordings, title_of
from analysis.gpu.training import TrainingRecording
from analysis.tables import percent, where

STEPS = {"quick": 8, "full": None}
TINTS = {"fp32": "#333333", "fp16-amp": "#0072B2", "bf16-amp": "#E69F00", "fp8": "#009E73"}

TITLE = "Training, emulated and recorded"
QUESTION = "Does the emulated training follow what PyTorch did?"
CLAIMS = (
    Claim(
        "Scales and skipped steps of GradScaler are those of the emulation.",
        "our own prediction",
        "the same at every step until the runs part",
        "predicted",
    ),
    Claim(
        "At the first step every gradient has the same share of zeros and the same magnitudes.",
        "our own prediction",
        "0.5 points; 2 %",
        "predicted",
    ),
)


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    """A unit a recording, with what its manifest is: another recording is measured anew."""
    found = [folder for folder in recordings(RECORDINGS) if title_of(folder) == TRAINING]
    return [{"recording": folder.name, "manifest": hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()[:16]} for folder in found] or [
        {"recording": "none", "manifest": ""}
    ]  # fmt: skip


def extent(units: Sequence[Unit]) -> int:
    """How many recordings a run covers."""
    return sum(unit["recording"] != "none" for unit in units)


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``curves``: a row a step and run; ``gradients``: a row a captured step, role and layer; ``runs``: a row a run."""
    curves: list[pd.DataFrame] = []
    gradients: list[pd.DataFrame] = []
    runs: list[dict[str, Any]] = []
    if unit["recording"] != "none":
        recording = TrainingRecording.read(RECORDINGS / str(unit["recording"]))
        facts = {(run["task"], run["mode"]): run for run in recording.manifest["runs"]}
        for one in training_compare.compare(recording, steps=STEPS[profile.name]):
            about: dict[str, Any] = {
                "recording": recording.name,
                "gpu": recording.is_gpu,
                "task": one.task,
                "mode": one.mode,
            }
            curves.append(one.curve.assign(**about))
            gradients.append(one.gradients.assign(**about))
            gap = (one.at_start.zeros - one.at_start.zeros_emulated).abs().max()
            runs.append(
                {
                    **about, "within": one.within, "why": one.why(), "parted": -1 if one.parted is None else one.parted,
                    "first_bit": -1 if one.first_bit is None else one.first_bit, "zeros_gap": float(gap), "distance": float(one.at_start.distance.max()),
                    "skipped": int(one.curve.skipped.sum()), "skipped_emulated": int(one.curve.skipped_emulated.sum()),
                    "step_ms": facts[one.task, one.mode]["step_ms"], "peak_mib": (facts[one.task, one.mode]["peak_memory_bytes"] or 0) / 2**20,
                }
            )  # fmt: skip
    empty = pd.DataFrame(columns=["recording", "task", "mode"])
    return {
        "curves": pd.concat(curves, ignore_index=True) if curves else empty,
        "gradients": pd.concat(gradients, ignore_index=True) if gradients else empty,
        "runs": pd.DataFrame(runs) if runs else empty,
    }


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {
    "curves": (
        "Relative difference of the recorded and the emulated loss (above; floor 1e-9; dashed: 1 %, where runs are said to have parted) and "
        "GradScaler's scale, recorded (line) and emulated (dots) (below), of the first recording, by task. "
        "The device is named in the title."
    )
}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figure of CAPTIONS, if there is a recording."""
    return {} if tables["runs"].empty else {"curves": draw_curves(tables["curves"])}


def draw_curves(curves: pd.DataFrame) -> Figure:
    """A column a task."""
    name = str(curves.recording.iloc[0])
    curves = where(curves, recording=name)
    tasks = list(dict.fromkeys(curves.task))
    figure, axes = plt.subplots(2, len(tasks), figsize=(8, 5), sharex="col", squeeze=False)
    for column, task in enumerate(tasks):
        above, below = axes[:, column]
        for mode, tint in TINTS.items():
            part = where(curves, task=task, mode=mode)
            if part.empty:
                continue
            gap = ((part.loss - part.loss_emulated).abs() / part.loss).clip(lower=1e-9)
            above.plot(part.step, gap, color=tint, linewidth=1, label=mode)
            if mode == "fp16-amp":
                below.step(part.step, np.log2(part.scale), where="post", color=tint, label="recorded")
                thin = part.iloc[:: max(len(part) // 60, 1)]
                below.plot(
                    thin.step, np.log2(thin.scale_emulated), ".", color="#D55E00", markersize=4, label="emulated"
                )
        above.axhline(training_compare.PARTED, color="#70757D", linewidth=1, linestyle="--")
        above.set(title=in_figure(task), yscale="log")
        below.set_xlabel("step")
        log2_axis(below, "loss scale", axis="y", most=6)
    axes[0, 0].set_ylabel("relative difference of the loss")
    axes[0, 0].legend(fontsize=8)
    axes[1, 0].legend(fontsize=8)
    figure.suptitle(in_figure(name), fontsize=10)
    return figure


# ---- verdict --------------------------------------------------------------------------------------------------------
def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """Every run within its tolerances; a CPU's recording is called one."""
    runs = tables["runs"]
    if runs.empty:
        return Verdict(
            "no claim",
            "No recording yet: `python -m analysis.gpu record training`, on a machine with PyTorch and a GPU, makes one.",
        )
    gpus = runs[runs.gpu]
    within = int(runs.within.sum())
    parted = runs[runs.parted >= 0]
    device = (
        "GPUs"
        if len(gpus) == len(runs)
        else "PyTorch's CPU autocast; no GPU has been recorded"
        if gpus.empty
        else "GPUs and CPUs"
    )
    status = "does not hold at this scale" if within < len(runs) else "holds" if len(gpus) else "holds with conditions"
    summary = (
        f"Recorded: {device}. {within} of {len(runs)} runs lie within the tolerances: at step 0 shares of zeros differ by at most "
        f"{percent(float(runs.zeros_gap.max()), 2)} and magnitudes by {percent(float(runs.distance.max()), 2)}; "
        f"{int(runs.skipped.sum())} steps were skipped as recorded and {int(runs.skipped_emulated.sum())} as emulated; "
        f"{len(parted)} of {len(runs)} runs {'parts' if len(parted) == 1 else 'part'} by more than 1 % of the loss."
    )
    findings = tuple(
        Finding(f"{row['task']}, {row['mode']} ({row['recording']}): skipped steps recorded, emulated; where they part, and why; time a step", "the same",
                f"{row['skipped']}, {row['skipped_emulated']}; {row['why']}; {row['step_ms']:.2f} ms")
        for row in runs.to_dict("records")
    )  # fmt: skip
    return Verdict(status, summary, findings)
