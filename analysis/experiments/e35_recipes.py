"""What does every precision recipe cost, in loss and in time of its emulation?

Every recipe of the laboratory trains the digits MLP from the same weights on the same batches as FP32 does. A recipe is
data: the table below prints what each keeps and multiplies in.

What to see: which recipes stay within what a change of seed does, and what emulating them costs beside FP32 with
reproducible sums and beside the machine's own matrix product.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from analysis.experiment import Claim, Finding, Profile, Unit, Verdict
from analysis.figures import colour
from analysis.ladders import CAPTION, Rung, bound, draw_gaps, run_rungs, told, worse
from analysis.tables import listed, medians
from analysis.training.recipes import RECIPES
from analysis.training.small_tasks import digits_mlp

BASE, LIBRARY = "fp32", "fp32-blas"
TINTS = {
    "fp32": "#333333",
    "tf32": "#7A7F87",
    "fp16": colour("fp16"),
    "bf16": colour("bf16"),
    "fp8": colour("e4m3"),
    "mxfp8": "#2B7F86",
    "mxfp4": colour("e2m1"),
    "nvfp4": "#8D5BA6",
}
RUNGS = {name: Rung(recipe, name, TINTS[name.partition("-")[0]]) for name, recipe in RECIPES.items()}
STEPS = {"quick": 20, "full": 120}
EMULATED = ("fp16", "bf16")  # whose time is bounded
MOST = 10.0  # times that of FP32 on the reproducible engine
MIXED = (
    "fp16-dynamic",
    "fp16-static",
    "bf16",
    "tf32",
    "fp8-current",
    "fp8-blocks",
    "mxfp8",
)  # that are claimed to train as FP32 does

TITLE = "All recipes on one task"
QUESTION = "What does every precision recipe cost, in loss and in time of its emulation?"
CLAIMS = (
    Claim(
        "Mixed precision in 16 and 8 bits trains as FP32 does.",
        "common knowledge; no single source",
        "no difference",
        "common",
    ),
    Claim(
        "Emulating FP16 and BF16 recipes takes at most ten times as long as FP32 on the reproducible engine.",
        "the target of this project",
        "x10",
        "target",
    ),
)


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"seed": seed} for seed in range(profile.seeds)]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``runs``: a row a run; ``recipes``: every recipe as a row of text."""
    seed = int(unit["seed"])
    task = digits_mlp(STEPS[profile.name], (64, 128, 128, 10), batch=128)
    for rung in RUNGS.values():  # what is compiled is compiled before it is timed
        digits_mlp(2, (64, 128, 128, 10), batch=128).run(rung.recipe, seed)
    rows = run_rungs("MLP", task, RUNGS, seed)
    recipes = [recipe.row() for recipe in RECIPES.values()] if seed == 0 else []
    columns = list(RECIPES[BASE].row())
    return {"runs": pd.DataFrame(rows), "recipes": pd.DataFrame(recipes, columns=columns)}


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {"gaps": CAPTION}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figure of CAPTIONS."""
    return {"gaps": draw_gaps(tables["runs"], RUNGS, BASE)}


# ---- verdict --------------------------------------------------------------------------------------------------------
def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """Who loses, and how long it takes."""
    runs, recipes = tables["runs"], tables["recipes"].set_index("name")
    at = medians(runs, "recipe")
    lost = [name for name in RUNGS if name != BASE and worse(runs, BASE, "MLP", name)]
    times = {name: at[name]["ms"] / at[BASE]["ms"] for name in RUNGS}
    library = {name: at[name]["ms"] / at[LIBRARY]["ms"] for name in RUNGS}
    slow = [name for name in RUNGS if name.partition("-")[0] in EMULATED and times[name] > MOST]
    mixed = [name for name in lost if name in MIXED]
    status = (
        "holds" if not mixed and not slow else "holds with conditions" if not slow else "does not hold at this scale"
    )
    summary = (
        f"Of {len(RUNGS) - 1} recipes {len(RUNGS) - 1 - len(lost)} end within what a change of seed does to FP32 "
        f"({bound(runs, BASE, 'MLP') / 1e-3:.1f} x 10^-3 nats); beyond it: {listed(lost) or 'none'}. Emulation takes {times['fp16-dynamic']:.1f} "
        f"(FP16) and {times['bf16']:.1f} (BF16) times as long as FP32 on the reproducible engine, {library['fp16-dynamic']:.0f} and "
        f"{library['bf16']:.0f} times as long as FP32 with the machine's own products."
    )
    findings = tuple(
        Finding(
            (
                f"{name}: difference to FP32 (10^-3 nats); time a step over FP32, over {LIBRARY}; operands (weights / activations / gradients), "
                f"kept, master weights, update, loss scale"
            ),
            "at most x10 in time" if name in ("fp16-dynamic", "bf16") else "not published",
            (told(runs, BASE, "MLP", name) if name != BASE else "the base")
            + f"; x{times[name]:.1f}, x{library[name]:.1f}; "
            + " / ".join(str(recipes.loc[name, role]) for role in ("weight", "activation", "gradient"))
            + ", "
            + ", ".join(str(recipes.loc[name, what]) for what in ("kept", "master", "update", "loss_scaler")),
        )
        for name in RUNGS
    )
    return Verdict(status, summary, findings)
