"""Do the verdicts of the experiments on scaling and training follow from their tables, and change when these do?

The published tables are read back: what is printed must be what they say, and a planted result must be seen.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from implementations import JIT

import fpemu as fp
from analysis import claims
from analysis.experiment import load
from analysis.results import Result
from fpemu import scaling
from tests.analysis.committed import committed_reports
from tests.analysis.lab import Tables, drawn

REPORTS = committed_reports()
pytestmark = pytest.mark.skipif(not JIT, reason="takes too long without the compiler")
Plant = Callable[[Tables], Tables]


def shifted(table: str, column: str, change: Callable[[Any], Any], **where: Any) -> Plant:
    """A table with a column changed in the rows that have these values."""

    def plant(tables: Tables) -> Tables:
        new = tables[table].copy()
        rows = np.logical_and.reduce([new[name] == value for name, value in where.items()] or [np.ones(len(new), bool)])
        new[column] = new[column].astype(float)
        new.loc[rows, column] = change(new.loc[rows, column])
        return {**tables, table: new}

    return plant


# What is planted, and the verdicts of which it must make one.
PLANTED: dict[str, tuple[Plant, tuple[str, ...]]] = {
    "e11": (shifted("lost", "new_zero", lambda x: 0 * x), ("does not hold at this scale",)),
    "e13": (
        shifted("runs", "loss", lambda x: x + 9, task="detector", recipe="fp16"),
        ("holds", "holds with conditions"),
    ),
    "e14": (shifted("stalls", "kept_below", lambda x: x + 0.1), ("does not hold at this scale",)),
    "e15": (shifted("runs", "loss", lambda x: 0 * x + 1), ("does not hold at this scale",)),
    "e16": (shifted("runs", "loss", lambda x: 0 * x + 1), ("does not hold at this scale",)),
    "e18": (shifted("tensors", "sqnr_db", lambda x: x - 20, format="e4m3"), ("does not hold at this scale",)),
    "e19": (shifted("steps", "zero", lambda x: 0 * x), ("holds with conditions",)),
    "e20": (shifted("growth", "steps", lambda x: 0 * x + 1, margin=-1), ("holds with conditions",)),
    "e21": (shifted("rules", "sqnr_db", lambda x: x + 1), ("holds with conditions",)),
    "e22": (shifted("gains", "bias", lambda x: 0 * x), ("does not hold at this scale",)),
    "e23": (shifted("schemes", "sqnr_db", lambda x: 0 * x + 10, scheme="NVFP4"), ("holds with conditions",)),
    "e24": (shifted("runs", "loss", lambda x: x + 9, recipe="plain"), ("holds with conditions",)),
    "e25": (shifted("means", "sqnr_db", lambda x: 0 * x + 1, rounding="stochastic"), ("does not hold at this scale",)),
    "e26": (shifted("ratios", "ratio", lambda x: x + 10), ("no claim",)),
    "e27": (shifted("steps", "step", lambda x: 0 * x + 1), ("holds with conditions",)),
    "e28": (shifted("zone", "scale", lambda x: 0 * x), ("does not hold at this scale",)),
    "e29": (shifted("errors", "error", lambda x: 0 * x + 0.01), ("does not hold at this scale",)),
    "e30": (shifted("steps", "count", lambda x: 0.01 * x), ("does not hold at this scale",)),
    "e31": (shifted("deaths", "dead", lambda x: 0 * x), ("does not hold at this scale",)),
    "e32": (shifted("sums", "error", lambda x: 0 * x + 1e-3), ("does not hold at this scale",)),
    "e33": (shifted("grids", "sqnr_db", lambda x: 0 * x + 20), ("does not hold at this scale",)),
    "e35": (shifted("runs", "ms", lambda x: 100 * x, recipe="bf16"), ("does not hold at this scale",)),
    "e37": (shifted("runs", "within", lambda x: 0 * x), ("does not hold at this scale",)),
    "e38": (shifted("runs", "explained", lambda x: x - 1, run="torch-03"), ("does not hold at this scale",)),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_verdict_follows_from_its_tables(name: str) -> None:
    experiment = load(name)
    result = Result.read(REPORTS / experiment.__name__.rpartition(".")[2])
    tables = result.tables()
    verdict = experiment.verdict(tables)
    assert verdict.status == result.record["verdict"]["status"]
    assert verdict.summary == result.record["verdict"]["summary"]
    plant, expected = PLANTED[name]
    assert verdict.status not in expected, "the plant would prove nothing"
    assert experiment.verdict(plant(tables)).status in expected


@pytest.mark.parametrize("name", ["e13", "e16", "e21", "e28", "e30", "e38"])
def test_figures_are_drawn_from_tables(name: str) -> None:
    experiment = load(name)
    drawn(experiment, Result.read(REPORTS / experiment.__name__.rpartition(".")[2]).tables())


# ---- arithmetic of single experiments -------------------------------------------------------------------------------
def test_blocks_die_at_half_of_the_smallest_scale() -> None:
    assert load("e31").threshold() == pytest.approx(2.0**-10 / 448, rel=1e-4)  # type: ignore[attr-defined]


def test_a_uniform_grid_by_hand() -> None:
    x = np.float32([[7.0, -3.4, 0.4, 0.6] + [0.0] * 12])
    assert load("e33").on_grid(x, "uniform")[0, :4].tolist() == [7.0, -3.0, 0.0, 1.0]  # type: ignore[attr-defined]


def test_pure_adam_is_torchs_order() -> None:
    """g = 1: m = 0.1, v = 0.001, root = sqrt(0.001 / 0.001) = 1 up to FP16, step 1e-3: 1 - 0.001 to FP16."""
    adam: Any = load("e27")
    w = adam.pure_adam(np.array([1.0, 0.0]), "fp16", 1e-8, 1)
    assert abs(w[0] - 0.999) <= 2.0**-11 and np.isnan(w[1])
    assert adam.pure_adam(np.array([1.0]), "bf16", 1e-8, 5)[0] == 1.0  # a step of 1e-3 is below half a spacing


def test_softmaxes_in_bf16_by_hand() -> None:
    kl: Any = load("e29")
    p = kl.softmax(np.log(np.array([[0.5, 0.25, 0.25]])))
    assert p.tolist() == [[0.5, 0.25, 0.25]] and np.array_equal(fp.quantize(p, "bf16"), p)


def test_a_rule_shrinks_as_counted() -> None:
    """[7, 0.5] under FLOOR: 7 becomes 6, so <q, x> / <x, x> = (42 + 0.25) / 49.25."""
    x = np.float32([[7.0, 0.5]])
    assert scaling.mx(x, "e2m1", block=2).errors(x).gain == pytest.approx(42.25 / 49.25)


# ---- the textbook claims --------------------------------------------------------------------------------------------
def _result(name: str, status: str) -> Result:
    record = {"experiment": name, "title": name, "verdict": {"status": status, "summary": ""}, "figures": []}
    return Result(Path(name), record)


def test_claims_follow_from_experiments() -> None:
    names = claims.CLAIMS[1].evidence
    for statuses, expected in (
        (("holds",) * 3, "holds"),
        (("does not hold at this scale",) * 3, "does not hold at this scale"),
        (("holds", "holds", "does not hold at this scale"), "holds with conditions"),
        (("holds", "no claim", "no claim"), "holds"),
        (("no claim",) * 3, "no claim"),
    ):
        found = claims.judged([_result(name, status) for name, status in zip(names, statuses, strict=True)])
        assert next(one for one in found if one.number == 2).status == expected
    quality = claims.judged([_result(name, "holds") for name in claims.CLAIMS[0].evidence])[0]
    assert quality.status == "holds with conditions" and "counted" in quality.why  # speed cannot hold without a GPU
    assert claims.judged([_result("e05_swamping", "holds")]) == []


def test_every_claim_names_experiments_that_are_there() -> None:
    from analysis.experiment import names

    for claim in claims.CLAIMS:
        assert {*claim.evidence, *claim.beside, *claim.gpus} <= set(names())
        assert claim.figure[1] in load(claim.figure[0]).CAPTIONS


def test_counted_bytes_by_hand() -> None:
    found = {cost.recipe: cost for cost in claims.costs()}
    assert found["fp32"].parameter == 4 + 4 + 8 and found["fp32"].activation == 4
    assert found["fp16-dynamic"].parameter == 4 + 2 + 2 + 8 and found["fp16-dynamic"].activation == 2
    assert found["bf16-pure"].parameter == 2 + 2 + 4
    assert found["mxfp8"].activation == 1 + 1 / 32 and found["nvfp4"].operands == 1 + 1 / 16 + 1 / 256


def test_pages_tell_the_claims(tmp_path: Path) -> None:
    from analysis import report

    results = report._results(REPORTS)
    text = report.claims_page(results)
    third = text.split('<a id="claim-3"></a>')[1].split('<a id="claim-4"></a>')[0]
    runs = next(result for result in results if result.folder.name == "e38_real_runs").record
    assert f"*What real GPUs did:* ✓ {runs['verdict']['summary']}" in third and text.count("What real GPUs did") == 1
    row = report.page(results).split(f"3. {claims.CLAIMS[2].text}")[1].split("</tr>")[0]
    assert '<a href="#e38_real_runs">What real GPUs did</a>' in row
    for claim in claims.CLAIMS:
        assert claim.text in text and claim.text.replace("'", "&#39;") in report.page(results)
    assert "Counted from the recipes, not measured" in text
    assert text.count("What only a GPU can tell") >= 4
