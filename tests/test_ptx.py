"""Does every CUDA kernel compile without a GPU, for four compute capabilities, free of contracted products and spills?"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

import fpemu as fp
from fpemu import FORMATS, Cast, Rounding, Stochastic
from fpemu.targets import chain
from fpemu.targets.chain import ExactPass, Pass

nvjitlink = pytest.importorskip("cuda.bindings.nvjitlink", reason="needs numba-cuda[cu13] (tox -e ptx)")

from numba import cuda, types  # noqa: E402

from fpemu.engines import ENGINES, BlockSum, Chain, promoted  # noqa: E402
from fpemu.kernels.spec import LANE32, LANE64, STOCHASTIC, exact_lane, exact_plan  # noqa: E402
from fpemu.targets import cuda as grids  # noqa: E402
from fpemu.targets import cuda_arithmetic, cuda_matmul, cuda_stats, device_matmul, host_arithmetic, host_stats  # noqa: E402

pytestmark = [pytest.mark.ptx, pytest.mark.skipif(grids.SIMULATED, reason="the simulator compiles nothing")]

CAPABILITIES = ((8, 0), (8, 9), (9, 0), (10, 0))
P3109 = ("binary8p3se", "binary8p4uf", "binary8p1ue", "binary6p2sf", "binary12p5ue", "binary16p8se")
TARGETS = tuple(FORMATS[name] for name in (*(name for name in FORMATS if not name.startswith("binary")), *P3109))
SOURCES = (*chain.SOURCES.values(), *(FORMATS[name] for name in ("bf16", "e4m3", "e8m0")))


class Kernel(NamedTuple):
    """A grid before it is compiled: which maker, and the facts it is made of."""

    maker: Callable[..., Any]
    facts: tuple[Any, ...]

    @property
    def label(self) -> str:
        return f"{self.maker.__name__} {self.facts}"


# ---- which kernels there are -----------------------------------------------------------------------------------------
def casts() -> Iterator[Cast]:
    """Policies that differ in their code paths, of every target."""
    variants = [(rounding, "A", 32) for rounding in Rounding]
    variants += [(Rounding.STOCHASTIC, variant.value, 20) for variant in Stochastic]
    for target in TARGETS:
        nan = "canonical" if target.has_nan else "max"
        for rounding, variant, bits in variants:
            for subnormals in ("keep", "round-to-min"):
                for overflow in ("ieee", "saturate", "propagate"):
                    yield Cast(target, rounding, overflow, subnormals, nan, random_bits=bits, stochastic=variant)


def passes() -> Iterator[Pass | ExactPass]:
    for cast in casts():
        for source in SOURCES:
            yield from chain.encode_passes(source, cast)
        for dtype, source in chain.SOURCES.items():
            if dtype == np.float16 and not FORMATS["float16"].holds(cast.format):
                continue
            if cast.format.holds_in_float64 and dtype.itemsize >= min(
                cast.format.value_dtype.itemsize, dtype.itemsize + 2
            ):
                yield from chain.quantize_passes(source, cast, dtype)
    for target in TARGETS:
        for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
            if target.holds_in_float64 and dtype.itemsize >= target.value_dtype.itemsize:
                yield from chain.decode_passes(target, dtype)


@lru_cache(maxsize=1)
def conversions() -> tuple[tuple[Any, ...], ...]:
    """The facts of every conversion grid, those of one plan together."""
    found = {(one.has, one.plan, one.lane, one.reads, one.writes) for one in passes() if isinstance(one, Pass)}
    return tuple(sorted(found, key=repr))


@lru_cache(maxsize=1)
def others() -> tuple[Kernel, ...]:
    """The grids that are no conversions, and conversions of strided arrays."""
    return tuple(dict.fromkeys(_others()))


def _others() -> Iterator[Kernel]:
    one = chain.encode_passes(chain.FLOAT32, Cast("e4m3", "stochastic"))[0]
    for axes in (1, 2, 3, 6):
        for wide in (False, True):
            yield Kernel(grids.strided_grid, (axes, wide, one.has, one.plan, one.lane, one.reads, one.writes))
    for name in ("uint8", "uint16", "uint32", "uint64"):
        dtype = np.dtype(name)
        yield Kernel(grids.first_nan_grid, (dtype,))
        yield Kernel(grids.largest_code_grid, (dtype,))
        yield Kernel(grids.conversion_grid, ((False,) * 3, one.plan._replace(rounding=0), one.lane, dtype, dtype))
    for lane in (LANE32, LANE64):
        yield Kernel(grids.table_grid, (lane, np.dtype(np.uint8)))
        yield Kernel(grids.table_grid, (lane, np.dtype(np.uint16)))
        yield Kernel(cuda_stats.histogram_grid, (False, lane, np.dtype(lane.code)))
        yield Kernel(cuda_stats.histogram_grid, (True, lane, np.dtype(np.uint16)))
    for cast in (Cast("e4m3"), Cast("e5m2", "stochastic", "saturate"), Cast("e8m0", "up")):
        for source in (chain.FLOAT32, chain.FLOAT16, chain.LANE64):
            for scale in (1.0, 3.0):
                work = host_stats.cast_work(cast, source, host_stats.Scale.of(scale))
                lane_itself = source in (chain.FLOAT32, chain.LANE64) and (
                    source == chain.LANE64 or work.lane == LANE32
                )
                reads = np.dtype(work.lane.code) if lane_itself else source.code_dtype
                yield Kernel(cuda_stats.loss_grid, (not lane_itself, work.plan, work.lane, reads))


@lru_cache(maxsize=1)
def matrix_products() -> dict[Kernel, tuple[Any, ...]]:
    """The grids of all engines that have one, and what they are made of but for plans and the widths of codes."""
    promoting = [promoted(ENGINES[name], 128) for name in ("hopper.wgmma.e4m3.fp32", "ampere.mma.fp16.fp16")]
    found = {}
    for engine in (*ENGINES.values(), *promoting, fp.engines.chain(fp.FloatFormat.ieee(7, 8), inputs="fp16")):
        if isinstance(engine.arithmetic, BlockSum):
            facts = device_matmul.facts_of(engine)
            found[Kernel(cuda_matmul.block_sum_grid, facts)] = facts[:6]
        elif isinstance(engine.arithmetic, Chain):
            facts = device_matmul.facts_of(engine)
            found[Kernel(cuda_matmul.chain_grid, facts)] = facts[:2]
    return found


def arithmetic() -> Iterator[Kernel]:
    """Every operation in both lanes, and what has grids of its own."""
    numbers = dict.fromkeys(one.number for one in host_arithmetic.OPERATIONS.values())
    for cast in (Cast("bf16"), Cast("fp32", "stochastic", random_bits=20)):
        lane, dtype = exact_lane(cast, (cast.format,)), cast.format.code_dtype
        for number in numbers:
            yield Kernel(cuda_arithmetic.operation_grid, (number, exact_plan(cast, lane), lane, (dtype,) * 3, dtype))
    yield Kernel(cuda_arithmetic.relation_grid, ((np.dtype(np.uint8), np.dtype(np.uint16)),))
    yield Kernel(cuda_arithmetic.signs_grid, (np.dtype(np.uint32),))


def each_plan() -> list[Kernel]:
    """One kernel for every plan, with those widths that come first."""
    first = {facts[:3]: facts for facts in reversed(conversions())}
    return [Kernel(grids.conversion_grid, facts) for facts in first.values()]


# ---- compiling -------------------------------------------------------------------------------------------------------
@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makers of grids give back the function and its signature."""
    for module in (grids, cuda_stats, cuda_matmul, cuda_arithmetic):
        monkeypatch.setattr(module, "compiled", lambda function, *signature: (function, types.void(*signature)))


def ptx_of(kernel: Kernel, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> str:
    function, signature = kernel.maker.__wrapped__(*kernel.facts)  # type: ignore[attr-defined]
    # Kernels that call functions ask the driver what the GPU is; there is no driver here.
    there = SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: there)
    ptx, _ = cuda.compile(function, signature, cc=capability, device=False, abi="numba", opt=True)
    return str(ptx)


def linked(ptx: str, capability: tuple[int, int]) -> str:
    """The linker's log."""
    options = [f"-arch=sm_{capability[0]}{capability[1]}", "-verbose", "-Xptxas=-v"]
    handle = nvjitlink.create(len(options), options)
    code = ptx.encode()
    nvjitlink.add_data(handle, nvjitlink.InputType.PTX, code, len(code), "kernel.ptx")
    nvjitlink.complete(handle)
    log = bytearray(nvjitlink.get_info_log_size(handle))
    nvjitlink.get_info_log(handle, log)
    nvjitlink.destroy(handle)
    return log.decode()


FUSED = re.compile(r"\b(fma|mad)\.(rn\.|rz\.|ftz\.|sat\.)*f(16|32|64)")
# A product without a rounding mode is one that the assembler may still contract with the sum it goes into.
LOOSE = re.compile(r"\bmul\.f(16|32|64)")


def faults(kernel: Kernel, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is wrong with a kernel for a compute capability."""
    ptx = ptx_of(kernel, capability, monkeypatch)
    log = linked(ptx, capability)
    found = []
    if {f"f{match[2]}" for match in FUSED.findall(ptx)} - (may_contract(kernel) if is_product(kernel) else set()):
        found.append("a contracted multiply-add")
    if {f"f{width}" for width in LOOSE.findall(ptx)} - may_contract(kernel):
        found.append("a product that might be contracted")
    stores, loads, stack = (
        re.findall(rf"(\d+) bytes {what}", log) for what in ("spill stores", "spill loads", "stack frame")
    )
    if not (stores and loads and stack):
        found.append(f"no word of spills in the log: {log}")
    if any(int(number) for number in (*stores, *loads)):
        found.append("spills")
    if any(int(number) for number in stack):
        found.append("local memory")
    return [f"{kernel.label}, {capability}: {fault}" for fault in found]


def is_product(kernel: Kernel) -> bool:
    """Whether it is of the grids that multiply matrices, where fused multiply-adds are part of the arithmetic."""
    return kernel.maker in (cuda_matmul.block_sum_grid, cuda_matmul.chain_grid)


def may_contract(kernel: Kernel) -> set[str]:
    """In which types a kernel multiplies where a contraction is proved to change nothing.

    Stochastic subnormals (kernels/fixed_shift.py, float32), squares in the histogram (scaled by a power of two), and products that are
    exact (targets/cuda_matmul.py); or that are meant to be fused with a sum.
    """
    if kernel.maker is cuda_matmul.block_sum_grid:
        return {"f32", "f64"}
    if kernel.maker is cuda_matmul.chain_grid:
        kind = kernel.facts[0]
        machine = {f"f{kind[5:7]}"} if kind.endswith("fused") else set()
        return machine if kind.startswith("float") else {"f64"} | ({"f32"} if kind.startswith("short") else set())
    plans = [fact for fact in kernel.facts if hasattr(fact, "rounding")]
    stochastic = any(plan.rounding == STOCHASTIC for plan in plans)
    return ({"f32"} if stochastic else set()) | ({"f64"} if kernel.maker is cuda_stats.histogram_grid else set())


PARTS = 24
SHARE = 3  # the quick test takes one plan in so many


@pytest.mark.parametrize("part", range(PARTS))
def test_plans_compile(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some plans, for one compute capability after another; the exhaustive test takes all of everything."""
    wrong = []
    for number, kernel in list(enumerate(each_plan()[::SHARE]))[part::PARTS]:
        capability = CAPABILITIES[(number + number // PARTS) % len(CAPABILITIES)]
        wrong += faults(kernel, capability, monkeypatch)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
def test_the_other_kernels_compile(capability: tuple[int, int], part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = [fault for kernel in others()[part::4] for fault in faults(kernel, capability, monkeypatch)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("part", range(2))
def test_arithmetic_compiles(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For one compute capability after another."""
    wrong = []
    for number, kernel in list(enumerate(arithmetic()))[part::2]:
        wrong += faults(kernel, CAPABILITIES[(number + number // 11) % len(CAPABILITIES)], monkeypatch)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("part", range(4))
def test_matrix_products_compile(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of each kind, for one compute capability after another."""
    wrong = []
    kinds = {kind: kernel for kernel, kind in matrix_products().items()}
    for number, kernel in list(enumerate(kinds.values()))[part::4]:
        wrong += faults(kernel, CAPABILITIES[(number + number // 4) % len(CAPABILITIES)], monkeypatch)
    assert not wrong, "\n".join(wrong)


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(PARTS))
def test_every_matrix_product_compiles_for_every_capability(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = [(kernel, capability) for kernel in matrix_products() for capability in CAPABILITIES]
    wrong = [fault for kernel, capability in kernels[part::PARTS] for fault in faults(kernel, capability, monkeypatch)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(4 * PARTS))
def test_every_kernel_compiles_for_every_capability(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = []
    for facts in conversions()[part :: 4 * PARTS]:
        for capability in CAPABILITIES:
            wrong += faults(Kernel(grids.conversion_grid, facts), capability, monkeypatch)
    assert not wrong, "\n".join(wrong)


def test_the_checks_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that multiplies and adds, and one that keeps more than there are registers for."""

    def contracted() -> Any:
        def kernel(x: Any, out: Any) -> None:
            i = cuda.grid(1)
            out[i] = x[i] * x[i] + out[i]

        array = types.Array(types.float32, 1, "C")
        return kernel, types.void(array, array)

    def local() -> Any:
        def kernel(x: Any, out: Any) -> None:
            kept = cuda.local.array(64, types.float32)
            for j in range(64):
                kept[j] = x[j]
            out[0] = kept[int(x[0])]

        array = types.Array(types.float32, 1, "C")
        return kernel, types.void(array, array)

    for function, fault in ((contracted, "a contracted multiply-add"), (local, "local memory")):
        function.__wrapped__ = function  # type: ignore[attr-defined]
        found = faults(Kernel(function, ()), (9, 0), monkeypatch)
        assert any(fault in line for line in found), found
    # The machine's products, left to the compiler.
    monkeypatch.setattr(cuda_matmul, "product32", cuda_matmul._product)
    rounded = next(one for one in matrix_products() if one.facts[0] == "float32 rounded")
    assert any("a contracted multiply-add" in line for line in faults(rounded, (9, 0), monkeypatch))


def test_formats_of_every_kind_are_among_the_kernels() -> None:
    """All roundings, both lanes, and every optional stage."""
    found = conversions()
    assert {facts[1].rounding for facts in found} == set(range(len(Rounding)))
    assert {facts[2] for facts in found} == {LANE32, LANE64}
    assert {facts[0] for facts in found} >= {(False, True, False), (True, True, False), (False, True, True)}
    for flag in ("wide", "zeroless", "to_min", "mirrored"):
        assert {getattr(facts[1], flag) for facts in found} == {0, 1}, flag
    assert fp.__version__
