"""Tables on scales and blocks (e19 to e23, e25, e27 to e29, e31, e33) just inside and outside what a verdict asks for."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pandas as pd

from analysis.experiment import load
from tests.analysis.lab import Tables
from tests.analysis.plants.common import CONDITIONS, FAILS, HOLDS, SEEDS, Cases, down, seeded, up

E4M3, E5M2, E2M1 = "float8_e4m3fn", "float8_e5m2", "float4_e2m1fn"


# ---- e19 ------------------------------------------------------------------------------------------------------------
SHADOW = (21, 84)  # the first and last step that remember a spike at step 20 for 64 steps


def hangover(
    zero4: float = 0.08, zero5: float = 0.6, e5m2: float = 30.0, later: float = 30.5, after: float = 0.005
) -> Tables:
    """Zeros of E4M3 after spikes of 10^4 and 10^5, SQNR of E5M2 in the shadow and later, zeros of E4M3 later."""
    rows = []
    for name in (E4M3, E5M2):
        for ratio in (1e1, 1e2, 1e3, 1e4, 1e5):
            for way in ("delayed", "current", "most-recent"):
                for step in (19, 20, SHADOW[0], SHADOW[1], SHADOW[1] + 1, 110):
                    power = float(np.log10(ratio))
                    inside = SHADOW[0] <= step <= SHADOW[1]
                    zero = (
                        {(E4M3, 1e4): zero4, (E4M3, 1e5): zero5}.get(
                            (name, ratio), power / (50 if (step, ratio) == (SHADOW[1], 1e3) else 100)
                        )
                        if inside
                        else after / (1 if ratio == 1e5 else 2)
                    )
                    quality = (e5m2 if inside else later) if name == E5M2 else (25.0 if inside else 32.0) - power
                    if way != "delayed" or step <= 20:
                        zero, quality = 0.99, 1.0
                    rows.append(
                        {
                            "format": name,
                            "ratio": ratio,
                            "way": way,
                            "step": step,
                            "zero": zero,
                            "subnormal": power / 20,
                            "sqnr_db": quality,
                        }
                    )
    return {"steps": seeded(rows, keys=["ratio"])}


# ---- e20 ------------------------------------------------------------------------------------------------------------
def margins(current: float = 0.0, fast: float = 0.75, cured: float = 0.01) -> Tables:
    rates = (0.0, 0.001, 0.01, 0.05, 0.1, 0.3)
    steps = {(0.3, 0): fast, (0.05, 1): cured, (0.01, -1): current}
    rows = [
        {"growth": rate, "margin": margin, "steps": steps.get((rate, margin),
        (0.25 + rate / 8 if margin == 0 else 0.001 / margin * (1 + rate) if margin > 0 else 0.0)),
         "sqnr_db": 40.0 - margin / 8 - rate}
        for rate in rates
        for margin in (0, 1, 2, 4, -1)
    ]  # fmt: skip
    return {"growth": seeded(rows, keys=["growth"])}


# ---- e21 ------------------------------------------------------------------------------------------------------------
PILOT = {
    E4M3: {"floor": 30.63, "even": 31.19, "nearest": 22.45, "rceil": 31.53, "ceil": 31.53},
    E2M1: {"floor": 18.77, "even": 19.01, "nearest": 18.30, "rceil": 18.74, "ceil": 16.81},
}  # dB


def scale_rules(
    at: tuple[str, str] = ("", ""), by: float = 0.0, e4m3: float = 0.17, e2m1: float = 0.30, floor: float = -0.02, rceil: float = -0.01, worst: float = 0.29
) -> Tables:  # fmt: skip
    """``by``: how far from the pilot's one SQNR is; clipped shares under FLOOR; shrinkages of E2M1; the largest clip of one seed."""
    shrunk = {"floor": floor, "rceil": rceil}
    rows = [
        {"distribution": distribution, "format": name, "rule": rule,
        "sqnr_db": value + (by if (name, rule) == at else 0.0) if distribution == "Gaussian" else 11.0 + place,
         "clipped": {(E4M3, "floor"): e4m3, (E2M1, "floor"): e2m1}.get((name, rule), 0.4375) if distribution == "Gaussian" else 0.9,
         "worst_clip": 0.25, "shrinkage": (shrunk.get(rule, -0.004) if distribution == "Gaussian" else -0.5 / (2 + place)) if name == E2M1 else 0.5}
        for distribution in ("Gaussian", "Laplace", "lognormal", "outliers")
        for name, values in PILOT.items()
        for place, (rule, value) in enumerate(values.items())
    ]  # fmt: skip
    table = seeded(rows)
    table["worst_clip"] = 0.25 + 0.5 * ((table.format == E2M1) | (table.rule != "nearest"))
    table.loc[
        (table.format == E4M3) & (table.rule == "nearest") & (table.distribution == "lognormal") & (table.seed == 1),
        "worst_clip",
    ] = worst
    return {"rules": table}


# ---- e22 ------------------------------------------------------------------------------------------------------------
def gains(
    codes: float = 1.0, bias: float = -0.065, three: float = 3.0, rest: float = 0.001, collapsed: float = up(0.99)
) -> Tables:
    """Codes and bias of E4M3 under FLOOR and under RCEIL at 0.88; ``collapsed``: the share of blocks at 0.86."""
    rows = []
    for start in (0.84, 0.86, 0.88, 0.9, 0.92):
        for name in (E4M3, E5M2, "float6_e2m3fn", E2M1):
            for place, rule in enumerate(("floor", "even", "rceil")):
                row = {
                    "start": start,
                    "format": name,
                    "rule": rule,
                    "codes": 5.0 + place,
                    "bias": 0.02 * (1 + place),
                    "at_top": 0.125 / (1 + place),
                    "collapsed": 0.0625 * place,
                }
                if name == E4M3:
                    row["bias"] = 0.5
                    if start == 0.88 and rule != "even":
                        row |= {"codes": codes, "bias": bias} if rule == "floor" else {"codes": three, "bias": rest}
                    if rule == "floor":
                        row["collapsed"] = (
                            {0.86: collapsed, 0.88: 1.0, 0.9: 0.995}.get(start, 0.99) if collapsed >= 0.5 else collapsed
                        )
                elif name == E2M1 or rule == "rceil":
                    row["collapsed"] = 1.0
                rows.append(row)
    table = seeded(rows, keys=["start", "collapsed", "bias"])
    swing = table.seed.map({0: 0.0, 1: -0.5, 2: 0.25})
    return {"gains": table.assign(bias=table.bias + swing * (table.bias.abs() / 4))}


# ---- e23 ------------------------------------------------------------------------------------------------------------
TENSORS = ("Gaussian", "Laplace", "weights")


def schemes(
    gaussian: float = 20.43, lead: float = 0.5, six: float = 0.25, tensor: str = "weights", better: str = "MXFP4, rceil"
) -> Tables:
    """dB: NVFP4 of Gaussian values; of one tensor, the lead over one of MXFP4's rules and what four over six adds."""
    rows = []
    for place, name in enumerate(TENSORS):
        nv = gaussian if name == "Gaussian" else 18.0 + place
        ahead, more = (lead, six) if name == tensor else (1.0 + place, 0.75 + place / 8)
        values = {
            "MXFP4, floor": nv - 4,
            "MXFP4, rceil": nv - 5,
            "MXFP4, blocks of 16": nv - 0.625,
            "NVFP4": nv,
            "NVFP4, four over six": nv + more,
        }
        values[better if name == tensor else "MXFP4, floor"] = nv - ahead
        rows += [
            {"tensor": name, "scheme": scheme, "sqnr_db": value, "shrinkage": -0.01 * (1 + place)}
            for scheme, value in values.items()
        ]
    return {"schemes": seeded(rows)}


# ---- e25 ------------------------------------------------------------------------------------------------------------
FOUR_BIT = ("NVFP4", "MXFP4, floor", "MXFP4, rceil")


def copies(
    scheme: str = "NVFP4", worse: float = 3.0, above: float = 12.0, gained: float = 19.5, other: float = 19.5
) -> Tables:
    """dB of one scheme: one stochastic copy below nearest, the mean of 100 above nearest, and what the mean gains (of 20)."""
    rows = []
    for tensor in ("Gaussian", "weight gradient"):
        for place, name in enumerate(FOUR_BIT):
            less, gain = (worse, gained) if name == scheme else (2.0, other - place / 16)
            single = 20.0 + place
            most = single - less + gain
            nearest = most - (above if name == scheme else 9.0)
            values = {
                ("nearest-even", 1): single,
                ("stochastic", 1): single - less,
                ("stochastic", 100): most,
                ("nearest-even", 100): nearest,
            }
            values |= {("stochastic", 10): 99.0, ("nearest-even", 10): 0.5}
            if tensor != "Gaussian":
                values = {key: 1.0 + key[1] / 100 + place for key in values}
            rows += [
                {"tensor": tensor, "scheme": name, "rounding": way, "copies": count, "sqnr_db": value}
                for (way, count), value in values.items()
            ]
    return {"means": seeded(rows)}


# ---- e27 ------------------------------------------------------------------------------------------------------------
def adam(
    half: float = 0.5,
    tenth: float = 0.09,
    small: float = 0.995,
    zero: float = nan,
    large: float = -inf,
    saved: float = 0.5,
) -> Tables:
    """Steps at g = 1e-8 and 1e-9 with epsilon 1e-8, at 1e-9 with 1e-15; FP16's weights after g = 0 and 1e-4, and at 1 with epsilon 1e-4."""
    curves = {1e-8: (0.01, tenth, half, 0.9), 1e-15: (0.97, small, 0.998, 1.0)}
    steps = [
        {"epsilon": epsilon, "state": state, "gradient": g, "step": step if state == "float32" else 0.25}
        for epsilon, curve in curves.items()
        for state in ("float32", "bfloat16")
        for g, step in zip((1e-10, 1e-9, 1e-8, 1e-7), curve, strict=True)
    ]
    weight = {
        ("fp16", 1e-8, 0.0): zero,
        ("fp16", 1e-8, 1e-4): large,
        ("fp16", 1e-4, 1.0): saved,
        ("bf16", 1e-8, 0.0): 0.875,
    }
    pure = [
        {"format": name, "epsilon": epsilon, "gradient": g, "weight": weight.get((name, epsilon, g), 0.75 + g / 100)}
        for name in ("fp16", "bf16")
        for epsilon in (1e-8, 1e-4)
        for g in (0.0, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 1.0)
    ]
    return {"steps": pd.DataFrame(steps), "pure": pd.DataFrame(pure)}


# ---- e28 ------------------------------------------------------------------------------------------------------------
def tournament(
    zero_at: int = 166, first: int = -128, short: int = 5, high: int = 17, logmax: float = 20.0, stopped: int = 77
) -> Tables:
    """The step at which the scale is zero, the largest scale with an infinite inverse, skips of both checks, LogMax's (torch's are 20)."""
    zone = [
        {
            "step": step,
            "scale": 0.0 if step >= zero_at else 2.0 ** -(step - (zero_at - 23) - first),
            "inverse": inf if step >= zero_at - 23 else 1.0,
        }
        for step in (0, zero_at - 24, zero_at - 23, zero_at - 20, zero_at, zero_at + 9)
    ]
    policies = list(load("e28").LOSS_POLICIES)  # type: ignore[attr-defined]
    traces = ("fading, with spikes", "bursts")
    replays = [
        {"trace": trace, "policy": policy, "skips": {"torch": 20.0, "logmax": logmax}.get(policy, 30.0 + place) if trace != "bursts" else 1.0 + place,
         "wasted_exponents": 9.0 - place / 8 + (trace == "bursts"), "stopped": stopped if (policy, trace) == ("apex", "bursts") else -1}
        for place, policy in enumerate(policies)
        for trace in traces
    ]  # fmt: skip
    checks = [
        {"seed": seed, "interval_200": short + (0, -20, 90)[seed], "init_32": high + (0, -5, 80)[seed]}
        for seed in SEEDS
    ]
    return {"replays": seeded(replays), "zone": pd.DataFrame(zone), "checks": pd.DataFrame(checks)}


# ---- e29 ------------------------------------------------------------------------------------------------------------
WAYS = ("KL, softmaxes in BF16", "KL, difference rounded once", "cross-entropy, softmax in BF16")


def cancellation(slope: float = -1.0, once: float = 0.004, cross: float = 0.003) -> Tables:
    """The power of the disagreement with which the error of KL grows, and the largest errors of the others."""
    rows = []
    for noise, disagreement in ((1.0, 0.5), (0.5, 0.25), (0.25, 0.125), (0.03, 0.0625)):
        errors = (0.01 * disagreement**slope, once if noise == 0.5 else 0.001, cross if noise == 0.25 else 0.002)
        rows += [
            {"seed": seed, "noise": noise, "way": way, "acceptance": 1 - disagreement, "error": error * aside}
            for way, error in zip(WAYS, errors, strict=True)
            for seed, aside in zip(SEEDS, (1.0, 0.5, 8.0), strict=True)
        ]
    return {"errors": pd.DataFrame(rows)}


# ---- e31 ------------------------------------------------------------------------------------------------------------
DIES = 2.0**-10 / 448


def deaths(ratio: float = 1.0, two: float = 0.0, four: float = 0.1, six: float = 0.65, row_wise: float = 0.1) -> Tables:
    """The measured threshold over the predicted one, and the shares of blocks that die at spreads of 2, 4 and 6 binades."""
    rows = [
        {"scheme": scheme, "sd": sd, "subnormal": 0.125 + sd / 100, "energy_lost": (1 + sd % 8) * 1e-6 / place,
         "dead": {2: two, 4: four, 6: six}.get(sd, 0.01 * sd) if place == 1 else row_wise * (1 + sd) if place == 3 else 0.3 / place + sd / 50}
        for place, scheme in enumerate(("NVFP4", "least scale 2^-6", "one scale a row", "MXFP4"), start=1)
        for sd in range(9)
    ]  # fmt: skip
    return {"deaths": seeded(rows), "threshold": seeded([{"ratio": ratio * DIES}])}


# ---- e33 ------------------------------------------------------------------------------------------------------------
def hadamard(apart: float = 0.75, harm: float = -2.0, help: float = 2.0) -> Tables:
    """dB: between the synthetic tensors after the transform on E2M1; what it changes of a lognormal one on both grids."""
    after = {
        "Gaussian": 20.0,
        "Laplace": 20.25,
        "lognormal": 20.0 + apart,
        "outliers": 20.5,
        "weights": 31.0,
        "weight gradient": 12.0,
    }
    rows = []
    for place, (name, value) in enumerate(after.items()):
        for grid in ("E2M1", "uniform"):
            change = {("lognormal", "E2M1"): harm, ("lognormal", "uniform"): help}.get(
                (name, grid), 0.25 * (1 + place) - (grid == "uniform")
            )
            base = value if grid == "E2M1" else 50.0 - 8 * place
            for way, quality in (("plain", base - change), ("transformed", base)):
                rows.append(
                    {
                        "tensor": name,
                        "grid": grid,
                        "way": way,
                        "sqnr_db": quality,
                        "shrinkage": -0.01 * (1 + place) - (way == "plain") / 100 - (grid == "E2M1") / 50,
                    }
                )
    return {"grids": seeded(rows)}


CASES: Cases = {
    "e19": (hangover, [
        ({}, HOLDS), ({"zero4": 0.04}, CONDITIONS), ({"zero4": up(0.04)}, HOLDS), ({"zero4": 0.15}, CONDITIONS), ({"zero4": down(0.15)}, HOLDS),
        ({"zero5": 0.5}, CONDITIONS), ({"zero5": up(0.5)}, HOLDS), ({"zero5": 0.8}, CONDITIONS), ({"zero5": down(0.8)}, HOLDS),
        ({"e5m2": 29.5}, CONDITIONS), ({"e5m2": up(29.5)}, HOLDS), ({"after": 0.01}, CONDITIONS), ({"after": down(0.01)}, HOLDS),
    ]),
    "e20": (margins, [
        ({}, HOLDS), ({"current": 1e-9}, CONDITIONS), ({"fast": 0.5}, CONDITIONS), ({"fast": up(0.5)}, HOLDS), ({"cured": 0.02}, CONDITIONS),
        ({"cured": down(0.02)}, HOLDS),
    ]),
    "e21": (scale_rules, [
        ({}, HOLDS), *(({"at": (name, rule), "by": by}, status) for name, rules in PILOT.items() for rule in rules
                       for by, status in ((0.0999, HOLDS), (0.1001, CONDITIONS), (-0.0999, HOLDS), (-0.1001, CONDITIONS))),
        *(({key: middle + by}, status) for key, middle in (("e4m3", 0.17), ("e2m1", 0.30))
          for by, status in ((0.00999, HOLDS), (0.01001, CONDITIONS), (-0.00999, HOLDS), (-0.01001, CONDITIONS))),
        ({"floor": -0.015}, CONDITIONS), ({"floor": -0.01501}, HOLDS), ({"floor": -0.02, "rceil": -0.0134}, CONDITIONS),
        ({"rceil": 0.0}, CONDITIONS), ({"rceil": -1e-9}, HOLDS),
        ({"worst": 0.28}, CONDITIONS), ({"worst": up(0.28)}, HOLDS), ({"worst": down(1 - 2**-0.5)}, HOLDS), ({"worst": 1 - 2**-0.5}, CONDITIONS),
    ]),
    "e22": (gains, [
        ({}, HOLDS), ({"codes": 2.0}, FAILS), ({"codes": 0.0}, FAILS), ({"bias": -0.06}, FAILS), ({"bias": down(-0.06)}, HOLDS),
        ({"three": 2.0}, FAILS), ({"three": 4.0}, FAILS),
        ({"rest": 0.002}, FAILS), ({"rest": down(0.002)}, HOLDS), ({"rest": -0.002}, FAILS), ({"rest": up(-0.002)}, HOLDS),
        ({"collapsed": 0.5}, HOLDS),
    ]),
    "e23": (schemes, [
        ({}, HOLDS), ({"gaussian": 20.43 + 0.1499}, HOLDS), ({"gaussian": 20.43 + 0.1501}, CONDITIONS), ({"gaussian": 20.43 - 0.1499}, HOLDS),
        ({"gaussian": 20.43 - 0.1501}, CONDITIONS),
        *(({"tensor": name, "better": rule, "lead": lead}, status) for name in TENSORS for rule in ("MXFP4, floor", "MXFP4, rceil")
          for lead, status in ((0.0, CONDITIONS), (1e-9, HOLDS))),
        *(({"tensor": name, "six": six}, status) for name in TENSORS for six, status in ((0.0, CONDITIONS), (1e-9, HOLDS))),
    ]),
    "e25": (copies, [
        ({}, HOLDS),
        *(({"scheme": name, **change}, status) for name in FOUR_BIT for change, status in (
            ({"worse": 1.0}, FAILS), ({"worse": 1.0001}, HOLDS), ({"above": 6.0}, FAILS), ({"above": 6.0001}, HOLDS),
            ({"gained": 18.9999}, CONDITIONS),
            ({"gained": 19.0001}, HOLDS), ({"gained": 18.0, "worse": 0.5}, FAILS))),
    ]),
    "e27": (adam, [
        ({}, HOLDS), ({"half": 0.5199}, HOLDS), ({"half": 0.5201}, CONDITIONS), ({"half": 0.4801}, HOLDS), ({"half": 0.4799}, CONDITIONS),
        ({"tenth": 0.0999}, HOLDS),
        ({"tenth": 0.1001}, CONDITIONS), ({"tenth": 0.0801}, HOLDS), ({"tenth": 0.0799}, CONDITIONS), ({"small": 0.99}, CONDITIONS),
        ({"small": up(0.99)}, HOLDS),
        ({"zero": 1.0}, CONDITIONS), ({"zero": inf}, CONDITIONS), ({"large": inf}, CONDITIONS), ({"large": nan}, CONDITIONS),
        ({"large": -65504.0}, CONDITIONS), ({"saved": nan}, HOLDS),
    ]),
    "e28": (tournament, [
        ({}, HOLDS), ({"zero_at": 165}, FAILS), ({"zero_at": 167}, FAILS), ({"first": -127}, FAILS), ({"first": -129}, FAILS),
        ({"short": 3}, HOLDS), ({"short": 2}, CONDITIONS),
        ({"short": 8}, HOLDS), ({"short": 9}, CONDITIONS), ({"high": 16}, CONDITIONS), ({"high": 18}, CONDITIONS),
        ({"logmax": up(20.0)}, CONDITIONS), ({"logmax": 1.0}, HOLDS),
        ({"zero_at": 165, "short": 9}, FAILS),
    ]),
    "e29": (cancellation, [
        ({}, HOLDS), ({"slope": -1.2999}, HOLDS), ({"slope": -1.3001}, FAILS), ({"slope": -0.7001}, HOLDS), ({"slope": -0.6999}, FAILS),
        ({"once": 0.005}, CONDITIONS),
        ({"once": down(0.005)}, HOLDS), ({"cross": 0.005}, CONDITIONS), ({"cross": down(0.005)}, HOLDS), ({"slope": -0.5, "cross": 0.9}, FAILS),
    ]),
    "e31": (deaths, [
        ({}, HOLDS), ({"ratio": 1.00099}, HOLDS), ({"ratio": 1.00101}, CONDITIONS), ({"ratio": 0.99901}, HOLDS),
        ({"ratio": 0.99899}, CONDITIONS), ({"two": 1e-9}, CONDITIONS),
        ({"four": 0.05}, CONDITIONS), ({"four": up(0.05)}, HOLDS), ({"four": 0.15}, CONDITIONS), ({"four": down(0.15)}, HOLDS),
        ({"six": 0.5}, CONDITIONS), ({"six": up(0.5)}, HOLDS),
        ({"six": 0.8}, CONDITIONS), ({"six": down(0.8)}, HOLDS), ({"four": 0.0}, FAILS), ({"four": 1e-9}, CONDITIONS),
    ]),
    "e33": (hadamard, [
        ({}, HOLDS), ({"apart": 1.0}, CONDITIONS), ({"apart": 0.9999}, HOLDS), ({"apart": -0.4999}, HOLDS), ({"apart": -0.5}, CONDITIONS),
        ({"harm": -1.0}, CONDITIONS),
        ({"harm": -1.0001}, HOLDS), ({"help": 1.0}, CONDITIONS), ({"help": 1.0001}, HOLDS), ({"harm": -1.0, "help": 1.0}, FAILS),
        ({"harm": -1.0, "help": 1.0001}, CONDITIONS),
        ({"harm": -1.0001, "help": 1.0}, CONDITIONS),
    ]),
}  # fmt: skip
