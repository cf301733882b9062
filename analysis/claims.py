"""The textbook claims of mixed precision, each with the experiments that bear on it and a verdict that follows from theirs.

A claim's verdict is not written down: it is worked out from the results at hand.  Where every experiment that bears on
it holds it holds; where none does it does not hold at this scale; anything between is "holds with conditions".  A claim
about speed or memory cannot hold without a GPU's recording; until there is one a *counted* model stands in, and says
so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.experiment import NO_CLAIM
from analysis.results import Result
from analysis.tables import listed
from analysis.training.recipes import RECIPES, Recipe
from fpemu.formats import FORMATS

HOLDS, CONDITIONS, FAILS = "holds", "holds with conditions", "does not hold at this scale"


@dataclass(frozen=True)
class Textbook:
    """A claim.

    Attributes
    ----------
    text: as textbooks have it. evidence: names of experiments whose verdict counts. beside: experiments that show more, without counting.
    gpus: experiments that say what real GPUs did, from others' logs, without counting either.
    figure: experiment and figure that show it best. gpu: what only a GPU can tell ("" for nothing). counted: whether it is about
    speed or memory, so that the counted model belongs to it.
    """

    text: str
    evidence: tuple[str, ...]
    figure: tuple[str, str]
    beside: tuple[str, ...] = ()
    gpu: str = ""
    counted: bool = False
    gpus: tuple[str, ...] = ()


CLAIMS = (
    Textbook(
        "Mixed precision roughly doubles training speed and halves memory, with minimal loss of quality.",
        ("e17_bf16_lossless", "e35_recipes"),
        ("e17_bf16_lossless", "differences"),
        gpu="Time a step and peak memory.",
        counted=True,
    ),
    Textbook(
        "Forward and backward passes tolerate low precision; weight updates do not: they need FP32 master weights.",
        ("e15_master_weights", "e16_bf16_updates", "e14_update_stall"),
        ("e15_master_weights", "gaps"),
        ("e35_recipes", "e27_adam_epsilon", "e32_accumulation_dtype"),
    ),
    Textbook(
        "Loss scaling prevents gradient underflow in FP16.",
        ("e11_ssd_histogram", "e13_loss_scaling", "e30_underflow_measures"),
        ("e30_underflow_measures", "measures"),
        ("e01_gradient_underflow", "e12_scale_bands", "e28_scaler_tournament"),
        gpu="Large detectors and speech models, where FP16 without a scale was reported to diverge.",
        gpus=("e38_real_runs",),
    ),
    Textbook(
        "BF16 has FP32's exponent range, so it needs no loss scaling and is more robust than FP16.",
        ("e17_bf16_lossless", "e01_gradient_underflow"),
        ("e17_bf16_lossless", "curves"),
        ("e16_bf16_updates", "e29_kl_cancellation", "e32_accumulation_dtype"),
    ),
    Textbook(
        "BF16 mixed precision is essentially lossless, FP16 with careful loss scaling near-identical.",
        ("e17_bf16_lossless",),
        ("e17_bf16_lossless", "differences"),
        ("e37_training_recordings",),
        gpu="Models of billions of parameters over trillions of tokens.",
    ),
    Textbook(
        "FP8 is the next step, with scales for each tensor or block.",
        ("e18_fp8_by_role", "e35_recipes"),
        ("e18_fp8_by_role", "gaps"),
        (
            "e08_fp8_accumulator",
            "e19_delayed_hangover",
            "e20_delayed_growth",
            "e21_mx_scale_rules",
            "e22_layernorm_gains",
            "e24_nvfp4_ladder",
            "e25_stochastic_4bit",
        ),
        gpu="The speed of FP8 products, and instabilities that were reported late in long runs.",
    ),
    Textbook(
        "Training wholly in FP32 costs twice the time and memory for no gain in quality.",
        ("e17_bf16_lossless",),
        ("e17_bf16_lossless", "differences"),
        ("e35_recipes",),
        gpu="Time a step and peak memory.",
        counted=True,
    ),
)


@dataclass(frozen=True)
class Judged:
    """A claim with the results that bear on it, its verdict, and a sentence that says why."""

    number: int
    claim: Textbook
    evidence: tuple[Result, ...]
    beside: tuple[Result, ...]
    gpus: tuple[Result, ...]
    status: str
    why: str
    figure: tuple[Result, dict[str, Any]] | None


def judged(results: Sequence[Result]) -> list[Judged]:
    """Every claim on which one of the results bears."""
    by = {result.folder.name: result for result in results}
    found = []
    for number, claim in enumerate(CLAIMS, start=1):
        evidence = tuple(by[name] for name in claim.evidence if name in by)
        if evidence:
            missing = [name for name in claim.evidence if name not in by]
            status, why = _verdict(claim, evidence, missing)
            beside, gpus = (tuple(by[name] for name in names if name in by) for names in (claim.beside, claim.gpus))
            found.append(Judged(number, claim, evidence, beside, gpus, status, why, _figure(claim, by)))
    return found


def _verdict(claim: Textbook, evidence: Sequence[Result], missing: Sequence[str]) -> tuple[str, str]:
    statuses = [str(result.record["verdict"]["status"]) for result in evidence]
    counting = [status for status in statuses if status != NO_CLAIM]
    if not counting:
        return NO_CLAIM, "No experiment that bears on it makes a claim."
    measured = HOLDS if set(counting) == {HOLDS} else FAILS if set(counting) == {FAILS} else CONDITIONS
    told = [_told(counting.count(one), one) for one in (HOLDS, CONDITIONS, FAILS) if one in counting]
    many = len(counting) > 1
    why = (
        f"Of the {len(counting)} experiments that bear on it {listed(told)}"
        if many
        else f"The one experiment that bears on it {ONE[counting[0]]}"
    )
    if missing:
        why += f"; not run yet: {listed(missing)}"
    if claim.counted and measured == HOLDS:
        return CONDITIONS, f"{why}. That is quality; speed and memory are counted below, not measured."
    return measured, f"{why}."


# The statuses as predicates, of one and of several.
ONE = {HOLDS: "holds", CONDITIONS: "holds with conditions", FAILS: "does not hold at this scale"}
SEVERAL = {HOLDS: "hold", CONDITIONS: "hold with conditions", FAILS: "do not hold at this scale"}


def _told(count: int, status: str) -> str:
    return f"{count} {(ONE if count == 1 else SEVERAL)[status]}"


def _figure(claim: Textbook, by: Mapping[str, Result]) -> tuple[Result, dict[str, Any]] | None:
    experiment, name = claim.figure
    if experiment not in by:
        return None
    return next(((by[experiment], entry) for entry in by[experiment].record["figures"] if entry["name"] == name), None)


# ---- the counted model ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Cost:
    """What a recipe keeps and moves, counted from its facts: bytes of a parameter under Adam, of an activation, and of an operand pair.

    master, copy, gradient, moments: of a parameter: the weights that are updated, the copy that products read (0 where they read the master),
    its gradient, both moments.  activation: of a value kept for the backward pass.  operands: of the two elements of one multiply-add.
    """

    recipe: str
    master: float
    copy: float
    gradient: float
    moments: float
    activation: float
    operands: float

    @property
    def parameter(self) -> float:
        """Bytes of a parameter in all."""
        return self.master + self.copy + self.gradient + self.moments


COUNTED = ("fp32", "tf32", "fp16-dynamic", "bf16", "bf16-pure", "fp8-current", "mxfp8", "nvfp4")


def costs() -> list[Cost]:
    """The counted model of some recipes."""
    return [_cost(RECIPES[name]) for name in COUNTED]


def _cost(recipe: Recipe) -> Cost:
    master, kept = _bytes(recipe.master), _bytes(recipe.kept)
    weight = _operand_bytes(recipe, "weight")
    copy = 0.0 if recipe.weight.format in (recipe.master, None) or recipe.weight.format == "tf32" else weight
    moments = _bytes(recipe.momentum) + _bytes(recipe.second_moment)
    operands = weight + _operand_bytes(recipe, "activation")
    return Cost(
        recipe.name,
        master,
        copy,
        _bytes(recipe.weight_gradient),
        moments,
        min(kept, _operand_bytes(recipe, "activation")),
        operands,
    )


def _bytes(format: str | None) -> float:
    return 4.0 if format is None else FORMATS[format].bits / 8


def _operand_bytes(recipe: Recipe, role: str) -> float:
    """Of an element with its share of the block's scale; TF32 is read as FP32."""
    operand = getattr(recipe, role)
    if operand.format in (None, "tf32"):
        return 4.0
    scale = {"mx": 1 / 32, "nvfp4": 1 / 16}.get(operand.scaling, 0.0)
    if operand.scaling == "nvfp4" and isinstance(operand.block, tuple) and operand.block[0] > 1:
        scale = 1 / (operand.block[0] * operand.block[1])
    return FORMATS[operand.format].bits / 8 + scale


COST_NOTE = (
    "Counted from the recipes, not measured: bytes kept for each parameter under Adam, for each activation that the backward pass reads, and "
    "read for each "
    "multiply-add. Mixed precision with FP32 master weights keeps as many bytes a parameter as FP32, or more; what shrinks are activations, and "
    "the traffic of "
    "operands, which bounds a memory-bound product's speed. How much faster a chip multiplies short formats, only a recording can say."
)


def recorded_costs(results: Sequence[Result]) -> list[str]:
    """Time and memory from recordings of GPUs, a line a run; empty without any."""
    found = next((result for result in results if result.folder.name == "e37_training_recordings"), None)
    if found is None:
        return []
    runs = found.tables().get("runs")
    if runs is None or runs.empty or not runs.gpu.any():
        return []
    return [
        f"{row['recording']}: {row['task']}, {row['mode']}: {row['step_ms']:.2f} ms a step, {row['peak_mib']:.0f} MiB"
        for row in runs[runs.gpu].to_dict("records")
    ]
