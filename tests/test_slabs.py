"""Does work in slabs change no bit, no random word, no index of an error, and keep memory small?"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from implementations import JIT

import fpemu as fp
from fpemu import arithmetic, scaling
from fpemu.scaling import blocks
from fpemu.targets import host_arithmetic

pytestmark = pytest.mark.skipif(not JIT, reason="takes too long without the compiler")
RNG = np.random.default_rng(11)
X, Y = (RNG.standard_normal((6, 40)).astype(np.float32) * np.float32(3) for _ in range(2))
X[1, 3], X[2, :3], Y[3, 3] = np.inf, 0, -np.inf
CODES = fp.encode(Y, "fp16")

OPERATIONS: dict[str, Callable[[], Any]] = {
    "add": lambda: fp.add(X, Y, "fp16"),
    "add, of float32": lambda: fp.add(X, Y, "fp32"),
    "add, at random": lambda: fp.add(X, Y, "fp16", rounding="stochastic", seed=3, offset=2**64 - 5),
    "add, by way of": lambda: fp.add(X, Y, "e4m3", via="fp16", rounding="stochastic", seed=3),
    "add, codes by way of": lambda: fp.add(CODES, CODES, "fp16", via="fp32"),
    "add, mixed": lambda: fp.add(CODES, X, "fp16"),
    "add, broadcast": lambda: fp.add(X, Y[0], "fp16"),
    "add, a column": lambda: fp.add(X[:, :1], Y, "fp16"),
    "add, a number": lambda: fp.add(X, 1.5, "fp16"),
    "add, turned": lambda: fp.add(X.T, Y.T, "fp16", rounding="stochastic"),
    "fma": lambda: fp.fma(X, Y, X, "bf16"),
    "negate": lambda: fp.negate(X, "fp16"),
    "absolute, codes": lambda: fp.absolute(CODES, "fp16"),
    "compare": lambda: fp.compare(X, CODES, "fp16"),
    "minimum": lambda: fp.minimum(X, Y, "e5m2"),
}
SCHEMES: dict[str, Callable[[], scaling.Scaled]] = {
    "mx, axis 0": lambda: scaling.mx(X, "e4m3", axis=0, block=4),
    "mx, at random": lambda: scaling.mx(X, "e2m1", block=16, rounding="stochastic", seed=5, offset=2**64 - 9),
    "mx, element": lambda: scaling.mx(X, "e4m3", block=32, special="element"),
    "nvfp4": lambda: scaling.nvfp4(X),
    "nvfp4, four over six": lambda: scaling.nvfp4(X, (4, 16), rule="transformer-engine", four_over_six=True),
    "nvfp4, at random": lambda: scaling.nvfp4(X, rule="torchao", rounding="stochastic", seed=1),
    "tiles": lambda: scaling.tiles(X, "e4m3", (1, 16)),
    "tiles, square": lambda: scaling.tiles(X, "e5m2", (4, 16), rounding="stochastic"),
    "tiles, high": lambda: scaling.tiles(X, "e4m3", (6, 16), rule="torchao"),
    "per_tensor": lambda: scaling.per_tensor(X, "e4m3", rounding="stochastic", offset=7),
    "per_tensor, one axis": lambda: scaling.per_tensor(X.reshape(-1), "e4m3"),
    "per_tensor, one code": lambda: scaling.per_tensor(np.ones((4, 60), np.float32), "e4m3"),
    "per_tensor, two codes": lambda: scaling.per_tensor(np.repeat(np.float32([1, 2]), 120), "e4m3"),
    "delayed": lambda: scaling.DelayedScaling("e4m3").quantize(X),
}


@pytest.mark.parametrize("most", [1, 7, 80, 100])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_do_not_depend_on_slabs(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = OPERATIONS[name]()
    monkeypatch.setattr(arithmetic, "SLAB", most)
    monkeypatch.setattr(host_arithmetic, "VIA", most)
    monkeypatch.setattr(host_arithmetic, "PIECE", most)
    np.testing.assert_array_equal(OPERATIONS[name]().view(f"u{whole.itemsize}"), whole.view(f"u{whole.itemsize}"))


@pytest.mark.parametrize("most", [1, 40, 100])
@pytest.mark.parametrize("name", SCHEMES)
def test_schemes_do_not_depend_on_slabs(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = SCHEMES[name]()
    monkeypatch.setattr(blocks, "SLAB", most)
    cut = SCHEMES[name]()
    for part in ("codes", "scales", "fates", "global_scale", "encode_scales"):
        np.testing.assert_array_equal(getattr(cut, part), getattr(whole, part), err_msg=part)


def test_what_became_of_a_block_is_told_from_all_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "SLAB", 40)
    assert SCHEMES["per_tensor, one code"]().single_code == 1
    assert SCHEMES["per_tensor, two codes"]().single_code == 0
    late = scaling.per_tensor(np.where(np.arange(200) < 199, 0, 1).astype(np.float32), "e4m3")
    assert (late.occupied, late.several, late.dead, late.clipped) == (1, 0, 0, 0)


def test_slabs_are_whole_blocks_and_cover_an_array_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "SLAB", 50)
    for shape, cut in (
        ((1, 30, 5), (1, 4, 5)),
        ((200,), (16,)),
        ((7, 9), (3, 1)),
        ((40, 1), (40, 1)),
        ((), ()),
        ((0, 4), (1, 4)),
    ):
        index = np.arange(int(np.prod(shape))).reshape(shape)
        many = blocks.slabs(shape, cut)
        firsts = [int(index[slab.elements].reshape(-1)[0]) for slab in many if index.size]
        assert firsts == [slab.first for slab in many if index.size]
        assert [n for slab in many for n in index[slab.elements].reshape(-1)] == list(range(index.size))
        assert all(
            np.empty(blocks.blocks_shape(shape, cut))[slab.blocks].shape
            == blocks.blocks_shape(index[slab.elements].shape, cut)
            for slab in many
        )
    assert len(blocks.slabs((200,), (16,))) == 5 and len(blocks.slabs((7, 9), (7, 9))) == 1
    assert len(blocks.slabs((7, 9), (7, 9), within=True)) == 2


# ---- errors and outputs ---------------------------------------------------------------------------------------------
def test_a_nan_that_is_found_late_leaves_nothing_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "SLAB", 16)
    x, y = np.ones((5, 8), np.float32), np.ones((5, 8), np.float32)
    x[3, 2], y[3, 2] = np.inf, -np.inf
    for options in ({}, {"via": "fp16"}):
        out = np.full((5, 8), 7, np.float32)
        with pytest.raises(ValueError, match=r"NaN at index \(3, 2\)"):
            fp.add(x, y, "e5m2", out=out, nan="raise", **options)  # type: ignore[arg-type]
        assert (out == 7).all()
    kept = np.full((5, 8), 9, np.uint8)
    with pytest.raises(ValueError, match=r"NaN at index \(3, 2\)"):
        fp.add(fp.encode(x, "e5m2"), y, "e5m2", nan="raise", out=kept)
    assert (kept == 9).all()
    x[3, 2] = np.nan  # of an operand
    with pytest.raises(ValueError, match=r"NaN at index \(3, 2\) cannot become float8_e5m2"):
        fp.add(x, y, "e5m2", nan="raise")
    good = fp.add(np.zeros((5, 8), np.float32), 1.0, "e5m2", nan="raise", out=np.zeros((5, 8), np.float32))
    assert (good == 1).all()


def test_a_nan_in_a_later_slab_of_a_scheme_has_its_own_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "SLAB", 16)
    x = np.ones((6, 8), np.float32)
    x[4, 5] = np.nan
    for make in (lambda: scaling.tiles(x, "e2m1", (1, 4)), lambda: scaling.per_tensor(x, "e2m1")):
        with pytest.raises(ValueError, match=r"NaN at index \(4, 5\)"):
            make()


@pytest.mark.parametrize("overlap", ["the same", "shifted", "reversed", "broadcast", "both"])
def test_an_output_may_be_an_operand(overlap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held = np.arange(1, 122, dtype=np.float32)
    x, y, out = {
        "the same": (held[:60], held[60:120], held[:60]),
        "shifted": (held[:60], held[60:120], held[1:61]),
        "reversed": (held[:60], held[60:120], held[59::-1]),
        "broadcast": (held[:60].reshape(6, 10), held[20:30], held[:60].reshape(6, 10)),
        "both": (held[:60], held[1:61], held[:60]),
    }[overlap]
    expected = fp.add(x.copy(), y.copy(), "fp32")
    monkeypatch.setattr(arithmetic, "SLAB", 7)
    assert fp.add(x, y, "fp32", out=out) is out
    np.testing.assert_array_equal(out, expected)


# ---- memory ---------------------------------------------------------------------------------------------------------
BIG = RNG.standard_normal((512, 1024)).astype(np.float32)  # below the size at which loops of their own are compiled
HUGE = np.concatenate([BIG] * 8)
MEMORY: dict[str, tuple[Callable[[], Any], int]] = {  # a call, and the bytes of its operands
    "add": (lambda: fp.add(BIG, BIG, "fp16"), 2 * BIG.nbytes),
    "add, float32": (lambda: fp.add(BIG, BIG, "fp32"), 2 * BIG.nbytes),
    "multiply, a column": (lambda: fp.multiply(BIG, BIG[:, :1], "bf16"), BIG.nbytes),
    "fma": (lambda: fp.fma(BIG, BIG, BIG, "e4m3"), 3 * BIG.nbytes),
    "by way of": (lambda: fp.add(BIG, BIG, "e4m3", via="fp32"), 2 * BIG.nbytes),
    "negate": (lambda: fp.negate(BIG, "fp16"), BIG.nbytes),
    "compare": (lambda: fp.compare(BIG, BIG, "fp32"), 2 * BIG.nbytes),
    "mx, axis 0": (lambda: scaling.mx(HUGE, "e4m3", axis=0), HUGE.nbytes),
    "nvfp4": (lambda: scaling.nvfp4(HUGE), HUGE.nbytes),
    "tiles": (lambda: scaling.tiles(HUGE, "e4m3"), HUGE.nbytes),
    "per_tensor": (lambda: scaling.per_tensor(HUGE, "e4m3"), HUGE.nbytes),
}


def _bytes_of(result: Any) -> int:
    if isinstance(result, scaling.Scaled):
        return result.codes.nbytes + result.scales.nbytes + result.fates.nbytes
    return int(result.nbytes)


@pytest.mark.parametrize("name", MEMORY)
def test_memory_stays_within_half_as_much_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is held at the peak is at most 1.5 times operands and result (the slow loops, which need no compilation)."""
    monkeypatch.setattr(host_arithmetic, "SPECIALISE_FROM", 1 << 60)
    call, operands = MEMORY[name]
    call()  # (what is compiled is not counted)
    tracemalloc.start()
    try:
        result = call()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert operands + peak <= 1.5 * (operands + _bytes_of(result)), f"{peak / operands:.2f} of the operands"
