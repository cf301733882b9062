"""Does every kernel of the recorder become the instruction it is named after, and does the driver get the right calls?

Needs NVRTC (``numba-cuda[cu13]``), no GPU: all kernels are compiled to machine code of compute capability 9.0. The
opcodes are looked at where nvdisasm is installed. The calls are made to a pretended driver, where there is a C compiler.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pretend_driver import build, needs_compiler

pytest.importorskip("cuda.bindings.nvrtc")

from analysis.gpu import compiler
from analysis.gpu.instructions import ENTRY
from analysis.gpu.parts import PARTS, PTX

HERE = Path(__file__).parent
pytestmark = pytest.mark.ptx
HARDWARE = [name for name, part in PARTS.items() if part.stack == PTX]
HOPPER = "sm_90"

# The opcode of the conversion on compute capability 9.0. cvt.rna to TF32 is an addition and a mask, and BF16 to float32
# a shift (a multiplication by 2**16): those have no opcode of their own.
OPCODES = {
    "cvt.rn.f16.f32": r"F2FP\.F16\.F32\.PACK_AB|F2F\.F16\.F32",
    "cvt.rn.f16x2.f32": r"F2FP\.F16\.F32\.PACK_AB",
    "cvt.rn.satfinite.f16.f32": r"F2FP\.SATFINITE\.F16\.F32\.\w+",
    "cvt.rz.f16.f32": r"F2FP\.F16\.F32\.PACK_AB\.RZ|F2F\.F16\.F32\.RZ",
    "cvt.rz.satfinite.f16.f32": r"F2FP\.SATFINITE\.F16\.F32\.\w+\.RZ",
    "cvt.rm.f16.f32": r"F2F\.F16\.F32\.RM",
    "cvt.rp.f16.f32": r"F2F\.F16\.F32\.RP",
    "cvt.rn.bf16.f32": r"F2FP\.BF16\.F32\.PACK_AB|F2F\.BF16\.F32",
    "cvt.rn.bf16x2.f32": r"F2FP\.BF16\.F32\.PACK_AB",
    "cvt.rn.satfinite.bf16.f32": r"F2FP\.SATFINITE\.BF16\.F32\.\w+",
    "cvt.rz.bf16.f32": r"F2FP\.BF16\.F32\.PACK_AB\.RZ|F2F\.BF16\.F32\.RZ",
    "cvt.rz.satfinite.bf16.f32": r"F2FP\.SATFINITE\.BF16\.F32\.\w+\.RZ",
    "cvt.rm.bf16.f32": r"F2F\.BF16\.F32\.RM",
    "cvt.rp.bf16.f32": r"F2F\.BF16\.F32\.RP",
    "cvt.rna.tf32.f32": r"FSETP\.GEU\.AND",
    "cvt.rna.satfinite.tf32.f32": r"FSETP\.GEU\.AND",
    "cvt.rn.tf32.f32": r"F2FP\.TF32\.F32\.PACK_B",
    "cvt.rz.tf32.f32": r"F2FP\.TF32\.F32\.PACK_B\.RZ",
    "cvt.rn.satfinite.e4m3x2.f32": r"F2FP\.SATFINITE\.E4M3\.F32\.\w+",
    "cvt.rn.satfinite.e5m2x2.f32": r"F2FP\.SATFINITE\.E5M2\.F32\.\w+",
    "cvt.rn.satfinite.e4m3x2.f16x2": r"F2FP\.SATFINITE\.E4M3\.F16\.\w+",
    "cvt.rn.satfinite.e5m2x2.f16x2": r"F2FP\.SATFINITE\.E5M2\.F16\.\w+",
    "cvt.rn.f16x2.e4m3x2": r"F2FP\.F16\.E4M3\.UNPACK_B",
    "cvt.rn.f16x2.e5m2x2": r"F2FP\.F16\.E5M2\.UNPACK_B",
    "cvt.f32.f16": r"HADD2\.F32",
    "cvt.f32.bf16": r".*",
}


@pytest.mark.parametrize("name", HARDWARE)
def test_a_kernel_compiles_to_its_instruction(name: str) -> None:
    instruction = PARTS[name].instruction
    assert instruction is not None
    cubin, ptx = compiler.compile_source(instruction.source, HOPPER)
    assert cubin.startswith(b"\x7fELF") and f".entry {ENTRY}(" in ptx
    conversions = set(re.findall(r"\bcvt\.[\w.]+", ptx)) - {"cvt.u64.u32", "cvt.u32.u64", "cvt.u16.u32", "cvt.s64.s32"}
    assert conversions == {instruction.ptx}, "the one conversion of floating point in the kernel"
    opcodes = compiler.opcodes(cubin)
    if compiler.disassembler() is None:
        assert opcodes is None
    else:
        assert opcodes and any(re.fullmatch(OPCODES[instruction.ptx], opcode) for opcode in opcodes), opcodes


def test_what_an_older_gpu_lacks_is_an_error_of_one_line() -> None:
    instruction = PARTS["ptx-fp32-e4m3-rn-satfinite"].instruction
    assert instruction is not None
    with pytest.raises(compiler.CannotCompile, match="sm_89 or higher") as caught:
        compiler.compile_source(instruction.source, "sm_80")
    assert "\n" not in str(caught.value)
    with pytest.raises(compiler.CannotCompile, match="error"):
        compiler.compile_source("not C", HOPPER)


def test_the_version_of_the_compiler() -> None:
    assert re.fullmatch(r"\d+\.\d+", compiler.version())


# NVRTC looks for a driver of its own accord and cannot take this one, so the kernels are compiled before it is loaded.
CALLS = """
import ctypes, json, sys
import numpy as np
from analysis.gpu import compiler, driver
from analysis.gpu.device import CudaDevice
from analysis.gpu.part import Unavailable
from analysis.gpu.parts import PARTS
names = "ptx-fp32-fp16-rn", "ptx-fp32-e4m3-rn-satfinite", "ptx-fp16-e5m2-rn-satfinite"
compiled = {PARTS[n].instruction.source: compiler.compile_source(PARTS[n].instruction.source, "sm_90") for n in names}

def compile_source(source, architecture):
    assert architecture == "sm_90"
    if source not in compiled:
        raise compiler.CannotCompile("error: refused")
    return compiled[source]

compiler.compile_source = compile_source
ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
device = CudaDevice()
told = {"facts": device.facts(), "software": device.software(), "codes": {}}
for name, first, stop in zip(names, (0x3F80, 0xFFFF, 0), (0x3F82, 0x10000, 1)):
    codes = device.codes(PARTS[name], first, stop)
    told["codes"][name] = [codes.size, codes.dtype.name, codes[:4].tolist(), codes[-4:].tolist()]
    assert device.detail(PARTS[name])["source"] == PARTS[name].instruction.source
try:
    device.codes(PARTS["ptx-fp32-bf16-rn"], 0, 1)
except Unavailable as error:
    told["refused"] = str(error)
context = device._context
told["times"] = context.times(lambda: None, 3, calls=2)
memory = context.allocate(64), context.allocate(64)
context.copy_on_device(*memory, 64)
context.synchronize()
for one in memory:
    context.free(one)
try:
    context.load(b"no machine code", "convert")
except driver.DriverError as error:
    told["error"] = str(error)
print(json.dumps(told))
"""


@needs_compiler
@pytest.mark.parametrize("pinned", [True, False])
def test_the_driver_gets_the_right_calls(tmp_path: Path, pinned: bool) -> None:
    library = build(tmp_path)
    environment = {**os.environ, **({} if pinned else {"PRETEND_NO_PINNED": "1"})}
    done = subprocess.run(
        [sys.executable, "-c", CALLS, str(library)], capture_output=True, text=True, cwd=HERE.parent, env=environment
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["facts"] == {"is_gpu": True, "name": "Pretend GPU", "compute_capability": "9.0"}
    assert told["software"]["cuda_of_driver"] == "13.2"
    assert told["software"]["torch_cuda"] == "absent" or told["software"]["torch"]
    # The pretended kernel counts up from the start in words of 16 bits: two lanes of 8 bits each in the other two.
    assert told["codes"] == {
        "ptx-fp32-fp16-rn": [0x20000, "uint16", [0, 1, 2, 3], [0xFFFC, 0xFFFD, 0xFFFE, 0xFFFF]],
        "ptx-fp32-e4m3-rn-satfinite": [0x10000, "uint8", [0, 0, 1, 0], [0xFE, 0x7F, 0xFF, 0x7F]],
        "ptx-fp16-e5m2-rn-satfinite": [0x10000, "uint8", [0, 0, 1, 0], [0xFE, 0x7F, 0xFF, 0x7F]],
    }
    assert told["refused"] == "does not compile for sm_90: error: refused"
    assert told["times"] == [0.00125] * 3
    assert told["error"] == "cuModuleLoadData: CUDA_ERROR_INVALID_IMAGE"
