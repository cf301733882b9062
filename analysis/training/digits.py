"""Real data without a download: the UCI handwritten digits that scikit-learn carries (1797 images, 8 x 8 pixels)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLASSES = 10


@dataclass(frozen=True)
class Digits:
    """A shuffled split. Images are float32 (n, 64), standardised per pixel; labels are int64 (n,) in 0..9."""

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int64]


def load(seed: int, test_share: float = 0.2) -> Digits:
    """Shuffle, split and standardise the digits; mean and deviation come from the training part only.

    Pixels that never change in the training part are centred and left unscaled.
    Raises ValueError unless 0 < test_share < 1.
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must lie strictly between 0 and 1, got {test_share}")
    # scikit-learn takes a second to import, and only loading the data needs it.
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    images, labels = images[order].astype(np.float32), labels[order].astype(np.int64)
    first_test = len(labels) - round(len(labels) * test_share)

    mean = images[:first_test].mean(axis=0)
    deviation = images[:first_test].std(axis=0)
    images = (images - mean) / np.where(deviation > 0, deviation, np.float32(1))
    return Digits(images[:first_test], labels[:first_test], images[first_test:], labels[first_test:])


def batches(count: int, size: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Endless mini-batches of `size` indices below `count`: each epoch a new permutation, its incomplete tail dropped.

    Raises ValueError unless 1 <= size <= count.
    """
    if not 1 <= size <= count:
        raise ValueError(f"batch size must lie in 1..{count}, got {size}")
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(count)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]
