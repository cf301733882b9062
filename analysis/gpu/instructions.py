"""The conversion instructions of NVIDIA GPUs as data, and the CUDA C kernel around each.

A kernel makes its inputs from its index and stores the registers' bits; inline PTX is the only conversion in it.  An
instruction on two values gets two neighbouring inputs, the first one in the lower half as memory has it, so that both
lanes are tried.

Source: PTX ISA 9, "Data Movement and Conversion Instructions: cvt".
"""

from __future__ import annotations

from dataclasses import dataclass

ENTRY = "convert"  # the name of every kernel
PLACE = "{ptx}"  # where the instruction's name goes


@dataclass(frozen=True)
class Shape:
    """How an instruction takes its inputs. ``lanes``: inputs a thread converts; ``word``: the C type of what it stores."""

    lanes: int
    word: str
    body: str


_FLOAT = "__uint_as_float({})".format
F32_TO_16 = Shape(1, "unsigned short", f'asm volatile("{PLACE} %0, %1;" : "=h"(y) : "f"({_FLOAT("x")}));')
F32_TO_32 = Shape(1, "unsigned int", f'asm volatile("{PLACE} %0, %1;" : "=r"(y) : "f"({_FLOAT("x")}));')
# Of two sources the first goes to the upper half.
_TWO = f'"f"({_FLOAT("x + 1")}), "f"({_FLOAT("x")})'
F32X2_TO_16X2 = Shape(2, "unsigned int", f'asm volatile("{PLACE} %0, %1, %2;" : "=r"(y) : {_TWO});')
F32X2_TO_8X2 = Shape(2, "unsigned short", f'asm volatile("{PLACE} %0, %1, %2;" : "=h"(y) : {_TWO});')
F16X2_TO_8X2 = Shape(2, "unsigned short", f'asm volatile("{PLACE} %0, %1;" : "=h"(y) : "r"(x | (x + 1) << 16));')
F8X2_TO_16X2 = Shape(
    2, "unsigned int", f'asm volatile("{PLACE} %0, %1;" : "=r"(y) : "h"((unsigned short)(x | (x + 1) << 8)));'
)
NARROW_TO_32 = Shape(
    1,
    "unsigned int",
    f'float f; asm volatile("{PLACE} %0, %1;" : "=f"(f) : "h"((unsigned short)x)); y = __float_as_uint(f);',
)
# BF16 values are the upper halves of float32 ones: software widens them by a shift, as cuda_bf16 does before FP8.
BF16X2_TO_8X2 = Shape(
    2,
    "unsigned short",
    f'asm volatile("{PLACE} %0, %1, %2;" : "=h"(y) : "f"({_FLOAT("(x + 1) << 16")}), "f"({_FLOAT("x << 16")}));',
)


@dataclass(frozen=True)
class Instruction:
    """One instruction, e.g. ``cvt.rn.f16.f32``."""

    ptx: str
    shape: Shape

    @property
    def source(self) -> str:
        """The CUDA C source of its kernel: ``convert(out, start, threads)`` stores the codes of inputs from ``start``."""
        return f"""\
extern "C" __global__ void {ENTRY}({self.shape.word} *out, unsigned int start, unsigned long long threads)
{{
    unsigned long long step = (unsigned long long)gridDim.x * blockDim.x;
    for (unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; i < threads; i += step) {{
        unsigned int x = start + {self.shape.lanes}u * (unsigned int)i;
        {self.shape.word} y;
        {self.shape.body.replace(PLACE, self.ptx)}
        out[i] = y;
    }}
}}
"""
