"""Is the exact product exact, promotion at the end no promotion, and the shrinkage where signs agree?"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from implementations import JIT

import fpemu as fp
from analysis.experiment import Profile, load
from tests.analysis.lab import Tables, drawn, measured

pytestmark = pytest.mark.skipif(not JIT, reason="takes too long without the compiler")
e08: Any = load("e08_fp8_accumulator")


@pytest.fixture(scope="module")
def tables() -> Tables:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(e08, "SIZES", {"quick": 24})
        patch.setattr(e08, "DEPTHS", {"quick": [128, 1024, 4096]})
        return measured(e08, Profile("quick", 2))


def test_the_exact_product_is_exact() -> None:
    random = np.random.default_rng(0)
    a, b = e08._codes(random.standard_normal((2, 500)) * 9), e08._codes(random.standard_normal((500, 2)))
    rows, columns = fp.decode(a, e08.INPUT), fp.decode(b, e08.INPUT).T
    expected = [
        [float(sum(Fraction(float(x)) * Fraction(float(y)) for x, y in zip(r, c, strict=True))) for c in columns]
        for r in rows
    ]
    assert e08._exact(a, b).tolist() == expected


def test_errors_of_a_known_result() -> None:
    exact = np.array([3.0, -4.0])
    found = e08.errors(0.75 * exact, exact)
    unit = np.sqrt(12.5)
    assert found["slope"] == -0.25 and found["beside"] == 0 and found["largest_relative"] == 0.25
    assert found["largest"] == pytest.approx(1 / unit) and found["rms"] == pytest.approx(0.25)
    across = e08.errors(exact + np.array([0.4, 0.3]), exact)
    assert across["slope"] == pytest.approx(0, abs=1e-15) and across["beside"] == pytest.approx(across["rms"])


def test_promotion_after_the_last_product_is_none(tables: Tables) -> None:
    keys = ["inputs", "seed"]
    whole = tables["intervals"].query("every == 4096").set_index(keys)
    plain = tables["depths"].query("depth == 4096 and line == 'Hopper wgmma'").set_index(keys)
    assert whole.rms.to_dict() == plain.rms.to_dict()
    assert (tables["intervals"].groupby(keys).rms.apply(lambda rms: rms.is_monotonic_increasing)).all()


def test_the_long_accumulators_are_nearly_exact(tables: Tables) -> None:
    depths = tables["depths"]
    short = depths.line.str.contains("wgmma|Ada")
    assert depths[~short].rms.max() < 1e-6 < depths[short].rms.min()


def test_verdict_and_figures_follow(tables: Tables) -> None:
    assert e08.verdict(tables).status == "holds with conditions"
    drawn(e08, tables)
    depths = tables["depths"]
    promoted = depths.line.str.contains("promoted")
    for wrong in (depths.assign(slope=-depths.slope), depths.assign(rms=depths.rms.where(~promoted, depths.rms * 50))):
        assert e08.verdict({**tables, "depths": wrong}).status == "does not hold at this scale"
