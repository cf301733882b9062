"""Recipes compared on tasks, in pairs over seeds: the runs as tidy rows, and the picture of their distances to a base."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.pairs import Interval, differences, interval
from analysis.tables import where
from analysis.training.recipes import Recipe
from analysis.training.small_tasks import Task

UNIT = 1e-3  # nats: the unit in which differences of losses are told
LINEAR, WIDEST = 1.0, 4000.0  # of the axis of differences, in its unit: linear so far, drawn so far
TICKS = (-1000, -30, 0, 30, 1000)


class Rung(NamedTuple):
    """A recipe of a ladder, what it is called, and its colour."""

    recipe: Recipe | str
    label: str
    tint: str


def run_rungs(task_name: str, task: Task, rungs: Mapping[str, Rung], seed: int) -> list[dict[str, Any]]:
    """A row a recipe: held-out loss (infinite where training diverged or its scaler gave up), skipped and cancelled shares, time a step."""
    rows = []
    for name, rung in rungs.items():
        clock = time.perf_counter()
        history = task.run(rung.recipe, seed)
        seconds = time.perf_counter() - clock
        steps = history.steps
        rows.append(
            {
                "task": task_name, "recipe": name, "seed": seed, "loss": task.loss(history), "train_loss": history.final_loss(10),
                "steps": len(steps), "skipped": int((~steps.applied).sum()), "cancelled": float(steps.cancelled.mean()),
                "update_cosine": float(steps.update_cosine.mean()), "ms": 1e3 * seconds / len(steps),
            }
        )  # fmt: skip
    return rows


def bound(runs: pd.DataFrame, base: str, task: str) -> float:
    """The deviation of the base's held-out loss over seeds: what a change of seed does."""
    return float(where(runs, task=task, recipe=base).loss.std(ddof=1))


def gaps(runs: pd.DataFrame, base: str) -> dict[tuple[str, str], Interval]:
    """The mean difference to the base by task and recipe, with its 95 % interval."""
    table = differences(runs, "loss", base, ("task",))
    return {
        (str(task), str(name)): interval(rows.difference) for (task, name), rows in table.groupby(["task", "recipe"])
    }


def gap(runs: pd.DataFrame, base: str, task: str, name: str) -> Interval:
    """That of one task and recipe alone."""
    rows = where(runs, task=task)
    return interval(differences(rows[rows.recipe.isin((base, name))], "loss", base).difference)


def worse(runs: pd.DataFrame, base: str, task: str, name: str) -> bool:
    """Whether a recipe loses: its whole interval lies above what a change of seed does, or it diverged."""
    one = gap(runs, base, task, name)
    return not np.isfinite(one.mean) or one.low > bound(runs, base, task)


def costs(runs: pd.DataFrame, base: str, task: str, name: str) -> bool:
    """Whether a recipe loses anything that the pairs show: its whole interval lies above zero, or it diverged."""
    one = gap(runs, base, task, name)
    return not np.isfinite(one.mean) or one.low > 0


def told(runs: pd.DataFrame, base: str, task: str, name: str) -> str:
    """The difference in words: mean and interval in 10^-3 nats, or that it diverged and how often."""
    rows = where(runs, task=task, recipe=name)
    lost = int((~np.isfinite(rows.loss)).sum())
    return f"diverged in {lost} of {len(rows)}" if lost else gap(runs, base, task, name).text(UNIT)


def draw_gaps(runs: pd.DataFrame, rungs: Mapping[str, Rung], base: str) -> Figure:
    """A panel a task, a row a recipe: seeds as dots, the mean with its interval; shaded: what a change of seed does."""
    others = [name for name in rungs if name != base]
    pairs, found = differences(runs, "loss", base, ("task",)), gaps(runs, base)
    tasks = list(dict.fromkeys(runs.task))
    figure, axes = plt.subplots(1, len(tasks), figsize=(8, 0.9 + 0.34 * len(others)), sharey=True, squeeze=False)
    for ax, task in zip(axes[0], tasks, strict=True):
        limit = bound(runs, base, task) / UNIT
        ax.axvspan(-limit, limit, color="#70757D", alpha=0.15, linewidth=0)
        ax.axvline(0, color="#70757D", linewidth=1)
        for place, name in enumerate(others):
            _row(
                ax,
                where(pairs, task=task, recipe=name).difference.to_numpy() / UNIT,
                found.get((task, name)),
                place,
                rungs[name].tint,
            )
        ax.set_title(f"{task} ({runs[runs.task == task].seed.nunique()} seeds)")
        ax.set_xscale("symlog", linthresh=LINEAR)
        ax.set_xlim(-WIDEST, WIDEST)
        ax.set_xticks(TICKS, [f"{tick:+d}" if tick else "0" for tick in TICKS], fontsize=7.5)
        ax.minorticks_off()
        ax.set_xlabel(f"held-out loss less that of {rungs[base].label}\n($10^{{-3}}$ nats)")
    axes[0, 0].set_yticks(range(len(others)), [rungs[name].label for name in others])
    axes[0, 0].set(ylim=(len(others) - 0.5, -0.5), ylabel="recipe")
    return figure


def _row(ax: Axes, values: Any, one: Interval | None, place: int, tint: str) -> None:
    finite = values[np.isfinite(values)]
    ax.scatter(
        np.clip(finite, -WIDEST, WIDEST), np.full(len(finite), place + 0.2), s=12, color=tint, alpha=0.6, linewidth=0
    )
    if len(finite) < len(values):
        ax.text(
            WIDEST * 0.8,
            place,
            f"{len(values) - len(finite)} diverged",
            ha="right",
            va="center",
            fontsize=7,
            color=tint,
        )
    elif one is not None:
        ax.plot([one.low / UNIT, one.high / UNIT], [place - 0.1] * 2, color=tint, linewidth=2.5, solid_capstyle="butt")
        ax.plot([one.mean / UNIT], [place - 0.1], marker="|", markersize=9, color=tint, markeredgewidth=2)


CAPTION = (
    "Held-out loss less that of the base with the same seed, in 10^-3 nats; axis linear within one unit of zero, logarithmic beyond. Dots: "
    "seeds; bar: mean "
    "with its 95 % interval (Student). Shaded: one standard deviation of the base's loss over seeds."
)
