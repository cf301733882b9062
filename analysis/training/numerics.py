"""``Numerics`` runs a recipe: it rounds what is kept and multiplies as the recipe's engine does.

One product, step by step: each operand is rounded to its role's format under its role's scaling; the engine multiplies
the codes; scales outside the engine multiply the sums in float32; whoever asked keeps the result through ``kept``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fpemu as fp
from analysis.training.draws import OPERAND, draw_seed
from analysis.training.recipes import ACTIVATION, GRADIENT, WEIGHT, Operand, Recipe, as_recipe
from fpemu import scaling
from fpemu.engines.model import promoted

Array = NDArray[np.floating[Any]]
Watch = Callable[[str, str, Array, Array], None]

_SCHEMES = {"mx": "mxf8f6f4", "nvfp4": "nvf4"}  # what a family's block-scaled rows are called


class Product(NamedTuple):
    """A kind of product: the roles of its operands, and whether it makes a weight gradient."""

    left: str
    right: str


FORWARD = Product(ACTIVATION, WEIGHT)  # y = x W
BY_INPUT = Product(GRADIENT, WEIGHT)  # dx = dy W'
BY_WEIGHT = Product(ACTIVATION, GRADIENT)  # dW = x' dy


@cache
def engine_of(
    recipe_engine: str, accumulator: str, promote_every: int | None, left: Operand, right: Operand
) -> fp.Engine:
    """The engine for two operands: the one named, or the family's row for their formats.

    Raises ValueError where a family has no such row, and where the engine named does not hold the operands' values.
    """
    try:
        found = fp.ENGINES[recipe_engine]
    except KeyError:
        found = fp.ENGINES[_row(recipe_engine, accumulator, left, right)]
    for operand, format in ((left, found.a), (right, found.b)):
        if operand.format is not None and not format.holds(fp.FORMATS[operand.format]):
            raise ValueError(f"{found.name} takes {format.name}, which does not hold {operand.format}")
    narrow = left.format in ("e4m3", "e5m2")  # 16-bit products have longer accumulators, and are not promoted
    return promoted(found, promote_every) if promote_every is not None and narrow else found


def _row(family: str, accumulator: str, left: Operand, right: Operand) -> str:
    a, b = left.format or "fp32", right.format or "fp32"
    if a == b == "fp32":
        return "fp32"
    formats = a if a == b else f"{a}x{b}"
    scheme = _SCHEMES.get(left.scaling)
    if scheme is not None and scheme == _SCHEMES.get(right.scaling):
        formats += f".{scheme}"
    return f"{family}.{formats}.{accumulator}"


class Numerics:
    """A recipe at work: stateful where its scaling or its random rounding is.

    Parameters
    ----------
    recipe: a Recipe or its name.
    seed: of stochastic roundings and of the Hadamard signs.
    watch: called with (role, layer, values, what became of them) for every gradient: by outputs (``gradient``) and weights
        (``weight``) as they are kept, and by outputs as products get them (``operand``).
    """

    def __init__(self, recipe: Recipe | str, seed: int = 0, watch: Watch | None = None) -> None:
        self.recipe = as_recipe(recipe)
        self.watch = watch
        self._seed, self._draws = seed, 0
        self._delayed: dict[tuple[str, str], scaling.DelayedScaling] = {}

    # ---- what is kept -----------------------------------------------------------------------------------------------
    def kept(self, x: Array) -> Array:
        """What an operation in 16 bits leaves behind."""
        return _rounded(x, self.recipe.kept)

    def carried(self, x: Array) -> Array:
        """What the residual stream, an embedding or a LayerNorm leaves behind."""
        return _rounded(x, self.recipe.residual)

    def weight(self, w: Array) -> Array:
        """A parameter that enters no product (bias, gain), as it is read: in the format of what it meets."""
        return _rounded(w, self.recipe.residual)

    def bias(self, b: Array) -> Array:
        """A bias of a linear layer: in the format of its output, added before that is rounded."""
        return _rounded(b, self.recipe.kept)

    def gradient_kept(self, layer: str, g: Array) -> Array:
        """The gradient by a layer's output, as it is kept."""
        return self._seen(GRADIENT, layer, g, self.kept(g))

    def weight_gradient(self, layer: str, g: Array) -> Array:
        """The gradient by a parameter of a linear layer, as it is kept."""
        return self._seen(WEIGHT, layer, g, _rounded(g, self.recipe.weight_gradient))

    def carried_gradient(self, layer: str, g: Array) -> Array:
        """The gradient by an embedding or a gain, as it is kept: these parameters are read as they are, not cast."""
        return self._seen(WEIGHT, layer, g, _rounded(g, self.recipe.residual))

    def _seen(self, role: str, layer: str, before: Array, after: Array) -> Array:
        if self.watch is not None:
            self.watch(role, layer, before, after)
        return after

    # ---- products ---------------------------------------------------------------------------------------------------
    def product(self, kind: Product, layer: str, a: Array, b: Array) -> Array:
        """a (..., M, K) times b (..., K, N) of a linear layer, as the accumulator has it.

        Raises ValueError for operands that are not scaled alike.
        """
        left, right = self.recipe.operand(kind.left, layer), self.recipe.operand(kind.right, layer)
        if self.recipe.hadamard and kind is BY_WEIGHT and left.scaling != "none":
            a, b = self._transformed(a, -1), self._transformed(b, -2)
        return self._multiply(left, right, (layer, kind.left), (layer, kind.right), a, b)

    def attention_product(self, a: Array, b: Array) -> Array:
        """a (..., M, K) times b (..., K, N) of attention: both operands in the format that is kept."""
        operand = Operand(self.recipe.kept)
        return self._multiply(operand, operand, ("", ""), ("", ""), a, b)

    def _multiply(
        self, left: Operand, right: Operand, left_key: tuple[str, str], right_key: tuple[str, str], a: Array, b: Array
    ) -> Array:
        recipe = self.recipe
        if a.dtype == np.float64:
            return a @ b  # the pass that gradients are checked in
        engine = engine_of(recipe.engine, recipe.accumulator, recipe.promote_every, left, right)
        x, y = self._operand(left, a, -1, left_key), self._operand(right, b, -2, right_key)
        if self.watch is not None and left_key[1] == GRADIENT and left.format is not None:
            self.watch("operand", left_key[0], a, x if isinstance(x, np.ndarray) else x.dequantize())
        if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
            return fp.matmul(x, y, engine=engine)
        if isinstance(x, np.ndarray) or isinstance(y, np.ndarray):
            raise ValueError(f"{recipe.name}: one operand is scaled ({left} and {right})")
        if engine.scaling is not None:
            return _block_scaled(x, y, engine)
        if fp.FORMATS[str(left.format)] != engine.a or fp.FORMATS[str(right.format)] != engine.b:
            return fp.matmul(x.dequantize(), y.dequantize(), engine=engine)
        tiled = (left.scaling == "tiles", right.scaling == "tiles")
        if tiled[0] != tiled[1]:
            raise ValueError(f"{recipe.name}: operands are scaled in two ways ({left} and {right})")
        return _tiled(x, y, engine) if all(tiled) else _per_tensor(x, y, engine)

    def _operand(self, operand: Operand, x: Array, axis: int, key: tuple[str, str]) -> Array | scaling.Scaled:
        if operand.format is None:
            return x
        policies: dict[str, Any] = {"rounding": operand.rounding}
        if operand.rounding == "stochastic":
            self._draws += 1
            policies["seed"] = draw_seed(self._seed, OPERAND, self._draws)
        if operand.scaling == "none":
            return fp.quantize(x, operand.format, overflow=operand.overflow, **policies)
        if operand.scaling == "mx":
            length = operand.block if isinstance(operand.block, int) else 32
            return scaling.mx(x, operand.format, block=length, axis=axis, rule=operand.rule, **policies)
        if operand.scaling == "current":
            return scaling.per_tensor(x, operand.format, **policies)
        if operand.scaling == "delayed":
            if key not in self._delayed:
                self._delayed[key] = scaling.DelayedScaling(
                    operand.format, history=operand.history, margin=operand.margin
                )
            return self._delayed[key].quantize(x, **policies)
        assert isinstance(operand.block, tuple)
        block = operand.block if axis == -1 else operand.block[::-1]
        if operand.scaling == "nvfp4":
            return scaling.nvfp4(x, block=block, **policies)
        return scaling.tiles(x, operand.format, block, **policies)

    def end_step(self) -> None:
        """A training step is over: delayed scaling takes the largest values it has seen."""
        for state in self._delayed.values():
            state.update()

    def _transformed(self, x: Array, axis: int) -> Array:
        size = self.recipe.hadamard
        return scaling.hadamard(x, size=size, seed=self._seed, axis=axis) if x.shape[axis] % size == 0 else x


def _rounded(x: Array, format: str | None) -> Array:
    if format is None or x.dtype == np.float64:
        return x
    return fp.quantize(x, format)


# ---- products of scaled operands ------------------------------------------------------------------------------------
def _per_tensor(x: scaling.Scaled, y: scaling.Scaled, engine: fp.Engine) -> Array:
    """Sums of codes, times both scales in float32 (cuBLAS's epilogue)."""
    sums = fp.decode(fp.matmul(x.codes, y.codes, engine=engine), engine.accumulator)
    result: Array = sums * (x.scale_values().reshape(()) * y.scale_values().reshape(()))
    return result


def _tiled(x: scaling.Scaled, y: scaling.Scaled, engine: fp.Engine) -> Array:
    """Sums of each tile along k, times its two scales, added in float32 (DeepGEMM)."""
    width = x.cut[-1]
    if width != y.cut[-2]:
        raise ValueError(f"operands have tiles of {width} and {y.cut[-2]} along the sum: it is taken tile by tile")
    total = np.zeros((*x.shape[:-1], y.shape[-1]), np.float32)
    left, right = x.scale_values(), y.scale_values()
    right = np.repeat(right, y.cut[-1], axis=-1)[..., : y.shape[-1]]
    left = np.repeat(left, x.cut[-2], axis=-2)[..., : x.shape[-2], :]
    for place, start in enumerate(range(0, x.shape[-1], width)):
        part = slice(start, start + width)
        sums = fp.decode(fp.matmul(x.codes[..., part], y.codes[..., part, :], engine=engine), engine.accumulator)
        total += sums * (left[..., place : place + 1] * right[..., place : place + 1, :])
    return total


def _block_scaled(x: scaling.Scaled, y: scaling.Scaled, engine: fp.Engine) -> Array:
    """The engine applies block scales; a second level multiplies its sums in float32."""
    left = np.repeat(x.scales, x.cut[-2], axis=-2)[..., : x.shape[-2], :]
    right = np.repeat(y.scales, y.cut[-1], axis=-1)[..., : y.shape[-1]]
    codes = fp.matmul(x.codes, y.codes, engine=engine, a_scales=left, b_scales=right)
    sums = fp.decode(codes, engine.accumulator)
    if x.global_scale is None or y.global_scale is None:
        return sums
    result: Array = sums * (x.global_scale * y.global_scale)
    return result
