"""Where do the gradients of a detector lie, and how many of them does FP16 turn into zero?

An SSD-like head with a thousand anchors a scene, most of them background, is trained in FP32 with a mean over all
anchors. At several steps the gradients by the outputs of all its layers are counted by their power of two: exact zeros,
what FP16 keeps, what it turns into zero without a scale, with the factor of 8 that repaired SSD, and with 2^15.

What to see: as anchors learn to be background their gradients fade, and ever more of them leave FP16's window on the
left; a factor of 8 moves the window by three powers of two, which is little against how far they have spread; the
energy they carry is nothing.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import fpemu as fp
from analysis.experiment import Claim, Finding, Profile, Unit, Verdict
from analysis.figures import log2_axis, shade_window
from analysis.tables import medians, percent, where
from analysis.training.small_tasks import small_detector

STEPS = {"quick": (0, 7), "full": (0, 50, 200)}
BATCH = {"quick": 8, "full": 100}  # scenes: 8 thousand anchors, and 100 thousand
SCALES = (0, 3, 15)  # powers of two
LAYERS = ("conv1", "conv2", "head")
FP16 = fp.FORMATS["float16"]

TITLE = "The gradient histogram of a detector"
QUESTION = "Where do the gradients of a detector lie, and how many of them does FP16 turn into zero?"
_GUIDE = "Micikevicius et al., Mixed Precision Training, ICLR 2018, and NVIDIA's guide; second-hand (the transcripts' shares add up to 103 %)"
CLAIMS = (
    Claim(
        "Of SSD's activation gradients most are exact zeros; FP16 turns more of them into zero.",
        _GUIDE,
        "66.8 % zero in FP32; a further 31 % in FP16",
        "second-hand",
    ),
    Claim(
        "A factor of 8 is enough for FP32's accuracy; 2^15 recovers all but 0.1 %.",
        _GUIDE,
        "x8; 2^15: 0.1 %",
        "second-hand",
    ),
)


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"seed": seed} for seed in range(profile.seeds)]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``histogram``: shares by power of two of every step; ``lost``: what FP16 makes zero, by step and scale."""
    seed, steps = int(unit["seed"]), STEPS[profile.name]
    task = small_detector(steps[-1] + 1, batch=BATCH[profile.name])
    history = task.run("fp32-blas", seed, capture=steps, keep=LAYERS)
    bars: list[dict[str, Any]] = []
    lost: list[dict[str, Any]] = []
    for step in steps:
        values = np.concatenate([history.tensors[f"{step}/gradient/{layer}"].ravel() for layer in LAYERS])
        nonzero = values[values != 0]
        exponents, counts = np.unique(np.frexp(nonzero)[1] - 1, return_counts=True)
        bars += [
            {"seed": seed, "step": step, "exponent": int(exponent), "share": count / values.size}
            for exponent, count in zip(exponents, counts, strict=True)
        ]
        for power in SCALES:
            stats = fp.tensor_stats(values, ["fp16"], scale=2.0**power)["fp16"]
            lost.append(
                {
                    "seed": seed, "step": step, "power": power, "values": values.size, "zero": 1 - nonzero.size / values.size,
                    "new_zero": stats.new_zero / values.size, "new_zero_of_nonzero": stats.new_zero_of_nonzero,
                    "energy": stats.new_zero_of_energy, "largest": float(np.log2(np.abs(values).max())),
                }
            )  # fmt: skip
    return {"histogram": pd.DataFrame(bars), "lost": pd.DataFrame(lost)}


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {
    "histogram": (
        "Magnitudes of the gradients by the outputs of all layers of a detector, by step: share of all values for each power of two (%; exact "
        "zeros are left out and named in the title). Shaded: FP16's window, "
        "darker where it is normal; arrows: where its left end is under a scale of 8 and of 2^15. Bar: median over the seeds."
    )
}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figure of CAPTIONS."""
    return {"histogram": draw_histogram(tables["histogram"], tables["lost"])}


def draw_histogram(histogram: pd.DataFrame, lost: pd.DataFrame) -> Figure:
    """A panel a step."""
    steps = list(dict.fromkeys(histogram.step))
    figure, axes = plt.subplots(len(steps), 1, figsize=(8, 1.2 + 1.75 * len(steps)), sharex=True, squeeze=False)
    lowest = np.log2(FP16.smallest_subnormal)
    for ax, step in zip(axes[:, 0], steps, strict=True):
        shares = 100 * where(histogram, step=step).groupby("exponent").share.median()
        shade_window(ax, FP16)
        ax.bar(shares.index + 0.5, shares, width=0.9, color="#333333")
        top = float(shares.max())
        for power in SCALES[1:]:
            ax.annotate(
                f"x{2**power:,}",
                (lowest - power, top * 0.9),
                (lowest, top * 0.9),
                va="center",
                ha="left",
                fontsize=8,
                color="#0072B2",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
                arrowprops={"arrowstyle": "->", "color": "#0072B2"},
            )
            top *= 0.8
        row = where(lost, step=step, power=0)
        ax.set_title(
            f"step {step}: {percent(float(row.zero.median()))} zeros in FP32, {percent(float(row.new_zero.median()))} more in FP16",
            fontsize=9,
        )
        ax.set_ylabel("share (%)")
    axes[-1, 0].set_xlim(-60, 2)
    log2_axis(axes[-1, 0], "magnitude of the gradient (absolute value)")
    return figure


# ---- verdict --------------------------------------------------------------------------------------------------------
UNDERFLOWS = 0.1  # of all gradients, more than this newly zero
REPAIRED = 0.5  # of these, less than this with a scale of 8
RESCUED = 0.01  # of all gradients, less than this with a scale of 2^15


def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """The share that FP16 zeroes, and what the two scales bring back."""
    at = medians(tables["lost"], "step", "power")
    steps = sorted(set(tables["lost"].step))
    last = steps[-1]
    bare, eight, large = (at[last, power] for power in SCALES)
    underflows = bare["new_zero"] > UNDERFLOWS
    repaired = eight["new_zero"] < REPAIRED * bare["new_zero"]
    rescued = large["new_zero"] < RESCUED
    status = (
        "holds"
        if underflows and repaired and rescued
        else "holds with conditions"
        if underflows
        else "does not hold at this scale"
    )
    summary = (
        f"At step {last}, {percent(bare['zero'])} of the gradients are zero in FP32 and FP16 makes {percent(bare['new_zero'])} more so "
        f"({percent(bare['new_zero_of_nonzero'])} of the non-zeros), with {bare['energy']:.0e} of the energy; "
        f"a factor of 8 leaves {percent(eight['new_zero'])}, 2^15 {percent(large['new_zero'])}. Before training, at step 0, FP16 zeroes "
        f"{percent(at[0, 0]['new_zero'])}."
    )
    findings = tuple(
        Finding(f"step {step}, scale 2^{power}: zeros in FP32, further zeros in FP16 (of all, of the non-zeros), their energy",
                {0: "66.8 %, 31 % (SSD)", 15: "0.1 % (SSD)"}.get(power, "not published"),
                f"{percent(row['zero'])}, {percent(row['new_zero'])}, {percent(row['new_zero_of_nonzero'])}, {row['energy']:.1e}")
        for step in steps
        for power in SCALES
        for row in (at[step, power],)
    )  # fmt: skip
    return Verdict(status, summary, findings)
