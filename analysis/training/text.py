"""Real text without a download: the reference prose that Python's own help carries (``pydoc_data.topics``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]


ALPHABET = "\n" + "".join(
    map(chr, range(ord(" "), ord("~") + 1))
)  # newline and printable ASCII, whatever the text uses


@dataclass(frozen=True)
class Text:
    """Characters as numbers, their places in the alphabet: one run of text to train on and one to test on."""

    train: Tokens
    test: Tokens
    alphabet: str = ALPHABET


def load(test_share: float = 0.1) -> Text:
    """The topics in alphabetical order, characters beyond the alphabet left out; the end of the text is the test.

    Raises ValueError unless 0 < test_share < 1.  The text is that of the Python at hand, and differs between its versions.
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must lie strictly between 0 and 1, got {test_share}")
    from pydoc_data.topics import topics

    prose = "\n".join(topics[name] for name in sorted(topics))
    places = {character: place for place, character in enumerate(ALPHABET)}
    numbers = np.array([places[character] for character in prose if character in places], np.int64)
    first = len(numbers) - round(len(numbers) * test_share)
    return Text(numbers[:first], numbers[first:])


def batches(tokens: Tokens, batch: int, context: int, seed: int) -> Iterator[tuple[Tokens, Tokens]]:
    """Endless (inputs, targets), each (batch, context): windows at random places, targets one character on."""
    rng = np.random.default_rng(seed)
    while True:
        starts = rng.integers(0, len(tokens) - context, batch)
        windows = tokens[starts[:, None] + np.arange(context + 1)]
        yield windows[:, :-1], windows[:, 1:]
