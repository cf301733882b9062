"""Do the rows of LOSS_POLICIES do what loss scalers did on real GPUs, and what did these cost?

Public logs of GPU trainings, each with the scale before and after its changes, are replayed: the steps that overflowed are
given, and a row, set as the run's configuration says, must give every scale. Rows that are slightly wrong are put to the
same logs. Then the logs tell where scales settle, how many steps are skipped, and what a first scale costs.

What to see: nothing is left unexplained, and near misses are; the share of skipped steps is set by the policy, not by the
model; a first scale of 2^32 costs fifteen skips or more, all of them at the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis.experiment import NO_CLAIM, NO_NUMBER, Claim, Finding, Profile, Unit, Verdict
from analysis.figures import guide, in_figure, log2_axis
from analysis.real_runs import CONSECUTIVE, ENVIRONMENT, balanced_share, course_of, explain, folder, read_runs, variants
from analysis.tables import where

TITLE = "What real GPUs did"
QUESTION = "Do loss scalers do on GPUs what their rows say, where do scales settle, and how many steps do they cost?"
CLAIMS = (
    Claim(
        "Every scale that a GPU's training logged, before and after every event, is that of a row.",
        "our own prediction",
        "0 unexplained",
        "predicted",
    ),
    Claim(
        "Of W good steps that regain a back-off and H overflows that make one, H in W + H steps are skipped at balance.",
        "derived from the rules",
        "H / (W + H)",
        "derived",
    ),
    Claim(
        "A first scale of 2^16 costs few skips before it settles, one of 2^32 more.",
        "our own pilot on 43 runs",
        "0 to 10; 15 to 23",
        "pilot",
    ),
    Claim(
        "Megatron's scale backs off when as many overflows as its hysteresis come in a row.",
        "NVIDIA/Megatron-LM, docstring of DynamicGradScaler",
        NO_NUMBER,
    ),
)


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    """A unit a run, with what its log is; one that stands for nothing where the logs are not at hand."""
    place = folder()
    found = read_runs(place) if place else []
    return [{"run": run.name, "log": run.digest[:16]} for run in found] or [{"run": "none", "log": ""}]


def extent(units: Sequence[Unit]) -> int:
    """How many runs are covered."""
    return sum(unit["run"] != "none" for unit in units)


RUNS = ("run", "policy", "version", "gpu", "model", "source", "interval", "hysteresis", "capped", "first", "steps", "skips", "warm_skips", "rest",
        "events", "explained", "prints", "contradicted", "low", "high", "share", "balance")  # fmt: skip
NEAR = ("run", "policy", "variant", "events", "explained")


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``runs``: a row a run, with numbers and its source, never its log; ``near``: a row a run and scaler that is almost the right one."""
    place = folder()
    chosen = [run for run in read_runs(place) if run.name == unit["run"]] if place else []
    runs: list[dict[str, Any]] = []
    near: list[dict[str, Any]] = []
    for run in chosen:
        policy, course, right = run.policy, course_of(run), explain(run)
        later = course.skips - course.warm_skips
        runs.append(
            {
                "run": run.name, "policy": policy.name, **{name: run.facts[name] for name in ("version", "gpu", "model")},
                "source": f"{run.facts['source']}: {run.facts['path']}", "interval": policy.interval or 0, "hysteresis": policy.hysteresis,
                "capped": course.high >= np.log2(policy.cap), "first": float(np.log2(policy.init)), "steps": int(run.facts["steps"]),
                "skips": course.skips, "warm_skips": course.warm_skips, "rest": course.rest, "events": right.events,
                "explained": right.explained, "prints": right.prints, "contradicted": right.contradicted, "low": course.low, "high": course.high,
                "share": later / course.rest if course.rest else np.nan, "balance": balanced_share(policy),
            }
        )  # fmt: skip
        for variant, changed in variants(policy).items():
            found = explain(run, changed)
            near.append(
                {
                    "run": run.name,
                    "policy": policy.name,
                    "variant": variant,
                    "events": found.events,
                    "explained": found.explained,
                }
            )
    return {"runs": pd.DataFrame(runs, columns=list(RUNS)), "near": pd.DataFrame(near, columns=list(NEAR))}


# ---- draw -----------------------------------------------------------------------------------------------------------
NOT_HERE = (
    f"The logs are public and no part of this project: where {ENVIRONMENT} names no folder that has them, this result stays as it was "
    "committed."
)
CAPTIONS = {
    "settles": (
        "Where the loss scale of each run was (a power of two): bar, from its least to its greatest value after the warm-up (the skips before it "
        f"first grew); ring, its first value; colours are policies. In brackets: optimizer steps. {NOT_HERE}"
    ),
    "skips": (
        "Left: share of skipped steps after the warm-up (%) against H / (W + H) of its policy (dashed: equal); filled: runs of at least ten "
        "climbs; grey: none skipped. Right: steps skipped before the scale first grew, against the first scale; runs that share a place stand "
        f"side by side. A dot is a run; colours are policies. {NOT_HERE}"
    ),
    "near": (
        "Events that a scaler explains, of all that its runs logged (%), by policy: the row as it is, and with one setting wrong. Blank: the "
        f"policy has no such setting. Where a wrong one explains 100 %, the logs are too coarse to tell it. {NOT_HERE}"
    ),
}
COLOURS = {
    "torch": "#D55E00", "nvidia-gnmt": "#009E73", "apex": "#5DBB63", "fairseq": "#8D5BA6", "fairseq-trainer": "#CC79A7",
    "deepspeed-config-0.8": "#0072B2", "deepspeed-fused": "#56B4E9", "megatron": "#333333", "guided-diffusion": "#E69F00",
}  # fmt: skip
CLIMBS = 10  # what a run must have time for, so that its share of skips says something
RIGHT = "as it is"


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figures of CAPTIONS, if there is a run."""
    runs, near = tables["runs"], tables["near"]
    if runs.empty:
        return {}
    return {"settles": draw_settles(runs), "skips": draw_skips(runs), "near": draw_near(runs, near)}


def draw_settles(runs: pd.DataFrame) -> Figure:
    """A bar a run."""
    figure, ax = plt.subplots(figsize=(8, 1.2 + 0.23 * len(runs)))
    ordered = runs.iloc[::-1].reset_index(drop=True)
    for place, row in enumerate(ordered.to_dict("records")):
        tint = COLOURS[row["policy"]]
        ax.plot(
            [row["low"], row["high"]],
            [place, place],
            "o-",
            color=tint,
            linewidth=5,
            markersize=4,
            solid_capstyle="butt",
        )
        ax.plot(row["first"], place, "o", color=tint, markerfacecolor="white", markersize=6)
    ax.set_yticks(
        range(len(ordered)),
        [
            in_figure(f"{row['run']}: {row['model'].partition(' (')[0]} ({row['steps']:,})")
            for row in ordered.to_dict("records")
        ],
    )
    ax.tick_params(axis="y", labelsize=7, length=0)
    ax.set_ylim(-0.8, len(ordered) - 0.2)
    ax.set_ylabel("run")
    log2_axis(ax, "loss scale")
    for policy in dict.fromkeys(runs.policy):
        ax.plot([], [], color=COLOURS[policy], linewidth=5, label=policy)
    figure.legend(loc="outside lower center", ncols=5, fontsize=8)
    return figure


def long_runs(runs: pd.DataFrame) -> pd.Series[bool]:
    """Those with time for enough climbs: each takes as many steps as there are to one skip at balance, over H."""
    climb = runs.hysteresis / runs.balance
    return runs.rest >= CLIMBS * climb


def draw_skips(runs: pd.DataFrame) -> Figure:
    """Shares against those at balance, and warm-up against the first scale."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 4.2))
    none = 0.004  # %, where runs without a skip stand
    enough = long_runs(runs)
    beside = runs.groupby(["first", "warm_skips"]).cumcount() * 0.6
    for policy in dict.fromkeys(runs.policy):
        part = where(runs, policy=policy)
        tint = COLOURS[policy]
        for filled in (True, False):
            dots = part[enough[part.index] == filled]
            shares = (100 * dots.share).where(dots.share > 0, none)
            left.plot(
                100 * dots.balance, shares, "o", color=tint, markerfacecolor=tint if filled else "white", markersize=6
            )
        right.plot(part["first"] + beside[part.index], part.warm_skips, "o", color=tint, markersize=6, label=policy)
    ends = np.array([0.006, 0.02, 3.0])
    guide(left, ends, ends, "equal", at=1, offset=(-12, 4))
    left.set(xscale="log", yscale="log", xlabel="H / (W + H) (%)", ylabel="skipped steps after the warm-up (%)")
    left.axhspan(none * 0.75, none * 1.35, color="#F0F1F3", zorder=0, linewidth=0)
    left.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    left.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    left.set_ylim(none * 0.75, 4)
    left.text(0.02, none, "none", fontsize=7.5, ha="center", va="center")
    log2_axis(right, "first loss scale", most=10)
    right.set_ylabel("steps skipped before the scale first grew")
    right.set_ylim(bottom=-1)
    figure.legend(loc="outside lower center", ncols=5, fontsize=8)
    return figure


def shares(runs: pd.DataFrame, near: pd.DataFrame) -> pd.DataFrame:
    """Explained events over events, a row a policy, a column the row as it is and each variant; NaN where there is none."""
    right = runs.assign(variant=RIGHT)
    both = pd.concat([right[list(NEAR)], near[list(NEAR)]])
    sums = both.groupby(["policy", "variant"])[["events", "explained"]].sum()
    wide = (sums.explained / sums.events).unstack("variant")
    return wide.loc[list(dict.fromkeys(runs.policy)), [RIGHT, *dict.fromkeys(near.variant)]]


def draw_near(runs: pd.DataFrame, near: pd.DataFrame) -> Figure:
    """A matrix of shares."""
    table = 100 * shares(runs, near)
    figure, ax = plt.subplots(figsize=(8, 1.9 + 0.34 * len(table)))
    ax.imshow(table.to_numpy(), cmap="RdYlGn", vmin=0, vmax=100, aspect="auto", alpha=0.6)
    for y, row in enumerate(table.to_numpy()):
        for x, value in enumerate(row):
            if np.isfinite(value):
                # a share below 100 is never written 100
                ax.text(x, y, f"{np.floor(10 * value) / 10:g}", ha="center", va="center", fontsize=7.5)
    events = runs.groupby("policy").events.sum()
    ax.set_yticks(range(len(table)), [f"{policy} ({events[policy]:,})" for policy in table.index])
    ax.set_xticks(
        range(len(table.columns)), list(map(in_figure, table.columns)), rotation=30, ha="right", rotation_mode="anchor"
    )
    ax.tick_params(length=0, labelsize=8)
    ax.grid(False)
    ax.set(xlabel="scaler", ylabel="policy (events)", title="events explained (%)")
    return figure


# ---- verdict --------------------------------------------------------------------------------------------------------
BETWEEN = (
    0.5,
    1.25,
)  # the share of skips over that at balance; less where growth is not followed by an overflow at once


def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """Nothing unexplained; shares near those at balance, where a run is long enough and no cap holds its scale."""
    runs, near = tables["runs"], tables["near"]
    if runs.empty:
        return Verdict(NO_CLAIM, f"No logs of real runs here: {ENVIRONMENT} names no folder that has them.")
    events, explained, contradicted = (int(runs[name].sum()) for name in ("events", "explained", "contradicted"))
    free = runs[long_runs(runs) & ~runs.capped & (runs.skips > 0)]
    ratio = free.share / free.balance
    whole = explained == events and contradicted == 0
    balanced = bool(ratio.between(*BETWEEN).all())
    status = "does not hold at this scale" if not whole else "holds" if balanced else "holds with conditions"
    summary = (
        f"Of {int(runs.steps.sum()):,} steps of {len(runs)} trainings {int(runs.skips.sum()):,} were skipped; rows explain {explained:,} of "
        f"{events:,} events, and {contradicted:,} of {int(runs.prints.sum()):,} further printed scales contradict them; {_told(near)}. "
        f"{_balance(ratio)} Before the first growth {_warm(runs, 16)} and {_warm(runs, 32)}; after that scales are between "
        f"2^{runs.low.min():.0f} and 2^{runs.high.max():.0f}. "
        f"{_docstring(near)}"
    )
    return Verdict(
        status, summary, tuple(_finding(policy, where(runs, policy=policy)) for policy in dict.fromkeys(runs.policy))
    )


def _told(near: pd.DataFrame) -> str:
    """Of the scalers that are almost right, how many a log can tell from the right one."""
    caught = near[near.explained < near.events]
    return (
        f"of {len(near):,} scalers with one setting wrong {len(caught):,} explain{'s' if len(caught) == 1 else ''} less"
    )


def _balance(ratio: pd.Series[float]) -> str:
    if ratio.empty:
        return f"No run that overflowed without a cap had time for {CLIMBS} climbs."
    return (
        f"Of those that overflowed, without a cap and with time for {CLIMBS} climbs, {len(ratio)} in number, the share of skipped steps is "
        f"{ratio.min():.2f} to {ratio.max():.2f} times H / (W + H)."
    )


def _warm(runs: pd.DataFrame, first: int) -> str:
    skips = runs[runs["first"] == first].warm_skips
    if skips.empty:
        return f"no run begins at 2^{first}"
    return f"{int(skips.min())} to {int(skips.max())} steps are skipped from 2^{first}"


def _docstring(near: pd.DataFrame) -> str:
    megatron = where(near, policy="megatron", variant=CONSECUTIVE)
    against = int((megatron.explained < megatron.events).sum())
    if megatron.empty:
        return "No run is of Megatron."
    told = f"{against} of its {len(megatron)} run{'' if len(megatron) == 1 else 's'}"
    return f"What Megatron's docstring says of hysteresis, overflows in a row, leaves events of {told} unexplained."


def _finding(policy: str, runs: pd.DataFrame) -> Finding:
    """A policy's line."""
    explained, events = int(runs.explained.sum()), int(runs.events.sum())
    return Finding(
        f"{policy}: runs, steps; events explained; scale after the warm-up; skips before the first growth; share of skips after it (H / (W + H)), median",
        "0 unexplained (predicted)",
        f"{len(runs)}, {int(runs.steps.sum()):,}; {explained:,} of {events:,}; 2^{runs.low.min():.0f} to 2^{runs.high.max():.0f}; "
        f"{int(runs.warm_skips.min())} to {int(runs.warm_skips.max())}; {100 * runs.share.median():.3f} % ({100 * runs.balance.median():.3f} %)",
    )
