"""A deep multilayer perceptron in NumPy: the forward pass, the loss and the backward pass, each written out.

Layer l = 1..L computes  z_l = a_(l-1) W_l + b_l  and  a_l = relu(z_l); a_0 is the batch of inputs and z_L the logits.
The loss is the softmax cross-entropy averaged over the batch. Lists hold layer l at index l - 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Parameters:
    """Weights W_l of shape (inputs, outputs) and biases b_l of shape (outputs,)."""

    weights: list[Array]
    biases: list[Array]


@dataclass(frozen=True)
class Trace:
    """What the backward pass needs of a forward pass.

    inputs: a_(l-1) of every layer, each (batch, inputs). gates: z_l > 0 of every hidden layer, boolean.
    logits: (batch, classes).
    """

    inputs: list[Array]
    gates: list[NDArray[np.bool_]]
    logits: Array


@dataclass(frozen=True)
class Gradients:
    """Of the loss: activations[l-1] by z_l (the last is the logit gradient), weights, biases, and images by a_0."""

    activations: list[Array]
    weights: list[Array]
    biases: list[Array]
    images: Array


def initialise(widths: Sequence[int], seed: int, dtype: type = np.float32) -> Parameters:
    """He initialisation for ReLU: W ~ N(0, 2 / inputs), b = 0. `widths` runs from the inputs to the classes.

    Raises ValueError for fewer than two widths or a width below 1.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths needs at least two positive entries, got {list(widths)}")
    rng = np.random.default_rng(seed)
    shapes = list(pairwise(widths))
    weights = [(rng.standard_normal(shape) * np.sqrt(2 / shape[0])).astype(dtype) for shape in shapes]
    return Parameters(weights, [np.zeros(outputs, dtype) for _, outputs in shapes])


def forward(parameters: Parameters, images: Array) -> Trace:
    """Run the network on images (batch, widths[0]), in their dtype."""
    inputs, gates = [images], []
    *hidden, (last_weight, last_bias) = zip(parameters.weights, parameters.biases, strict=True)
    for weight, bias in hidden:
        z = inputs[-1] @ weight + bias
        gates.append(z > 0)
        inputs.append(np.maximum(z, 0))
    return Trace(inputs, gates, inputs[-1] @ last_weight + last_bias)


def log_probabilities(logits: Array) -> Array:
    """Log-softmax over the last axis; subtracting the row maximum first keeps every exponential at or below 1."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def loss(logits: Array, labels: NDArray[np.int64]) -> float:
    """Softmax cross-entropy in nats, averaged over the batch."""
    return float(-log_probabilities(logits)[np.arange(len(labels)), labels].mean())


def logit_gradient(logits: Array, labels: NDArray[np.int64]) -> Array:
    """Gradient of `loss` by the logits, (softmax - one-hot) / batch: the division is what mean reduction does."""
    gradient = np.exp(log_probabilities(logits))
    gradient[np.arange(len(labels)), labels] -= 1
    return gradient / len(labels)


def as_computed(x: Array) -> Array:
    """The rounding of an ordinary pass: none beyond the arithmetic's own."""
    return x


def backward(
    parameters: Parameters, trace: Trace, seed_gradient: Array, rounded: Callable[[Array], Array] = as_computed
) -> Gradients:
    """Carry a gradient by the logits, (batch, classes), back to every parameter and to the images.

    `rounded` is applied to every tensor the pass produces, so an emulated pass is this same code (see `emulated`).
    The ReLU selects rather than multiplies, as frameworks do: a closed gate drops an infinity and makes no NaN of it.
    """
    dz = rounded(seed_gradient)
    activations, weights, biases = [], [], []
    for layer in reversed(range(len(parameters.weights))):
        activations.append(dz)
        weights.append(rounded(trace.inputs[layer].T @ dz))
        biases.append(rounded(dz.sum(axis=0)))
        d_input = rounded(dz @ parameters.weights[layer].T)
        if layer > 0:
            dz = np.where(trace.gates[layer - 1], d_input, d_input.dtype.type(0))
    return Gradients(activations[::-1], weights[::-1], biases[::-1], d_input)


@dataclass
class Momentum:
    """Stochastic gradient descent with heavy-ball momentum: v <- momentum v + g, w <- w - rate v."""

    rate: float
    momentum: float = 0.9
    velocity: list[Array] | None = None

    def step(self, parameters: Parameters, gradients: Gradients) -> None:
        """Update the parameters in place."""
        values = parameters.weights + parameters.biases
        slopes = gradients.weights + gradients.biases
        if self.velocity is None:
            self.velocity = [np.zeros_like(value) for value in values]
        for value, slope, velocity in zip(values, slopes, self.velocity, strict=True):
            velocity *= value.dtype.type(self.momentum)
            velocity += slope
            value -= value.dtype.type(self.rate) * velocity


def accuracy(parameters: Parameters, images: Array, labels: NDArray[np.int64]) -> float:
    """Share of images whose largest logit is the label's."""
    return float((forward(parameters, images).logits.argmax(axis=1) == labels).mean())
