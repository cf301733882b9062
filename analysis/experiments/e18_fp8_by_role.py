"""Which FP8 format for weights, activations and output gradients?

Linear layers are run with E4M3 or E5M2 for the forward operands and for the gradients, with one scale a tensor from its
own amax, and without scales; everything else is BF16 with FP32 master weights. Of the tensors themselves: the SQNR in
both formats.

What to see: with a scale for each tensor three mantissa bits beat two for every role; without one E4M3 loses gradients
to zero, and training with them, while E5M2 reaches far enough.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

import fpemu as fp
from analysis.experiment import NO_NUMBER, Claim, Finding, Profile, Unit, Verdict
from analysis.figures import colour
from analysis.ladders import CAPTION, Rung, bound, draw_gaps, run_rungs, told, worse
from analysis.tables import medians, percent, where
from analysis.training.recipes import RECIPES, Operand, Recipe
from analysis.training.small_tasks import Task, digits_mlp, small_gpt
from fpemu import scaling


def recipe(forward: str, backward: str, way: str) -> Recipe:
    """Formats of the forward operands and of output gradients, under a scaling."""
    one, other = (Operand(name, overflow="saturate", scaling=way) for name in (forward, backward))
    return replace(
        RECIPES["fp8-current"], name=f"{forward}/{backward} {way}", weight=one, activation=one, gradient=other
    )


BASE = "bf16"
TINTS = {("e4m3", "e4m3"): "#009E73", ("e4m3", "e5m2"): "#56B4E9", ("e5m2", "e5m2"): "#D55E00"}
RUNGS = {BASE: Rung("bf16", "BF16", colour("bf16"))} | {
    f"{forward}/{backward} {way}": Rung(
        recipe(forward, backward, way),
        f"{forward.upper()} / {backward.upper()}, {'scaled' if way == 'current' else 'no scale'}",
        tint,
    )
    for way in ("current", "none")
    for (forward, backward), tint in TINTS.items()
}
SIZES = {"quick": {"MLP": 40}, "full": {"MLP": 300, "GPT": 80}}


def task_of(name: str, steps: int) -> Task:
    return digits_mlp(steps) if name == "MLP" else small_gpt(steps, depth=1, rate=3e-3)


TITLE = "FP8 by role"
QUESTION = "Which FP8 format for weights, activations and output gradients?"
_FORMATS = "Micikevicius et al., FP8 Formats for Deep Learning, arXiv 2209.05433; second-hand"
CLAIMS = (
    Claim("E4M3 for weights and activations, E5M2 for gradients match 16 bits.", _FORMATS, "GPT-3 175B: perplexity 6.65 and 6.68", "second-hand"),
    Claim("With fine scales E4M3 is better for gradients too.", "MXFP8 recipes of NVIDIA; second-hand", NO_NUMBER, "second-hand"),
    Claim("With one scale a tensor, Gaussian values keep this SQNR in E4M3 and in E5M2.", "our own pilot", "31.55 dB, 25.58 dB", "pilot"),
)  # fmt: skip


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"task": name, "seed": seed} for name in SIZES[profile.name] for seed in range(profile.seeds)]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``runs``: a row a run; ``tensors``: SQNR of weights and gradients of the BF16 run's end, by format and scaling."""
    name, seed = str(unit["task"]), int(unit["seed"])
    steps = SIZES[profile.name][name]
    task = task_of(name, steps)
    runs = run_rungs(name, task, RUNGS, seed)
    layer = "fc2" if name == "MLP" else "block1.up"
    history = task.run("bf16", seed, capture=(steps - 1,), keep=(layer,))
    held = {
        "weight": history.parameters[f"{layer}.weight"],
        "output gradient": history.tensors[f"{steps - 1}/gradient/{layer}"],
    }
    tensors = [
        {
            "task": name,
            "seed": seed,
            "tensor": tensor,
            "format": kind,
            "scaling": way,
            "sqnr_db": fp.errors(x, q).sqnr_db,
            "new_zero": float(((q == 0) & (x != 0)).sum() / max((x != 0).sum(), 1)),
        }
        for tensor, x in held.items()
        for kind in ("e4m3", "e5m2")
        for way, q in (
            ("current", scaling.per_tensor(x, kind).dequantize()),
            ("none", fp.quantize(x, kind, overflow="saturate")),
        )
    ]
    return {"runs": pd.DataFrame(runs), "tensors": pd.DataFrame(tensors)}


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {"gaps": f"Formats are those of forward operands / output gradients. {CAPTION}"}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figure of CAPTIONS."""
    return {"gaps": draw_gaps(tables["runs"], RUNGS, BASE)}


# ---- verdict --------------------------------------------------------------------------------------------------------
def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """Scaled FP8 keeps up; what happens without scales."""
    runs, tensors = tables["runs"], tables["tensors"]
    tasks = list(dict.fromkeys(runs.task))
    scaled = [(task, name) for task in tasks for name in RUNGS if name.endswith("current")]
    bare = [(task, name) for task in tasks for name in RUNGS if name.endswith("none")]
    bad, bad_bare = ([key for key in keys if worse(runs, BASE, *key)] for keys in (scaled, bare))
    at = medians(tensors, "task", "tensor", "format", "scaling")
    first = tasks[0]
    closer = [
        at[task, tensor, "e4m3", "current"]["sqnr_db"] > at[task, tensor, "e5m2", "current"]["sqnr_db"]
        for task in tasks
        for tensor in set(tensors.tensor)
    ]
    better = all(closer)
    recommended = [key for key in bad if key[1] == "e4m3/e5m2 current"]
    status = (
        "holds" if not recommended and better else "holds with conditions" if better else "does not hold at this scale"
    )
    dead = at[first, "output gradient", "e4m3", "none"]["new_zero"]
    summary = (
        f"With one scale a tensor, {len(scaled) - len(bad)} of {len(scaled)} combinations stay within what a change of seed does ({first}, E4M3 "
        f"/ E5M2: {told(runs, BASE, first, 'e4m3/e5m2 current')} x 10^-3 nats; a change of seed: "
        f"{bound(runs, BASE, first) / 1e-3:.1f}), without scales {len(bare) - len(bad_bare)} of {len(bare)}; unscaled E4M3 zeroes "
        f"{percent(dead)} of the {first}'s last output gradients. With scales E4M3 has the higher SQNR "
        f"for {'every tensor' if better else f'{sum(closer)} of the {len(closer)} tensors'} that {'was' if better else 'were'} looked at."
    )
    findings = [
        Finding(
            f"{task}, {rung.label}: difference to BF16 (10^-3 nats)",
            "none" if name == "e4m3/e5m2 current" else "not published",
            told(runs, BASE, task, name),
        )
        for task in tasks
        for name, rung in RUNGS.items()
        if name != BASE
    ]
    findings += [
        Finding(f"{task}, {tensor}: SQNR scaled in E4M3, E5M2; unscaled", "31.55, 25.58 dB (Gaussian, pilot)",
                ", ".join(f"{at[task, tensor, kind, way]['sqnr_db']:.1f}" for way in ("current", "none") for kind in ("e4m3", "e5m2")) + " dB")
        for task in tasks
        for tensor in dict.fromkeys(where(tensors, task=task).tensor)
    ]  # fmt: skip
    return Verdict(status, summary, tuple(findings))
