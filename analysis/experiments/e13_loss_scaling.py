"""Does a detector need loss scaling in FP16, and do classifiers?

An SSD-like detector (a thousand anchors a scene, mean-reduced), an MLP and a convolutional net on digits are trained in
FP32 and in FP16 mixed precision: without a scale, with the factor of 8 that was enough for SSD, with 2^10, and with
GradScaler's dynamic scale.

What to see: whether the loss without a scale leaves the band that a change of seed makes. The published detector
diverged; small ones lose their smallest gradients, and with them hardly anything.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.experiment import Claim, Finding, Profile, Unit, Verdict
from analysis.figures import colour
from analysis.ladders import CAPTION, Rung, bound, draw_gaps, run_rungs, told, worse
from analysis.tables import percent, where
from analysis.training.recipes import RECIPES
from analysis.training.small_tasks import Task, digits_convnet, digits_mlp, small_detector

BASE, BARE = "fp32", "fp16"
RUNGS = {
    BASE: Rung("fp32-blas", "FP32", colour("fp32")),
    BARE: Rung("fp16", "FP16, no scale", "#D55E00"),
    "x8": Rung(RECIPES["fp16-static"].but(scaler_options={"init": 8.0}), "FP16, x8", "#E69F00"),
    "x1024": Rung("fp16-static", "FP16, x1024", "#56B4E9"),
    "dynamic": Rung("fp16-dynamic", "FP16, GradScaler", colour("fp16")),
}
DETECTOR = "detector"
SIZES = {"quick": {DETECTOR: 5, "MLP": 30}, "full": {DETECTOR: 150, "MLP": 200, "convnet": 80}}


def task_of(name: str, steps: int) -> Task:
    makers: dict[str, Callable[[int], Task]] = {DETECTOR: small_detector, "MLP": digits_mlp, "convnet": digits_convnet}
    return makers[name](steps)


TITLE = "Loss scaling: detectors and classifiers"
QUESTION = "Does a detector need loss scaling in FP16, and do classifiers?"
_GUIDE = "Micikevicius et al., Mixed Precision Training, ICLR 2018; second-hand"
CLAIMS = (
    Claim(
        "Multibox SSD diverges in FP16 without loss scaling; x8 matches FP32.",
        _GUIDE,
        "mAP 76.9 FP32, diverges, 77.1 scaled",
        "second-hand",
    ),
    Claim(
        "Classifiers train in FP16 without it.",
        _GUIDE,
        "ResNet-50 75.92 and 76.04 %, AlexNet 56.77 and 56.93 %",
        "second-hand",
    ),
)


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"task": name, "seed": seed} for name in SIZES[profile.name] for seed in range(profile.seeds)]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``runs``: a row a run; ``zeros``: what FP16 made zero without a scale, at the end."""
    name, seed = str(unit["task"]), int(unit["seed"])
    steps = SIZES[profile.name][name]
    task = task_of(name, steps)
    runs = run_rungs(name, task, RUNGS, seed)
    history = task.run("fp16", seed, capture=(steps - 1,))
    layers = history.layers
    output = layers[layers.role == "gradient"]
    share = {"nonzero": int(output.nonzero.sum()), "new_zero": int(output.new_zero.sum())}
    shadow = layers[layers.role == "shadow"]
    zeros = {
        "task": name,
        "seed": seed,
        **share,
        "worst_cosine": float(shadow.cosine.min()),
        "energy_lost": float(output.energy_lost.max()),
    }
    return {"runs": pd.DataFrame(runs), "zeros": pd.DataFrame([zeros])}


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {"gaps": CAPTION}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figure of CAPTIONS."""
    return {"gaps": draw_gaps(tables["runs"], RUNGS, BASE)}


# ---- verdict --------------------------------------------------------------------------------------------------------
def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """Whether the detector alone loses without a scale."""
    runs, zeros = tables["runs"], tables["zeros"]
    tasks = list(dict.fromkeys(runs.task))
    loses = {task: worse(runs, BASE, task, BARE) for task in tasks}
    cured = not worse(runs, BASE, DETECTOR, "x8")
    others = not any(loses[task] for task in tasks if task != DETECTOR)
    status = (
        "holds"
        if loses[DETECTOR] and cured and others
        else "does not hold at this scale"
        if not loses[DETECTOR]
        else "holds with conditions"
    )
    lost = where(zeros, task=DETECTOR)
    share = float((lost.new_zero / lost.nonzero).median())
    summary = (
        f"Without a scale the detector's held-out loss differs from FP32 by {told(runs, BASE, DETECTOR, BARE)} x 10^-3 nats (a change of seed: "
        f"{bound(runs, BASE, DETECTOR) / 1e-3:.1f}) although {percent(share)} of its non-zero "
        f"activation gradients become zero at the last step, with at most {lost.energy_lost.max():.0e} of a layer's energy; "
        "for the classifiers the differences are: "
        + ", ".join(f"{task} {told(runs, BASE, task, BARE)}" for task in tasks if task != DETECTOR)
        + "."
    )
    findings = [
        Finding(
            f"{task}, {rung.label}: difference to FP32 (10^-3 nats), steps skipped",
            {DETECTOR: {"fp16": "diverges", "x8": "none"}.get(name, "none")}.get(task, "none"),
            f"{told(runs, BASE, task, name)}, {int(where(runs, task=task, recipe=name).skipped.sum())} skipped",
        )
        for task in tasks
        for name, rung in RUNGS.items()
        if name != BASE
    ]
    findings += [
        Finding(
            f"{task}: non-zero activation gradients newly zero, worst layer's cosine, at the last step",
            "SSD: 31 % of all values" if task == DETECTOR else "not published",
            f"{percent(float((rows.new_zero / rows.nonzero).median()))}, {np.min(rows.worst_cosine):.5f}",
        )
        for task in tasks
        for rows in (where(zeros, task=task),)
    ]
    return Verdict(status, summary, tuple(findings))
