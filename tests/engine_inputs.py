"""Codes for matrix engines, by class: where their arithmetic goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fpemu import Engine, FloatFormat, encode

Array = np.ndarray[Any, Any]
Draw = Callable[[np.random.Generator, FloatFormat, tuple[int, ...]], Array]


def _signs(rng: np.random.Generator, format: FloatFormat, shape: tuple[int, ...]) -> Array:
    return rng.integers(0, 2, shape, np.uint64) * np.uint64(format.sign_mask)


def raw(rng: np.random.Generator, format: FloatFormat, shape: tuple[int, ...]) -> Array:
    """All codes alike, NaNs and infinities among them."""
    return rng.integers(0, 1 << format.bits, shape, np.uint64, endpoint=False)


def finite(rng: np.random.Generator, format: FloatFormat, shape: tuple[int, ...]) -> Array:
    """All finite codes alike: exponents over the whole range."""
    return rng.integers(0, format.max_code, shape, np.uint64, endpoint=True) | _signs(rng, format, shape)


def normal(rng: np.random.Generator, format: FloatFormat, shape: tuple[int, ...]) -> Array:
    """Values from a normal distribution."""
    x = rng.standard_normal(shape)
    return x.view(np.uint64) if format.bits == 64 else encode(x, format, overflow="saturate")


def tiny(rng: np.random.Generator, format: FloatFormat, shape: tuple[int, ...]) -> Array:
    """Subnormals, and the two binades above them."""
    return rng.integers(0, 3 * format.smallest_normal_code, shape, np.uint64) | _signs(rng, format, shape)


def huge(rng: np.random.Generator, format: FloatFormat, shape: tuple[int, ...]) -> Array:
    """The last two binades."""
    low = format.max_code - 2 * format.smallest_normal_code
    return rng.integers(max(low, 0), format.max_code, shape, np.uint64, endpoint=True) | _signs(rng, format, shape)


def zeros(rng: np.random.Generator, format: FloatFormat, shape: tuple[int, ...]) -> Array:
    """Half of them zeros of both signs."""
    return np.where(rng.random(shape) < 0.5, _signs(rng, format, shape), finite(rng, format, shape))


CLASSES: dict[str, Draw] = {one.__name__: one for one in (raw, finite, normal, tiny, huge, zeros)}


def draw(kind: str, rng: np.random.Generator, format: FloatFormat, shape: tuple[int, ...]) -> Array:
    """Codes of a class."""
    return CLASSES[kind](rng, format, shape).astype(format.code_dtype)


def cancelling(rng: np.random.Generator, engine: Engine, rows: int, columns: int, k: int) -> tuple[Array, Array]:
    """Products in pairs of opposite signs but for the last bits, so that what alignment cuts off is all that is left."""
    a, b = draw("normal", rng, engine.a, (rows, k)), draw("normal", rng, engine.b, (k, columns))
    half = k // 2
    a[:, half : 2 * half] = a[:, :half] ^ np.array(engine.a.sign_mask, a.dtype)
    b[half : 2 * half] = b[:half] ^ (rng.random((half, columns)) < 0.2).astype(b.dtype)
    return a, b


def scales(rng: np.random.Generator, engine: Engine, rows: int, columns: int, k: int) -> dict[str, Array]:
    """Codes of block scales, near one or anywhere, for engines that have them."""
    if engine.scaling is None:
        return {}
    count, one = -(-k // engine.scaling.block), encode(1.0, engine.scaling.format)
    low, high = (0, 256) if rng.random() < 0.3 else (int(one) - 6, int(one) + 6)
    shapes = {"a_scales": (rows, count), "b_scales": (count, columns)}
    return {name: rng.integers(low, high, shape).astype(np.uint8) for name, shape in shapes.items()}
