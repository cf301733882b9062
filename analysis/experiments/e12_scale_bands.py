"""Which loss scales serve every layer of a detector and of a GPT, and does GradScaler stay among them?

Two networks are trained in FP32; at several steps the exponent histogram of every layer's output gradient tells,
exactly, from which scale on an FP16 cast loses at most a thousandth of its energy to zero, and up to which none of it
overflows. The same training in FP16 with GradScaler, whose scale grows every 10 steps here, shows where a dynamic scale
goes.

What to see: the bands of single layers are twenty powers of two wide and lie beside each other; what is common to all
shrinks as training goes on, for some layers' gradients fade and others' do not; GradScaler rides the upper end.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import fpemu as fp
from analysis.experiment import Claim, Finding, Profile, Unit, Verdict
from analysis.figures import log2_axis
from analysis.tables import listed, medians, where
from analysis.training.layers import names_of
from analysis.training.recipes import RECIPES
from analysis.training.small_tasks import Task, small_detector, small_gpt

SIZES: dict[str, dict[str, tuple[int, tuple[int, ...]]]] = {
    "quick": {"detector": (6, (0, 5))},
    "full": {"detector": (120, (0, 20, 60, 119)), "GPT": (80, (0, 20, 50, 79))},
}
ENERGY = 1e-3  # the share of a layer's energy that may become zero
DYNAMIC = RECIPES["fp16-dynamic"].but("dynamic", scaler_options={"interval": 10})

TITLE = "Loss-scale bands, layer by layer"
QUESTION = "Which loss scales serve every layer of a detector and of a GPT, and does GradScaler stay among them?"
CLAIMS = (
    Claim(
        "Factors of 8 to 32 K serve across networks; 8 for SSD, 128 for bigLSTM.",
        "Micikevicius et al., Mixed Precision Training, ICLR 2018; second-hand",
        "2^3 to 2^15",
        "second-hand",
    ),
    Claim("A wide band keeps every layer of an MLP.", "our own pilot; experiment e01", "2^-2 to 2^22", "pilot"),
)


def task_of(name: str, steps: int) -> Task:
    return small_detector(steps) if name == "detector" else small_gpt(steps, rate=3e-3)


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"task": name, "seed": seed} for name in SIZES[profile.name] for seed in range(profile.seeds)]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``bands``: the exponents of the lowest and highest scale that serve, by step and layer; ``scales``: GradScaler's."""
    name, seed = str(unit["task"]), int(unit["seed"])
    steps, capture = SIZES[profile.name][name]
    task = task_of(name, steps)
    layers = names_of(task.network.body.layers)
    history = task.run("fp32-blas", seed, capture=capture, keep=layers)
    rows: list[dict[str, Any]] = []
    for step in capture:
        for layer in layers:
            band = fp.exponent_histogram(history.tensors[f"{step}/gradient/{layer}"]).band("fp16", ENERGY)
            if band.lowest is not None and band.highest is not None:
                rows.append(
                    {
                        "task": name,
                        "seed": seed,
                        "step": step,
                        "layer": layer,
                        "lowest": band.lowest,
                        "highest": band.highest,
                    }
                )
    dynamic = task.run(DYNAMIC, seed).steps
    scales = pd.DataFrame(
        {
            "task": name,
            "seed": seed,
            "step": dynamic.step,
            "log2_scale": np.log2(dynamic.scale),
            "applied": dynamic.applied,
        }
    )
    return {"bands": pd.DataFrame(rows), "scales": scales}


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {
    "bands": (
        "For every layer, from top to bottom in the order of the network: loss scales with which an FP16 cast of its output gradient loses at "
        "most 0.1 % of its energy and overflows nowhere, at several steps (darker: later). Shaded: scales that "
        "serve every layer at every captured step in every seed. Bar: median of the ends over the seeds."
    ),
    "path": (
        "GradScaler's scale over the steps (line: first seed; ticks: skipped steps) between the scales that serve every layer "
        "(bars at the captured steps: median ends over the seeds)."
    ),
}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figures of CAPTIONS."""
    return {"bands": draw_bands(tables["bands"]), "path": draw_path(tables["bands"], tables["scales"])}


def common(bands: pd.DataFrame) -> tuple[float, float]:
    """The scales that serve all rows: exponents of the lowest and highest; none where the first exceeds the second."""
    return float(bands.lowest.max()), float(bands.highest.min())


def draw_bands(bands: pd.DataFrame) -> Figure:
    """A panel a task, a row a layer, a bar a step."""
    names = list(dict.fromkeys(bands.task))
    most = max(where(bands, task=name).layer.nunique() for name in names)
    figure, axes = plt.subplots(1, len(names), figsize=(8, 1.6 + 0.42 * most), squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        part = where(bands, task=name)
        layers, steps = list(dict.fromkeys(part.layer)), sorted(set(part.step))
        low, high = common(part)
        if low <= high:
            ax.axvspan(low, high, color="#0072B2", alpha=0.12, linewidth=0)
        for row, layer in enumerate(layers):
            for place, step in enumerate(steps):
                ends = where(part, layer=layer, step=step)[["lowest", "highest"]].median()
                y = row + (place - (len(steps) - 1) / 2) * 0.8 / len(steps)
                shade = 0.3 + 0.7 * (place + 1) / len(steps)
                ax.plot(
                    ends,
                    [y, y],
                    color="#0072B2",
                    alpha=shade,
                    linewidth=3,
                    solid_capstyle="butt",
                )
        ax.set_yticks(range(len(layers)), layers, fontsize=7.5)
        ax.invert_yaxis()
        ax.set_title(name)
        log2_axis(ax, "loss scale", most=8)
    axes[0, 0].set_ylabel("layer")
    return figure


def draw_path(bands: pd.DataFrame, scales: pd.DataFrame) -> Figure:
    """A panel a task."""
    names = list(dict.fromkeys(bands.task))
    figure, axes = plt.subplots(1, len(names), figsize=(8, 3.4), squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        part = where(bands, task=name)
        for step, rows in part.groupby("step"):
            each = rows.groupby("seed").agg({"lowest": "max", "highest": "min"})
            ax.plot(
                [step, step],
                [each.lowest.median(), each.highest.median()],
                color="#0072B2",
                alpha=0.45,
                linewidth=6,
                solid_capstyle="butt",
            )
        path = where(scales, task=name, seed=0)
        ax.step(path.step, path.log2_scale, where="post", color="#D55E00")
        skipped = path[~path.applied.astype(bool)]
        ax.plot(skipped.step, skipped.log2_scale, "|", color="#D55E00", markersize=9)
        ax.set(title=name, xlabel="step")
        log2_axis(ax, "loss scale", axis="y", most=8)
    return figure


# ---- verdict --------------------------------------------------------------------------------------------------------
FACTORS = (3, 15)  # exponents of the published factors, 8 to 32 K


def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """Whether there is a common band, whether the published factors lie in it, and whether GradScaler stays below its upper end."""
    bands, scales = tables["bands"], tables["scales"]
    names = list(dict.fromkeys(bands.task))
    shared = {name: common(where(bands, task=name)) for name in names}
    wide = {name: high - low for name, (low, high) in shared.items()}
    exists = all(width >= 0 for width in wide.values())
    fits = {name: low <= FACTORS[1] and high >= FACTORS[0] for name, (low, high) in shared.items()}
    at = medians(bands.assign(width=bands.highest - bands.lowest), "task")
    skipped = {name: float(1 - where(scales, task=name).applied.astype(float).mean()) for name in names}
    status = (
        "holds"
        if exists and all(fits.values())
        else "holds with conditions"
        if any(fits.values())
        else "does not hold at this scale"
    )
    words = "; ".join(
        f"2^{low:.0f} to 2^{high:.0f} ({name})"
        if low <= high
        else f"none ({name}: 2^{low:.0f} is needed, and above 2^{high:.0f} a layer overflows)"
        for name, (low, high) in shared.items()
    )
    widths = listed([f"{at[name]['width']:.0f}" for name in names])
    skips = listed([f"{100 * skipped[name]:.0f} %" for name in names])
    summary = (
        f"These scales serve every layer at every captured step in every seed: {words}; single layers have bands of {widths} powers of two (median). "
        f"GradScaler skips {skips} of the steps at an interval of 10."
    )
    findings = tuple(
        Finding(
            f"{name}, step {step}: scales that serve all layers",
            "2^3 to 2^15 across networks (published)",
            f"2^{low:.0f} to 2^{high:.0f}" if low <= high else f"none: 2^{low:.0f} needed, 2^{high:.0f} at most",
        )
        for name in names
        for step in sorted(set(where(bands, task=name).step))
        for low, high in (common(where(bands, task=name, step=step)),)
    )
    return Verdict(status, summary, findings)
