"""Tables on gradients and training (e01, e11, e12, e14, e26, e30, e32, e37) just inside and outside what a verdict asks for."""

from __future__ import annotations

from math import nan, sqrt

import pandas as pd

from tests.analysis.lab import Tables
from tests.analysis.plants.common import CONDITIONS, FAILS, HOLDS, NO_CLAIM, SEEDS, Cases, down, seeded, up

# ---- e01 ------------------------------------------------------------------------------------------------------------
KEEPS = up(0.999)  # a cosine that just counts as kept
Pair = tuple[float, float]  # a value at the middle and one at the late step


def underflow(
    zeroed: Pair = (31.0, 40.0), plain: Pair = (0.999, 0.5), eight: Pair = (KEEPS, 1.0), served: float = 1e-3, overflowed: bool = False,
    logits: float = 0.75, e5m2: float = 0.5,
) -> Tables:  # fmt: skip
    """``zeroed``: per cent of all; ``plain``, ``eight``: the worst seed's cosine unscaled and at x8; ``served``: energy that one seed loses at 2^3."""
    tensors, casts, passes, layers, training = [], [], [], [], []
    for seed in SEEDS:
        for place, step in enumerate((100, 1000)):
            about = {"step": step, "seed": seed}
            for layer, size, zeros in ((1, 60, 10), (2, 40, 15)):
                tensors.append(
                    {
                        **about,
                        "kind": "activation",
                        "layer": layer,
                        "size": size,
                        "zeros": zeros + (0, 5, 30)[seed] + place,
                    }
                )
                tensors.append({**about, "kind": "weight", "layer": layer, "size": 1000, "zeros": 0})
                share = {1: 0.5, 2: logits}[layer] + (0.0, 0.01, -0.3)[seed] + 0.1 * place
                layers.append(
                    {
                        **about,
                        "kind": "activation",
                        "format": "float16",
                        "log2_scale": 0,
                        "layer": layer,
                        "new_zero_of_nonzero": share,
                    }
                )
                layers.append({**layers[-1], "format": "bfloat16", "new_zero_of_nonzero": 0.0})
                layers.append({**layers[-2], "log2_scale": 3, "new_zero_of_nonzero": 0.001})
            for scale in (0, 3, 15):
                lost = zeroed[place] * (1.0, 0.25, 1.5)[seed] if scale == 0 else 4.0 / scale * (1.0, 0.5, 3.0)[seed]
                cast = {**about, "kind": "activation", "format": "float16", "log2_scale": scale, "lost": lost}
                casts.append({**cast, "lost_of_nonzero": lost / 64, "lost_of_energy": lost * 1e-5})
                casts.append({**casts[-1], "kind": "weight", "lost": 0.0})
                casts.append({**casts[-2], "format": "bfloat16", "lost": 0.0})
            for name in ("float16", "bfloat16", "float8_e5m2", "float8_e4m3fn"):
                for scale in (-10, 0, 3, 15, 26):
                    cosine = {-10: 0.25, 0: plain[place], 3: eight[place]}.get(scale, 0.9995) if seed == 1 else 0.99999
                    if name != "float16":
                        cosine = 0.99 + 1e-4 * scale * (seed == 2)
                    energy = {3: served if seed == 1 else 0.0, 15: 5e-4}.get(scale, 0.5)
                    row = {
                        **about,
                        "kind": "weight",
                        "format": name,
                        "log2_scale": scale,
                        "overflowed": (name, scale, seed) == ("float16", 26, 2),
                    }
                    row |= {
                        "cosine_worst_layer": cosine,
                        "energy_lost_worst_layer": e5m2 if name == "float8_e5m2" else energy,
                    }
                    row["overflowed"] |= overflowed and (name, scale, seed) == ("bfloat16", 3, 0)
                    passes += [row, {**row, "kind": "activation", "cosine_worst_layer": 0.0}]
        training += [
            {"seed": seed, "step": step, "test_accuracy": 0.9 + step * 1e-5 * (5, 6, 2)[seed]} for step in (1, 1000)
        ]
    names = ("tensors", "cast", "backward", "backward_layers", "training")
    return dict(zip(names, map(pd.DataFrame, (tensors, casts, passes, layers, training)), strict=True))


# ---- e11 ------------------------------------------------------------------------------------------------------------
def histogram(bare: float = 0.2, eight: float = 0.09, large: float = 0.005, early: float = 0.15) -> Tables:
    values = {(0, 0): early, (0, 3): 0.03, (0, 15): 0.02, (9, 0): bare, (9, 3): eight, (9, 15): large}
    rows = [
        {"step": step, "power": power, "new_zero": value, "zero": 0.5 + step / 100, "new_zero_of_nonzero": 2 * value, "energy": value / 1000}
        for (step, power), value in values.items()
    ]  # fmt: skip
    return {"lost": seeded(rows)}


# ---- e12 ------------------------------------------------------------------------------------------------------------
Band = tuple[float, float]


def bands(first: Band = (15.0, 20.0), second: Band = (-9.0, 3.0), skipped: int = 1) -> Tables:
    """The narrowest ends of two tasks: each in one layer, step and seed."""
    rows, scales = [], []
    for task, (low, high) in (("detector", first), ("GPT", second)):
        for seed in SEEDS:
            for step in (0, 5):
                for place, layer in enumerate(("a", "b")):
                    low_end, high_end = -20.0 - place + step / 5, 40.0 + (0, 1, 9)[seed] + 20 * (task == "GPT") - step
                    row = {
                        "task": task,
                        "seed": seed,
                        "step": step,
                        "layer": layer,
                        "lowest": low_end,
                        "highest": high_end,
                    }
                    rows.append(row)
            skips = skipped + (seed == 2) + 2 * (task == "GPT")
            scales += [
                {"task": task, "seed": seed, "step": s, "log2_scale": 16.0, "applied": s >= skips} for s in range(8)
            ]
        rows[-2]["lowest"] = low
        rows[-9]["highest"] = high
    return {"bands": pd.DataFrame(rows), "scales": pd.DataFrame(scales)}


# ---- e14 ------------------------------------------------------------------------------------------------------------
def stalls(lost_above: float = 0.0, kept_below: float = 0.0) -> Tables:
    rows = [
        {"seed": seed, "rate": rate, "step": step, "format": name, "lost_above": 0.0, "kept_below": 0.0, "cancelled": (0.25 + 2 * rate) * aside,
         "below_both": 0.2 * aside + rate, "below_line": 0.4 * aside + rate}
        for seed, aside in zip(SEEDS, (1.0, 0.5, 1.8), strict=True)
        for rate in (0.1, 0.02, 0.004, 0.0008)
        for step, aside in ((5, 0.1), (40, aside))
        for name, aside in (("float16", aside / 2), ("bfloat16", aside))
    ]  # fmt: skip
    rows[5] |= {"lost_above": lost_above}
    rows[8] |= {"kept_below": kept_below}
    return {"stalls": pd.DataFrame(rows)}


# ---- e26, e30, e32, e37 ---------------------------------------------------------------------------------------------
def ratios(least: float = down(sqrt(3))) -> Tables:
    rows = [
        {
            "task": "MLP",
            "seed": seed,
            "way": way,
            "gradient": "by outputs",
            "step": step,
            "layer": layer,
            "ratio": 2.0 + layer + step / 10 + seed,
        }
        for way in ("nearest", "stochastic")
        for seed in SEEDS
        for step in (0, 5)
        for layer in (0, 1)
    ]
    rows[-1]["ratio"] = least
    losses = [
        {
            "task": task,
            "seed": seed,
            "way": way,
            "loss": 1.0 + (0.004, 0.002, 0.016)[seed] * (1 + place) + (task == "GPT") / 10,
            "base": 1.0,
        }
        for task in ("MLP", "GPT")
        for place, way in enumerate(("nearest", "stochastic"))
        for seed in SEEDS
    ]
    return {"ratios": pd.DataFrame(rows), "losses": pd.DataFrame(losses)}


def measures(
    most: float = up(0.5), turned: float = down(1e-3), energy: tuple[float, ...] = (1e-6, 1e-4, 1e-5, 1e-3, 2e-3), damaged: float = 0.45, harm: float = 5e-3
) -> Tables:  # fmt: skip
    """Counts, energies and the damage of steps: ``most``, of a step with a damage of ``turned``; ``damaged``, with one of ``harm``."""
    counts, turns = (0.3, most, 0.2, damaged, 0.6), (1e-6, turned, 1e-5, harm, 100 * harm)
    rows = [
        {"task": task, "count": count, "energy": lost, "turned": damage}
        for task in ("MLP", "GPT")
        for count, lost, damage in zip(counts, energy, turns, strict=True)
    ]
    return {"steps": pd.DataFrame([*rows, {"task": "GPT", "count": nan, "energy": nan, "turned": 1e-9}])}


def accumulation(last: float = 0.06, fourth: float = 0.01) -> Tables:
    ways = ("FP32", "FP16", "BF16", "BF16, stochastic")
    rows = [
        {
            "way": way,
            "k": k,
            "error": {4: fourth, 8: 0.5, 16: last}.get(k, 0.125) if way == "BF16" else 0.003 * place * k,
            "shrinkage": -0.01 * place - k / 1e4,
            "turned": 1e-5 * (place + 1),
        }
        for place, way in enumerate(ways, start=1)
        for k in (1, 2, 4, 8, 16)
    ]
    return {"sums": seeded(rows)}


def recorded(gpus: tuple[bool, ...] = (True, True), within: tuple[bool, ...] = (True, True)) -> Tables:
    rows = [
        {"recording": "r", "task": "MLP", "mode": f"m{k}", "gpu": gpu, "within": ok, "parted": (-1, 0, 7)[k], "zeros_gap": 0.001 * (3 - k),
        "distance": 0.01 * (2 + k),
         "skipped": 2 + k, "skipped_emulated": 5 + k, "why": "because", "step_ms": 1.5 + k}
        for k, (gpu, ok) in enumerate(zip(gpus, within, strict=True))
    ]  # fmt: skip
    return {"runs": pd.DataFrame(rows, columns=None if rows else ["recording", "task", "mode"])}


CASES: Cases = {
    "e01": (underflow, [
        ({}, HOLDS), ({"zeroed": (30.999, 40.0)}, CONDITIONS), ({"zeroed": (30.999, 30.999)}, FAILS), ({"zeroed": (30.0, 31.0)}, CONDITIONS),
        ({"plain": (up(0.999), 0.5)}, CONDITIONS), ({"plain": (nan, 0.5)}, HOLDS), ({"eight": (0.999, 1.0)}, FAILS), ({"eight": (1.0, 0.999)}, FAILS),
        ({"eight": (nan, 1.0)}, FAILS), ({"plain": (1.0, 1.0)}, CONDITIONS),
    ]),
    "e11": (histogram, [
        ({}, HOLDS), ({"bare": 0.1, "eight": 0.01}, FAILS), ({"bare": up(0.1), "eight": 0.01}, HOLDS), ({"eight": 0.1}, CONDITIONS),
        ({"eight": down(0.1)}, HOLDS),
        ({"large": 0.01}, CONDITIONS), ({"large": down(0.01)}, HOLDS), ({"early": 0.01}, HOLDS), ({"bare": 0.1, "early": 0.9}, FAILS),
    ]),
    "e12": (bands, [
        ({}, HOLDS), ({"first": (up(15.0), 20.0)}, CONDITIONS), ({"second": (-9.0, down(3.0))}, CONDITIONS),
        ({"first": (16.0, 20.0), "second": (-9.0, 2.0)}, FAILS),
        ({"first": (5.0, 5.0)}, HOLDS), ({"first": (up(5.0), 5.0)}, CONDITIONS), ({"first": (9.0, 8.0), "second": (9.0, 8.0)}, CONDITIONS),
        ({"first": (9.0, 8.0), "second": (20.0, 8.0)}, CONDITIONS), ({"first": (1.0, 2.0), "second": (16.0, 17.0)}, FAILS),
    ]),
    "e14": (stalls, [({}, HOLDS), ({"lost_above": 1e-9}, FAILS), ({"kept_below": 1e-9}, FAILS)]),
    "e26": (ratios, [({}, CONDITIONS), ({"least": sqrt(3)}, NO_CLAIM)]),
    "e30": (measures, [
        ({}, HOLDS), ({"most": 0.5}, FAILS), ({"turned": 1e-3}, FAILS), ({"energy": (2e-3, 1e-3, 1e-4, 1e-5, 1e-6)}, CONDITIONS),
        ({"energy": (3e-6, 5e-6, 2e-6, 4e-6, 8e-6)}, CONDITIONS),  # the same ranks as the counts
        ({"energy": (3e-6, 4e-6, 2e-6, 5e-6, 8e-6)}, HOLDS),
    ]),
    "e32": (accumulation, [
        ({}, HOLDS), ({"last": 0.05}, CONDITIONS), ({"last": up(0.05)}, HOLDS), ({"last": 0.75, "fourth": 0.25}, FAILS),
        ({"last": up(0.75), "fourth": 0.25}, HOLDS),
    ]),
    "e37": (recorded, [
        ({}, HOLDS), ({"within": (True, False)}, FAILS), ({"within": (False, True)}, FAILS), ({"gpus": (False, False)}, CONDITIONS),
        ({"gpus": (False, True)}, HOLDS),
        ({"gpus": (), "within": ()}, NO_CLAIM),
    ]),
}  # fmt: skip
