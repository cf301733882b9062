"""Losses in float32 (as torch.autocast has them), each with its gradient; the mean over everything it sees."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.training.mlp import log_probabilities
from analysis.training.numerics import Array

Labels = NDArray[np.int64]


class Loss(NamedTuple):
    """Nats (or whatever the loss counts), and the gradient by what it was computed from."""

    value: float
    gradient: Array


def cross_entropy(logits: Array, labels: Labels) -> Loss:
    """Softmax cross-entropy of logits (..., classes) and labels (...), averaged over all labels."""
    logs = log_probabilities(logits)
    places = labels[..., None]
    value = -np.take_along_axis(logs, places, -1).mean()
    gradient = np.exp(logs)
    np.put_along_axis(gradient, places, np.take_along_axis(gradient, places, -1) - 1, -1)
    return Loss(float(value), gradient / logits.dtype.type(labels.size))


def detection(outputs: Array, targets: tuple[Labels, Array]) -> Loss:
    """An SSD head's: cross-entropy over classes for all anchors, plus smooth L1 of the boxes of positive ones.

    outputs (batch, anchors, classes + 4); targets: labels (batch, anchors), 0 for background, and boxes (batch, anchors, 4).
    Both sums are divided by the number of *all* anchors: the mean reduction that makes gradients small.
    """
    labels, boxes = targets
    classes = outputs.shape[-1] - 4
    confidence = cross_entropy(outputs[..., :classes], labels)
    error = np.where((labels > 0)[..., None], outputs[..., classes:] - boxes, 0).astype(outputs.dtype)
    size = np.abs(error)
    smooth = np.where(size < 1, 0.5 * error * error, size - 0.5)
    by_box = np.clip(error, -1, 1) / outputs.dtype.type(labels.size)
    value = confidence.value + float(smooth.sum() / labels.size)
    return Loss(value, np.concatenate([confidence.gradient, by_box], axis=-1).astype(outputs.dtype))
