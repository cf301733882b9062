"""Pictures of loss scalers at work: ``replays`` draws their trajectories and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fpemu.plots import short_name
from fpemu.scaling.loss_recordings import Recording, ceiling
from fpemu.scaling.loss_simulation import Replay
from fpemu.shown import in_figure
from fpemu.targets.environment import in_default_environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#8D5BA6", "#A6761D", "#333333")
MOST_STEPS = 4000  # drawn of a trace; more are thinned


@in_default_environment
def replays(trace: NDArray[np.float64] | Recording, found: Sequence[Replay]) -> Figure:
    """Above each scaler's scale with its skipped steps as ticks, under the scale at which a step overflows; below what it wastes and skips.

    trace: log2(amax), a value a step, or a recording, whose overflows are crosses at the scale that they happened at.  found: replays
    over it; a step of which the recording says nothing at that scale is a grey tick.  Returns a matplotlib Figure.
    """
    import matplotlib.pyplot as plt

    with plt.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        rows = len(found)
        figure, axes = plt.subplots(
            rows + 1,
            1,
            figsize=(9, 1.15 * rows + 3.2),
            layout="constrained",
            height_ratios=[1] * rows + [2.4],
            squeeze=False,
        )
        logs = trace.log2_amax if isinstance(trace, Recording) else trace
        top = ceiling(found[0].format) - np.where(np.isfinite(logs), logs, np.nan)
        over = np.log2(trace.bounds(found[0].format)[1]) if isinstance(trace, Recording) else np.full(len(logs), np.inf)
        over[~np.isfinite(over)] = np.nan
        limits = _limits(np.concatenate([top, over]), found)
        for place, replay in enumerate(found):
            _draw_path(
                axes[place, 0], replay, (top, over), COLOURS[place % len(COLOURS)], limits, last=place == rows - 1
            )
        _draw_costs(axes[rows, 0], found)
        figure.suptitle(
            f"Loss scalers over {len(logs):,} steps, gradients cast to {in_figure(short_name(found[0].format))}"
        )
    return figure


def _limits(top: NDArray[np.float64], found: Sequence[Replay]) -> tuple[float, float]:
    logs = [np.log2(r.scale[(r.scale > 0) & np.isfinite(r.scale)]) for r in found]
    values = np.concatenate([*logs, top[np.isfinite(top)]])
    return (float(values.min()) - 2, float(values.max()) + 2) if values.size else (-1.0, 1.0)


def _draw_path(
    ax: object,
    replay: Replay,
    ends: tuple[NDArray[np.float64], NDArray[np.float64]],
    tint: str,
    limits: tuple[float, float],
    last: bool,
) -> None:
    from matplotlib.axes import Axes

    assert isinstance(ax, Axes)
    top, over = ends
    step = np.arange(len(replay.scale))
    thin = slice(None, None, max(len(step) // MOST_STEPS, 1))
    with np.errstate(divide="ignore"):
        logs = np.log2(replay.scale)
    logs[~np.isfinite(logs)] = np.nan
    ax.plot(np.arange(len(top))[thin], top[thin], color="#C8CCD2", linewidth=0.8, zorder=0)
    ax.step(step[thin], logs[thin], where="post", color=tint, linewidth=1.4)
    ax.plot(np.arange(len(over)), over, "x", color="#8A8F98", markersize=3, markeredgewidth=0.7, zorder=0)
    skipped, unsure = step[~replay.applied], step[replay.undetermined]
    ax.plot(unsure, np.full(len(unsure), limits[0] + 1), "|", color="#8A8F98", markersize=6, markeredgewidth=0.8)
    ax.plot(skipped, np.full(len(skipped), limits[0] + 1), "|", color=tint, markersize=6, markeredgewidth=0.8)
    ax.set(xlim=(0, max(len(top) - 1, 1)), ylim=limits)
    ax.set_ylabel("log2(scale)")
    note = f"{in_figure(replay.policy)}: {len(skipped)} skipped" + (
        f", {len(unsure)} undetermined" if len(unsure) else ""
    )
    if replay.stopped is not None:
        note += f"; gave up at step {replay.stopped}"
    if replay.dead_zone_at is not None:
        note += f"; dead zone from step {replay.dead_zone_at}"
    ax.set_title(note, loc="left", color=tint, fontsize=8, pad=2)
    if last:
        recorded = (
            "; crosses: one at which the recorder's did; grey ticks: undetermined" if np.isfinite(over).any() else ""
        )
        ax.set_xlabel(f"step (ticks: skipped; grey: the scale at which the step overflows{recorded})")
    else:
        ax.tick_params(labelbottom=False)


def _draw_costs(ax: object, found: Sequence[Replay]) -> None:
    from matplotlib.axes import Axes

    assert isinstance(ax, Axes)
    together: dict[
        tuple[float, float], list[tuple[float, float, str]]
    ] = {}  # names that would lie on each other share a line
    for place, replay in enumerate(found):
        row = replay.summary()
        x, y = row["wasted_exponents"], 100 * row["skips"] / row["steps"]
        ax.plot(x, y, "o" if replay.stopped is None else "x", color=COLOURS[place % len(COLOURS)])
        if np.isfinite(x):
            together.setdefault((round(x), round(y, 1)), []).append((x, y, replay.policy))
    for place, (_, group) in enumerate(sorted(together.items())):
        names = ", ".join(in_figure(name) for _, _, name in group)
        ax.annotate(names, group[0][:2], (5, 4 + 10 * (place % 3)), textcoords="offset points", fontsize=7)
    open_steps = "\nundetermined: applied" if any(replay.undetermined.any() for replay in found) else ""
    ax.set(
        xlabel="exponents left unused below overflow in applied steps (mean, binades)",
        ylabel=f"skipped steps (%){open_steps}",
    )
    ax.margins(x=0.12, y=0.25)
    ax.grid(alpha=0.3)
