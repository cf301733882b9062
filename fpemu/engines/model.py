"""What a matrix engine is made of: a frozen record of facts, from which definition and kernels take everything.

An engine computes ``d = c + sum over k of a[k] * b[k]`` in one of three ways:

- ``BlockSum``: tensor cores.  Blocks of products and the accumulator are aligned to the largest exponent among them, cut off, added
  exactly and rounded once; the rounded value is the accumulator of the next block.
- ``Chain``: an ordinary accumulator, one rounding a step, in a chosen order, with fused multiply-adds or without.
- ``Library``: whatever a library does; not reproducible.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from fpemu.formats import FORMATS, FloatFormat, FormatName, as_format
from fpemu.naming import formats_by_name
from fpemu.orders import as_order
from fpemu.policies import Cast, NaN, Rounding, as_cast

E8M13 = FloatFormat.ieee(8, 13, "e8m13")  # float32 without its last ten bits: accumulators of FP8 tensor cores


@dataclass(frozen=True)
class Wide(FloatFormat):
    """IEEE 754's binary64, for engines only: its codes are uint64, and conversions take and give its values as they are."""

    def __post_init__(self) -> None:
        """Wider than what a FloatFormat can be."""

    @property
    def code_dtype(self) -> np.dtype[np.uint64]:
        """The NumPy dtype of codes."""
        return np.dtype(np.uint64)


FLOAT64 = Wide("float64", bits=64, precision=53, bias=1023, high_nans=2**52 - 1)


@dataclass(frozen=True)
class BlockSum:
    """The truncated fused sum of a block (Khattak and Mikaitis, arXiv 2512.07004; Xie et al., arXiv 2511.10909).

    Attributes
    ----------
    length: products in a block, which are added in one step with the accumulator.
    fraction_bits: places below the largest exponent that are kept.
    zero_exponent: exponent that terms of value zero have.
    grid: format whose values a sum is rounded to (the accumulator's, or one that it holds).
    rounding: ``toward-zero`` or ``nearest-even``.  Beyond the largest finite value both give infinity.
    group: products that are added exactly before they are scaled and aligned as one term; 0: none.
    span: how many products are summed from zero on their own, then added to the accumulator, rounded to nearest even; 0: all go into the
        accumulator itself.
    picks: which of four consecutive products go into which block of a span; empty: blocks are consecutive.
    """

    length: int
    fraction_bits: int
    zero_exponent: int
    grid: FloatFormat
    rounding: Rounding
    group: int = 0
    span: int = 0
    picks: tuple[tuple[int, ...], ...] = ()

    def positions(self) -> tuple[int, ...]:
        """The products of a span (or of a block) in the order in which they enter blocks."""
        if not self.picks:
            return tuple(range(self.span or self.length))
        return tuple(k for pick in self.picks for k in range(self.span) if k % 4 in pick)


@dataclass(frozen=True)
class Chain:
    """An accumulator of a format: one rounding a step.

    Attributes
    ----------
    cast: format and rounding of the accumulator, with its policies.
    fused: products enter exactly (a fused multiply-add), or are rounded to the accumulator's format first.
    order: ``sequential``, ``pairwise``, ``chunked(n)`` or ``kahan``, as ``fpemu.dot`` has them.
    """

    cast: Cast
    fused: bool = True
    order: str = "sequential"


@dataclass(frozen=True)
class Library:
    """A library's product: the order of its additions is its own, and differs between machines.

    Attributes
    ----------
    dtype: NumPy dtype of its operands and of the result.
    """

    dtype: Literal["float32", "float64"]


@dataclass(frozen=True)
class Scaling:
    """Block scales beside the operands (OCP MX, NVFP4).

    Attributes
    ----------
    format: of the scales.
    block: consecutive values along k that share one.
    unsigned: whether the sign bit of a scale is ignored.
    """

    format: FloatFormat
    block: int
    unsigned: bool = False


@dataclass(frozen=True)
class Engine:
    """A matrix engine.

    Attributes
    ----------
    name: ``<chip>.<instruction>.<a>[x<b>][.<scales>].<accumulator>``, its key in ENGINES.
    a, b: formats of the operands' codes.
    accumulator: format of ``c`` and of the result.
    arithmetic: how it adds.
    ignored_bits: low bits of the operands' codes that are not looked at (TF32: 13 of float32's).
    scaling: block scales, where it has them.
    sources: where its facts come from.
    evidence: what they have been compared with.
    """

    name: str
    a: FloatFormat
    b: FloatFormat
    accumulator: FloatFormat
    arithmetic: BlockSum | Chain | Library
    ignored_bits: int = 0
    scaling: Scaling | None = None
    sources: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()

    @property
    def reproducible(self) -> bool:
        """Whether the same operands give the same bits everywhere."""
        return not isinstance(self.arithmetic, Library)

    @property
    def result(self) -> Cast:
        """The accumulator's format with the NaN that the engine writes.

        Tensor cores have one, all bits but the sign set, whatever NaN came in; a Chain has that of its cast.
        """
        if isinstance(self.arithmetic, Chain):
            cast = self.arithmetic.cast
            return cast.replace(nan="unsigned") if cast.nan is NaN.CANONICAL else cast
        nan = self.accumulator.magnitude_mask if self.accumulator.high_nans else None
        return Cast(self.accumulator, nan="unsigned", nan_code=nan)

    def __str__(self) -> str:
        return self.name


@formats_by_name('engines.chain("fp32", inputs="fp16")', 1)
def chain(
    accumulator: Cast | FormatName,
    *,
    inputs: FormatName | tuple[FormatName, FormatName] | None = None,
    fused: bool = True,
    order: str = "sequential",
    rounding: Rounding | str | None = None,
) -> Engine:
    """An engine with an ordinary accumulator.

    Parameters
    ----------
    accumulator: its format, or a Cast with its policies.
    inputs: format of the operands, or one for each; default the accumulator's.
    fused: whether products enter exactly; else they are rounded to the accumulator's format first.
    order: ``sequential``, ``pairwise``, ``chunked(n)`` or ``kahan``.
    rounding: of the accumulator; default that of the cast.

    Raises TypeError, ValueError for unknown formats, roundings and orders.
    """
    cast, in_order = as_cast(accumulator, rounding=rounding), str(as_order(order))
    if cast.via is not None:
        raise ValueError("an accumulator rounds once: a Cast with via is not taken")
    if not isinstance(fused, bool):
        raise TypeError(f"fused must be a bool, not {type(fused).__name__}")
    pair = inputs if isinstance(inputs, tuple) else (inputs, inputs)
    if len(pair) != 2:
        raise ValueError(f"inputs must be one format, or one for each operand, not {len(pair)}")
    a, b = (cast.format if one is None else as_format(one) for one in pair)
    kind = "fma" if fused else "mul-add"
    rule = "" if cast.rounding is Rounding.NEAREST_EVEN else f".{cast.rounding.value}"
    names = a.name if a == b else f"{a.name}x{b.name}"
    return Engine(
        f"{in_order}.{kind}{rule}.{names}.{cast.format.name}", a, b, cast.format, Chain(cast, fused, in_order)
    )


def promoted(engine: Engine, every: int) -> Engine:
    """The engine with its sums moved, every so many products, into a second accumulator that rounds to nearest even.

    (CUTLASS's and DeepGEMM's remedy for short accumulators: 128.)  Raises ValueError for engines that have no such thing.
    """
    if not isinstance(every, int) or isinstance(every, bool):
        raise TypeError(f"promote_every must be an int, not {type(every).__name__}")
    arithmetic = engine.arithmetic
    if not isinstance(arithmetic, BlockSum):
        raise ValueError(f"promote_every is for tensor cores; {engine.name} is none")
    if arithmetic.span:
        raise ValueError(f"{engine.name} already adds every {arithmetic.span} products to its accumulator")
    if every < arithmetic.length or every % arithmetic.length:
        raise ValueError(
            f"promote_every must be a multiple of the {arithmetic.length} products of a block, not {every}"
        )
    return replace(engine, arithmetic=replace(arithmetic, span=every))


TF32_IGNORED = FORMATS["float32"].trailing_bits - FORMATS["tfloat32"].trailing_bits
