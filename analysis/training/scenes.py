"""Scenes to detect in: handwritten digits scattered over a dark canvas, and the anchors that match them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from analysis.training.losses import Labels
from analysis.training.numerics import Array

SIDE = 32  # pixels of a canvas
CELL = 2  # pixels of a cell of the grid
DIGIT = 8  # pixels of a digit
ANCHOR_SIDES = (4.0, 8.0, 12.0, 16.0)  # one anchor of each in every cell, around its middle
MATCH = 0.5  # the overlap (intersection over union) from which an anchor is positive


def anchors() -> Array:
    """(cells x anchors, 4): middle y, middle x, height, width in pixels."""
    middles = (np.arange(SIDE // CELL) + 0.5) * CELL
    y, x, side = np.meshgrid(middles, middles, np.array(ANCHOR_SIDES), indexing="ij")
    return np.stack([y, x, side, side], axis=-1).reshape(-1, 4).astype(np.float32)


def batches(
    images: Array, labels: NDArray[np.int64], batch: int, digits: int, seed: int
) -> Iterator[tuple[Array, tuple[Labels, Array]]]:
    """Endless (canvases (batch, SIDE, SIDE, 1), (labels (batch, anchors), boxes (batch, anchors, 4))).

    images (n, 64) in 0..16 as scikit-learn has them, labels 0..9; ``digits`` of them on each canvas.  Labels of anchors are
    0 for background and 1 + the digit; boxes are offsets and log ratios to the anchor, as SSD has them.
    """
    rng = np.random.default_rng(seed)
    grid = anchors()
    while True:
        canvas = np.zeros((batch, SIDE, SIDE, 1), np.float32)
        classes = np.zeros((batch, len(grid)), np.int64)
        boxes = np.zeros((batch, len(grid), 4), np.float32)
        for scene in range(batch):
            for which in rng.integers(0, len(images), digits):
                y, x = rng.integers(0, SIDE - DIGIT + 1, 2)
                spot = canvas[scene, y : y + DIGIT, x : x + DIGIT, 0]
                np.maximum(spot, images[which].reshape(DIGIT, DIGIT) / 16, out=spot)
                box = np.array([y + DIGIT / 2, x + DIGIT / 2, DIGIT, DIGIT], np.float32)
                hit = overlap(grid, box) >= MATCH
                classes[scene, hit] = 1 + labels[which]
                boxes[scene, hit] = offsets(grid[hit], box)
        yield canvas, (classes, boxes)


def overlap(boxes: Array, one: Array) -> Array:
    """Intersection over union of boxes (n, 4) with one."""
    low = np.maximum(boxes[:, :2] - boxes[:, 2:] / 2, one[:2] - one[2:] / 2)
    high = np.minimum(boxes[:, :2] + boxes[:, 2:] / 2, one[:2] + one[2:] / 2)
    both = np.clip(high - low, 0, None).prod(axis=-1)
    result: Array = both / (boxes[:, 2:].prod(axis=-1) + one[2:].prod() - both)
    return result


def offsets(boxes: Array, one: Array) -> Array:
    """Where a box lies, as an anchor sees it: ((y, x) - its middle) / its sides, log of the ratio of sides."""
    result: Array = np.concatenate([(one[:2] - boxes[:, :2]) / boxes[:, 2:], np.log(one[2:] / boxes[:, 2:])], axis=-1)
    return result
