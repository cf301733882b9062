"""Do arrays above 2**17 elements, in any layout, give what their small contiguous pieces give one by one?

Large arrays are cut into chunks, parts of threads and copied pieces; a piece of at most 2**11 elements takes none of these paths.
Random words belong to places in C order, so that stochastic results are part of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from implementations import JIT

import fpemu as fp
from fpemu import scaling

pytestmark = pytest.mark.skipif(not JIT, reason="takes too long without the compiler")

Array = np.ndarray[Any, Any]
PIECE = 1 << 11
SEED, OFFSET = 7, 12345
SOLID = (3, 47, 931)  # 2**17 + 199 elements
SHAPES = (SOLID, ((1 << 17) + 5,), (29, (1 << 18) // 29 + 1), (17, 61681))  # the last: 2**20 + 1


# ---- layouts --------------------------------------------------------------------------------------------------------
def _reversed(x: Array) -> Array:
    every = (slice(None, None, -1),) * x.ndim
    return x[every].copy()[every]


def _strided(x: Array) -> Array:
    held = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    held[..., ::2] = x
    return held[..., ::2]


def _sliced(x: Array) -> Array:
    held = np.zeros([length + 3 for length in x.shape], x.dtype)
    inner = held[(slice(1, -2),) * x.ndim]
    inner[...] = x
    return inner


def _rolled(x: Array) -> Array:
    """The last axis stored first."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, -1, 0)), 0, -1)


def _unaligned(x: Array) -> Array:
    held = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    held[...] = x
    return held


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "C": np.ascontiguousarray, "Fortran": np.asfortranarray, "reversed": _reversed, "strided": _strided,
    "sliced": _sliced, "rolled": _rolled, "unaligned": _unaligned,
}  # fmt: skip


@cache
def values(count: int, which: int = 0, dtype: str = "float32") -> Array:
    """Of many magnitudes, with the special ones at places that no chunk begins at."""
    rng = np.random.default_rng([which, count])
    x = (rng.standard_normal(count) * np.exp2(rng.integers(-30, 20, count))).astype(dtype)
    x[[17, count // 2 + 1, count - 3]] = np.inf, -0.0, -np.inf
    x[[99, count - 2]] = np.nan
    x.flags.writeable = False
    return x


@cache
def codes(count: int, which: int, bits: int) -> Array:
    x = np.random.default_rng([which, count, bits]).integers(0, 1 << bits, count)
    return x.astype(np.uint8 if bits <= 8 else np.uint16)


# ---- element by element ---------------------------------------------------------------------------------------------
STOCHASTIC = fp.Cast("fp16", rounding="stochastic", random_bits=13)
WIDE = fp.FloatFormat.ieee(11, 5)  # its subnormals are none of float32's: decoded by a table, in a pass of its own


def of_values(operation: Callable[..., Any], *dtypes: str) -> Callable[[int], tuple[Callable[..., Any], list[Array]]]:
    return lambda count: (operation, [values(count, place, dtype) for place, dtype in enumerate(dtypes)])


def of_codes(operation: Callable[..., Any], *bits: int) -> Callable[[int], tuple[Callable[..., Any], list[Array]]]:
    return lambda count: (operation, [codes(count, place, width) for place, width in enumerate(bits)])


def _unseeded(operation: Callable[..., Any]) -> Callable[..., Any]:
    """For operations that have nothing random."""
    return lambda *x, seed, offset, **more: operation(*x, **more)


# Every operation on elements: what it is given, and the dtype of what comes back.
ELEMENTS: dict[str, tuple[Callable[[int], tuple[Callable[..., Any], list[Array]]], str]] = {
    "encode": (of_values(lambda x, **more: fp.encode(x, "e4m3", **more), "float32"), "uint8"),
    "encode, stochastic": (of_values(lambda x, **more: fp.encode(x, "bf16", rounding="stochastic", **more), "float32"), "uint16"),
    "encode, via": (of_values(lambda x, **more: fp.encode(x, "e4m3", via="fp16", **more), "float64"), "uint8"),
    "encode, three passes": (
        of_values(lambda x, **more: fp.encode(x, "e5m2", rounding="stochastic", via=STOCHASTIC.replace(via="bf16"), **more), "float64"), "uint8",
    ),
    "quantize": (of_values(lambda x, **more: fp.quantize(x, "e5m2", **more), "float32"), "float32"),
    "quantize, via": (of_values(lambda x, **more: fp.quantize(x, "e4m3", via=STOCHASTIC, **more), "float64"), "float64"),
    "decode": (of_codes(_unseeded(lambda x, **more: fp.decode(x, "e4m3", **more)), 8), "float32"),
    "decode to FP16": (of_codes(_unseeded(lambda x, **more: fp.decode(x, "e5m2", dtype=np.float16, **more)), 8), "float16"),
    "decode by a table": (of_codes(_unseeded(lambda x, **more: fp.decode(x, WIDE, dtype=np.float64, **more)), 16), "float64"),
    "cast": (of_codes(lambda x, **more: fp.cast(x, source="fp16", target="e4m3", **more), 16), "uint8"),
    "cast, stochastic, via": (
        of_codes(lambda x, **more: fp.cast(x, source="bf16", target="e5m2", rounding="stochastic", via=STOCHASTIC, **more), 16), "uint8",
    ),
    "add": (of_codes(lambda a, b, **more: fp.add(a, b, "fp16", **more), 16, 16), "uint16"),
    "add, stochastic": (of_values(lambda a, b, **more: fp.add(a, b, "e4m3", rounding="stochastic", random_bits=12, **more), "float32", "float32"), "float32"),
    "subtract": (of_codes(lambda a, b, **more: fp.subtract(a, b, "e5m2", **more), 8, 8), "uint8"),
    "multiply": (of_codes(lambda a, b, **more: fp.multiply(a, b, "bf16", rounding="stochastic", **more), 16, 16), "uint16"),
    "divide": (of_codes(lambda a, b, **more: fp.divide(a, b, "fp16", **more), 16, 16), "uint16"),
    "sqrt": (of_codes(lambda a, **more: fp.sqrt(a, "fp16", rounding="stochastic", **more), 16), "uint16"),
    "fma": (of_codes(lambda a, b, c, **more: fp.fma(a, b, c, "e4m3", rounding="stochastic", **more), 8, 8, 8), "uint8"),
    "minimum": (of_codes(_unseeded(lambda a, b, **more: fp.minimum(a, b, "fp16", **more)), 16, 16), "uint16"),
    "maximum_number": (of_codes(_unseeded(lambda a, b, **more: fp.maximum_number(a, b, "e4m3", **more)), 8, 8), "uint8"),
    "negate": (of_codes(_unseeded(lambda a, **more: fp.negate(a, "fp16", **more)), 16), "uint16"),
    "absolute": (of_codes(_unseeded(lambda a, **more: fp.absolute(a, "e5m2", **more)), 8), "uint8"),
    "compare": (of_codes(_unseeded(lambda a, b, **more: fp.compare(a, b, "fp16", **more)), 16, 16), "int8"),
}  # fmt: skip


def bits(x: Any) -> Array:
    """For comparing NaNs too."""
    x = np.asarray(x)
    return x.view(f"u{x.dtype.itemsize}") if x.dtype.kind == "f" else x


@cache
def piece_by_piece(name: str, count: int) -> Array:
    operation, operands = ELEMENTS[name][0](count)
    parts = [
        operation(*(x[start : start + PIECE].copy() for x in operands), seed=SEED, offset=OFFSET + start)
        for start in range(0, count, PIECE)
    ]
    return bits(np.concatenate(parts))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ELEMENTS)
def test_elements_in_every_layout(name: str, layout: str) -> None:
    count = int(np.prod(SOLID))
    operation, operands = ELEMENTS[name][0](count)
    laid = [LAYOUTS[layout](x.reshape(SOLID)) for x in operands]
    expected = piece_by_piece(name, count).reshape(SOLID)
    assert np.array_equal(bits(operation(*laid, seed=SEED, offset=OFFSET)), expected)
    ways = list(LAYOUTS)
    other = ways[(ways.index(layout) + 2) % len(ways)]
    out = LAYOUTS[other](np.zeros(SOLID, ELEMENTS[name][1]))
    assert operation(*laid, seed=SEED, offset=OFFSET, out=out) is out
    assert np.array_equal(bits(out.copy()), expected), f"out in layout {other}"


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
@pytest.mark.parametrize(
    "name",
    [
        "encode, stochastic",
        "encode, three passes",
        "quantize, via",
        "decode by a table",
        "cast, stochastic, via",
        "fma",
    ],
)
def test_elements_of_larger_arrays(name: str, shape: tuple[int, ...]) -> None:
    count = int(np.prod(shape))
    operation, operands = ELEMENTS[name][0](count)
    expected = piece_by_piece(name, count).reshape(shape)
    for layout in ("C", "strided", "reversed"):
        laid = [LAYOUTS[layout](x.reshape(shape)) for x in operands]
        assert np.array_equal(bits(operation(*laid, seed=SEED, offset=OFFSET)), expected), layout


@pytest.mark.parametrize("threads", [1, 3])
def test_parts_of_threads(threads: int) -> None:
    before = fp.get_threads()
    count = (1 << 20) + 1
    try:
        fp.set_threads(threads)
        for name in ("encode, three passes", "multiply"):
            operation, operands = ELEMENTS[name][0](count)
            assert np.array_equal(bits(operation(*operands, seed=SEED, offset=OFFSET)), piece_by_piece(name, count)), (
                name
            )
    finally:
        fp.set_threads(before)


# ---- sums -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("axis", [0, 1, 2, None])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sums_along_every_axis(axis: int | None, layout: str) -> None:
    x = np.asarray(fp.encode(values(int(np.prod(SOLID))).clip(-4, 4).reshape(SOLID), "e4m3"))
    how: dict[str, Any] = {"order": "sequential", "rounding": "stochastic", "source": "e4m3", "seed": SEED}
    found = fp.sum(LAYOUTS[layout](x), "fp16", axis=axis, offset=OFFSET, **how)
    rows = (x.reshape(1, -1) if axis is None else np.moveaxis(x, axis, -1)).reshape(
        -1, x.size if axis is None else x.shape[axis]
    )
    if axis is None:  # in pieces, each beginning with the sum before
        total = fp.sum(x.reshape(-1)[:PIECE].copy(), "fp16", offset=OFFSET, **how)
        for start in range(PIECE, x.size, PIECE):
            piece = x.reshape(-1)[start : start + PIECE].copy()
            total = fp.sum(piece, "fp16", initial=total, offset=OFFSET + start, **how)
        assert found == total
        return
    step = max(1, PIECE // rows.shape[1])
    parts = [
        fp.sum(rows[start : start + step].copy(), "fp16", offset=OFFSET + start * rows.shape[1], **how)
        for start in range(0, len(rows), step)
    ]
    assert np.array_equal(found, np.concatenate(parts).reshape(found.shape))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dot_products(layout: str) -> None:
    shape = (291, 451)
    a, b = (codes(shape[0] * shape[1], which, 8).reshape(shape) for which in (0, 1))
    how: dict[str, Any] = {"source": "e4m3", "order": "pairwise", "rounding": "toward-zero"}
    expected = np.concatenate(
        [fp.dot(a[i : i + 4].copy(), b[i : i + 4].copy(), "fp16", **how) for i in range(0, len(a), 4)]
    )
    assert np.array_equal(fp.dot(LAYOUTS[layout](a), LAYOUTS[layout](b), "fp16", **how), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(401, 32, 401), (7, 20001, 5)], ids=str)
def test_products_of_matrices(layout: str, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    engine = "ampere.mma.fp16.fp32"
    a = np.asarray(fp.encode(np.nan_to_num(values(m * k, 3)).clip(-2, 2).reshape(m, k), "fp16"))
    b = np.asarray(fp.encode(np.nan_to_num(values(k * n, 4)).clip(-2, 2).reshape(k, n), "fp16"))
    found = fp.matmul(LAYOUTS[layout](a), LAYOUTS[layout](b), engine=engine)
    rows = [
        fp.matmul(a[i : i + 20].copy(), b[:, j : j + 20].copy(), engine=engine)
        for i in range(0, m, 20)
        for j in range(0, n, 20)
    ]
    across = -(-n // 20)
    expected = np.concatenate([np.concatenate(rows[i : i + across], axis=1) for i in range(0, len(rows), across)])
    assert np.array_equal(found, expected)


# ---- statistics -----------------------------------------------------------------------------------------------------
COUNTS = ("size", "zeros", "nonzero", "nonfinite_in", "new_zero", "new_subnormal", "saturated", "nonfinite_out")


@pytest.mark.parametrize(
    ("shape", "layout"),
    [*((SOLID, layout) for layout in LAYOUTS), *((shape, "strided") for shape in SHAPES[1:])],
    ids=str,
)
def test_statistics_are_those_of_pieces(shape: tuple[int, ...], layout: str) -> None:
    count = int(np.prod(shape))
    flat = values(count)
    finite = np.where(np.isfinite(flat), flat, np.float32(1))
    x = LAYOUTS[layout](finite.reshape(shape))
    parts = [
        fp.tensor_stats(finite[start : start + PIECE].copy(), ["e4m3", "fp16"]) for start in range(0, count, PIECE)
    ]
    whole = fp.tensor_stats(x, ["e4m3", "fp16"])
    for name in ("e4m3", "fp16"):
        for field in COUNTS:
            assert getattr(whole[name], field) == sum(getattr(part[name], field) for part in parts), (name, field)
        assert whole[name].max_relative_error == max(part[name].max_relative_error for part in parts)
    histogram = fp.exponent_histogram(x)
    merged = fp.histogram.merge_histograms(
        [fp.exponent_histogram(finite[s : s + PIECE].copy()) for s in range(0, count, PIECE)]
    )
    assert np.array_equal(histogram.exponents, merged.exponents) and np.array_equal(histogram.counts, merged.counts)
    np.testing.assert_allclose(histogram.energies, merged.energies, rtol=1e-12)
    assert (histogram.size, histogram.zeros, histogram.amax) == (merged.size, merged.zeros, merged.amax)


def test_random_statistics_follow_places() -> None:
    """What is rounded stochastically up or down is decided by the place in C order: counted from the values themselves."""
    count = int(np.prod(SHAPES[-1]))
    x = np.where(np.isfinite(values(count)), values(count), np.float32(1)).reshape(SHAPES[-1])
    cast = fp.Cast("e4m3", rounding="stochastic", overflow="saturate")
    zeros = int(((fp.quantize(x, cast, seed=SEED) == 0) & (x != 0)).sum())
    for layout, lay in LAYOUTS.items():
        assert fp.tensor_stats(lay(x), cast, seed=SEED).rows()[0]["new_zero"] == zeros, layout


# ---- packing and scales ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "width"), [("e2m1", 4), ("e3m2", 6)])
def test_packing(name: str, width: int, layout: str) -> None:
    x = codes(29 * 4521, 0, width).reshape(29, 4521)
    expected = np.stack(
        [np.concatenate([fp.pack(row[s : s + 1200].copy(), name) for s in range(0, 4521, 1200)]) for row in x]
    )
    packed = fp.pack(LAYOUTS[layout](x), name)
    assert np.array_equal(packed, expected)
    assert np.array_equal(fp.unpack(LAYOUTS[layout](expected), name, 4521), x)


ROWS, COLUMNS = 67, 2000  # 134,000 elements


@cache
def matrix() -> Array:
    x = values(ROWS * COLUMNS, 5)
    return np.where(np.isfinite(x), x, np.float32(3)).reshape(ROWS, COLUMNS)


Quantise = Callable[..., scaling.Scaled]


def _nvfp4(x: Array, **more: Any) -> scaling.Scaled:
    return scaling.nvfp4(x, global_scale=2.0**10, **more)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "quantise",
    [
        lambda x, **more: scaling.mx(x, "e4m3", **more),
        lambda x, **more: scaling.mx(x, "e2m1", rule="rceil", rounding="stochastic", **more),
        _nvfp4,
        lambda x, **more: _nvfp4(x, rounding="stochastic", **more),
        lambda x, **more: scaling.tiles(x, "e4m3", (1, 128), **more),
        lambda x, **more: scaling.tiles(x, "e5m2", (1, 128), power_of_two=False, rounding="stochastic", **more),
    ],
    ids=["mx", "mx, stochastic", "nvfp4", "nvfp4, stochastic", "tiles", "tiles, stochastic"],
)
def test_scaled_rows(quantise: Quantise, layout: str) -> None:
    x = matrix()
    rows = [quantise(row[None].copy(), seed=SEED, offset=OFFSET + place * COLUMNS) for place, row in enumerate(x)]
    found = quantise(LAYOUTS[layout](x), seed=SEED, offset=OFFSET)
    for field in ("codes", "scales", "fates"):
        assert np.array_equal(getattr(found, field), np.concatenate([getattr(row, field) for row in rows])), field
    assert np.array_equal(bits(found.dequantize()), bits(np.concatenate([row.dequantize() for row in rows])))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scales_down_columns_of_tiles_and_of_a_tensor(layout: str) -> None:
    x, lay = matrix(), LAYOUTS[layout]
    down = scaling.mx(lay(x), "e2m1", axis=0)
    parts = [scaling.mx(x[:, s : s + 20].copy(), "e2m1", axis=0) for s in range(0, COLUMNS, 20)]
    assert np.array_equal(down.codes, np.concatenate([part.codes for part in parts], axis=1))
    assert np.array_equal(down.scales, np.concatenate([part.scales for part in parts], axis=1))
    square = scaling.tiles(lay(x), "e4m3", (16, 16))
    parts = [
        scaling.tiles(x[s : s + 16, t : t + 16].copy(), "e4m3", (16, 16))
        for s in range(0, ROWS, 16)
        for t in range(0, COLUMNS, 16)
    ]
    assert np.array_equal(square.scales.reshape(-1), np.concatenate([part.scales.reshape(-1) for part in parts]))
    assert np.array_equal(square.codes[16:32, 48:64], parts[125 + 3].codes)
    whole = scaling.per_tensor(lay(x), "e4m3")
    most = x.reshape(-1)[np.abs(x).argmax()]
    beside = [scaling.per_tensor(np.append(row, most), "e4m3").codes[:-1] for row in x]
    assert np.array_equal(whole.codes, np.stack(beside))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [0, 1])
def test_hadamard(layout: str, axis: int) -> None:
    x = values(64 * 2064, 6).clip(-9, 9).reshape(64, 2064)
    x = np.where(np.isfinite(x), x, np.float32(1))
    found = scaling.hadamard(LAYOUTS[layout](x), 16, axis=axis, seed=SEED)
    cut = [x[i : i + 16, j : j + 48].copy() for i in range(0, 64, 16) for j in range(0, 2064, 48)]
    parts = [scaling.hadamard(part, 16, axis=axis, seed=SEED) for part in cut]
    expected = np.concatenate([np.concatenate(parts[i : i + 43], axis=1) for i in range(0, len(parts), 43)])
    assert np.array_equal(bits(found), bits(expected))
