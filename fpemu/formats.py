"""Floating-point formats as data: a frozen record of independent facts, everything else derived.

A code is read from its top bit: sign (if signed), exponent field, trailing significand.  Without its sign it is a
*magnitude code*, and magnitude codes are ordered like the values they stand for.  At the top of that order lie the
NaNs, below them infinity, below that the finite values:

    0 ... max_code | infinity (if any) | high_nans NaN codes

A signed format without a negative zero uses that code (sign bit alone) as its NaN.  These few facts describe
IEEE 754, OCP OFP8 and MX, the "fnuz" formats and the IEEE P3109 family alike; no code here branches on a name.

Sources: IEEE 754-2019 clause 3; OCP OFP8 v1.0; OCP MX v1.0 section 5; IEEE P3109 report v4.0 section 4.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import ldexp
from typing import Any, Literal, TypeGuard

import numpy as np

from fpemu.dtypes import DType, dtype_name
from fpemu.targets.environment import in_default_environment

FLOAT64_PRECISION, FLOAT64_EMIN, FLOAT64_EMAX = 53, -1022, 1023
FLOAT32_PRECISION, FLOAT32_EMIN, FLOAT32_EMAX = 24, -126, 127


@dataclass(frozen=True)
class FloatFormat:
    """A binary floating-point format of at most 32 bits.

    Parameters
    ----------
    name: what it is called; part of its identity.
    bits: width of a code, 2 to 32.
    precision: significant bits p, the hidden bit included (1 to 31).
    bias: exponent bias; a normal value is ``1.f * 2**(field - bias)``.
    signed: whether the top bit is a sign.
    infinities: whether the format has an infinity (of either sign if signed).
    high_nans: how many magnitude codes at the top are NaN.
    subnormals: whether exponent field 0 holds zero and the subnormals; if not, it is an ordinary binade and the
        format has no zero (E8M0).
    negative_zero: whether the sign bit alone means -0; if not, a signed format has its NaN there.
    ties: what "even" means where two codes are equally near: ``"code"``, the last bit of the code;
        ``"significand"``, the last bit of the significand, and where both are odd (p = 1) the larger magnitude
        (IEEE 754-2019, 4.3.1).  The two differ only for p = 1.

    Raises
    ------
    TypeError, ValueError: a fact of the wrong type, out of range, or in contradiction with another.
    """

    name: str
    bits: int
    precision: int
    bias: int
    signed: bool = True
    infinities: bool = True
    high_nans: int = 0
    subnormals: bool = True
    negative_zero: bool = True
    ties: Literal["code", "significand"] = "code"

    def __post_init__(self) -> None:
        for field in ("bits", "precision", "bias", "high_nans"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{field} must be an int, not {type(value).__name__}")
        for field in ("signed", "infinities", "subnormals", "negative_zero"):
            if not isinstance(getattr(self, field), bool):
                raise TypeError(f"{field} must be a bool, not {type(getattr(self, field)).__name__}")
        if not isinstance(self.name, str) or not self.name:
            raise TypeError("name must be a non-empty str")
        if not 2 <= self.bits <= 32:
            raise ValueError(f"bits must be 2 to 32, not {self.bits}")
        if not 1 <= self.precision <= 31:
            raise ValueError(f"precision must be 1 to 31, not {self.precision}")
        if self.exponent_bits < 1:
            raise ValueError(
                f"{self.bits} bits leave no exponent field beside precision {self.precision}"
                f"{' and a sign' if self.signed else ''}"
            )
        if abs(self.bias) > 2**31:
            raise ValueError(f"bias must lie within +-2**31, not {self.bias}")
        if self.high_nans < 0:
            raise ValueError(f"high_nans must not be negative, not {self.high_nans}")
        if self.max_code < self.smallest_normal_code:
            raise ValueError("infinities and NaNs leave no finite normal value")
        if self.signed and not self.subnormals:
            raise ValueError("a format without subnormals has no zero, and must be unsigned")
        if self.ties not in ("code", "significand"):
            raise ValueError(f"ties must be 'code' or 'significand', not {self.ties!r}")

    @classmethod
    def ieee(cls, exponent_bits: int, trailing_bits: int, name: str | None = None, **facts: Any) -> FloatFormat:
        """The IEEE 754 interchange pattern: top exponent field for infinity and NaNs, bias 2**(e-1) - 1.

        ``facts`` replace single facts, e.g. ``FloatFormat.ieee(5, 2, bias=16)``.
        """
        pattern = cls(
            name=name or f"e{exponent_bits}m{trailing_bits}",
            bits=1 + exponent_bits + trailing_bits,
            precision=trailing_bits + 1,
            bias=2 ** (exponent_bits - 1) - 1,
            infinities=True,
            high_nans=2**trailing_bits - 1,
        )
        return replace(pattern, **facts) if facts else pattern

    @classmethod
    def p3109(cls, bits: int, precision: int, signed: bool = True, extended: bool = True) -> FloatFormat:
        """``Binary{K}p{P}{s,u}{e,f}`` of the IEEE P3109 report v4.0: one zero, one NaN, infinity if extended."""
        return cls(
            name=f"binary{bits}p{precision}{'s' if signed else 'u'}{'e' if extended else 'f'}",
            bits=bits,
            precision=precision,
            bias=2 ** (bits - precision - 1 if signed else bits - precision),
            signed=signed,
            infinities=extended,
            high_nans=0 if signed else 1,
            negative_zero=False,
        )

    # ---- fields -----------------------------------------------------------------------------------------------------
    @property
    def trailing_bits(self) -> int:
        """Stored significand bits, p - 1."""
        return self.precision - 1

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.name, self.bits, self.precision, self.bias))

    @property
    def exponent_bits(self) -> int:
        """Width of the exponent field."""
        return self.bits - self.signed - self.trailing_bits

    @property
    def sign_mask(self) -> int:
        """The sign bit of a code; 0 where the format is unsigned."""
        return 1 << (self.bits - 1) if self.signed else 0

    @property
    def magnitude_mask(self) -> int:
        """The bits of a code without its sign."""
        return (1 << (self.bits - self.signed)) - 1

    # ---- landmarks among the magnitude codes -----------------------------------------------------------------------
    @property
    def max_code(self) -> int:
        """Code of the largest finite value."""
        return self.magnitude_mask - self.high_nans - self.infinities

    @property
    def smallest_normal_code(self) -> int:
        """Code of the smallest positive normal value."""
        return 1 << self.trailing_bits if self.subnormals else 0

    @property
    def smallest_code(self) -> int:
        """Code of the smallest positive value."""
        return 1 if self.subnormals else 0

    @property
    def min_code(self) -> int:
        """Code of the lowest finite value: -max if signed, else 0 or the smallest positive."""
        return self.max_code | self.sign_mask if self.signed else 0

    @property
    def infinity_code(self) -> int | None:
        """Code of +infinity, or None."""
        return self.max_code + 1 if self.infinities else None

    @property
    def nan_code(self) -> int | None:
        """The canonical quiet NaN without its sign bit, or None.

        The NaN whose trailing significand is its leading bit alone where the format has that many (IEEE 754-2019,
        6.2.1: the first bit of the trailing significand is 1 in a quiet NaN), else its only NaN.
        """
        if self.high_nans:
            above = (1 << max(self.trailing_bits - 1, 0)) - 1  # codes above the one with the leading bit alone
            return self.magnitude_mask - (above if self.high_nans > above else 0)
        return self.sign_mask if self.signed and not self.negative_zero else None

    @property
    def nan_has_sign(self) -> bool:
        """Whether the canonical NaN exists with both signs."""
        return self.signed and self.high_nans > 0

    @property
    def has_nan(self) -> bool:
        """Whether any code means NaN."""
        return self.nan_code is not None

    @property
    def has_zero(self) -> bool:
        """Whether any code means zero."""
        return self.subnormals

    # ---- values -----------------------------------------------------------------------------------------------------
    @property
    def emin(self) -> int:
        """Exponent of the smallest normal value."""
        return (1 if self.subnormals else 0) - self.bias

    @property
    def emax(self) -> int:
        """Exponent of the largest finite value."""
        return (self.max_code >> self.trailing_bits) - self.bias

    def scientific(self, code: int) -> tuple[int, int]:
        """A finite magnitude code as exact integers ``(significand, exponent)``: value = significand * 2**exponent."""
        if not 0 <= code <= self.max_code:
            raise ValueError(f"{self.name}: {code:#x} is not the code of a finite magnitude (0 to {self.max_code:#x})")
        field, trailing = divmod(code, 1 << self.trailing_bits)
        if self.subnormals and field == 0:
            return trailing, self.emin - self.trailing_bits
        return trailing | 1 << self.trailing_bits, field - self.bias - self.trailing_bits

    @cached_property
    def holds_in_float64(self) -> bool:
        """Whether float64 holds every finite value."""
        return self._fits(FLOAT64_PRECISION, FLOAT64_EMIN, FLOAT64_EMAX)

    @cached_property
    def value_dtype(self) -> np.dtype[Any]:
        """The NumPy dtype values decode to: float32 where it holds every value, else float64.

        Raises ValueError where float64 cannot hold every finite value either.
        """
        if self._fits(FLOAT32_PRECISION, FLOAT32_EMIN, FLOAT32_EMAX):
            return np.dtype(np.float32)
        if self.holds_in_float64:
            return np.dtype(np.float64)
        raise ValueError(self._unholdable())

    def _fits(self, precision: int, emin: int, emax: int) -> bool:
        """Whether an IEEE format of these facts holds every finite value of this one."""
        return self.precision <= precision and self.finest_exponent >= emin - (precision - 1) and self.emax <= emax

    def holds(self, other: FloatFormat) -> bool:
        """Whether this format has every finite value of ``other``, zeros with their signs included."""
        return (
            (self.signed or not other.signed)
            and (self.negative_zero or not (other.signed and other.negative_zero))
            and (self.has_zero or (not other.has_zero and self.emin <= other.emin))
            and self.precision >= other.precision
            and self.finest_exponent <= other.finest_exponent
            and self.max_exact >= other.max_exact
        )

    @property
    def finest_exponent(self) -> int:
        """Exponent of the last bit in the lowest binade: every finite value is an integer times 2**finest_exponent."""
        return self.emin - self.trailing_bits

    @property
    def max_exact(self) -> tuple[int, int]:
        """The largest finite value as ``(exponent, left-aligned significand)``: such pairs compare like values."""
        significand, _ = self.scientific(self.max_code)
        return self.emax, significand << (64 - significand.bit_length())

    def _unholdable(self) -> str:
        return (
            f"{self.name} has finite values that float64 cannot hold (exponents {self.finest_exponent} to "
            f"{self.emax}); keep its codes, or use fpemu.reference for exact values"
        )

    @in_default_environment
    def _value(self, code: int) -> float:
        try:
            significand, exponent = self.scientific(code)
            value = ldexp(significand, exponent)
        except OverflowError:
            raise ValueError(self._unholdable()) from None
        if value == 0 and significand:
            raise ValueError(self._unholdable())
        return value

    @property
    def max(self) -> float:
        """Largest finite value (ValueError where float64 cannot hold it, as for the other values)."""
        return self._value(self.max_code)

    @property
    def min(self) -> float:
        """Lowest finite value: -max if signed, else zero or the smallest positive value."""
        return -self.max if self.signed else self._value(0)

    @property
    def smallest_normal(self) -> float:
        """Smallest positive normal value, 2**emin."""
        return self._value(self.smallest_normal_code)

    @property
    def smallest_subnormal(self) -> float:
        """Smallest positive value: subnormal where there are such, else the smallest normal."""
        return self._value(self.smallest_code)

    @property
    def eps(self) -> float:
        """Spacing of the values in [1, 2): 2**(1 - p)."""
        return ldexp(1.0, -self.trailing_bits)

    @property
    def code_dtype(self) -> np.dtype[Any]:
        """The NumPy dtype of codes: uint8, uint16 or uint32."""
        return np.dtype(np.uint8 if self.bits <= 8 else np.uint16 if self.bits <= 16 else np.uint32)

    def nan_codes(self) -> range:
        """The magnitude codes that mean NaN (the sign bit alone not among them)."""
        return range(self.magnitude_mask - self.high_nans + 1, self.magnitude_mask + 1)

    def __str__(self) -> str:
        return self.name


def _catalogue() -> Iterator[FloatFormat]:
    """Every named format; the facts of the first fifteen are those of IEEE 754, OCP and ml_dtypes/PyTorch."""
    yield FloatFormat.ieee(8, 23, "float32")
    yield FloatFormat.ieee(8, 10, "tfloat32")
    yield FloatFormat.ieee(5, 10, "float16")
    yield FloatFormat.ieee(8, 7, "bfloat16")

    finite_nan: dict[str, Any] = {"infinities": False, "high_nans": 1}
    unsigned_zero: dict[str, Any] = {"infinities": False, "high_nans": 0, "negative_zero": False}
    finite: dict[str, Any] = {"infinities": False, "high_nans": 0}
    yield FloatFormat.ieee(5, 2, "float8_e5m2")
    yield FloatFormat.ieee(4, 3, "float8_e4m3fn", **finite_nan)
    yield FloatFormat.ieee(4, 3, "float8_e4m3")
    yield FloatFormat.ieee(3, 4, "float8_e3m4")
    yield FloatFormat.ieee(5, 2, "float8_e5m2fnuz", bias=16, **unsigned_zero)
    yield FloatFormat.ieee(4, 3, "float8_e4m3fnuz", bias=8, **unsigned_zero)
    yield FloatFormat.ieee(4, 3, "float8_e4m3b11fnuz", bias=11, **unsigned_zero)
    yield FloatFormat(
        "float8_e8m0fnu",
        bits=8,
        precision=1,
        bias=127,
        signed=False,
        subnormals=False,
        ties="significand",
        **finite_nan,
    )
    yield FloatFormat.ieee(2, 3, "float6_e2m3fn", **finite)
    yield FloatFormat.ieee(3, 2, "float6_e3m2fn", **finite)
    yield FloatFormat.ieee(2, 1, "float4_e2m1fn", **finite)

    for bits in range(3, 17):
        for signed in (True, False):
            for precision in range(1, bits + (not signed)):
                for extended in (True, False):
                    yield FloatFormat.p3109(bits, precision, signed, extended)


ALIASES: Mapping[str, str] = {
    "fp32": "float32",
    "tf32": "tfloat32",
    "fp16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "e5m2": "float8_e5m2",
    "e4m3": "float8_e4m3fn",
    "e4m3fn": "float8_e4m3fn",
    "e3m4": "float8_e3m4",
    "e5m2fnuz": "float8_e5m2fnuz",
    "e4m3fnuz": "float8_e4m3fnuz",
    "e4m3b11fnuz": "float8_e4m3b11fnuz",
    "e8m0": "float8_e8m0fnu",
    "e8m0fnu": "float8_e8m0fnu",
    "e2m3": "float6_e2m3fn",
    "e3m2": "float6_e3m2fn",
    "e2m1": "float4_e2m1fn",
}


FormatName = FloatFormat | str | DType  # what as_format takes


class Catalogue(Mapping[str, FloatFormat]):
    """Read-only mapping from names and aliases to formats; iteration gives canonical names only."""

    def __init__(self, formats: Iterator[FloatFormat], aliases: Mapping[str, str]) -> None:
        self._formats = {format.name: format for format in formats}
        self._aliases = dict(aliases)

    def __getitem__(self, name: str) -> FloatFormat:
        try:
            key = name.strip().lower()
            return self._formats[self._aliases.get(key, key)]
        except (KeyError, AttributeError):
            raise KeyError(self._advice(name)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._formats)

    def __len__(self) -> int:
        return len(self._formats)

    def aliases(self, name: str) -> list[str]:
        """The aliases of a canonical name."""
        return [alias for alias, target in self._aliases.items() if target == name]

    def _advice(self, name: object) -> str:
        named = [key for key in self._formats if not key.startswith("binary")]
        close = difflib.get_close_matches(str(name).lower(), [*self._formats, *self._aliases], n=3)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        return (
            f"unknown format {name!r}; {hint}valid: {', '.join(named)}; aliases {', '.join(self._aliases)}; "
            "IEEE P3109 binary{K}p{P}{s|u}{e|f} with K 3 to 16; or any fpemu.FloatFormat"
        )


FORMATS: Mapping[str, FloatFormat] = Catalogue(_catalogue(), ALIASES)


def as_format(format: FormatName) -> FloatFormat:
    """The format itself, or the one of that name, or of a dtype of NumPy, ml_dtypes or torch.

    Raises ValueError for an unknown name (it lists what is valid) and TypeError for anything else.

    Examples
    --------
    >>> import numpy as np
    >>> as_format("bf16").name, as_format("torch.float8_e5m2").name, as_format(np.float16).name
    ('bfloat16', 'float8_e5m2', 'float16')
    """
    if isinstance(format, FloatFormat):
        return format
    name = format if isinstance(format, str) and "." not in format else dtype_name(format)
    if name is None:
        raise TypeError(f"a format is a name, a FloatFormat or a dtype, not {type(format).__name__}")
    try:
        return FORMATS[name]
    except KeyError as error:
        raise ValueError(error.args[0]) from None


def is_format(x: object) -> TypeGuard[FormatName]:
    """Whether this names one format, and not several."""
    return isinstance(x, FloatFormat) or dtype_name(x) is not None
