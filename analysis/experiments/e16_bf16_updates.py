"""BF16 weights to nearest, stochastically, with Kahan summation: which of them train, at which learning rate?

Weights, momentum and second moment are kept in BF16, products are BF16 with FP32 accumulators; only the rounding of the
updated weight differs. Three learning rates, for updates are cancelled when they fall below half a spacing of the
weight.

What to see: to nearest the loss stalls, the sooner the smaller the rate, with most of the updates cancelled; stochastic
rounding and the compensation follow the run with FP32 master weights at every rate.
"""

from __future__ import annotations

from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from analysis.experiment import Claim, Finding, Profile, Unit, Verdict
from analysis.figures import colour
from analysis.ladders import Rung, bound, costs, run_rungs, told, worse
from analysis.tables import medians, percent, where
from analysis.training.small_tasks import Task, digits_mlp, small_gpt

BASE, NEAREST = "master", "nearest"
RUNGS = {
    BASE: Rung("bf16", "BF16, FP32 master weights", colour("fp32")),
    NEAREST: Rung("bf16-pure", "BF16 to nearest", "#D55E00"),
    "stochastic": Rung("bf16-stochastic", "BF16 stochastic", "#009E73"),
    "Kahan": Rung("bf16-kahan", "BF16 with Kahan", "#0072B2"),
}
RATES = {"MLP": (0.05, 0.02, 0.005), "GPT": (1e-2, 3e-3, 1e-3)}
SIZES = {"quick": {"MLP": 60}, "full": {"MLP": 400, "GPT": 100}}


def task_of(name: str, steps: int, rate: float) -> Task:
    """A task whose rate stays as it is: what falls would be cancelled for another reason."""
    task = digits_mlp(steps) if name == "MLP" else small_gpt(steps, depth=1)
    return replace(task, plan=replace(task.plan, rule=replace(task.plan.rule, rate=rate), decay=0.0))


TITLE = "BF16 weights: nearest, stochastic, Kahan"
QUESTION = "Which roundings of BF16 weights train, at which learning rate?"
CLAIMS = (
    Claim(
        "Nearest rounding of weight updates cancels small updates; stochastic rounding and Kahan summation make up for it.",
        "Zamirai et al., arXiv 2010.06192; abstract",
        "up to 7 points; 0.1 below to 0.2 above 32 bits",
    ),
    Claim(
        "On the digits at a rate of 0.05, FP32 weights, nearest, stochastic and Kahan end at these training losses; nearest cancels this share of the updates.",
        "our own pilot",
        "0.041, 0.161, 0.041, 0.041; 86.3 %",
        "pilot",
    ),
    Claim("At a rate of 0.005 nearly all updates are cancelled.", "our own pilot", "97.6 %", "pilot"),
)


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [
        {"task": name, "seed": seed, "rate": rate}
        for name in SIZES[profile.name]
        for rate in RATES[name]
        for seed in range(profile.seeds)
    ]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``runs``: a row a run."""
    name, seed, rate = str(unit["task"]), int(unit["seed"]), float(unit["rate"])
    task = task_of(name, SIZES[profile.name][name], rate)
    return {
        "runs": pd.DataFrame(run_rungs(f"{name}, rate {rate:g}", task, RUNGS, seed)).assign(network=name, rate=rate)
    }


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {
    "rates": (
        "Held-out loss at the end of training (above, nats) and updates that left their weight as it was (below, % of the updates that are not "
        "zero), over the learning rate. "
        "Dot and line: median and range over the seeds."
    )
}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figure of CAPTIONS."""
    return {"rates": draw_rates(tables["runs"])}


def draw_rates(runs: pd.DataFrame) -> Figure:
    """A column a network."""
    networks = list(dict.fromkeys(runs.network))
    figure, axes = plt.subplots(2, len(networks), figsize=(8, 5), sharex="col", squeeze=False)
    for column, network in enumerate(networks):
        for name, rung in RUNGS.items():
            part = where(runs, network=network, recipe=name).groupby("rate")
            for ax, what, factor in ((axes[0, column], "loss", 1), (axes[1, column], "cancelled", 100)):
                ends = factor * part[what].agg(["min", "median", "max"])
                ax.vlines(ends.index, ends["min"], ends["max"], color=rung.tint, linewidth=1.5)
                ax.plot(
                    ends.index,
                    ends["median"],
                    "o-",
                    color=rung.tint,
                    markersize=4,
                    linewidth=1,
                    label=rung.label if (what, column) == ("loss", 0) else None,
                )
        rates = sorted(set(where(runs, network=network).rate))
        axes[0, column].set(title=network, xscale="log")
        axes[0, column].set_xticks(rates, [f"{rate:g}" for rate in rates])
        axes[0, column].minorticks_off()
        axes[1, column].set(xlabel="learning rate (no unit)", ylim=(0, 100))
    axes[0, 0].set_ylabel("held-out loss (nats)")
    axes[1, 0].set_ylabel("updates cancelled (%)")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


# ---- verdict --------------------------------------------------------------------------------------------------------
def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """Nearest loses, the others do not."""
    runs = tables["runs"]
    tasks = list(dict.fromkeys(runs.task))
    at = medians(runs, "task", "recipe")
    stalls = [task for task in tasks if costs(runs, BASE, task, NEAREST)]
    large = [task for task in tasks if worse(runs, BASE, task, NEAREST)]
    cured = [task for task in tasks if not any(costs(runs, BASE, task, name) for name in ("stochastic", "Kahan"))]
    status = (
        "holds"
        if len(stalls) == len(tasks) == len(cured)
        else "holds with conditions"
        if stalls
        else "does not hold at this scale"
    )
    summary = (
        f"Rounded to nearest, BF16 weights lose measurably in {len(stalls)} of {len(tasks)} settings, in {len(large)} of them more "
        f"than a change of seed costs, and "
        f"{percent(min(at[task, NEAREST]['cancelled'] for task in tasks))} to {percent(max(at[task, NEAREST]['cancelled'] for task in tasks))} "
        f"of the updates are cancelled; stochastic rounding and Kahan summation keep up with FP32 master weights in {len(cured)} of {len(tasks)}."
    )
    findings = tuple(
        Finding(
            (
                f"{task}: training loss with master weights, nearest, stochastic, Kahan; cancelled to nearest; differences of held-out loss (10^-3 "
                f"nats; seeds {bound(runs, BASE, task) / 1e-3:.1f})"
            ),
            {
                "MLP, rate 0.05": "0.041, 0.161, 0.041, 0.041; 86.3 % (pilot, 1500 steps)",
                "MLP, rate 0.005": "97.6 % (pilot)",
            }.get(task, "not published"),
            ", ".join(f"{at[task, name]['train_loss']:.3f}" for name in RUNGS)
            + f"; {percent(at[task, NEAREST]['cancelled'])}; "
            + ", ".join(told(runs, BASE, task, name) for name in RUNGS if name != BASE),
        )
        for task in tasks
    )
    return Verdict(status, summary, findings)
