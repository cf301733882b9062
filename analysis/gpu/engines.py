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


def multiplied(engine: str, a: Codes, b: Codes, c: Codes, promote_every: int | None = None) -> Codes:
    """``a b + c`` of tiles by an engine: a (tiles, m, k), b (tiles, n, k), c (tiles, m, n); codes."""
    return np.asarray(fpemu.matmul(a, b.swapaxes(1, 2), c, engine=engine, promote_every=promote_every))
