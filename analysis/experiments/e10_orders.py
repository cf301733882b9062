"""How much does the order of additions matter in 16 bits: one by one, in chunks, in pairs, or with Kahan's compensation?

Uniform values from [0, 1) and normal ones are added up in FP16 and BF16 in four orders. Errors are set against the sum of
absolute values, to which the bounds refer: n u one by one, log2(n) u in pairs, 2 u with compensation.

What to see: in pairs a sum of any length keeps nearly all of its bits, for the price of no more additions; chunks lie between;
compensation keeps them too while n u^2 is small, at four additions a term. Sums that hover about zero are benign in every order.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, log2
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

import fpemu as fp
from analysis.experiment import Claim, Finding, Profile, Unit, Verdict
from analysis.figures import band, guide, label
from analysis.sums import lengths, sums, unit_roundoff
from analysis.tables import medians, spread, where

FORMATS = ("float16", "bfloat16")


class Way(NamedTuple):
    """An order, the roundings that bound its error in units of u, and its colour."""

    order: str
    roundings: Callable[[int], float]
    tint: str


WAYS = {
    "one by one": Way("sequential", lambda n: n - 1, "#D55E00"),
    "chunks of 64": Way("chunked(64)", lambda n: 63 + ceil(n / 64) - 1, "#E69F00"),
    "pairs": Way("pairwise", lambda n: ceil(log2(n)), "#0072B2"),
    "Kahan": Way("kahan", lambda n: 2, "#009E73"),
}
NAIVE, CHUNKS, PAIRS, KAHAN = WAYS
UNIFORM, NORMAL = "uniform", "normal"
INPUTS: dict[str, Callable[[np.random.Generator, tuple[int, int]], NDArray[Any]]] = {
    UNIFORM: lambda random, shape: random.random(shape),
    NORMAL: lambda random, shape: random.standard_normal(shape),
}
LENGTHS = lengths(100, 100_000, per_decade=4)
DRAWS = {"quick": 10, "full": 15}  # of each seed

TITLE = "The order of additions"
QUESTION = (
    "How much does the order of additions matter in 16 bits: one by one, in chunks, in pairs, or with compensation?"
)
_HIGHAM = "Higham, The Accuracy of Floating Point Summation, SIAM J. Sci. Comput. 1993; second-hand, from memory"
CLAIMS = (
    Claim("One by one, the error is at most (n - 1) u of the sum of magnitudes.", _HIGHAM, "(n - 1) u", "second-hand"),
    Claim("In pairs it is at most log2(n) u.", _HIGHAM, "log2(n) u", "second-hand"),
    Claim(
        "With Kahan's compensation it is at most 2 u, and a term of order n u^2.",
        _HIGHAM,
        "2 u + O(n u^2)",
        "second-hand",
    ),
)


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [
        {"format": name, "inputs": inputs, "seed": seed}
        for name in FORMATS
        for inputs in INPUTS
        for seed in range(profile.seeds)
    ]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``errors``: a row for every order, length and draw: the error, as a share of the sum of magnitudes."""
    name, inputs, seed, draws = str(unit["format"]), str(unit["inputs"]), int(unit["seed"]), DRAWS[profile.name]
    random = np.random.default_rng([seed, list(INPUTS).index(inputs)])
    codes = np.asarray(fp.encode(INPUTS[inputs](random, (draws, LENGTHS[-1])), name))
    table = sums(codes, name, LENGTHS, {way: {"order": how.order} for way, how in WAYS.items()})
    table["error"] = [float(f"{error:.4g}") for error in (table["sum"] - table.exact).abs() / table.magnitude]
    table["draw"] += seed * draws
    table.insert(0, "format", name)
    table.insert(1, "inputs", inputs)
    return {"errors": table[["format", "inputs", "method", "terms", "draw", "error"]]}


# ---- draw -----------------------------------------------------------------------------------------------------------
FLOOR = 1e-7
CAPTIONS = {
    "orders": (
        "Error of sums, as a share of the sum of magnitudes, over the number of terms n, in four orders of addition. Rows: inputs (uniform: "
        "from [0, 1)); columns: formats. Dashed: the bounds n u (one by one), log2(n) u (pairs) and 2 u (compensation), with u = 2^-p. Line: "
        "median, band: range over the draws; what is below 1e-7 is drawn there."
    )
}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figure of CAPTIONS."""
    return {"orders": draw_orders(tables["errors"])}


def draw_orders(errors: pd.DataFrame) -> Figure:
    """Inputs by formats."""
    table = errors.assign(error=errors.error.clip(lower=FLOOR))
    figure, axes = plt.subplots(len(INPUTS), len(FORMATS), figsize=(8, 6.6), sharex=True, sharey=True)
    n = np.array(LENGTHS, float)
    for column, name in enumerate(FORMATS):
        u = unit_roundoff(name)
        for row, inputs in enumerate(INPUTS):
            ax = axes[row, column]
            fast = n[n * u < 2]
            guide(ax, fast, fast * u, r"$n\,u$", offset=(-4, 0))
            guide(ax, n, np.log2(n) * u, r"$\log_2(n)\,u$", at=0, offset=(2, 6))
            guide(ax, n, np.full(len(n), 2 * u), r"$2\,u$")
            for way, how in WAYS.items():
                part = where(table, format=name, inputs=inputs, method=way)
                band(ax, spread(part, "terms", "error", "draw"), how.tint, way)
            ax.set(xscale="log", yscale="log", ylim=(FLOOR, 3))
        axes[0, column].set_title(f"{label(name)} (u = $2^{{{np.log2(u):.0f}}}$)")
        axes[-1, column].set_xlabel("number of terms n")
    for row, inputs in enumerate(INPUTS):
        axes[row, 0].set_ylabel(f"{inputs} inputs: error\n(of the sum of magnitudes)")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4)
    return figure


# ---- verdict --------------------------------------------------------------------------------------------------------
BETTER = 0.1  # of the error one by one, that of pairs is less


def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """Whether every error keeps its bound, which lose their value where n u is large; medians at the greatest length."""
    errors = tables["errors"]
    worst = {
        (name, way): float((rows.error / (rows.terms.map(how.roundings) * unit_roundoff(name))).max())
        for name in FORMATS
        for way, how in WAYS.items()
        if not (rows := where(errors, format=name, method=way)).empty
    }
    at = medians(where(errors, terms=LENGTHS[-1]), "format", "inputs", "method")
    kept = all(worst[name, way] <= 1 for name in FORMATS for way in (NAIVE, CHUNKS, PAIRS))
    better = all(at[name, UNIFORM, PAIRS]["error"] < BETTER * at[name, UNIFORM, NAIVE]["error"] for name in FORMATS)
    compensated = {name: worst[name, KAHAN] for name in FORMATS}
    status = "does not hold at this scale"
    if kept and better:
        status = "holds" if max(compensated.values()) <= 1 else "holds with conditions"
    told = "; ".join(
        f"{label(name)}: " + ", ".join(f"{way} {at[name, UNIFORM, way]['error']:.1e}" for way in WAYS)
        for name in FORMATS
    )
    summary = (
        f"The median errors of 10^5 uniform terms are: {told}; pairs stay within {max(worst[name, PAIRS] for name in FORMATS):.2f} of their bound log2(n) u, "
        f"compensation within {compensated['float16']:.2f} of 2 u in FP16 and {compensated['bfloat16']:.2f} in BF16, where n u^2 reaches 1.5."
    )
    findings = [
        Finding(
            f"{label(name)}, {way}: greatest error, in units of the bound",
            BOUNDS[way],
            f"{worst[name, way]:.2g}",
        )
        for name in FORMATS
        for way in WAYS
    ]
    findings += [
        Finding(
            f"{label(name)}, {inputs}: median error of 10^5 terms, in u",
            "not published",
            "; ".join(f"{way} {at[name, inputs, way]['error'] / unit_roundoff(name):.2g}" for way in WAYS),
        )
        for name in FORMATS
        for inputs in INPUTS
    ]
    return Verdict(status, summary, tuple(findings))


BOUNDS = {
    NAIVE: "at most (n - 1) u",
    CHUNKS: "at most (62 + n/64) u",
    PAIRS: "at most log2(n) u",
    KAHAN: "2 u + O(n u^2)",
}
