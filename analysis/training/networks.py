"""The networks that the lab trains: a deep MLP, a convolutional net, a small GPT, an SSD-like detector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Any

import numpy as np

from analysis.training.layers import (
    GELU,
    Attention,
    Chain,
    Convolution,
    Embedding,
    Flatten,
    LayerNorm,
    Linear,
    Parameters,
    ReLU,
    Residual,
    Saved,
    chain,
)
from analysis.training.losses import Loss, cross_entropy, detection
from analysis.training.numerics import Array, Numerics


@dataclass(frozen=True)
class Network:
    """Layers and the loss of their output."""

    body: Chain
    loss: Callable[[Array, Any], Loss]

    def initialise(self, seed: int, dtype: type = np.float32) -> Parameters:
        """Parameters by name; the draws are float64, so that every dtype gets the same."""
        made = self.body.initialise(np.random.default_rng(seed))
        return {name: value.astype(dtype) for name, value in made.items()}

    def forward(self, p: Parameters, x: Array, n: Numerics) -> tuple[Array, Saved]:
        """The output, and what the backward pass needs.  Inputs are rounded as the first product reads them."""
        return self.body.forward(p, x, n)

    def step(self, p: Parameters, x: Array, targets: Any, n: Numerics, scale: float = 1.0) -> tuple[float, Parameters]:
        """The loss, and the gradients of ``scale`` times it by every parameter (not unscaled).

        The gradient by the output is computed and scaled in float32, then kept as the output is.
        """
        with np.errstate(all="ignore"):
            y, saved = self.forward(p, x, n)
            loss = self.loss(y, targets)
            gradients: Parameters = {}
            self.body.backward(p, saved, loss.gradient * loss.gradient.dtype.type(scale), n, gradients)
        return loss.value, gradients


def mlp(widths: tuple[int, ...]) -> Network:
    """Linear layers with ReLU between them; ``fc1`` is the first, ``head`` the last."""
    pairs = list(pairwise(widths))
    layers: list[Any] = []
    for place, (inputs, outputs) in enumerate(pairs[:-1], start=1):
        layers += [Linear(f"fc{place}", inputs, outputs, sqrt(2)), ReLU()]
    return Network(chain(*layers, Linear("head", *pairs[-1], sqrt(2))), cross_entropy)


def convnet(channels: tuple[int, int] = (16, 32), size: int = 8, classes: int = 10) -> Network:
    """Two 3 x 3 convolutions, the second with stride 2, and a linear head, for grey images (batch, size, size, 1)."""
    first, second = channels
    features = second * (size // 2) ** 2
    return Network(
        chain(
            Convolution("conv1", 1, first), ReLU(), Convolution("conv2", first, second, stride=2), ReLU(),
            Flatten(), Linear("head", features, classes),
        ),
        cross_entropy,
    )  # fmt: skip


def gpt(tokens: int, context: int = 64, width: int = 64, depth: int = 2, heads: int = 4, tied: bool = False) -> Network:
    """A GPT-2-like decoder with LayerNorm before each part; residual branches start at 1/sqrt(2 depth) of their size."""
    shrunk = 1 / sqrt(2 * depth)
    blocks = [
        part
        for place in range(1, depth + 1)
        for part in (
            Residual(
                chain(
                    LayerNorm(f"block{place}.norm1", width), Attention(f"block{place}.attention", width, heads, shrunk)
                )
            ),
            Residual(
                chain(
                    LayerNorm(f"block{place}.norm2", width),
                    Linear(f"block{place}.up", width, 4 * width),
                    GELU(),
                    Linear(f"block{place}.down", 4 * width, width, shrunk),
                )
            ),
        )
    ]
    head = Linear("head", width, tokens, bias=False, tied="embedding.tokens" if tied else None)
    return Network(
        chain(Embedding("embedding", tokens, context, width), *blocks, LayerNorm("norm", width), head), cross_entropy
    )


@dataclass(frozen=True)
class Anchors:
    """(batch, rows, columns, anchors x outputs) as (batch, rows x columns x anchors, outputs)."""

    outputs: int

    def initialise(self, rng: np.random.Generator) -> Parameters:
        return {}

    def forward(self, p: Parameters, x: Array, n: Numerics) -> tuple[Array, Saved]:
        return x.reshape(len(x), -1, self.outputs), x.shape

    def backward(self, p: Parameters, saved: Saved, dy: Array, n: Numerics, gradients: Parameters) -> Array:
        return dy.reshape(saved)


def detector(classes: int = 11, anchors: int = 4, channels: tuple[int, int] = (16, 32)) -> Network:
    """An SSD-like head on two convolutions: every cell of the grid (half the image's side) has anchors of classes + 4 numbers."""
    first, second = channels
    return Network(
        chain(
            Convolution("conv1", 1, first, stride=2), ReLU(), Convolution("conv2", first, second), ReLU(),
            Convolution("head", second, anchors * (classes + 4), size=1, gain=1.0), Anchors(classes + 4),
        ),
        detection,
    )  # fmt: skip
