"""What the kernels see of a Cast: plain unsigned integers, worked out once in Python.

A ``Plan`` holds the few facts that choose code paths; drivers freeze it at compile time.  An ``EncodeSpec`` or
``DecodeSpec`` holds the numbers; drivers pass it at run time, or freeze it too where that is worth a compilation.
All fields of a spec have the width of the *lane*: 32 bits for float32 inputs, 64 for float64.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fpemu.formats import FloatFormat
from fpemu.policies import Cast, Rounding, Stochastic, Subnormals

ROUNDINGS = tuple(Rounding)
NEAREST_EVEN, NEAREST_AWAY, TOWARD_ZERO, UP, DOWN, TO_ODD, STOCHASTIC = range(7)
VARIANTS = tuple(Stochastic)
VARIANT_A, VARIANT_B, VARIANT_C, VARIANT_A_WORD = range(4)  # the last: variant A with all 32 random bits
SHIFT_VARIES, SHIFT_FIXED, SHIFT_FIXED_OR_FLOAT = range(3)
ZERO, FINITE, INFINITE, NOT_A_NUMBER = range(
    4
)  # kinds of an exact result; beyond zero they are ordered like magnitudes


class Lane(NamedTuple):
    """An IEEE interchange format that inputs come in, and the unsigned integer its bits are worked on in."""

    trailing_bits: int
    bias: int
    bits: int
    code: type[np.unsignedinteger[Any]]
    value: type[np.floating[Any]]

    @property
    def infinity(self) -> int:
        return (1 << (self.bits - 1)) - (1 << self.trailing_bits)

    @property
    def emin(self) -> int:
        return 1 - self.bias

    @property
    def bins(self) -> int:
        """Binades of the finite values, each of the subnormals' among them; the first is 2**(emin - trailing_bits)."""
        return (1 << (self.bits - 1 - self.trailing_bits)) - 2 + self.trailing_bits


LANE32 = Lane(23, 127, 32, np.uint32, np.float32)
LANE64 = Lane(52, 1023, 64, np.uint64, np.float64)

# Arithmetic works on numbers of its own (kernels/exact.py): 30 or 62 significant bits, exponents without bounds to speak
# of; the float type is the one that finds leading bits.
EXACT32 = Lane(29, 1 << 24, 32, np.uint32, np.float32)
EXACT64 = Lane(61, 1 << 40, 64, np.uint64, np.float64)
EXACT_BITS = 59  # bits of any result in EXACT64 before its last one, which stands for all that follow


class Plan(NamedTuple):
    """Code paths, frozen at compile time."""

    rounding: int  # index into ROUNDINGS
    variant: int = VARIANT_A  # of stochastic rounding; matters to no other
    wide: int = 0  # the target reaches below the lane's smallest normal: source subnormals are normalised
    zeroless: int = 0  # the target has no zero
    to_min: int = 0  # below the smallest normal, round on the grid {0, smallest normal}
    fixed_shift: int = SHIFT_VARIES  # else kernels/fixed_shift.py rounds, subnormal results like others or in floats
    mirrored: int = 0  # the sign bit of a result is that of the input, and all that is too large becomes one code
    source_trailing: int = 23  # trailing significand bits of the lane
    source_sign: int = 31  # position of its sign bit; also the largest shift
    flush_before: int = 0  # of exact numbers: those below a floor are zero


class EncodeSpec(NamedTuple):
    """Numbers of one conversion from a lane to a format; exponents are biased like the lane's, plus ``lift``."""

    source_infinity: Any  # its magnitude bits of infinity; larger is NaN
    input_floor: Any  # magnitude bits below this are zero (flushed inputs); of an exact number, exponents below this
    lift: Any  # added to exponents, so that those of wide targets stay positive
    emin: Any  # lifted biased exponent of the target's lowest binade
    shift: Any  # source_trailing - trailing: bits to discard from a normal value
    trailing: Any  # trailing significand bits of the target
    parity: Any  # 1 where even and odd are a matter of the code, 0 where of the significand
    lowest: Any  # 1 << trailing where the target's lowest binade is normal, else 0
    output_floor: Any  # magnitude codes below this are zero (flushed results)
    sign: Any  # sign mask of the target's codes
    signed_from: Any  # smallest magnitude code that takes a sign: 1 where there is no -0
    max_positive: Any  # largest finite magnitude code of either sign (0 for negatives in unsigned formats)
    max_negative: Any
    over_positive: Any  # codes for values beyond
    over_negative: Any
    under: Any  # zeroless formats: code for positive values that round to zero
    zero: Any  # zeroless formats: code for zero
    infinity_positive: Any
    infinity_negative: Any
    nan_positive: Any
    nan_negative: Any
    random_bits: Any


class DecodeSpec(NamedTuple):
    """Numbers of one conversion from codes to a lane."""

    sign: Any  # sign mask of the codes
    magnitude: Any  # mask of the rest
    trailing_shift: Any  # moves a magnitude code onto the lane's fields
    rebias: Any  # difference of the biases, in place
    normal: Any  # magnitude codes below this are converted as integers (0: none needs it)
    integer_shift: Any  # moves float32 bits of such an integer onto the lane's fields
    integer_rebias: Any  # exponent of the last place, in place
    max_code: Any
    infinity_code: Any  # all ones where there is none
    nan_code: Any  # the sign bit alone where that is NaN, else all ones
    sign_shift: Any  # from the sign bit of a code to that of the lane
    infinity: Any  # the lane's bits of infinity
    nan: Any  # and of its quiet NaN


class OperandSpec(NamedTuple):
    """Numbers by which a code becomes an exact number."""

    sign: Any  # sign mask of the codes
    magnitude: Any  # mask of the rest
    floor: Any  # magnitude codes below this are zero (flushed inputs)
    trailing: Any  # trailing significand bits
    hidden: Any  # the hidden bit, in place
    lowest_hidden: Any  # that of the lowest exponent field: 0 where it holds subnormals
    first_field: Any  # the exponent field that the lowest binade counts as: 1 where it holds subnormals, else 0
    rebias: Any  # from the sum of exponent field and float exponent to the exponent of the lane
    max_code: Any
    last_number: Any  # magnitude code of the largest number, infinity included
    nan_code: Any  # the sign bit alone where that is NaN, else all ones
    opposite: Any  # 1 where the negative of the value is meant


@lru_cache(maxsize=4096)
def encode_plan(cast: Cast, lane: Lane) -> Plan:
    """The code paths of a conversion from a lane."""
    return Plan(
        rounding=ROUNDINGS.index(cast.rounding),
        variant=_variant(cast),
        wide=int(cast.format.emin + lane.bias < 1),
        zeroless=int(not cast.format.has_zero),
        to_min=int(cast.subnormals is Subnormals.ROUND_TO_MIN and cast.format.subnormals),
        fixed_shift=_fixed_shift(cast, lane),
        mirrored=int(_is_mirrored(cast, lane)),
        source_trailing=lane.trailing_bits,
        source_sign=lane.bits - 1,
    )


def _variant(cast: Cast) -> int:
    if cast.rounding is not Rounding.STOCHASTIC:
        return VARIANT_A
    variant = VARIANTS.index(cast.stochastic)
    return VARIANT_A_WORD if variant == VARIANT_A and cast.random_bits == 32 else variant


def _first_bits(cast: Cast, lane: Lane) -> int | None:
    """How many of the first bits of a discarded fraction decide by kernels/fixed_shift.py; None: it does not serve."""
    if cast.rounding is Rounding.NEAREST_EVEN:
        return 1
    return 32 if _variant(cast) == VARIANT_A_WORD and lane is LANE32 else None


def _fixed_shift(cast: Cast, lane: Lane) -> int:
    """Whether kernels/fixed_shift.py serves, and how."""
    target, first_bits = cast.format, _first_bits(cast, lane)
    if first_bits is None or cast.subnormals is Subnormals.ROUND_TO_MIN or not target.has_zero or target.precision == 1:
        return SHIFT_VARIES  # (with one significant bit, even is a matter of exponents)
    if target.emin == lane.emin:
        return SHIFT_FIXED
    # What is subnormal in the lane must not reach the first bits, as a machine may take it for zero; and the powers of
    # two by which subnormal results are found must be values of the lane.
    finest = target.finest_exponent
    serves = finest - first_bits >= lane.emin and finest + lane.trailing_bits <= lane.bias
    return SHIFT_FIXED_OR_FLOAT if serves else SHIFT_VARIES


def _is_mirrored(cast: Cast, lane: Lane) -> bool:
    """Whether the sign bit of a result is that of the input, and beyond the largest finite value all is one code.

    That code must be ``max_code`` or the next, and the lane's infinity must round to a larger one, so that a minimum
    gives it.
    """
    target = cast.format
    beyond = cast.overflow_code(False)
    ends = (cast.overflow_code, cast.infinity_code, cast.nan_code_for)
    return (
        target.signed
        and target.negative_zero
        and target.emax <= lane.bias
        and all(end(True) == end(False) | target.sign_mask for end in ends)
        and beyond == cast.infinity_code(False)
        and beyond in (target.max_code, target.max_code + 1)
    )


def fits_lane(cast: Cast, lane: Lane) -> bool:
    """Whether the lane is wide enough for the target: at least one bit to discard, and room for every code.

    (With one bit to discard, shifts are positive and half a spacing is an integer; the code of the lane's largest
    value, however far beyond the target's, has to stay below the sign bit.)
    """
    target = cast.format
    if lane is LANE64:
        return True
    top = (2 * lane.bias - (target.emin + lane.bias) + 2) << target.trailing_bits
    return target.trailing_bits < lane.trailing_bits and top < 1 << (lane.bits - 1)


def _input_floor(cast: Cast, lane: Lane, source_emin: int) -> int:
    """Magnitude bits of the smallest input that is not flushed to zero."""
    if cast.subnormals is Subnormals.FLUSH_INPUT:
        return _power_of_two(source_emin, lane)
    if cast.subnormals is Subnormals.FLUSH_OUTPUT_BEFORE:
        return _power_of_two(cast.format.emin, lane)
    return 0


def _power_of_two(exponent: int, lane: Lane) -> int:
    """Magnitude bits of the smallest lane value that is not below 2**exponent."""
    biased = exponent + lane.bias
    if biased >= 1:
        return min(biased << lane.trailing_bits, lane.infinity)
    return 1 << max(lane.trailing_bits + biased - 1, 0)


@lru_cache(maxsize=4096)
def encode_spec(cast: Cast, lane: Lane, source_emin: int) -> EncodeSpec:
    """The numbers of ``cast`` in a lane; inputs below 2**source_emin are subnormal where they come from."""
    target = cast.format
    plan = encode_plan(cast, lane)
    emin = target.emin + lane.bias
    lift = 2048 - emin if plan.wide else 0
    flushes = cast.subnormals is Subnormals.FLUSH_OUTPUT and target.subnormals
    zero = 0 if target.has_zero else cast.zero_code()

    # A zeroless format (unsigned, always) has nothing between zero and its smallest value: downward means to zero.
    downward = cast.rounding in (Rounding.TOWARD_ZERO, Rounding.DOWN)
    return EncodeSpec(
        source_infinity=lane.infinity,
        input_floor=_input_floor(cast, lane, source_emin),
        lift=lift,
        emin=emin + lift,
        shift=lane.trailing_bits - target.trailing_bits,
        trailing=target.trailing_bits,
        parity=int(target.ties == "code" or cast.rounding is Rounding.TO_ODD),
        lowest=0 if target.subnormals else 1 << target.trailing_bits,
        output_floor=target.smallest_normal_code if flushes else 0,
        sign=target.sign_mask,
        signed_from=0 if target.negative_zero else 1,
        max_positive=target.max_code,
        max_negative=target.max_code if target.signed else 0,
        over_positive=cast.overflow_code(False),
        over_negative=cast.overflow_code(True),
        under=zero if downward else target.smallest_code,
        zero=zero,
        infinity_positive=cast.infinity_code(False),
        infinity_negative=cast.infinity_code(True),
        nan_positive=cast.nan_code_for(False),
        nan_negative=cast.nan_code_for(True),
        random_bits=cast.random_bits,
    )


def decodes_in(source: FloatFormat, lane: Lane) -> bool:
    """Whether the decode kernel serves: every non-zero value is a normal number of the lane, or has its exponents.

    (Formats that share the lane's bias decode by a shift alone, subnormals included.)
    """
    smallest = source.emin - (source.trailing_bits if source.subnormals else 0)
    return (
        source.trailing_bits <= min(lane.trailing_bits, 23)
        and source.emax <= lane.bias
        and (smallest >= 1 - lane.bias or (source.bias == lane.bias and source.subnormals))
    )


@lru_cache(maxsize=4096)
def decode_spec(source: FloatFormat, lane: Lane) -> DecodeSpec:
    """The numbers of the conversion from codes of ``source`` to a lane (``decodes_in`` must hold)."""
    mask = (1 << lane.bits) - 1
    none = mask
    same_bias = source.bias == lane.bias
    finest = source.finest_exponent
    return DecodeSpec(
        sign=source.sign_mask,
        magnitude=source.magnitude_mask,
        trailing_shift=lane.trailing_bits - source.trailing_bits,
        rebias=((lane.bias - source.bias) << lane.trailing_bits) & mask,
        normal=0 if same_bias else source.smallest_normal_code,
        integer_shift=lane.trailing_bits - 23,
        integer_rebias=((finest + lane.bias - 127) << lane.trailing_bits) & mask,
        max_code=source.max_code,
        infinity_code=none if source.infinity_code is None else source.infinity_code,
        nan_code=source.sign_mask if source.signed and not source.negative_zero else none,
        sign_shift=lane.bits - source.bits,
        infinity=lane.infinity,
        nan=lane.infinity | 1 << (lane.trailing_bits - 1),
    )


# ---- arithmetic -----------------------------------------------------------------------------------------------------
def fits_exact32(format: FloatFormat) -> bool:
    """Whether 15 bits hold its significands, 16 its codes, and exponents of its products and quotients stay small."""
    return format.bits <= 16 and format.precision <= 15 and abs(format.bias) < 1 << 20


def exact_lane(cast: Cast, sources: tuple[FloatFormat, ...]) -> Lane:
    """The lane in which results of codes of ``sources`` are exact (but for a last bit) before they are rounded."""
    narrow = cast.rounding is not Rounding.STOCHASTIC and all(map(fits_exact32, (cast.format, *sources)))
    return EXACT32 if narrow else EXACT64


def check_random_bits(cast: Cast) -> None:
    """Raises ValueError where the random bits of stochastic rounding reach beyond the exact bits of a result."""
    if cast.rounding is Rounding.STOCHASTIC:
        most = EXACT_BITS - 1 - cast.format.precision  # (variants B and C look one bit further)
        if cast.random_bits > most:
            raise ValueError(
                f"arithmetic rounded stochastically to precision {cast.format.precision} takes at most {most} random "
                f"bits, not {cast.random_bits}"
            )


@lru_cache(maxsize=4096)
def exact_plan(cast: Cast, lane: Lane) -> Plan:
    """The code paths of rounding an exact number."""
    flushes = cast.subnormals is Subnormals.FLUSH_OUTPUT_BEFORE
    return encode_plan(cast, lane)._replace(fixed_shift=SHIFT_VARIES, flush_before=int(flushes))


@lru_cache(maxsize=4096)
def exact_spec(cast: Cast, lane: Lane) -> EncodeSpec:
    """The numbers of rounding an exact number, whose kind stands for its magnitude where that is no number."""
    flushes = cast.subnormals is Subnormals.FLUSH_OUTPUT_BEFORE
    floor = cast.format.emin + lane.bias if flushes else 0
    return encode_spec(cast, lane, 0)._replace(source_infinity=INFINITE, input_floor=floor)


@lru_cache(maxsize=4096)
def operand_spec(source: FloatFormat, lane: Lane, flush: bool, opposite: bool = False) -> OperandSpec:
    """The numbers by which codes of ``source`` are opened; ``flush``: subnormal ones as zeros; ``opposite``: negated."""
    float_bias = 1023 if lane is EXACT64 else 127
    return OperandSpec(
        sign=source.sign_mask,
        magnitude=source.magnitude_mask,
        floor=source.smallest_normal_code if flush else 0,
        trailing=source.trailing_bits,
        hidden=1 << source.trailing_bits,
        lowest_hidden=0 if source.subnormals else 1 << source.trailing_bits,
        first_field=int(source.subnormals),
        rebias=lane.bias - source.bias - source.trailing_bits - float_bias,
        max_code=source.max_code,
        last_number=source.max_code + source.infinities,
        nan_code=source.sign_mask if source.signed and not source.negative_zero else (1 << lane.bits) - 1,
        opposite=int(opposite),
    )
