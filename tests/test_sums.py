"""Is every sum and dot product the one that its accumulator, order and rounding of products define, bit by bit?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_stochastic import word

import fpemu as fp
from fpemu import Cast, Order
from fpemu import reference_arithmetic as definition
from fpemu.targets import host_sums

Array = np.ndarray[Any, Any]

ORDERS = ("sequential", "pairwise", "chunked(3)", "chunked(1)", "kahan")


@pytest.fixture
def specialised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop compiled for each kind of sum, whatever its size; otherwise small ones share one."""
    monkeypatch.setattr(host_sums, "SPECIALISE_FROM", 0)


def draw(name: str, shape: tuple[int, ...], seed: int) -> Array:
    """Codes of every kind, most of them of middling exponents, so that few sums overflow at once."""
    format = fp.FORMATS[name]
    rng = np.random.default_rng(seed)
    some = fp.encode(rng.normal(size=shape) * 2.0 ** rng.integers(-4, 3, shape), Cast(format, overflow="saturate"))
    any_code = rng.integers(0, 1 << format.bits, shape).astype(format.code_dtype)
    return np.where(rng.random(shape) < 0.03, any_code, some)


def right_sums(
    operands: list[Array],
    cast: Cast,
    sources: tuple[str, ...],
    order: str,
    product: Cast | None = None,
    initial: Array | None = None,
    seed: int | None = None,
    offset: int = 0,
) -> list[int]:
    """The definition, row by row."""
    parsed = fp.orders.as_order(order)
    terms = operands[0].shape[1]
    step = parsed.roundings(terms, product is not None, initial is not None)

    def words_of(row: int) -> Any:
        if seed is None:
            return None
        return lambda r: word(seed, offset + row * step + r) >> (32 - cast.random_bits)

    return [
        definition.accumulate(
            [tuple(int(x[row, k]) for x in operands) for k in range(terms)],
            cast,
            sources=sources,
            order=parsed.name,
            chunk=parsed.chunk,
            product=product,
            initial=None if initial is None else int(initial[row]),
            words=words_of(row),
        )
        for row in range(operands[0].shape[0])
    ]


def hexes(codes: Any) -> list[str]:
    return [hex(int(code)) for code in codes]


# ---- against the definition -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("order", ORDERS)
def test_sums(order: str) -> None:
    for accumulator, source in (("fp16", "fp16"), ("bf16", "fp16"), ("fp16", "e5m2"), ("e4m3", "e4m3")):
        for terms in (1, 2, 3, 7, 16):
            x = draw(source, (8, terms), terms)
            for policies in ({}, {"rounding": "down"}, {"subnormals": "flush-input", "overflow": "saturate"}):
                cast = Cast(accumulator, **policies)
                found = fp.sum(x, cast, order=order, source=source)
                assert hexes(found) == hexes(right_sums([x], cast, (source,), order))


@pytest.mark.parametrize("order", ORDERS)
def test_dots(order: str) -> None:
    for accumulator, a, b in (("fp16", "fp16", "fp16"), ("fp32", "e4m3", "e5m2"), ("bf16", "e2m1", "bf16")):
        for terms in (1, 5, 13):
            x, y = draw(a, (9, terms), terms), draw(b, (9, terms), terms + 1)
            for product in (None, "same", "bf16"):
                cast = Cast(accumulator)
                rounded = None if product is None else cast if product == "same" else Cast(product, "toward-zero")
                given_product = None if product in (None, "same") else rounded
                found = fp.dot(x, y, cast, order, fma=product is None, product=given_product, source=(a, b))
                assert hexes(found) == hexes(right_sums([x, y], cast, (a, b), order, rounded))


@pytest.mark.parametrize(
    "order",
    [
        "sequential",
        *(pytest.param(order, marks=pytest.mark.exhaustive) for order in ("pairwise", "chunked(3)", "kahan")),
    ],
)
def test_loops_of_their_own(order: str, specialised: None) -> None:
    """In 32-bit lanes, with products rounded first."""
    cast = Cast("fp16")
    for terms in (1, 5, 13):
        x, y = draw("fp16", (9, terms), terms), draw("fp16", (9, terms), terms + 1)
        found = fp.dot(x, y, cast, order, fma=False)
        assert hexes(found) == hexes(right_sums([x, y], cast, ("fp16",) * 2, order, cast))


@pytest.mark.parametrize("order", ORDERS)
def test_initial_values(order: str) -> None:
    x, y = draw("fp16", (12, 6), 0), draw("fp16", (12, 6), 1)
    c = draw("fp16", (12,), 2)
    cast = Cast("fp16")
    assert hexes(fp.sum(x, cast, order=order, initial=c)) == hexes(right_sums([x], cast, ("fp16",), order, initial=c))
    found = fp.dot(x, y, cast, order, initial=c, fma=False)
    assert hexes(found) == hexes(right_sums([x, y], cast, ("fp16",) * 2, order, cast, initial=c))


@pytest.mark.parametrize("order", ORDERS)
def test_stochastic_sums(order: str) -> None:
    """The r-th rounding of output o has word offset + o R + r."""
    x, y, c = draw("e5m2", (6, 9), 0), draw("e5m2", (6, 9), 1), draw("bf16", (6,), 2)
    cast = Cast("bf16", "stochastic")
    for initial in (None, c):
        found = fp.sum(x, cast, order=order, source="e5m2", initial=initial, seed=5, offset=2**40)
        assert hexes(found) == hexes(right_sums([x], cast, ("e5m2",), order, None, initial, 5, 2**40))
        for product in (None, cast):
            found = fp.dot(x, y, cast, order, fma=product is None, source="e5m2", initial=initial, seed=6)
            assert hexes(found) == hexes(right_sums([x, y], cast, ("e5m2",) * 2, order, product, initial, 6))


def test_known_stochastic_sums() -> None:
    """Frozen: a change here changes published results."""
    ones = np.full((4, 1000), 0x3F80, np.uint16)  # in bfloat16 a nearest-even sum stays at 256
    assert fp.decode(fp.sum(ones, "bf16", rounding="stochastic"), "bf16").tolist() == KNOWN


KNOWN = [972.0, 912.0, 964.0, 1000.0]


def test_many_terms_and_outputs() -> None:
    """More terms than are laid side by side at a time, more outputs than a strip: a loop in NumPy's own float16."""
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(300, 1300)).astype(np.float16) for _ in range(2))
    total, products, fused = (np.zeros(300, np.float16) for _ in range(3))
    for k in range(1300):
        total = total + x[:, k]
        products = products + x[:, k] * y[:, k]
        # (float64 holds the sum of a product and an accumulator of these magnitudes.)
        fused = (x[:, k].astype(np.float64) * y[:, k] + fused).astype(np.float16)
    np.testing.assert_array_equal(fp.sum(x, "fp16"), total)
    np.testing.assert_array_equal(fp.dot(x, y, "fp16", fma=False), products)
    np.testing.assert_array_equal(fp.dot(x, y, "fp16"), fused)


# ---- what is published ----------------------------------------------------------------------------------------------
@pytest.mark.nojit
def test_the_harmonic_series_stalls() -> None:
    """In FP16 at 7.0859375 after 513 terms, in BF16 at 5.0625 after 65 (Malone 2013; N. Higham 2020)."""
    for name, sum_of, terms in (("fp16", 7.0859375, 513), ("bf16", 5.0625, 65)):
        series = fp.quantize(1 / np.arange(1, 1001), name)
        assert fp.sum(series, name) == sum_of
        partial = [float(fp.sum(series[:n], name)) for n in (terms - 2, terms - 1, terms, terms + 1)]
        assert partial[0] < partial[1] == partial[2] == partial[3] or partial[1] < partial[2] == partial[3] == sum_of


@pytest.mark.nojit
@pytest.mark.parametrize(("name", "stall"), [("e4m3", 16), ("e5m2", 8), ("float8_e3m4", 31), ("bf16", 256)])
def test_sums_of_ones_stall(name: str, stall: int) -> None:
    """At 2**p, where one more is half a spacing, a tie to even; E3M4 (1, 3, 4) ends before, at 15.5: infinity."""
    found = fp.sum(np.ones(600), name)
    assert found == (stall if fp.FORMATS[name].max >= stall else math.inf)


def test_wider_sums_of_ones_stall() -> None:
    assert fp.sum(np.ones(5000), "fp16") == 2048
    e6m9 = fp.FloatFormat.ieee(6, 9)
    assert fp.sum(np.ones(5000), e6m9) == 1024
    assert fp.sum(np.ones(5000), "fp16", order="pairwise") == 5000
    assert fp.sum(np.ones(5000), "fp16", order="chunked(64)") == 4992 + 8
    assert fp.sum(np.ones(5000), "fp16", order="kahan") == 5000
    assert fp.sum(np.ones(1 << 12), "fp16", rounding="up") > 1 << 12


def test_stochastic_sums_do_not_stall() -> None:
    """The mean of 64 sums of 4096 ones lies within five standard errors, where nearest-even is 1792 below."""
    sums = fp.decode(fp.sum(np.full((64, 4096), 0x3C00, np.uint16), "fp16", rounding="stochastic", seed=3), "fp16")
    # From 2048 on the spacing is 2: each addition errs by +-1.
    assert abs(float(np.mean(sums)) - 4096) <= 5 * math.sqrt(2048) / 8


# ---- zeros, NaN, no terms -------------------------------------------------------------------------------------------
@pytest.mark.nojit
def test_zeros_and_no_terms() -> None:
    minus = np.full((2, 3), -0.0)
    assert np.signbit(fp.sum(minus, "fp16")).all()  # begins with its first term, not with +0
    assert not np.signbit(fp.sum(minus, "fp16", initial=0.0)).any()
    assert np.signbit(fp.sum([1.0, -1.0], "fp16", rounding="down"))
    for order in ORDERS:
        assert fp.sum(np.zeros((3, 0)), "fp16", order=order).tolist() == [0.0, 0.0, 0.0]
        assert fp.sum(np.zeros((2, 0)), "fp16", order=order, initial=[3.0, -0.0]).tolist() == [3.0, -0.0]
    assert fp.sum(np.zeros((0, 3)), "fp16").shape == (0,)
    assert np.isnan(fp.sum([math.inf, -math.inf], "fp16"))


@pytest.mark.parametrize("order", ORDERS)
def test_nan_without_a_code_is_refused(order: str) -> None:
    x, y = np.ones((2, 3, 5)), np.ones(5)
    x[1, 2, 3], y[3] = math.inf, 0.0  # an invalid product
    out = np.full((2, 3), 9.0)
    for fma in (True, False):
        with pytest.raises(ValueError, match=r"NaN at index \(1, 2\) cannot become float4_e2m1fn"):
            fp.dot(x, y, "e2m1", order, fma=fma, source="fp16", out=out)
        assert (out == 9.0).all()
    with pytest.raises(ValueError, match=r"NaN at index \(1, 2\)"):
        fp.dot(np.where(np.isinf(x), np.nan, x), y, "e2m1", order, source="fp16")
    assert fp.dot(x[:1], y, "e2m1", order, source="fp16").tolist() == [[4.0] * 3]
    assert fp.dot(x[1, 2], y, "e2m1", order, source="fp16", nan="zero") <= 4.0


# ---- shapes, layouts, threads ---------------------------------------------------------------------------------------
def test_axes_and_broadcasting() -> None:
    x = draw("fp16", (4, 5, 6), 3)
    for axis in (0, 1, 2, -1, -3):
        moved = np.ascontiguousarray(np.moveaxis(x, axis, -1))
        np.testing.assert_array_equal(fp.sum(x, "fp16", axis=axis), fp.sum(moved, "fp16"))
    assert fp.sum(x, "fp16", axis=None) == fp.sum(x.reshape(-1), "fp16")
    np.testing.assert_array_equal(fp.sum(x.T, "fp16", axis=None), fp.sum(x.T.copy(), "fp16", axis=None))
    y = draw("fp16", (3, 1, 1, 6), 4)
    found = fp.dot(x, y, "fp16")
    assert found.shape == (3, 4, 5)
    right = [[[fp.dot(x[i, j], y[k, 0, 0], "fp16") for j in range(5)] for i in range(4)] for k in range(3)]
    assert found.tolist() == right
    out = np.zeros((5, 4, 3), np.uint16).T
    assert fp.dot(x, y, "fp16", out=out) is out
    np.testing.assert_array_equal(out, found)


@pytest.mark.parametrize("rounding", ["nearest-even", "stochastic"])
@pytest.mark.parametrize("order", ["sequential", "pairwise"])
def test_threads_and_layouts_do_not_matter(rounding: str, order: str, threads: None) -> None:
    x, y = draw("fp16", (700, 70), 5), draw("fp16", (700, 70), 6)
    fp.set_threads(1)
    right = fp.dot(x, y, "fp16", order, rounding=rounding, seed=1)
    for count in (1, 3):
        fp.set_threads(count)
        for a in (x, np.asfortranarray(x), x.astype(">u2"), np.repeat(x, 2, 1)[:, ::2]):
            np.testing.assert_array_equal(fp.dot(a, y, "fp16", order, rounding=rounding, seed=1), right)


@pytest.mark.parametrize("rounding", ["nearest-even", "stochastic"])
@pytest.mark.parametrize("fma", [True, False])
def test_contract_is_every_dot(rounding: str, fma: bool, threads: None) -> None:
    """The two-dimensional form that products of matrices call: rows of a with rows of b."""
    a, b, c = draw("e4m3", (5, 40), 7), draw("e5m2", (140, 40), 8), draw("fp16", (5, 140), 9)
    cast = Cast("fp16", rounding)
    how = host_sums.Reduction(cast, fp.FORMATS["e4m3"], fp.FORMATS["e5m2"], Order(), None if fma else cast)
    for initial in (None, c):
        right = fp.dot(a[:, None], b, cast, fma=fma, source=("e4m3", "e5m2"), initial=initial, seed=2, offset=7)
        for count in (1, 2, 8):
            fp.set_threads(count)
            for x in (a, np.asfortranarray(a)):
                out = np.empty((140, 5), np.uint16).T
                assert host_sums.contract(x, b, initial, out, how, 2, 7) is None
                np.testing.assert_array_equal(out, right)


def test_contract_by_a_loop_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = draw("e4m3", (5, 600), 7), draw("e4m3", (140, 600), 8)
    how = host_sums.Reduction(Cast("fp16"), fp.FORMATS["e4m3"], fp.FORMATS["e4m3"])
    out = np.empty((2, 5, 140), np.uint16)
    for result, least in zip(out, (1 << 60, 0), strict=True):
        monkeypatch.setattr(host_sums, "SPECIALISE_FROM", least)
        assert host_sums.contract(a, b, None, result, how) is None
    np.testing.assert_array_equal(out[0], out[1])


# ---- what is taken --------------------------------------------------------------------------------------------------
def test_orders() -> None:
    assert str(fp.orders.as_order(" Chunked( 64 ) ")) == "chunked(64)"
    assert Order("kahan") == fp.orders.as_order("kahan")
    for wrong in ("serial", "chunked", "chunked()", "chunked(-1)"):
        with pytest.raises(ValueError, match=r"valid: sequential, pairwise, chunked\(n\), kahan"):
            fp.sum([1.0], "fp16", order=wrong)
    with pytest.raises(ValueError, match="at least one term"):
        Order("chunked", 0)
    with pytest.raises(ValueError, match="has no chunks"):
        Order("pairwise", 4)
    with pytest.raises(TypeError, match="must be an Order"):
        fp.sum([1.0], "fp16", order=3)  # type: ignore[arg-type]


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="axis 2 is not one"):
        fp.sum(np.ones((2, 2)), "fp16", axis=2)
    with pytest.raises(ValueError, match="via="):
        fp.sum([1.0], Cast("fp16", via="fp32"))
    with pytest.raises(ValueError, match="at least one dimension"):
        fp.dot(1.0, [1.0], "fp16")
    with pytest.raises(ValueError, match="fma=False"):
        fp.dot([1.0], [1.0], "fp16", product="fp32")
    with pytest.raises(ValueError, match="broadcast"):
        fp.dot(np.ones(3), np.ones(4), "fp16")
    with pytest.raises(ValueError, match="does not have"):
        fp.sum([1.0], "e8m0", order="kahan")
    with pytest.raises(ValueError, match="random bits"):
        fp.sum(np.zeros(3, np.uint32), fp.FloatFormat.ieee(3, 28), rounding="stochastic")


def test_values_and_codes() -> None:
    assert fp.sum(np.float32([1, 2]), "fp16").dtype == np.float32
    assert fp.sum(np.array([0x3C00, 0x4000], np.uint16), "fp16") == 0x4200
    assert fp.sum(np.float32([1, 2]), "fp16", initial=np.uint16(0x3C00)) == 0x4400  # codes make codes
    assert fp.sum([1 + 2**-9], "fp32", source="e4m3") == 1.0


# ---- laws -----------------------------------------------------------------------------------------------------------
FLOATS = st.lists(st.floats(-100, 100, width=16), min_size=1, max_size=12)


@given(FLOATS)
def test_exact_sums_have_no_order(values: list[float]) -> None:
    whole = [float(math.trunc(x)) for x in values]  # integers up to 1200 are numbers of float16
    for order in ORDERS:
        assert fp.sum(whole, "fp16", order=order) == math.fsum(whole)


@given(FLOATS)
def test_directed_sums_enclose_the_exact_one(values: list[float]) -> None:
    for order in ("sequential", "pairwise", "chunked(2)"):
        low, high = (float(fp.sum(values, "fp16", order=order, rounding=r)) for r in ("down", "up"))
        assert low <= math.fsum(values) <= high


@given(FLOATS)
def test_a_sum_is_its_prefix_and_one_more(values: list[float]) -> None:
    head, last = fp.sum(values[:-1], "bf16"), fp.quantize(values[-1], "bf16")
    if len(values) > 1:
        assert fp.sum(values, "bf16") == fp.add(head, last, "bf16")
