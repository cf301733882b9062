"""In which format must the gradients of micro-batches be accumulated?

The gradient of an MLP over k micro-batches is added up one after another in FP32, FP16 and BF16 (to nearest and
stochastically), every addition exactly rounded, and compared with the exact sum.

What to see: in BF16 late micro-batches are lost when the sum has grown past 2^8 of one of them: the error grows with k,
and shrinks the gradient; stochastic rounding keeps it unbiased; FP16 holds three bits longer.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import fpemu as fp
from analysis.experiment import Claim, Finding, Profile, Unit, Verdict
from analysis.figures import band
from analysis.tables import medians, percent, spread, where
from analysis.training.numerics import Numerics
from analysis.training.small_tasks import digits_mlp

COUNTS = {"quick": (1, 4, 16, 64, 256), "full": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)}
WAYS = {
    "FP32": ("fp32", "nearest-even", "#333333"),
    "FP16": ("fp16", "nearest-even", "#0072B2"),
    "BF16": ("bf16", "nearest-even", "#E69F00"),
    "BF16, stochastic": ("bf16", "stochastic", "#A6611A"),
}
SCALE = np.float32(2.0**3)  # so that FP16 neither underflows nor overflows: only the additions are on trial

TITLE = "Accumulating micro-batches"
QUESTION = "In which format must the gradients of micro-batches be accumulated?"
CLAIMS = (
    Claim(
        "Gradients must be accumulated in FP32 when training in BF16.",
        "Bekman, Machine Learning Engineering; second-hand",
        "“a must”",
        "second-hand",
    ),
    Claim(
        "A sum in p bits stalls once it is 2^p times a term.",
        "experiment e05; our own",
        "2^8 for BF16, 2^11 for FP16",
        "derived",
    ),
)


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"seed": seed} for seed in range(profile.seeds)]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``sums``: a row for every number of micro-batches and way: relative error, gain and cosine against the exact sum."""
    seed, counts = int(unit["seed"]), COUNTS[profile.name]
    task = digits_mlp(1, (64, 48, 10), batch=8)
    parameters, numerics = task.network.initialise(seed), Numerics("fp32-blas")
    totals: dict[str, Any] = {}
    exact: Any = 0.0
    rows: list[dict[str, Any]] = []
    for k, (x, targets) in zip(range(1, counts[-1] + 1), task.batches(seed), strict=False):
        g = SCALE * task.network.step(parameters, x, targets, numerics)[1]["fc1.weight"].ravel()
        exact = exact + g.astype(np.float64)
        for way, (name, rounding, _) in WAYS.items():
            term = fp.quantize(g, name)
            totals[way] = (
                term
                if k == 1
                else fp.quantize(totals[way].astype(np.float64) + term, name, rounding=rounding, seed=1000 * seed + k)
            )
            if k in counts:
                found = fp.errors(exact, totals[way])
                rows.append(
                    {
                        "seed": seed, "k": k, "way": way, "error": found.relative_rms, "shrinkage": found.gain - 1,
                        "turned": 1 - found.cosine,
                    }
                )  # fmt: skip
    return {"sums": pd.DataFrame(rows)}


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {
    "sums": (
        "Relative error (left, share of the norm) and shrinkage <s, g> / <g, g> - 1 (right, %) of the accumulated gradient over the number of "
        "micro-batches. "
        "Line: median, band: range over the seeds."
    )
}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figure of CAPTIONS."""
    return {"sums": draw_sums(tables["sums"])}


def draw_sums(sums: pd.DataFrame) -> Figure:
    """Error on the left, shrinkage on the right."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.8), sharex=True)
    for way, (_, _, tint) in WAYS.items():
        part = where(sums, way=way)
        band(left, spread(part, "k", "error").clip(lower=1e-9), tint, way)
        band(right, 100 * spread(part, "k", "shrinkage"), tint)
    left.set(xscale="log", yscale="log", xlabel="micro-batches", ylabel="relative error (share of the norm)")
    right.set(xlabel="micro-batches", ylabel="shrinkage (%)")
    right.axhline(0, color="#333333", linewidth=0.6)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


# ---- verdict --------------------------------------------------------------------------------------------------------
GROWS = 3  # times the error of four micro-batches, at the largest number
LOSES = 0.05  # of the norm, more than this


def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """The errors at the largest number of micro-batches."""
    sums = tables["sums"]
    most = int(sums.k.max())
    at = medians(sums, "way", "k")
    bf16, fp16, random, single = (at[way, most] for way in ("BF16", "FP16", "BF16, stochastic", "FP32"))
    grows = bf16["error"] > GROWS * at["BF16", 4]["error"]
    loses = bf16["error"] > LOSES
    summary = (
        f"After {most} micro-batches the accumulated gradient is off by {percent(bf16['error'])} of its norm in BF16 "
        f"(a change of {percent(bf16['shrinkage'], 2)} along it), by {percent(random['error'])} with stochastic rounding, by {percent(fp16['error'], 2)} "
        f"in FP16 and by {single['error']:.0e} in FP32; "
        f"1 - cosine of its direction is {bf16['turned']:.0e}, {random['turned']:.0e} and {fp16['turned']:.0e} in the first three."
    )
    findings = tuple(
        Finding(
            f"{way}: relative error after {', '.join(str(k) for k in ks)} micro-batches",
            "not published",
            ", ".join(f"{at[way, k]['error']:.1e}" for k in ks),
        )
        for way in WAYS
        for ks in ([k for k in sorted(set(sums.k)) if k > 1],)
    )
    return Verdict(
        "holds" if grows and loses else "holds with conditions" if grows else "does not hold at this scale",
        summary,
        findings,
    )
