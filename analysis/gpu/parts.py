"""What is recorded, as data: one part for each implementation of a conversion, and what fpemu predicts of it.

A part's *holder* is the format whose codes its outputs are.  That is its target, except for TF32: the instructions
leave a float32 register whose low 13 bits are zero, which is recorded as it is.

Predictions of NVIDIA's instructions: the PTX ISA and, for TF32, the machine code that ``cvt.rna`` becomes on compute
capability 9.0; of PyTorch: its sources (c10/util/Float8_e4m3fn.h and Copy.cu).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fpemu
from analysis.gpu.classes import CLASSES, classify
from analysis.gpu.hashing import is_nan
from analysis.gpu.inputs import CHUNK, LOW_HALVES, Codes, Coverage, chunk_inputs, chunks_in_all, kept_offsets, patterns
from analysis.gpu.instructions import (
    BF16X2_TO_8X2,
    F8X2_TO_16X2,
    F16X2_TO_8X2,
    F32_TO_16,
    F32_TO_32,
    F32X2_TO_8X2,
    F32X2_TO_16X2,
    NARROW_TO_32,
    Instruction,
    Shape,
)
from analysis.gpu.part import Numbers, Part, hexadecimal
from fpemu import reference
from fpemu.formats import FORMATS, FloatFormat
from fpemu.policies import Cast

PTX, TORCH, FPEMU = "ptx", "torch", "fpemu"
STACKS = {PTX: "hardware instruction", TORCH: "PyTorch", FPEMU: "fpemu on the GPU"}
TF32_SHIFT = FORMATS["float32"].bits - FORMATS["tfloat32"].bits  # codes of TF32 are the top of a float32 register
TF32_SPACING = np.uint32(1 << TF32_SHIFT)

NanRule = Callable[[Codes, FloatFormat, FloatFormat], Codes]


def kept(inputs: Codes, source: FloatFormat, target: FloatFormat) -> Codes:
    """NaN codes that keep sign and the top of the payload, as registers of 32 bits; no NaN is made quiet.

    A NaN whose payload lies wholly in the bits that go becomes an infinity.
    """
    aligned = inputs.astype(np.uint32) << np.uint32(32 - source.bits)
    return aligned & ~np.uint32((1 << (32 - min(target.bits, source.bits))) - 1)


def kept_less_one(inputs: Codes, source: FloatFormat, target: FloatFormat) -> Codes:
    """The same less one spacing of TF32: what makes the largest finite value of an infinity is done to NaNs too."""
    return kept(inputs, source, target) - TF32_SPACING


@dataclass(frozen=True)
class Prediction:
    """A cast, and what NaNs become where no ``Cast`` says it."""

    cast: Cast
    nan_rule: NanRule | None = None


Predict = Callable[[Mapping[str, str]], Prediction]  # from the names of libraries and their versions


def always(prediction: Prediction) -> Predict:
    """The same prediction for all versions of the libraries."""
    return lambda versions: prediction


@dataclass(frozen=True)
class Conversion(Part):
    """One implementation of one conversion: a Part whose outputs are numbered by the bit pattern of their input.

    Attributes
    ----------
    stack: PTX, TORCH or FPEMU. source, target: formats.
    predict: from the libraries' versions to what fpemu says the outputs are.
    instruction: for hardware parts.
    """

    name: str
    stack: str
    source: FloatFormat
    target: FloatFormat
    how: str
    predict: Predict
    file: str
    base: str | None = None
    instruction: Instruction | None = None

    @property
    def is_hardware(self) -> bool:
        """See Part."""
        return self.stack == PTX

    @property
    def kernel(self) -> str | None:
        """See Part."""
        return None if self.instruction is None else self.instruction.source

    @property
    def holder(self) -> FloatFormat:
        """See Part."""
        return FORMATS["float32"] if self.target.name == "tfloat32" else self.target

    @property
    def chunk(self) -> int:
        """See Part."""
        return chunk_inputs(self.source)

    @property
    def chunks_in_all(self) -> int:
        """See Part."""
        return chunks_in_all(self.source)

    def cover(self, coverage: Coverage) -> Coverage:
        """See Part."""
        return coverage.of(self.source)

    def kept_chunks(self, chunks: Numbers) -> Numbers:
        """See Part."""
        return chunks

    def kept_offsets(self) -> NDArray[np.intp]:
        """See Part."""
        return kept_offsets(self.source)

    def prediction(self, about: Mapping[str, str]) -> Prediction:
        """See Part."""
        return self.predict(about)

    def described(self, prediction: Prediction) -> str:
        """See Part."""
        from fpemu.testing.report import describe  # which imports Hypothesis, and recording needs it not

        words = describe(prediction.cast)
        if prediction.nan_rule is not None:
            return f"{words}, NaN codes {prediction.nan_rule.__name__.replace('_', ' ')}"
        code = prediction.cast.nan_code
        return words if code is None else f"{words} as {code:#x}"

    def predicted(self, prediction: Prediction, chunks: Numbers) -> Codes:
        """See Part."""
        return converted(self, prediction, patterns(self.source, chunks))

    def predicted_at(self, prediction: Prediction, numbers: Numbers) -> Codes:
        """See Part."""
        return converted(self, prediction, self._inputs(numbers)).reshape(numbers.shape)

    def replay_key(self, prediction: Prediction) -> Hashable:
        """See Part."""
        return self.source, self.target, prediction

    @property
    def classes(self) -> tuple[str, ...]:
        """See Part."""
        return CLASSES

    def classify(self, numbers: Numbers) -> NDArray[np.uint8]:
        """See Part."""
        return classify(self._inputs(numbers), self.source, self.target).reshape(numbers.shape)

    def _inputs(self, numbers: Numbers) -> Codes:
        """Bit patterns by their numbers, flat."""
        codes: Codes = numbers.reshape(-1).astype(self.source.code_dtype)
        return codes

    def facts(self) -> dict[str, Any]:
        """See Part."""
        return {"source": self.source.name, "target": self.target.name}

    def shown(self, number: int) -> dict[str, Any]:
        """See Part."""
        return {"input": hexadecimal(number, self.source)}

    def sketched(self, number: int, input_class: str) -> str:
        """See Part."""
        return f"{hexadecimal(number, self.source)} ({input_class})"

    def explained(self, prediction: Prediction, number: int) -> list[str]:
        """See Part."""
        from fpemu.testing.report import told

        shown = told(reference.value(number, self.source), prediction.cast, self.source)
        return [
            f"{hexadecimal(number, self.source)} by {self.described(prediction)}:",
            *("  " + line for line in shown.splitlines()),
        ]


def converted(part: Conversion, prediction: Prediction, inputs: Codes) -> Codes:
    """The codes, in the holder's ``code_dtype``, that a part should make of bit patterns of its source."""
    codes = fpemu.cast(inputs, source=part.source, target=prediction.cast)
    if part.holder != part.target:
        codes = codes.astype(part.holder.code_dtype) << part.holder.code_dtype.type(TF32_SHIFT)
    if prediction.nan_rule is not None:
        nans = np.flatnonzero(is_nan(inputs, part.source))
        if nans.size:
            codes[nans] = prediction.nan_rule(inputs[nans], part.source, part.target)
    return codes


# ---- hardware -------------------------------------------------------------------------------------------------------
# The one NaN of the instructions is all ones below the sign, which is dropped.
ALL_ONES = {name: FORMATS[name].magnitude_mask for name in ("fp16", "bf16", "e4m3", "e5m2", "tf32", "fp32")}


def _to(target: str, rounding: str = "nearest-even", overflow: str = "ieee") -> Cast:
    return Cast(target, rounding, overflow, nan="unsigned", nan_code=ALL_ONES[target])


_DIRECTIONS = {"rn": "nearest-even", "rz": "toward-zero", "rm": "down", "rp": "up", "rna": "nearest-away"}
_CVT: tuple[tuple[str, str, str, Shape, NanRule | None, str | None], ...] = (
    # instruction, source, target, shape, NaNs if not all ones, base
    ("cvt.rn.f16.f32", "fp32", "fp16", F32_TO_16, None, None),
    ("cvt.rn.f16x2.f32", "fp32", "fp16", F32X2_TO_16X2, None, "cvt.rn.f16.f32"),
    ("cvt.rn.satfinite.f16.f32", "fp32", "fp16", F32_TO_16, None, "cvt.rn.f16.f32"),
    ("cvt.rz.f16.f32", "fp32", "fp16", F32_TO_16, None, "cvt.rn.f16.f32"),
    ("cvt.rz.satfinite.f16.f32", "fp32", "fp16", F32_TO_16, None, "cvt.rz.f16.f32"),
    ("cvt.rm.f16.f32", "fp32", "fp16", F32_TO_16, None, "cvt.rz.f16.f32"),
    ("cvt.rp.f16.f32", "fp32", "fp16", F32_TO_16, None, "cvt.rz.f16.f32"),
    ("cvt.rn.bf16.f32", "fp32", "bf16", F32_TO_16, None, None),
    ("cvt.rn.bf16x2.f32", "fp32", "bf16", F32X2_TO_16X2, None, "cvt.rn.bf16.f32"),
    ("cvt.rn.satfinite.bf16.f32", "fp32", "bf16", F32_TO_16, None, "cvt.rn.bf16.f32"),
    ("cvt.rz.bf16.f32", "fp32", "bf16", F32_TO_16, None, "cvt.rn.bf16.f32"),
    ("cvt.rz.satfinite.bf16.f32", "fp32", "bf16", F32_TO_16, None, "cvt.rz.bf16.f32"),
    ("cvt.rm.bf16.f32", "fp32", "bf16", F32_TO_16, None, "cvt.rz.bf16.f32"),
    ("cvt.rp.bf16.f32", "fp32", "bf16", F32_TO_16, None, "cvt.rz.bf16.f32"),
    ("cvt.rna.tf32.f32", "fp32", "tf32", F32_TO_32, kept, None),
    ("cvt.rna.satfinite.tf32.f32", "fp32", "tf32", F32_TO_32, kept_less_one, "cvt.rna.tf32.f32"),
    ("cvt.rn.tf32.f32", "fp32", "tf32", F32_TO_32, None, "cvt.rna.tf32.f32"),
    ("cvt.rz.tf32.f32", "fp32", "tf32", F32_TO_32, None, "cvt.rna.tf32.f32"),
    ("cvt.rn.satfinite.e4m3x2.f32", "fp32", "e4m3", F32X2_TO_8X2, None, None),
    ("cvt.rn.satfinite.e5m2x2.f32", "fp32", "e5m2", F32X2_TO_8X2, None, None),
    ("cvt.rn.satfinite.e4m3x2.f16x2", "fp16", "e4m3", F16X2_TO_8X2, None, None),
    ("cvt.rn.satfinite.e5m2x2.f16x2", "fp16", "e5m2", F16X2_TO_8X2, None, None),
    ("cvt.rn.satfinite.e4m3x2.f32", "bf16", "e4m3", BF16X2_TO_8X2, None, None),
    ("cvt.rn.satfinite.e5m2x2.f32", "bf16", "e5m2", BF16X2_TO_8X2, None, None),
    ("cvt.rn.f16x2.e4m3x2", "e4m3", "fp16", F8X2_TO_16X2, None, None),
    ("cvt.rn.f16x2.e5m2x2", "e5m2", "fp16", F8X2_TO_16X2, None, None),
    ("cvt.f32.f16", "fp16", "fp32", NARROW_TO_32, None, None),
    ("cvt.f32.bf16", "bf16", "fp32", NARROW_TO_32, kept, None),
)


def _name(stack: str, source: str, target: str, mode: str = "") -> str:
    return "-".join(part for part in (stack, source, target, mode) if part)


def _mode(ptx: str) -> str:
    """What sets an instruction apart from the others with its source and target: ``rn-satfinite``, ``rn-x2``."""
    words = [word for word in ptx.split(".")[1:] if word in (*_DIRECTIONS, "satfinite")]
    return "-".join([*words, *(["x2"] if "16x2.f32" in ptx else [])])


def _file(source: str, target: str) -> str:
    """Parts from float32 lie by target; the short tables of all other sources together."""
    if source != "fp32":
        return "tables"
    return {"e4m3": "fp8", "e5m2": "fp8"}.get(target, target)


def _hardware() -> list[Conversion]:
    names = {(ptx, source): _name(PTX, source, target, _mode(ptx)) for ptx, source, target, *_ in _CVT}
    parts = []
    for ptx, source, target, shape, nan_rule, base in _CVT:
        rounding = next((_DIRECTIONS[word] for word in ptx.split(".") if word in _DIRECTIONS), "nearest-even")
        cast = _to(target, rounding, "saturate" if "satfinite" in ptx else "ieee")
        parts.append(
            Conversion(
                names[ptx, source],
                PTX,
                FORMATS[source],
                FORMATS[target],
                ptx,
                always(Prediction(cast, nan_rule)),
                _file(source, target),
                None if base is None else names[base, source],
                Instruction(ptx, shape),
            )
        )
    return parts


# ---- libraries ------------------------------------------------------------------------------------------------------
SATURATING_TORCH = (2, 13)  # since then the cast to E4M3 saturates; before, it gave NaN


def release(version: str) -> tuple[int, ...]:
    """``(2, 11)`` of "2.11.0+cu130"; empty for what is no version."""
    numbers = version.split("+")[0].split(".")[:2]
    return tuple(int(number) for number in numbers) if all(number.isdigit() for number in numbers) else ()


def _torch_e4m3(versions: Mapping[str, str]) -> Prediction:
    if release(versions.get("torch", "")) >= SATURATING_TORCH:
        return Prediction(_to("e4m3", overflow="saturate"))
    return Prediction(Cast("e4m3"))


_TORCH_TO: dict[str, Predict] = {
    "fp16": always(Prediction(_to("fp16"))),
    "bf16": always(Prediction(_to("bf16"))),
    "e4m3": _torch_e4m3,
    "e5m2": always(Prediction(Cast("e5m2", nan_code=ALL_ONES["e5m2"]))),
}
_BASES = {
    ("fp32", "fp16"): "rn",
    ("fp32", "bf16"): "rn",
    ("fp32", "tf32"): "rn",
    ("fp32", "e4m3"): "rn-satfinite",
    ("fp32", "e5m2"): "rn-satfinite",
    ("fp16", "e4m3"): "rn-satfinite",
    ("fp16", "e5m2"): "rn-satfinite",
    ("bf16", "e4m3"): "rn-satfinite",
    ("bf16", "e5m2"): "rn-satfinite",
    ("e4m3", "fp16"): "rn",
    ("e5m2", "fp16"): "rn",
}


def _base(source: str, target: str) -> str:
    return _name(PTX, source, target, _BASES[source, target])


def _torch() -> list[Conversion]:
    return [
        Conversion(
            _name(TORCH, source, target),
            TORCH,
            FORMATS[source],
            FORMATS[target],
            f"tensor.to(torch.{FORMATS[target].name})",
            _TORCH_TO[target],
            _file(source, target),
            _base(source, target),
        )
        for source, target in _BASES
        if target in _TORCH_TO
    ]


VALUES = ("fp32", "fp16")  # sources that NumPy has a dtype for; arrays of the others are codes


def _ours() -> list[Conversion]:
    return [
        Conversion(
            _name(FPEMU, source, target),
            FPEMU,
            FORMATS[source],
            FORMATS[target],
            f'fpemu.encode(x, "{target}")'
            if source in VALUES
            else f'fpemu.cast(codes, source="{source}", target="{target}")',
            always(Prediction(Cast(target))),
            _file(source, target),
            _base(source, target),
        )
        for source, target in _BASES
    ]


PARTS: dict[str, Conversion] = {part.name: part for part in (*_hardware(), *_torch(), *_ours())}

INPUT_FACTS: dict[str, Any] = {
    "chunk": CHUNK,
    "low_halves": list(LOW_HALVES),
}  # what a recording must share with this code to be read
