"""What experiments on scaled formats share: seeded distributions and real tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.training import digits, networks
from analysis.training.optimizers import Rule
from analysis.training.trainer import Plan, train

Array = NDArray[Any]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]

DISTRIBUTIONS: Mapping[str, Draw] = MappingProxyType(
    {
        "Gaussian": lambda rng, shape: rng.standard_normal(shape),
        "Laplace": lambda rng, shape: rng.laplace(size=shape),
        "lognormal": lambda rng, shape: rng.choice([-1, 1], shape) * np.exp(1.5 * rng.standard_normal(shape)),
        "outliers": lambda rng, shape: rng.standard_normal(shape) * np.where(rng.random(shape) < 1 / 256, 64, 1),
    }
)


def drawn(name: str, shape: tuple[int, ...], seed: int) -> Array:
    """float32 values of a distribution: Gaussian, Laplace, lognormal (sigma 1.5, either sign), outliers (one in 256 is 64 times as large)."""
    return DISTRIBUTIONS[name](np.random.default_rng(seed), shape).astype(np.float32)


def real_tensors(seed: int, steps: int = 60) -> dict[str, Array]:
    """A weight matrix, the gradient by it and the gradient by its layer's outputs, from training a digits MLP in float32."""
    data = digits.load(seed)

    def feed() -> Iterator[tuple[Any, Any]]:
        for rows in digits.batches(len(data.train_labels), 256, seed):
            yield data.train_images[rows], data.train_labels[rows]

    network = networks.mlp((64, 256, 256, 10))
    history = train(
        network, feed(), "fp32-blas", Plan(Rule(rate=0.02), steps, seed, capture=(steps - 1,), keep=("fc2",))
    )
    gradients = {name.split("/")[1]: value for name, value in history.tensors.items()}
    return {
        "weights": history.parameters["fc2.weight"],
        "weight gradient": gradients["weight"],
        "output gradient": gradients["gradient"],
    }
