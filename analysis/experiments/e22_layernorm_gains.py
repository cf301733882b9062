"""Do LayerNorm gains near 1 collapse to one code in MX blocks, and what does that do to a layer that reads them?

Gains that have been trained a little lie close together, just below or around 1. In an MX block whose scale comes from
the exponent of its largest element, values in (0.875, 1) all exceed 448 / 512 of the scaled range of E4M3 and clip to
one code. Intervals of gains are slid over the binade; of each: how many codes a block uses, the share of elements at
the largest code, and the bias of the mean.

What to see: where all of an interval clips, 32 different gains become one number, up to 7 % too small, whatever is
learned; rounding the scale up from amax / max, or a margin of one binade, leaves several codes and no bias.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.experiment import NO_NUMBER, Claim, Finding, Profile, Unit, Verdict
from analysis.figures import label
from analysis.tables import medians, percent, spread, where
from fpemu import scaling

BLOCK, BLOCKS = 32, 256
WIDTH = 0.119  # of an interval of gains, that of the pilot: 0.88 to 0.999
STARTS = tuple(round(0.5 + 0.02 * step, 2) for step in range(46))
PILOT = 0.88
ELEMENTS = ("float8_e4m3fn", "float8_e5m2", "float6_e2m3fn", "float4_e2m1fn")
RULES = {"floor": "#D55E00", "even": "#E69F00", "rceil": "#009E73"}

TITLE = "LayerNorm gains that collapse to one code"
QUESTION = "Do LayerNorm gains near 1 collapse to one code in MX blocks, and what bias does that leave?"
CLAIMS = (
    Claim(
        "Quantised LayerNorm gains give a multiplicative bias that makes MX training unstable; their values cluster and clip together.",
        "Su et al., arXiv 2506.20752; abstract",
        NO_NUMBER,
    ),
    Claim("Gains uniform in (0.88, 0.999) become one code with a bias under FLOOR, three codes without one under RCEIL.", "our own pilot",
          "1 code, -6.8 %; 3 codes, 0.0 %", "pilot"),
)  # fmt: skip


PILOT_CODES = {
    ("float8_e4m3fn", "floor"): "1 code, 100 % at the largest, -6.8 % (pilot)",
    ("float8_e4m3fn", "rceil"): "3 codes, 0.0 % (pilot)",
}


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"seed": seed} for seed in range(profile.seeds)]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``gains``: a row for every interval, element format and rule."""
    seed = int(unit["seed"])
    rng = np.random.default_rng(seed)
    rows = []
    for start in (*STARTS, PILOT):
        x = rng.uniform(start, start + WIDTH, (BLOCKS, BLOCK)).astype(np.float32)
        for element in ELEMENTS:
            for rule in RULES:
                result = scaling.mx(x, element, block=BLOCK, rule=rule)
                q = result.dequantize(np.float64)
                top = result.codes == result.codes.dtype.type(result.format.max_code)
                rows.append(
                    {
                        "seed": seed, "start": start, "format": element, "rule": rule, "codes": len(np.unique(result.codes)),
                        "codes_of_a_block": float(np.mean([len(np.unique(block)) for block in result.codes])),
                        "collapsed": result.single_code / result.blocks, "at_top": float(top.mean()), "bias": float((q / x).mean() - 1),
                    }
                )  # fmt: skip
    return {"gains": pd.DataFrame(rows).drop_duplicates(["start", "format", "rule"])}


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {
    "gains": (
        f"Blocks of {BLOCK} gains, uniform over an interval of width {WIDTH}, over the interval's lower end: codes that one block uses (above; "
        f"1 means that "
        "everything learned is lost) and bias of the mean (below, %), for three scale rules. Line: median, band: range over the seeds. Dotted: "
        "the interval of the pilot."
    )
}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figure of CAPTIONS."""
    return {"gains": draw_gains(tables["gains"])}


def draw_gains(gains: pd.DataFrame) -> Figure:
    """A column an element format."""
    shown = ("float8_e4m3fn", "float6_e2m3fn", "float4_e2m1fn")
    figure, axes = plt.subplots(2, len(shown), figsize=(8, 4.8), sharex=True, sharey="row")
    for column, element in enumerate(shown):
        above, below = axes[:, column]
        for rule, tint in RULES.items():
            part = where(gains, format=element, rule=rule)
            codes, bias = spread(part, "start", "codes_of_a_block"), 100 * spread(part, "start", "bias")
            for ax, ends in ((above, codes), (below, bias)):
                ax.fill_between(ends.index, ends["least"], ends["greatest"], color=tint, alpha=0.25, linewidth=0)
                ax.plot(ends.index, ends["median"], color=tint, label=rule, linewidth=1.5)
        for ax in (above, below):
            ax.axvline(PILOT, color="#70757D", linewidth=1, linestyle=":")
        above.set_title(label(element))
        above.set_ylim(0.8, 4)
        below.axhline(0, color="#333333", linewidth=0.8)
        below.set_xlabel("smallest gain (no unit)")
    axes[0, 0].set_ylabel("codes of a block")
    axes[1, 0].set_ylabel("bias of the mean (%)")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(RULES), title="scale rule")
    return figure


# ---- verdict --------------------------------------------------------------------------------------------------------
ONE, THREE = 1, 3  # codes of the pilot's interval under FLOOR and under RCEIL
BIASED, UNBIASED = -0.06, 0.002  # a bias below the first, and one smaller than the second
COLLAPSED = 0.99  # of the blocks of an interval: every one, but for chance


def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """The pilot's interval, and where else a block collapses."""
    gains = tables["gains"]
    at = medians(where(gains, start=PILOT), "format", "rule")
    e4m3 = "float8_e4m3fn"
    floor, rceil = at[e4m3, "floor"], at[e4m3, "rceil"]
    holds = (
        floor["codes"] == ONE and floor["bias"] < BIASED and rceil["codes"] == THREE and abs(rceil["bias"]) < UNBIASED
    )
    lost = where(gains, format=e4m3, rule="floor")
    collapsed = sorted(set(lost[lost.collapsed > COLLAPSED].start))

    def codes(row: dict[str, float]) -> str:
        return f"{row['codes']:.0f} code{'' if row['codes'] == 1 else 's'}"

    summary = (
        f"Gains in ({PILOT}, {PILOT + WIDTH:.3f}) become {codes(floor)} of E4M3 under FLOOR, {percent(-floor['bias'])} too small, "
        f"and {codes(rceil)} under RCEIL with a "
        f"bias of {percent(rceil['bias'], 2)}; under FLOOR every block collapses for intervals that begin from {collapsed[0]:.2f} to "
        f"{collapsed[-1]:.2f}."
        if collapsed
        else "No block collapses."
    )
    findings = tuple(
        Finding(
            f"{label(element)}, {rule}: codes in all, collapsed blocks, elements at the largest code, bias",
            PILOT_CODES.get((element, rule), "not published"),
            f"{row['codes']:.0f}, {percent(row['collapsed'])}, {percent(row['at_top'])}, {percent(row['bias'], 2)}",
        )
        for element in ELEMENTS
        for rule in RULES
        for row in (at[element, rule],)
    )  # fmt: skip
    return Verdict("holds" if holds else "does not hold at this scale", summary, findings)
