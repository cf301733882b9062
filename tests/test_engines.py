"""Do the kernels of matrix engines give the bits of their definition, and is the definition what real chips do?

Vectors of real chips (Khattak and Mikaitis, repository north-numerical-computing/MATLAB-tensor-core, BSD-2-Clause) are read from the folder
that FPEMU_GPU_VECTORS names, and are no part of this project.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from engine_inputs import CLASSES, cancelling, draw, scales

import fpemu as fp
from fpemu import ENGINES, Engine, matmul
from fpemu.engines import BlockSum, Chain, Library, chain, definition, promoted
from fpemu.engines.catalogue import ALIASES
from fpemu.targets import host_matmul
from fpemu.targets.threads import set_threads

Array = np.ndarray[Any, Any]
BLOCKS = [name for name, engine in ENGINES.items() if isinstance(engine.arithmetic, BlockSum)]
CHAINS = [name for name, engine in ENGINES.items() if isinstance(engine.arithmetic, Chain)]


def defined(engine: Engine, a: Array, b: Array, c: Array | None, **blocks: Array) -> Array:
    """The definition's codes of a product of matrices."""
    rows, columns = a.shape[0], b.shape[1]
    result = np.zeros((rows, columns), engine.accumulator.code_dtype)
    for i, j in np.ndindex(rows, columns):
        along = (
            {}
            if not blocks
            else {"a_scales": blocks["a_scales"][i].tolist(), "b_scales": blocks["b_scales"][:, j].tolist()}
        )
        start = 0 if c is None else int(c[i, j])
        result[i, j] = definition.dot(a[i].tolist(), b[:, j].tolist(), start, engine, **along)
    return result


def compare(engine: Engine, a: Array, b: Array, c: Array | None, **blocks: Array) -> None:
    """Kernels against the definition."""
    got, wanted = matmul(a, b, c, engine=engine, **blocks), defined(engine, a, b, c, **blocks)
    wrong = np.argwhere(got != wanted)
    if wrong.size:
        i, j = wrong[0]
        raise AssertionError(
            f"{engine.name}: {len(wrong)} of {got.size} differ, the first {got[i, j]:#x} for {wanted[i, j]:#x}; "
            f"a = {a[i].tolist()}, b = {b[:, j].tolist()}, c = {None if c is None else hex(c[i, j])}"
        )


def generator(*facts: object) -> np.random.Generator:
    """Random numbers of a test and its parameters."""
    return np.random.default_rng(crc32(repr(facts).encode()))


# ---- the catalogue --------------------------------------------------------------------------------------------------
def test_every_name_says_what_the_engine_takes() -> None:
    for name, engine in ENGINES.items():
        assert name == engine.name
        assert ENGINES[f" {name.upper()} "] is engine
        if isinstance(engine.arithmetic, BlockSum):
            parts = name.split(".")
            a, b = ("tf32" if engine.ignored_bits else _short(x) for x in (engine.a, engine.b))
            assert parts[2] == (a if a == b else f"{a}x{b}")
            assert parts[-1] == _short(engine.accumulator)
            assert engine.sources
            assert engine.evidence


def _short(format: fp.FloatFormat) -> str:
    from fpemu.formats import ALIASES as NAMES

    return next(alias for alias, name in NAMES.items() if name == format.name)


def test_evidence_names_only_chips_whose_vectors_there_are() -> None:
    """One format, and the accumulator that was recorded (``vectors``): mixed formats have never been."""
    claimed = {(name, gpu) for name, engine in ENGINES.items() for gpu in _chips_of(engine)}
    recorded = {(name, file.split("_")[0]) for file, name, _ in vectors()}
    assert claimed <= recorded
    assert ("ada.mma.e4m3.fp16", "L40S") not in claimed
    assert ENGINES["ada.mma.e4m3xe5m2.fp32"].evidence == ("MMA-Sim 2.1.1",)


def _chips_of(engine: Engine) -> list[str]:
    marked = [one for one in engine.evidence if one.startswith("vectors of real chips: ")]
    return [gpu for one in marked for gpu in one.split(": ")[1].split(", ")]


def test_float64_is_added_in_one_way_only() -> None:
    fp64 = ENGINES["ampere.mma.fp64.fp64"]
    for wrong in (replace(fp64.arithmetic, order="pairwise"), replace(fp64.arithmetic, cast=fp.Cast(fp64.a, "up"))):
        with pytest.raises(ValueError, match="float64 is added in order"):
            matmul(np.ones((1, 2)), np.ones((2, 1)), engine=replace(fp64, arithmetic=wrong))
    with pytest.raises(ValueError, match="of float64 operands only"):
        matmul(np.ones((1, 2)), np.ones((2, 1)), engine=replace(fp64, a=fp.FORMATS["float32"]))


def test_the_catalogue_is_read_only_and_helps() -> None:
    assert len(ENGINES) > 200
    for alias, name in ALIASES.items():
        assert ENGINES[alias].name == name
    with pytest.raises(KeyError, match=r"did you mean .*hopper\.wgmma\.fp16\.fp32"):
        ENGINES["hopper.wgmma.fp16.fp23"]
    with pytest.raises(TypeError):
        ENGINES["new"] = ENGINES["fp32"]  # type: ignore[index]
    with pytest.raises(ValueError, match="unknown engine 'pascal'"):
        matmul(np.ones((1, 1)), np.ones((1, 1)), engine="pascal")


@pytest.mark.parametrize(
    ("name", "length", "bits", "zero", "grid"),
    [  # of two publications (arXiv 2512.07004, 2511.10909)
        ("volta.mma.fp16.fp32", 4, 23, -131, "float32"),
        ("turing.mma.fp16.fp16", 8, 24, -20, "float16"),
        ("ampere.mma.tf32.fp32", 4, 24, -132, "float32"),
        ("ada.mma.e4m3.fp32", 16, 13, -132, "e8m13"),
        ("ada.mma.e5m2.fp16", 16, 13, -20, "float16"),
        ("hopper.wgmma.bf16.fp32", 16, 25, -133, "float32"),
        ("hopper.wgmma.e4m3xe5m2.fp32", 32, 13, -133, "e8m13"),
        ("hopper.wgmma.e5m2.fp16", 32, 13, -21, "float16"),
        ("b200.tcgen05.e2m3xe4m3.fp32", 32, 25, -133, "float32"),
        ("b200.tcgen05.e2m1.nvf4.fp32", 64, 35, -139, "float32"),
    ],
)
def test_parameters(name: str, length: int, bits: int, zero: int, grid: str) -> None:
    rule = ENGINES[name].arithmetic
    assert isinstance(rule, BlockSum)
    assert (rule.length, rule.fraction_bits, rule.zero_exponent, rule.grid.name) == (length, bits, zero, grid)


# ---- the definition against real chips ------------------------------------------------------------------------------
VECTORS = os.environ.get("FPEMU_GPU_VECTORS")
CHIPS = {
    "V100": "volta", "A100": "ampere", "A2": "ampere", "Ada": "ada", "L40S": "ada", "H100": "hopper", "H200": "hopper", "B200": "b200",
}  # fmt: skip


def vectors() -> Iterator[tuple[str, str, str]]:
    """File, engine and accumulator of what there may be."""
    for gpu, chip in CHIPS.items():
        for kind in ("fp16", "bf16", "tf32", "E4M3", "E5M2"):
            for accumulator in ("fp32", "fp16"):
                # FP8 on H100 and H200: with float32 it was wgmma, from C = 0; with FP16 the emulated mma.sync.
                wide = kind.startswith("E") and chip == "hopper" and accumulator == "fp32"
                yield f"{gpu}_{kind}", f"{chip}.{'wgmma' if wide else 'mma'}.{kind.lower()}.{accumulator}", accumulator


@pytest.mark.skipif(
    VECTORS is None,
    reason="FPEMU_GPU_VECTORS names no folder with vectors of real chips (README: where they come from)",
)
def test_real_chips() -> None:
    """Every row of every file, and of each file some through a matrix product of another shape."""
    rows = 0
    for file, name, accumulator in vectors():
        path = Path(str(VECTORS)) / f"{file}.npz"
        if not path.exists():
            continue
        with np.load(path) as data:
            if f"d_{accumulator}" not in data:
                continue
            engine = ENGINES[name]
            a, b, c = (
                fp.encode(data[key].view(np.float32), of)
                for key, of in zip("abc", (engine.a, engine.b, engine.accumulator), strict=True)
            )
            wanted = fp.encode(data[f"d_{accumulator}"].view(np.float32), engine.accumulator)
        if ".wgmma." in name:
            c = np.zeros_like(c)
        got = matmul(a[:, None], b[:, :, None], c[:, None, None], engine=engine)[:, 0, 0]
        assert np.count_nonzero(got != wanted) == 0, f"{file}, {name}: {np.count_nonzero(got != wanted)} rows differ"
        square = matmul(a[:40], b[:40].T, np.broadcast_to(c[:40], (40, 40)), engine=engine)
        assert np.array_equal(square.diagonal(), wanted[:40])
        rows += len(wanted)
    assert rows >= 28_000, f"only {rows} rows in {VECTORS}"


# ---- the kernels against the definition -----------------------------------------------------------------------------
def _some(names: list[str]) -> list[Any]:
    """One engine of each kind by default, all of them in the exhaustive selection."""
    seen, result = set(), []
    for name in names:
        engine = ENGINES[name]
        facts = (
            replace(engine.arithmetic, grid=engine.accumulator) if isinstance(engine.arithmetic, BlockSum) else name,
            engine.a.code_dtype,
            engine.scaling,
        )
        result.append(pytest.param(name, marks=[pytest.mark.exhaustive] if facts in seen else []))
        seen.add(facts)
    return result


@pytest.mark.parametrize("name", _some(BLOCKS))
def test_blocks(name: str) -> None:
    """All classes of inputs, ragged lengths, accumulators of any kind."""
    engine, rng = ENGINES[name], generator(name)
    for kind in CLASSES:
        k = int(rng.integers(1, 70))
        a, b = draw(kind, rng, engine.a, (3, k)), draw(kind, rng, engine.b, (k, 4))
        c = draw(str(rng.choice(list(CLASSES))), rng, engine.accumulator, (3, 4)) if rng.random() < 0.7 else None
        compare(engine, a, b, c, **scales(rng, engine, 3, 4, k))
    a, b = cancelling(rng, engine, 3, 4, 32)
    compare(engine, a, b, None, **scales(rng, engine, 3, 4, 32))


@pytest.mark.parametrize("name", ["hopper.wgmma.e4m3.fp32", "hopper.wgmma.fp16.fp16", "ampere.mma.bf16.fp32"])
def test_promotion(name: str) -> None:
    engine, rng = promoted(ENGINES[name], 64), generator(name, "promoted")
    for kind in CLASSES:
        a, b = draw(kind, rng, engine.a, (3, 150)), draw(kind, rng, engine.b, (150, 4))
        c = draw(kind, rng, engine.accumulator, (3, 4))
        compare(engine, a, b, c)
        assert np.array_equal(matmul(a, b, c, engine=name, promote_every=64), matmul(a, b, c, engine=engine))


@pytest.mark.parametrize("name", CHAINS)
def test_chains(name: str) -> None:
    engine, rng = ENGINES[name], generator(name)
    for kind in CLASSES:
        k = int(rng.integers(1, 24))
        a, b = draw(kind, rng, engine.a, (5, k)), draw(kind, rng, engine.b, (k, 6))
        compare(engine, a, b, draw(kind, rng, engine.accumulator, (5, 6)) if rng.random() < 0.7 else None)
    compare(engine, *cancelling(rng, engine, 3, 4, 16), None)


def test_a_tiny_accumulator_decides_a_tie() -> None:
    """The case of kernels/chain.py: a product half way between two BF16 values, beside what float64 would lose."""
    a, b = np.array([[1 + 2.0**-8]]), np.array([[1.0]])
    for inputs in ("fp16", "fp32"):  # the second by no fast loop
        engine = chain("bf16", inputs=inputs)
        for c, wanted in ((2.0**-80, 1 + 2.0**-7), (0.0, 1.0), (-(2.0**-80), 1.0)):
            assert matmul(a, b, np.array([[c]]), engine=engine) == wanted
    # The products of two BF16 values that are midpoints, over the binades.
    rng = generator("ties")
    x = 1 + rng.integers(0, 128, 40_000) / 128
    y = 1 + rng.integers(0, 128, 40_000) / 128
    tie = fp.quantize(x * y, "bf16") != x * y
    x, y = x[tie][:400], y[tie][:400]
    engine = ENGINES["bf16"]
    c = fp.encode(rng.choice([2.0**-60, -(2.0**-60), 2.0**-20, 0.0], 400), "bf16")
    codes = fp.encode(x, "bf16"), fp.encode(y, "bf16")
    got = matmul(codes[0][:, None, None], codes[1][:, None, None], c[:, None, None], engine=engine)
    wanted = [
        definition.dot([p], [q], int(r), engine)
        for p, q, r in zip(*(x.tolist() for x in codes), c.tolist(), strict=True)
    ]
    assert got.reshape(-1).tolist() == wanted


KINDS = {  # of loops, by accumulator: what a step of float32 may replace, and what float64 would lose
    "fp16": {("fused", True), ("fused", False)},
    "sequential.mul-add.float16.float16": {("placed rounded", True), ("rounded", False)},
    "bf16": {("fused", True), ("fused", False), ("reaching", True), ("reaching", False)},
    "sequential.mul-add.bfloat16.bfloat16": {("short rounded", False), ("rounded", True), ("rounded", False)},
}


@pytest.mark.parametrize("name", KINDS)
def test_all_loops_of_a_chain_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that panels of operands allow, with the loop of any format and order."""
    engine, rng = ENGINES[name], generator("loops", name)
    chosen = set()

    def noted(engine: Engine, panels: host_matmul.Panels) -> tuple[str, bool]:
        kind = kind_of(engine, panels)
        chosen.add(kind)
        return kind

    kind_of = host_matmul.chain_kind_of
    monkeypatch.setattr(host_matmul, "chain_kind_of", noted)
    taken = [draw("normal", rng, engine.a, (9, 300)), draw("normal", rng, engine.b, (300, 70)), None]
    products = [taken]
    for factor in (2.0**-70, 2.0**60):  # of the right half: products that float32 does not hold, sums that overflow
        spread = fp.decode(taken[0], engine.a) * np.where(np.arange(300) < 150, 1.0, factor)
        products.append([fp.encode(spread, engine.a, overflow="saturate"), taken[1], None])
    for kind in ("tiny", "huge", "zeros"):
        shapes = ((engine.a, (9, 40)), (engine.b, (40, 70)), (engine.accumulator, (9, 70)))
        products.append([draw(kind, rng, format, shape) for format, shape in shapes])
    fast = [matmul(a, b, c, engine=engine) for a, b, c in products]
    assert chosen == KINDS[name]
    monkeypatch.setattr(host_matmul, "chain_kind", lambda engine: None)
    for (a, b, c), found in zip(products, fast, strict=True):
        assert np.array_equal(found, matmul(a, b, c, engine=engine))


def test_how_small_an_accumulator_decides_a_tie() -> None:
    """A product of 2**e, of any sign, and then one half way between two BF16 values, by loops that know how small e is."""
    engine, tie = ENGINES["bf16"], 1.5 * (1 + 2.0**-7)
    for e in range(-90, -20):
        a = fp.encode([[2.0 ** (e // 2), 1.5], [-(2.0 ** (e // 2)), 1.5]], "bf16")
        b = fp.encode([[2.0 ** (e - e // 2)], [1 + 2.0**-7]], "bf16")
        up, down = fp.decode(matmul(a, b, engine=engine), "bf16")[:, 0].tolist()
        assert down < tie < up, e


def test_the_exponents_of_a_short_accumulator_may_be_its_own() -> None:
    """Smallest exponent that of float32, but the largest, -1, is not."""
    format = fp.FloatFormat.ieee(7, 8, bias=127)
    rng = generator("own range")
    for fused in (True, False):
        engine = chain(format, inputs="bf16", fused=fused)
        for scale in (2.0**-40, 2.0**-3, 1.0):
            a, b = (fp.encode(scale * rng.standard_normal(shape), "bf16") for shape in ((4, 9), (9, 4)))
            compare(engine, a, b, None)


LANES = [
    "hopper.wgmma.fp16.fp32",
    "ampere.mma.bf16.fp32",
    "b200.tcgen05.e4m3.fp32",
    "hopper.mma.e5m2.fp16",
    "b200.tcgen05.e5m2xe2m3.mxf8f6f4.fp32",
]


@pytest.mark.parametrize("name", LANES)
def test_both_lanes_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops in float32 and int32 lanes, where operands allow them, and those in float64."""
    engine, rng = ENGINES[name], generator("lanes", name)
    a, b = draw("normal", rng, engine.a, (40, 300)), draw("normal", rng, engine.b, (300, 150))
    blocks = scales(rng, engine, 40, 150, 300)
    if blocks:
        blocks = {key: np.full_like(x, fp.encode(1.0, "e8m0")) for key, x in blocks.items()}
    chosen: list[bool] = []

    def noted(*facts: Any) -> bool:
        chosen.append(is_narrow(*facts))
        return chosen[-1]

    is_narrow = host_matmul.is_narrow
    monkeypatch.setattr(host_matmul, "is_narrow", noted)
    fast = matmul(a, b, engine=engine, **blocks)
    assert any(chosen)
    monkeypatch.setattr(host_matmul, "is_narrow", lambda *facts: False)
    assert np.array_equal(fast, matmul(a, b, engine=engine, **blocks))


# ---- engines of one's own -------------------------------------------------------------------------------------------
def test_blocks_that_narrow_lanes_do_not_hold() -> None:
    """Products of more than float32's bits, and more fraction bits than an int32 has room for."""
    rng = generator("own blocks")
    for source, bits, lowest in (("float32", 25, -133), ("float16", 30, -138)):
        format = fp.FORMATS[source]
        rule = BlockSum(16, bits, lowest, fp.FORMATS["float32"], fp.Rounding.TOWARD_ZERO)
        engine = Engine("own", format, format, fp.FORMATS["float32"], rule)
        compare(engine, draw("normal", rng, format, (5, 40)), draw("normal", rng, format, (40, 5)), None)


@pytest.mark.parametrize("k", [1, 2])  # (of two steps together, and of one on its own)
def test_a_product_below_the_last_place_of_float32(k: int) -> None:
    """32767.5 in units of 2**-149 beside the smallest bfloat16: just less than halfway to the next, which float32 does not hold."""
    source = fp.FloatFormat.ieee(8, 10)
    engine = chain("bf16", inputs=source)
    a, b = fp.encode(np.zeros((1, k)), source), fp.encode(np.zeros((k, 1)), source)
    a[0, 0], b[0, 0] = fp.encode(510 * 2.0**-70, source), fp.encode(257 * 2.0**-81, source)
    compare(engine, a, b, np.array([[1]], np.uint16))


def test_an_infinite_product_beside_a_small_accumulator() -> None:
    for name in ("bf16", "fp16", "fp32"):
        a, b = np.array([[np.inf, 0]]), np.array([[1.0], [0]])
        for c in (-1.0, -1e-5):
            assert matmul(a, b, [[c]], engine=name).item() == np.inf


# ---- arrays ---------------------------------------------------------------------------------------------------------
def test_layouts_batches_and_threads(threads: None) -> None:
    rng = generator("layouts")
    for name in (
        "hopper.wgmma.fp16.fp32",
        "hopper.mma.e4m3.fp16",
        "fp16",
        "bf16",
        "fp32",
        "b200.tcgen05.e2m1.nvf4.fp32",
    ):
        engine = ENGINES[name]
        a, b = draw("finite", rng, engine.a, (2, 1, 150, 70)), draw("finite", rng, engine.b, (3, 70, 140))
        c = draw("finite", rng, engine.accumulator, (2, 3, 150, 140))
        blocks = scales(rng, engine, 150, 140, 70)
        set_threads(1)
        wanted = matmul(a, b, c, engine=engine, **blocks)
        assert wanted.shape == (2, 3, 150, 140)
        set_threads(3)
        assert np.array_equal(matmul(a, b, c, engine=engine, **blocks), wanted)
        turned = np.ascontiguousarray(b.swapaxes(-1, -2)).swapaxes(-1, -2)
        swapped = a.astype(a.dtype.newbyteorder(">"))
        assert np.array_equal(matmul(swapped, turned, np.asfortranarray(c), engine=engine, **blocks), wanted)
        one = matmul(a[1, 0], b[2], c[1, 2], engine=engine, **blocks)
        assert np.array_equal(one, wanted[1, 2])
        out = np.empty_like(wanted)
        assert matmul(a, b, c, engine=engine, out=out, **blocks) is out
        assert np.array_equal(out, wanted)


def test_a_stack_of_dot_products_is_their_matrix() -> None:
    """Many small matrices run as pairs, a lane each."""
    rng = generator("pairs")
    for name in (
        "ampere.mma.fp16.fp32",
        "hopper.mma.e4m3.fp32",
        "b200.tcgen05.e4m3.mxf8f6f4.fp32",
        "b200.tcgen05.e2m1.nvf4.fp32",
    ):
        engine = ENGINES[name]
        a, b = draw("raw", rng, engine.a, (600, 2, 50)), draw("raw", rng, engine.b, (600, 50, 1))
        c = draw("raw", rng, engine.accumulator, (600, 2, 1))
        blocks = {}
        if engine.scaling is not None:
            count = -(-50 // engine.scaling.block)
            blocks = {
                "a_scales": draw("raw", rng, engine.scaling.format, (600, 2, count)),
                "b_scales": draw("raw", rng, engine.scaling.format, (600, count, 1)),
            }
        whole = matmul(a, b, c, engine=engine, **blocks)
        assert host_matmul._is_paired(whole.shape)
        for i in range(0, 600, 37):
            single = matmul(a[i], b[i], c[i], engine=engine, **{key: x[i] for key, x in blocks.items()})
            assert np.array_equal(whole[i], single), (name, i)


def test_values_are_rounded_to_the_inputs_first() -> None:
    rng = generator("values")
    x, y = rng.standard_normal((20, 30)), rng.standard_normal((30, 10)).astype(np.float32)
    for name in (
        "hopper.wgmma.e4m3.fp32",
        "hopper.wgmma.tf32.fp32",
        "ampere.mma.fp16.fp16",
        "bf16",
        "ampere.mma.fp64.fp64",
    ):
        engine = ENGINES[name]
        values = matmul(x, y, engine=engine)
        assert values.dtype == (np.float64 if "fp64" in name else np.float32)
        if "fp64" not in name:
            codes = matmul(fp.encode(x, engine.a), fp.encode(y, engine.b), engine=engine)
            assert np.array_equal(fp.encode(values, engine.accumulator), codes)
            assert np.array_equal(matmul(fp.encode(x, engine.a), y, engine=engine), codes)
    assert np.allclose(matmul(x, y, engine="blas"), x @ y, rtol=1e-5, atol=1e-5)


def test_tf32_ignores_the_low_bits() -> None:
    rng = generator("tf32")
    a, b = draw("raw", rng, fp.FORMATS["float32"], (20, 30)), draw("raw", rng, fp.FORMATS["float32"], (30, 10))
    cut = np.uint32(0xFFFFE000)
    engine = "hopper.wgmma.tf32.fp32"
    assert np.array_equal(matmul(a, b, engine=engine), matmul(a & cut, b & cut, engine=engine))


@pytest.mark.parametrize("name", ["hopper.wgmma.fp16.fp32", "fp32", "fp16", "ampere.mma.fp64.fp64"])
def test_nothing_to_add(name: str) -> None:
    engine = ENGINES[name]
    codes = np.empty((3, 0), engine.a.code_dtype), np.empty((0, 2), engine.b.code_dtype)
    assert not matmul(*codes, engine=engine).any()
    c = draw("raw", generator(name, "nothing"), engine.accumulator, (3, 2))
    got = matmul(*codes, c, engine=engine)
    values, wanted = (x.view(np.float64) if x.itemsize == 8 else fp.decode(x, engine.accumulator) for x in (got, c))
    assert np.array_equal(values, wanted, equal_nan=True)
    assert matmul(np.empty((0, 4)), np.empty((4, 2)), engine=engine).shape == (0, 2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"a": np.ones(3)}, ValueError, "a must have at least two dimensions"),
        ({"b": np.ones((4, 2))}, ValueError, "differ in K: 3 and 4"),
        ({"c": np.ones((5, 5))}, ValueError, "does not broadcast"),
        ({"a": np.ones((2, 2, 3)), "b": np.ones((3, 3, 2))}, ValueError, "leading dimensions do not broadcast"),
        ({"a": np.ones((2, 3), complex)}, TypeError, "a: values of dtype complex128 are not taken"),
        ({"a": np.full((2, 3), 1 << 16)}, ValueError, "codes 0 to 0xffff"),
        ({"engine": 3}, TypeError, "engine must be a name or an Engine"),
        ({"promote_every": 24}, ValueError, "multiple of the 16 products"),
        ({"promote_every": 2.0}, TypeError, "must be an int"),
        ({"promote_every": 32, "engine": "fp16"}, ValueError, "is none"),
        ({"promote_every": 64, "engine": "hopper.mma.e4m3.fp32"}, ValueError, "already adds every 32"),
        ({"a_scales": np.ones((2, 1))}, TypeError, "takes no block scales"),
        ({"engine": "b200.tcgen05.e2m1.mxf4.fp32"}, TypeError, "needs a_scales and b_scales"),
        ({"out": np.ones((2, 2), np.float64)}, TypeError, "out must have dtype float32"),
        ({"out": np.ones((2, 1), np.float32)}, ValueError, "out must have shape"),
    ],
)  # fmt: skip
def test_bad_input(change: dict[str, Any], error: type[Exception], message: str) -> None:
    call: dict[str, Any] = {"a": np.ones((2, 3)), "b": np.ones((3, 2)), "engine": "hopper.wgmma.fp16.fp32", **change}
    with pytest.raises(error, match=message):
        matmul(call.pop("a"), call.pop("b"), call.pop("c", None), **call)


def test_scales_must_fit() -> None:
    call = {"engine": "b200.tcgen05.e2m1.mxf4.fp32", "a_scales": np.ones((2, 2)), "b_scales": np.ones((3, 2))}
    with pytest.raises(ValueError, match=r"b_scales must end in \(2, 2\), one scale for 32 values"):
        matmul(np.ones((2, 64)), np.ones((64, 2)), **call)


def test_an_engine_of_a_library_is_named_so() -> None:
    assert isinstance(ENGINES["blas"].arithmetic, Library)
    assert not ENGINES["blas"].reproducible
    assert ENGINES["fp32"].reproducible


# ---- what is published about them -----------------------------------------------------------------------------------
def test_a_sum_of_fp8_products_sticks() -> None:
    """Hopper's FP8 accumulator: 1/16 times 1/16, over and over, ends at 64 exactly (a GH200, reported for wgmma)."""
    a, b = np.full((1, 32_768), 1 / 16), np.full((32_768, 1), 1 / 16)
    assert matmul(a, b, engine="hopper.wgmma.e4m3.fp32").item() == 64.0
    assert matmul(a, b, engine="hopper.wgmma.e4m3.fp32", promote_every=128).item() == 128.0
    assert matmul(a, b, engine="hopper.mma.e4m3.fp32").item() == 128.0


def test_one_probe_tells_generations_apart() -> None:
    """FTTN (arXiv 2403.00232), their probe of how many bits survive below the largest exponent, in our own numbers."""
    a, b = np.array([[1, 2.0**-12, -1]]), np.array([[1], [2.0**-13], [1]])
    kept = {
        name: matmul(a, b, engine=f"{name}.fp16.fp32").item() for name in ("volta.mma", "ampere.mma", "hopper.wgmma")
    }
    assert kept == {"volta.mma": 0.0, "ampere.mma": 0.0, "hopper.wgmma": 2.0**-25}


@pytest.mark.parametrize("name", ["hopper.wgmma.fp16.fp32", "b200.tcgen05.e4m3.mxf8f6f4.fp32", "bf16", "fp32"])
@pytest.mark.parametrize("shape", [(7, 3, 40, 5), (2, 9, 33, 64), (1, 4, 8, 2)])
def test_narrow_products_of_a_stack_do_not_meet(name: str, shape: tuple[int, ...]) -> None:
    """Several share a tile: each is what it is alone, beside NaNs, infinities and accumulators of its own."""
    engine, (batch, rows, k, columns) = fp.ENGINES[name], shape
    rng = np.random.default_rng(batch)

    def codes(format: fp.FloatFormat, *size: int) -> Any:
        return rng.integers(0, 1 << format.bits, size, np.uint64).astype(format.code_dtype)

    a, b, c = (
        codes(engine.a, batch, rows, k),
        codes(engine.b, k, columns),
        codes(engine.accumulator, batch, rows, columns),
    )
    scales: dict[str, Any] = {}
    if engine.scaling is not None:
        blocks = -(-k // engine.scaling.block)
        scales = {
            "a_scales": codes(engine.scaling.format, batch, rows, blocks),
            "b_scales": codes(engine.scaling.format, blocks, columns),
        }
    together = fp.matmul(a, b, c, engine=engine, **scales)
    for place in range(batch):
        own = scales | ({"a_scales": scales["a_scales"][place]} if scales else {})
        np.testing.assert_array_equal(together[place], fp.matmul(a[place], b, c[place], engine=engine, **own))
