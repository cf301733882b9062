"""Are updates lost where they fall below 2^-11 (FP16) or 2^-8 (BF16) of the weight?

An update u is cancelled exactly when w + u rounds back to w. An MLP is trained in FP32 at several learning rates; at
each captured step its weights are rounded to FP16 and BF16, and its updates are added to them, exactly rounded. The
exact share of cancelled updates is set beside what the ratio |u| / |w| says: below 2^-(p+1) every update is lost, above
2^-p none, between them it depends on where in its binade the weight lies.

What to see: the published lines are right as bounds and the truth lies between them; BF16 loses most updates at rates
at which FP16 still takes most of them.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import fpemu as fp
from analysis.experiment import Claim, Finding, Profile, Unit, Verdict
from analysis.figures import colour, label, log2_axis
from analysis.tables import listed, medians, percent, where
from analysis.training.numerics import Numerics
from analysis.training.optimizers import Optimizer
from analysis.training.recipes import RECIPES
from analysis.training.small_tasks import digits_mlp

FORMATS = ("fp16", "bf16")
RATES = (0.1, 0.02, 0.004, 0.0008)
STEPS = {"quick": (5, 40), "full": (5, 40, 400)}
EDGES = np.arange(-40, 4)

TITLE = "Where updates stall"
QUESTION = "Are updates lost where they fall below 2^-11 (FP16) or 2^-8 (BF16) of the weight?"
CLAIMS = (
    Claim(
        "An FP16 update is lost where the weight is more than 2048 times as large.",
        "Micikevicius et al., Mixed Precision Training, ICLR 2018; second-hand",
        "ratio 2^-11",
        "second-hand",
    ),
    Claim("In BF16 the line lies near 2^-8.", "the same argument with 8 bits", "2^-8", "derived"),
    Claim("BF16 weights lose most of their updates in ordinary training.", "our own pilot", "86 to 98 %", "pilot"),
)


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"seed": seed, "rate": rate} for seed in range(profile.seeds) for rate in RATES]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``stalls``: a row for every step and format; ``ratios``: the histogram of log2(|u| / |w|) at the last step."""
    seed, rate, steps = int(unit["seed"]), float(unit["rate"]), STEPS[profile.name]
    task = digits_mlp(steps[-1] + 1)
    parameters = task.network.initialise(seed)
    optimizer, numerics = Optimizer(task.plan.rule, RECIPES["fp32-blas"]), Numerics("fp32-blas")
    rows: list[dict[str, Any]] = []
    bars: list[dict[str, Any]] = []
    for step, (x, targets) in zip(range(steps[-1] + 1), task.batches(seed), strict=False):
        before = {name: value.copy() for name, value in parameters.items()}
        _, gradients = task.network.step(parameters, x, targets, numerics)
        optimizer.step(parameters, gradients, rate)
        if step not in steps:
            continue
        names = [name for name in parameters if name.endswith("weight")]
        w = np.concatenate([before[name].ravel() for name in names])
        u = np.concatenate([(parameters[name].astype(np.float64) - before[name]).ravel() for name in names])
        for name in FORMATS:
            format = fp.FORMATS[name]
            held = fp.quantize(w, name).astype(np.float64)
            moved = (u != 0) & (held != 0)
            ratio = np.abs(u[moved]) / np.abs(held[moved])
            lost = (
                fp.quantize(held[moved] + u[moved], name) == held[moved]
            )  # float64 holds the sum exactly enough: one rounding
            p = format.precision
            rows.append(
                {
                    "seed": seed, "rate": rate, "step": step, "format": format.name, "cancelled": float(lost.mean()),
                    "below_both": float((ratio < 2.0 ** -(p + 1)).mean()), "below_line": float((ratio < 2.0**-p).mean()),
                    "lost_above": float(lost[ratio >= 2.0**-p].mean()) if (ratio >= 2.0**-p).any() else 0.0,
                    "kept_below": float((~lost[ratio < 2.0 ** -(p + 1)]).mean()) if (ratio < 2.0 ** -(p + 1)).any() else 0.0,
                }
            )  # fmt: skip
        if step == steps[-1]:
            counts, _ = np.histogram(np.log2(np.abs(u[(u != 0) & (w != 0)]) / np.abs(w[(u != 0) & (w != 0)])), EDGES)
            bars += [
                {"seed": seed, "rate": rate, "exponent": int(e), "share": c / max(counts.sum(), 1)}
                for e, c in zip(EDGES, counts, strict=False)
            ]
    return {"stalls": pd.DataFrame(rows), "ratios": pd.DataFrame(bars)}


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {
    "stalls": (
        "Left: update over weight at the last step, by learning rate (share of the weights, % a power of two), with the bands 2^-(p+1) to 2^-p "
        "in which FP16 and BF16 begin to lose updates. Right: exact share of cancelled updates "
        "(dots) between what is surely lost and what may be (bars), over the learning rate. Median over the seeds."
    )
}
SHADES = {0.1: "#333333", 0.02: "#666666", 0.004: "#999999", 0.0008: "#C8C8C8"}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figure of CAPTIONS."""
    return {"stalls": draw_stalls(tables["stalls"], tables["ratios"])}


def draw_stalls(stalls: pd.DataFrame, ratios: pd.DataFrame) -> Figure:
    """Histograms on the left, shares on the right."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.8))
    for rate, shade in SHADES.items():
        shares = 100 * where(ratios, rate=rate).groupby("exponent").share.median()
        left.step(shares.index, shares, where="post", color=shade, label=f"rate {rate:g}")
    last = where(stalls, step=int(stalls.step.max()))
    for place, name in enumerate(FORMATS):
        format = fp.FORMATS[name]
        left.axvspan(-(format.precision + 1), -format.precision, color=colour(name), alpha=0.35, linewidth=0)
        part = where(last, format=format.name).groupby("rate").median(numeric_only=True)
        x = part.index * (1 + 0.12 * (2 * place - 1))
        right.vlines(x, 100 * part.below_both, 100 * part.below_line, color=colour(name), linewidth=5, alpha=0.35)
        right.plot(x, 100 * part.cancelled, "o", color=colour(name), markersize=5, label=label(name))
    log2_axis(left, "update over weight (absolute values)", most=6)
    left.set_ylabel("weights (%)")
    right.set(xscale="log", xlabel="learning rate (no unit)", ylabel="updates cancelled (%)", ylim=(0, 100))
    figure.legend(loc="outside lower center", ncols=6)
    return figure


# ---- verdict --------------------------------------------------------------------------------------------------------
def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """Both bounds are exact; the share between them."""
    stalls = tables["stalls"]
    exact = bool((stalls.lost_above == 0).all() and (stalls.kept_below == 0).all())
    last = int(stalls.step.max())
    at = medians(where(stalls, step=last), "format", "rate")
    fp16, bf16 = (fp.FORMATS[name].name for name in FORMATS)
    summary = (
        f"No update above 2^-p of its weight was lost and none below 2^-(p+1) survived, in any run. At step {last} and rates "
        f"{listed([f'{rate:g}' for rate in RATES])} BF16 cancels "
        f"{listed([percent(at[bf16, rate]['cancelled']) for rate in RATES])} of the updates, FP16 "
        f"{listed([percent(at[fp16, rate]['cancelled']) for rate in RATES])}."
        if exact
        else "An update was lost above the line, or survived below it."
    )
    findings = tuple(
        Finding(
            f"{label(name)}, rate {rate:g}: surely lost, exactly lost, at most lost (step {last})",
            "86 to 98 % (pilot, 1500 steps)" if name == "bf16" else "not published",
            f"{percent(row['below_both'])}, {percent(row['cancelled'])}, {percent(row['below_line'])}",
        )
        for name in FORMATS
        for rate in RATES
        for row in (at[fp.FORMATS[name].name, rate],)
    )
    return Verdict("holds" if exact else "does not hold at this scale", summary, findings)
