"""Which tensors does a random Hadamard transform help, and on which grid?

A transform over 16 elements makes any distribution nearly Gaussian. Four distributions and the tensors of a trained
network are quantised with one scale for 16 elements, with and without the transform (and its inverse after), to E2M1 in
NVFP4 and to a uniform grid of four bits.

What to see: with E2M1 every tensor ends at the same SQNR of about 20.4 dB, so heavy tails lose by it, for the
non-uniform grid had been made for them; a uniform grid gains on every tensor with outliers.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import fpemu as fp
from analysis.experiment import NO_NUMBER, Claim, Finding, Profile, Unit, Verdict
from analysis.scaled import DISTRIBUTIONS, Array, drawn, real_tensors
from analysis.tables import medians, percent
from fpemu import scaling

SIZE = 16
SHAPE = {"quick": (1024, 256), "full": (8192, 256)}
LEVELS = 7  # a uniform grid of four bits: -7 to 7
GRIDS = {"E2M1": "#882255", "uniform": "#0072B2"}

TITLE = "The Hadamard transform and the grid"
QUESTION = "Which tensors does a random Hadamard transform help, and on which grid?"
CLAIMS = (
    Claim("A transform of size 16 on the inputs of weight-gradient products helps; on forward and input-gradient products it does not.",
          "NVIDIA, Pretraining Large Language Models with NVFP4, arXiv 2509.25149; primary", NO_NUMBER),
    Claim("On E2M1 the transform brings every distribution to one SQNR; lognormal tensors lose.", "our own pilot", "20.4 dB; 23.6 to 20.3 dB", "pilot"),
    Claim("On a uniform four-bit grid it helps.", "our own pilot; UFP4, arXiv 2606.20381 (second-hand), says so without this number",
          "21.1 to 25.1 dB (lognormal)", "pilot"),
)  # fmt: skip


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"seed": seed} for seed in range(profile.seeds)]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``grids``: a row for every tensor and grid: SQNR and shrinkage, plain and transformed."""
    seed = int(unit["seed"])
    tensors = {name: drawn(name, SHAPE[profile.name], seed) for name in DISTRIBUTIONS} | real_tensors(seed)
    rows: list[dict[str, Any]] = []
    for name, x in tensors.items():
        turned = scaling.hadamard(x, SIZE, seed=seed)
        for grid in GRIDS:
            plain = on_grid(x, grid)
            back = scaling.hadamard(on_grid(turned, grid), SIZE, seed=seed, inverse=True)
            for way, q in (("plain", plain), ("transformed", back)):
                found = fp.errors(x, q)
                rows.append(
                    {
                        "seed": seed,
                        "tensor": name,
                        "grid": grid,
                        "way": way,
                        "sqnr_db": found.sqnr_db,
                        "shrinkage": found.gain - 1,
                    }
                )
    return {"grids": pd.DataFrame(rows)}


def on_grid(x: Array, grid: str) -> Array:
    """x on NVFP4, or on -7 ... 7 with a float32 scale for 16 elements."""
    if grid == "E2M1":
        return scaling.nvfp4(x).dequantize()
    blocks = x.reshape(-1, SIZE)
    unit = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(LEVELS)
    unit = np.where(unit > 0, unit, np.float32(1))
    result: Array = (np.rint(blocks / unit) * unit).reshape(x.shape)
    return result


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {
    "grids": (
        "SQNR (dB) of tensors quantised in blocks of 16 as they are (hollow) and after a random Hadamard transform that is undone again "
        "(filled), on the grid of E2M1 (NVFP4) "
        "and on a uniform grid of 15 levels. Dot: median over the seeds."
    )
}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figure of CAPTIONS."""
    return {"grids": draw_grids(tables["grids"])}


def draw_grids(grids: pd.DataFrame) -> Figure:
    """A dumbbell for each tensor and grid."""
    names = list(dict.fromkeys(grids.tensor))
    at = medians(grids, "tensor", "grid", "way")
    figure, ax = plt.subplots(figsize=(8, 4))
    for place, (grid, tint) in enumerate(GRIDS.items()):
        for row, name in enumerate(names):
            y = row + (place - 0.5) * 0.3
            ends = [at[name, grid, way]["sqnr_db"] for way in ("plain", "transformed")]
            ax.annotate("", (ends[1], y), (ends[0], y), arrowprops={"arrowstyle": "-", "color": tint, "linewidth": 1.5})
            ax.plot(
                ends[0],
                y,
                "o",
                markerfacecolor="white",
                markeredgecolor=tint,
                label=f"{grid}, as it is" if row == 0 else None,
            )
            ax.plot(ends[1], y, "o", color=tint, label=f"{grid}, transformed" if row == 0 else None)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylabel("tensor")
    ax.invert_yaxis()
    ax.set_xlabel("SQNR (dB)")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


# ---- verdict --------------------------------------------------------------------------------------------------------
PINNED = 1  # dB between the synthetic tensors after the transform, at most
CHANGES = 1  # dB that count as harm or help, at least


def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """Whether the transform equalises on E2M1, harms heavy tails there, and helps on the uniform grid."""
    grids = tables["grids"]
    at = medians(grids, "tensor", "grid", "way")
    synthetic = list(DISTRIBUTIONS)
    after = [at[name, "E2M1", "transformed"]["sqnr_db"] for name in synthetic]
    change = {
        (name, grid): at[name, grid, "transformed"]["sqnr_db"] - at[name, grid, "plain"]["sqnr_db"]
        for name in dict.fromkeys(grids.tensor)
        for grid in GRIDS
    }
    pinned = max(after) - min(after) < PINNED
    harms = change["lognormal", "E2M1"] < -CHANGES
    helps = change["lognormal", "uniform"] > CHANGES
    summary = (
        f"On E2M1 the transform brings the synthetic tensors to {min(after):.1f} to {max(after):.1f} dB: lognormal ones change by "
        f"{change['lognormal', 'E2M1']:+.1f} dB, those with outliers by "
        f"{change['outliers', 'E2M1']:+.1f}; on a uniform grid lognormal ones change by {change['lognormal', 'uniform']:+.1f} dB. A real weight "
        f"gradient changes on the two grids by {change['weight gradient', 'E2M1']:+.1f} and "
        f"{change['weight gradient', 'uniform']:+.1f} dB."
    )
    findings = tuple(
        Finding(
            f"{name}, {grid}: SQNR as it is, transformed; shrinkage of both",
            {
                ("lognormal", "E2M1"): "23.6, 20.3 dB (pilot)",
                ("lognormal", "uniform"): "21.1, 25.1 dB (pilot, another scale)",
            }.get((name, grid), "not published"),
            ", ".join(f"{at[name, grid, way]['sqnr_db']:.2f}" for way in ("plain", "transformed"))
            + " dB; "
            + ", ".join(percent(at[name, grid, way]["shrinkage"], 2) for way in ("plain", "transformed")),
        )
        for name in dict.fromkeys(grids.tensor)
        for grid in GRIDS
    )
    status = (
        "holds"
        if pinned and harms and helps
        else "holds with conditions"
        if harms or helps
        else "does not hold at this scale"
    )
    return Verdict(status, summary, findings)
