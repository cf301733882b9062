"""What does epsilon do to Adam when gradients are small, and what does pure FP16 do to Adam?

Adam takes a step of about the learning rate whatever the gradient's size, until that size meets epsilon. Constant
gradients over thirty decades are given to it in FP32 and with its state in BF16, with the usual epsilon and a much
smaller one. Then every operation of PyTorch's Adam is rounded to FP16, as for FP16 parameters.

What to see: with epsilon 1e-8 steps fade for gradients below 1e-8; with 1e-15 they do not. In pure FP16 epsilon rounds
to zero and squares underflow: a zero gradient makes a NaN of its weight, one of 1e-4 an infinity.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import fpemu as fp
from analysis.experiment import Claim, Finding, Profile, Unit, Verdict
from analysis.figures import colour, label
from analysis.tables import where
from analysis.training.optimizers import Optimizer, Rule
from analysis.training.recipes import RECIPES

EPSILONS = (1e-8, 1e-15)
STATES = ("float32", "bfloat16")
STEPS, RATE = 50, 1e-3
SIZES = np.logspace(-20, 0, 81)
PURE = (0.0, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 1.0)
PURE_FORMATS, PURE_EPSILONS = ("fp16", "bf16"), (1e-8, 1e-4)

TITLE = "Adam, epsilon and FP16"
QUESTION = "What does epsilon do to Adam when gradients are small, and what does pure FP16 do to Adam?"
CLAIMS = (
    Claim(
        "A smaller epsilon is better at scale, where gradients come near it.",
        "Wortsman et al., arXiv 2309.14322; from memory; NVIDIA's NeMo primer; documentation",
        "1e-15",
        "second-hand",
    ),
    Claim(
        "Steps shrink once gradients come near epsilon = 1e-8.",
        "our own pilot",
        "g = 1e-8: 0.5 of the rate; 1e-9: 0.09",
        "pilot",
    ),
    Claim(
        "In pure FP16 epsilon is zero: zero gradients give NaN.", "optax, issue 1754; second-hand", "NaN", "second-hand"
    ),
    Claim(
        "PyTorch's Adam in FP16: a zero gradient gives NaN, g = 1e-4 gives minus infinity.",
        "our own pilot",
        "NaN; -inf",
        "pilot",
    ),
)


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"part": "all"}]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``steps``: the size of the last step over the rate, by gradient, epsilon and state; ``pure``: weights after steps in one format."""
    rows: list[dict[str, Any]] = []
    for epsilon in EPSILONS:
        for state in STATES:
            kept = None if state == "float32" else state
            recipe = RECIPES["fp32"].but("adam", momentum=kept, second_moment=kept)
            optimizer = Optimizer(Rule("adam", rate=RATE, epsilon=epsilon), recipe)
            parameters = {"w": np.zeros(SIZES.size, np.float32)}
            for _ in range(STEPS):
                before = parameters["w"]
                optimizer.step(parameters, {"w": SIZES.astype(np.float32)})
            taken = np.abs(parameters["w"].astype(np.float64) - before) / RATE
            rows += [
                {"epsilon": epsilon, "state": state, "gradient": size, "step": float(step)}
                for size, step in zip(SIZES, taken, strict=True)
            ]
    pure = [
        {"format": name, "epsilon": epsilon, "gradient": g, "weight": float(w)}
        for name in PURE_FORMATS
        for epsilon in PURE_EPSILONS
        for g, w in zip(PURE, pure_adam(np.array(PURE), name, epsilon, 3), strict=True)
    ]
    return {"steps": pd.DataFrame(rows), "pure": pd.DataFrame(pure)}


def pure_adam(gradients: Any, name: str, epsilon: float, steps: int) -> Any:
    """Weights that start at 1 after steps of PyTorch's Adam with every tensor in one format.

    The order of torch.optim's single-tensor Adam; each operation is computed in float32 and rounded to the format, as PyTorch's kernels do.
    """

    def rounded(x: Any) -> Any:
        return fp.quantize(np.asarray(x, np.float32), name)

    one, beta1, beta2 = np.float32, 0.9, 0.999
    g = rounded(gradients)
    w, m, v = rounded(np.ones(len(g))), np.zeros(len(g), np.float32), np.zeros(len(g), np.float32)
    with np.errstate(all="ignore"):
        for step in range(1, steps + 1):
            m = rounded(m + one(1 - beta1) * (g - m))  # lerp_
            v = rounded(rounded(v * one(beta2)) + one(1 - beta2) * g * g)  # mul_, addcmul_
            root = rounded(rounded(np.sqrt(v)) / one((1 - beta2**step) ** 0.5))
            w = rounded(w + one(-RATE / (1 - beta1**step)) * (m / rounded(root + one(epsilon))))  # add_, addcdiv_
    return w


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {
    "epsilon": (
        f"Size of Adam's step over the learning rate, over the size of a constant gradient, after {STEPS} steps, for two values of epsilon "
        f"(vertical lines) and with momentum and second moment kept in FP32 and in BF16. "
        "Where g^2 underflows in FP32 (left of 1e-19 or so; dotted) the second moment is zero, and only epsilon is left."
    )
}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figure of CAPTIONS."""
    return {"epsilon": draw_epsilon(tables["steps"])}


def draw_epsilon(steps: pd.DataFrame) -> Figure:
    """A line for each epsilon and state."""
    figure, ax = plt.subplots(figsize=(8, 3.6))
    for epsilon, line in zip(EPSILONS, ("-", "--"), strict=True):
        for state in STATES:
            part = where(steps, epsilon=epsilon, state=state)
            ax.plot(
                part.gradient,
                part.step,
                line,
                color=colour(state),
                label=f"epsilon {epsilon:g}, state in {label(state)}",
            )
        ax.axvline(epsilon, color="#70757D", linewidth=1)
    ax.axvline(
        fp.FORMATS["float32"].smallest_subnormal ** 0.5 / 0.001**0.5, color="#70757D", linewidth=1, linestyle=":"
    )
    ax.set(
        xscale="log",
        xlabel="size of the gradient (absolute value)",
        ylabel="step over learning rate (no unit)",
        ylim=(-0.05, 1.3),
    )
    ax.legend(loc="upper left", fontsize=8)
    return figure


# ---- verdict --------------------------------------------------------------------------------------------------------
HALF, TENTH = (0.5, 0.02), (0.09, 0.01)  # of a step at g = epsilon and a tenth of it, in the pilot, and how near to it
WHOLE = 0.99  # of a step with a small epsilon, more than this


def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """Half a step at epsilon; NaN and infinity in FP16."""
    steps, pure = tables["steps"], tables["pure"]

    def step(size: float, epsilon: float, state: str = "float32") -> float:
        part = where(steps, epsilon=epsilon, state=state)
        return float(np.interp(np.log10(size), np.log10(part.gradient), part.step))

    columns = (pure.format, pure.epsilon.astype(float), pure.gradient.astype(float), pure.weight.astype(float))
    weight = {
        (name, epsilon, g): w for name, epsilon, g, w in zip(*(column.tolist() for column in columns), strict=True)
    }
    half, tenth = step(1e-8, 1e-8), step(1e-9, 1e-8)
    small = step(1e-9, 1e-15)
    dead = bool(np.isnan(weight["fp16", 1e-8, 0.0]) and weight["fp16", 1e-8, 1e-4] == -np.inf)
    saved = bool(np.isfinite([weight["fp16", 1e-4, g] for g in PURE]).all())
    holds = abs(half - HALF[0]) < HALF[1] and abs(tenth - TENTH[0]) < TENTH[1] and small > WHOLE and dead

    def special(value: float) -> str:
        return "NaN" if np.isnan(value) else "minus infinity" if value == -np.inf else f"{value:g}"

    summary = (
        f"With epsilon 1e-8 Adam takes {half:.2f} of a step at g = 1e-8 and {tenth:.2f} at 1e-9, with 1e-15 {small:.2f}. In pure FP16 with "
        f"epsilon 1e-8 a zero gradient turns the weight into {special(weight['fp16', 1e-8, 0.0])}, one of 1e-4 into "
        f"{special(weight['fp16', 1e-8, 1e-4])}; epsilon 1e-4 {'keeps every weight finite' if saved else 'does not save every weight'}, and BF16, which "
        f"holds 1e-8, leaves it at {weight['bf16', 1e-8, 0.0]:g} for a zero gradient."
    )
    findings = [
        Finding(
            "FP32, epsilon 1e-8: step over rate at g = 1e-8, 1e-9", "0.5, 0.09 (pilot)", f"{half:.3f}, {tenth:.3f}"
        ),
        Finding("FP32, epsilon 1e-15: the same", "not published", f"{step(1e-8, 1e-15):.3f}, {small:.3f}"),
    ]
    findings += [
        Finding(
            f"pure {label(name)}, epsilon {epsilon:g}: weight after 3 steps from 1, for g = {', '.join(f'{g:g}' for g in PURE)}",
            "NaN at 0, -inf at 1e-4 (pilot)"
            if (name, epsilon) == ("fp16", 1e-8)
            else "1e-4 is used (glide-finetune)"
            if name == "fp16"
            else "stays exactly 1.0 at g = 1 (pilot)",
            ", ".join(f"{weight[name, epsilon, g]:g}" for g in PURE),
        )
        for name in PURE_FORMATS
        for epsilon in PURE_EPSILONS
    ]
    return Verdict("holds" if holds else "holds with conditions", summary, tuple(findings))
