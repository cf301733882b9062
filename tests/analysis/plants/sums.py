"""Tables on sums and products (e05 to e10) just inside and just outside what a verdict asks for."""

from __future__ import annotations

from itertools import combinations, product
from math import inf
from typing import Any

import pandas as pd

from analysis.experiment import load
from tests.analysis.lab import Tables
from tests.analysis.plants.common import CONDITIONS, FAILS, HOLDS, SEEDS, Cases, down, seeded, up

# ---- e05 ------------------------------------------------------------------------------------------------------------
OVERFLOWS = {
    ("float16", "one by one", 2**16),
    ("float16", "one by one", 2**18),
    ("float16", "chunks of 32", 2**18),
    ("bfloat16", "chunks of 64", 2**16),
}


def swamping(
    stalled: float = 4096.0, predicted: float = 4096.0, other: float = 1024.0, chunks: float = 0.009, random: float = 0.09, last: float = 0.01
) -> Tables:  # fmt: skip
    """``other``: where one seed of another format stalls; errors of (1, 6, 9) at 2^16 terms, and in chunks at 2^18."""
    stalls = [
        {
            "format": name,
            "values": kind,
            "seed": seed,
            "stalled_at": 1024.0,
            "predicted": 1024.0,
            "terms": 2000 + 10 * seed + 100 * place + 1000 * (kind == "ones"),
        }
        for place, name in enumerate(("float16", "bfloat16", "e6m9"))
        for kind in ("uniform", "ones")
        for seed in SEEDS
    ]
    table = pd.DataFrame(stalls)
    ours = (table.format == "e6m9") & (table["values"] == "uniform")
    table.loc[ours, ["stalled_at", "predicted"]] = stalled, predicted
    table.loc[(table.format == "bfloat16") & (table.seed == 2), "stalled_at"] = other
    errors = {"one by one": 0.5, "chunks of 32": 0.25, "chunks of 64": chunks, "stochastic, one by one": random}
    sums = [
        {"format": name, "method": method, "length": length, "sum": inf if (name, method, length) in OVERFLOWS else 1.0,
         "error": (last if "64" in method else 0.7) if length > 2**16 else error if name == "e6m9" else inf if (name, method) == ("float16",
         "one by one") else 0.6 + error}
        for name in ("float16", "bfloat16", "e6m9")
        for method, error in errors.items()
        for length in (2**16, 2**18)
    ]  # fmt: skip
    return {"stalls": table, "sums": seeded(sums)}


# ---- e06 ------------------------------------------------------------------------------------------------------------
def series(name: str = "", **changes: Any) -> Tables:
    ends = {
        "float16": (11, 7.0859, 513),
        "bfloat16": (8, 5.0625, 65),
        "float32": (24, 15.4037, 2097152),
        "e6m9": (10, 3.5, 99),
    }
    rows = [
        {"format": one, "precision": p, "value": value, "first_lost": lost, "exact": 6.25}
        | (changes if one == name else {})
        for one, (p, value, lost) in ends.items()
    ]
    return {"ends": pd.DataFrame(rows)}


# ---- e07 ------------------------------------------------------------------------------------------------------------
TERMS = (16, 64, 128, 256, 2048, 4096, 65536)


def growth(
    root: float = 1.0, shift: float = 0.0, linear: float = 0.5, last: float = 0.995, other: float = 1.0, half: float = 0.5
) -> Tables:  # fmt: skip
    """Stochastic errors of at most ``root`` sqrt(n) u in BF16 (at n = 64), with a mean of ``shift`` standard errors (at n = 256); to
    nearest a loss of ``linear`` n u; in FP16 ``other`` and ``half``."""
    rows = []
    for name, u, most, loss in (("bfloat16", 2.0**-8, root, linear), ("float16", 2.0**-11, other, half)):
        for place, n in enumerate(TERMS):
            size = (most if n == 64 else 0.4 + place / 64) * n**0.5 * u
            draws = (size, -size, size / 8)
            if n == 256:
                middle = shift * size / 8 / 3**0.5
                draws = (middle - size / 8, middle + size / 8, middle)
            lost = (-loss * n * u, -loss * n * u / 2, -loss * n * u / 8) if n < 65536 else (-last,) * 3
            rows += [(name, "stochastic", n, draw, error) for draw, error in enumerate(draws)]
            rows += [
                (name, "to nearest", n, draw, max(error, -1.0) if n > 16 else error) for draw, error in enumerate(lost)
            ]
    return {"errors": pd.DataFrame(rows, columns=["format", "method", "terms", "draw", "error"])}


# ---- e08 ------------------------------------------------------------------------------------------------------------
def accumulator(
    positive: float = 0.05, steady: float = 0.01, low_mean: float = 0.001, gains: tuple[float, float] = (8.0, 6.0),
    slopes: tuple[float, float] = (-0.04, -0.0002), at: float = 0.3,
) -> Tables:  # fmt: skip
    """``gains``: how much larger the rms error is without promotion; ``steady``: the largest error with inputs of mean ``at``."""
    lines = [
        "Hopper wgmma",
        "Ada mma",
        "Hopper wgmma, promoted every 128",
        "Hopper mma (emulated by FP16)",
        "B200 tcgen05",
        "FP32, one product at a time",
    ]
    depths = []
    for inputs, gain, slope in zip(("uniform in [0, 1)", "normal"), gains, slopes, strict=True):
        for depth in (1024, 4096):
            for place, line in enumerate(lines):
                row = {
                    "inputs": inputs,
                    "line": line,
                    "depth": depth,
                    "largest_relative": 0.5,
                    "largest": 0.3,
                    "rms": 0.25 / 2**place,
                    "slope": 0.125,
                    "beside": 0.0625,
                }
                if depth == 4096 and place == 0:
                    row |= {
                        "largest_relative": positive if inputs != "normal" else 0.4,
                        "rms": 0.0625 * gain,
                        "slope": slope,
                    }
                depths.append(row)
    means = [
        {"mean": mean, "line": line, "largest_relative": value if line == lines[0] else 0.0001}
        for mean, value in ((0.0, 0.9), (0.2, low_mean), (at, steady), (1.0, 0.04))
        for line in lines[::2]
    ]
    return {"depths": seeded(depths), "means": seeded(means, keys=["mean"])}


# ---- e09 ------------------------------------------------------------------------------------------------------------
FP16_GROUPS = (
    ("volta.mma",),
    ("turing.mma", "ampere.mma", "ada.mma"),
    ("hopper.mma", "hopper.wgmma", "b200.mma", "b200.tcgen05", "rtx-blackwell.mma"),
)
FP8_GROUPS = (("ada.mma",), ("hopper.mma", "b200.mma"), ("hopper.wgmma",), ("b200.tcgen05", "rtx-blackwell.mma"))


SHARES = {  # of outputs that differ on normal inputs, by depth and seed
    ("FP16 to FP32", "volta.mma", "ampere.mma"): {64: (0.0099,) * 3, 1024: (0.25, 0.75, 0.125), 2048: (0.4999,) * 3},
    ("FP16 to FP32", "volta.mma", "hopper.wgmma"): {64: (0.01, 0.02, 0.0), 2048: (0.5,) * 3},
    ("FP16 to FP32", "ampere.mma", "hopper.mma"): {1024: (0.5, 1.0, 0.375)},
    ("FP16 to FP16", "ampere.mma", "hopper.mma"): {1024: (0.0625, 0.125, 0.03)},
}


def chips(fp16: Any = FP16_GROUPS, fp8: Any = FP8_GROUPS) -> Tables:
    """Chips of different groups differ in a single output of one seed, depth and kind of input, and as in SHARES; those of a group in none."""
    rows = []
    for kind, groups in (("FP16 to FP32", fp16), ("FP16 to FP16", FP16_GROUPS), ("E4M3 to FP32", fp8)):
        home = {chip: place for place, group in enumerate(groups) for chip in group}
        order = [chip for chip in load("e09").CHIPS if chip in home]  # type: ignore[attr-defined]
        for first, second in combinations(order, 2):
            for inputs, seed, depth in product(("normal", "wide-range", "cancelling"), SEEDS, (64, 1024, 2048)):
                share = 1e-6 if (inputs, seed, depth) == ("wide-range", 1, 64) else 0.0
                if inputs == "normal":
                    share = SHARES.get((kind, first, second), {}).get(depth, (0.0,) * 3)[seed]
                share *= home[first] != home[second]
                rows.append((kind, inputs, seed, depth, first, second, share, 2.0 * (share > 0), 1e-7 * share))
    names = ["kind", "inputs", "seed", "depth", "first", "second", "differing", "ulps", "difference"]
    return {"pairs": pd.DataFrame(rows, columns=names)}


# ---- e10 ------------------------------------------------------------------------------------------------------------
ROUNDINGS = {"one by one": 999, "chunks of 64": 63 + 16 - 1, "pairs": 10, "Kahan": 2}  # of 1,000 terms


def orders(
    name: str = "",
    units: float = 1.0,
    kahan: tuple[float, float] = (1.0, 1.0),
    pairs: tuple[float, float] = (0.09, 0.08),
) -> Tables:
    """Greatest errors of 1,000 terms in units of their bound (1, of the order ``name`` in BF16 ``units``), in one draw of one kind of input."""
    rows = []
    for format, u, k, pair in zip(("float16", "bfloat16"), (2.0**-11, 2.0**-8), kahan, pairs, strict=True):
        for inputs in ("uniform", "normal"):
            for way, count in ROUNDINGS.items():
                for draw in SEEDS:
                    share = k if way == "Kahan" else units if (way, format) == (name, "bfloat16") else 1.0
                    worst = count * u * share if (inputs, draw) == ("normal", 1) else 0.0
                    rows.append((format, inputs, way, 1000, draw, worst))
                    median = {"one by one": 0.5, "chunks of 64": 0.125, "pairs": 0.5 * pair, "Kahan": 2.0**-9 * u}[way]
                    median *= u * (2.0**-6 if inputs == "normal" else 1)
                    rows.append((format, inputs, way, 100_000, draw, median * (1, 0.5, 8)[draw]))
    return {"errors": pd.DataFrame(rows, columns=["format", "inputs", "method", "terms", "draw", "error"])}


CASES: Cases = {
    "e05": (swamping, [
        ({}, HOLDS), ({"stalled": 8192.0}, FAILS), ({"stalled": 8192.0, "predicted": 8192.0}, FAILS), ({"other": 2048.0}, FAILS),
        ({"chunks": down(0.01)}, HOLDS), ({"chunks": 0.01}, FAILS), ({"random": down(0.1)}, HOLDS), ({"random": 0.1}, FAILS),
        ({"last": 0.1}, HOLDS), ({"last": up(0.1)}, CONDITIONS), ({"last": 0.9, "chunks": 0.01}, FAILS),
    ]),
    "e06": (series, [
        ({}, HOLDS), ({"name": "e6m9", "value": 1.0, "first_lost": 1}, HOLDS),
        *(({"name": name, "first_lost": lost + by}, FAILS) for name, lost in (("float16", 513), ("bfloat16", 65),
        ("float32", 2**21)) for by in (-1, 1)),
        ({"name": "float16", "value": 7.085851}, HOLDS), ({"name": "float16", "value": 7.085849}, FAILS),
        ({"name": "float16", "value": 7.085949}, HOLDS), ({"name": "float16", "value": 7.085951}, FAILS),
        ({"name": "bfloat16", "value": 5.062451}, HOLDS), ({"name": "bfloat16", "value": 5.062449}, FAILS),
        ({"name": "float32", "value": 15.403749}, HOLDS), ({"name": "float32", "value": 15.403751}, FAILS),
    ]),
    "e07": (growth, [
        ({}, HOLDS), ({"root": down(2.0)}, HOLDS), ({"root": 2.0}, FAILS), ({"other": 1.999}, HOLDS), ({"other": 2.0}, FAILS),
        ({"shift": 3.999}, HOLDS), ({"shift": 4.001}, FAILS), ({"shift": -4.001}, FAILS),
        ({"linear": 1.0}, HOLDS), ({"linear": up(1.0)}, FAILS),
        ({"half": 1.0}, HOLDS), ({"half": up(1.0)}, FAILS), ({"last": up(0.99)}, HOLDS), ({"last": 0.989999}, FAILS),
    ]),
    "e08": (accumulator, [
        ({}, CONDITIONS), ({"positive": 0.02}, FAILS), ({"positive": up(0.02)}, CONDITIONS), ({"steady": 0.02}, FAILS),
        ({"steady": down(0.02)}, CONDITIONS), ({"steady": 0.01, "at": 0.29}, FAILS), ({"gains": (5.0, 6.0)}, FAILS), ({"gains": (6.0, 5.0)}, FAILS),
        ({"gains": (up(5.0), 6.0)}, CONDITIONS), ({"slopes": (0.0, -0.1)}, FAILS), ({"slopes": (-0.1, 0.0)}, FAILS),
        ({"slopes": (-1e-9, -1e-9)}, CONDITIONS),
    ]),
    "e09": (chips, [
        ({}, HOLDS),
        ({"fp16": (("volta.mma", "turing.mma"), ("ampere.mma", "ada.mma"), FP16_GROUPS[2])}, FAILS),
        ({"fp16": (*FP16_GROUPS[:2], FP16_GROUPS[2][:2], FP16_GROUPS[2][2:])}, FAILS),
        ({"fp16": (FP16_GROUPS[0], FP16_GROUPS[1] + FP16_GROUPS[2])}, FAILS),
        ({"fp16": (FP16_GROUPS[0], ("turing.mma",), ("ampere.mma", "ada.mma"), FP16_GROUPS[2])}, HOLDS),
        ({"fp8": (("ada.mma",), ("hopper.mma", "b200.mma", "hopper.wgmma"), FP8_GROUPS[3])}, FAILS),
        ({"fp8": (("ada.mma",), ("hopper.mma", "hopper.wgmma"), ("b200.mma",), FP8_GROUPS[3])}, FAILS),
        ({"fp8": (("ada.mma", "hopper.mma", "b200.mma"), *FP8_GROUPS[2:])}, HOLDS),
    ]),
    "e10": (orders, [
        ({}, HOLDS), *(({"name": way, "units": up(1.0)}, FAILS) for way in list(ROUNDINGS)[:3]), ({"kahan": (up(1.0), 1.0)}, CONDITIONS),
        ({"kahan": (1.0, up(1.0))}, CONDITIONS), ({"pairs": (down(0.1), 0.01)}, HOLDS), ({"pairs": (0.1, 0.01)}, FAILS), ({"pairs": (0.01, 0.1)}, FAILS),
        ({"name": "pairs", "units": up(1.0), "kahan": (9.0, 9.0)}, FAILS),
    ]),
}  # fmt: skip
