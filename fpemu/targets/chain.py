"""Which passes a conversion takes, one after another: the same on every machine.

Most conversions are one pass; an intermediate format, and formats that neither lane decodes, take several.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fpemu.formats import FORMATS, FloatFormat
from fpemu.kernels.spec import (
    LANE32,
    LANE64,
    NEAREST_EVEN,
    STOCHASTIC,
    DecodeSpec,
    EncodeSpec,
    Lane,
    Plan,
    decode_spec,
    decodes_in,
    encode_plan,
    encode_spec,
    fits_lane,
)
from fpemu.policies import Cast
from fpemu.targets.environment import in_default_environment

Source = FloatFormat | Lane  # codes of a format (float16 and float32 are codes too), or the lane of float64

FLOAT16, FLOAT32 = FORMATS["float16"], FORMATS["float32"]
SOURCES: dict[np.dtype[Any], Source] = {
    np.dtype(np.float16): FLOAT16,
    np.dtype(np.float32): FLOAT32,
    np.dtype(np.float64): LANE64,
}


class Stages(NamedTuple):
    """What happens to an element, in this order; None: it does not."""

    source: DecodeSpec | None = None  # its code is decoded to a value of the lane
    to: EncodeSpec | None = None  # the value is encoded
    back: DecodeSpec | None = None  # the code is decoded again


class Pass(NamedTuple):
    """One pass: decode codes of ``source``, encode by ``cast``, decode codes of ``back``; those that are not None.

    ``source_emin``: exponent of the smallest normal value of what the inputs come from.
    """

    lane: Lane
    source: FloatFormat | None
    cast: Cast | None
    back: FloatFormat | None
    source_emin: int

    @property
    def has(self) -> tuple[bool, bool, bool]:
        """Which stages it has."""
        return (self.source is not None, self.cast is not None, self.back is not None)

    @property
    def plan(self) -> Plan:
        """The code paths."""
        if self.cast is not None:
            return encode_plan(self.cast, self.lane)
        return Plan(NEAREST_EVEN, source_trailing=self.lane.trailing_bits, source_sign=self.lane.bits - 1)

    @property
    def stages(self) -> Stages:
        """The numbers."""
        return Stages(
            None if self.source is None else decode_spec(self.source, self.lane),
            None if self.cast is None else encode_spec(self.cast, self.lane, self.source_emin),
            None if self.back is None else decode_spec(self.back, self.lane),
        )

    @property
    def reads(self) -> np.dtype[Any]:
        """The dtype of what it reads."""
        return np.dtype(self.lane.code) if self.source is None else self.source.code_dtype

    @property
    def writes(self) -> np.dtype[Any]:
        """The dtype of what it writes."""
        return np.dtype(self.lane.code) if self.cast is None or self.back is not None else self.cast.format.code_dtype

    @property
    def random(self) -> bool:
        """Whether a result depends on the index too."""
        return self.plan.rounding == STOCHASTIC


class ExactPass(NamedTuple):
    """Decoding of a format that the kernels do not decode: by ``exact_values``, through a table where codes are short."""

    source: FloatFormat
    lane: Lane

    @property
    def reads(self) -> np.dtype[Any]:
        """The dtype of what it reads."""
        return self.source.code_dtype

    @property
    def writes(self) -> np.dtype[Any]:
        """The dtype of what it writes."""
        return np.dtype(self.lane.code)

    @property
    def random(self) -> bool:
        """Whether a result depends on the index too."""
        return False


Passes = tuple[Pass | ExactPass, ...]


def _pass(
    lane: Lane,
    source: FloatFormat | None = None,
    cast: Cast | None = None,
    back: FloatFormat | None = None,
    source_emin: int | None = None,
) -> Pass:
    if source_emin is None:
        source_emin = lane.emin if source is None else source.emin
    return Pass(lane, source, cast, back, source_emin)


def decode_pass(source: FloatFormat, lane: Lane) -> Pass | ExactPass:
    """From codes to the bits of a lane."""
    if decodes_in(source, lane):
        return _pass(lane, source)
    source.value_dtype  # noqa: B018  (raises where float64 cannot hold the values)
    return ExactPass(source, lane)


@lru_cache(maxsize=4096)
def encode_passes(source: Source, cast: Cast) -> Passes:
    """From values of ``source`` to codes of ``cast.format``."""
    if cast.via is not None:
        first, then = cast.via, cast.replace(via=None)
        return encode_passes(source, first) + encode_passes(first.format, then)
    if isinstance(source, Lane):
        return (_pass(LANE64, cast=cast),)
    narrow = fits_lane(cast, LANE32)
    if narrow and source == FLOAT32:
        return (_pass(LANE32, cast=cast),)
    lane = LANE32 if narrow and decodes_in(source, LANE32) else LANE64
    if decodes_in(source, lane):
        return (_pass(lane, source, cast),)
    return (decode_pass(source, lane), _pass(lane, cast=cast, source_emin=source.emin))


@lru_cache(maxsize=4096)
def decode_passes(source: FloatFormat, dtype: np.dtype[Any]) -> Passes:
    """From codes of ``source`` to the bits of a NumPy dtype that holds its values."""
    if dtype == np.float16:
        return encode_passes(source, Cast(FLOAT16))
    return (decode_pass(source, LANE32 if dtype == np.float32 else LANE64),)


@lru_cache(maxsize=4096)
def quantize_passes(source: Source, cast: Cast, dtype: np.dtype[Any]) -> Passes:
    """From values of ``source`` to the nearest of ``cast.format``, as bits of ``dtype``."""
    lane = {np.dtype(np.float32): LANE32, np.dtype(np.float64): LANE64}.get(dtype)
    same = SOURCES[dtype] == source
    if same and lane is not None and cast.via is None and fits_lane(cast, lane) and decodes_in(cast.format, lane):
        return (_pass(lane, cast=cast, back=cast.format),)
    return encode_passes(source, cast) + decode_passes(cast.format, dtype)


@in_default_environment
def exact_values(codes: np.ndarray[Any, Any], source: FloatFormat, lane: Lane) -> np.ndarray[Any, Any]:
    """The lane's bits of the values of codes, by exact arithmetic: for any format, and not fast."""
    magnitude = (codes & np.array(source.magnitude_mask, codes.dtype)).astype(np.int64)
    field, trailing = magnitude >> source.trailing_bits, magnitude & ((1 << source.trailing_bits) - 1)
    normal = (field > 0) | (not source.subnormals)
    significand = np.where(normal, trailing | (1 << source.trailing_bits), trailing)
    exponent = np.where(normal, field - source.bias, source.emin) - source.trailing_bits
    # ldexp of an integer below 2**53 is exact wherever the value is one of the lane's.
    value = np.ldexp(significand.astype(np.float64), exponent.astype(np.int32))
    value = np.where(magnitude > source.max_code, np.nan, value)
    if source.infinity_code is not None:
        value = np.where(magnitude == source.infinity_code, np.inf, value)
    bits = value.astype(lane.value).view(lane.code)
    if source.sign_mask:
        minus = (codes & np.array(source.sign_mask, codes.dtype)) != 0
        bits = np.where(minus, bits | lane.code(1 << (lane.bits - 1)), bits)
        if not source.negative_zero:
            bits = np.where(codes == source.sign_mask, np.array(np.nan, lane.value).view(lane.code), bits)
    return bits


TABLE_BITS = 16  # formats up to this width decode through a table of all codes


@lru_cache(maxsize=64)
def exact_table(source: FloatFormat, lane: Lane) -> np.ndarray[Any, Any]:
    """``exact_values`` of all codes."""
    return exact_values(np.arange(1 << source.bits, dtype=source.code_dtype), source, lane)


def is_nan_limits(source: Source) -> tuple[int, int, int]:
    """``(mask, largest, alone)``: a code is NaN where ``code & mask > largest``, or where it is ``alone`` (if not 0)."""
    if isinstance(source, Lane):
        return (1 << (source.bits - 1)) - 1, source.infinity, 0
    alone = source.sign_mask if source.signed and not source.negative_zero else 0
    return source.magnitude_mask, source.max_code + source.infinities, alone
