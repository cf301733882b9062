"""Which rule for the scale of an MX block loses least, and which one shrinks what it quantises?

Blocks of 32 values are quantised under the five scale rules in use, in the five element formats of MX. Of each: the
signal-to-quantisation-noise ratio, the share of blocks whose largest element is clipped, and the gain <q, x> / <x, x> -
1, a systematic shrinkage that noise measures do not show; and what is left of it after several layers, to which it adds
up.

What to see: the rule of the OCP specification clips a block in six (E4M3) to a block in three (E2M1) and shrinks by up
to 2 %; rounding the scale up from amax / max clips nothing and costs nothing in E4M3; the exponent of amax rounded up
(CEIL) wastes a binade; the nearest power of two clips most blocks by up to 29 %.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.experiment import NO_NUMBER, Claim, Finding, Profile, Unit, Verdict
from analysis.figures import colour, label
from analysis.scaled import DISTRIBUTIONS, drawn
from analysis.tables import medians, percent, where
from fpemu import scaling

ELEMENTS = ("float8_e4m3fn", "float8_e5m2", "float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn")
RULES = tuple(rule.value for rule in scaling.ScaleRule)
BLOCK = 32
BLOCKS = {"quick": 4096, "full": 32768}
LAYERS = 32  # over which a shrinkage is compounded

TITLE = "Scale rules of MX blocks, and shrinkage"
QUESTION = "Which rule for the scale of an MX block loses least, and which one shrinks what it quantises?"
_PILOT = "our own pilot, Gaussian blocks of 32"
PILOT = {
    ("float8_e4m3fn", "floor"): 30.63, ("float8_e4m3fn", "even"): 31.19, ("float8_e4m3fn", "nearest"): 22.45,
    ("float8_e4m3fn", "rceil"): 31.53, ("float8_e4m3fn", "ceil"): 31.53, ("float4_e2m1fn", "floor"): 18.77,
    ("float4_e2m1fn", "even"): 19.01, ("float4_e2m1fn", "nearest"): 18.30, ("float4_e2m1fn", "rceil"): 18.74, ("float4_e2m1fn", "ceil"): 16.81,
}  # fmt: skip
CLAIMS = (
    Claim(
        "The OCP rule (FLOOR) clips the largest element of many blocks.", _PILOT, "17 % (E4M3), 30 % (E2M1)", "pilot"
    ),
    Claim(
        "The FLOOR rule shrinks MXFP4 twice as much as rounding the scale up.", _PILOT, "-1.98 % and -1.00 %", "pilot"
    ),
    Claim(
        "A scale to the nearest power of two clips by up to 1 - 1/sqrt(2).",
        "MLX, pull request 4353; second-hand",
        "29.27 %, 243 of 512 blocks",
        "second-hand",
    ),
    Claim(
        "FLOOR is the rule of OCP MX v1.0; vendors default to rounding up (RCEIL).",
        "OCP MX v1.0, 6.3; torchao; primary",
        NO_NUMBER,
    ),
)


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"seed": seed} for seed in range(profile.seeds)]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``rules``: a row for every distribution, element format and rule."""
    seed = int(unit["seed"])
    rows = []
    for distribution in DISTRIBUTIONS:
        x = drawn(distribution, (BLOCKS[profile.name], BLOCK), seed)
        for element in ELEMENTS:
            for rule in RULES:
                result = scaling.mx(x, element, block=BLOCK, rule=rule)
                q, found = result.dequantize(), result.errors(x)
                amax = np.abs(x).max(axis=1)
                at = np.abs(x).argmax(axis=1)
                worst = float((1 - np.abs(q[np.arange(len(x)), at]) / amax).max())
                rows.append(
                    {
                        "seed": seed, "distribution": distribution, "format": element, "rule": rule, "sqnr_db": found.sqnr_db,
                        "clipped": result.clipped / result.blocks, "worst_clip": worst, "shrinkage": found.gain - 1,
                    }
                )  # fmt: skip
    return {"rules": pd.DataFrame(rows)}


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {
    "rules": (
        "Gaussian blocks of 32 under five scale rules: signal-to-quantisation-noise ratio (dB; cut at 15), share of blocks with a clipped "
        "element (%), "
        "and shrinkage <q, x> / <x, x> - 1 (%; 0 is none). Bar: median over the seeds; the range over the seeds is smaller than a line."
    ),
    "shrinkage": (
        "Shrinkage <q, x> / <x, x> - 1 of one tensor by distribution and rule in E2M1 and E4M3 (%). Dot: median, line: range over the seeds."
    ),
}
TINTS = {"floor": "#D55E00", "ceil": "#A07B4F", "even": "#E69F00", "rceil": "#009E73", "nearest": "#882255"}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figures of CAPTIONS."""
    return {"rules": draw_rules(tables["rules"]), "shrinkage": draw_shrinkage(tables["rules"])}


def draw_rules(rules: pd.DataFrame) -> Figure:
    """Three rows of bars, a group an element format."""
    at = medians(where(rules, distribution="Gaussian"), "format", "rule")
    figure, axes = plt.subplots(3, 1, figsize=(8, 6.6), sharex=True)
    width = 0.8 / len(RULES)
    for ax, column, factor, unit in (
        (axes[0], "sqnr_db", 1, "SQNR (dB)"),
        (axes[1], "clipped", 100, "clipped blocks (%)"),
        (axes[2], "shrinkage", 100, "shrinkage (%)"),
    ):
        for place, rule in enumerate(RULES):
            heights = [factor * at[element, rule][column] for element in ELEMENTS]
            ax.bar(np.arange(len(ELEMENTS)) + (place - 2) * width, heights, width * 0.92, color=TINTS[rule], label=rule)
        ax.set_ylabel(unit)
    axes[0].set_ylim(bottom=15)
    axes[2].axhline(0, color="#333333", linewidth=0.8)
    axes[2].set_xticks(range(len(ELEMENTS)), [label(element) for element in ELEMENTS])
    axes[2].set_xlabel("element format")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(RULES), title="scale rule")
    return figure


def draw_shrinkage(rules: pd.DataFrame) -> Figure:
    """A row a distribution, a colour a rule, a panel a format."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), sharey=True)
    for ax, element in zip(axes, ("float4_e2m1fn", "float8_e4m3fn"), strict=True):
        for place, rule in enumerate(RULES):
            for row, distribution in enumerate(DISTRIBUTIONS):
                values = 100 * where(rules, format=element, rule=rule, distribution=distribution).shrinkage
                y = row + (place - 2) * 0.14
                ax.plot([values.min(), values.max()], [y, y], color=TINTS[rule], linewidth=2)
                ax.plot(values.median(), y, "o", color=TINTS[rule], markersize=5, label=rule if row == 0 else None)
        ax.axvline(0, color="#333333", linewidth=0.8)
        ax.set_title(label(element), color=colour(element))
        ax.set_xlabel("shrinkage of one tensor (%)")
    axes[0].set_yticks(range(len(DISTRIBUTIONS)), list(DISTRIBUTIONS))
    axes[0].set_ylabel("distribution")
    axes[0].invert_yaxis()
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(RULES), title="scale rule")
    return figure


# ---- verdict --------------------------------------------------------------------------------------------------------
CLOSE = 0.1  # dB to the pilot's numbers
CLIPPED, NEAR = (
    {"float8_e4m3fn": 0.17, "float4_e2m1fn": 0.30},
    0.01,
)  # the pilot's shares of blocks under FLOOR, and how near to them
DOUBLES = 1.5  # times RCEIL's shrinkage, at least that of FLOOR
WORST = (0.28, 1 - 2**-0.5)  # the published bound of a clip, and what comes near it


def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """The numbers of the pilot within a tenth of a dB; FLOOR against RCEIL."""
    rules = tables["rules"]
    at = medians(where(rules, distribution="Gaussian"), "format", "rule")
    e4m3, e2m1 = "float8_e4m3fn", "float4_e2m1fn"
    close = all(abs(at[key]["sqnr_db"] - value) < CLOSE for key, value in PILOT.items())
    clips = all(abs(at[element, "floor"]["clipped"] - share) < NEAR for element, share in CLIPPED.items())
    shrinks = [at[e2m1, rule]["shrinkage"] for rule in ("floor", "rceil")]
    doubles = shrinks[0] < DOUBLES * shrinks[1] < 0
    worst = float(where(rules, format=e4m3, rule="nearest").worst_clip.max())
    status = "holds" if close and clips and doubles and WORST[0] < worst < WORST[1] else "holds with conditions"
    best = {element: max(RULES, key=lambda rule: at[element, rule]["sqnr_db"]) for element in (e4m3, e2m1)}
    summary = (
        f"FLOOR clips {percent(at[e4m3, 'floor']['clipped'])} of Gaussian blocks in E4M3 and {percent(at[e2m1, 'floor']['clipped'])} in E2M1, "
        f"and shrinks MXFP4 by "
        f"{percent(-shrinks[0], 2)}, RCEIL by {percent(-shrinks[1], 2)}; over {LAYERS} layers that leaves {(1 + shrinks[0]) ** LAYERS:.2f} and "
        f"{(1 + shrinks[1]) ** LAYERS:.2f} of a "
        f"signal. {best[e4m3].upper()} is best in E4M3 ({at[e4m3, best[e4m3]]['sqnr_db']:.2f} dB), "
        f"{best[e2m1].upper()} in E2M1 ({at[e2m1, best[e2m1]]['sqnr_db']:.2f} dB); the "
        f"nearest power of two clips by up to {percent(worst)}."
    )
    findings = [
        Finding(
            f"{label(element)}, {rule}: SQNR of Gaussian blocks",
            f"{value:.2f} dB (pilot)",
            f"{at[element, rule]['sqnr_db']:.2f} dB",
        )
        for (element, rule), value in PILOT.items()
    ]
    findings += [
        Finding(f"{label(e2m1)}, {distribution}: shrinkage by FLOOR, RCEIL, EVEN", {"Gaussian": "-1.98 %, -1.00 % (pilot)"}.get(distribution, "not published"),
                ", ".join(percent(by[e2m1, rule]["shrinkage"], 2) for rule in ("floor", "rceil", "even")))
        for distribution in DISTRIBUTIONS
        for by in (medians(where(rules, distribution=distribution), "format", "rule"),)
    ]  # fmt: skip
    clipped = percent(at[e4m3, "nearest"]["clipped"])
    findings.append(
        Finding(
            "E4M3, nearest: largest clip of a largest element; clipped blocks",
            "29.27 %; 243 of 512 (47 %)",
            f"{percent(worst, 2)}; {clipped}",
        )
    )
    return Verdict(status, summary, tuple(findings))
