"""Arrays: any layout gives the same codes, outputs are checked, overlap is safe, bad input is told what to do."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
import pytest
from implementations import JIT

import fpemu as fp
from fpemu import FORMATS, Cast
from fpemu.targets import threads as threading

Array = np.ndarray[Any, Any]
FLOATS = ("float16", "float32", "float64")


@pytest.fixture(scope="module")
def base() -> Array:
    """6 x 10 values over many binades, zeros of both signs among them."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 10)) * 2.0 ** rng.integers(-12, 10, (6, 10))
    x[0, :3] = 0.0, -0.0, 448.0
    return x.astype(np.float32)


# ---- layouts ---------------------------------------------------------------------------------------------------------
def _spread(x: Array) -> Array:
    wide = np.full(tuple(2 * n + 1 for n in x.shape), 7, x.dtype)
    view = wide[tuple(slice(None, 2 * n, 2) for n in x.shape)]
    view[...] = x
    return view


def _misaligned(x: Array) -> Array:
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:]
    view = raw.view(x.dtype).reshape(x.shape)
    view[...] = x
    assert not view.flags.aligned
    return view


def _read_only(x: Array) -> Array:
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "strided": _spread,
    "reversed": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "Fortran": np.asfortranarray,
    "transposed twice": lambda x: np.ascontiguousarray(x.T).T,
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "big-endian strided": lambda x: _spread(x.astype(x.dtype.newbyteorder(">"))),
    "misaligned": _misaligned,
    "read-only": _read_only,
    "field of records": lambda x: _in_record(x),
    "broadcast row": lambda x: np.broadcast_to(x[:1], x.shape),
}


def _in_record(x: Array) -> Array:
    records = np.zeros(x.shape, [("tag", np.uint8), ("value", x.dtype)])
    records["value"] = x
    return records["value"]


@pytest.mark.nojit
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_layouts_of_inputs(base: Array, layout: str, dtype: str) -> None:
    x = base.astype(dtype)
    given = LAYOUTS[layout](x)
    same = np.ascontiguousarray(given).astype(x.dtype)
    kept = given.copy()
    right = fp.encode(same, "e4m3")
    codes = fp.encode(given, "e4m3")
    assert codes.dtype == np.uint8
    assert codes.shape == given.shape
    np.testing.assert_array_equal(codes, right)
    np.testing.assert_array_equal(fp.quantize(given, "e5m2"), fp.quantize(same, "e5m2"))
    np.testing.assert_array_equal(given, kept, err_msg="inputs are left alone")


@pytest.mark.nojit
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_codes(base: Array, layout: str) -> None:
    for name, target in (("float8_e4m3fn", "float16"), ("bfloat16", "e4m3"), ("float32", "bf16")):
        codes = fp.encode(base, name)
        if layout == "misaligned" and codes.itemsize == 1:
            continue
        given = LAYOUTS[layout](codes)
        same = np.ascontiguousarray(given).astype(codes.dtype)
        np.testing.assert_array_equal(fp.decode(given, name), fp.decode(same, name))
        np.testing.assert_array_equal(
            fp.cast(given, source=name, target=target), fp.cast(same, source=name, target=target)
        )


@pytest.mark.nojit
def test_zero_dimensions_give_scalars() -> None:
    for x in (1.1, np.float32(1.1), np.float16(1.1), np.array(1.1)):
        code = fp.encode(x, "e4m3")
        assert isinstance(code, np.uint8)
        assert code == 0x39
        value = fp.quantize(x, "e4m3")
        assert value == 1.125
        assert value.dtype == np.asarray(x).dtype
    assert isinstance(fp.decode(np.uint8(0x39), "e4m3"), np.float32)
    assert fp.decode(0x39, "e4m3") == 1.125
    assert fp.cast(np.uint8(0x39), source="e4m3", target="fp16") == 0x3C80
    out = np.zeros((), np.uint8)
    fp.encode(1.1, "e4m3", out=out)
    assert out == 0x39


@pytest.mark.nojit
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0, 2)])
def test_empty_arrays(shape: tuple[int, ...]) -> None:
    for dtype in FLOATS:
        x = np.zeros(shape, dtype)
        assert fp.encode(x, "bf16").shape == shape
        assert fp.encode(x, "bf16").dtype == np.uint16
        assert fp.quantize(x, "e2m1", rounding="stochastic").dtype == dtype
    assert fp.decode(np.zeros(shape, np.uint8), "e4m3").dtype == np.float32
    assert fp.encode([], "e4m3").shape == (0,)
    assert fp.decode([], "e4m3").shape == (0,)


@pytest.mark.nojit
def test_lists_and_python_floats() -> None:
    assert fp.encode([1.0, 1.1, -2.0], "e4m3").tolist() == [0x38, 0x39, 0xC0]
    assert fp.quantize([[1.0], [1.1]], "e4m3").tolist() == [[1.0], [1.125]]
    assert fp.decode([0x38, 0xC0], "e4m3").tolist() == [1.0, -2.0]


# ---- dtypes of results -----------------------------------------------------------------------------------------------
@pytest.mark.nojit
def test_dtypes_of_codes_and_values() -> None:
    x = np.ones(2)
    for name, bits in (("e2m1", 8), ("e4m3", 8), ("fp16", 16), ("binary9p3se", 16), ("tf32", 32), ("fp32", 32)):
        assert fp.encode(x, name).dtype == np.dtype(f"uint{bits}")
    assert fp.decode(fp.encode(x, "binary14p8se"), "binary14p8se").dtype == np.float32
    assert fp.decode(fp.encode(x, "binary14p4se"), "binary14p4se").dtype == np.float64


@pytest.mark.nojit
def test_quantize_keeps_a_dtype_that_holds_the_format() -> None:
    half = np.array([1.0001, 3.3], np.float16)
    assert fp.quantize(half, "e4m3").dtype == np.float16
    with pytest.raises(ValueError, match=r"float16 cannot hold every finite value of bfloat16: pass dtype=np\.float32"):
        fp.quantize(half, "bf16")
    assert fp.quantize(half, "bf16", dtype=np.float32).tolist() == [1.0, 3.296875]
    with pytest.raises(
        ValueError, match=r"float32 cannot hold every finite value of binary13p3se: pass dtype=np\.float64"
    ):
        fp.quantize(np.float32(1), "binary13p3se")
    with pytest.raises(ValueError, match="float64 cannot hold"):
        fp.quantize(1.0, "binary16p1se")


# ---- out= ------------------------------------------------------------------------------------------------------------
@pytest.mark.nojit
def test_out_is_written_and_returned(base: Array) -> None:
    right = fp.encode(base, "e4m3")
    for out in (
        np.empty(base.shape, np.uint8),
        np.empty(base.shape, np.uint8, order="F"),
        _spread(np.zeros_like(right)),
    ):
        assert fp.encode(base, "e4m3", out=out) is out
        np.testing.assert_array_equal(out, right)
    values = np.empty(base.shape, np.float32)
    assert fp.decode(right, "e4m3", out=values) is values
    np.testing.assert_array_equal(values, fp.decode(right, "e4m3"))
    assert fp.cast(right, source="e4m3", target="fp16", out=np.empty(base.shape, np.uint16)).dtype == np.uint16


@pytest.mark.nojit
def test_out_between_elements_is_left_alone(base: Array) -> None:
    frame = np.full((12, 20), 9, np.uint8)
    fp.encode(base, "e4m3", out=frame[::2, ::2])
    assert (frame[1::2] == 9).all()
    assert (frame[:, 1::2] == 9).all()


@pytest.mark.nojit
def test_in_place(base: Array) -> None:
    for dtype in FLOATS:
        for x in (base.astype(dtype), np.asfortranarray(base.astype(dtype)), _spread(base.astype(dtype))):
            right = fp.quantize(x, "e4m3")
            assert fp.quantize(x, "e4m3", out=x) is x
            np.testing.assert_array_equal(x, right)
    codes = fp.encode(base, "e4m3")
    right = fp.cast(codes, source="e4m3", target="e5m2")
    np.testing.assert_array_equal(fp.cast(codes, source="e4m3", target="e5m2", out=codes), right)


@pytest.mark.nojit
@pytest.mark.parametrize("shift", [-3, -1, 1, 2, 5])
def test_overlapping_input_and_output(shift: int) -> None:
    """An output that overlaps the input elsewhere than element on element."""
    n = 3000 if JIT else 200
    memory = np.random.default_rng(1).standard_normal(n + 10).astype(np.float32)
    x = memory[5 : 5 + n]
    right = fp.quantize(x.copy(), "e4m3")
    out = memory[5 + shift : 5 + shift + n]
    fp.quantize(x, "e4m3", out=out)
    np.testing.assert_array_equal(out, right)


@pytest.mark.nojit
def test_overlap_of_different_widths_and_directions() -> None:
    memory = np.random.default_rng(2).standard_normal(400).astype(np.float32)
    right = fp.encode(memory.copy(), "bf16")
    out = memory.view(np.uint16)[:400]
    fp.encode(memory, "bf16", out=out)
    np.testing.assert_array_equal(out, right)
    x = np.random.default_rng(3).standard_normal(400)
    right = fp.quantize(x.copy(), "e4m3")
    fp.quantize(x, "e4m3", out=x[::-1])
    np.testing.assert_array_equal(x[::-1], right)


@pytest.mark.nojit
def test_bad_outputs(base: Array) -> None:
    read_only = np.empty(base.shape, np.uint8)
    read_only.flags.writeable = False
    cases: list[tuple[Any, type[Exception], str]] = [
        (np.empty(base.shape, np.uint16), TypeError, "out must have dtype uint8, not uint16"),
        (np.empty(base.shape, np.int8), TypeError, "out must have dtype uint8, not int8"),
        (np.empty((10, 6), np.uint8), ValueError, r"out must have shape \(6, 10\), not \(10, 6\)"),
        (np.empty(60, np.uint8), ValueError, r"out must have shape \(6, 10\), not \(60,\)"),
        ([0] * 60, TypeError, "out must be a NumPy array, not list"),
        (read_only, ValueError, "out is read-only"),
    ]
    for out, error, message in cases:
        with pytest.raises(error, match=message):
            fp.encode(base, "e4m3", out=out)
    with pytest.raises(TypeError, match="out must have dtype float32, not >f4"):
        fp.quantize(base, "e4m3", out=np.empty(base.shape, ">f4"))
    with pytest.raises(TypeError, match="out must have dtype float32, not float64"):
        fp.quantize(base, "e4m3", out=np.empty(base.shape))


# ---- threads and sizes -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [threading.PARALLEL_FROM - 1, threading.PARALLEL_FROM, threading.PARALLEL_FROM + 1013])
def test_threads_do_not_matter(size: int, threads: None) -> None:
    x = np.random.default_rng(6).standard_normal(size) * 2.0 ** np.random.default_rng(7).integers(-30, 20, size)
    jobs: list[Callable[[], Array]] = [
        lambda: fp.encode(x, "fp16"),
        lambda: fp.encode(x.astype(np.float32), "e4m3", rounding="up"),
        lambda: fp.encode(x.astype(np.float32), "binary12p5se"),
        lambda: fp.quantize(x, "bf16"),
        lambda: fp.quantize(x.astype(np.float16), "e5m2", dtype=np.float64),
        lambda: fp.decode((np.arange(size) % 65536).astype(np.uint16), "bf16"),
        lambda: fp.cast((np.arange(size) % 256).astype(np.uint8), source="e4m3", target="e5m2"),
    ]
    for job in jobs:
        results = []
        for count in (1, 2, 3, 4):
            threading.set_threads(count)
            results.append(job().tobytes())
        assert len(set(results)) == 1


@pytest.mark.skipif(not JIT, reason="nothing is written past the cache without the compiler")
@pytest.mark.parametrize("shift", [0, 1, 5, 63])
def test_writing_past_the_cache_does_not_matter(shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that begin anywhere in a cache line, and end anywhere in a strip."""
    from fpemu.targets import host

    size = host.CHUNK + 4099
    x = np.random.default_rng(9).standard_normal(size).astype(np.float32)
    wide = x.astype(np.float64)
    e5m2 = (np.arange(size) % 256).astype(np.uint8)
    jobs: list[tuple[type, Callable[[Array], Array]]] = [
        (np.uint8, lambda out: fp.encode(x, "e4m3", out=out)),
        (np.uint8, lambda out: fp.encode(x, "e4m3", rounding="stochastic", seed=3, offset=11, out=out)),
        (np.uint16, lambda out: fp.encode(x, "bf16", rounding="down", out=out)),
        (np.uint16, lambda out: fp.encode(wide, "fp16", via="float32", out=out)),
        (np.uint8, lambda out: fp.cast(e5m2, source="e5m2", target="e4m3", out=out)),
        (np.float32, lambda out: fp.decode(e5m2, "e5m2", out=out)),
        (np.float64, lambda out: fp.quantize(wide, "e5m2", out=out)),
    ]
    for dtype, job in jobs:
        results = []
        for limit in (2**62, 0):
            monkeypatch.setattr(host, "STREAM_FROM", limit)
            memory = np.full(size + shift + 70, 99, dtype)
            job(memory[shift : shift + size])
            assert np.all(memory[:shift] == 99) and np.all(memory[shift + size :] == 99)
            results.append(memory.tobytes())
        assert results[0] == results[1]


@pytest.mark.nojit
def test_boxes_follow_each_other() -> None:
    from fpemu.targets.walk import boxes

    for shape in [(), (0,), (7,), (0, 3), (3, 0), (5, 4), (2, 3, 4), (3, 1, 5, 2), (1, 1, 9), (9, 1, 1)]:
        places = np.arange(math.prod(shape)).reshape(shape)
        for most in (1, 2, 3, 4, 6, 7, 12, 100):
            pieces = [(first, places[index].reshape(-1)) for first, index in boxes(shape, most)]
            assert all(piece.size <= most for _, piece in pieces)
            assert all(piece.size == 0 or piece[0] == first for first, piece in pieces)
            together = np.concatenate([np.zeros(0, int), *(piece for _, piece in pieces)])
            np.testing.assert_array_equal(together, places.reshape(-1))


@pytest.mark.nojit
@pytest.mark.parametrize("rounding", ["nearest-even", "stochastic"])
def test_fortran_order_in_and_out(base: Array, rounding: str) -> None:
    """A Fortran-ordered array gives a Fortran-ordered result; random bits go by the index in C order all the same."""
    right = fp.encode(base, "e4m3", rounding=rounding, seed=5)
    got = fp.encode(np.asfortranarray(base), "e4m3", rounding=rounding, seed=5)
    assert got.flags.f_contiguous and not got.flags.c_contiguous
    np.testing.assert_array_equal(got, right)


def test_large_arrays_are_small_arrays_put_together() -> None:
    """Beyond the sizes where work is split, walked in chunks, and done by frozen kernels."""
    from fpemu.targets import host

    n = host.FREEZE_FROM + 7
    bits = np.random.default_rng(8).integers(0, 2**32, n, dtype=np.uint32)
    for x in (
        bits.view(np.float32),
        np.repeat(bits, 2)[: 2 * n].view(np.float64),
        bits.astype(np.uint16).view(np.float16),
    ):
        with np.errstate(all="ignore"):
            for cast in (
                Cast("e4m3"),
                Cast("bf16", "to-odd", "saturate"),
                Cast("binary11p3se", subnormals="round-to-min"),
            ):
                whole = fp.encode(x, cast)
                parts = [fp.encode(x[i : i + 50_021], cast) for i in range(0, n, 50_021)]
                np.testing.assert_array_equal(whole, np.concatenate(parts))
                np.testing.assert_array_equal(fp.encode(x[::-1], cast), whole[::-1])


def test_set_threads_refuses() -> None:
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"count must be at least 1, not {wrong}"):
            threading.set_threads(wrong)
    for wrong in (1.5, True, "2"):
        with pytest.raises(TypeError, match="count must be an int or None"):
            threading.set_threads(wrong)  # type: ignore[arg-type]


@pytest.mark.nojit
def test_split_covers_the_range_once() -> None:
    for size in (0, 1, 63, 64, 65, 1000, 4096):
        for parts in (1, 2, 3, 7):
            for unit in (1, 64):
                cuts = threading.split(size, parts, unit)
                assert [i for start, stop in cuts for i in range(start, stop)] == list(range(size))
                assert len(cuts) <= parts
                assert all(start % unit == 0 for start, _ in cuts)


# ---- ml_dtypes -------------------------------------------------------------------------------------------------------
ML = [name for name in FORMATS if not name.startswith("binary") and name not in ("float32", "tfloat32", "float16")]


@pytest.mark.nojit
@pytest.mark.parametrize("name", ML)
def test_ml_dtypes_arrays_bring_their_format(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    format, dtype = FORMATS[name], np.dtype(getattr(ml_dtypes, name))
    codes = np.arange(min(1 << format.bits, 512), dtype=format.code_dtype)
    theirs = codes.view(dtype)
    np.testing.assert_array_equal(fp.decode(theirs), fp.decode(codes, name))
    np.testing.assert_array_equal(fp.decode(theirs, name), fp.decode(codes, name))
    nan = "canonical"
    np.testing.assert_array_equal(fp.cast(theirs, target="fp32", nan=nan), fp.cast(codes, source=name, target="fp32"))
    np.testing.assert_array_equal(fp.encode(theirs, "fp32"), fp.cast(codes, source=name, target="fp32"))
    np.testing.assert_array_equal(fp.encode(theirs[::-3], "fp32"), fp.cast(codes[::-3], source=name, target="fp32"))
    back = fp.as_ml_dtype(codes, name)
    assert back.dtype == dtype
    assert np.shares_memory(back, codes)
    other = "e4m3" if name != "float8_e4m3fn" else "e5m2"
    with pytest.raises(ValueError, match=f"the array holds codes of {name}, not of {FORMATS[other].name}"):
        fp.decode(theirs, other)


@pytest.mark.nojit
def test_views_as_dtypes() -> None:
    assert fp.as_ml_dtype(np.array([0x3C00], np.uint16), "fp16").dtype == np.float16
    assert fp.as_ml_dtype(np.array([0x3F800000], np.uint32), "fp32")[0] == 1.0
    pytest.importorskip("ml_dtypes")
    with pytest.raises(ValueError, match="ml_dtypes has no dtype for binary8p3se"):
        fp.as_ml_dtype(np.array([1], np.uint8), "binary8p3se")


# ---- bad inputs ------------------------------------------------------------------------------------------------------
VALUES: list[tuple[Any, str]] = [
    (np.array([1, 2]), r"values of dtype int64 are not taken: convert with x.astype\(np.float64\).*or use decode\(\)"),
    (np.array([1], np.uint8), "values of dtype uint8 are not taken"),
    ([1, 2], "values of dtype int64 are not taken"),
    (3, "an int is not taken as a value: write it as a float, or decode"),
    (np.array([1], np.longdouble), "are not taken: round it to float64 yourself"),
    (np.array([1j]), "values of dtype complex128 are not taken: convert x.real and x.imag"),
    (np.array([True]), "values of dtype bool are not taken"),
    (np.array(["1.0"]), "values of dtype <U3 are not taken"),
    (np.array([None]), "values of dtype object are not taken"),
    (np.array([Fraction(1, 3)]), "values of dtype object are not taken"),
    ([[1.0], [1.0, 2.0]], "list is not an array of floating-point values"),
    (np.ma.array([1.0], mask=[True]), "masked arrays are not taken"),
]


@pytest.mark.skipif(find_spec("numba_cuda") is not None, reason="numba-cuda is installed")
def test_an_array_on_a_gpu_without_numba_cuda() -> None:
    class OnGpu:
        __cuda_array_interface__: ClassVar = {"shape": (1,), "typestr": "<f4", "data": (0, False), "version": 3}

    for function in (fp.encode, fp.quantize, fp.decode):
        with pytest.raises(
            TypeError, match=r"arrays on a GPU need numba-cuda: pip install 'fpemu\[cuda\]', or copy them"
        ):
            function(OnGpu(), "e4m3")


@pytest.mark.nojit
@pytest.mark.parametrize("index", range(len(VALUES)), ids=lambda i: type(VALUES[i][0]).__name__ + str(i))
def test_bad_values(index: int) -> None:
    x, message = VALUES[index]
    if isinstance(x, np.ndarray) and x.dtype == np.longdouble and np.longdouble is np.float64:
        pytest.skip("longdouble is float64 here")
    for function in (fp.encode, fp.quantize):
        with pytest.raises(TypeError, match=message):
            function(x, "e4m3")


@pytest.mark.nojit
def test_bad_codes() -> None:
    with pytest.raises(
        TypeError, match=r"format is needed: only ml_dtypes arrays and torch.s FP8 and bfloat16 tensors bring"
    ):
        fp.decode(np.array([1], np.uint8))
    with pytest.raises(
        TypeError, match=r"codes of float8_e4m3fn are uint8 integers, not float64; encode\(\) makes them"
    ):
        fp.decode(np.array([1.0]), "e4m3")
    with pytest.raises(ValueError, match="float8_e4m3fn has codes 0 to 0xff; found 1 to 0x100"):
        fp.decode(np.array([1, 256]), "e4m3")
    with pytest.raises(ValueError, match="float4_e2m1fn has codes 0 to 0xf; found 16 to 0x10"):
        fp.decode(np.array([16], np.uint8), "e2m1")
    with pytest.raises(ValueError, match="found -1 to"):
        fp.decode(np.array([-1]), "e4m3")
    with pytest.raises(TypeError, match="dtype must be float16, float32 or float64 in native byte order, not int32"):
        fp.decode(np.array([1], np.uint8), "e4m3", dtype=np.int32)
    with pytest.raises(ValueError, match="float64 cannot hold"):
        fp.decode(np.array([1], np.uint16), "binary16p1se")
    with pytest.raises(ValueError, match="float64 cannot hold"):
        fp.cast(np.array([1], np.uint16), source="binary16p1se", target="e4m3")


@pytest.mark.nojit
def test_unhashable_arguments_are_refused_clearly() -> None:
    with pytest.raises((TypeError, ValueError)) as error:
        fp.encode(1.0, ["e4m3"])  # type: ignore[arg-type]
    assert "a format is a name, a FloatFormat or a dtype, not list" in str(error.value)
    with pytest.raises((TypeError, ValueError)) as error:
        fp.encode(1.0, "e4m3", rounding=["up"])  # type: ignore[arg-type]
    assert "unknown rounding ['up']; valid: nearest-even" in str(error.value)
