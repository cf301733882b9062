"""Does the count of underflowed gradients tell how much a training step suffers?

Three networks are trained in FP16 mixed precision with scales of 1 and less. At several steps: the share of non-zero
output gradients that become zero, the largest share of a layer's energy that these carried, and how far the worst layer's
weight gradient turns away from that of a float32 pass of the same weights and batch.

What to see: counts of 10 to 90 % go with energies of a millionth and with gradients that point where they should;
energy follows the damage better than the count.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.experiment import Claim, Finding, Profile, Unit, Verdict
from analysis.tables import percent, where
from analysis.training.recipes import RECIPES
from analysis.training.small_tasks import Task, digits_mlp, small_detector, small_gpt

# FP16 with scales from far too low upwards: at 2^0 little is damaged, so the scale does the work of a harder task.
SCALES = (0, -4, -8, -12)
SIZES = {
    "quick": {"MLP": (40, (0, 39)), "detector": (4, (3,))},
    "full": {"MLP": (400, (0, 50, 150, 399)), "detector": (80, (0, 79)), "GPT": (60, (0, 59))},
}
TINTS = {"MLP": "#0072B2", "detector": "#D55E00", "GPT": "#009E73"}
DAMAGED = 1e-3  # of 1 - cosine

TITLE = "Underflow: count, energy, direction"
QUESTION = "Does the count of underflowed gradients tell how much a training step suffers?"
CLAIMS = (
    Claim(
        "Most non-zero gradients can underflow and the weight gradient still points the right way.",
        "our own pilot, an 11-layer MLP",
        "77 % zeros, cosine at least 0.9996, 5e-6 of the energy",
        "pilot",
    ),
    Claim(
        "A 7B model with more FP8 underflow converged better than one with less.",
        "NVIDIA BioNeMo, slides; second-hand, confounded",
        "18.6 % and 16.1 %: loss 1.04 and 1.16",
        "second-hand",
    ),
)


def task_of(name: str, steps: int) -> Task:
    if name == "MLP":
        return digits_mlp(steps, (64, *[64] * 6, 10))
    return small_detector(steps) if name == "detector" else small_gpt(steps)


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"task": name, "seed": seed} for name in SIZES[profile.name] for seed in range(profile.seeds)]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``steps``: a row for every captured step and scale: shares of all layers together, energy and direction of the worst."""
    name, seed = str(unit["task"]), int(unit["seed"])
    steps, capture = SIZES[profile.name][name]
    task = task_of(name, steps)
    rows: list[dict[str, Any]] = []
    for power in SCALES:
        recipe = RECIPES["fp16-static"].but(f"2^{power}", scaler_options={"init": 2.0**power})
        layers = task.run(recipe, seed, capture=capture).layers
        for step in sorted(set(layers.step)):
            outputs, shadow = where(layers, step=step, role="gradient"), where(layers, step=step, role="shadow")
            weights = shadow[shadow.layer.str.endswith("weight")]
            about = {"seed": seed, "task": name, "power": power, "step": step}
            count = float(outputs.new_zero.sum() / outputs.nonzero.sum())
            rows.append(
                {
                    **about,
                    "count": count,
                    "energy": float(outputs.energy_lost.max()),
                    "turned": 1 - float(weights.cosine.min()),
                }
            )
    return {"steps": pd.DataFrame(rows)}


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {
    "measures": (
        "Every dot is one training step at one scale (2^0 to 2^-12): 1 - cosine of the worst layer's weight gradient against the float32 pass "
        "(floor 1e-7) "
        "over the share of all non-zero output gradients that FP16 turns into zero (left) and over the share of energy "
        "that these carried in the worst layer (right; floor 1e-12). Below the dashed line the direction is kept."
    )
}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figure of CAPTIONS."""
    return {"measures": draw_measures(tables["steps"])}


def draw_measures(layers: pd.DataFrame) -> Figure:
    """Count on the left, energy on the right."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 4), sharey=True)
    for name, tint in TINTS.items():
        part = where(layers, task=name)
        turned = part.turned.fillna(1.0).clip(lower=1e-7)
        left.scatter(
            100 * part["count"], turned, s=9, color=tint, alpha=0.6, linewidth=0, label=name if len(part) else None
        )
        right.scatter(part.energy.clip(lower=1e-12), turned, s=9, color=tint, alpha=0.6, linewidth=0)
    for ax in (left, right):
        _line(ax)
    left.set(
        xlabel="output gradients newly zero (% of the non-zeros)", ylabel="weight gradient: 1 - cosine", yscale="log"
    )
    right.set(xlabel="their share of the energy", xscale="log")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _line(ax: Axes) -> None:
    ax.axhline(DAMAGED, color="#70757D", linewidth=1, linestyle="--")


# ---- verdict --------------------------------------------------------------------------------------------------------
MISLEADS = 0.5  # of the non-zero gradients lost, and the direction kept


def correlation(layers: pd.DataFrame, measure: str) -> float:
    """Spearman's rank correlation of a measure with 1 - cosine."""
    known = layers.dropna(subset=[measure, "turned"])
    a, b = known[measure].rank(), known.turned.rank()
    return float(np.corrcoef(a, b)[0, 1]) if len(known) > 2 else float("nan")


def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """How high a count can be without damage, and which measure follows the damage."""
    layers = tables["steps"]
    kept = layers[layers.turned < DAMAGED]
    most = float(kept["count"].max())
    damaged = layers[layers.turned >= DAMAGED]
    least = float(damaged["count"].min()) if len(damaged) else float("nan")
    by = {
        name: (correlation(part, "count"), correlation(part, "energy"))
        for name, part in ((str(key), rows) for key, rows in layers.groupby("task"))
    }
    overall = correlation(layers, "count"), correlation(layers, "energy")
    misleads = most > MISLEADS
    energy_better = overall[1] > overall[0]
    status = (
        "holds"
        if misleads and energy_better
        else "holds with conditions"
        if misleads
        else "does not hold at this scale"
    )
    damage = (
        f"while damage begins at layers that lose {percent(least)}: the counts {'overlap' if least <= most else 'do not overlap'}"
        if len(damaged)
        else "and no step is damaged"
    )
    summary = (
        f"Steps that lose up to {percent(most)} of their non-zero gradients keep every layer's direction (1 - cosine below {DAMAGED:g}), "
        f"{damage}. The rank correlation with 1 - cosine over {len(layers)} steps is "
        f"{overall[0]:.2f} for the count and {overall[1]:.2f} for the energy."
    )
    findings = [
        Finding(
            "largest count with the direction kept; smallest with it damaged",
            "77 % with a cosine of 0.9996 (pilot)",
            f"{percent(most)}; {percent(least) if len(damaged) else 'none'}",
        ),
        Finding(
            "energy lost: largest with the direction kept; smallest with it damaged",
            "5e-6 kept (pilot)",
            f"{kept.energy.max():.1e}; {damaged.energy.min():.1e}"
            if len(damaged)
            else f"{kept.energy.max():.1e}; none",
        ),
    ]
    findings += [
        Finding(f"{name}: rank correlation with 1 - cosine of count, of energy", "not published", f"{c:.2f}, {e:.2f}")
        for name, (c, e) in by.items()
    ]
    return Verdict(status, summary, tuple(findings))
