"""Do the benchmarks measure what they say, are contenders compared before they are timed, and do the tables follow?"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from implementations import JIT, TABLE

import fpemu as fp
from benchmarks import __main__ as command
from benchmarks import (
    agreement,
    contenders,
    latency,
    measure,
    ours,
    peers,
    roofline,
    runner,
    shared,
    tables,
    targets,
    threshold,
    timing,
)
from benchmarks.contenders import Contender
from benchmarks.results import OURS, PEER, ROOFLINE, Crossing, Measured, Results, ResultsError, Timed, Wait
from benchmarks.works import ARITY, WORKS, Inputs, Work, edges, scales

pytestmark = pytest.mark.usefixtures("threads")
compiled = pytest.mark.skipif(not JIT, reason="the benchmarks measure compiled code")

E4M3 = Work("encode to 8 bits", "encode", (fp.Cast("e4m3"),))


def by_name(name: str) -> Work:
    return next(work for work in WORKS if work.name == name)


# ---- the works ------------------------------------------------------------------------------------------------------
def test_names_are_unique_and_groups_have_their_targets() -> None:
    names = [work.name for work in WORKS]
    assert len(set(names)) == len(names)
    assert targets.TARGETS.keys() <= {work.group for work in WORKS} | latency.GROUPS.keys()


# (Each product has loops of its own to compile: one of a kind by default.)
SOME_PRODUCTS = ("hopper.wgmma.fp16.fp32", "b200.tcgen05.e2m1.nvf4.fp32", "sequential.fma.float16.float16")


@compiled
@pytest.mark.parametrize(
    "work",
    [
        pytest.param(
            work,
            id=work.name,
            marks=[pytest.mark.exhaustive] * (work.kind == "matmul" and not work.name.endswith(SOME_PRODUCTS)),
        )
        for work in WORKS
    ],
)
def test_every_contender_does_the_work(work: Work) -> None:
    """Shapes, dtypes and bits: ours all agree, and peers wherever they claim to be right."""
    inputs = Inputs(4096)
    x = inputs.of(work)
    assert (x.shape, x.dtype) == (shape_of(work, 4096), work.reads)
    for row in contenders.of(work):
        run = row.prepare(work, x, 2)
        run.call()
        result = run.result()
        if work.writes is not None and row.role != ROOFLINE:
            assert (result.shape, result.dtype) == (results_of(work, x), work.writes), row.name
        agreed = agreement.of(row, work, 2)
        if row.role != PEER:
            assert agreed.differing == 0, row.name
        elif work.writes is not None and _claims(row.name, work):
            assert agreed.compared == np.prod(results_of(work, edges(work)))
            assert agreed.differing == 0, row.name


def shape_of(work: Work, size: int) -> tuple[int, ...]:
    """The shape of an input."""
    if work.kind == "matmul":
        return (2, 16, 16)
    if work.kind == "arithmetic":
        return (ARITY[work.operation], size // 4)
    return (size // 2 if work.strided else size,)


def results_of(work: Work, x: np.ndarray[Any, Any]) -> tuple[int, ...]:
    """The shape of what comes of an input."""
    return (x.shape[-1] ** 2,) if work.kind == "matmul" else x.shape[-1:]


KNOWN_WRONG = {("ml_dtypes", "float8_e8m0fnu")}  # float32 subnormals, in 0.6
CLAIM = {"arithmetic": ("numpy", "apytypes"), "matmul": ("mmasim", "apytypes")}  # those who claim to be right


def _claims(peer: str, work: Work) -> bool:
    if not work.takes_values:
        return peer in CLAIM[work.kind]
    row = TABLE.get(peer)
    dtype = np.dtype(np.float32) if work.kind == "decode" else work.reads
    handled = row is not None and row.handles(dtype, shared.followed(peer, work.reads, work.cast))
    return handled and (peer, work.cast.format.name) not in KNOWN_WRONG


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
def test_edges_hold_the_specials(work: Work) -> None:
    x = edges(work)
    if work.kind == "decode":
        assert np.unique(x).size == x.size == 1 << work.cast.format.bits
    elif not work.takes_values:
        format = work.engine.a if work.kind == "matmul" else work.cast.format
        values = fp.decode(x, format)
        assert (np.isnan(values).any(), np.isinf(values).any()) == (format.has_nan, format.infinities)
        assert np.unique(np.frexp(values[np.isfinite(values)])[1]).size >= min(format.emax - format.emin, 200)
    elif work.writes is not None:
        assert x.dtype == work.reads
        assert np.isnan(x).any() == work.cast.format.has_nan
        assert np.isin([-np.inf, 0.0, np.inf], x).all()
        assert np.signbit(x[x == 0]).any()


def test_float64_inputs_are_not_float32_in_disguise() -> None:
    x = Inputs(4096).of(by_name("encode float64 -> float8_e4m3fn"))
    assert np.count_nonzero(x != x.astype(np.float32)) > 4000


@compiled
@pytest.mark.parametrize("work", [work for work in WORKS if work.takes_values], ids=lambda work: work.name)
def test_the_roofline_moves_the_bytes(work: Work) -> None:
    x = Inputs(20_001).of(work)
    bits = x.view(f"u{x.itemsize}")
    rows = [row for row in contenders.of(work) if row.role == ROOFLINE]
    assert [row.name for row in rows] == (["read"] if work.writes is None else ["copy", "copy past the cache"])
    for row in rows:
        assert row.threaded
        run = row.prepare(work, x, 2)
        run.call()
        if work.writes is None:
            assert run.result() == np.bitwise_or.reduce(bits)
        else:
            assert run.result().itemsize == work.writes.itemsize
            np.testing.assert_array_equal(run.result(), bits.astype(f"u{work.writes.itemsize}"))


@compiled
def test_the_roofline_of_an_operation_reads_all_operands() -> None:
    work = by_name("fma float16")
    x = Inputs(80_001).of(work)
    run = roofline.operands(work, x, 2)
    run.call()
    np.testing.assert_array_equal(run.result(), x[0] | x[1] | x[2])


def test_the_roofline_of_a_product_is_the_product() -> None:
    work = by_name("matmul hopper.wgmma.e4m3.fp32")
    x = Inputs(4096).of(work)
    run = roofline.sgemm(work, x, 2)
    run.call()
    wanted = np.matmul(*(fp.decode(one, "e4m3", dtype=np.float64) for one in x)).reshape(-1)
    np.testing.assert_allclose(run.result(), wanted, rtol=1e-4, atol=1e-4)


def test_parts_of_products() -> None:
    work = by_name("matmul b200.tcgen05.e2m1.nvf4.fp32")
    assert (work.unit, by_name("add float16").unit) == ("MAC", "elem")
    x = Inputs(1 << 20).of(work)
    assert x.shape == (2, 128, 128)
    assert work.units(x) == 1 << 21
    for units, side in ((1 << 21, 128), ((1 << 21) - 1, 64), (1 << 15, 32)):
        assert work.part(x, units).shape == (2, side, side)
    a, b = scales(work, x)  # type: ignore[misc]
    assert (a.shape, b.shape) == ((128, 8), (8, 128))
    assert Inputs(1 << 26).of(by_name("matmul volta.mma.fp16.fp32")).shape == (2, 512, 512)


@compiled
def test_the_roofline_reads_in_threads() -> None:
    x = np.zeros(1 << 20, np.float32)
    x[0], x[-1] = 1.0, 2.0
    run = roofline.read(Work("exponent_histogram", "histogram"), x, 2)
    run.call()
    run.call()
    assert run.result() == np.float32(1.0).view(np.uint32) | np.float32(2.0).view(np.uint32)


def test_ours_uses_the_threads_it_is_given() -> None:
    seen = []
    for count in (1, 3):
        ours.in_threads(count, lambda: seen.append(fp.get_threads()))()
    assert seen == [1, 3]


# ---- agreement ------------------------------------------------------------------------------------------------------
def test_differing_counts_bits_and_takes_nans_by_class() -> None:
    codes = np.array([0x00, 0x80, 0x7F, 0xFF, 0x38], np.uint8)  # 0, -0, NaN, -NaN, 1
    assert agreement.differing(codes, codes.copy(), E4M3) == 0
    assert agreement.differing(codes, codes[[0, 1, 3, 2, 4]], E4M3) == 0
    assert agreement.differing(codes, codes[[1, 0, 2, 3, 4]], E4M3) == 2
    assert agreement.differing(codes, codes[[2, 1, 2, 3, 4]], E4M3) == 1
    values = np.array([0.0, np.nan, 1.0], np.float32)
    quantize = replace(E4M3, kind="quantize")
    assert agreement.differing(values, -values, quantize) == 2
    with pytest.raises(TypeError, match="dtype"):
        agreement.differing(codes, codes.astype(np.uint16), E4M3)
    with pytest.raises(ValueError, match="shape"):
        agreement.differing(codes, codes[1:], E4M3)


def _spoiled(spoil: Callable[[np.ndarray[Any, Any]], None]) -> Callable[..., timing.Run]:
    def prepare(work: Work, x: np.ndarray[Any, Any], threads: int) -> timing.Run:
        run = ours.encode(work, x, threads)

        def call() -> None:
            run.call()
            spoil(run.result())

        return timing.Run(call, run.result)

    return prepare


def _spoil_three(codes: np.ndarray[Any, Any]) -> None:
    codes[1000:1003] ^= 1


def _refuse(codes: np.ndarray[Any, Any]) -> None:
    raise NotImplementedError("no such | kernel")


@compiled
def test_a_peer_that_differs_is_named_and_one_that_refuses_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = [
        Contender("hasty", "encode", _spoiled(_spoil_three), "numpy"),
        Contender("shy", "encode", _spoiled(_refuse), "numpy"),
    ]
    rows = [row for row in contenders.TABLE if row.role != PEER]
    monkeypatch.setattr(contenders, "TABLE", (*rows, *fakes))
    measured = measure.measure(E4M3, Inputs(1 << 12), 1, 2)
    hasty, shy = measured.contenders[-2:]
    assert (hasty.differing, hasty.compared, len(hasty.seconds)) == (3, edges(E4M3).size, 2)
    assert (shy.refused, shy.seconds) == ("NotImplementedError: no such | kernel", [])
    text = tables.long(fake_results(works=[measured]))
    assert f"**3 of {edges(E4M3).size:,}**" in text
    assert r"refuses: NotImplementedError: no such \| kernel" in text


@compiled
def test_an_error_of_ours_is_an_error() -> None:
    with pytest.raises(NotImplementedError):
        agreement.of(Contender("fpemu, broken", "encode", _spoiled(_refuse), role=OURS), E4M3, 1)


def test_peers_are_asked_under_the_policy_they_follow() -> None:
    pytest.importorskip("gfloat")
    e2m1 = fp.Cast("e2m1")  # gfloat clamps in formats without NaN and infinity; nothing else fits
    assert shared.followed("gfloat", np.dtype(np.float32), e2m1).overflow is fp.Overflow.SATURATE
    assert shared.followed("gfloat", np.dtype(np.float32), fp.Cast("e5m2")) == fp.Cast("e5m2")
    assert shared.followed("nobody", np.dtype(np.float32), e2m1) == e2m1


def test_packages_that_are_not_installed_take_no_part() -> None:
    row = Contender("ghost", "encode", ours.encode, package="no_such_package_of_that_name")
    assert not row.takes(E4M3)
    assert not replace(row, package="numpy", kind="decode").takes(E4M3)
    assert replace(row, package="numpy").takes(E4M3)


# ---- timing ---------------------------------------------------------------------------------------------------------
def test_contenders_take_turns() -> None:
    order: list[str] = []
    calls = [lambda name=name: order.append(name) for name in "abc"]
    seconds = timing.interleaved(calls, 3)
    assert "".join(order) == "abc" + "bca" + "cab"
    assert [len(samples) for samples in seconds] == [3, 3, 3]
    assert all(sample > 0 for samples in seconds for sample in samples)


class Clock:
    """Time that passes only where somebody sleeps: what is timed does not depend on what else the machine does."""

    def __init__(self) -> None:
        self.nanoseconds = 0

    def sleep(self, seconds: float) -> None:
        self.nanoseconds += round(seconds * 1e9)

    def perf_counter_ns(self) -> int:
        return self.nanoseconds

    def perf_counter(self) -> float:
        return self.nanoseconds / 1e9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "time", made)
    return made


def test_a_contender_works_before_it_is_timed(clock: Clock) -> None:
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1
        clock.sleep(1 / 512)

    seconds = timing.interleaved([count], 2, lead=5 / 512)
    assert seconds == [[1 / 512] * 2] and calls == 2 * (5 + 1)


def test_samples_belong_to_their_calls(clock: Clock) -> None:
    slow, quick = timing.interleaved([lambda: clock.sleep(0.02), lambda: clock.sleep(0.001)], 3, pause=0.003)
    assert (slow, quick) == ([0.02] * 3, [0.001] * 3)


def test_slow_peers_get_fewer_elements(clock: Clock) -> None:
    def prepare(work: Work, x: np.ndarray[Any, Any], threads: int) -> timing.Run:
        return timing.Run(lambda: clock.sleep(x.size * 1e-6), lambda: x)

    x = np.zeros(1 << 18, np.float32)
    peer = Contender("slow", "encode", prepare, "numpy")
    size = measure.fitting(peer, E4M3, x, 1).size
    assert measure.PROBE <= size < x.size
    assert x.size % size == 0
    for exempt in (replace(peer, role=OURS), replace(peer, threaded=True)):
        assert measure.fitting(exempt, E4M3, x, 1).size == x.size
    product = by_name("matmul volta.mma.fp16.fp32")
    matrices = np.zeros((2, 128, 128), np.uint16)
    sides = {measure.fitting(replace(peer, threaded=threaded), product, matrices, 1).shape[1] for threaded in (0, 1)}
    assert len(sides) == 1
    assert sides <= {32, 64, 128}


@compiled
def test_small_calls_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "CALLS", 2)
    waits = list(latency.small_calls("quantize 1,024 elements", 1, 2))
    assert [wait.ours for wait in waits] == [True] + [False] * (len(waits) - 1)
    assert len(waits) >= 2
    for choice in threshold.CHOICES:
        kept = getattr(choice.module, choice.constant)
        crossing = threshold.crossing(choice, *threshold.WORKS[0], 2, 2, choice.sizes[0])
        assert crossing.sizes == [choice.sizes[0]]
        assert kept == getattr(choice.module, choice.constant)


def test_a_new_process_sees_this_fpemu_and_says_what_failed() -> None:
    script = f"import fpemu; print(float(fpemu.__file__ == {fp.__file__!r}))"
    assert latency._process(script) == 1.0
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        latency._process("1 / 0")


# ---- results --------------------------------------------------------------------------------------------------------
def fake_timed(name: str, role: str, seconds: list[float], elements: int = 1 << 20, **more: Any) -> Timed:
    facts: dict[str, Any] = {"compared": 100, "differing": 0, "overflow": "", "refused": "", "allocates": False}
    return Timed(name=name, role=role, threads=2, elements=elements, seconds=seconds, **{**facts, **more})


def fake_work(name: str, group: str, share: float, *peers: Timed) -> Measured:
    """A work whose roofline makes 2^20 elements in 1, 2 and 4 ms, and ours that share of it."""
    copy = [0.001, 0.002, 0.004]
    mine = fake_timed("fpemu", OURS, [seconds / share for seconds in copy])
    return Measured(name, group, 1 << 20, 4, 1, [fake_timed("copy", ROOFLINE, copy), mine, *peers])


def fake_results(**parts: Any) -> Results:
    facts: dict[str, Any] = {
        "date": "2001-02-03 04:05 UTC",
        "size": 1 << 20,
        "threads": 2,
        "rounds": 3,
        "environment": {"fpemu": "0", "numba": "1", "cpu": "a processor", "cores": 2},
        "packages": {"torch": "9.9", "ml_dtypes": "absent"},
        "works": [],
        "waits": [],
        "crossings": [],
    }
    return Results(**{**facts, **parts})


@pytest.fixture
def results() -> Results:
    torch = fake_timed("torch", PEER, [0.004, 0.008, 0.016])
    slow = fake_timed("ml_dtypes", PEER, [0.002, 0.004, 0.008], elements=1 << 14, differing=7, overflow="saturate")
    return fake_results(
        works=[
            fake_work("encode float32 -> float8_e4m3fn", "encode to 8 bits", 0.5, torch, slow),
            fake_work("encode float32 -> a", "other formats", 0.8),
            fake_work("encode float32 -> b", "other formats", 0.25),
        ],
        waits=[
            Wait("import", "import fpemu", [0.3, 0.2, 0.1], ours=True),
            Wait("import", "import torch", [0.9]),
        ],
        crossings=[Crossing("threads", "decode", [1 << 15, 1 << 16, 1 << 17], [[1.0]] * 3, [[0.5], [2.0], [0.8]])],
    )


def test_ratios_are_of_rounds() -> None:
    """Medians of ratios, not ratios of medians: the rounds go through one another."""
    copy, mine = fake_timed("copy", ROOFLINE, [1.0, 2.0, 9.0]), fake_timed("fpemu", OURS, [2.0, 2.0, 10.0])
    work = Measured("w", "g", 1 << 20, 4, 1, [copy, mine])
    assert work.share(mine) == pytest.approx([0.5, 1.0, 0.9])
    past = fake_timed("copy past the cache", ROOFLINE, [2.0, 1.0, 8.0])
    assert replace(work, contenders=[copy, past, mine]).share(mine) == pytest.approx([0.5, 0.5, 0.8])


def test_targets_are_set_against_medians(results: Results) -> None:
    verdicts = {(name, str(target)): value for name, target, value in results.verdicts()}
    encode = "encode float32 -> float8_e4m3fn"
    assert verdicts[encode, "≥ 0.70 of a copy"] == pytest.approx(0.5)
    assert verdicts[encode, "faster than torch"] == pytest.approx(2)
    assert verdicts[encode, "≥ 30 × ml_dtypes"] == pytest.approx(64)
    assert verdicts["import fpemu", "≤ 0.35 s"] == pytest.approx(0.2)
    assert Counter(name for name, _ in verdicts)["encode float32 -> b"] == 1
    assert "import torch" not in {name for name, _ in verdicts}
    share, seconds = targets.Target(targets.SHARE, 0.7), targets.Target(targets.SECONDS, 5e-6)
    assert (share.met(0.7), share.met(0.69)) == (True, False)
    assert (seconds.met(5e-6), seconds.met(6e-6)) == (True, False)


def test_a_missing_peer_is_not_measured(results: Results) -> None:
    alone = replace(results, works=[fake_work("w", "encode to 8 bits", 0.9)])
    assert [value for _, target, value in alone.verdicts() if target.measure == targets.TIMES][:2] == [None, None]
    assert "faster than torch (not measured)" in tables.short(alone)


def test_threads_pay_from_where_they_never_lose_again(results: Results) -> None:
    assert results.crossings[0].gains == [2.0, 0.5, 1.25]
    assert results.crossings[0].pays_from == 1 << 17
    assert Crossing("threads", "w", [1], [[1.0]], [[2.0]]).pays_from is None


def test_results_survive_the_file(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results.write(path)
    assert Results.read(path) == results


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda record: "{", "not what a run writes"),
        (lambda record: [], "not what a run writes"),
        (lambda record: {**record, "version": 99}, "not of version"),
        (lambda record: {key: value for key, value in record.items() if key != "works"}, "works"),
        (lambda record: {**record, "surplus": 1}, "surplus"),
        (lambda record: {**record, "environment": {}}, "environment lacks"),
        (lambda record: {**record, "waits": [{"group": "g", "name": "n", "seconds": []}]}, "no samples"),
        (lambda record: {**record, "waits": [{"group": "g", "name": "n", "seconds": [-1]}]}, "not a positive"),
    ],
)
def test_damaged_results_are_named(
    results: Results, tmp_path: Path, damage: Callable[[dict[str, Any]], Any], message: str
) -> None:
    path = tmp_path / "results.json"
    results.write(path)
    damaged = damage(json.loads(path.read_text()))
    path.write_text(damaged if isinstance(damaged, str) else json.dumps(damaged))
    with pytest.raises(ResultsError, match=message) as error:
        Results.read(path)
    assert "\n" not in str(error.value)
    assert "results.json" in str(error.value)


def test_samples_without_rounds_or_roofline_are_refused() -> None:
    with pytest.raises(ValueError, match="either samples or a reason"):
        fake_timed("torch", PEER, [])
    copy, mine = fake_timed("copy", ROOFLINE, [1.0]), fake_timed("fpemu", OURS, [1.0])
    with pytest.raises(ValueError, match="come first"):
        Measured("w", "g", 1, 4, 1, [mine, copy])
    with pytest.raises(ValueError, match="different numbers of rounds"):
        Measured("w", "g", 1, 4, 1, [copy, mine, fake_timed("torch", PEER, [1.0, 2.0])])


def test_results_that_cannot_be_written_leave_the_old_ones(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results.write(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        replace(results, environment={**results.environment, "bad": object()}).write(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# ---- tables ---------------------------------------------------------------------------------------------------------
def test_the_short_table(results: Results) -> None:
    rows = tables.short(results).splitlines()
    assert rows[0] == "| work | Gelem/s | of a copy | against torch | against ml_dtypes | against numpy | target |"
    assert rows[2] == (
        "| encode float32 → float8_e4m3fn | 0.26 | 0.50 | ×2.0 | ×64† |  "
        "| ≥ 0.70 of a copy ✗, faster than torch ✓, ≥ 30 × ml_dtypes ✓ |"
    )
    assert rows[3] == (
        "| other formats, the slowest of 2: encode float32 → b | 0.13 | 0.25 |  |  |  | ≥ 0.40 of a copy ✗ |"
    )
    assert "| import fpemu | 200 ms | ≤ 0.35 s ✓ |" in rows
    assert "import torch" not in tables.short(results)
    assert "a processor" in tables.short(results)
    assert "differ from ours" in rows[-1]


def test_the_long_table(results: Results) -> None:
    rows = tables.long(results).splitlines()
    assert "| copy | 2 | 1 Mi | 1.0 | 0.52 | 0.26 to 1.0 |  |  |  |" in rows
    assert "| torch | 2 | 1 Mi | 0.26 | 0.13 | 0.066 to 0.26 | 0.25 | ×2.0 | none of 100 |" in rows
    slow = "| ml_dtypes | 2 | 16 Ki | 0.0082 | 0.0041 | 0.0020 to 0.0082 | 0.008 | ×64 | **7 of 100** (saturate) |"
    assert slow in rows
    assert "| import torch | 900 ms | 900 ms | 900 ms | 1 |" in rows
    assert "| decode | ×2.0 | ×0.50 | ×1.2 | 128 Ki |" in rows
    assert "| encode float32 → b | ≥ 0.40 of a copy | 0.25 | **not met** |" in rows


def test_products_have_a_table_of_their_own(results: Results) -> None:
    """Multiply-adds are no elements; where there are no products nothing is said of them."""
    mmasim = fake_timed("mmasim", PEER, [1.0, 2.0, 4.0])
    product = replace(fake_work("matmul x", "matmul on tensor cores", 0.25, mmasim), unit="MAC", elements=1 << 27)
    both = replace(results, works=[*results.works, product])
    rows = tables.short(both).splitlines()
    assert "| work | GMAC/s | of sgemm | against mmasim | against apytypes | target |" in rows
    assert "| matmul x | 0.13 | 0.25 | ×250 |  | ≥ 4 GMAC/s ✗ |" in rows
    assert tables.SGEMM in rows
    assert "sgemm" not in tables.short(results)
    long = tables.long(both)
    assert "**matmul x** (512 × 512 × 512)" in long
    assert "| contender | threads | MAC | GMAC/s, best | median |" in long
    assert "| matmul x | ≥ 4 GMAC/s | 0.13 | **not met** |" in long.splitlines()
    assert "0.13[/] GMAC/s, 0.25 of sgemm, mmasim ×250" in runner.line(product)


def test_results_from_before_products_are_read(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results.write(path)
    record = json.loads(path.read_bytes())
    for work in record["works"]:
        del work["unit"]
    path.write_text(json.dumps(record))
    assert Results.read(path) == results


def test_every_row_of_a_table_has_its_columns(results: Results) -> None:
    for text in (tables.short(results), tables.long(results)):
        for block in re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", row)) for row in block.splitlines()}) == 1


@pytest.mark.parametrize(
    ("value", "said"),
    [(4.94e9, "4.9"), (12.4e9, "12"), (0.0351e9, "0.035"), (9.99e9, "10.0"), (1.23e6, "0.0012")],
)
def test_rates(value: float, said: str) -> None:
    assert tables.gelem(value) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(2.34, "2.3 s"), (0.0765, "76 ms"), (3.61e-6, "3.6 µs"), (1.2e-8, "12 ns")]
)
def test_times(seconds: float, said: str) -> None:
    assert tables.seconds_text(seconds) == said


def test_counts() -> None:
    assert [tables.count(n) for n in (1 << 26, 3 << 10, 1000)] == ["64 Mi", "3 Ki", "1,000"]


PLACE = f"# Title\n\nbefore\n{tables.BEGIN}\nold\n{tables.END}\nafter\n"


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    assert tables.replaced(PLACE, "new", "x.md") == PLACE.replace("old", "new")


@pytest.mark.parametrize(
    "text",
    [
        "no marks at all",
        PLACE.replace(tables.END, ""),
        PLACE.replace(tables.BEGIN, ""),
        PLACE + PLACE,
        f"{tables.END}\n{tables.BEGIN}\n",
    ],
)
def test_a_file_without_its_place_is_named(text: str) -> None:
    with pytest.raises(tables.TableError, match=r"x\.md has no place"):
        tables.replaced(text, "new", "x.md")


@pytest.fixture
def checkout(results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with results and both pages, tables not yet made."""
    (tmp_path / "benchmarks").mkdir()
    for name in ("README.md", "benchmarks/README.md"):
        (tmp_path / name).write_text(PLACE)
    results.write(tmp_path / "benchmarks" / "results.json")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "SHORT", tmp_path / "README.md")
    monkeypatch.setattr(tables, "LONG", tmp_path / "benchmarks" / "README.md")
    return tmp_path


def run_tables(checkout: Path, *options: str) -> int:
    return command.main(["tables", "--results", str(checkout / "benchmarks" / "results.json"), *options])


def test_check_finds_what_is_stale_and_writes_nothing(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tables(checkout, "--check") == 1
    assert (checkout / "README.md").read_text() == PLACE
    assert "README.md" in capsys.readouterr().err
    assert run_tables(checkout) == 0
    assert "×64†" in (checkout / "README.md").read_text()
    assert run_tables(checkout, "--check") == 0


@pytest.mark.parametrize("name", ["README.md", "benchmarks/README.md"])
def test_check_finds_an_edited_number(checkout: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tables(checkout) == 0
    page = checkout / name
    page.write_text(page.read_text().replace("×64", "×65", 1))
    capsys.readouterr()
    assert run_tables(checkout, "--check") == 1
    assert f"stale: {name}" in capsys.readouterr().err
    page.write_text(page.read_text().replace("×65", "×64", 1).replace("before", "other words"))
    assert run_tables(checkout, "--check") == 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "benchmarks" / "results.json").unlink(), "python -m benchmarks run makes it"),
        (lambda folder: (folder / "README.md").write_text("no marks"), "README.md has no place"),
        (lambda folder: (folder / "README.md").unlink(), "No such file"),
    ],
)
def test_tables_say_what_is_missing(
    checkout: Path, spoil: Callable[[Path], Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(checkout)
    assert run_tables(checkout, "--check") == 1
    assert message in capsys.readouterr().err


# ---- the command ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", ["12", "64MB", "Mi", "", "-4Ki"])
def test_bad_sizes_are_refused(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["run", f"--size={size}"]) == 2
    assert "is not a size" in capsys.readouterr().err


@compiled
def test_a_pattern_that_fits_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["run", "--only", "no such work"]) == 1
    assert "no work has 'no such work'" in capsys.readouterr().err


@compiled
def test_a_part_writes_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.json"
    arguments = ["run", "--size", "4Ki", "--rounds", "2", "--only", "decode float8_e5m2", "--results", str(path)]
    assert command.main(arguments) == 0
    assert "decode float8_e5m2 → float32" in capsys.readouterr().out
    assert not path.exists()


@compiled
def test_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few works: the file it writes has all of them, and its numbers are those of the samples."""
    chosen = ("encode float32 -> float8_e5m2", "quantize float32 -> float8_e4m3fn", "exponent_histogram float32")
    monkeypatch.setattr(runner, "WORKS", tuple(by_name(name) for name in chosen))
    monkeypatch.setattr(latency, "GROUPS", {"quantize 1,024 elements": latency.small_calls})
    monkeypatch.setattr(latency, "CALLS", 2)
    path = tmp_path / "results.json"
    arguments = ["run", "--size", "64Ki", "--rounds", "2", "--results", str(path)]
    assert command.main(arguments) == 0
    found = Results.read(path)
    assert [work.name for work in found.works] == list(chosen)
    assert (found.size, found.rounds, found.threads) == (1 << 16, 2, 2)
    encode = found.works[0]
    assert (encode.bytes_read, encode.bytes_written) == (4, 1)
    assert {row.name for row in encode.contenders} >= {"copy", "fpemu", contenders.ONE_THREAD, contenders.RUN_TIME}
    assert [row.threads for row in encode.contenders[:4]] == [2, 2, 2, 1]
    assert found.packages.keys() == set(contenders.PACKAGES)
    assert len(found.crossings) == len(threshold.CHOICES) * len(threshold.WORKS)
    assert fp.targets.threads._threads is None  # the default again
    assert tables.short(found)
    assert tables.long(found)


@compiled
def test_without_the_compiler_there_is_nothing_to_measure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner.config, "DISABLE_JIT", 1)
    assert command.main(["run", "--only", "decode"]) == 1
    assert "NUMBA_DISABLE_JIT" in capsys.readouterr().err


def test_the_numpy_expressions_of_the_statistics_are_right() -> None:
    """The peer of tensor_stats against numbers worked out by hand: 1 and 2^-30, of which FP16 keeps 1."""
    pytest.importorskip("ml_dtypes")
    x = np.array([1.0, 2.0**-30], np.float32)
    run = peers.numpy_stats(Work("tensor_stats", "stats", (fp.Cast("fp16"),)), x, 1)
    run.call()
    new_zero, sqnr_db, cosine, gain = run.result()[0]
    assert new_zero == 1
    assert sqnr_db == pytest.approx(10 * np.log10(2.0**60))
    assert (cosine, gain) == (pytest.approx(1.0), pytest.approx(1.0))
