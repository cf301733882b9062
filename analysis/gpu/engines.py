"""The one place where recordings of tensor cores meet fpemu's engines: their names, and products by them."""

from __future__ import annotations

from typing import Any

import numpy as np

import fpemu
from analysis.gpu.inputs import Codes
from analysis.gpu.multiply import Product
from analysis.gpu.part import NoPrediction

# The chip in an engine's name, by compute capability.
CHIPS = {
    "7.0": "volta",
    "7.5": "turing",
    "8.0": "ampere",
    "8.6": "ampere",
    "8.9": "ada",
    "9.0": "hopper",
    "10.0": "b200",
    "12.0": "rtx-blackwell",
}


def chip_of(about: Any) -> str:
    """The chip of a device, from ``compute_capability``. Raises NoPrediction where fpemu has none of it."""
    capability = about.get("compute_capability", "unknown")
    if capability not in CHIPS:
        raise NoPrediction(f"no engine is known of compute capability {capability}")
    return CHIPS[capability]


def engine_of(product: Product, chip: str) -> str:
    """The name of the engine that an instruction should be, ``hopper.wgmma.e4m3.fp32``.

    Raises NoPrediction where fpemu has no such engine.
    """
    name = f"{chip}.{product.engine}"
    if name not in fpemu.ENGINES:
        raise NoPrediction(f"there is no engine {name}")
    return name


_ROWS = 128  # of the blocks that ``matmul`` works on


def multiplied(engine: str, a: Codes, b: Codes, c: Codes, promote_every: int | None = None) -> Codes:
    """``a b + c`` of tiles by an engine: a (tiles, m, k), b (tiles, n, k), c (tiles, m, n); codes.

    As many tiles as fill a block lie along the diagonal of one product, and what lies beside the diagonal is thrown away:
    several times faster than tile by tile, for an output depends on its own row and column alone.
    """
    tiles, m, n = c.shape
    side = max(_ROWS // m, 1)
    wide = tiles // side if side > 1 else 0
    whole, place = wide * side, np.arange(side)
    out = np.empty_like(c, order="C")
    if wide:
        blocks = np.zeros((wide, side, m, side, n), c.dtype)
        blocks[:, place, :, place, :] = c[:whole].reshape(wide, side, m, n).swapaxes(0, 1)
        columns = b[:whole].reshape(wide, side * n, -1).swapaxes(1, 2)
        got = fpemu.matmul(
            a[:whole].reshape(wide, side * m, -1),
            columns,
            blocks.reshape(wide, side * m, side * n),
            engine=engine,
            promote_every=promote_every,
        )
        diagonal = got.reshape(blocks.shape)[:, place, :, place, :]
        out[:whole] = diagonal.swapaxes(0, 1).reshape(whole, m, n)
    if whole < tiles:
        rest = b[whole:].swapaxes(1, 2)
        out[whole:] = fpemu.matmul(a[whole:], rest, c[whole:], engine=engine, promote_every=promote_every)
    return out
