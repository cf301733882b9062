"""How does the error of a sum grow with its length, rounding to nearest and stochastically?

Uniform values from [0, 1) are added up one after another in BF16 and FP16, to nearest and stochastically, with as many draws as
there are seeds times DRAWS; values and random bits differ from draw to draw.

What to see: stochastic errors have mean zero and keep below sqrt(n) u; errors to nearest do so too until the sum stops at
2^p, then they are losses, all of one sign, and reach everything. BF16 comes there after 2^9 terms. Stochastic errors grow as the
root of n up to about n = 1/u only, then they stay. For where a spacing exceeds the term x, the sum moves by a whole spacing with
probability x / spacing, with variance x (spacing - x); with spacings of 2 u times the sum's binade that adds up to 2 u / 3 of the
sum's square, whatever n.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import fpemu as fp
from analysis.experiment import Claim, Finding, Profile, Unit, Verdict
from analysis.figures import band, guide, label
from analysis.sums import lengths, sums, unit_roundoff
from analysis.tables import percent, spread, where

FORMATS = ("bfloat16", "float16")
NEAREST, STOCHASTIC = "to nearest", "stochastic"
METHODS: dict[str, dict[str, Any]] = {NEAREST: {}, STOCHASTIC: {"rounding": "stochastic"}}
TINTS = {NEAREST: "#D55E00", STOCHASTIC: "#009E73"}
LENGTHS = lengths(10, 100_000, per_decade=4)
DRAWS = {"quick": 20, "full": 40}  # of each seed

TITLE = "Error growth of stochastic rounding"
QUESTION = "How does the error of a sum grow with its length, rounding to nearest and stochastically?"
_CONNOLLY = "Connolly, Higham and Mary, Stochastic Rounding and Its Probabilistic Backward Error Analysis, SIAM J. Sci. Comput. 2021"
CLAIMS = (
    Claim(
        "Errors of stochastic rounding have mean zero, and a sum's error is bounded by a multiple of sqrt(n) u with high probability.",
        f"{_CONNOLLY}, abstract; primary",
        "sqrt(n) u",
    ),
    Claim("To nearest the bound is n u, and a sum that stagnates comes near it.", f"{_CONNOLLY}, abstract; primary", "n u"),
    Claim(
        "In BF16, at 10^5 terms, nearest is wrong by 0.995, stochastic by 0.050.",
        "our own pilot, 40 draws",
        "0.995, 0.050; sqrt(n) u = 1.24", "pilot",
    ),
)  # fmt: skip


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"format": name, "seed": seed} for name in FORMATS for seed in range(profile.seeds)]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``errors``: a row for every rounding, length and draw, with its relative error, signed."""
    name, seed, draws = str(unit["format"]), int(unit["seed"]), DRAWS[profile.name]
    values = np.random.default_rng(seed).random((draws, LENGTHS[-1]))
    table = sums(np.asarray(fp.encode(values, name)), name, LENGTHS, METHODS, seed)
    table["error"] = [float(f"{error:.6g}") for error in (table["sum"] - table.exact) / table.exact]
    table["draw"] += seed * draws
    table.insert(0, "format", name)
    return {"errors": table[["format", "method", "terms", "draw", "error"]]}


# ---- draw -----------------------------------------------------------------------------------------------------------
FLOOR = 1e-5
CAPTIONS = {
    "growth": (
        "Relative error of sums of uniform values from [0, 1), one after another, over the number of terms n. Above: its magnitude (line: median, "
        "band: range over the draws; what is below 1e-5 is drawn there), with the lines n u and sqrt(n) u, u = 2^-p, and sqrt(2 u / 3), to which "
        "the rms of stochastic errors must tend. Below: the mean error with two standard errors, on an axis that is linear within 1 %; to "
        "nearest, sums end at 2^p, and the error tends to -100 %."
    )
}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figure of CAPTIONS."""
    return {"growth": draw_growth(tables["errors"])}


def draw_growth(errors: pd.DataFrame) -> Figure:
    """Magnitudes above, means below, a column a format."""
    figure, axes = plt.subplots(2, len(FORMATS), figsize=(8, 6), sharex=True, sharey="row", height_ratios=(1.4, 1))
    table = errors.assign(magnitude=errors.error.abs().clip(lower=FLOOR))
    for column, name in enumerate(FORMATS):
        above, below = axes[:, column]
        n, u = np.array(LENGTHS, float), unit_roundoff(name)
        slow, fast = np.sqrt(n) * u, n[n * u < 2] * u
        guide(above, n, slow, r"$\sqrt{n}\,u$", offset=(0, 4))
        guide(above, n[: len(fast)], fast, r"$n\,u$", offset=(-4, 0))
        guide(above, n[-5:], np.full(5, stays(name)), r"$\sqrt{2u/3}$", at=0)
        for method in METHODS:
            rows = where(table, format=name, method=method)
            band(above, spread(rows, "terms", "magnitude", "draw"), TINTS[method], method)
            _draw_mean(below, rows, TINTS[method])
        above.set(title=f"{label(name)} (u = {_power(u)})", xscale="log", yscale="log", ylim=(FLOOR, 3))
        below.set(xlabel="number of terms n", ylim=(-1.3, 0.1))
        below.set_yscale("symlog", linthresh=0.01)
        below.set_yticks([-1, -0.1, -0.01, 0, 0.01, 0.1], ["-100", "-10", "-1", "0", "1", "10"])
    axes[0, 0].set_ylabel("relative error (of the exact sum)")
    axes[1, 0].set_ylabel("mean error (%)")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    return figure


def _draw_mean(ax: Axes, rows: pd.DataFrame, tint: str) -> None:
    found = rows.groupby("terms").error.agg(["mean", "sem"])
    ax.errorbar(found.index, found["mean"], 2 * found["sem"], color=tint, marker="o", capsize=2, linewidth=1.2)


def _power(u: float) -> str:
    return f"$2^{{{np.log2(u):.0f}}}$"


# ---- verdict --------------------------------------------------------------------------------------------------------
OF_ROOT = 2  # stochastic errors stay below so many sqrt(n) u
STANDARD_ERRORS = 4  # and their mean within so many of zero
OF_LINEAR = 1  # errors to nearest are at most so many n u
LOST = 0.99  # of the sum, where it stagnates


def stays(name: str) -> float:
    """The rms error that stochastic sums of like terms tend to (see the module)."""
    return float(np.sqrt(2 * unit_roundoff(name) / 3))


def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """Whether stochastic errors have mean zero and stay below twice sqrt(n) u, and those to nearest end as a loss within n u."""
    errors = tables["errors"]
    found = {
        (name, method): _about(where(errors, format=name, method=method), name)
        for name in FORMATS
        for method in METHODS
    }
    stochastic, nearest = ([found[name, method] for name in FORMATS] for method in (STOCHASTIC, NEAREST))
    holds = (
        all(row["of_root"] < OF_ROOT and row["bias"] < STANDARD_ERRORS for row in stochastic)
        and all(row["of_linear"] <= OF_LINEAR for row in nearest)
        and found["bfloat16", NEAREST]["last"] > LOST
    )
    bf16, lost = found["bfloat16", STOCHASTIC], found["bfloat16", NEAREST]
    summary = (
        f"The rms error of {errors.draw.nunique()} stochastic BF16 sums is {bf16['last']:.3f} at 10^5 terms, no error was ever above "
        f"{bf16['of_root']:.2f} sqrt(n) u, and the mean is within {bf16['bias']:.1f} standard errors of zero; to nearest {lost['last']:.3f} "
        f"is lost. The growth as n^{bf16['early']:.2f} ends at n = 1/u (n^{bf16['late']:.2f} from there on): stochastic errors stay near "
        f"sqrt(2 u / 3) = {stays('bfloat16'):.3f}."
    )
    findings = []
    for (name, method), row in found.items():
        what, random = f"{label(name)}, {method}", method == STOCHASTIC
        tends = f"; tends to {stays(name):.3f} by the variance of a step" if random else ""
        findings += [
            Finding(f"{what}: rms error at 10^5 terms", PILOT.get((name, method), "not published"), f"{row['last']:.3f}{tends}"),
            Finding(
                f"{what}: greatest error",
                "a multiple of sqrt(n) u" if random else "at most n u",
                f"{row['of_root']:.2f} sqrt(n) u, {row['of_linear']:.2f} n u",
            ),
            Finding(
                f"{what}: exponent of the rms error's growth up to n = 1/u, and beyond",
                "0.5 (of the bound)" if random else "1 (of the bound)",
                f"{row['early']:.2f}, {row['late']:.2f}",
            ),
            Finding(
                f"{what}: mean error at 10^5 terms; the greatest at any length, in standard errors",
                "0" if random else "not published",
                f"{percent(row['mean'], 2)}" + (f"; {row['bias']:.1f}" if random else "; all errors have one sign"),
            ),
        ]  # fmt: skip
    return Verdict("holds" if holds else "does not hold at this scale", summary, tuple(findings))


PILOT = {("bfloat16", NEAREST): "0.995 (pilot)", ("bfloat16", STOCHASTIC): "0.050 (pilot)"}


def _about(rows: pd.DataFrame, name: str) -> dict[str, float]:
    """What the verdict says of a format and a rounding."""
    u = unit_roundoff(name)
    by_length = rows.groupby("terms").error
    rms = by_length.apply(lambda errors: np.mean(errors**2)) ** 0.5
    sizes, means = rows.error.abs(), by_length.mean()
    return {
        "early": _exponent(rms[rms.index <= 1 / u]),
        "late": _exponent(rms[rms.index >= 1 / u]),
        "last": float(rms.iloc[-1]),
        "of_root": float((sizes / (np.sqrt(rows.terms) * u)).max()),
        "of_linear": float((sizes / (rows.terms * u)).max()),
        "mean": float(means.iloc[-1]),
        "bias": float((means / by_length.sem()).abs().max()),
    }


def _exponent(rms: pd.Series[float]) -> float:
    """Of the power of n that fits best."""
    slope, _ = np.polyfit(np.log(rms.index.to_numpy(float)), np.log(rms.to_numpy()), 1)
    return float(slope)
