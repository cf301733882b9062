"""How far apart may blocks of one tensor lie before NVFP4 loses whole blocks?

A block's scale is an E4M3 value under the scale of the tensor: below 2^-10 / 448 = 2.2e-6 of the largest element it
rounds to zero, and with it all sixteen elements. Rows of a tensor are scaled by 2^N(0, sd), as tokens and channels of
gradients are; of each spread: dead blocks, blocks with a subnormal scale, energy lost; and what remedies do: the
smallest normal as the least scale (torchao), a scale for each row, MX.

What to see: no block dies up to a spread of 2 binades (one standard deviation), a tenth at 4, two thirds at 6; the
energy lost stays negligible, but everything that these rows would have taught is gone.
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
from analysis.scaled import Array
from analysis.tables import medians, percent, spread, where
from fpemu import scaling

SPREADS = (0, 1, 2, 3, 4, 5, 6, 7, 8)
SHAPE = {"quick": (2048, 64), "full": (16384, 64)}
E4M3, E2M1 = fp.FORMATS["e4m3"], fp.FORMATS["e2m1"]
TINTS = {"NVFP4": "#0072B2", "least scale 2^-6": "#A07B4F", "one scale a row": "#009E73", "MXFP4": "#D55E00"}

TITLE = "Blocks that die under one tensor scale"
QUESTION = "How far apart may blocks of one tensor lie before NVFP4 loses whole blocks?"
CLAIMS = (
    Claim(
        "A block is lost where its largest element is below 2.2e-6 of the tensor's.",
        "from Transformer Engine's code; our own inference",
        "2^-10 / 448 = 2.2e-6",
        "derived",
    ),
    Claim(
        "Of rows scaled by 2^N(0, sd) this share of the blocks dies.",
        "our own pilot",
        "sd 2: 0 %, sd 4: 8.9 % (27.6 % with a subnormal scale), sd 6: 65 %",
        "pilot",
    ),
)


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"seed": seed} for seed in range(profile.seeds)]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``deaths``: a row for every spread and scheme; ``threshold``: where a block dies, by bisection."""
    seed = int(unit["seed"])
    rng = np.random.default_rng(seed)
    base = rng.standard_normal(SHAPE[profile.name])
    exponents = rng.standard_normal((len(base), 1))
    rows: list[dict[str, Any]] = []
    for sd in SPREADS:
        x = (base * 2.0 ** (sd * exponents)).astype(np.float32)
        nv = scaling.nvfp4(x)
        magnitude = nv.scales & np.uint8(E4M3.magnitude_mask)
        subnormal = float(((magnitude > 0) & (np.asarray(fp.decode(magnitude, E4M3)) < E4M3.smallest_normal)).mean())
        row_wise = [scaling.nvfp4(row[None]) for row in x[:: len(x) // 512]]
        for scheme, result in (
            ("NVFP4", nv),
            ("least scale 2^-6", scaling.nvfp4(x, minimum_scale=E4M3.smallest_normal)),
            ("MXFP4", scaling.mx(x, "e2m1")),
        ):
            lost = (result.dequantize() == 0) & (x != 0)
            rows.append(
                {
                    "seed": seed, "sd": sd, "scheme": scheme, "dead": result.dead / result.occupied, "subnormal": subnormal if scheme == "NVFP4" else 0.0,
                    "energy_lost": float((x[lost].astype(np.float64) ** 2).sum() / (x.astype(np.float64) ** 2).sum()), "new_zero": float(lost.mean()),
                }
            )  # fmt: skip
        dead = sum(one.dead for one in row_wise) / sum(one.occupied for one in row_wise)
        rows.append(
            {
                "seed": seed,
                "sd": sd,
                "scheme": "one scale a row",
                "dead": dead,
                "subnormal": 0.0,
                "energy_lost": 0.0,
                "new_zero": 0.0,
            }
        )
    return {"deaths": pd.DataFrame(rows), "threshold": pd.DataFrame([{"seed": seed, "ratio": threshold()}])}


def threshold() -> float:
    """The ratio of largest elements at which a block dies."""
    pair: Array = np.ones((2, 16), np.float32)
    alive, dead = 1.0, 2.0**-40
    for _ in range(40):
        middle = (alive * dead) ** 0.5
        pair[1] = middle
        alive, dead = (alive, middle) if scaling.nvfp4(pair).dead else (middle, dead)
    return alive


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {
    "deaths": (
        "Dead blocks (left, %; all sixteen elements become zero) and energy lost to zeros (right, share of the tensor's; floor 1e-12) over the "
        "spread of the rows' scales, 2^N(0, sd). "
        "Dotted: blocks of NVFP4 whose scale is a subnormal E4M3 value. Line: median, band: range over the seeds."
    )
}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figure of CAPTIONS."""
    return {"deaths": draw_deaths(tables["deaths"])}


def draw_deaths(deaths: pd.DataFrame) -> Figure:
    """Blocks on the left, energy on the right."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6))
    for scheme, tint in TINTS.items():
        part = where(deaths, scheme=scheme)
        band(left, 100 * spread(part, "sd", "dead"), tint, scheme)
        if scheme != "one scale a row":
            band(right, spread(part, "sd", "energy_lost").clip(lower=1e-12), tint)
    subnormal = 100 * spread(where(deaths, scheme="NVFP4"), "sd", "subnormal")
    left.plot(subnormal.index, subnormal["median"], ":", color=TINTS["NVFP4"], label="NVFP4, subnormal scale")
    left.set(xlabel="spread of the rows, sd (binades)", ylabel="blocks (% of those not zero)")
    right.set(xlabel="spread of the rows, sd (binades)", ylabel="energy lost to zeros (share)", yscale="log")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


# ---- verdict --------------------------------------------------------------------------------------------------------
EXACT = 1e-3  # how near the measured threshold lies to the predicted one, relatively
DEAD_4, DEAD_6 = (0.05, 0.15), (0.5, 0.8)  # around the pilot's shares at 4 and 6 binades; at 2 none


def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """The threshold, and the pilot's three spreads."""
    at = medians(tables["deaths"], "scheme", "sd")
    ratio = float(tables["threshold"].ratio.median())
    predicted = 2.0**-10 / E4M3.max
    dead = {sd: at["NVFP4", sd]["dead"] for sd in SPREADS}
    holds = (
        abs(ratio / predicted - 1) < EXACT
        and dead[2] == 0
        and DEAD_4[0] < dead[4] < DEAD_4[1]
        and DEAD_6[0] < dead[6] < DEAD_6[1]
    )
    rows = max(at["one scale a row", sd]["dead"] for sd in SPREADS)
    summary = (
        f"A block dies below {ratio:.2e} of the largest element (predicted {predicted:.2e}): of rows spread by 2, 4 and 6 binades "
        f"{percent(dead[2])}, {percent(dead[4])} and {percent(dead[6])} of the blocks die, with at most "
        f"{max(at['NVFP4', sd]['energy_lost'] for sd in SPREADS):.0e} of the energy. With a scale for each row "
        f"{f'up to {percent(rows)} of the blocks die' if rows else 'none dies'}; MXFP4 loses "
        f"{percent(at['MXFP4', 6]['dead'])} of the blocks at 6 binades; a least scale of 2^-6 kills "
        f"{percent(at['least scale 2^-6', 4]['dead'])} at 4 binades."
    )
    findings = tuple(
        Finding(
            f"sd {sd}: dead blocks, subnormal scales, energy lost (NVFP4)",
            {2: "0 % dead (pilot)", 4: "8.9 %, 27.6 % (pilot)", 6: "65 % dead (pilot)"}.get(sd, "not published"),
            f"{percent(row['dead'])}, {percent(row['subnormal'])}, {row['energy_lost']:.1e}",
        )
        for sd in SPREADS
        for row in (at["NVFP4", sd],)
    )
    return Verdict(
        "holds" if holds else "holds with conditions" if dead[4] > 0 else "does not hold at this scale",
        summary,
        findings,
    )
