"""The training loop: scale the loss, run both passes, unscale, ask the scaler, update; and keep what happened.

A step, in order: (1) forward and backward passes under the recipe, with the loss multiplied by the scale; (2) whether any gradient is
not finite is judged now, while they are scaled (as torch.amp does: torch/amp/grad_scaler.py, v2.13.0); then they are multiplied by the
inverse of the scale in float32; (3) the scaler hears of it, and says whether the step is applied; (4) the optimizer updates the
weights.  At chosen steps a second, float32 pass of the same weights and batch tells how well the gradients agree.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from math import inf, log2, nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import fpemu as fp
from analysis.files import write_whole
from analysis.training.agreement import agree
from analysis.training.layers import Parameters
from analysis.training.networks import Network
from analysis.training.numerics import Array, Numerics
from analysis.training.optimizers import Optimizer, Rule, Visibility
from analysis.training.recipes import Recipe, as_recipe
from fpemu.scaling.loss import LossScaler, ScalerStopped, loss_scaler

Batches = Iterator[tuple[Any, Any]]


@dataclass(frozen=True)
class Plan:
    """What to train and for how long.

    rule, steps, seed: of the optimizer; number; of initial weights and of random rounding.
    warmup, decay: steps over which the rate rises from 0, and the share of steps at the end in which it falls to 0, linearly.
    capture: steps at which gradients are measured.  keep: layers whose gradients are kept as tensors at these steps.
    """

    rule: Rule = field(default_factory=Rule)
    steps: int = 200
    seed: int = 0
    warmup: int = 0
    decay: float = 0.0
    capture: Collection[int] = ()
    keep: Collection[str] = ()

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        tail = self.decay * self.steps
        fall = min(1.0, (self.steps - step) / tail) if tail else 1.0
        return self.rule.rate * rise * fall


@dataclass
class History:
    """What happened.

    steps: a row a step: loss; scale; overflow (of the scaled gradients), applied; log2_amax of the unscaled ones; cancelled,
        update_cosine and update_gain of the updates (NaN where none was applied).
    layers: a row for each gradient measured: step, role (``gradient``: by a layer's output; ``weight``: by its weights; ``operand``: what
        products get of the former; ``shadow``: gradients by weights against a float32 pass; ``update``: intended updates against those that
        reached the weights, ``new_zero`` counting the cancelled), layer, and the sums of ``analysis.training.agreement`` with their measures.
    tensors: kept gradients by ``step/role/layer``.
    parameters: as they are at the end.  diverged: the step at which the loss or a weight was no finite number, or None.
    stopped: what the scaler said when it gave up, or None.
    """

    recipe: Recipe
    steps: pd.DataFrame = field(default_factory=pd.DataFrame)
    layers: pd.DataFrame = field(default_factory=pd.DataFrame)
    tensors: dict[str, Array] = field(default_factory=dict)
    parameters: Parameters = field(default_factory=dict)
    diverged: int | None = None
    stopped: str | None = None

    def save_tensors(self, path: Path) -> None:
        """The kept gradients as an .npz, whole or not at all; ``fpemu inspect`` shows what casts would lose of them."""
        buffer = BytesIO()
        np.savez_compressed(buffer, **{name.replace("/", "."): value for name, value in self.tensors.items()})  # type: ignore[arg-type]
        write_whole(path, buffer.getvalue())

    def final_loss(self, last: int = 20) -> float:
        """Mean loss of the last steps, in nats; infinite if training diverged or its scaler gave up."""
        if self.diverged is not None or self.stopped is not None:
            return inf
        return float(self.steps.loss.tail(last).mean())


def train(
    network: Network, batches: Batches, recipe: Recipe | str, plan: Plan, start: Parameters | None = None
) -> History:
    """Train a network under a recipe.

    ``start``: initial parameters instead of the plan's seed's.  Raises ValueError for an unknown recipe or scaler.
    """
    chosen = as_recipe(recipe)
    observer = _Observer(chosen, set(plan.keep))
    numerics = Numerics(chosen, plan.seed, observer)
    optimizer = Optimizer(plan.rule, chosen, plan.seed)
    parameters = optimizer.start(network.initialise(plan.seed) if start is None else dict(start))
    scaler = None if chosen.loss_scaler is None else loss_scaler(chosen.loss_scaler, **chosen.scaler_options)
    history, rows = History(chosen, parameters=parameters), []
    for step, (x, targets) in zip(range(plan.steps), batches, strict=False):
        observer.step = step if step in plan.capture else None
        scale = 1.0 if scaler is None else scaler.scale
        loss, scaled = network.step(parameters, x, targets, numerics, scale)
        numerics.end_step()
        gradients = unscaled(scaled, scaler)
        if observer.step is not None:
            observer.shadow(network, parameters, x, targets, gradients)
        overflow, amax = not np.isfinite(largest(scaled)), largest(gradients)
        row = {
            "step": step,
            "loss": loss,
            "scale": scale,
            "overflow": overflow,
            "log2_amax": log2(amax) if 0 < amax < inf else -inf if amax == 0 else inf,
        }
        try:
            applied = scaler is None or scaler.step(row["log2_amax"] if scaler.policy.log_max else overflow)
        except ScalerStopped as error:
            history.stopped, applied = str(error), False
        seen = optimizer.step(parameters, gradients, plan.rate(step)) if applied else Visibility()
        if observer.step is not None and applied:
            observer.updates(optimizer.seen)
        rows.append(
            {
                **row,
                "applied": applied,
                "cancelled": seen.cancelled_share,
                "update_cosine": seen.cosine,
                "update_gain": seen.gain,
            }
        )
        if not np.isfinite(loss) or not all(np.isfinite(value).all() for value in parameters.values()):
            history.diverged = step
        if history.diverged is not None or history.stopped is not None:
            break
    history.steps, history.layers, history.tensors = pd.DataFrame(rows), pd.DataFrame(observer.rows), observer.tensors
    return history


def unscaled(gradients: Parameters, scaler: LossScaler | None) -> Parameters:
    """Times the inverse of the scale, in float32."""
    if scaler is None or scaler.scale == 1:
        return gradients
    with np.errstate(all="ignore"):
        return {name: g * g.dtype.type(scaler.inverse) for name, g in gradients.items()}


def largest(gradients: Mapping[str, Array]) -> float:
    """amax over all gradients; NaN or infinite if one is not finite."""
    return float(np.max([np.max(np.abs(g), initial=0.0) for g in gradients.values()]))


class _Observer:
    """Measures what becomes of gradients, at the steps in which it is switched on."""

    def __init__(self, recipe: Recipe, keep: set[str]) -> None:
        self.recipe, self.keep = recipe, keep
        self.step: int | None = None
        self.rows: list[dict[str, Any]] = []
        self.tensors: dict[str, Array] = {}

    def __call__(self, role: str, layer: str, before: Array, after: Array) -> None:
        """As ``Numerics`` calls it."""
        if self.step is None:
            return
        format = {"gradient": self.recipe.kept, "weight": self.recipe.weight_gradient}.get(role)
        self._measure(role, layer, before, after, format)
        if layer in self.keep:
            self.tensors[f"{self.step}/{role}/{layer}"] = before.copy()

    def shadow(self, network: Network, parameters: Parameters, x: Any, targets: Any, gradients: Parameters) -> None:
        """The gradients against those of a float32 pass of the same weights and batch."""
        exact = network.step(parameters, x, targets, Numerics("fp32"))[1]
        for name, g in exact.items():
            self._measure("shadow", name, g, gradients[name], None)

    def updates(self, seen: Mapping[str, Visibility]) -> None:
        """How much of each parameter's updates was seen."""
        for name, one in seen.items():
            self.rows.append(
                {
                    "step": self.step, "role": "update", "layer": name, "nonzero": one.intended, "new_zero": one.cancelled,
                    "new_zero_share": one.cancelled_share, "cosine": one.cosine, "gain": one.gain,
                }
            )  # fmt: skip

    def _measure(self, role: str, layer: str, before: Array, after: Array, format: str | None) -> None:
        if not np.isfinite(before).all():
            return
        found = agree(before, after)
        least = fp.FORMATS[format].smallest_normal if format else 0.0
        size = np.abs(after)
        subnormal = int(np.count_nonzero((size > 0) & (size < least))) if format else 0
        self.rows.append(
            {
                "step": self.step, "role": role, "layer": layer, "size": found.size, "nonzero": found.nonzero,
                "new_zero": found.new_zero, "subnormal": subnormal, "nonfinite": found.nonfinite,
                "new_zero_share": found.new_zero_of_nonzero, "subnormal_share": subnormal / found.nonzero if found.nonzero else nan,
                "energy_lost": found.energy_lost, "sqnr_db": found.sqnr_db, "cosine": found.cosine, "gain": found.gain,
            }
        )  # fmt: skip
