"""Does MMA-Sim, a model that was itself compared with real chips on random bits, give the same bits?  (``tox -e torch``)

P. Xie et al., arXiv 2511.10909; package mmasim.  An oracle for tests only: where it and our definition part, the chips decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from engine_inputs import CLASSES, draw

from fpemu import ENGINES, FloatFormat, decode, matmul

torch = pytest.importorskip("torch", reason="torch is not installed: tox -e torch")
pytest.importorskip("mmasim", reason="mmasim is not installed: tox -e torch")

ROWS = 4_000
FP8 = ("e4m3", "e5m2")


def _fp8(a: str, b: str) -> Iterator[tuple[str, str, str, str]]:
    """Rows of two FP8 formats."""
    pair = a if a == b else f"{a}x{b}"
    for accumulator, short in (("fp32", "f32"), ("fp16", "f16")):
        yield f"ada.mma.{pair}.{accumulator}", "MMA", "Ada Lovelace", f"m16n8k32.{short}.{a}.{b}.{short}"
        yield f"hopper.wgmma.{pair}.{accumulator}", "WGMMA", "Hopper", f"m64n8k32.{short}.{a}.{b}"


DENSE = [  # engine, class of MMA-Sim, its chip, its instruction
    ("volta.mma.fp16.fp32", "MMA", "Volta", "m8n8k4.f32.f16.f16.f32"),
    ("volta.mma.fp16.fp16", "MMA", "Volta", "m8n8k4.f16.f16.f16.f16"),
    ("turing.mma.fp16.fp32", "MMA", "Turing", "m16n8k8.f32.f16.f16.f32"),
    ("turing.mma.fp16.fp16", "MMA", "Turing", "m16n8k8.f16.f16.f16.f16"),
    ("ampere.mma.fp16.fp32", "MMA", "Ampere", "m16n8k16.f32.f16.f16.f32"),
    ("ampere.mma.fp16.fp16", "MMA", "Ampere", "m16n8k16.f16.f16.f16.f16"),
    ("ampere.mma.bf16.fp32", "MMA", "Ampere", "m16n8k16.f32.bf16.bf16.f32"),
    ("ampere.mma.tf32.fp32", "MMA", "Ampere", "m16n8k8.f32.tf32.tf32.f32"),
    ("hopper.mma.fp16.fp16", "MMA", "Hopper", "m16n8k16.f16.f16.f16.f16"),
    ("hopper.mma.tf32.fp32", "MMA", "Hopper", "m16n8k8.f32.tf32.tf32.f32"),
    ("b200.mma.bf16.fp32", "MMA", "Blackwell", "m16n8k16.f32.bf16.bf16.f32"),
    ("hopper.wgmma.fp16.fp32", "WGMMA", "Hopper", "m64n8k16.f32.f16.f16"),
    ("hopper.wgmma.fp16.fp16", "WGMMA", "Hopper", "m64n8k16.f16.f16.f16"),
    ("hopper.wgmma.bf16.fp32", "WGMMA", "Hopper", "m64n8k16.f32.bf16.bf16"),
    ("hopper.wgmma.tf32.fp32", "WGMMA", "Hopper", "m64n8k8.f32.tf32.tf32"),
    *(row for _a in FP8 for _b in FP8 for row in _fp8(_a, _b)),
    *(
        (f"rtx-blackwell.mma.{_a}.fp32", "MMA", "RTX Blackwell", f"m16n8k32.kind::f8f6f4.f32.{_a}.{_a}.f32")
        for _a in (*FP8, "e2m3", "e3m2", "e2m1")
    ),
]  # fmt: skip
SCALED = [
    ("rtx-blackwell.mma.e4m3xe5m2.mxf8f6f4.fp32", "kind::mxf8f6f4.block32.f32.e4m3.e5m2.f32.ue8m0", 32),
    ("rtx-blackwell.mma.e2m3xe2m1.mxf8f6f4.fp32", "kind::mxf8f6f4.block32.f32.e2m3.e2m1.f32.ue8m0", 32),
    ("rtx-blackwell.mma.e2m1.mxf4.fp32", "kind::mxf4.block32.f32.e2m1.e2m1.f32.ue8m0", 64),
    ("rtx-blackwell.mma.e2m1.nvf4.fp32", "kind::mxf4nvf4.block16.f32.e2m1.e2m1.f32.ue4m3", 64),
]


def tensor(codes: np.ndarray[Any, Any], format: FloatFormat) -> Any:
    """A tensor of codes; FP6 and FP4 as MMA-Sim takes them, one in a byte."""
    dtype = {"float16": "float16", "bfloat16": "bfloat16", "float32": "float32"}.get(format.name, format.name)
    if format.bits < 8:
        return torch.from_numpy(codes << (2 if format.bits == 4 else 0))
    signed = {1: np.uint8, 2: np.int16, 4: np.int32}[codes.itemsize]
    return torch.from_numpy(np.ascontiguousarray(codes).view(signed)).view(getattr(torch, dtype))


def bits(x: Any) -> np.ndarray[Any, Any]:
    """The codes of MMA-Sim's result."""
    return x.view(torch.int16 if x.element_size() == 2 else torch.int32).numpy().view(f"u{x.element_size()}")


@pytest.mark.parametrize(("name", "kind", "chip", "instruction"), DENSE)
def test_dense(name: str, kind: str, chip: str, instruction: str) -> None:
    sim = pytest.importorskip("mmasim.nv_ptx.sim", reason="mmasim needs a C++ compiler")
    engine, model = ENGINES[name], getattr(sim, kind)(chip, instruction)
    k = 2 * model.k
    for inputs in CLASSES:
        rng = np.random.default_rng(crc32(f"{name} {inputs}".encode()))
        a, b = draw(inputs, rng, engine.a, (ROWS, k)), draw(inputs, rng, engine.b, (ROWS, k))
        c = draw(inputs, rng, engine.accumulator, (ROWS,))
        theirs = bits(model.dpa(tensor(a, engine.a), tensor(b, engine.b), tensor(c, engine.accumulator)))
        ours = matmul(a[:, None], b[:, :, None], c[:, None, None], engine=engine)[:, 0, 0]
        wrong = np.flatnonzero(ours != theirs)
        assert not wrong.size, (
            f"{inputs}: {wrong.size} of {ROWS} differ, row {wrong[0]}: {ours[wrong[0]]:#x} for {theirs[wrong[0]]:#x}"
        )


@pytest.mark.parametrize(("name", "instruction", "k"), SCALED)
def test_block_scaled(name: str, instruction: str, k: int) -> None:
    sim = pytest.importorskip("mmasim.nv_ptx.sim", reason="mmasim needs a C++ compiler")
    engine = ENGINES[name]
    assert engine.scaling is not None
    model = sim.MMABlockScale("RTX Blackwell", f"m16n8k{k}.{instruction}")
    for inputs in CLASSES:
        rng = np.random.default_rng(crc32(f"{name} {inputs}".encode()))
        a, b = draw(inputs, rng, engine.a, (ROWS, k)), draw(inputs, rng, engine.b, (ROWS, k))
        c = draw(inputs, rng, engine.accumulator, (ROWS,))
        count = k // engine.scaling.block
        low, high = (
            (0, 256)
            if inputs == "raw"
            else (118, 134)
            if engine.scaling.format.name.endswith("e8m0fnu")
            else (0x20, 0x50)
        )
        scales = rng.integers(low, high, (2, ROWS, count)).astype(np.uint8)
        given = [tensor(x, of) for x, of in ((a, engine.a), (b, engine.b), (c, engine.accumulator))]
        if k == 64:  # (FP4 comes packed there, or as values)
            given[:2] = (torch.from_numpy(decode(x, engine.a, dtype=np.float16)) for x in (a, b))
        theirs = bits(model.dpa(*given, *(tensor(x, engine.scaling.format) for x in scales)))
        blocks = {"a_scales": scales[0][:, None], "b_scales": scales[1][:, :, None]}
        ours = matmul(a[:, None], b[:, :, None], c[:, None, None], engine=engine, **blocks)[:, 0, 0]
        wrong = np.flatnonzero(ours != theirs)
        assert not wrong.size, (
            f"{inputs}: {wrong.size} of {ROWS} differ, row {wrong[0]}: {ours[wrong[0]]:#x} for {theirs[wrong[0]]:#x}"
        )
