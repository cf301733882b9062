"""Layers with their forward and backward passes written out; every product goes through ``Numerics``.

``forward`` returns the output and what the backward pass needs of it; ``backward`` takes that and the gradient by the
output, adds the gradients of the layer's parameters to a dict and returns the gradient by the input.  Parameters live in
one dict of a network, by name: ``block1.attention.query.weight``.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass
from math import pi, sqrt
from typing import Any, Protocol

import numpy as np

from analysis.training.numerics import BY_INPUT, BY_WEIGHT, FORWARD, Array, Numerics

Parameters = dict[str, Array]
Saved = Any


class Layer(Protocol):
    """One step of a network."""

    def initialise(self, rng: np.random.Generator) -> Parameters: ...
    def forward(self, p: Parameters, x: Array, n: Numerics) -> tuple[Array, Saved]: ...
    def backward(self, p: Parameters, saved: Saved, dy: Array, n: Numerics, gradients: Parameters) -> Array: ...


def add_to(gradients: Parameters, name: str, g: Array) -> None:
    """Gradients of a parameter used twice (a tied embedding) add up."""
    gradients[name] = gradients[name] + g if name in gradients else g


def _rows(x: Array) -> Array:
    """All leading axes as one."""
    return x.reshape(-1, x.shape[-1])


class _NoParameters:
    def initialise(self, rng: np.random.Generator) -> Parameters:
        return {}


@dataclass(frozen=True)
class Linear:
    """y = x W + b: x (..., inputs), W (inputs, outputs), b (outputs,); W ~ N(0, gain^2 / inputs), b = 0.

    tied: the name of a parameter (outputs, inputs) whose transpose is W.
    """

    name: str
    inputs: int
    outputs: int
    gain: float = 1.0
    bias: bool = True
    tied: str | None = None

    def initialise(self, rng: np.random.Generator) -> Parameters:
        made: Parameters = {}
        if self.tied is None:
            made[f"{self.name}.weight"] = (
                rng.standard_normal((self.inputs, self.outputs)) * self.gain / sqrt(self.inputs)
            )
        if self.bias:
            made[f"{self.name}.bias"] = np.zeros(self.outputs)
        return made

    def _weight(self, p: Parameters) -> Array:
        return p[f"{self.name}.weight"] if self.tied is None else p[self.tied].T

    def forward(self, p: Parameters, x: Array, n: Numerics) -> tuple[Array, Saved]:
        y = n.product(FORWARD, self.name, _rows(x), self._weight(p))
        if self.bias:
            y = y + n.bias(p[f"{self.name}.bias"])
        return n.kept(y).reshape(*x.shape[:-1], self.outputs), x

    def backward(self, p: Parameters, saved: Saved, dy: Array, n: Numerics, gradients: Parameters) -> Array:
        dy, x = n.gradient_kept(self.name, dy), _rows(saved)
        rows = _rows(dy)
        dw = n.weight_gradient(self.name, n.product(BY_WEIGHT, self.name, x.T, rows))
        if self.tied is None:
            add_to(gradients, f"{self.name}.weight", dw)
        else:
            add_to(gradients, self.tied, dw.T)
        if self.bias:
            add_to(gradients, f"{self.name}.bias", n.weight_gradient(f"{self.name}.bias", rows.sum(axis=0)))
        dx = n.product(BY_INPUT, self.name, rows, self._weight(p).T)
        return n.kept(dx).reshape(*dy.shape[:-1], self.inputs)


class ReLU(_NoParameters):
    """max(x, 0).  The gradient is selected, not multiplied: a closed gate drops an infinity and makes no NaN of it."""

    def forward(self, p: Parameters, x: Array, n: Numerics) -> tuple[Array, Saved]:
        return np.maximum(x, x.dtype.type(0)), x > 0

    def backward(self, p: Parameters, saved: Saved, dy: Array, n: Numerics, gradients: Parameters) -> Array:
        return np.where(saved, dy, dy.dtype.type(0))


class GELU(_NoParameters):
    """x Phi(x), by the tanh formula (Hendrycks and Gimpel, arXiv 1606.08415)."""

    INNER, CUBIC = sqrt(2 / pi), 0.044715

    def forward(self, p: Parameters, x: Array, n: Numerics) -> tuple[Array, Saved]:
        tanh = np.tanh(x.dtype.type(self.INNER) * (x + x.dtype.type(self.CUBIC) * x * x * x))
        return n.kept(x.dtype.type(0.5) * x * (1 + tanh)), (x, tanh)

    def backward(self, p: Parameters, saved: Saved, dy: Array, n: Numerics, gradients: Parameters) -> Array:
        x, tanh = saved
        one = x.dtype.type
        inner = one(self.INNER) * (1 + one(3 * self.CUBIC) * x * x)
        return n.kept(dy * (one(0.5) * (1 + tanh) + one(0.5) * x * (1 - tanh * tanh) * inner))


@dataclass(frozen=True)
class LayerNorm:
    """(x - mean) / sqrt(variance + epsilon) * gain + bias over the last axis, in float32."""

    name: str
    width: int
    epsilon: float = 1e-5

    def initialise(self, rng: np.random.Generator) -> Parameters:
        return {f"{self.name}.gain": np.ones(self.width), f"{self.name}.bias": np.zeros(self.width)}

    def forward(self, p: Parameters, x: Array, n: Numerics) -> tuple[Array, Saved]:
        centred = x - x.mean(axis=-1, keepdims=True)
        inverse = 1 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + x.dtype.type(self.epsilon))
        normal = centred * inverse
        gain = n.weight(p[f"{self.name}.gain"])
        return n.carried(normal * gain + n.weight(p[f"{self.name}.bias"])), (normal, inverse, gain)

    def backward(self, p: Parameters, saved: Saved, dy: Array, n: Numerics, gradients: Parameters) -> Array:
        normal, inverse, gain = saved
        add_to(gradients, f"{self.name}.gain", n.carried_gradient(f"{self.name}.gain", _rows(dy * normal).sum(axis=0)))
        add_to(gradients, f"{self.name}.bias", n.carried_gradient(f"{self.name}.bias", _rows(dy).sum(axis=0)))
        g = dy * gain
        mean, along = g.mean(axis=-1, keepdims=True), (g * normal).mean(axis=-1, keepdims=True)
        return n.carried(inverse * (g - mean - normal * along))


@dataclass(frozen=True)
class Embedding:
    """Rows of a table for tokens (batch, time), plus learned positions; N(0, deviation^2)."""

    name: str
    tokens: int
    context: int
    width: int
    deviation: float = 0.02

    def initialise(self, rng: np.random.Generator) -> Parameters:
        return {
            f"{self.name}.tokens": rng.standard_normal((self.tokens, self.width)) * self.deviation,
            f"{self.name}.positions": rng.standard_normal((self.context, self.width)) * self.deviation,
        }

    def forward(self, p: Parameters, x: Array, n: Numerics) -> tuple[Array, Saved]:
        tokens, positions = (n.weight(p[f"{self.name}.{part}"]) for part in ("tokens", "positions"))
        return n.carried(tokens[x] + positions[: x.shape[1]]), x

    def backward(self, p: Parameters, saved: Saved, dy: Array, n: Numerics, gradients: Parameters) -> Array:
        tokens, positions = np.zeros_like(p[f"{self.name}.tokens"]), np.zeros_like(p[f"{self.name}.positions"])
        np.add.at(tokens, saved.ravel(), _rows(dy))
        positions[: saved.shape[1]] = dy.sum(axis=0)
        for part, g in (("tokens", tokens), ("positions", positions)):
            add_to(gradients, f"{self.name}.{part}", n.carried_gradient(f"{self.name}.{part}", g))
        return dy


@dataclass(frozen=True)
class Attention:
    """Causal self-attention of several heads: x (batch, time, width).

    Scores and their gradients are kept in 16 bits where the recipe says so; softmax is float32, as in autocast.
    """

    name: str
    width: int
    heads: int
    gain: float = 1.0

    @property
    def maps(self) -> tuple[Linear, Linear]:
        """The linear layers that make queries, keys and values of the input, and the output of what they mix."""
        return (
            Linear(f"{self.name}.inputs", self.width, 3 * self.width),
            Linear(f"{self.name}.output", self.width, self.width, self.gain),
        )

    def initialise(self, rng: np.random.Generator) -> Parameters:
        return {name: value for one in self.maps for name, value in one.initialise(rng).items()}

    def _split(self, x: Array) -> Array:
        batch, time, _ = x.shape
        return x.reshape(batch, time, -1, self.heads, self.width // self.heads).transpose(2, 0, 3, 1, 4)

    def _join(self, x: Array) -> Array:
        _, batch, _, time, _ = x.shape
        return np.ascontiguousarray(x.transpose(1, 3, 0, 2, 4)).reshape(batch, time, -1)

    def forward(self, p: Parameters, x: Array, n: Numerics) -> tuple[Array, Saved]:
        inputs, output = self.maps
        joined, inputs_saved = inputs.forward(p, x, n)
        query, key, value = self._split(joined)
        scale = x.dtype.type(1 / sqrt(query.shape[-1]))
        scores = n.kept(n.kept(n.attention_product(query, key.swapaxes(-1, -2))) * scale)
        future = np.triu(np.ones(scores.shape[-2:], bool), 1)
        scores = np.where(future, -np.inf, scores).astype(scores.dtype)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = self._join(n.kept(n.attention_product(weights, value))[None])
        y, output_saved = output.forward(p, mixed, n)
        return y, (inputs_saved, output_saved, query, key, value, weights, scale)

    def backward(self, p: Parameters, saved: Saved, dy: Array, n: Numerics, gradients: Parameters) -> Array:
        inputs, output = self.maps
        inputs_saved, output_saved, query, key, value, weights, scale = saved
        d_mixed = self._split(output.backward(p, output_saved, dy, n, gradients))[0]
        d_weights = n.kept(n.attention_product(d_mixed, value.swapaxes(-1, -2)))
        d_value = n.kept(n.attention_product(weights.swapaxes(-1, -2), d_mixed))
        d_scores = n.kept(weights * (d_weights - (weights * d_weights).sum(axis=-1, keepdims=True)))
        d_scores = n.kept(d_scores * scale)
        d_query = n.kept(n.attention_product(d_scores, key))
        d_key = n.kept(n.attention_product(d_scores.swapaxes(-1, -2), query))
        return inputs.backward(p, inputs_saved, self._join(np.stack([d_query, d_key, d_value])), n, gradients)


@dataclass(frozen=True)
class Convolution:
    """A square convolution of images (batch, height, width, channels) as one product of patches; He initialisation."""

    name: str
    inputs: int
    outputs: int
    size: int = 3
    stride: int = 1
    gain: float = sqrt(2)

    @property
    def _map(self) -> Linear:
        return Linear(self.name, self.size * self.size * self.inputs, self.outputs, self.gain)

    def initialise(self, rng: np.random.Generator) -> Parameters:
        return self._map.initialise(rng)

    def forward(self, p: Parameters, x: Array, n: Numerics) -> tuple[Array, Saved]:
        edge = self.size // 2
        padded = np.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (self.size, self.size), axis=(1, 2))
        windows = windows[:, :: self.stride, :: self.stride].transpose(0, 1, 2, 4, 5, 3)
        y, saved = self._map.forward(p, windows.reshape(*windows.shape[:3], -1), n)
        return y, (saved, x.shape)

    def backward(self, p: Parameters, saved: Saved, dy: Array, n: Numerics, gradients: Parameters) -> Array:
        patches, (batch, height, width, channels) = saved
        d = self._map.backward(p, patches, dy, n, gradients)
        _, rows, columns, _ = d.shape
        d = d.reshape(batch, rows, columns, self.size, self.size, channels)
        edge = self.size // 2
        padded = np.zeros((batch, height + 2 * edge, width + 2 * edge, channels), d.dtype)
        for i in range(self.size):
            for j in range(self.size):
                down, across = i + self.stride * rows, j + self.stride * columns
                padded[:, i : down : self.stride, j : across : self.stride] += d[:, :, :, i, j]
        return n.kept(padded[:, edge : edge + height, edge : edge + width])


class Flatten(_NoParameters):
    """(batch, ...) as (batch, features)."""

    def forward(self, p: Parameters, x: Array, n: Numerics) -> tuple[Array, Saved]:
        return x.reshape(len(x), -1), x.shape

    def backward(self, p: Parameters, saved: Saved, dy: Array, n: Numerics, gradients: Parameters) -> Array:
        return dy.reshape(saved)


@dataclass(frozen=True)
class Chain:
    """Layers one after another."""

    layers: tuple[Layer, ...]

    def initialise(self, rng: np.random.Generator) -> Parameters:
        return {name: value for layer in self.layers for name, value in layer.initialise(rng).items()}

    def forward(self, p: Parameters, x: Array, n: Numerics) -> tuple[Array, Saved]:
        kept = []
        for layer in self.layers:
            x, saved = layer.forward(p, x, n)
            kept.append(saved)
        return x, kept

    def backward(self, p: Parameters, saved: Saved, dy: Array, n: Numerics, gradients: Parameters) -> Array:
        for layer, one in zip(reversed(self.layers), reversed(saved), strict=True):
            dy = layer.backward(p, one, dy, n, gradients)
        return dy


@dataclass(frozen=True)
class Residual:
    """x + inner(x)."""

    inner: Chain

    def initialise(self, rng: np.random.Generator) -> Parameters:
        return self.inner.initialise(rng)

    def forward(self, p: Parameters, x: Array, n: Numerics) -> tuple[Array, Saved]:
        y, saved = self.inner.forward(p, x, n)
        return n.carried(x + y), saved

    def backward(self, p: Parameters, saved: Saved, dy: Array, n: Numerics, gradients: Parameters) -> Array:
        return n.carried(dy + self.inner.backward(p, saved, dy, n, gradients))


def chain(*layers: Layer) -> Chain:
    """Layers one after another."""
    return Chain(tuple(layers))


def names_of(layers: Many[Layer]) -> list[str]:
    """The names of the layers that have products, in order."""
    found: list[str] = []
    for layer in layers:
        if isinstance(layer, (Linear, Convolution)):
            found.append(layer.name)
        elif isinstance(layer, Attention):
            found += [f"{layer.name}.inputs", f"{layer.name}.output"]
        elif isinstance(layer, Chain):
            found += names_of(layer.layers)
        elif isinstance(layer, Residual):
            found += names_of(layer.inner.layers)
    return found
