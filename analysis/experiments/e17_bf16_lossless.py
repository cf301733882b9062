"""Is BF16 mixed precision essentially lossless, and FP16 with loss scaling nearly so?

An MLP and a convolutional net on digits and a small GPT on text are trained in FP32, TF32, BF16 mixed precision and FP16 mixed
precision with a static and with a dynamic loss scale, in pairs: runs of one seed have the same weights and batches.  The difference of
held-out losses (of the final weights, in float32) is set against what a change of seed does to FP32: its standard deviation over seeds
is the bound of equivalence.

What to see: roundings move the loss by hundredths of what a change of seed does.  A dynamic scale can move it by more than FP16
itself does: where it is too high, it skips a step, and from there on the run is another one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.experiment import Claim, Finding, Profile, Unit, Verdict
from analysis.figures import band, colour
from analysis.pairs import Interval, differences, interval
from analysis.tables import spread, where
from analysis.training.small_tasks import Task, digits_convnet, digits_mlp, small_gpt


class Shown(NamedTuple):
    """What a recipe is called, and its colour."""

    label: str
    tint: str


BASE, TF32, BF16, FIXED, FP16 = "fp32", "tf32", "bf16", "fp16-static", "fp16-dynamic"
SHOWN = {
    BASE: Shown("FP32", colour("fp32")),
    TF32: Shown("TF32", "#009E73"),
    BF16: Shown("BF16 mixed", colour("bf16")),
    FIXED: Shown("FP16 mixed, scale fixed", "#56B4E9"),
    FP16: Shown("FP16 mixed, scale dynamic", colour("fp16")),
}
CLAIMED = (BF16, FIXED, FP16)


class Size(NamedTuple):
    """Steps of a run, and the least number of seeds."""

    steps: int
    seeds: int


MLP, CONVNET, GPT = "MLP", "convnet", "GPT"
SIZES = {
    "quick": {MLP: Size(40, 3), GPT: Size(8, 3)},
    "full": {MLP: Size(150, 8), CONVNET: Size(60, 5), GPT: Size(120, 5)},
}


def task_of(name: str, profile: Profile) -> Task:
    """A task at the size of a profile."""
    steps = SIZES[profile.name][name].steps
    if name == MLP:
        return digits_mlp(steps)
    if name == CONVNET:
        return digits_convnet(steps)
    return small_gpt(steps, depth=profile.pick(quick=1, full=2), rate=3e-3)


TITLE = "BF16 without loss"
QUESTION = "Is BF16 mixed precision essentially lossless, and FP16 with loss scaling nearly so?"
_GUIDE = "Micikevicius et al., Mixed Precision Training, ICLR 2018; second-hand"
CLAIMS = (
    Claim(
        "BF16 mixed precision is essentially lossless.", "common knowledge; no single source", "no difference", "common"
    ),
    Claim(
        "FP16 with loss scaling and FP32 master weights matches FP32 on ResNet-50 and Faster R-CNN.",
        _GUIDE,
        "76.04 % against 75.92 %; 69.7 against 69.1 mAP",
        "second-hand",
    ),
)


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [
        {"task": task, "seed": seed}
        for task, size in SIZES[profile.name].items()
        for seed in range(max(size.seeds, profile.seeds))
    ]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``runs``: a row a run; ``curves``: the training loss of every step."""
    name, seed = str(unit["task"]), int(unit["seed"])
    task = task_of(name, profile)
    runs, curves = [], []
    for recipe in SHOWN:
        history = task.run(recipe, seed)
        about: dict[str, Any] = {"task": name, "recipe": recipe, "seed": seed}
        skipped = int((~history.steps.applied).sum())
        runs.append({**about, "loss": task.loss(history), "skipped": skipped, "steps": len(history.steps)})
        steps = history.steps.assign(loss=[float(f"{loss:.6g}") for loss in history.steps.loss])
        curves.append(steps[["step", "loss"]].assign(**about))
    return {"runs": pd.DataFrame(runs), "curves": pd.concat(curves, ignore_index=True)}


# ---- what both pictures and verdict are made of ---------------------------------------------------------------------
def bound(runs: pd.DataFrame, task: str) -> float:
    """Deviation of FP32's held-out loss over seeds."""
    return float(where(runs, task=task, recipe=BASE).loss.std(ddof=1))


def gaps(runs: pd.DataFrame) -> dict[tuple[str, str], Interval]:
    """The mean difference to FP32 by task and recipe, with its 95 % interval."""
    table = differences(runs, "loss", BASE, ("task",))
    return {(str(task), str(recipe)): interval(rows.difference) for (task, recipe), rows in table.groupby(["task", "recipe"])}  # fmt: skip


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {
    "differences": (
        "Held-out loss less that of FP32 with the same seed, in units of 10^-3 nats. Dots: seeds; bars: mean and its 95 % interval (Student). "
        "Shaded: one standard deviation of FP32's loss over seeds, the bound of equivalence; the axis is linear within one unit of zero and logarithmic beyond."
    ),
    "curves": (
        "Training losses over the steps (above) and how far each recipe's has moved from that of FP32 on the same batch (below, absolute value; mean of "
        "8 steps). Line: median, band: range over the seeds."
    ),
}
LINEAR, WIDEST = 1.0, 400.0  # of the axis of differences, in its unit
TICKS = (-100, -5, 0, 5, 100)


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figures of CAPTIONS."""
    return {"differences": draw_differences(tables["runs"]), "curves": draw_curves(tables["curves"])}


def draw_differences(runs: pd.DataFrame) -> Figure:
    """A panel a task, a line a recipe."""
    others = [name for name in SHOWN if name != BASE]
    pairs, found, unit = differences(runs, "loss", BASE, ("task",)), gaps(runs), 1e-3
    tasks = list(dict.fromkeys(runs.task))
    figure, axes = plt.subplots(1, len(tasks), figsize=(8, 3.0), sharey=True)
    for ax, task in zip(np.atleast_1d(axes), tasks, strict=True):
        limit = bound(runs, task) / unit
        ax.axvspan(-limit, limit, color="#70757D", alpha=0.15, linewidth=0)
        ax.axvline(0, color="#70757D", linewidth=1)
        for place, recipe in enumerate(others):
            values = where(pairs, task=task, recipe=recipe).difference.to_numpy() / unit
            finite = values[np.isfinite(values)]
            ax.scatter(
                finite, np.full(len(finite), place + 0.18), s=12, color=SHOWN[recipe].tint, alpha=0.6, linewidth=0
            )
            _draw_interval(ax, found[task, recipe], place - 0.1, SHOWN[recipe].tint, unit)
        ax.set(
            title=f"{task} ({runs[runs.task == task].seed.nunique()} seeds)",
            xlabel="difference of held-out loss\n($10^{-3}$ nats)",
        )
        ax.set_xscale("symlog", linthresh=LINEAR)
        ax.set_xlim(-WIDEST, WIDEST)
        ax.set_xticks(TICKS, [f"{tick:+d}" if tick else "0" for tick in TICKS])
        ax.minorticks_off()
    first = np.atleast_1d(axes)[0]
    first.set_yticks(range(len(others)), [SHOWN[name].label for name in others])
    first.set(ylabel="recipe", ylim=(len(others) - 0.5, -0.5))
    return figure


def _draw_interval(ax: Axes, one: Interval, at: float, tint: str, unit: float) -> None:
    if np.isfinite(one.mean):
        ax.plot([one.low / unit, one.high / unit], [at, at], color=tint, linewidth=2.5, solid_capstyle="butt")
        ax.plot([one.mean / unit], [at], marker="|", markersize=9, color=tint, markeredgewidth=2)


def draw_curves(curves: pd.DataFrame) -> Figure:
    """Losses above, differences below, a column a task."""
    tasks = list(dict.fromkeys(curves.task))
    pairs = differences(curves, "loss", BASE, ("task", "step"))
    pairs = pairs.assign(step=pairs.step // 8 * 8 + 4, size=pairs.difference.abs())
    smooth = pd.DataFrame(pairs.groupby(["task", "recipe", "seed", "step"])["size"].mean().reset_index())
    figure, axes = plt.subplots(2, len(tasks), figsize=(8, 4.8), sharex="col", squeeze=False)
    for column, task in enumerate(tasks):
        above, below = axes[:, column]
        for recipe, shown in SHOWN.items():
            typical = where(curves, task=task, recipe=recipe).groupby("step").loss.median()
            above.plot(typical.index, typical, color=shown.tint, linewidth=1, label=shown.label)
            part = where(smooth, task=task, recipe=recipe)
            if len(part):
                band(below, spread(part, "step", "size"), shown.tint)
        above.set_title(task)
        below.set(yscale="log", xlabel="step")
    axes[0, 0].set_ylabel("training loss (nats)")
    axes[1, 0].set_ylabel("distance to FP32 (nats)")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    return figure


# ---- verdict --------------------------------------------------------------------------------------------------------
def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """Equivalence: the 95 % interval of the mean difference lies within one deviation of FP32's loss over seeds."""
    runs = tables["runs"]
    found = gaps(runs)
    tasks = list(dict.fromkeys(runs.task))
    bounds = {task: bound(runs, task) for task in tasks}
    claimed = {(task, recipe): found[task, recipe] for task in tasks for recipe in CLAIMED}
    within = [key for key, one in claimed.items() if one.within(bounds[key[0]])]
    beyond = [key for key, one in claimed.items() if one.beyond(bounds[key[0]])]
    status = (
        "does not hold at this scale" if beyond else "holds" if len(within) == len(claimed) else "holds with conditions"
    )
    told = "; ".join(
        f"{task}: {', '.join(f'{SHOWN[name].label} {found[task, name].text(1e-3)}' for name in CLAIMED)}, "
        f"bound ±{bounds[task] / 1e-3:.1f}"
        for task in tasks
    )
    summary = (
        f"The mean differences to FP32, with 95 % intervals, are in 10^-3 nats: {told}; {len(within)} of {len(claimed)} intervals lie within the bound and "
        f"{len(beyond)} beyond it."
    )
    findings = []
    for task in tasks:
        base = where(runs, task=task, recipe=BASE).loss
        findings.append(
            Finding(
                f"{task}: FP32's held-out loss, and its deviation over {len(base)} seeds",
                "not published",
                f"{base.mean():.4f} nats, {bounds[task]:.4f} nats ({bounds[task] / base.mean():.1%})",
            )
        )
        for recipe, shown in SHOWN.items():
            if recipe != BASE:
                one = found[task, recipe]
                skipped = int(where(runs, task=task, recipe=recipe).skipped.sum())
                findings.append(
                    Finding(
                        f"{task}, {shown.label}: difference to FP32",
                        "none" if recipe in CLAIMED else "not published",
                        f"{one.text(1e-3)} x 10^-3 nats ({one.mean / base.mean():+.2%})"
                        + (f"; {skipped} steps skipped in all" if skipped else ""),
                    )
                )
    return Verdict(status, summary, tuple(findings))
