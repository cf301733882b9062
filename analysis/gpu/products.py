"""Matrix products of libraries: PyTorch's ``matmul`` and ``_scaled_mm``, which cuBLAS and CUTLASS compute.

What they do is theirs, and changes with their versions and with shapes: tiles, splits of k, reductions.  A prediction is
the simplest thing that they could do, one accumulator over k on the tensor cores; a difference from it is told, and is
no failure.  The manifest keeps versions, flags and the names of the kernels that ran.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fpemu
from analysis.gpu.engines import chip_of, engine_of, multiplied
from analysis.gpu.inputs import Codes, Coverage
from analysis.gpu.multiply import OPERANDS, WGMMA, Product
from analysis.gpu.part import Numbers, Part
from analysis.gpu.tiles import Operands, Shape, operands_of, words_of
from fpemu.formats import FORMATS, FloatFormat

MATMUL, SCALED_MM = "torch.matmul", "torch._scaled_mm"
TENSOR_WISE, ROW_WISE = "tensor-wise", "row-wise"
KEPT = 1 << 12  # outputs
INPUT_CLASS = "normal"
TF32_MASK = np.uint32(0xFFFFE000)
PROMOTED_EVERY = 128

_SIGNED = {8: "int8", 16: "int16", 32: "int32"}  # torch views bits as signed integers


@dataclass(frozen=True)
class Call:
    """A call of a library. ``a``, ``b``: types of the operands; ``result``: of what it returns.

    ``scales``: TENSOR_WISE, ROW_WISE or None; ``fast``: use_fast_accum.
    """

    function: str
    a: str
    b: str
    result: str
    scales: str | None = None
    fast: bool = False

    @property
    def name(self) -> str:
        """Fit for a file name."""
        words = [
            "matmul" if self.function == MATMUL else "scaled-mm",
            self.a if self.a == self.b else f"{self.a}x{self.b}",
        ]
        if self.scales is not None:
            words += [self.scales, "fast" if self.fast else "slow"]
        return "-".join(words)

    def __str__(self) -> str:
        words = [f"{self.a} x {self.b} -> {self.result}"]
        if self.scales is not None:
            words += [f"{self.scales} scales", f"use_fast_accum={self.fast}"]
        return f"{self.function} {', '.join(words)}"


@dataclass(frozen=True)
class Prediction:
    """One accumulator of an engine over k, promoted every so many products; then scales in float32, then rounding."""

    engine: str
    promote_every: int | None


@dataclass(frozen=True)
class LibraryProduct(Part):
    """A call on operands of one shape: (m, k) times (k, n)."""

    call: Call
    m: int
    n: int
    k: int
    base: str | None = None

    file = "library"
    ages = True

    @property
    def name(self) -> str:  # type: ignore[override]
        """See Part."""
        return f"library-{self.call.name}-{self.m}x{self.n}x{self.k}"

    @property
    def how(self) -> str:  # type: ignore[override]
        """See Part."""
        return f"{self.call}, {self.m} x {self.n} x {self.k}"

    @property
    def is_hardware(self) -> bool:
        """See Part."""
        return False

    @property
    def holder(self) -> FloatFormat:
        """See Part."""
        return FORMATS[self.call.result]

    @property
    def chunk(self) -> int:
        """See Part."""
        return min(KEPT, self.m * self.n)

    @property
    def chunks_in_all(self) -> int:
        """See Part."""
        return self.m * self.n // self.chunk

    @property
    def block_chunks(self) -> int:  # type: ignore[override]
        """All at a time: a call has one result."""
        return self.chunks_in_all

    def cover(self, coverage: Coverage) -> Coverage:
        """Always all."""
        return Coverage(((0, self.chunks_in_all),))

    def kept_chunks(self, chunks: Numbers) -> Numbers:
        """The first."""
        return np.asarray(chunks[chunks == 0])

    def kept_offsets(self) -> NDArray[np.intp]:
        """See Part."""
        return np.arange(self.chunk)

    @property
    def _inputs(self) -> str:
        return f"library {self.call.a}x{self.call.b} {self.m}x{self.n}x{self.k}"

    def operands(self) -> Operands:
        """One tile: a (1, m, k), b (1, n, k), and C = +0. Operands of TF32 are values of TF32."""
        formats = OPERANDS[self.call.a], OPERANDS[self.call.b], FORMATS["fp32"]
        found = operands_of(Shape(self._inputs, self.m, self.n, self.k, *formats), INPUT_CLASS, np.array([0]))
        a, b = (codes & TF32_MASK if self.call.a == "tf32" else codes for codes in (found.a, found.b))
        return Operands(a, b, np.zeros_like(found.c))

    def scales(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scales of A, shape (m, 1) or (1, 1), and of B, shape (1, n) or (1, 1).

        Those of whole tensors are powers of two, for the order in which a library applies them is not known.
        """
        if self.call.scales != ROW_WISE:
            return np.full((1, 1), 0.125, np.float32), np.full((1, 1), 4.0, np.float32)
        tile = np.array([0])
        a, b = (
            1
            + (words_of(f"{self._inputs}/scales/{role}", tile, (1, size)) >> np.uint64(41)).astype(np.float32)
            * 2.0**-23
            for role, size in (("a", self.m), ("b", self.n))
        )
        return a.reshape(-1, 1).astype(np.float32), b.reshape(1, -1).astype(np.float32)

    def prediction(self, about: Mapping[str, str]) -> Prediction:
        """See Part."""
        slow = self.call.scales is not None and not self.call.fast
        product = Product(WGMMA, 8, 32 * 8 // OPERANDS[self.call.a].bits, self.call.a, self.call.b, "fp32")
        return Prediction(engine_of(product, chip_of(about)), PROMOTED_EVERY if slow else None)

    def described(self, prediction: Prediction) -> str:
        """See Part."""
        every = "" if prediction.promote_every is None else f" promoted every {prediction.promote_every}"
        return f"one accumulator of {prediction.engine}{every} over k, rounded to nearest even"

    @cached_property
    def _predicted(self) -> dict[Prediction, Codes]:
        return {}

    def predicted(self, prediction: Prediction, chunks: Numbers) -> Codes:
        """See Part."""
        if prediction not in self._predicted:
            given = self.operands()
            sums = multiplied(prediction.engine, given.a, given.b, given.c, prediction.promote_every)[0]
            if self.call.scales is not None:
                of_a, of_b = self.scales()
                with np.errstate(over="ignore"):
                    sums = np.asarray(of_b * (of_a * sums.view(np.float32))).view(np.uint32)
            self._predicted[prediction] = np.asarray(fpemu.cast(sums, source="fp32", target=self.holder)).reshape(
                -1, self.chunk
            )
        codes: Codes = self._predicted[prediction][chunks].reshape(-1)
        return codes

    def replay_key(self, prediction: Prediction) -> Hashable:
        """See Part."""
        return self, prediction

    @property
    def classes(self) -> tuple[str, ...]:
        """See Part."""
        return (INPUT_CLASS,)

    def classify(self, numbers: Numbers) -> NDArray[np.uint8]:
        """See Part."""
        return np.zeros(numbers.shape, np.uint8)

    def class_of_chunks(self, chunks: Numbers) -> NDArray[np.uint8]:
        """See Part."""
        return np.zeros(chunks.shape, np.uint8)

    def facts(self) -> dict[str, Any]:
        """See Part."""
        return {"call": str(self.call), "m": self.m, "n": self.n, "k": self.k, "result": self.holder.name}

    def shown(self, number: int) -> dict[str, Any]:
        """The place of the output: its operands are too long."""
        row, column = divmod(number, self.n)
        return {"output": number, "row": row, "column": column}

    def sketched(self, number: int, input_class: str) -> str:
        """See Part."""
        row, column = divmod(number, self.n)
        return f"row {row}, column {column}"


_SHAPES = (
    (16, 16, 16), (16, 16, 8192), (64, 64, 256), (128, 128, 1024), (256, 256, 4096), (512, 512, 512), (512, 512, 8192),
)  # fmt: skip
_CALLS = (
    Call(MATMUL, "fp16", "fp16", "fp16"),
    Call(MATMUL, "bf16", "bf16", "bf16"),
    Call(MATMUL, "tf32", "tf32", "fp32"),
    *(
        Call(SCALED_MM, a, b, "fp32", TENSOR_WISE, fast)
        for a, b in (("e4m3", "e4m3"), ("e5m2", "e4m3"))
        for fast in (False, True)
    ),
    *(Call(SCALED_MM, "e4m3", "e4m3", "bf16", ROW_WISE, fast) for fast in (False, True)),
)
PARTS = [LibraryProduct(call, *shape) for call in _CALLS for shape in _SHAPES]


# ---- where PyTorch is -----------------------------------------------------------------------------------------------
class Products:
    """Calls of PyTorch on a device. What it raises is the library's own."""

    def __init__(self, device: str = "cuda") -> None:
        self._device = device
        self._details: dict[str, dict[str, Any]] = {}

    def codes(self, part: LibraryProduct) -> Codes:
        """All outputs of a call, flat."""
        import torch

        call = part.call
        given = part.operands()
        a = self._tensor(given.a[0], OPERANDS[call.a])
        b = self._tensor(given.b[0], OPERANDS[call.b]).t()  # k is the contiguous direction of both
        allowed, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, call.a == "tf32"
        try:
            if call.function == MATMUL:
                result = torch.matmul(a, b)
            else:
                of_a, of_b = (torch.from_numpy(scale).to(self._device) for scale in part.scales())
                result = self._scaled(part, a, b, of_a, of_b)
            if part.name not in self._details:
                self._details[part.name] = self._about(part, a, b)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = allowed
        codes = result.contiguous().view(getattr(torch, _SIGNED[part.holder.bits])).cpu().numpy()
        flat: Codes = codes.view(part.holder.code_dtype).reshape(-1)
        self._details[part.name]["sha256"] = sha256(flat.tobytes()).hexdigest()
        return flat

    def detail(self, part: LibraryProduct) -> dict[str, Any]:
        """Kernels that ran, flags, and the SHA-256 of the outputs."""
        return self._details[part.name]

    def _tensor(self, codes: Codes, format: FloatFormat) -> Any:
        import torch

        signed = codes.view(f"i{codes.dtype.itemsize}")
        return torch.from_numpy(signed).to(self._device).view(getattr(torch, format.name))

    def _scaled(self, part: LibraryProduct, a: Any, b: Any, of_a: Any, of_b: Any) -> Any:
        import torch

        if part.call.scales == TENSOR_WISE:
            of_a, of_b = of_a.reshape(()), of_b.reshape(())
        out = getattr(torch, part.holder.name)
        return torch._scaled_mm(a, b, scale_a=of_a, scale_b=of_b, out_dtype=out, use_fast_accum=part.call.fast)

    def _about(self, part: LibraryProduct, a: Any, b: Any) -> dict[str, Any]:
        import torch

        flags = torch.backends.cuda.matmul
        names = (
            "allow_tf32", "allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction",
            "allow_fp16_reduced_precision_reduction_split_k", "allow_bf16_reduced_precision_reduction_split_k",
            "allow_fp16_accumulation",
        )  # fmt: skip
        found = {name: str(_flag(flags, name)) for name in names}
        return {"kernels": self._kernels(part, a, b), "flags": {name: x for name, x in found.items() if x != "absent"}}

    def _kernels(self, part: LibraryProduct, a: Any, b: Any) -> list[str] | str:
        """Names of the kernels of another such call, by PyTorch's profiler; or why there are none."""
        try:
            from torch.autograd import DeviceType
            from torch.profiler import ProfilerActivity, profile

            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
                self._again(part, a, b)
            kernels = [event.name for event in profiler.events() if event.device_type == DeviceType.CUDA]
            return list(dict.fromkeys(kernels))
        except Exception as error:
            return f"not known: {type(error).__name__}: {' '.join(str(error).split())}"

    def _again(self, part: LibraryProduct, a: Any, b: Any) -> None:
        import torch

        if part.call.function == MATMUL:
            torch.matmul(a, b)
        else:
            of_a, of_b = (torch.from_numpy(scale).to(self._device) for scale in part.scales())
            self._scaled(part, a, b, of_a, of_b)
        if self._device == "cuda":
            torch.cuda.synchronize()


def _flag(flags: Any, name: str) -> Any:
    try:
        return getattr(flags, name)
    except Exception:
        return "absent"
