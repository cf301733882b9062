"""How does the error of a sum grow with its length, rounding to nearest and stochastically?

Uniform values from [0, 1) are added up one after another in BF16 and FP16, to nearest and stochastically, with as many draws as
there are seeds times DRAWS; values and random bits differ from draw to draw.

What to see: stochastic errors have mean zero and grow as the root of n; errors to nearest do so too until the sum stops at
2^p, then they are losses, all of one sign, and reach everything. BF16 comes there after 2^9 terms.
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
from analysis.tables import spread, where

FORMATS = ("bfloat16", "float16")
NEAREST, STOCHASTIC = "to nearest", "stochastic"
METHODS: dict[str, dict[str, Any]] = {NEAREST: {}, STOCHASTIC: {"rounding": "stochastic"}}
TINTS = {NEAREST: "#D55E00", STOCHASTIC: "#009E73"}
LENGTHS = lengths(100, 100_000, per_decade=4)
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
        "0.995, 0.050; sqrt(n) u = 1.24",
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
        "Relative error of sums of uniform values from [0, 1), one after another, over the number of terms. Above: its magnitude (line: median, "
        "band: range over the draws; what is below 1e-5 is drawn there), and the lines n u and sqrt(n) u with u = 2^-p. Below: its mean with two standard errors, on an axis "
        "that is linear within 1 %. To nearest, sums end at 2^p, and the error tends to -100 %."
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
def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """Exponents of growth of the rms error; whether stochastic errors have mean zero and stay below twice sqrt(n) u."""
    errors = tables["errors"]
    found = {
        (name, method): _about(where(errors, format=name, method=method), name)
        for name in FORMATS
        for method in METHODS
    }
    rooted = all(abs(found[name, STOCHASTIC]["exponent"] - 0.5) < 0.15 for name in FORMATS)
    bounded = all(found[name, STOCHASTIC]["of_root"] < 2 for name in FORMATS)
    linear = all(found[name, NEAREST]["of_linear"] <= 1 for name in FORMATS)
    centred = all(found[name, STOCHASTIC]["bias"] < 4 for name in FORMATS)
    bf16 = {method: found["bfloat16", method] for method in METHODS}
    lost = bf16[NEAREST]["last"] > 0.99
    draws = errors.draw.nunique()
    summary = (
        f"In BF16 the rms error of {draws} stochastic sums grows as n^{bf16[STOCHASTIC]['exponent']:.2f}, to {bf16[STOCHASTIC]['last']:.3f} at 10^5 "
        f"terms, never above {bf16[STOCHASTIC]['of_root']:.2f} sqrt(n) u, with a mean within {bf16[STOCHASTIC]['bias']:.1f} standard errors of zero; to nearest "
        f"it is {bf16[NEAREST]['last']:.3f} by then, all of one sign."
    )  # fmt: skip
    findings = []
    for (name, method), row in found.items():
        findings += [
            Finding(f"{label(name)}, {method}: exponent of the rms error's growth", "0.5" if method == STOCHASTIC else "up to 1", f"{row['exponent']:.2f}"),
            Finding(
                f"{label(name)}, {method}: rms error at 10^5 terms",
                PILOT.get((name, method), "not published"),
                f"{row['last']:.3f}",
            ),
            Finding(
                f"{label(name)}, {method}: greatest error",
                "a multiple of sqrt(n) u" if method == STOCHASTIC else "n u",
                f"{row['of_root']:.2f} sqrt(n) u, {row['of_linear']:.2f} n u",
            ),
            Finding(
                f"{label(name)}, {method}: greatest mean error over the lengths, in standard errors",
                "0 (no bias)" if method == STOCHASTIC else "not published",
                f"{row['bias']:.1f}",
            ),
        ]  # fmt: skip
    holds = rooted and bounded and linear and centred and lost
    return Verdict("holds" if holds else "does not hold at this scale", summary, tuple(findings))


PILOT = {("bfloat16", NEAREST): "0.995 (pilot)", ("bfloat16", STOCHASTIC): "0.050 (pilot)"}


def _about(rows: pd.DataFrame, name: str) -> dict[str, float]:
    """What the verdict says of a format and a rounding."""
    u = unit_roundoff(name)
    by_length = rows.groupby("terms").error
    rms = (by_length.apply(lambda errors: np.mean(errors**2))) ** 0.5
    n = rms.index.to_numpy(float)
    slope, _ = np.polyfit(np.log(n), np.log(rms.to_numpy()), 1)
    sizes = rows.error.abs()
    return {
        "exponent": float(slope),
        "last": float(rms.iloc[-1]),
        "of_root": float((sizes / (np.sqrt(rows.terms) * u)).max()),
        "of_linear": float((sizes / (rows.terms * u)).max()),
        "bias": float((by_length.mean() / by_length.sem()).abs().max()),
    }
