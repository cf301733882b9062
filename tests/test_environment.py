"""Does anything depend on the floating-point modes of the calling thread, or on how many threads there are?

Every public function is called in every rounding mode, with subnormals kept and flushed, in one thread and in several, and in threads that
were started in those modes; results are compared bit by bit, and afterwards the modes are what they were.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from typing import Any

import modes
import numba
import numpy as np
import pytest
from modes import MODES, current, needs_modes, thread_in

import fpemu as fp
from fpemu import histogram, reference, scaling, testing
from fpemu.targets import environment, threads

pytestmark = needs_modes

LARGE = 300 if numba.config.DISABLE_JIT else threads.PARALLEL_FROM + 77
SMALL = 60 if numba.config.DISABLE_JIT else 3000


def numbers(size: int, dtype: str, low: int, seed: int = 0) -> np.ndarray:
    """Numbers of both signs whose exponents reach from deep among the subnormals to 2**6, zeros, infinities and NaN among them."""
    rng = np.random.default_rng(seed)
    x = (
        rng.uniform(1, 2, size) * rng.choice([-1, 1], size) * np.exp2(rng.integers(low, 6, size).astype(float))
    ).astype(dtype)
    x[:5] = 0.0, -0.0, np.inf, -np.inf, np.nan
    return x


def finite(size: int, dtype: str, low: int, seed: int = 0) -> np.ndarray:
    """The same without infinities and NaN."""
    return np.nan_to_num(numbers(size, dtype, low, seed), nan=1.0, posinf=2.0, neginf=-2.0)


SINGLE, DOUBLE, HALF = numbers(LARGE, "float32", -149), numbers(SMALL, "float64", -1074), numbers(SMALL, "float16", -24)
FINITE = finite(48 * 64, "float32", -149).reshape(48, 64)
TINY = (FINITE * np.float32(2.0**-140)).astype(np.float32)  # all subnormal
HUGE = (FINITE / np.abs(FINITE).max(axis=1, keepdims=True) * np.float32(3e38)).astype(np.float32)
WIDE = finite(SMALL, "float64", -1074)
CODES = fp.encode(finite(SMALL, "float32", -20), "fp16")
BYTES = np.arange(256, dtype=np.uint8)
# A format whose values are subnormal in float64, decoded by exact arithmetic.
DEEP = fp.FloatFormat("deep", bits=16, precision=8, bias=1060)
PASSES = [FINITE * np.float32(0.3**k) for k in range(5)]
LOGS = np.log2(np.abs(finite(200, "float64", -30)) + 2.0**-40)
AMAXES, SCALES = np.exp2(LOGS), np.exp2(120 + LOGS)  # (outside: the caller's modes are NumPy's too)


def histogram_of(x: np.ndarray) -> histogram.ExponentHistogram:
    return fp.exponent_histogram(x)


def scaled(q: scaling.Scaled) -> Any:
    return (q, q.dequantize(), q.dequantize(np.float64), q.scale_values(), q.dead, q.clipped, q.single_code)


def compared(x: np.ndarray) -> Any:
    near, far = (fp.errors(x, other, format="e5m2") for other in (fp.quantize(x, "e5m2"), np.zeros_like(x)))
    return near, near.row(), near.merge(far)


def delayed() -> Any:
    state = scaling.DelayedScaling("e4m3", history=3)
    found: list[Any] = []
    for x in PASSES:
        found.append(state.quantize(x))
        state.update()
        found.append((state.scale, state.history))
    return found


def stepped(name: str, overflow: Callable[[int], Any]) -> Any:
    scaler = scaling.loss_scaler(name)
    return [(scaler.step(overflow(k)), scaler.scale, scaler.inverse, scaler.dead_zone) for k in range(60)]


def both(function: Callable[..., Any], *arguments: Any, **more: Any) -> Callable[[], Any]:
    return lambda: function(*arguments, **more)


def unary(name: str) -> dict[str, Callable[[], Any]]:
    return {f"{name} {f}": both(getattr(fp, name), FINITE, f) for f in ("fp16", "e4m3", "bf16")}


def binary(name: str) -> dict[str, Callable[[], Any]]:
    function = getattr(fp, name)
    operands = (FINITE, TINY[:1]) if name != "fma" else (FINITE, TINY[:1], FINITE[:, :1])
    return {f"{name} {f}": both(function, *operands, f) for f in ("fp16", "e4m3", "fp32")} | {
        f"{name} codes": both(function, *(CODES[:64],) * len(operands), "fp16", rounding="toward-zero")
    }


HISTOGRAM, OTHER = histogram_of(WIDE), histogram_of(DOUBLE)
STATS = ("fp16", "bf16", "e4m3", "e5m2")

# name -> call; a name begins with the public function's.
CALLS: dict[str, Callable[[], Any]] = {
    **{f"encode {f}": both(fp.encode, SINGLE, f) for f in ("fp16", "bf16", "e4m3", "e5m2", "tf32")},
    **{f"encode {r}": both(fp.encode, SINGLE, "e4m3", rounding=r) for r in fp.Rounding},
    **{f"encode float64 {f}": both(fp.encode, DOUBLE, f, nan="max" if f == "e2m1" else None) for f in ("fp16", "e2m1", "fp32")},
    "encode float16": both(fp.encode, HALF, "e5m2"),
    "encode via": both(fp.encode, DOUBLE, "e4m3", via="fp16"),
    "encode strided": both(fp.encode, SINGLE[::-3], "bf16"),
    "encode big-endian": both(fp.encode, SINGLE.astype(">f4"), "e4m3"),
    "encode flushed": both(fp.encode, SINGLE, "fp16", subnormals="flush-input"),
    "quantize": both(fp.quantize, SINGLE, "e4m3"),
    "quantize float64": both(fp.quantize, DOUBLE, "bf16"),
    "quantize stochastic": both(fp.quantize, SINGLE, "e5m2", rounding="stochastic", seed=3),
    **{f"decode {f}": both(fp.decode, BYTES, f) for f in ("e4m3", "e5m2", "e8m0", "binary8p3se")},
    "decode float64": both(fp.decode, CODES, "fp16", dtype=np.float64),
    "decode deep": both(fp.decode, np.arange(1 << 15, dtype=np.uint16), DEEP),
    "cast": both(fp.cast, CODES, source="fp16", target="e4m3"),
    "as_ml_dtype": lambda: fp.as_ml_dtype(BYTES, "e4m3").view(np.uint8),
    **{k: v for name in ("add", "subtract", "multiply", "divide", "minimum", "maximum", "minimum_number", "maximum_number", "fma")
       for k, v in binary(name).items()},
    **{k: v for name in ("negate", "absolute", "abs") for k, v in unary(name).items()},
    "sqrt": both(fp.sqrt, np.abs(FINITE), "fp16"),
    "compare": both(fp.compare, TINY, TINY[:1], "fp32"),
    **{f"sum {order}": both(fp.sum, FINITE, "bf16", order=order) for order in ("sequential", "pairwise", "chunked(8)", "kahan")},
    "sum fp32": both(fp.sum, TINY, "fp32"),
    "dot": both(fp.dot, FINITE, TINY, "fp16"),
    "dot fp32": both(fp.dot, FINITE, TINY, "fp32", fma=False),
    **{f"matmul {engine}": both(fp.matmul, FINITE[:20], TINY[:20].T, engine=engine)
       for engine in ("fp16", "bf16", "fp32", "blas.fp32", "b200.mma.fp64.fp64", "hopper.wgmma.fp16.fp32", "volta.mma.fp16.fp32",
                      "hopper.wgmma.tf32.fp32", "hopper.wgmma.e4m3.fp32")},
    "matmul batch": both(fp.matmul, FINITE.reshape(12, 4, 64), TINY.reshape(12, 64, 4), engine="bf16"),
    "explain_dot": lambda: fp.explain_dot(FINITE[0], TINY[0], engine="hopper.wgmma.bf16.fp32").text(),
    **{f"tensor_stats {x.dtype} {scale}": both(fp.tensor_stats, x, STATS, scale)
       for x in (SINGLE, DOUBLE, HALF, WIDE) for scale in (1.0, 2.0**10, 3.7)},
    **{f"errors {x.dtype}": lambda x=x: compared(x)
       for x in (FINITE, TINY, WIDE, HALF)},
    "Scaled.errors": lambda: scaling.mx(TINY, "e4m3").errors(TINY).row(),
    "exponent_histogram": both(fp.exponent_histogram, SINGLE),
    "intersect_bands": lambda: fp.intersect_bands([HISTOGRAM.band(f) for f in STATS]).recommended,
    "histogram": lambda: [HISTOGRAM.energies, HISTOGRAM.energy, HISTOGRAM.merge(OTHER), *[
        (HISTOGRAM.lost_to_zero(f, range(-40, 40)), HISTOGRAM.subnormal_bounds(f, range(-40, 40)),
         HISTOGRAM.saturated_bounds(f, range(-40, 40)), HISTOGRAM.band(f, 0.01)) for f in STATS]],
    "pack": both(fp.pack, BYTES & 15, "e2m1"),
    "unpack": both(fp.unpack, BYTES, "e2m1"),
    **{f"mx {rule}": lambda rule=rule: scaled(scaling.mx(TINY, "e2m1", rule=rule)) for rule in scaling.ScaleRule},
    "mx large": lambda: scaled(scaling.mx(SINGLE[: SINGLE.size // 32 * 32], "e4m3")),
    "mx axis": lambda: scaled(scaling.mx(WIDE[:960].reshape(32, -1), "e4m3", axis=0)),
    "nvfp4": lambda: scaled(scaling.nvfp4(FINITE)),
    **{f"nvfp4 {rule.value}": lambda rule=rule: [scaled(scaling.nvfp4(x, rule=rule, scale_format=to))
        for x in (FINITE, TINY, TINY * np.float32(0)) for to in ("e4m3", "ue5m3")] for rule in scaling.NVFP4Rule},
    "nvfp4 tiny": lambda: scaled(scaling.nvfp4(TINY, (16, 16), four_over_six=True, rounding="stochastic", seed=1)),
    "tiles": lambda: scaled(scaling.tiles(FINITE, "e4m3", (1, 16), power_of_two=False)),
    "tiles tiny": lambda: scaled(scaling.tiles(TINY, "e5m2", (16, 16))),
    "tiles torchao": lambda: scaled(scaling.tiles(TINY, "e4m3", (1, 16), rule="torchao")),
    "tiles small": lambda: scaled(scaling.tiles(HUGE, "binary4p3se", (1, 16))),
    "per_tensor": lambda: scaled(scaling.per_tensor(FINITE, "e4m3")),
    "per_tensor tiny": lambda: scaled(scaling.per_tensor(TINY, "e5m2")),
    "DelayedScaling": delayed,
    **{f"hadamard {x.dtype}": lambda x=x: [h := scaling.hadamard(x, 8, seed=2), scaling.hadamard(h, 8, seed=2, inverse=True)]
       for x in (FINITE, TINY, WIDE[:480])},
    "loss_scaler torch": lambda: stepped("torch", lambda k: k % 7 == 0),
    "loss_scaler jmp": lambda: stepped("jmp", lambda k: k % 2 == 0),
    "loss_scaler logmax": lambda: stepped("logmax", lambda k: float(LOGS[k])),
    "simulate": lambda: (r := scaling.simulate("torch", LOGS), r.summary()),
    "Recording": lambda: [(r := scaling.Recording.of_magnitudes(AMAXES, SCALES, LOGS > 0)), r.bounds("bf16"),
                          scaling.simulate("torch", r, undetermined="overflow")],
    "tournament": lambda: scaling.tournament(["torch", "deepspeed"], LOGS),
    "FORMATS": lambda: [[f.max, f.min, f.smallest_normal, f.smallest_subnormal, f.eps, repr(f)]
                        for f in (*fp.FORMATS.values(), DEEP) if f.holds_in_float64],
    "reference": lambda: [[reference.as_float(reference.value(c, f)) for c in range(0, 1 << f.bits, 7)]
                          for f in (fp.FORMATS["e4m3"], fp.FORMATS["binary8p1se"])],
    "reference explain": lambda: [str(reference.explain(x, fp.Cast("fp16"))) for x in (0.1, 5e-324, 1e-40, 65519.9)],
}  # fmt: skip

# Of fpemu and fpemu.scaling, what computes nothing: data, text, files, settings.
WITHOUT = {"load", "save", "get_threads", "set_threads"}


def bits(x: Any) -> Iterator[bytes]:
    """All that a result is, as bytes."""
    if isinstance(x, np.ndarray | np.generic):
        array = np.asarray(x)
        yield f"{array.dtype.str}{array.shape}".encode()
        yield from bits(array.tolist()) if array.dtype == object else (array.tobytes(),)
    elif dataclasses.is_dataclass(x) and not isinstance(x, type):
        for field in dataclasses.fields(x):
            yield from bits(getattr(x, field.name))
        if isinstance(x, fp.TensorStats):
            yield from bits([*x, repr(x)])
    elif isinstance(x, Mapping):
        yield from bits(list(x.items()))
    elif isinstance(x, list | tuple):
        for one in x:
            yield from bits(one)
    else:
        yield np.float64(x).tobytes() if isinstance(x, float) else repr(x).encode()


def digest(x: Any) -> str:
    hashed = hashlib.sha256()
    for piece in bits(x):
        hashed.update(piece)
    return hashed.hexdigest()


@pytest.fixture(autouse=True)
def _threads(threads: None) -> None:
    """Puts their number back."""


@pytest.mark.nojit
@pytest.mark.parametrize("name", ["encode fp16", "encode float16", "quantize", "decode e4m3", "cast", "pack"])
def test_kernels_as_python_do_not_depend_on_modes(name: str) -> None:
    right = digest(CALLS[name]())
    for modes_of in ("up FTZ+DAZ", "toward-zero keep"):
        with thread_in(MODES[modes_of]):
            got = CALLS[name]()
        assert digest(got) == right, modes_of


# Each rounding direction, each way to flush, one thread and two.
SOME = (("up FTZ+DAZ", 1), ("down keep", 2), ("toward-zero DAZ", 1), ("nearest FTZ", 2), ("up FTZ+DAZ", 2))


def depends_not(name: str, combinations: Iterable[tuple[str, int]]) -> None:
    call = CALLS[name]
    fp.set_threads(1)
    right = digest(call())
    for named, count in combinations:
        fp.set_threads(count)
        with thread_in(MODES[named]):
            got, left = call(), current()
        assert left == environment.REGISTER.default | MODES[named], "the caller's modes are not what they were"
        assert digest(got) == right, (named, count)


@pytest.mark.parametrize("name", CALLS)
def test_no_result_depends_on_modes_or_threads(name: str) -> None:
    depends_not(name, SOME)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CALLS)
def test_no_result_depends_on_any_mode(name: str) -> None:
    depends_not(name, product(MODES, (1, 2)))


@pytest.mark.parametrize(
    "name", [name for name in CALLS if name.split()[0] in ("encode", "tensor_stats", "matmul", "mx", "quantize")]
)
def test_threads_that_were_started_in_other_modes_do_not_keep_them(name: str) -> None:
    fp.set_threads(1)
    right = digest(CALLS[name]())
    threads._pool.cache_clear()
    fp.set_threads(2)
    with thread_in(MODES["up FTZ+DAZ"]):
        CALLS[name]()
    assert digest(CALLS[name]()) == right


def test_threads_of_ours_begin_in_the_default_modes() -> None:
    threads._pool.cache_clear()
    fp.set_threads(2)
    with thread_in(MODES["up FTZ+DAZ"]):
        seen = threads.map_parts(lambda _: current(), list(range(8)))
    assert set(seen) == {environment.REGISTER.default}


@pytest.mark.parametrize("name", CALLS)
def test_no_result_depends_on_numpys_error_state(name: str) -> None:
    """Overflow, underflow and NaN are what the library is about: they are no errors of its own steps."""
    right = digest(CALLS[name]())
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert digest(CALLS[name]()) == right


def test_every_public_function_is_tried() -> None:
    functions = {
        name for module in (fp, scaling) for name in module.__all__ if inspect.isroutine(getattr(module, name))
    }
    assert not functions - WITHOUT - {name.split()[0] for name in CALLS}


def test_a_function_that_raises_puts_the_modes_back() -> None:
    for call in (
        lambda: fp.encode(np.array([np.nan]), "e2m1"),
        lambda: fp.add(1.0, 2.0, "nonsense"),
        lambda: scaling.mx(1.0, "e4m3"),
    ):
        with thread_in(MODES["up FTZ+DAZ"]):
            with pytest.raises(ValueError, match=r"NaN|unknown|dimension|axis"):
                call()
            assert current() == environment.REGISTER.default | MODES["up FTZ+DAZ"]


def test_the_callers_own_function_is_called_in_its_modes() -> None:
    """A tester judges what a converter does where it is called; what is right does not depend on it."""
    seen = []

    def convert(x: np.ndarray) -> np.ndarray:
        seen.append(current())
        return fp.encode(x, "e4m3")

    calls = [
        lambda: testing.check_conversion(convert, "e4m3", source="float16").conforms,
        lambda: testing.check_roundtrip(lambda c: fp.decode(c, "e4m3"), lambda x: (seen.append(current()), fp.encode(x, "e4m3"))[1], "e4m3").conforms,
        lambda: testing.check_stochastic(
            lambda x: (seen.append(current()), fp.encode(x, "e4m3", rounding="stochastic"))[1], "e4m3", draws=256
        ).conforms,
    ]  # fmt: skip
    for call in calls:
        seen.clear()
        with thread_in(MODES["up FTZ+DAZ"]):
            conforms, left = call(), current()
        assert conforms
        assert {*seen, left} == {environment.REGISTER.default | MODES["up FTZ+DAZ"]}


def test_a_function_that_leaves_other_modes_behind_is_judged_all_the_same() -> None:
    def convert(x: np.ndarray) -> np.ndarray:
        codes = fp.encode(x, "e4m3")
        modes._set(MODES["down FTZ+DAZ"])
        return codes

    try:
        report = testing.check_conversion(convert, "e4m3", source="float32")
        left = current()
    finally:
        modes._set(0)
    assert report.conforms and left == environment.REGISTER.default


def test_a_library_whose_threads_flush_is_noticed() -> None:
    """BLAS starts its threads when NumPy is loaded, in the modes of that moment, and they keep them."""
    program = """
import ctypes
library, words = ctypes.PyDLL(None), (ctypes.c_uint32 * 16)()
library.fegetenv(words); words[7] = 0xDFC0; library.fesetenv(words)
import numpy as np
words[7] = 0x1F80; library.fesetenv(words)
import fpemu as fp
a = np.full((512, 512), 700_000, np.uint32).view(np.float32)
print((fp.matmul(a, np.eye(512, dtype=np.float32), engine="blas.fp32") == a).all())
"""
    several = os.environ | {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True, env=several
    )
    assert run.stdout.split() == ["True"]


def test_the_guard_on_arm_moves_its_control_register(monkeypatch: pytest.MonkeyPatch) -> None:
    """No such machine is needed: LLVM compiles for it."""
    from llvmlite import binding, ir

    monkeypatch.setattr(environment.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(environment, "REGISTER", environment._register())
    module = ir.Module()
    module.triple = "aarch64-unknown-linux-gnu"
    function = ir.Function(module, ir.FunctionType(ir.IntType(32), []), "swap")
    builder = ir.IRBuilder(function.append_basic_block())
    word = environment._read_word(builder)
    environment._write_word(builder, word.type(0x01000000))
    builder.ret(word)

    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    machine = binding.Target.from_triple(module.triple).create_target_machine()
    assembly = machine.emit_assembly(binding.parse_assembly(str(module))).lower()
    assert assembly.index("mrs\tx") < assembly.index("msr\tfpcr, x"), assembly
