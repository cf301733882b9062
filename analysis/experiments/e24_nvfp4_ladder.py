"""Which ingredients of the NVFP4 recipe does training need?

The published recipe keeps the last layers in BF16, transforms the operands of weight-gradient products, scales weights
in 16 x 16 blocks so that both passes see the same weights, and rounds gradients stochastically. A small GPT is trained
with all of it, with one ingredient left out at a time, with none, with stochastic rounding where it should not be, and
in BF16 and MXFP4.

What to see: what four bits cost at this size, and which ingredient moves that by more than a change of seed. The paper
warns that many do not show below billions of parameters.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.experiment import NO_NUMBER, Claim, Finding, Profile, Unit, Verdict
from analysis.figures import colour
from analysis.ladders import CAPTION, Rung, bound, draw_gaps, gaps, run_rungs, told, worse
from analysis.pairs import differences, interval
from analysis.tables import listed
from analysis.training.recipes import NVFP4, NVFP4_STOCHASTIC, RECIPES
from analysis.training.small_tasks import Task, small_gpt

BASE, FULL, PLAIN = "bf16", "nvfp4", "plain"
WHOLE = RECIPES["nvfp4"]
RUNGS = {
    BASE: Rung("bf16", "BF16", colour("bf16")),
    FULL: Rung(WHOLE, "NVFP4, whole recipe", "#0072B2"),
    "head": Rung(WHOLE.but("head", exempt=()), "head in NVFP4 too", "#56B4E9"),
    "hadamard": Rung(WHOLE.but("hadamard", hadamard=0), "no Hadamard", "#56B4E9"),
    "rows": Rung(WHOLE.but("rows", weight=NVFP4), "weights in 1 x 16", "#56B4E9"),
    "nearest": Rung(WHOLE.but("nearest", gradient=NVFP4), "gradients to nearest", "#56B4E9"),
    PLAIN: Rung("nvfp4-plain", "none of them", "#882255"),
    "everywhere": Rung(
        WHOLE.but("everywhere", weight=replace(WHOLE.weight, rounding="stochastic"), activation=NVFP4_STOCHASTIC),
        "stochastic everywhere",
        "#D55E00",
    ),
    "mxfp4": Rung(RECIPES["mxfp4"].but(exempt=("head",)), "MXFP4, head in BF16", "#A07B4F"),
}
SIZES = {"quick": 6, "full": 80}


def task_of(profile: Profile) -> Task:
    return small_gpt(SIZES[profile.name], depth=1, rate=3e-3)


TITLE = "The ingredients of NVFP4"
QUESTION = "Which ingredients of the NVFP4 recipe does training need?"
_PAPER = "NVIDIA, Pretraining Large Language Models with NVFP4, arXiv 2509.25149; primary"
CLAIMS = (
    Claim(
        "The whole recipe follows FP8 closely; the base recipe without the ingredients diverges.",
        _PAPER,
        "12B, 10T tokens: relative loss error below 1 to 1.5 %",
    ),
    Claim("Stochastic rounding of activations and weights diverges.", _PAPER, NO_NUMBER),
    Claim("Many effects do not show in small models.", _PAPER, "1.2B parameters"),
)


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"seed": seed} for seed in range(profile.seeds)]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``runs``: a row a run."""
    return {"runs": pd.DataFrame(run_rungs("GPT", task_of(profile), RUNGS, int(unit["seed"])))}


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {"gaps": f"From the third row on, one thing differs from the whole recipe. {CAPTION}"}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figure of CAPTIONS."""
    return {"gaps": draw_gaps(tables["runs"], RUNGS, BASE)}


# ---- verdict --------------------------------------------------------------------------------------------------------
def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """An ingredient shows where leaving it out costs: the interval of the paired difference to the whole recipe lies above zero."""
    runs = tables["runs"]
    pairs = differences(runs[runs.recipe != BASE], "loss", FULL, ("task",))
    costs = {str(name): interval(rows.difference) for name, rows in pairs.groupby("recipe")}
    single = ("head", "hadamard", "rows", "nearest")
    shown = [name for name in single if costs[name].low > 0]
    found = gaps(runs, BASE)
    names = {name: rung.label for name, rung in RUNGS.items()} | {PLAIN: "NVFP4 without any of the ingredients"}
    beyond = [names[name] for name in RUNGS if name != BASE and worse(runs, BASE, "GPT", name)]
    plain = costs[PLAIN].low > 0
    gone = not np.isfinite(runs.loss).all()
    status = (
        "holds"
        if len(shown) == len(single) and plain
        else "holds with conditions"
        if shown or plain
        else "does not hold at this scale"
    )
    summary = (
        f"The whole recipe costs {told(runs, BASE, 'GPT', FULL)} x 10^-3 nats against BF16 (a change of seed: "
        f"{bound(runs, BASE, 'GPT') / 1e-3:.1f}), without any of the ingredients it costs {told(runs, BASE, 'GPT', PLAIN)} and MXFP4 costs "
        f"{told(runs, BASE, 'GPT', 'mxfp4')}; "
        f"leaving out one ingredient costs more than the noise of the pairs in {len(shown)} of {len(single)} cases"
        f"{f' ({listed([RUNGS[name].label for name in shown])})' if shown else ''}. {'Something' if gone else 'Nothing'} diverges; "
        + (f"beyond a change of seed: {'; '.join(beyond)}." if beyond else "nothing lies beyond a change of seed.")
    )
    findings = tuple(
        Finding(f"{rung.label}: difference to BF16; to the whole recipe (10^-3 nats)", "not published at this size",
                f"{found['GPT', name].text(1e-3)}" + (f"; {costs[name].text(1e-3)}" if name in costs else ""))
        for name, rung in RUNGS.items()
        if name != BASE
    )  # fmt: skip
    return Verdict(status, summary, findings)
