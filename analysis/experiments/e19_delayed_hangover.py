"""How long, and how badly, does one spike spoil a tensor under delayed scaling?

A tensor of Gaussian values is quantised once a step, with the scale that Transformer Engine's DelayedScaling derives
from the largest magnitudes of the past. At one step a single element is R times as large. Of every step: scale,
elements that become zero or subnormal, SQNR; beside current scaling, which knows only the present.

What to see: the scale stays R times too small for as many steps as the history has slots; E5M2 has the binades to bear
a spike of 10^5, E4M3 loses most of the tensor to zero; the most recent amax instead of the largest forgets at once, and
clips at the next spike.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import fpemu as fp
from analysis.experiment import NO_NUMBER, Claim, Finding, Profile, Unit, Verdict
from analysis.figures import colour, label
from analysis.tables import medians, percent, where
from fpemu import scaling

RATIOS = (1e1, 1e2, 1e3, 1e4, 1e5)
HISTORY, SPIKE, STEPS = 64, 20, 120  # the default history is 1024: the shape is the same, and the run shorter
SIZE = {"quick": 4096, "full": 65536}
FORMATS = ("e4m3", "e5m2")

TITLE = "The hangover of delayed scaling"
QUESTION = "How long, and how badly, does one spike spoil a tensor under delayed scaling?"
CLAIMS = (
    Claim(
        "The scale comes from the largest amax of a history of 1024 steps.",
        "Transformer Engine, recipe DelayedScaling and its kernels; primary",
        "1024 steps",
    ),
    Claim(
        "Outliers with delayed scaling destabilise late FP8 training.",
        "Fishman et al., 2024; second-hand",
        NO_NUMBER,
        "second-hand",
    ),
    Claim(
        "After a spike of R times the largest element E4M3 has this share of zeros and this SQNR; E5M2 is unaffected up to 10^5.",
        "our own pilot",
        "10^3: 0.7 %, 31.6 dB; 10^4: 8 %, 24.9 dB; 10^5: 64 %, 5.5 dB",
        "pilot",
    ),
)


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"seed": seed} for seed in range(profile.seeds)]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``steps``: a row for every step, format, way of scaling and size of the spike."""
    seed, size = int(unit["seed"]), SIZE[profile.name]
    rows: list[dict[str, Any]] = []
    for name in FORMATS:
        format = fp.FORMATS[name]
        for ratio in RATIOS:
            for way in ("delayed", "most-recent", "current"):
                if way == "most-recent" and ratio != RATIOS[-2]:
                    continue
                rng = np.random.default_rng(seed)
                state = scaling.DelayedScaling(
                    name, history=HISTORY, algorithm="max" if way == "delayed" else "most-recent"
                )
                for step in range(STEPS):
                    x = rng.standard_normal(size).astype(np.float32)
                    if step == SPIKE:
                        x[0] = np.float32(ratio) * np.abs(x).max()
                    result = scaling.per_tensor(x, name) if way == "current" else state.quantize(x)
                    state.update()
                    if step == 0 or (step % 4 and abs(step - SPIKE) > 2 and abs(step - SPIKE - HISTORY) > 2):
                        continue  # enough to draw
                    q = result.dequantize()
                    held = np.abs(np.asarray(fp.decode(result.codes, name)))
                    rows.append(
                        {
                            "seed": seed, "format": format.name, "ratio": ratio, "way": way, "step": step,
                            "log2_scale": float(np.log2(1 / result.scale_values().reshape(-1)[0])), "zero": float(((q == 0) & (x != 0)).mean()),
                            "subnormal": float(((held > 0) & (held < format.smallest_normal)).mean()),
                            "clipped": float(result.clipped > 0), "sqnr_db": fp.errors(x, q).sqnr_db if step != SPIKE else float("nan"),
                        }
                    )  # fmt: skip
    return {"steps": pd.DataFrame(rows)}


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {
    "hangover": (
        f"A spike at step {SPIKE} under delayed scaling with a history of {HISTORY} steps: scale (above, powers of two), elements that become "
        f"zero (middle, %) and SQNR (below, dB; the spike's own step is left out), for spikes "
        "of 10 to 10^5 times the largest element; dashed: current scaling. Median over the seeds."
    )
}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figure of CAPTIONS."""
    return {"hangover": draw_hangover(tables["steps"])}


def draw_hangover(steps: pd.DataFrame) -> Figure:
    """A column a format, a shade a spike."""
    figure, axes = plt.subplots(3, 2, figsize=(8, 6.4), sharex=True, sharey="row")
    for column, name in enumerate(FORMATS):
        format = fp.FORMATS[name].name
        for place, ratio in enumerate(RATIOS):
            shade = 0.25 + 0.75 * place / (len(RATIOS) - 1)
            part = where(steps, format=format, ratio=ratio, way="delayed").groupby("step").median(numeric_only=True)
            for ax, what, factor in zip(axes[:, column], ("log2_scale", "zero", "sqnr_db"), (1, 100, 1), strict=True):
                ax.plot(
                    part.index,
                    factor * part[what],
                    color=colour(name),
                    alpha=shade,
                    linewidth=1.6,
                    label=f"10^{np.log10(ratio):.0f}" if column == 0 else None,
                )
        now = where(steps, format=format, ratio=RATIOS[-1], way="current").groupby("step").median(numeric_only=True)
        for ax, what, factor in zip(axes[:, column], ("log2_scale", "zero", "sqnr_db"), (1, 100, 1), strict=True):
            ax.plot(now.index, factor * now[what], "--", color="#333333", linewidth=1)
        axes[0, column].set_title(label(name))
        axes[2, column].set_xlabel("step")
    axes[0, 0].set_ylabel("scale (log2)")
    axes[1, 0].set_ylabel("new zeros (%)")
    axes[2, 0].set_ylabel("SQNR (dB)")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=len(RATIOS),
        title="spike, times the largest element (E4M3 shades)",
    )
    return figure


# ---- verdict --------------------------------------------------------------------------------------------------------
# The pilot's shares of zeros after spikes of 10^4 and 10^5, as ranges; those of tensors that have recovered are below OVER.
AFTER_4, AFTER_5, OVER = (0.04, 0.15), (0.5, 0.8), 0.01
UNAFFECTED = 1.0  # dB that E5M2 may lose


def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """After the spike, in its shadow, and when it has passed."""
    steps = where(tables["steps"], way="delayed")
    shadow = steps[(steps.step > SPIKE) & (steps.step <= SPIKE + HISTORY)]
    after = steps[steps.step > SPIKE + HISTORY]
    at, later = medians(shadow, "format", "ratio"), medians(after, "format", "ratio")
    e4m3, e5m2 = (fp.FORMATS[name].name for name in FORMATS)
    over = later[e4m3, 1e5]["zero"] < OVER
    holds = (
        AFTER_4[0] < at[e4m3, 1e4]["zero"] < AFTER_4[1] and AFTER_5[0] < at[e4m3, 1e5]["zero"] < AFTER_5[1]
        and at[e5m2, 1e5]["sqnr_db"] > later[e5m2, 1e5]["sqnr_db"] - UNAFFECTED and over
    )  # fmt: skip
    summary = (
        f"For all {HISTORY} steps after a spike of 10^4 and 10^5 E4M3 loses {percent(at[e4m3, 1e4]['zero'])} and "
        f"{percent(at[e4m3, 1e5]['zero'])} of the elements to zero and falls from "
        f"{later[e4m3, 1e5]['sqnr_db']:.1f} dB to {at[e4m3, 1e4]['sqnr_db']:.1f} and {at[e4m3, 1e5]['sqnr_db']:.1f}; E5M2 stays at "
        f"{at[e5m2, 1e5]['sqnr_db']:.1f} dB. {'Then it is over at once' if over else 'Then it is not over'}. With "
        "the default history that is 1024 steps."
    )
    published = {
        1e3: "0.7 % zeros, 31.6 dB (pilot)",
        1e4: "8 % zeros, 78 % subnormal, 24.9 dB (pilot)",
        1e5: "64 % zeros, 5.5 dB (pilot)",
    }
    findings = tuple(
        Finding(
            f"{label(name)}, spike of 10^{np.log10(ratio):.0f}: zeros, subnormal, SQNR in its shadow",
            published.get(ratio, "not published")
            if name == "e4m3"
            else ("flat (pilot)" if ratio == 1e5 else "not published"),
            f"{percent(row['zero'])}, {percent(row['subnormal'])}, {row['sqnr_db']:.1f} dB",
        )
        for name in FORMATS
        for ratio in RATIOS
        for row in (at[fp.FORMATS[name].name, ratio],)
    )
    return Verdict("holds" if holds else "holds with conditions", summary, findings)
