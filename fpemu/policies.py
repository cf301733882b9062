"""What a conversion does where the value does not fit: named policies, and ``Cast``, a format joined with them.

Every choice a standard leaves open is a member of an enum with a documented default; text is parsed once, here.

Sources: IEEE 754-2019 clauses 4.3, 6.2, 6.3, 7.4, 7.5; OCP OFP8 v1.0 (saturating and non-saturating conversion);
IEEE P3109 report v4.0: sections 4.7.3 to 4.7.5 (projection, rounding, saturation) and 4.10.5 (division).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from operator import index
from typing import TYPE_CHECKING, Any, Self

from fpemu.formats import FloatFormat, FormatName, as_format

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray


class Policy(Enum):
    """A policy parsed from its text; a wrong one raises ValueError that lists what is valid."""

    @classmethod
    def _missing_(cls, value: object) -> Self:
        if isinstance(value, str):
            wanted = value.strip().lower().replace("_", "-")
            for member in cls:
                if member.value.lower() == wanted:
                    return member
        valid = ", ".join(member.value for member in cls)
        raise ValueError(f"unknown {cls.__name__.lower()} {value!r}; valid: {valid}")


class Rounding(Policy):
    """Which of the two neighbouring values an inexact one becomes."""

    NEAREST_EVEN = "nearest-even"  #: the nearer; a tie to the even code (IEEE 754 roundTiesToEven). The default
    NEAREST_AWAY = "nearest-away"  #: the nearer; a tie to the larger magnitude (roundTiesToAway)
    TOWARD_ZERO = "toward-zero"  #: the smaller magnitude (roundTowardZero)
    UP = "up"  #: the larger value (roundTowardPositive)
    DOWN = "down"  #: the lower value (roundTowardNegative)
    TO_ODD = "to-odd"  #: the one with the odd code (P3109 ToOdd; Boldo and Melquiond)
    STOCHASTIC = "stochastic"  #: the larger magnitude with a probability equal to the distance from the smaller


class Stochastic(Policy):
    """How N random bits R meet the discarded fraction v (P3109 v4.0, StochasticA, B and C)."""

    A = "A"  #: up where floor(v 2^N) + R >= 2^N: a bias of at most 2^-N spacings toward zero. The default
    B = "B"  #: up where floor(v 2^(N+1)) + 2R + 1 >= 2^(N+1)
    C = "C"  #: up where v 2^N rounded to an integer, ties to even, + R >= 2^N


class Overflow(Policy):
    """What finite values beyond the largest finite one, and infinities, become (``OVERFLOW_RULES`` has the rows)."""

    IEEE = "ieee"  #: infinity, else NaN, else the largest finite (IEEE 754; OFP8 non-saturating). The default
    SATURATE = "saturate"  #: the largest finite, infinities too (OFP8 saturating; P3109 SatFinite)
    PROPAGATE = "propagate"  #: finite values clamp; infinity stays, else NaN, else the largest finite (ONNX Cast 19)
    P3109 = "p3109"  #: infinity, else the largest finite although NaN exists (P3109 SatNone)
    NAN = "nan"  #: NaN for both, else the largest finite
    P3109_PROPAGATE = "p3109-propagate"  #: finite values clamp; infinity stays, else clamps too (P3109 SatPropagate)


class Subnormals(Policy):
    """What happens below the smallest normal value."""

    KEEP = "keep"  #: gradual underflow. The default
    FLUSH_OUTPUT = "flush-output"  #: a result that is subnormal after rounding becomes a zero of its sign
    FLUSH_OUTPUT_BEFORE = "flush-output-before"  #: an input below the smallest normal of the target does
    FLUSH_INPUT = "flush-input"  #: an input that is subnormal in its own source format does ("denormals are zero")
    ROUND_TO_MIN = "round-to-min"  #: rounding on the two-point grid {0, smallest normal}; nearest modes: half goes up


class NaN(Policy):
    """What a NaN becomes.  A format without NaN raises unless one of the last four is chosen."""

    CANONICAL = "canonical"  #: the format's quiet NaN, the sign kept where its NaN has one. The default
    UNSIGNED = "unsigned"  #: the format's quiet NaN, the sign dropped
    RAISE = "raise"  #: ValueError
    MAX = "max"  #: the largest finite value, positive (PTX, for FP4 and FP6)
    ZERO = "zero"  #: zero, positive (in a format without one, whatever a zero becomes)
    LIMIT = "limit"  #: the largest finite value of the NaN's sign (QPyTorch)
    NEGATED_ZERO = (
        "negated-zero"  #: a zero of the other sign: -0, of a NaN with the sign bit +0 (ml_dtypes, FP4 and FP6)
    )


class ByZero(Policy):
    """What a number that is not zero, divided by zero, is: of ``fpemu.divide`` alone.  0/0 is NaN either way."""

    INFINITY = "infinity"  #: infinite, by the signs (IEEE 754-2019, 7.3). The default
    NAN = "nan"  #: NaN (P3109 v4.0, 4.10.5)


class To(Enum):
    """Where a value that does not fit can go."""

    INFINITY = "infinity"
    NAN = "nan"
    LIMIT = "limit"  # the largest finite value of that sign; for negatives in an unsigned format the lowest value


@dataclass(frozen=True)
class OverflowRule:
    """Preferences in order; the first that the format has is taken.  ``below`` is for negatives in unsigned formats.

    ``inward_below``: whether finite ones go to the lowest value under roundings that point up to it.
    """

    finite: tuple[To, ...]
    infinite: tuple[To, ...]
    finite_below: tuple[To, ...]
    infinite_below: tuple[To, ...]
    inward_below: bool = False


_ELSE_NAN = (To.INFINITY, To.NAN, To.LIMIT)
_ELSE_LIMIT = (To.INFINITY, To.LIMIT)
_NAN = (To.NAN, To.LIMIT)
_LIMIT = (To.LIMIT,)
OVERFLOW_RULES: dict[Overflow, OverflowRule] = {
    Overflow.IEEE: OverflowRule(_ELSE_NAN, _ELSE_NAN, _NAN, _NAN),
    Overflow.SATURATE: OverflowRule(_LIMIT, _LIMIT, _LIMIT, _LIMIT),
    Overflow.PROPAGATE: OverflowRule(_LIMIT, _ELSE_NAN, _LIMIT, _NAN),
    Overflow.P3109: OverflowRule(_ELSE_LIMIT, _ELSE_LIMIT, _NAN, _NAN, inward_below=True),
    Overflow.NAN: OverflowRule(_NAN, _NAN, _NAN, _NAN),
    Overflow.P3109_PROPAGATE: OverflowRule(_LIMIT, _ELSE_LIMIT, _LIMIT, _LIMIT),
}


@dataclass(frozen=True)
class Cast:
    """A target format and what happens to the values that do not fit it.

    Parameters (text is accepted for every policy)
    ----------
    format: the target, a FloatFormat or a name.
    rounding: a Rounding.  Rounding comes first, with unbounded exponent; then the test for overflow.
    overflow: an Overflow.  A finite value that overflows under a directed rounding goes where the direction says
        (IEEE 754-2019, 7.4): ``toward-zero`` to the largest finite, ``up`` and ``down`` to it where they point
        inward; ``to-odd`` to whichever of the two has the odd code.  An infinite input is exact and goes where the
        policy says under every rounding.  A finite negative result in an unsigned format goes where the policy says
        under every rounding, but with ``p3109`` to the lowest value under ``toward-zero`` and ``up`` (P3109 v4.0,
        4.7.5).
    subnormals: a Subnormals.
    nan: a NaN.  ``nan_code`` names another of the format's NaN codes (without its sign) as the canonical one.
    random_bits: how many random bits stochastic rounding uses, 1 to 32; ``stochastic``: P3109's variant.
    via: a format or Cast that values are rounded to first, as libraries do that narrow float64 through float32.

    Raises
    ------
    TypeError, ValueError: an unknown policy or format (the message lists the valid ones), a code that is no NaN.
    """

    format: FloatFormat
    rounding: Rounding = Rounding.NEAREST_EVEN
    overflow: Overflow = Overflow.IEEE
    subnormals: Subnormals = Subnormals.KEEP
    nan: NaN = NaN.CANONICAL
    nan_code: int | None = None
    random_bits: int = 32
    stochastic: Stochastic = Stochastic.A
    via: Cast | None = None

    def __init__(
        self,
        format: FormatName,
        rounding: Rounding | str = Rounding.NEAREST_EVEN,
        overflow: Overflow | str = Overflow.IEEE,
        subnormals: Subnormals | str = Subnormals.KEEP,
        nan: NaN | str = NaN.CANONICAL,
        nan_code: int | None = None,
        random_bits: int = 32,
        stochastic: Stochastic | str = Stochastic.A,
        via: Cast | FormatName | None = None,
    ) -> None:
        parsed = {
            "format": as_format(format),
            "rounding": Rounding(rounding),
            "overflow": Overflow(overflow),
            "subnormals": Subnormals(subnormals),
            "nan": NaN(nan),
            "nan_code": None if nan_code is None else as_int("nan_code", nan_code),
            "random_bits": as_random_bits(random_bits),
            "stochastic": Stochastic(stochastic),
            "via": via if via is None or isinstance(via, Cast) else Cast(via),
        }
        for field, value in parsed.items():
            object.__setattr__(self, field, value)
        self._validate()

    def _validate(self) -> None:
        if self.rounding is Rounding.STOCHASTIC and self.format.precision + self.random_bits > 62:
            raise ValueError(
                f"stochastic rounding to precision {self.format.precision} takes at most "
                f"{62 - self.format.precision} random bits, not {self.random_bits}"
            )
        if self.nan_code is not None and self.nan_code not in self.format.nan_codes():
            valid = ", ".join(hex(code) for code in self.format.nan_codes()[:8]) or "none"
            raise ValueError(f"nan_code {self.nan_code!r} is no NaN code of {self.format.name}; valid: {valid}")

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.format, self.rounding.value, self.overflow.value, self.subnormals.value, self.nan.value))

    @property
    def raises_on_nan(self) -> bool:
        """Whether a NaN among the inputs is an error."""
        return self.nan is NaN.RAISE or (self.nan in (NaN.CANONICAL, NaN.UNSIGNED) and not self.format.has_nan)

    def replace(self, **policies: Any) -> Cast:
        """This cast with some policies replaced."""
        return replace(self, **policies)

    def encode(self, x: ArrayLike, **options: Any) -> NDArray[np.unsignedinteger[Any]]:
        """``fpemu.encode(x, self)``."""
        from fpemu.arrays import encode

        return encode(x, self, **options)

    def quantize(self, x: ArrayLike, **options: Any) -> NDArray[np.floating[Any]]:
        """``fpemu.quantize(x, self)``."""
        from fpemu.arrays import quantize

        return quantize(x, self, **options)

    def decode(self, codes: ArrayLike, **options: Any) -> NDArray[np.floating[Any]]:
        """``fpemu.decode(codes, self.format)``."""
        from fpemu.arrays import decode

        return decode(codes, self.format, **options)

    # ---- where values that do not fit go; the one definition for kernels/spec.py -----------------------------------
    def code_of(self, to: To, negative: bool) -> int | None:
        """The code of a place to go to, with its sign; None where the format has no such place."""
        format = self.format
        if to is To.NAN:
            return self.canonical_nan(negative)
        if to is To.INFINITY:
            if format.infinity_code is None or (negative and not format.signed):
                return None
            return format.infinity_code | (format.sign_mask if negative else 0)
        return format.min_code if negative else format.max_code

    def canonical_nan(self, negative: bool) -> int | None:
        """The canonical NaN code for a NaN of that sign, or None."""
        code = self.format.nan_code if self.nan_code is None else self.nan_code
        signed = negative and self.format.nan_has_sign and self.nan is not NaN.UNSIGNED
        return None if code is None else code | (self.format.sign_mask if signed else 0)

    def _first(self, places: tuple[To, ...], negative: bool) -> int:
        codes = (self.code_of(place, negative) for place in places)
        return next(code for code in codes if code is not None)

    def overflow_code(self, negative: bool) -> int:
        """What a finite value becomes that rounds beyond the largest finite one of its sign."""
        rule = OVERFLOW_RULES[self.overflow]
        below = negative and not self.format.signed
        outward = self._first(rule.finite_below if below else rule.finite, negative)
        limit = self.format.min_code if negative else self.format.max_code
        if below:
            inward = rule.inward_below and self.rounding in (Rounding.TOWARD_ZERO, Rounding.UP)
            return limit if inward else outward
        return _DIRECTED[self.rounding](self, negative, limit, outward)

    def infinity_code(self, negative: bool) -> int:
        """What an infinite input becomes."""
        rule = OVERFLOW_RULES[self.overflow]
        below = negative and not self.format.signed
        return self._first(rule.infinite_below if below else rule.infinite, negative)

    def nan_code_for(self, negative: bool) -> int:
        """What a NaN becomes; where it raises, the bare sign, which nobody sees."""
        if self.raises_on_nan:
            return self.format.sign_mask if negative else 0
        if self.nan is NaN.ZERO:
            return 0 if self.format.has_zero else self.zero_code()
        if self.nan is NaN.NEGATED_ZERO:
            return self._negated_zero(negative)
        if self.nan is NaN.MAX or (self.nan is NaN.LIMIT and not negative):
            return self.format.max_code
        if self.nan is NaN.LIMIT:
            return self.format.min_code
        code = self.canonical_nan(negative)
        assert code is not None
        return code

    def _negated_zero(self, negative: bool) -> int:
        if not self.format.has_zero:
            return self.zero_code()
        return self.format.sign_mask if self.format.negative_zero and not negative else 0

    def zero_code(self) -> int:
        """What a zero becomes in a format without one (E8M0, unsigned): it is below the lowest value, as negatives are."""
        return self.overflow_code(True)


def as_int(name: str, value: Any) -> int:
    """An int, of Python's type.  TypeError for a bool or float, though they may equal one."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    return index(value)


def as_random_bits(value: Any) -> int:
    """How many random bits: an int from 1 to 32."""
    count = as_int("random_bits", value)
    if not 1 <= count <= 32:
        raise ValueError(f"random_bits must be 1 to 32, not {count}")
    return count


def _to_odd(cast: Cast, negative: bool, limit: int, outward: int) -> int:
    """Infinity where that code is the odd one, else the largest finite value (never NaN: OFP8 is silent here)."""
    return outward if outward == cast.code_of(To.INFINITY, negative) and not limit & 1 else limit


def _outward(cast: Cast, negative: bool, limit: int, outward: int) -> int:
    return outward


_DIRECTED: dict[Rounding, Callable[[Cast, bool, int, int], int]] = {
    Rounding.NEAREST_EVEN: _outward,
    Rounding.NEAREST_AWAY: _outward,
    Rounding.STOCHASTIC: _outward,
    Rounding.TOWARD_ZERO: lambda cast, negative, limit, outward: limit,
    Rounding.UP: lambda cast, negative, limit, outward: limit if negative else outward,
    Rounding.DOWN: lambda cast, negative, limit, outward: outward if negative else limit,
    Rounding.TO_ODD: _to_odd,
}


def as_cast(format: Cast | FormatName, **policies: Any) -> Cast:
    """A Cast from a format or name and policies; a Cast is returned as it is, with ``policies`` replaced.

    Policies that are None count as not given.
    """
    given = {name: value for name, value in policies.items() if value is not None}
    if isinstance(format, Cast):
        return format.replace(**given) if given else format
    return Cast(format, **given)
