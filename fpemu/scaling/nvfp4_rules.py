"""The orders of float32 operations in which NVFP4's two levels of scales are worked out: one record for each ``NVFP4Rule``.

All of them are the same formula in real numbers.  Rounded to float32 step by step, ``division`` and ``transformer-engine`` have another
g for 27 % of all amaxes; of 10**6 blocks of Gaussian values, 1 scale and 4 codes differ.  With zeros, infinities and NaNs the three
differ altogether.  Every function takes and gives float32; what overflows or divides by zero is meant to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fpemu.formats import FORMATS
from fpemu.policies import NaN, Policy
from fpemu.scaling.blocks import Array

FLOAT32 = FORMATS["float32"]
LARGEST, SMALLEST_NORMAL = np.float32(FLOAT32.max), np.float32(FLOAT32.smallest_normal)
ZERO, ONE, SIX = np.float32(0), np.float32(1), np.float32(6)
SIXTH = np.float32(float.fromhex("0x1.555556p-3"))  # 1 / 6 to nearest, in whatever mode this is imported


class NVFP4Rule(Policy):
    """Whose order of operations; a: the largest magnitude of a tensor or block, M = 6 x the largest scale (2688 for E4M3)."""

    #: g = a / M, 2**-126 to the largest float32, 1 where a is 0; s = (a / 6) / g; x / (s g), 0 where s g is (pytorch/ao v0.16.0,
    #: torchao/prototype/mx_formats/nvfp4_tensor.py, but for its minimum, its zeros and its NaNs).  a is of finite elements; a block with
    #: another is NaN.  The default: of the three it rounds least, and it hides nothing.
    DIVISION = "division"
    #: S = min(M / a, largest float32), 1 where a is 0 or infinite; g = 1 / S; s = min(a (S (1/6)), largest float32);
    #: x min(1 / (s g), largest float32) (NVIDIA/TransformerEngine d0067d0, 2026-08-22, transformer_engine/common/cast/nvfp4/core_nvfp4.cuh
    #: and quantize_transpose_nvfp4.cuh).  No NaN counts for a; infinities clamp, and a NaN becomes 6, as PTX converts.
    TRANSFORMER_ENGINE = "transformer-engine"
    #: g = a / M; s = (a / 6) / g, at least the smallest normal scale (2**-6); x ((1 / g) / s) (pytorch/ao v0.17.0 to v0.18.0,
    #: the same file).  A NaN makes every a above it NaN; tensors of zeros, and those so small that g is 0, become NaN where a is 0 too.
    TORCHAO = "torchao"


class Tensor(NamedTuple):
    """The scale of a tensor: what blocks are multiplied by, and what they are decoded with."""

    encode: Any
    decode: Any


class Arithmetic(NamedTuple):
    """A rule at work.

    Attributes
    ----------
    gather: the larger of two magnitudes: NaN counts (np.maximum) or does not (np.fmax).
    poisons: whether infinities and NaNs make their blocks NaN, and count for no largest magnitude.
    floored: whether the smallest normal scale is the smallest there is, unless told otherwise.
    nan: what a NaN becomes among the elements.
    tensor, given: the scale of a tensor, from its largest magnitude and M; from g.
    block: the scale of blocks before it is rounded, from their largest magnitudes.
    scaled: elements in units of their blocks, from x and the scales (of each element's block).
    four: the scales at which the largest element becomes 6 and 4, where the rule has such (``four_over_six``).
    """

    gather: np.ufunc
    poisons: bool
    floored: bool
    nan: NaN
    tensor: Callable[[Any, Any], Tensor]
    given: Callable[[Any], Tensor]
    block: Callable[[Array, Tensor], Array]
    scaled: Callable[[Array, Array, Tensor], Array]
    four: Callable[[Array, Tensor], tuple[Array, Array]] | None


def _divided(amax: Any, top: Any) -> Tensor:
    return _decoded(ONE if amax == 0 else np.clip(amax / top, SMALLEST_NORMAL, LARGEST))


def _decoded(g: Any) -> Tensor:
    return Tensor(None, g)


def _by_unit(x: Array, scales: Array, tensor: Tensor) -> Array:
    unit: Array = scales * tensor.decode
    return np.where(unit > 0, x / np.where(unit > 0, unit, ONE), ZERO)


def _multiplied(amax: Any, top: Any) -> Tensor:
    encode = np.minimum(top / amax, LARGEST)
    return _encoded(ONE if amax == 0 or encode == 0 else encode)


def _encoded(encode: Any) -> Tensor:
    return Tensor(encode, ONE / encode)


def _inverse_kept(g: Any) -> Tensor:
    return Tensor(np.minimum(ONE / g, LARGEST), g)


def _by_inverse(x: Array, scales: Array, tensor: Tensor) -> Array:
    product: Array = x * np.minimum(ONE / (scales * tensor.decode), LARGEST)
    return product


def _pair_of_products(amax: Array, tensor: Tensor) -> tuple[Array, Array]:
    six = amax / SIX * tensor.encode
    return six, six * np.float32(1.5)


ARITHMETIC: dict[NVFP4Rule, Arithmetic] = {
    NVFP4Rule.DIVISION: Arithmetic(
        gather=np.maximum,
        poisons=True,
        floored=False,
        nan=NaN.ZERO,  # none is left
        tensor=_divided,
        given=_decoded,
        block=lambda amax, tensor: amax / SIX / tensor.decode,
        scaled=_by_unit,
        four=lambda amax, tensor: (amax / SIX / tensor.decode, amax / np.float32(4) / tensor.decode),
    ),
    NVFP4Rule.TRANSFORMER_ENGINE: Arithmetic(
        gather=np.fmax,
        poisons=False,
        floored=False,
        nan=NaN.MAX,
        tensor=_multiplied,
        given=_inverse_kept,
        block=lambda amax, tensor: np.minimum(amax * (tensor.encode * SIXTH), LARGEST),
        scaled=_by_inverse,
        four=_pair_of_products,
    ),
    NVFP4Rule.TORCHAO: Arithmetic(
        gather=np.maximum,
        poisons=False,
        floored=True,
        nan=NaN.ZERO,  # 0 x inf, under a scale that decodes to 0: torchao's bits of a NaN mean nothing
        tensor=lambda amax, top: _decoded(amax / top),
        given=_decoded,
        block=lambda amax, tensor: amax / SIX / tensor.decode,
        scaled=lambda x, scales, tensor: x * (ONE / tensor.decode / scales),
        four=None,
    ),
}
