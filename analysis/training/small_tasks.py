"""Small tasks to compare recipes on: a network, seeded batches, held-out examples, and an optimizer that suits them.

A seed chooses the initial weights and the batches, so that runs of one seed under two recipes start and read alike.  The
held-out loss is that of the final weights in float32: only training differs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from math import inf
from typing import Any

import numpy as np

from analysis.training import digits, networks, scenes, text
from analysis.training.networks import Network
from analysis.training.numerics import Numerics
from analysis.training.optimizers import Rule
from analysis.training.recipes import Recipe
from analysis.training.trainer import Batches, History, Plan, train

SPLIT = 0  # the digits are split once, for all seeds: what varies is the run, not the examples held out


@dataclass(frozen=True)
class Task:
    """What is trained, on what, and how.

    batches: of a seed.  held_out: inputs and targets.  plan: its seed is replaced by that of a run.
    """

    network: Network
    batches: Callable[[int], Batches]
    held_out: tuple[Any, Any]
    plan: Plan

    def run(
        self, recipe: Recipe | str, seed: int, capture: Collection[int] = (), keep: Collection[str] = ()
    ) -> History:
        """Train under a recipe from a seed."""
        plan = replace(self.plan, seed=seed, capture=capture, keep=keep)
        return train(self.network, self.batches(seed), recipe, plan)

    def loss(self, history: History) -> float:
        """Held-out loss of the final weights, in nats, computed in float32; infinite where training diverged or stopped."""
        if history.diverged is not None or history.stopped is not None:
            return inf
        x, targets = self.held_out
        with np.errstate(all="ignore"):
            y, _ = self.network.forward(history.parameters, x, Numerics("fp32-blas"))
            value = self.network.loss(y, targets).value
        return value if np.isfinite(value) else inf


@cache
def _digits() -> digits.Digits:
    return digits.load(seed=SPLIT)


def _digit_task(network: Network, shape: tuple[int, ...], batch: int, plan: Plan) -> Task:
    data = _digits()

    def batches(seed: int) -> Batches:
        for rows in digits.batches(len(data.train_labels), batch, seed):
            yield data.train_images[rows].reshape(-1, *shape), data.train_labels[rows]

    return Task(network, batches, (data.test_images.reshape(-1, *shape), data.test_labels), plan)


def digits_mlp(steps: int, widths: tuple[int, ...] = (64, 64, 64, 10), batch: int = 64) -> Task:
    """Handwritten digits, an MLP, SGD with momentum whose rate falls to 0 over the second half."""
    return _digit_task(networks.mlp(widths), (64,), batch, Plan(Rule(rate=0.02), steps=steps, warmup=5, decay=0.5))


def digits_convnet(steps: int, channels: tuple[int, int] = (8, 16), batch: int = 32) -> Task:
    """The same digits as images, two convolutions."""
    plan = Plan(Rule(rate=0.02), steps=steps, warmup=5, decay=0.5)
    return _digit_task(networks.convnet(channels), (8, 8, 1), batch, plan)


def small_gpt(
    steps: int, width: int = 32, depth: int = 2, context: int = 32, batch: int = 4, heads: int = 2, rate: float = 1e-2
) -> Task:
    """Characters of English reference prose, a GPT, Adam whose rate falls to 0 over the second half."""
    prose = text.load()
    network = networks.gpt(len(prose.alphabet), context, width, depth, heads)
    windows = list(islice(text.batches(prose.test, 64, context, SPLIT), 2))
    held_out = tuple(np.concatenate(part) for part in zip(*windows, strict=True))
    plan = Plan(Rule("adam", rate=rate), steps=steps, warmup=10, decay=0.5)
    return Task(network, lambda seed: text.batches(prose.train, batch, context, seed), (held_out[0], held_out[1]), plan)


def small_detector(steps: int, batch: int = 8, digits_a_scene: int = 3, rate: float = 0.5) -> Task:
    """Digits scattered over a canvas, an SSD-like head: 1,024 anchors a scene, mostly background, mean-reduced."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images, first = images.astype(np.float32), len(labels) * 4 // 5
    held_out = next(scenes.batches(images[first:], labels[first:], 32, digits_a_scene, SPLIT))

    def batches(seed: int) -> Batches:
        return scenes.batches(images[:first], labels[:first], batch, digits_a_scene, seed)

    return Task(networks.detector(), batches, held_out, Plan(Rule(rate=rate), steps=steps, warmup=10, decay=0.5))
