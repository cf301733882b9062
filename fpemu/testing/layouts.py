"""The same inputs laid out in memory as arrays can be: what is right for an array must be right for its views."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu.targets.dispatch import is_torch
from fpemu.testing.functions import NotAConversion, Subject
from fpemu.testing.inputs import Source

Array = NDArray[Any]
ROWS = 4  # of the array of two axes
LONE = 8  # inputs that are tried as 0-d arrays


@dataclass(frozen=True)
class Layout:
    """How inputs can lie in memory.

    ``buffer`` lays out bit patterns in one array, whose other elements are inputs too, so that a function that ignores
    strides stays within memory that is its own; ``view`` finds them again there, in the array or tensor of inputs.
    """

    name: str
    buffer: Callable[[Array], Array]
    view: Callable[[Any], Any]
    tensors: bool = True  #: whether a tensor can lie so


def _swapped(given: Array) -> Array:
    return given.byteswap().view(given.dtype.newbyteorder())


def _read_only(given: Array) -> Array:
    given.setflags(write=False)
    return given


LAYOUTS = (
    Layout("non-contiguous", lambda bits: np.stack([bits, bits[::-1]], axis=1).reshape(-1), lambda given: given[::2]),
    Layout("transposed", lambda bits: bits.reshape(ROWS, -1).T.reshape(-1), lambda given: given.reshape(-1, ROWS).T),
    Layout("reversed", lambda bits: np.concatenate([bits, bits[::-1], bits]),
           lambda given: given[2 * (given.size // 3) - 1 : given.size // 3 - 1 : -1], tensors=False),
    Layout("read-only", np.copy, _read_only, tensors=False),
    Layout("byte-swapped", np.copy, _swapped, tensors=False),
    Layout("empty", np.copy, lambda given: given[:0]),
)  # fmt: skip


@dataclass(frozen=True)
class Tried:
    """One layout: which inputs were tried and what came back; None, and why, where nothing did."""

    layout: str
    bits: Array
    results: Array | None
    refusal: str = ""


def tried(subject: Subject, source: Source, bits: Array) -> Iterator[Tried]:
    """The function's results for inputs in every layout; ``bits`` are as many as a multiple of ROWS, at least one."""
    for layout in LAYOUTS:
        given = source.given(layout.buffer(bits))
        fits = layout.tensors or not is_torch(given)
        if layout.name == "byte-swapped" and fits:
            fits = given.dtype.itemsize > 1 and given.dtype.isbuiltin == 1
        if fits:
            view = layout.view(given)
            yield _one(subject, layout.name, bits[: len(view.reshape(-1))], [view])
    lone = bits[:: max(1, bits.size // LONE)]
    alone = [source.given(one.copy()).reshape(()) for one in np.split(lone, lone.size)]
    yield _one(subject, "0-d", lone, alone)


def _one(subject: Subject, layout: str, bits: Array, given: list[Any]) -> Tried:
    try:
        results = np.concatenate([subject.handed(x).reshape(-1) for x in given])
    except NotAConversion as error:
        return Tried(layout, bits, None, str(error))
    return Tried(layout, bits, results)
