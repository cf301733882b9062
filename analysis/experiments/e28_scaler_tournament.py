"""Which loss scaler skips least, wastes least, and which of them never comes back?

Every loss scaler that the package knows is replayed over three traces of log2 of the largest gradient: one recorded
from training the digits MLP, one made up whose gradients fade by ten binades while spikes come and go, and one with
bursts that are not finite whatever the scale. Of each: skipped steps, exponents left unused below overflow, and how it
ends. Then GradScaler is fed overflows alone.

What to see: who grows every 2000 steps pays one skip for each growth; who starts at 2^32 pays 16 or so at once; a floor
that raises ends a training that a clamp would have saved; GradScaler has no floor, and below 2^-127 it multiplies
finite gradients by infinity.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.experiment import NO_NUMBER, Claim, Finding, Profile, Unit, Verdict
from analysis.figures import log2_axis
from analysis.tables import listed, where
from analysis.training.small_tasks import digits_mlp
from fpemu.scaling.loss import loss_scaler
from fpemu.scaling.loss_policies import LOSS_POLICIES
from fpemu.scaling.loss_simulation import ceiling, simulate

LENGTH = {"quick": 3000, "full": 12000}
TRAINED = {"quick": 400, "full": 3000}
REAL, FADING, BURSTS = "digits MLP", "fading, with spikes", "bursts"
SHOWN = ("torch", "apex", "deepspeed", "megatron", "jmp", "logmax", "static")
OVERFLOWS = 200

TITLE = "The tournament of loss scalers"
QUESTION = "Which loss scaler skips least, wastes least, and which of them never comes back?"
CLAIMS = (
    Claim(
        "GradScaler with an interval of 200 skips a step now and then; from 2^32 it skips at first.",
        "our own pilot",
        "5 skips in 3000 steps; 17 initial skips",
        "pilot",
    ),
    Claim(
        "An overflow every growth interval is normal.",
        "apex, issue 864; second-hand",
        "one in 2000 steps",
        "second-hand",
    ),
    Claim(
        "From 65536, overflows alone make GradScaler's scale zero, which is absorbing; below 2^-127 its inverse is infinite.",
        "our own pilot; PyTorch, issue 99640",
        "166 overflows; 2^-128",
        "pilot",
    ),
    Claim("A scale predicted from statistics avoids the skips of probing.", "OpenSeq2Seq, LogMax; code", NO_NUMBER),
)


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"seed": seed} for seed in range(profile.seeds)]


def traces(seed: int, profile: Profile) -> dict[str, Any]:
    """log2 of the largest unscaled gradient, step by step."""
    rng, length = np.random.default_rng(seed), LENGTH[profile.name]
    real = digits_mlp(TRAINED[profile.name]).run("fp32-blas", seed).steps.log2_amax.to_numpy(float)
    fading = np.linspace(-6, -16, length) + 0.7 * rng.standard_normal(length)
    fading[rng.random(length) < 1 / 300] += 8
    bursts = -8 + 0.7 * rng.standard_normal(length)
    for start in rng.integers(0, length - 40, 6):
        bursts[start : start + int(rng.integers(1, 40))] = np.inf
    return {REAL: real, FADING: fading, BURSTS: bursts}


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``replays``: a row for every trace and scaler; ``paths``: scales of some, thinned; ``zone``: GradScaler under overflows; ``checks``: the pilot's runs."""
    seed = int(unit["seed"])
    rows: list[dict[str, Any]] = []
    paths: list[dict[str, Any]] = []
    found = traces(seed, profile)
    for trace, logs in found.items():
        for policy in LOSS_POLICIES:
            replay = simulate(policy, logs)
            summary = replay.summary()
            recover = summary.pop("steps_to_recover")
            rows.append(
                {
                    "seed": seed, "trace": trace, **{key: value for key, value in summary.items() if key not in ("stopped", "dead_zone_at", "undetermined")},
                    "bursts": len(recover), "stopped": -1 if summary["stopped"] is None else summary["stopped"],
                    "dead": -1 if summary["dead_zone_at"] is None else summary["dead_zone_at"],
                }
            )  # fmt: skip
            if policy in SHOWN and seed == 0:
                with np.errstate(divide="ignore"):
                    scales = np.log2(replay.scale)
                for step in range(0, len(scales), max(len(logs) // 300, 1)):
                    if np.isfinite(scales[step]):
                        paths.append(
                            {
                                "trace": trace,
                                "policy": policy,
                                "step": step,
                                "log2_scale": float(scales[step]),
                                "ceiling": ceiling("fp16") - float(logs[step]) if np.isfinite(logs[step]) else np.nan,
                            }
                        )
    steady = np.full(3000, -8.5)
    short = simulate(loss_scaler("torch", interval=200), steady).summary()["skips"]
    high = simulate(loss_scaler("torch", init=2.0**32), np.full(100, 0.5)).summary()["skips"]
    scaler, zone = loss_scaler("torch"), []
    for step in range(OVERFLOWS):
        zone.append({"step": step, "scale": scaler.scale, "inverse": scaler.inverse})
        scaler.step(True)
    return {
        "replays": pd.DataFrame(rows),
        "paths": pd.DataFrame(paths)
        if paths
        else pd.DataFrame(columns=["trace", "policy", "step", "log2_scale", "ceiling"]),
        "zone": pd.DataFrame(zone if seed == 0 else [], columns=["step", "scale", "inverse"]),
        "checks": pd.DataFrame([{"seed": seed, "interval_200": short, "init_32": high}]),
    }


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {
    "paths": (
        "Scales of seven loss scalers (powers of two) over three traces; grey: the largest scale that does not overflow at that step. A line "
        "that ends is a scaler that gave up. First seed; one step in every three hundredth of the trace is drawn."
    ),
    "pareto": (
        "Skipped steps (%) against exponents left unused in applied steps (mean number of binades below overflow), by scaler and trace. Dot: "
        "median over the seeds. A ring: it gave up on the way in some seed."
    ),
}
TINTS = dict(zip(SHOWN, ("#0072B2", "#E69F00", "#D55E00", "#009E73", "#8D5BA6", "#CC79A7", "#333333"), strict=True))


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figures of CAPTIONS."""
    return {"paths": draw_paths(tables["paths"]), "pareto": draw_pareto(tables["replays"])}


def draw_paths(paths: pd.DataFrame) -> Figure:
    """A panel a trace."""
    names = list(dict.fromkeys(paths.trace))
    figure, axes = plt.subplots(len(names), 1, figsize=(8, 1 + 2.1 * len(names)), squeeze=False)
    for ax, name in zip(axes[:, 0], names, strict=True):
        top = where(paths, trace=name, policy="static")
        ax.plot(top.step, top.ceiling, color="#B8BCC2", linewidth=1, zorder=0)
        for policy, tint in TINTS.items():
            part = where(paths, trace=name, policy=policy)
            ax.step(part.step, part.log2_scale, where="post", color=tint, linewidth=1.3, label=policy)
        ax.set_title(name)
        ax.set_ylim(-4, 34)
        log2_axis(ax, "scale", axis="y", most=6)
    axes[-1, 0].set_xlabel("step")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(SHOWN))
    return figure


def draw_pareto(replays: pd.DataFrame) -> Figure:
    """A panel a trace, a dot a scaler."""
    names = list(dict.fromkeys(replays.trace))
    figure, axes = plt.subplots(1, len(names), figsize=(8, 3.8), sharey=True, squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        for policy in LOSS_POLICIES:
            part = where(replays, trace=name, policy=policy)
            x, y = float(part.wasted_exponents.median()), 100 * float((part.skips / part.steps).median())
            tint = TINTS.get(policy, "#B8BCC2")
            fill = "white" if (part.stopped >= 0).any() else tint
            label = policy if policy in TINTS and ax is axes[0, 0] else None
            ax.plot(
                x,
                y,
                "o",
                color=tint,
                markersize=6,
                markerfacecolor=fill,
                zorder=2 + (policy in TINTS),
                linestyle="",
                label=label,
            )
        ax.set(title=name, xlabel="exponents unused (binades)")
        ax.set_yscale("symlog", linthresh=0.1)
    axes[0, 0].set_ylabel("skipped steps (%)")
    figure.legend(loc="outside lower center", ncols=len(SHOWN))
    return figure


# ---- verdict --------------------------------------------------------------------------------------------------------
ZERO_AT, FIRST_INFINITE = (
    166,
    -128,
)  # the pilot: overflows until the scale is zero, exponent of the first scale with an infinite inverse
SKIPS, INITIAL = (3, 8), 17  # now and then: so many of 3000 steps (5 in the pilot); of the first steps from 2^32


def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """The pilot's runs, the dead zone, and who wins what."""
    replays, zone, checks = tables["replays"], tables["zone"], tables["checks"]
    zero_at = int(zone[zone.scale == 0].step.min())
    infinite = zone[(zone.scale > 0) & np.isinf(zone.inverse)].scale
    first = float(np.log2(infinite.max())) if len(infinite) else float("nan")
    short, high = int(checks.interval_200.median()), int(checks.init_32.median())
    dead = zero_at == ZERO_AT and first == FIRST_INFINITE
    median = replays.groupby(["trace", "policy"]).median(numeric_only=True)
    fading = median.loc[FADING]
    least, frugal = (sorted(fading.index[column == column.min()]) for column in (fading.skips, fading.wasted_exponents))
    gave_up = sorted(set(replays[replays.stopped >= 0].policy))
    probing = fading.loc["logmax"].skips <= fading.loc["torch"].skips
    status = (
        "holds"
        if dead and SKIPS[0] <= short <= SKIPS[1] and high == INITIAL and probing
        else "holds with conditions"
        if dead
        else "does not hold at this scale"
    )
    summary = (
        f"GradScaler's scale is zero after {zero_at} overflows in a row, and from 2^{first:.0f} down its inverse is infinite; with an interval "
        f"of 200 it skips {short} of 3000 steady steps, from 2^32 its first {high}. On the fading trace "
        f"{listed(least)} {'skips' if len(least) == 1 else 'skip'} least ({fading.skips.min():.0f}), "
        f"{listed(frugal)} {'leaves' if len(frugal) == 1 else 'leave'} the fewest exponents unused ({fading.wasted_exponents.min():.1f}); "
        f"LogMax skips {fading.loc['logmax'].skips:.0f}, torch {fading.loc['torch'].skips:.0f}. "
        f"{f'On some trace {listed(gave_up)} gave up' if gave_up else 'No scaler gave up on any trace'}."
    )
    findings = [
        Finding(
            "GradScaler: overflows until the scale is zero; first scale whose inverse is infinite",
            "166; 2^-128 (pilot)",
            f"{zero_at}; 2^{first:.0f}",
        ),
        Finding(
            "GradScaler: skips in 3000 steady steps, interval 200; initial skips from 2^32",
            "5; 17 (pilot)",
            f"{short}; {high}",
        ),
    ]
    findings += [
        Finding(f"{policy}: skips and unused exponents by trace ({', '.join(dict.fromkeys(replays.trace))})", "not published",
                "; ".join(f"{row.skips:.0f}, {row.wasted_exponents:.1f}" + (f" (gave up at step {row.stopped:.0f})" if row.stopped >= 0 else "")
                          for trace in dict.fromkeys(replays.trace) for row in (median.loc[(trace, policy)],)))
        for policy in LOSS_POLICIES
    ]  # fmt: skip
    return Verdict(status, summary, tuple(findings))
