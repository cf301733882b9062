"""Are differences counted right, inputs what they are said to be, and the chips in the groups of the claims?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from implementations import JIT

import fpemu as fp
from analysis.experiment import Profile, load
from tests.analysis.lab import Tables, drawn, measured

pytestmark = pytest.mark.skipif(not JIT, reason="takes too long without the compiler")
e09: Any = load("e09_generations")


@pytest.fixture(scope="module")
def tables() -> Tables:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(e09, "SIZES", {"quick": 16})
        patch.setattr(e09, "DEPTHS", {"quick": (4, 16, 64, 1024)})
        return measured(e09, Profile("quick", 2))


def test_units_in_the_last_place_count_the_values_between() -> None:
    bits = np.array([0x80000001, 0x80000000, 0, 1, 0x3F800000, 0x3F800001], np.uint32)
    assert e09._order(bits, "float32").tolist() == [-1, 0, 0, 1, 0x3F800000, 0x3F800001]
    found = e09.compare(bits[[0, 4, 5]], bits[[3, 4, 4]], "float32", np.array([1.0, 1, 0.5]))
    assert found == {"differing": 0.666667, "ulps": 1.5, "most_ulps": 2, "difference": float(f"{2**-22:.3g}")}
    assert e09.compare(bits, bits, "float32", np.ones(6))["differing"] == 0


@pytest.mark.parametrize("source", ["float16", "float8_e4m3fn"])
@pytest.mark.parametrize("depth", [4, 8, 16, 64])
def test_cancelling_inputs_cancel_but_for_a_residue(source: str, depth: int) -> None:
    a, b = e09.MAKE[e09.CANCELLING](np.random.default_rng(0), fp.FORMATS[source], 20, depth)
    x, y = (fp.decode(codes, source).astype(np.float64) for codes in (a, b))
    left = np.abs(x @ y) / (np.abs(x) @ np.abs(y))  # all exact in float64
    assert 0 < np.median(left) < 1e-2 and (left > 0).mean() > 0.5


@pytest.mark.parametrize("inputs", e09.INPUTS)
@pytest.mark.parametrize("kind", e09.KINDS, ids=lambda kind: kind.name)
def test_no_result_overflows(inputs: str, kind: Any) -> None:
    a, b = e09.MAKE[inputs](np.random.default_rng(1), fp.FORMATS[kind.source], 16, 1024)
    for chip in e09.chips_of(kind):
        codes = fp.matmul(a, b, engine=f"{chip}.{kind.ending}")
        assert np.isfinite(fp.decode(codes, kind.accumulator)).all()


def test_chips_fall_into_the_groups_of_the_claims(tables: Tables) -> None:
    fp16, half, fp8 = (e09.arithmetics(tables["pairs"], kind) for kind in e09.KINDS)
    modern = ["hopper.mma", "hopper.wgmma", "b200.mma", "b200.tcgen05", "rtx-blackwell.mma"]
    assert fp16 == half == [["volta.mma"], ["turing.mma", "ampere.mma", "ada.mma"], modern]
    assert fp8 == [["ada.mma"], ["hopper.mma", "b200.mma"], ["hopper.wgmma"], ["b200.tcgen05", "rtx-blackwell.mma"]]


def test_a_chip_joins_a_group_only_if_it_agrees_with_every_one_of_it(tables: Tables) -> None:
    pairs, kind = tables["pairs"], e09.KINDS[0]
    apart = (pairs["first"] == "turing.mma") & (pairs.second == "ada.mma")
    changed = pairs.assign(differing=pairs.differing.where(~apart, 1e-6))
    assert e09.arithmetics(changed, kind)[1:3] == [["turing.mma", "ampere.mma"], ["ada.mma"]]


@pytest.mark.parametrize(
    ("count", "text"),
    [(2.4, "2"), (999, "999"), (1000, "1k"), (2400, "2k"), (999_499, "999k"), (1e6, "1M"), (2.4e6, "2M")],
)
def test_counts_in_four_characters(count: float, text: str) -> None:
    assert e09._short(count) == text


def test_verdict_and_figures_follow(tables: Tables) -> None:
    assert e09.verdict(tables).status == "holds"
    drawn(e09, tables)
    pairs = tables["pairs"]
    same = pairs.assign(differing=pairs.differing.where(pairs["first"] != "volta.mma", 0.0))
    apart = pairs.assign(differing=pairs.differing.where(pairs.second != "b200.mma", 0.5))
    for wrong in (same, apart):
        assert e09.verdict({"pairs": wrong}).status == "does not hold at this scale"
