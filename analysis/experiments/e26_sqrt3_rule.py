"""Does four-bit training stop paying when gradients fall below sqrt(3) times their quantisation noise?

A GPT is trained with BF16-like forward operands (E4M3 blocks) and output gradients in four bits, MXFP4 rounded
stochastically; at several steps the norm of each gradient by a layer's outputs is set over the norm of its quantisation
error. The rule says that updates no longer help once that ratio is below sqrt(3), 4.8 dB.

What to see: whether the ratio comes near the line at all in a training of this length, and whether the distance to BF16
grows when it does.
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from analysis.experiment import NO_NUMBER, Claim, Finding, Profile, Unit, Verdict
from analysis.figures import band
from analysis.tables import listed, percent, spread, where
from analysis.training.recipes import RECIPES, Operand
from analysis.training.small_tasks import digits_mlp, small_gpt

LINE = sqrt(3)
WAYS = {
    "nearest": replace(
        RECIPES["mxfp8"], name="nearest", gradient=Operand("e2m1", scaling="mx", block=32, rule="rceil")
    ),
    "stochastic": replace(
        RECIPES["mxfp8"],
        name="stochastic",
        gradient=Operand("e2m1", scaling="mx", block=32, rule="rceil", rounding="stochastic"),
    ),
}
ROLES = {"operand": "by outputs", "shadow": "by weights"}  # as products read them; against a float32 pass
TINTS = {"nearest": "#D55E00", "stochastic": "#0072B2"}
SIZES: dict[str, dict[str, tuple[int, tuple[int, ...]]]] = {
    "quick": {"MLP": (30, (0, 10, 29))},
    "full": {"MLP": (400, (0, 50, 100, 200, 300, 399)), "GPT": (80, (0, 20, 50, 79))},
}

TITLE = "The square root of three"
QUESTION = "Does four-bit training stop paying when gradients fall below sqrt(3) times their quantisation noise?"
CLAIMS = (
    Claim(
        "Quantised training stops being effective when the gradient norm falls below sqrt(3) times the quantisation noise.",
        "FP4 All the Way, arXiv 2505.19115; abstract",
        "sqrt(3) = 1.73",
    ),
    Claim("A universal diagnostic is wanted.", "Transformer Engine, issue 1701; second-hand", NO_NUMBER, "second-hand"),
)


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"task": name, "seed": seed} for name in SIZES[profile.name] for seed in range(profile.seeds)]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``ratios``: a row for every way, step and layer; ``losses``: training loss and held-out loss beside BF16's."""
    name, seed = str(unit["task"]), int(unit["seed"])
    steps, capture = SIZES[profile.name][name]
    task = digits_mlp(steps) if name == "MLP" else small_gpt(steps, depth=1, rate=3e-3)
    base = task.loss(task.run("bf16", seed))
    ratios: list[dict[str, Any]] = []
    losses: list[dict[str, Any]] = []
    for way, recipe in WAYS.items():
        history = task.run(recipe, seed, capture=capture)
        for role, kind in ROLES.items():
            rows = where(history.layers, role=role)
            about = {"task": name, "seed": seed, "way": way, "gradient": kind}
            ratios += [
                {**about, "step": row["step"], "layer": row["layer"], "ratio": 10 ** (row["sqnr_db"] / 20)}
                for row in rows[rows.layer.str.endswith("weight") | (role == "operand")].to_dict("records")
            ]
        losses.append({"task": name, "seed": seed, "way": way, "loss": task.loss(history), "base": base})
    table = (
        pd.DataFrame(ratios).groupby(["task", "seed", "way", "gradient", "step", "layer"], as_index=False).min()
    )  # two products read each gradient
    return {"ratios": table, "losses": pd.DataFrame(losses)}


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {
    "ratios": (
        "Norm of a gradient over the norm of its error (no unit), the smallest over the layers: of output gradients as products read them, and "
        "of weight gradients against a float32 pass of the same weights and batch, over the steps of "
        "training; dashed: sqrt(3). Line: median, band: range over the seeds."
    )
}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figure of CAPTIONS."""
    return {"ratios": draw_ratios(tables["ratios"])}


def draw_ratios(ratios: pd.DataFrame) -> Figure:
    """A panel a task."""
    names = list(dict.fromkeys(ratios.task))
    figure, axes = plt.subplots(1, len(names), figsize=(8, 3.6), sharey=True, squeeze=False)
    least = pd.DataFrame(ratios.groupby(["task", "way", "gradient", "step", "seed"], as_index=False)[["ratio"]].min())
    for ax, name in zip(axes[0], names, strict=True):
        for way, tint in TINTS.items():
            for kind, line in zip(ROLES.values(), ("-", ":"), strict=True):
                part = where(least, task=name, way=way, gradient=kind)
                band(
                    ax, spread(part, "step", "ratio"), tint, f"{kind}, {way}", linestyle=line, marker="o", markersize=3
                )
        ax.axhline(LINE, color="#70757D", linewidth=1, linestyle="--")
        ax.set(title=name, xlabel="step")
    axes[0, 0].set_ylabel("gradient norm over noise norm")
    axes[0, 0].set_ylim(bottom=0)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=2,
        title="gradient, and the rounding of the four-bit operands",
    )
    return figure


# ---- verdict --------------------------------------------------------------------------------------------------------
def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """Whether any layer comes below the line, and whether that is where training suffers."""
    ratios, losses = tables["ratios"], tables["losses"]
    below = {(str(way)): float((rows.ratio < LINE).mean()) for way, rows in ratios.groupby("way")}
    least = {str(way): float(rows.ratio.min()) for way, rows in ratios.groupby("way")}
    gap = losses.assign(gap=losses.loss - losses.base).groupby(["task", "way"]).gap.median()
    crossed = max(below.values()) > 0
    status = "no claim" if not crossed else "holds with conditions"
    words = listed(
        [f"{least[way]:.2f} ({way}; {percent(below[way])} of the layers and steps lie below sqrt(3))" for way in TINTS]
    )
    told = "; ".join(
        f"{task}: " + ", ".join(f"{way} {1e3 * gap[task, way]:+.1f}" for way in TINTS)
        for task in dict.fromkeys(losses.task)
    )
    summary = (
        f"The ratio of gradient norm to noise is at least {words}; held-out losses differ from BF16's (10^-3 nats, median) by: {told}. "
        + (
            "The line is crossed by some layers."
            if crossed
            else "The line is not reached in a training of this length, so the rule is not put to the test here."
        )
    )
    findings = tuple(
        Finding(
            f"{task}, gradients {kind}, {way}, step {step}: smallest and median ratio over the layers",
            "1.73, the line",
            f"{rows.ratio.min():.2f}, {rows.ratio.median():.2f}",
        )
        for (task, way, kind, step), rows in ratios.groupby(["task", "way", "gradient", "step"])
    )
    return Verdict(status, summary, findings)
