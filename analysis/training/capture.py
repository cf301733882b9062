"""Train the network in float32 and keep, at chosen steps, everything a backward pass starts from and produces."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np

from analysis.training import digits, mlp

ACTIVATION, WEIGHT = "activation", "weight"  # the two kinds of gradient: by z_l, and by W_l


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults reach 95 % test accuracy on the digits within 200 steps."""

    widths: tuple[int, ...] = (64, *[128] * 10, digits.CLASSES)  # eleven layers of weights
    batch: int = 128
    rate: float = 0.02
    momentum: float = 0.9


@dataclass(frozen=True)
class Snapshot:
    """One training step before its update: parameters (a copy), the forward pass on its batch, float32 gradients."""

    step: int
    loss: float
    parameters: mlp.Parameters
    trace: mlp.Trace
    logit_gradient: mlp.Array
    gradients: mlp.Gradients


@dataclass(frozen=True)
class Run:
    """`progress` has rows (step, batch loss in nats, test accuracy); `snapshots` are in the order of their steps."""

    progress: list[tuple[int, float, float]] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)


def tensors(gradients: mlp.Gradients) -> Iterator[tuple[str, int, mlp.Array]]:
    """(kind, layer, values) of the gradients that training needs: activation and weight gradients, layers 1..L.

    The activation gradient of layer L is the logit gradient. Biases are left out (a thousandth of the values), and so
    is the gradient by the images, which no update uses.
    """
    for kind, layers in ((ACTIVATION, gradients.activations), (WEIGHT, gradients.weights)):
        for layer, values in enumerate(layers, start=1):
            yield kind, layer, values


def train(
    data: digits.Digits, seed: int, keep: Collection[int], watch: Collection[int] = (), recipe: Recipe | None = None
) -> Run:
    """Train until the last step in `keep` or `watch`; keep a Snapshot at the former, a row of progress at both.

    Step 0 is the untrained network.
    Raises ValueError for no or negative steps, FloatingPointError if the loss leaves the finite numbers.
    """
    recipe = recipe or Recipe()
    wanted = {*keep, *watch}
    if not wanted or min(wanted) < 0:
        raise ValueError(f"keep and watch need at least one step and none below 0, got {sorted(wanted)}")
    # Independent streams for the initial weights and for the order of the batches.
    initial, order = (int(s) for s in np.random.SeedSequence(seed).generate_state(2))
    parameters = mlp.initialise(recipe.widths, initial)
    optimizer = mlp.Momentum(recipe.rate, recipe.momentum)
    run = Run()
    for step, rows in zip(
        range(max(wanted) + 1), digits.batches(len(data.train_labels), recipe.batch, order), strict=False
    ):
        labels = data.train_labels[rows]
        trace = mlp.forward(parameters, data.train_images[rows])
        logit_gradient = mlp.logit_gradient(trace.logits, labels)
        gradients = mlp.backward(parameters, trace, logit_gradient)
        loss = mlp.loss(trace.logits, labels)
        if not np.isfinite(loss):
            raise FloatingPointError(f"training diverged at step {step} (seed {seed}): loss {loss}")
        if step in wanted:
            run.progress.append((step, loss, mlp.accuracy(parameters, data.test_images, data.test_labels)))
        if step in keep:
            # The optimizer updates in place: the snapshot needs its own copy of the parameters.
            frozen = mlp.Parameters([w.copy() for w in parameters.weights], [b.copy() for b in parameters.biases])
            run.snapshots.append(Snapshot(step, loss, frozen, trace, logit_gradient, gradients))
        optimizer.step(parameters, gradients)
    return run
