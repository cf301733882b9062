"""Verdicts on training (e01, e11 to e18, e24, e26, e30, e32, e35, e37), with plants just inside and outside what each asks for."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan, sqrt
from typing import Any

import pandas as pd
import pytest

from analysis.experiment import load
from tests.analysis.lab import Tables
from tests.analysis.plants import BASES, BOUND, HALF, NEAR, SEEDS, down, runs, seeded, up

HOLDS, CONDITIONS, FAILS, NO_CLAIM = "holds", "holds with conditions", "does not hold at this scale", "no claim"
MORE, LESS = (
    BOUND * (1 + NEAR),
    BOUND * (1 - NEAR),
)  # where an interval begins that does, or does not, lie above the bound
SHOWS, HIDES = NEAR, -NEAR  # or above zero


# ---- e01 ------------------------------------------------------------------------------------------------------------
KEEPS = up(0.999)  # a cosine that just counts as kept
Pair = tuple[float, float]  # a value at the middle and one at the late step


def underflow(
    zeroed: Pair = (31.0, 40.0), plain: Pair = (0.999, 0.5), eight: Pair = (KEEPS, 1.0), served: float = 1e-3, overflowed: bool = False
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
                share = {1: 0.5, 2: 0.75}[layer] + (0.0, 0.01, -0.3)[seed] + 0.1 * place
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
                        "energy_lost_worst_layer": 0.5 if name == "float8_e5m2" else energy,
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
                for layer in ("a", "b"):
                    rows.append(
                        {"task": task, "seed": seed, "step": step, "layer": layer, "lowest": -20.0, "highest": 40.0}
                    )
            scales += [
                {"task": task, "seed": seed, "step": s, "log2_scale": 16.0, "applied": s >= skipped + (seed == 2)}
                for s in range(8)
            ]
        rows[-2]["lowest"] = low
        rows[-9]["highest"] = high
    return {"bands": pd.DataFrame(rows), "scales": pd.DataFrame(scales)}


# ---- ladders --------------------------------------------------------------------------------------------------------
def ladder(name: str, tasks: tuple[str, ...], base: str, lows: dict[Any, float], **columns: float) -> pd.DataFrame:
    experiment: Any = load(name)
    return runs(tasks, getattr(experiment, "RUNGS", None) or experiment.SHOWN, base, lows, **columns)


def loss_scaling(bare: float = MORE, **lows: float) -> Tables:
    others = {tuple(key.split("_", 1)): low for key, low in lows.items()}
    table = ladder("e13", ("detector", "MLP"), "fp32", {("detector", "fp16"): bare} | others, skipped=2)
    zeros = [
        {
            "task": task,
            "seed": seed,
            "nonzero": 100,
            "new_zero": (10, 20, 90)[seed] + place,
            "worst_cosine": (0.5, 0.25, 0.75)[seed],
            "energy_lost": (1e-5, 4e-5, 2e-5)[seed] / (1 + place),
        }
        for place, task in enumerate(("detector", "MLP"))
        for seed in SEEDS
    ]
    return {"runs": table, "zeros": pd.DataFrame(zeros)}


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


def master(fp16: float = MORE, bf16: float = MORE, e4m3: float = -0.001, **remedies: float) -> Tables:
    lows = {("MLP", "fp16 nearest"): fp16, ("GPT", "bf16 nearest"): bf16, ("GPT", "e4m3 nearest"): e4m3}
    for key, low in remedies.items():
        task, name, way = key.split("_")
        lows[task, f"{name} {way}"] = low
    table = ladder("e15", ("MLP", "GPT"), "fp32", lows)
    share = table.recipe.map({"fp16 nearest": 0.1, "bf16 nearest": 0.2, "e4m3 nearest": 0.3}).fillna(0.05)
    aside = table.seed.map({0: 1.0, 1: 0.5, 2: 3.0})
    return {"runs": table.assign(cancelled=share * aside, update_cosine=(1 - share) * aside)}


SETTINGS = ("MLP, rate 0.05", "GPT, rate 0.01")


def updates(first: float = SHOWS, second: float = MORE, stochastic: float = HIDES, kahan: float = HIDES) -> Tables:
    lows = {
        (SETTINGS[0], "nearest"): first,
        (SETTINGS[1], "nearest"): second,
        (SETTINGS[1], "stochastic"): stochastic,
        (SETTINGS[0], "Kahan"): kahan,
    }
    table = ladder("e16", SETTINGS, "master", lows)
    aside = table.seed.map({0: 1.0, 1: 0.5, 2: 1.75}) * table.task.map({SETTINGS[0]: 0.5, SETTINGS[1]: 0.25})
    place = table.recipe.map({name: 0.125 * k for k, name in enumerate(dict.fromkeys(table.recipe))})
    return {"runs": table.assign(cancelled=aside + 0.01 * place, train_loss=aside + place)}


def lossless(**lows: float) -> Tables:
    """Lows of BF16 and FP16 on the first task (``bf16``...) and the second (``bf16_2``...); 0 is well within."""
    names = {"bf16": "bf16", "fixed": "fp16-static", "fp16": "fp16-dynamic", "tf32": "tf32"}
    asked = {
        (("GPT" if key.endswith("_2") else "MLP"), names[key.removesuffix("_2")]): low for key, low in lows.items()
    }
    table = ladder("e17", ("MLP", "GPT"), "fp32", asked)
    return {"runs": table.assign(skipped=(table.recipe == "fp16-dynamic") * (1 + table.seed), steps=40)}


def roles(recommended: float = LESS, better: float = up(20.0), **lows: float) -> Tables:
    """``better``: the SQNR of the scaled output gradient of the second task in E4M3, of 20 dB in E5M2."""
    keys = {"e5m2_none": "e5m2/e5m2 none", "e4m3_current": "e4m3/e4m3 current", "e5m2_current": "e5m2/e5m2 current"}
    asked = {("GPT", "e4m3/e5m2 current"): recommended, ("MLP", "e4m3/e5m2 current"): LESS} | {
        ("MLP", keys[k]): low for k, low in lows.items()
    }
    tensors = [
        {"task": task, "tensor": tensor, "format": kind, "scaling": way,
        "new_zero": 0.25 * (place + 1) + (kind == "e5m2") / 16 + (way == "none") / 64,
         "sqnr_db": (30.0 - 5 * (kind == "e5m2") if way == "current" else 10.0 + (kind == "e5m2")) + place}
        for place, (task, tensor) in enumerate((t, x) for t in ("MLP", "GPT") for x in ("weight", "output gradient"))
        for kind in ("e4m3", "e5m2")
        for way in ("current", "none")
    ]  # fmt: skip
    tensors[-4]["sqnr_db"], tensors[-2]["sqnr_db"] = better, 20.0
    return {"runs": ladder("e18", ("MLP", "GPT"), "bf16", asked), "tensors": seeded(tensors)}


SINGLE = ("head", "hadamard", "rows", "nearest")


def ingredients(**lows: float) -> Tables:
    """Lows to the whole recipe, which lies 0.01 above BF16; ``bf16_...``: to BF16."""
    asked = {
        ("GPT", name): low
        for name, low in (dict.fromkeys((*SINGLE, "plain"), SHOWS) | lows).items()
        if not name.startswith("bf16_")
    }
    table = ladder("e24", ("GPT",), "nvfp4", asked)
    others = table.recipe != "bf16"
    table["loss"] += others * (0.01 + HALF + table.seed.map({0: 0.0, 1: 1.0, 2: -1.0}) * 0.003)
    table.loc[~others, "loss"] = BASES
    for name, low in lows.items():
        if name.startswith("bf16_"):
            table.loc[table.recipe == name[5:], "loss"] = [
                loss + low + HALF + 0.003 * (k - 1) for k, loss in enumerate(BASES)
            ]
    return {"runs": table}


def recipes(ms_bf16: float = 10.0, ms_pure: float = 10.0, ms_tf32: float = 50.0, **lows: float) -> Tables:
    """Times a step over FP32's, medians of seeds; lows of the interval of a recipe's loss (``_`` for ``-``)."""
    experiment: Any = load("e35")
    table = ladder("e35", ("MLP",), "fp32", {("MLP", name.replace("_", "-")): low for name, low in lows.items()})
    times = {
        "bf16": ms_bf16,
        "bf16-pure": ms_pure,
        "tf32": ms_tf32,
        "fp32": 1.0,
        "fp32-blas": 0.25,
        "fp16-dynamic": 7.0,
    }
    table["ms"] = table.recipe.map({name: times.get(name, 3.0) for name in experiment.RUNGS}) * table.seed.map(
        {0: 4.0, 1: 2.0, 2: 64.0}
    )
    facts = [
        dict.fromkeys(("weight", "activation", "gradient", "kept", "master", "update", "loss_scaler"), f"{name}?")
        | {"name": name}
        for name in experiment.RUNGS
    ]
    for fact in facts:
        fact.update({key: f"{key} of {fact['name']}" for key in fact if key != "name"})
    return {"runs": table, "recipes": pd.DataFrame(facts)}


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
    most: float = up(0.5), turned: float = down(1e-3), energy: tuple[float, ...] = (1e-6, 1e-4, 1e-5, 1e-3, 2e-3)
) -> Tables:
    """Steps in the order of the damage: the counts are in another, the energies as told; ``most``: of a step with a damage of ``turned``."""
    rows = [
        {"task": task, "count": count, "energy": lost, "turned": damage}
        for task in ("MLP", "GPT")
        for count, lost, damage in zip(
            (0.3, most, 0.2, 0.45, 0.6), energy, (1e-6, turned, 1e-5, 5e-3, 0.5), strict=True
        )
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
        for k in (1, 4, 8, 16)
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


CASES: dict[str, tuple[Callable[..., Tables], list[tuple[dict[str, Any], str]]]] = {
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
    "e13": (loss_scaling, [
        ({}, HOLDS), ({"bare": LESS}, FAILS), ({"bare": inf}, HOLDS), ({"detector_x8": MORE}, CONDITIONS), ({"detector_x8": LESS}, HOLDS),
        ({"detector_x8": inf}, CONDITIONS),
        ({"MLP_fp16": MORE}, CONDITIONS), ({"MLP_fp16": LESS}, HOLDS), ({"MLP_x8": MORE}, HOLDS), ({"bare": LESS, "MLP_fp16": MORE}, FAILS),
        ({"bare": LESS, "detector_x8": MORE}, FAILS),
    ]),
    "e14": (stalls, [({}, HOLDS), ({"lost_above": 1e-9}, FAILS), ({"kept_below": 1e-9}, FAILS)]),
    "e15": (master, [
        ({}, HOLDS), ({"fp16": LESS}, CONDITIONS), ({"bf16": LESS}, CONDITIONS), ({"fp16": HIDES}, CONDITIONS), ({"bf16": HIDES}, CONDITIONS),
        ({"fp16": HIDES, "bf16": HIDES}, FAILS),
        ({"fp16": SHOWS, "bf16": HIDES}, CONDITIONS), ({"fp16": HIDES, "bf16": HIDES, "e4m3": 9.0}, FAILS), ({"e4m3": 9.0}, HOLDS),
        *(({f"{task}_{name}_{way}": low}, status) for task in ("MLP", "GPT") for name in ("fp16", "bf16") for way in ("stochastic", "Kahan")
          for low, status in ((SHOWS, CONDITIONS), (HIDES, HOLDS))),
        ({"MLP_e4m3_stochastic": MORE, "GPT_e4m3_Kahan": MORE}, HOLDS), ({"MLP_bf16_Kahan": inf}, CONDITIONS),
    ]),
    "e16": (updates, [
        ({}, HOLDS), ({"first": HIDES}, CONDITIONS), ({"second": HIDES}, CONDITIONS), ({"first": HIDES, "second": HIDES}, FAILS),
        ({"stochastic": SHOWS}, CONDITIONS),
        ({"kahan": SHOWS}, CONDITIONS), ({"kahan": inf}, CONDITIONS), ({"first": inf}, HOLDS),
    ]),
    "e17": (lossless, [
        ({}, HOLDS), ({"tf32": MORE, "tf32_2": MORE}, HOLDS),
        *(({f"{name}{task}": low}, status) for name in ("bf16", "fixed", "fp16") for task in ("", "_2") for low, status in (
            (LESS - 2 * HALF, HOLDS), (MORE - 2 * HALF, CONDITIONS), (LESS, CONDITIONS), (MORE, FAILS),
            (-LESS, HOLDS), (-MORE, CONDITIONS), (-LESS - 2 * HALF, CONDITIONS), (-MORE - 2 * HALF, FAILS), (inf, FAILS))),
    ]),
    "e18": (roles, [
        ({}, HOLDS), ({"recommended": MORE}, CONDITIONS), ({"better": 20.0}, FAILS), ({"recommended": MORE, "better": 20.0}, FAILS),
        ({"e5m2_none": MORE, "e4m3_current": MORE, "e5m2_current": inf}, HOLDS), ({"recommended": inf}, CONDITIONS),
    ]),
    "e24": (ingredients, [
        ({}, HOLDS), *(({name: HIDES}, CONDITIONS) for name in (*SINGLE, "plain")), (dict.fromkeys(SINGLE, HIDES), CONDITIONS),
        (dict.fromkeys((*SINGLE, "plain"), HIDES), FAILS), (dict.fromkeys((*SINGLE[1:], "plain"), HIDES), CONDITIONS),
        ({"everywhere": MORE, "mxfp4": 9.0}, HOLDS),
    ]),
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
    "e35": (recipes, [
        ({}, HOLDS), ({"ms_bf16": up(10.0)}, FAILS), ({"ms_pure": up(10.0)}, FAILS), ({"ms_tf32": 1e9}, HOLDS),
        *(({name: low}, status) for name in ("fp16_dynamic", "fp16_static", "bf16", "tf32", "fp8_current", "fp8_blocks", "mxfp8")
          for low, status in ((MORE, CONDITIONS), (LESS, HOLDS))),
        ({"bf16_pure": MORE, "nvfp4": MORE, "fp16": inf}, HOLDS), ({"fp16_static": inf, "ms_pure": up(10.0)}, FAILS),
    ]),
    "e37": (recorded, [
        ({}, HOLDS), ({"within": (True, False)}, FAILS), ({"within": (False, True)}, FAILS), ({"gpus": (False, False)}, CONDITIONS),
        ({"gpus": (False, True)}, HOLDS),
        ({"gpus": (), "within": ()}, NO_CLAIM),
    ]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changes", "status"),
    [(name, *case) for name, (_, cases) in CASES.items() for case in cases], ids=str
)
def test_a_verdict_turns_where_it_says(name: str, changes: dict[str, Any], status: str) -> None:
    assert load(name).verdict(CASES[name][0](**changes)).status == status
