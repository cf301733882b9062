"""What real stacks do: ``STACKS`` maps a library or a specification, a source and a target to a ``Cast``.

A stack is rows of data.  Where a stack's values are not those of the named format, the row brings the format that it
has; where no ``Cast`` describes what it does, the row says so in words, and asking for it is a ValueError.

NaN payloads that a stack hands on are not described: a ``Cast`` has one NaN code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

from fpemu.dtypes import dtype_name
from fpemu.formats import FORMATS, FloatFormat, FormatName, as_format
from fpemu.naming import formats_by_name
from fpemu.policies import Cast


@dataclass(frozen=True)
class Row:
    """What a stack does from some sources to some targets.

    Attributes
    ----------
    targets, sources: names of formats (float64 among the sources).
    policies: those of the ``Cast`` that differ from the default; None where no Cast describes the conversion.
    format: the format that the stack has under the target's name, where it is another.
    note: what a user of the row should know.
    """

    targets: tuple[str, ...]
    sources: tuple[str, ...]
    policies: Mapping[str, Any] | None = field(default_factory=dict)
    format: FloatFormat | None = None
    note: str = ""


@dataclass(frozen=True)
class Stack:
    """A library or specification and its conversions; iteration gives the pairs (source, target) that it covers.

    Attributes
    ----------
    name: its name in STACKS. what: what it is. references: where its behaviour is laid down, with versions.
    rows: its conversions.
    """

    name: str
    what: str
    references: tuple[str, ...]
    rows: tuple[Row, ...]

    @formats_by_name('stack.cast(target="e4m3", source="float64")', 2)
    def cast(self, target: FormatName, *, source: FormatName = "float32") -> Cast:
        """What the stack does to a target from a source, which goes by name.

        Raises ValueError, listing what is covered, for a pair that the stack does not offer or no Cast describes, and
        for unknown formats.
        """
        row = self.row(target, source=source)
        if row.policies is None:
            raise ValueError(f"{self.name}: no Cast describes {_name(source)} to {_name(target)}: {row.note}")
        return Cast(row.format or _name(target), **row.policies)

    @formats_by_name('stack.note(target="e4m3", source="float64")', 2)
    def note(self, target: FormatName, *, source: FormatName = "float32") -> str:
        """What a user should know of that conversion; ValueError as for ``cast``."""
        return self.row(target, source=source).note

    @formats_by_name('stack.row(target="e4m3", source="float64")', 2)
    def row(self, target: FormatName, *, source: FormatName = "float32") -> Row:
        """The row of a pair; ValueError where the stack has none."""
        to, of = _name(target), _name(source)
        found = self._index.get((of, to))
        if found is not None:
            return found
        sources = [one for one, other in self._index if other == to]
        targets = list(dict.fromkeys(other for _, other in self._index))
        if sources:
            raise ValueError(f"{self.name} takes {to} from {', '.join(sources)}, not from {of}")
        more = f" and {len(targets) - 16} more" if len(targets) > 16 else ""
        raise ValueError(f"{self.name} has no {to}; its targets: {', '.join(targets[:16])}{more}")

    @cached_property
    def _index(self) -> dict[tuple[str, str], Row]:
        return {(of, to): row for row in self.rows for to in row.targets for of in row.sources if of != to}

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)


def _name(format: FormatName) -> str:
    if str(dtype_name(format)).lower() in ("float64", "fp64", "double"):
        return "float64"
    return as_format(format).name


class Stacks(Mapping[str, Stack]):
    """Read-only mapping from names and aliases to stacks; iteration gives names only."""

    def __init__(self, stacks: tuple[Stack, ...], aliases: Mapping[str, str]) -> None:
        self._stacks = {stack.name: stack for stack in stacks}
        self._aliases = dict(aliases)

    def __getitem__(self, name: str) -> Stack:
        try:
            key = name.strip().lower()
            return self._stacks[self._aliases.get(key, key)]
        except (KeyError, AttributeError):
            known = f"{', '.join(self._stacks)}; aliases {', '.join(self._aliases)}"
            raise KeyError(f"unknown stack {name!r}; valid: {known}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._stacks)

    def __len__(self) -> int:
        return len(self._stacks)


# ---- words of the rows ----------------------------------------------------------------------------------------------
ALL = ("float16", "bfloat16", "float32", "float64")
NARROW = ALL[:3]
F32 = ("float32",)
HALF, BRAIN, E4M3, E5M2, E8M0 = "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"
FNUZ = ("float8_e4m3fnuz", "float8_e5m2fnuz")
IEEE_LIKE = ("float8_e4m3", "float8_e3m4")
FP6, FP4 = ("float6_e2m3fn", "float6_e3m2fn"), "float4_e2m1fn"
FAMILY = tuple(name for name, f in FORMATS.items() if name.startswith("binary") and f.holds_in_float64)


def _twice(*targets: str, note: str = "", **policies: Any) -> tuple[Row, Row]:
    """Rows of a stack that narrows float64 through float32."""
    return (
        Row(targets, NARROW, policies, note=note),
        Row(targets, ("float64",), {**policies, "via": "float32"}, note=note),
    )


def _like(name: str, of: str, **facts: Any) -> FloatFormat:
    return replace(FORMATS[of], name=name, **facts)


_NO_MINUS_ZERO = "it has values, not codes, and loses -0"

# QPyTorch keeps no exponent for infinity and NaN, and makes +0 of -0.
_QPYTORCH = {
    name: _like(f"qpytorch_{name}", name, infinities=False, high_nans=0, negative_zero=False)
    for name in (HALF, E4M3, E5M2)
}
# microxcaling: the largest value of the MX element types, yet infinity and NaN beside it: one bit more.
_MICROXCALING = {
    name: _like(
        f"microxcaling_{name}", name, bits=FORMATS[name].bits + 1, infinities=True,
        high_nans=(FORMATS[name].magnitude_mask + 1) + FORMATS[name].magnitude_mask - FORMATS[name].max_code - 1,
    )
    for name in (E4M3, *FP6, FP4)
}  # fmt: skip
_MICROXCALING[E5M2] = _like(f"microxcaling_{E5M2}", E5M2)
# CPFloat's E4M3 has the exponent 8 for finite values only, so that it ends at 480; beyond is NaN.
_CPFLOAT_E4M3 = _like("cpfloat_e4m3", E4M3, bits=9, high_nans=128)
_CHOP = {
    asked: _like(f"chop_{name}", name, negative_zero=False)
    for asked, name in ((HALF, HALF), (BRAIN, BRAIN), (E4M3, "float8_e4m3"), (E5M2, E5M2))
}

_TORCH = ("pytorch/pytorch, eager casts on the CPU: c10/util/Float8_*.h, BFloat16.h, Half.h",)
_SIGN_DROPPED = "the sign is dropped: -3 becomes 4; zero becomes 2^-127; ties go to the larger"


def _torch(overflow: str) -> tuple[Row, ...]:
    return (
        *_twice(HALF, BRAIN, *FNUZ),
        *_twice(E5M2, nan_code=0x7F),
        *_twice(E4M3, overflow=overflow),
        Row(("float32",), ("float64",)),
        Row((E8M0,), ALL, None, note=_SIGN_DROPPED),
    )


_ONNX = "ONNX, Float stored in 4 bits, in 6 bits, in 8 bits"
# What is out of E8M0's range is NaN before anything is rounded, with saturate=0: that range, as exact as float32.
_E8M0_RANGE = _like("onnx_e8m0_range", E8M0, bits=32, precision=24, high_nans=2**32 - 1 - (254 << 23))
_E8M0_IN_RANGE = Cast(_E8M0_RANGE, subnormals="flush-output-before")
_E8M0_SATURATE: tuple[dict[str, Any], ...] = ({"overflow": "saturate"}, {"overflow": "saturate", "via": "float32"})
_E8M0_NOSAT: tuple[dict[str, Any], ...] = (
    {"via": _E8M0_IN_RANGE},
    {"via": _E8M0_IN_RANGE.replace(via=Cast("float32"))},
)
_E8M0_NOTES = {
    "saturate": "-0 and negative numbers, unspecified, become 2^-127, as zero does",
    "nosat": "-0 and negative numbers, unspecified, become NaN, as zero and all that is out of range does",
}
_E8M0_NOTE = (
    "from Cast 24; the tables are for saturate=1 with up and saturate=0 with nearest, and the other pairs follow them, as in ONNX "
    "Runtime, which narrows float64 through float32 too; the reference evaluator drops the sign, makes NaN of infinity and "
    "2^-127 of zero, and errs among the subnormals of float32"
)


def _onnx(overflow: str, fnuz: str, fnuz_note: str = "") -> tuple[Row, ...]:
    return (
        Row((HALF, BRAIN), ALL),
        Row((E4M3, E5M2), ALL, {"overflow": overflow}),
        Row(FNUZ, ALL, {"overflow": fnuz}, note=fnuz_note),
        # (``saturate`` is for the 8-bit types.)
        Row((FP4,), ALL, {"overflow": "saturate", "nan": "max"},
            note="from Cast 23; a NaN becomes 6, but -0 or 0 in the reference evaluator"),
    )  # fmt: skip


def _onnx_24(kind: str, overflow: str, e8m0: tuple[dict[str, Any], ...]) -> tuple[Row, ...]:
    return (
        *_onnx(overflow, overflow),
        *_onnx_e8m0(kind, e8m0, "up"),
        Row(FP6, ALL, {"overflow": "saturate", "nan": "negated-zero"},
            note="from Cast 28; a NaN is unspecified, here as in the reference evaluator: -0, of one with the sign bit +0"),
    )  # fmt: skip


def _onnx_e8m0(kind: str, policies: tuple[dict[str, Any], ...], rounding: str) -> tuple[Row, ...]:
    return tuple(
        Row((E8M0,), sources, {"rounding": rounding, **one}, note=f"{_E8M0_NOTE}; {_E8M0_NOTES[kind]}")
        for sources, one in zip((NARROW, ("float64",)), policies, strict=True)
    )


def _onnx_round_modes() -> Iterator[Stack]:
    """``round_mode`` is for E8M0 alone; up, the default, is among the other rows."""
    words = {"down": ("toward-zero", "toward zero"), "nearest": ("nearest-away", "to nearest, ties up")}
    for (kind, policies), (mode, (rounding, said)) in product(
        (("saturate", _E8M0_SATURATE), ("nosat", _E8M0_NOSAT)), words.items()
    ):
        what = f"ONNX Cast 24 to 28 with saturate={int(kind == 'saturate')} and round_mode={mode}: E8M0 {said}"
        references = ("ONNX operators, Cast 24 to 28", "ONNX, Float stored in 8 bits")
        yield Stack(f"onnx-{kind}-{mode}", what, references, _onnx_e8m0(kind, policies, rounding))


_P3109_EXTERNAL = {
    name: _like(f"p3109_{name}", name, negative_zero=False) for name in (HALF, BRAIN, "float32")
}  # (4.8.2: a zero has the code of +0)


def _p3109(overflow: str) -> tuple[Row, ...]:
    external = (
        Row((name,), ALL, {"overflow": overflow}, format,
            "an external format: zeros become +0; beyond the largest value under to-odd, infinity by the tables, here that value")
        for name, format in _P3109_EXTERNAL.items()
    )  # fmt: skip
    return (
        Row(FAMILY, ALL, {"overflow": overflow},
            note='rounding and saturation are parameters of a projection; x/0 is NaN: divide(by_zero="nan")'),
        *external,
    )  # fmt: skip


_MICROXCALING_NOTE = (
    "it has values, not codes; -0 becomes +0, though negative numbers that round to zero become -0; beyond the largest value "
    "infinity, but NaN for the last 44 float32 below 2^128, whose logarithm rounds to 128; the float32 next below half of the "
    "smallest subnormal becomes that, as adding 1/2 rounds up"
)


def _microxcaling(rounding: str) -> tuple[Row, ...]:
    return tuple(
        Row((name,), F32, {"rounding": rounding}, format, _MICROXCALING_NOTE) for name, format in _MICROXCALING.items()
    )


_CUDA = (
    "NVIDIA PTX ISA, cvt (Hopper and later)",
    "cuda_fp8.hpp, cuda_fp16.hpp, cuda_bf16.hpp: the host paths",
)
_SATFINITE: dict[str, Any] = {"overflow": "saturate", "nan": "unsigned", "nan_code": 0x7F}
_OFP8_CUDA = (Row((E4M3, E5M2), (HALF, BRAIN, "float32"), _SATFINITE),)
_CUDA_WIDE = (
    Row((HALF, BRAIN), F32, {"nan": "unsigned", "nan_code": 0x7FFF}),
    Row(("tfloat32",), F32, {"rounding": "nearest-away"},
        note="cvt.rna.tf32.f32; a NaN whose payload is in the low 13 bits alone becomes infinity"),
)  # fmt: skip

STACKS: Mapping[str, Stack] = Stacks(
    (
        Stack("numpy", "NumPy's astype", ("numpy/numpy: npymath/halffloat; measured with 2.4",),
              (Row((HALF,), ("float32", "float64")), Row(("float32",), ("float64",)))),
        Stack("ml_dtypes", "ml_dtypes, astype of NumPy arrays",
              ("jax-ml/ml_dtypes: include/float8.h, _src/casts; measured with 0.6", "issue jax-ml/ml_dtypes 401"),
              (*_twice(BRAIN, E4M3, E5M2, *IEEE_LIKE, *FNUZ, "float8_e4m3b11fnuz"),
               *_twice(E8M0, note="from float32 below 1.5 * 2^-127 it rounds up, not to the nearest"),
               *_twice(*FP6, FP4, nan="negated-zero", note="a NaN becomes -0, one with the sign bit +0"),
               Row((HALF,), ("bfloat16",)))),
        Stack("torch>=2.13", "PyTorch from 2.13 on, eager on the CPU: E4M3 saturates, infinities too",
              (*_TORCH, "pytorch/pytorch 178817; measured with 2.13"), _torch("saturate")),
        Stack("torch<=2.12", "PyTorch up to 2.12: E4M3 overflows to NaN", (*_TORCH, "the wheels of 2.11 and 2.12"),
              _torch("ieee")),
        Stack("xla", "XLA on the CPU, through JAX", ("openxla/xla; measured with jax 0.10.2",),
              (Row((HALF, BRAIN), NARROW), Row((HALF,), ("float64",), {"via": "float32"}),
               Row((BRAIN,), ("float64",), {"via": Cast("float32", subnormals="flush-output")},
                   note="float32 subnormals on the way are flushed"),
               Row((E4M3, E5M2, *IEEE_LIKE, *FNUZ, "float8_e4m3b11fnuz"), ALL),
               Row((E8M0,), NARROW, note="from float32 below 1.5 * 2^-127 it rounds up, not to the nearest"),
               Row((FP4,), ALL, note="a NaN becomes -0 whatever its sign; here it raises"))),
        Stack("onnx-saturate", "ONNX Cast 24 to 28 with saturate=1 and round_mode=up, the defaults",
              ("ONNX operators, Cast 24 to 28", _ONNX), _onnx_24("saturate", "saturate", _E8M0_SATURATE)),
        Stack("onnx-saturate<=23", "ONNX Cast 19 to 23 with saturate=1, the default: an infinity in a format without -0 is NaN",
              ("ONNX operators, Cast 19 to 23", "onnx/onnx 6220, 7130", "ONNX, Float stored in 4 bits"),
              _onnx("saturate", "propagate", "an infinity is NaN, saturating or not, but the largest value in the reference evaluator")),
        Stack("onnx-nosat", "ONNX Cast 19 to 28 with saturate=0, and round_mode=up, the default",
              ("ONNX operators, Cast 19 to 28", _ONNX), _onnx_24("nosat", "ieee", _E8M0_NOSAT)),
        *_onnx_round_modes(),
        Stack("cuda-satfinite", "CUDA conversions with .satfinite (__NV_SATFINITE)", _CUDA,
              (*_OFP8_CUDA, Row((*FP6, FP4), F32, {"overflow": "saturate", "nan": "max"}), *_CUDA_WIDE,
               Row((E8M0,), ("float32", "bfloat16"), None,
                   note="the sign is ignored; rounding is toward zero or up (.rz, .rp)"))),
        Stack("cuda-nosat", "CUDA conversions to FP8 without saturation (__NV_NOSAT)", _CUDA,
              (Row((E4M3, E5M2), (HALF, BRAIN, "float32"), {"nan": "unsigned", "nan_code": 0x7F},
                   note="from the header, not run: E4M3 NaNs keep the sign where a finite value overflowed"), *_CUDA_WIDE)),
        Stack("transformer-engine", "NVIDIA Transformer Engine: FP8 casts are CUDA's with .satfinite",
              ("NVIDIA/TransformerEngine 2.18; NVIDIA PTX ISA, cvt",), _OFP8_CUDA),
        Stack("p3109", "IEEE P3109 projection, nearest even, SatNone",
              ("IEEE P3109 report v4.0, 4.7, 4.8, 4.10.5",), _p3109("p3109")),
        Stack("p3109-satpropagate", "IEEE P3109 projection, nearest even, SatPropagate",
              ("IEEE P3109 report v4.0, 4.7, 4.8, 4.10.5",), _p3109("p3109-propagate")),
        Stack("p3109-satfinite", "IEEE P3109 projection, nearest even, SatFinite",
              ("IEEE P3109 report v4.0, 4.7, 4.8, 4.10.5",), _p3109("saturate")),
        Stack("gfloat", "gfloat, sat=False, nearest even", ("graphcore-research/gfloat; measured with 0.5.2",),
              (Row((HALF, BRAIN, E4M3, E5M2), ALL),
               Row((E8M0,), ALL, None, note="negatives and zero keep values that E8M0 does not have; ties to even code"))),
        Stack("gfloat-saturate", "gfloat, sat=True, nearest even", ("graphcore-research/gfloat; measured with 0.5.2",),
              (Row((HALF, BRAIN, E4M3, E5M2, *FP6, FP4), ALL, {"overflow": "saturate"}, note="a NaN for FP6 or FP4 raises"),)),
        Stack("apytypes", "apytypes, APyFloatArray.from_float", ("apytypes/apytypes; measured with 0.5.1",),
              (Row((HALF, BRAIN, E5M2, *IEEE_LIKE), ALL),)),
        Stack("qpytorch", "QPyTorch, float_quantize(rounding='nearest'): ties away, no infinity, no NaN",
              ("Tiiiger/QPyTorch 0.3.0: quant_cpu/bit_helper.cpp, sim_helper.cpp",),
              tuple(Row((name,), F32, {"rounding": "nearest-away", "overflow": "saturate", "nan": "limit"}, format,
                        f"{_NO_MINUS_ZERO}; rounds twice among the subnormals")
                    for name, format in _QPYTORCH.items())),
        Stack("microxcaling", "microxcaling elementwise, round='nearest' (the default): ties away",
              ("microsoft/microxcaling 1.1.0: mx/elemwise_ops.py",), _microxcaling("nearest-away")),
        Stack("microxcaling-even", "microxcaling elementwise, round='even'",
              ("microsoft/microxcaling 1.1.0: mx/elemwise_ops.py",), _microxcaling("nearest-even")),
        Stack("chop", "chop for MATLAB, round to nearest; its q43 ends at 240 and has infinity",
              ("higham/chop 906c31e: chop.m; FaultChop of pychop 0.6.2 is its port",),
              tuple(Row((asked,), ("float32", "float64"), {"subnormals": "round-to-min"} if asked == BRAIN else {}, format,
                        f"{_NO_MINUS_ZERO}; rounds twice just above half of the smallest subnormal")
                    for asked, format in _CHOP.items())),
        Stack("cpfloat", "CPFloat, round to nearest even; its E4M3 ends at 480",
              ("CPFloat 0.6.0",),
              (Row((E4M3,), ("float32", "float64"), {}, _CPFLOAT_E4M3, "values, not codes"),
               Row((HALF, E5M2), ("float32", "float64")))),
    ),
    {"torch": "torch>=2.13", "jax": "xla", "onnx": "onnx-saturate", "cuda": "cuda-satfinite", "qtorch": "qpytorch",
     "p3109-satnone": "p3109"},
)  # fmt: skip
