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

from analysis.gpu import compiler, multiply
from analysis.gpu.instructions import ENTRY
from analysis.gpu.kinds import TENSOR_CORES
from analysis.gpu.multiply import MMA, Product
from analysis.gpu.parts import PARTS, PTX
from analysis.gpu.tensor_cores import Instruction

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


# ---- matrix instructions --------------------------------------------------------------------------------------------
PRODUCTS = {part.product: name for name, part in TENSOR_CORES.parts.items() if isinstance(part, Instruction)}
_TYPES = {"bf16": ".BF16", "tf32": ".TF32", "fp16": ""}
_MMA_SHAPES = {32: "16816", 16: "1688"}  # of FP16 and BF16, by bytes of k


def wanted_opcodes(product: Product) -> set[str]:
    """The opcodes of the tensor cores in a kernel, and of the emulation of FP8."""
    to = {"fp32": "F32", "fp16": "F16"}[product.accumulator]
    bytes_of_k = product.k * product.a_format.bits // 8
    if product.a in ("e4m3", "e5m2"):
        a, b = product.a.upper(), product.b.upper()
        if product.family != MMA:
            return {f"QGMMA.64x{product.n}x32.{to}.{a}.{b}"}
        unpacked = {f"F2FP.F16.{kind}.UNPACK_B" for kind in (a, b)}
        return {f"HMMA.{_MMA_SHAPES[bytes_of_k]}.{to}", *unpacked, "FADD" if to == "F32" else "HADD2"}
    if product.family != MMA:
        return {f"HGMMA.64x{product.n}x{product.k}.{to}{_TYPES[product.a]}"}
    shape = {8: "1688", 4: "1684"}[product.k] if product.a == "tf32" else _MMA_SHAPES[bytes_of_k]
    return {f"HMMA.{shape}.{to}{_TYPES[product.a]}"}


@pytest.mark.parametrize("product", PRODUCTS, ids=PRODUCTS.values())
def test_a_kernel_multiplies_by_its_instruction(product: Product) -> None:
    cubin, ptx = compiler.compile_source(product.source, HOPPER + product.architecture_suffix)
    assert cubin.startswith(b"\x7fELF") and f".entry {multiply.ENTRY}(" in ptx
    issued = re.findall(r"\b(w?g?mma[\w.]*?\.m\d+n\d+k\d+[\w.]*)", ptx)
    assert set(issued) == {product.ptx}, "the one matrix instruction in the kernel"
    opcodes = compiler.opcodes(cubin)
    if compiler.disassembler() is None:
        assert opcodes is None
        return
    assert opcodes is not None
    arithmetic = {name for name in opcodes if re.match(r"[HQ]G?MMA|F2FP|FADD|HADD2|FFMA|FMUL|LDL|STL|HFMA2\.", name)}
    promotion = {"FADD"} if product.promote else set()
    assert arithmetic - {"HFMA2.MMA"} == wanted_opcodes(product) | promotion


def test_other_scales_are_other_machine_code(tmp_path: Path) -> None:
    """Of scale-d 0 a predicate, of the immediate scales a modifier; A from registers has one descriptor."""
    if compiler.disassembler() is None:
        pytest.skip("no disassembler")
    marks = {"scale-d-0": "UP0", "negative-a": "].negA", "negative-b": "].negB", "registers": ", R"}
    for word, mark in marks.items():
        part = TENSOR_CORES.parts[f"wgmma-fp16-fp32-{word}"]
        assert isinstance(part, Instruction)
        cubin, _ = compiler.compile_source(part.product.source, "sm_90a")
        (tmp_path / "kernel.cubin").write_bytes(cubin)
        tool = str(compiler.disassembler())
        done = subprocess.run([tool, str(tmp_path / "kernel.cubin")], capture_output=True, text=True, check=True)
        (line,) = [line for line in done.stdout.splitlines() if "HGMMA" in line]
        operands = line.split("HGMMA")[1].split(",", 1)[1]
        assert mark in f",{operands}" if word != "registers" else re.match(r" R\d+, gdesc", operands), line


def test_wgmma_is_of_hopper_alone() -> None:
    part = TENSOR_CORES.parts["wgmma-fp16-fp32-k16"]
    assert isinstance(part, Instruction)
    for architecture in ("sm_90", "sm_80a", "sm_100a"):
        with pytest.raises(compiler.CannotCompile):
            compiler.compile_source(part.product.source, architecture)


# ---- calls of the driver --------------------------------------------------------------------------------------------
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


PRODUCT_CALLS = """
import ctypes, json, sys
import numpy as np
from analysis.gpu import compiler
from analysis.gpu.device import CudaDevice
from analysis.gpu.kinds import TENSOR_CORES
from analysis.gpu.multiply import ENTRY
from analysis.gpu.part import Unavailable
parts = [TENSOR_CORES.parts[name] for name in ("mma-fp16-fp32-k16", "wgmma-e4m3-fp16-k32")]
compiled = {part.kernel: compiler.compile_source(part.kernel, "sm_90" + part.product.architecture_suffix) for part in parts}
asked = []

def compile_source(source, architecture):
    asked.append(architecture)
    return compiled[source]

compiler.compile_source = compile_source
ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
device = CudaDevice()
told = {"refused": [], "given": []}
for part in parts:
    try:
        device.codes(part, 0, 1)
    except Unavailable as error:
        told["refused"].append(str(error))
    multipliers, operands = device._multipliers, part.operands(np.arange(2))
    kernel = multipliers._context.load(compiled[part.kernel][0], ENTRY)
    words = multipliers._run(kernel, part.product, 3, operands).reshape(-1).view(np.uint32)[:7]
    first = [int(codes.reshape(-1).view(np.uint32)[0]) for codes in (operands.a, operands.b, operands.c)]
    told["given"].append([words.tolist(), first])
told["asked"] = asked
print(json.dumps(told))
"""


@needs_compiler
def test_matrix_kernels_get_their_operands_and_are_checked(tmp_path: Path) -> None:
    """The pretended kernel tells what it was given; it multiplies nothing, which the check before a recording finds."""
    library = build(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", PRODUCT_CALLS, str(library)], capture_output=True, text=True, cwd=HERE.parent
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["asked"] == ["sm_90", "sm_90a"]
    for (words, first), tiles, threads in zip(told["given"], (64, 16), (32, 128), strict=True):
        assert words == [*first, tiles, 3, tiles, threads]
    assert all("exact sums of small integers are wrong, first in tile 0, row 0" in text for text in told["refused"])
    assert len(told["refused"]) == 2
