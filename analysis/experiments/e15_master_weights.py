"""Do weight updates need FP32 master weights?

Everything is computed in FP32 but the weights that are updated: they are kept in FP16, BF16 or E4M3, and rounded to
nearest, stochastically, or with a Kahan compensation of the same format. Nothing else can be to blame for what is lost.

What to see: the fewer bits, the earlier updates to nearest are cancelled, most of all when the learning rate falls;
stochastic rounding and a compensation bring back what is lost in 16 bits, and part of it in 8.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from analysis.experiment import NO_NUMBER, Claim, Finding, Profile, Unit, Verdict
from analysis.figures import colour, label
from analysis.ladders import CAPTION, Rung, bound, costs, draw_gaps, run_rungs, told, worse
from analysis.tables import listed, medians, percent
from analysis.training.recipes import RECIPES, UPDATES
from analysis.training.small_tasks import Task, digits_mlp, small_gpt

BASE = "fp32"
FORMATS = ("fp16", "bf16", "e4m3")
WAYS = dict(zip(UPDATES, ("nearest", "stochastic", "Kahan"), strict=True))
RUNGS = {BASE: Rung("fp32-blas", "FP32", colour("fp32"))} | {
    f"{name} {way}": Rung(
        RECIPES["fp32-blas"].but(f"{name} {way}", master=name, update=update), f"{label(name)}, {way}", colour(name)
    )
    for name in FORMATS
    for update, way in WAYS.items()
}
SIZES = {"quick": {"MLP": 60}, "full": {"MLP": 400, "GPT": 100}}


def task_of(name: str, steps: int) -> Task:
    return digits_mlp(steps) if name == "MLP" else small_gpt(steps, depth=1, rate=3e-3)


TITLE = "Master weights"
QUESTION = "Do weight updates need FP32 master weights?"
CLAIMS = (
    Claim(
        "Updating FP16 weights costs a speech model most of its accuracy.",
        "Micikevicius et al., Mixed Precision Training, ICLR 2018; second-hand",
        "80 % relative",
        "second-hand",
    ),
    Claim(
        "FP8 master weights degrade, FP16 ones with a scale match FP32, BF16 ones are a little worse.",
        "FP8-LM, arXiv 2310.18313; second-hand",
        NO_NUMBER,
        "second-hand",
    ),
    Claim(
        "Stochastic rounding or Kahan summation recover what BF16 weights lose.",
        "Zamirai et al., arXiv 2010.06192; abstract",
        "up to 7 points",
    ),
)


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"task": name, "seed": seed} for name in SIZES[profile.name] for seed in range(profile.seeds)]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``runs``: a row a run."""
    name, seed = str(unit["task"]), int(unit["seed"])
    return {"runs": pd.DataFrame(run_rungs(name, task_of(name, SIZES[profile.name][name]), RUNGS, seed))}


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {"gaps": CAPTION}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figure of CAPTIONS."""
    return {"gaps": draw_gaps(tables["runs"], RUNGS, BASE)}


# ---- verdict --------------------------------------------------------------------------------------------------------
def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """Which formats lose to nearest, and whether the remedies help."""
    runs = tables["runs"]
    tasks = list(dict.fromkeys(runs.task))
    at = medians(runs, "task", "recipe")
    loses = {(task, name): costs(runs, BASE, task, f"{name} nearest") for task in tasks for name in FORMATS}
    large = {(task, name) for task, name in loses if worse(runs, BASE, task, f"{name} nearest")}
    cured = not any(
        costs(runs, BASE, task, f"{name} {way}")
        for task in tasks
        for name in ("fp16", "bf16")
        for way in ("stochastic", "Kahan")
    )
    short = {name for task, name in loses if loses[task, name] and name != "e4m3"}
    beyond = {name for _, name in large}
    status = (
        "holds"
        if short == {"fp16", "bf16"} <= beyond and cured
        else "holds with conditions"
        if short
        else "does not hold at this scale"
    )
    losing = [label(name) for name in FORMATS if any(loses[task, name] for task in tasks)]
    larger = [label(name) for name in FORMATS if name in beyond]
    first = tasks[0]
    summary = (
        f"Rounded to nearest, weights lose measurably in {listed(losing) or 'no format'}, and more than a change of seed "
        f"costs in {listed(larger) or 'none'}; on the {first} these shares of the updates are cancelled: "
        + ", ".join(f"{label(name)} {percent(at[first, f'{name} nearest']['cancelled'])}" for name in FORMATS)
        + f"; differences to FP32 in 10^-3 nats (a change of seed: {bound(runs, BASE, first) / 1e-3:.1f}) are: "
        + ", ".join(
            f"{label(name)} {told(runs, BASE, first, f'{name} nearest')}, stochastic {told(runs, BASE, first, f'{name} stochastic')}"
            for name in FORMATS
        )
        + f". {'Both remedies bring 16 bits back.' if cured else 'The remedies do not bring everything back.'}"
    )
    findings = tuple(
        Finding(f"{task}, {rung.label}: difference to FP32 (10^-3 nats), updates cancelled, cosine of intended and effective update", "not published",
                f"{told(runs, BASE, task, name)}, {percent(at[task, name]['cancelled'])}, {at[task, name]['update_cosine']:.4f}")
        for task in tasks
        for name, rung in RUNGS.items()
        if name != BASE
    )  # fmt: skip
    return Verdict(status, summary, findings)
