"""What is recorded of training, as data: tasks (a network, its batches, an optimizer) and modes (how a GPU runs them).

A recording holds the *keys* of batches: row numbers of the digits, windows of text.  With them, and with initial weights
that a seed fixes, a replay trains on the same numbers whatever Python it runs in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.files import digest
from analysis.training import digits, networks, text
from analysis.training.networks import Network
from analysis.training.optimizers import Rule
from analysis.training.recipes import RECIPES, Recipe

Keys = NDArray[Any]  # (steps, ...)
CAPTURED = (0, 1, 2, 5, 10, 20, 50, 100, 200, 300)  # steps whose gradients are looked at, as far as training goes
KEPT = 128  # elements of a gradient that are kept as they are
GROWTH = 20  # good steps until GradScaler's scale grows: a hundredth of its default, so that short runs reach overflow


@dataclass(frozen=True)
class Task:
    """Something to train.

    Attributes
    ----------
    name: fit for a file name. network: makes it. rule: the optimizer; steps, warmup: how long; seed: of weights and batches.
    keys: the keys of all batches. batch: inputs and targets from a key. data: SHA-256 of what keys point into ("" for none).
    """

    name: str
    network: Callable[[], Network]
    rule: Rule
    steps: int
    warmup: int
    keys: Callable[[int, int], Keys]
    batch: Callable[[NDArray[Any]], tuple[Any, Any]]
    data: Callable[[], str]
    seed: int = 0

    @property
    def captured(self) -> list[int]:
        """The steps whose gradients are looked at."""
        return [step for step in CAPTURED if step < self.steps]


@lru_cache(maxsize=1)
def _digits() -> digits.Digits:
    return digits.load(seed=0)


def _digit_keys(steps: int, seed: int) -> Keys:
    order = digits.batches(len(_digits().train_labels), 128, seed)
    return np.stack([next(order) for _ in range(steps)]).astype(np.int16)


def _digit_batch(key: NDArray[Any]) -> tuple[Any, Any]:
    return _digits().train_images[key], _digits().train_labels[key]


def _digits_digest() -> str:
    return digest(_digits().train_images.astype("<f4").tobytes() + _digits().train_labels.astype("<i8").tobytes())


def _text_keys(steps: int, seed: int) -> Keys:
    stream = text.batches(text.load().train, 8, 32, seed)
    windows = []
    for _ in range(steps):
        x, y = next(stream)
        windows.append(np.concatenate([x, y[:, -1:]], axis=1))
    return np.stack(windows).astype(np.uint8)


def _text_batch(key: NDArray[Any]) -> tuple[Any, Any]:
    window = key.astype(np.int64)
    return window[:, :-1], window[:, 1:]


_ROWS = (
    Task(
        "digits-mlp", lambda: networks.mlp((64, 128, 128, 128, 10)), Rule("sgd", rate=0.02), 301, 0,
        _digit_keys, _digit_batch, _digits_digest,
    ),
    Task(
        "gpt", lambda: networks.gpt(len(text.ALPHABET), context=32, width=64, depth=2, heads=4), Rule("adam", rate=2e-3), 201, 20,
        _text_keys, _text_batch, lambda: "",
    ),
)  # fmt: skip
TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in _ROWS})


@dataclass(frozen=True)
class Mode:
    """How a task is run.

    Attributes
    ----------
    name: fit for a file name. autocast: torch dtype of products, None: float32. scaled: with GradScaler. fp8: linear layers but
    the head through ``torch._scaled_mm``. recipe: what emulates it; its engine becomes the device's.
    """

    name: str
    recipe: Recipe
    autocast: str | None = None
    scaled: bool = False
    fp8: bool = False

    def emulated(self, chip: str | None) -> Recipe:
        """The recipe with the products of a chip's instructions; of a CPU (None) in float32 accumulators, in order."""
        recipe = self.recipe
        if self.autocast is None or chip is None:
            return recipe.but(engine="fp32", promote_every=None)
        return recipe.but(engine=f"{chip}.{FAMILIES.get(chip, 'mma')}")


FAMILIES = {"hopper": "wgmma", "b200": "tcgen05"}  # the instruction that libraries take on a chip; mma on others

MODES: Mapping[str, Mode] = MappingProxyType(
    {
        mode.name: mode
        for mode in (
            Mode("fp32", RECIPES["fp32"]),
            Mode("fp16-amp", RECIPES["fp16-dynamic"].but(scaler_options={"interval": GROWTH}), "float16", scaled=True),
            Mode("bf16-amp", RECIPES["bf16"], "bfloat16"),
            Mode("fp8", RECIPES["fp8-current"].but(exempt=("head",), promote_every=None), "bfloat16", fp8=True),
        )
    }
)
