"""Runs compared in pairs (e13, e15 to e18, e24, e35) whose intervals begin just inside and just outside what a verdict asks for."""

from __future__ import annotations

from math import inf
from typing import Any

import pandas as pd

from analysis.experiment import load
from tests.analysis.lab import Tables
from tests.analysis.plants.common import (
    BASES,
    BOUND,
    CONDITIONS,
    FAILS,
    HALF,
    HOLDS,
    NEAR,
    SEEDS,
    Cases,
    runs,
    seeded,
    up,
)

MORE, LESS = BOUND * (1 + NEAR), BOUND * (1 - NEAR)  # an interval that begins there lies above the bound, or does not
SHOWS, HIDES = NEAR, -NEAR  # or above zero


# ---- ladders --------------------------------------------------------------------------------------------------------
def ladder(name: str, tasks: tuple[str, ...], base: str, lows: dict[Any, float], **columns: float) -> pd.DataFrame:
    experiment: Any = load(name)
    return runs(tasks, getattr(experiment, "RUNGS", None) or experiment.SHOWN, base, lows, **columns)


def loss_scaling(bare: float = MORE, **lows: float) -> Tables:
    others = {tuple(key.split("_", 1)): low for key, low in lows.items()}
    table = ladder("e13", ("detector", "MLP", "convnet"), "fp32", {("detector", "fp16"): bare} | others, skipped=2)
    zeros = [
        {
            "task": task,
            "seed": seed,
            "nonzero": 100,
            "new_zero": (10, 20, 90)[seed] + place,
            "worst_cosine": (0.5, 0.25, 0.75)[seed],
            "energy_lost": (1e-5, 4e-5, 2e-5)[seed] / (1 + place),
        }
        for place, task in enumerate(("detector", "MLP", "convnet"))
        for seed in SEEDS
    ]
    return {"runs": table, "zeros": pd.DataFrame(zeros)}


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
        "fp32-blas": 0.5,
        "fp16-dynamic": 7.0,
    }
    table["ms"] = table.recipe.map({name: times.get(name, 3.0) for name in experiment.RUNGS}) * table.seed.map(
        {0: 4.0, 1: 2.0, 2: 64.0}
    )
    roles = ("weight", "activation", "gradient", "kept", "master", "update", "loss_scaler")
    facts = [{"name": name} | {role: f"{role[0]}{k}" for role in roles} for k, name in enumerate(experiment.RUNGS)]
    return {"runs": table, "recipes": pd.DataFrame(facts)}


CASES: Cases = {
    "e13": (loss_scaling, [
        ({}, HOLDS), ({"bare": LESS}, FAILS), ({"bare": inf}, HOLDS), ({"detector_x8": MORE}, CONDITIONS), ({"detector_x8": LESS}, HOLDS),
        ({"detector_x8": inf}, CONDITIONS),
        ({"MLP_fp16": MORE}, CONDITIONS), ({"MLP_fp16": LESS}, HOLDS), ({"MLP_x8": MORE}, HOLDS), ({"bare": LESS, "MLP_fp16": MORE}, FAILS),
        ({"bare": LESS, "detector_x8": MORE}, FAILS),
    ]),
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
    "e35": (recipes, [
        ({}, HOLDS), ({"ms_bf16": up(10.0)}, FAILS), ({"ms_pure": up(10.0)}, FAILS), ({"ms_tf32": 1e9}, HOLDS),
        *(({name: low}, status) for name in ("fp16_dynamic", "fp16_static", "bf16", "tf32", "fp8_current", "fp8_blocks", "mxfp8")
          for low, status in ((MORE, CONDITIONS), (LESS, HOLDS))),
        ({"bf16_pure": MORE, "nvfp4": MORE, "fp16": inf}, HOLDS), ({"fp16_static": inf, "ms_pure": up(10.0)}, FAILS),
    ]),
}  # fmt: skip
