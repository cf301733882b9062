"""How much margin does delayed scaling need for a tensor that grows?

A scale from the past clips a tensor whose largest magnitude grows from step to step. Gaussian tensors that grow by 0.1
to 30 % a step, and whose amax fluctuates besides as that of a finite sample does, are quantised in E4M3 with margins of
0 to 4 binades, and with current scaling.

What to see: what fluctuates clips now and then even without growth, in the median a few elements; a margin of one
binade ends it for any growth below a factor of two a step, and costs E4M3 nothing but subnormals; current scaling needs
none.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.experiment import NO_NUMBER, Claim, Finding, Profile, Unit, Verdict
from analysis.figures import band
from analysis.tables import medians, percent, spread, where
from fpemu import scaling

GROWTHS = (0.0, 0.001, 0.01, 0.05, 0.1, 0.3)
MARGINS = (0, 1, 2, 4)
SIZE, STEPS, SETTLED = 4096, {"quick": 60, "full": 300}, 10
SHADES = {0: "#D55E00", 1: "#E69F00", 2: "#009E73", 4: "#0072B2"}

TITLE = "Margins for tensors that grow"
QUESTION = "How much margin does delayed scaling need for a tensor that grows?"
CLAIMS = (
    Claim("Only delayed scaling can overflow: Transformer Engine logs overflows for it alone.", "Transformer Engine, debug features; primary", NO_NUMBER),
    Claim("The default margin is 0.", "Transformer Engine, recipe DelayedScaling; primary", "0"),
)  # fmt: skip


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"seed": seed} for seed in range(profile.seeds)]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``growth``: a row for every growth and margin: steps that clip, clipped elements, SQNR; margin -1 is current scaling."""
    seed = int(unit["seed"])
    rows: list[dict[str, Any]] = []
    for growth in GROWTHS:
        for margin in (*MARGINS, -1):
            rng = np.random.default_rng(seed)
            state = scaling.DelayedScaling("e4m3", history=16, margin=max(margin, 0))
            steps, elements, quality = [], [], []
            for step in range(STEPS[profile.name]):
                x = (rng.standard_normal(SIZE) * (1 + growth) ** step * 1e-3).astype(np.float32)
                result = scaling.per_tensor(x, "e4m3") if margin < 0 else state.quantize(x)
                state.update()
                if step >= SETTLED:
                    scale = np.float32(1) if result.encode_scales is None else result.encode_scales.reshape(-1)[0]
                    beyond = np.abs(x * scale) > np.float32(448) * np.float32(
                        1 + 2.0**-4
                    )  # past the last rounding interval
                    steps.append(bool(beyond.any()))
                    elements.append(float(beyond.mean()))
                    quality.append(result.errors(x).sqnr_db)
            rows.append(
                {
                    "seed": seed,
                    "growth": growth,
                    "margin": margin,
                    "steps": np.mean(steps),
                    "elements": np.mean(elements),
                    "sqnr_db": np.median(quality),
                }
            )
    return {"growth": pd.DataFrame(rows)}


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {
    "growth": (
        "Delayed scaling of a growing tensor in E4M3 (history 16), over the growth of its scale a step: steps that clip an element by more than "
        "half a spacing (left, %) and median SQNR (right, dB), for "
        "margins of 0 to 4 binades; dashed: current scaling. Line: median, band: range over the seeds. The first growth is 0, drawn at 1e-4."
    )
}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figure of CAPTIONS."""
    return {"growth": draw_growth(tables["growth"])}


def draw_growth(growth: pd.DataFrame) -> Figure:
    """Clipping on the left, quality on the right."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6))
    shown = growth.assign(growth=growth.growth.clip(lower=1e-4))
    for margin, tint in SHADES.items():
        part = where(shown, margin=margin)
        band(left, 100 * spread(part, "growth", "steps"), tint, f"margin {margin}", marker="o", markersize=3)
        band(right, spread(part, "growth", "sqnr_db"), tint, None, marker="o", markersize=3)
    now = where(shown, margin=-1)
    for ax, column, factor in ((left, "steps", 100), (right, "sqnr_db", 1)):
        ends = factor * spread(now, "growth", column)
        ax.plot(ends.index, ends["median"], "--", color="#333333", label="current scaling" if ax is left else None)
        ax.set(xscale="log", xlabel="growth a step (share)")
    left.set_ylabel("steps that clip (%)")
    right.set_ylabel("median SQNR (dB)")
    figure.legend(loc="outside lower center", ncols=5)
    return figure


# ---- verdict --------------------------------------------------------------------------------------------------------
CLIPS, CURED = 0.5, 0.02  # of the steps: more of a fast tensor without a margin, less of any with one binade


def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """Who clips, and what a margin costs."""
    growth = tables["growth"]
    at = medians(growth, "growth", "margin")
    current = max(at[rate, -1]["steps"] for rate in GROWTHS)
    still, fast = at[0.0, 0]["steps"], at[0.3, 0]["steps"]
    cured = max(at[rate, 1]["steps"] for rate in GROWTHS)
    cost = at[0.0, 0]["sqnr_db"] - at[0.0, 4]["sqnr_db"]
    holds = current == 0 and fast > CLIPS and cured < CURED
    summary = (
        f"With margin 0 a tensor that does not grow clips in {percent(still)} of the steps and one that grows by 30 % in {percent(fast)}; with "
        f"a margin of one binade it clips in at most {percent(cured)}, with current scaling in {percent(current)}. A margin of "
        f"4 binades costs {cost:.2f} dB."
    )
    findings = tuple(
        Finding(
            f"growth {percent(rate)} a step, margins 0, 1, 2, 4: steps that clip",
            "not published",
            ", ".join(percent(at[rate, margin]["steps"]) for margin in MARGINS),
        )
        for rate in GROWTHS
    )
    return Verdict("holds" if holds else "holds with conditions", summary, findings)
