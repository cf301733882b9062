"""The matrix instructions of NVIDIA's tensor cores as data, and the CUDA C kernel around each.

A kernel reads tiles of A (rows of k), B (columns of k) and C (rows), and stores D = A B + C: one warp a tile with
``mma.sync``, one warpgroup with ``wgmma``.  All are bit patterns in words of 32 bits; an instruction's k is 16 or 32
bytes of an operand, so that registers and shared memory hold the same words whatever the format.  With ``steps`` above 1
the instruction is issued again and again into the same accumulator, over the next k of both operands.

Sources: PTX ISA 9, "Matrix Multiply-Accumulate Operation using mma instruction" (fragments) and "Asynchronous Warpgroup
Level Matrix Instructions" (fragments, matrix descriptors, the K-major layout without swizzling).
"""

from __future__ import annotations

from dataclasses import dataclass

from fpemu.formats import FORMATS, FloatFormat

ENTRY = "multiply"  # the name of every kernel: multiply(a, b, c, d, tiles, steps)
MMA, WGMMA = "mma", "wgmma"
THREADS = {MMA: 32, WGMMA: 128}  # of a block: one warp, one warpgroup

# What an operand of a type is made of. Of TF32 an instruction takes float32 patterns, and ignores their low 13 bits.
OPERANDS = {name: FORMATS[name] for name in ("fp16", "bf16", "e4m3", "e5m2")} | {"tf32": FORMATS["fp32"]}
ACCUMULATORS = {"fp32": FORMATS["fp32"], "fp16": FORMATS["fp16"]}
_PTX_TYPES = {"fp16": "f16", "fp32": "f32"}


@dataclass(frozen=True)
class Product:
    """One matrix instruction and how it is issued.

    Attributes
    ----------
    family: MMA or WGMMA. n, k: of its shape; m is the family's. a, b, accumulator: names of types.
    from_registers: whether A comes from registers (``wgmma``; else from shared memory).
    scale_d: whether ``wgmma`` adds what the accumulator holds. negate_a, negate_b: its immediate scales -1.
    promote: after so many instructions the accumulator is added to another in float32, and starts anew; 0: never.
    """

    family: str
    n: int
    k: int
    a: str
    b: str
    accumulator: str
    from_registers: bool = False
    scale_d: bool = True
    negate_a: bool = False
    negate_b: bool = False
    promote: int = 0

    def __post_init__(self) -> None:
        if self.family not in (MMA, WGMMA):
            raise ValueError(f"family must be {MMA!r} or {WGMMA!r}, not {self.family!r}")
        bytes_of_k = self.k * self.a_format.bits // 8
        if bytes_of_k not in ((16, 32) if self.family == MMA else (32,)):
            raise ValueError(f"k = {self.k} is {bytes_of_k} bytes of an operand, which no instruction takes")
        if self.a_format.bits != self.b_format.bits:
            raise ValueError("operands must be of the same width")
        special = self.from_registers or not self.scale_d or self.negate_a or self.negate_b
        if self.family == MMA and (special or self.n != 8):
            raise ValueError("mma takes n = 8, registers, and no scales")
        if self.promote and self.accumulator != "fp32":
            raise ValueError("only an accumulator in float32 is promoted")

    @property
    def m(self) -> int:
        """Rows of a tile."""
        return 16 if self.family == MMA else 64

    @property
    def shape(self) -> str:
        """``m16n8k16``."""
        return f"m{self.m}n{self.n}k{self.k}"

    @property
    def a_format(self) -> FloatFormat:
        """The format of A's bit patterns."""
        return OPERANDS[self.a]

    @property
    def b_format(self) -> FloatFormat:
        """The format of B's bit patterns."""
        return OPERANDS[self.b]

    @property
    def accumulator_format(self) -> FloatFormat:
        """The format of the bit patterns of C and D."""
        return ACCUMULATORS[self.accumulator]

    @property
    def engine(self) -> str:
        """The rest of an engine's name after the chip: ``wgmma.e4m3xe5m2.fp32``."""
        return f"{self.family}.{self.a if self.a == self.b else f'{self.a}x{self.b}'}.{self.accumulator}"

    @property
    def sign(self) -> int:
        """The sign that the immediate scales give every product."""
        return -1 if self.negate_a != self.negate_b else 1

    @property
    def ptx(self) -> str:
        """The instruction with its qualifiers."""
        a, b, d = (_PTX_TYPES.get(name, name) for name in (self.a, self.b, self.accumulator))
        if self.family == MMA:
            return f"mma.sync.aligned.{self.shape}.row.col.{d}.{a}.{b}.{d}"
        return f"wgmma.mma_async.sync.aligned.{self.shape}.{d}.{a}.{b}"

    @property
    def architecture_suffix(self) -> str:
        """What the name of an architecture needs for this instruction: wgmma is of sm_90a alone."""
        return "a" if self.family == WGMMA else ""

    @property
    def source(self) -> str:
        """The CUDA C source of its kernel."""
        return _mma(self) if self.family == MMA else _wgmma(self)


def _accumulators(product: Product) -> tuple[int, str, str]:
    """How many registers of a thread hold the accumulators, their C type and their constraint."""
    words = product.m * product.n // THREADS[product.family] * product.accumulator_format.bits // 32
    return (words, "float", "+f") if product.accumulator == "fp32" else (words, "unsigned", "+r")


def _moves(product: Product) -> tuple[str, str]:
    """C that fills the accumulators from ``from``, and that stores them to ``to``: addresses of a tile's rows.

    Of every eight columns a thread holds two neighbours of the row ``group`` and of the eighth row after it.
    """
    count, _, _ = _accumulators(product)
    wide = product.accumulator == "fp32"
    columns = product.n if wide else product.n // 2  # words of a row
    loads, stores = [], []
    for register in range(count):
        block, within = divmod(register, 4 if wide else 2)
        row, odd = divmod(within, 2) if wide else (within, 0)
        place = (
            f"(group + {8 * row}) * {columns} + {block * (8 if wide else 4)} + {'2 * ' if wide else ''}inside + {odd}"
        )
        loads.append(f"acc[{register}] = {'__uint_as_float' if wide else ''}(from[{place}]);")
        stores.append(f"to[{place}] = {'__float_as_uint' if wide else ''}(acc[{register}]);")
    return "\n        ".join(loads), "\n        ".join(stores)


def _registers(first: int, count: int) -> str:
    return "{" + ", ".join(f"%{number}" for number in range(first, first + count)) + "}"


def _promotion(product: Product) -> tuple[str, str, str]:
    """C before all steps, after each, and after all."""
    if not product.promote:
        return "", "", ""
    count, _, _ = _accumulators(product)
    each = f"for (int i = 0; i < {count}; i++)"
    return (
        f"float total[{count}];\n        {each} {{ total[i] = acc[i]; acc[i] = 0; }}",
        f"if (step % {product.promote} == {product.promote - 1})\n"
        f"                {each} {{ total[i] = __fadd_rn(total[i], acc[i]); acc[i] = 0; }}",
        f"{each} acc[i] = total[i];",
    )


def _mma(product: Product) -> str:
    words = product.k * product.a_format.bits // 32  # of an operand's k: 8 or 4
    count, kind, constraint = _accumulators(product)
    loads, stores = _moves(product)
    before, after_each, after = _promotion(product)
    halves = words // 4
    a = [f"at[(group + {8 * row}) * row + {4 * half} + inside]" for half in range(halves) for row in range(2)]
    b = [f"bt[group * row + {4 * half} + inside]" for half in range(halves)]
    d, a_registers, b_registers = (
        _registers(0, count),
        _registers(count, len(a)),
        _registers(count + len(a), len(b)),
    )
    results = ", ".join(f'"{constraint}"(acc[{i}])' for i in range(count))
    inputs = ", ".join(f'"r"({word})' for word in (*a, *b))
    return f"""\
extern "C" __global__ void __launch_bounds__(32) {ENTRY}(
    const unsigned *a, const unsigned *b, const unsigned *c, unsigned *d, unsigned tiles, unsigned steps)
{{
    unsigned group = threadIdx.x / 4, inside = threadIdx.x % 4, row = steps * {words};
    for (unsigned long long tile = blockIdx.x; tile < tiles; tile += gridDim.x) {{
        const unsigned *at = a + tile * {product.m} * row, *bt = b + tile * {product.n} * row;
        const unsigned *from = c + tile * {product.m * product.n * product.accumulator_format.bits // 32};
        unsigned *to = d + (from - c);
        {kind} acc[{count}];
        {loads}
        {before}
        for (unsigned step = 0; step < steps; step++, at += {words}, bt += {words}) {{
            asm volatile("{product.ptx} {d}, {a_registers}, {b_registers}, {d};"
                         : {results}
                         : {inputs});
            {after_each}
        }}
        {after}
        {stores}
    }}
}}
"""


def _wgmma(product: Product) -> str:
    words = 8
    count, kind, constraint = _accumulators(product)
    loads, stores = _moves(product)
    before, after_each, after = _promotion(product)
    d = _registers(0, count)
    if product.from_registers:
        a = [f"at[(group + {8 * row}) * row + {4 * half} + inside]" for half in range(2) for row in range(2)]
        a_operand = _registers(count, 4)
    else:
        a, a_operand = ["descriptor(a_shared)"], f"%{count}"
    b_operand, first_free = f"%{count + len(a)}", count + len(a) + 1
    scales = f"{-1 if product.negate_a else 1}, {-1 if product.negate_b else 1}"
    transposed = {True: ", 0", False: ", 0, 0"}[product.from_registers] if product.a_format.bits == 16 else ""
    results = ", ".join(f'"{constraint}"(acc[{i}])' for i in range(count))
    a_kind = "r" if product.from_registers else "l"
    inputs = ", ".join([*(f'"{a_kind}"({word})' for word in a), '"l"(descriptor(b_shared))', '"r"(add)'])
    add = f"step % {product.promote} != 0" if product.promote else "1" if product.scale_d else "step != 0"
    shared_a = "" if product.from_registers else f"\n            put(a_shared, at, {product.m}, row);"
    return f"""\
// Rows of 32 bytes in 8 x 16-byte core matrices: the two halves of eight rows side by side, 128 bytes apart, and eight
// rows 256 bytes after the last eight.
__device__ void put(unsigned *shared, const unsigned *from, unsigned rows, unsigned long long row_words)
{{
    for (unsigned i = threadIdx.x; i < rows * 8; i += 128) {{
        unsigned row = i / 8, word = i % 8;
        shared[row / 8 * 64 + word / 4 * 32 + row % 8 * 4 + word % 4] = from[row * row_words + word];
    }}
}}

__device__ unsigned long long descriptor(const unsigned *shared)
{{
    unsigned long long address = __cvta_generic_to_shared(shared);
    return (address & 0x3FFFF) >> 4 | 128ull >> 4 << 16 | 256ull >> 4 << 32;
}}

extern "C" __global__ void __launch_bounds__(128) {ENTRY}(
    const unsigned *a, const unsigned *b, const unsigned *c, unsigned *d, unsigned tiles, unsigned steps)
{{
    __shared__ __align__(128) unsigned a_shared[{product.m * words}], b_shared[{product.n * words}];
    unsigned group = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, inside = threadIdx.x % 4, row = steps * {words};
    for (unsigned long long tile = blockIdx.x; tile < tiles; tile += gridDim.x) {{
        const unsigned *at = a + tile * {product.m} * row, *bt = b + tile * {product.n} * row;
        const unsigned *from = c + tile * {product.m * product.n * product.accumulator_format.bits // 32};
        unsigned *to = d + (from - c);
        {kind} acc[{count}];
        {loads}
        {before}
        for (unsigned step = 0; step < steps; step++, at += {words}, bt += {words}) {{
            __syncthreads();{shared_a}
            put(b_shared, bt, {product.n}, row);
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
            __syncthreads();
            unsigned add = {add};
            asm volatile("{{\\n"
                         ".reg .pred p;\\n"
                         "setp.ne.b32 p, %{first_free}, 0;\\n"
                         "wgmma.fence.sync.aligned;\\n"
                         "{product.ptx} {d}, {a_operand}, {b_operand}, p, {scales}{transposed};\\n"
                         "wgmma.commit_group.sync.aligned;\\n"
                         "wgmma.wait_group.sync.aligned 0;\\n"
                         "}}\\n"
                         : {results}
                         : {inputs}
                         : "memory");
            {after_each}
        }}
        {after}
        {stores}
    }}
}}
"""
