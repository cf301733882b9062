"""Does e03 tell right libraries from wrong ones, survive those that are missing or cannot run, and judge what was published?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from implementations import JIT

import fpemu as fp
from analysis import figures, runner
from analysis.experiment import Profile, load, names
from fpemu.testing.conformance import conformance
from fpemu.testing.peers import Peer

pytest.importorskip("ml_dtypes")
pytestmark = pytest.mark.skipif(not JIT, reason="takes too long without the compiler")

experiment: Any = load("e03_conformance")
PROFILE = Profile()


def _like(**policies: Any) -> Any:
    return lambda source, target: lambda x: fp.encode(x, fp.STACKS["torch"].cast(target, source=source), **policies)


def _raises(source: str, target: str) -> Any:
    raise ImportError("no compiler")


def _peer(stack: str, package: str, convert: Any, *targets: str) -> Peer:
    others = {to for _, to in fp.STACKS[stack]} - set(targets)
    return Peer(stack, package, convert, ("bfloat16",), skips=tuple(others))


TWO = ("float8_e4m3fn", "float8_e5m2")
PRETENDED = (
    _peer("torch>=2.13", "numpy", _like(), *TWO),
    _peer("torch<=2.12", "numpy", _like(rounding="nearest-away"), *TWO),
    _peer("xla", "ml_dtypes", _raises, "float8_e5m2"),
    _peer("gfloat", "no-such-package", _raises, "float8_e5m2"),
)


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> dict[str, pd.DataFrame]:
    return _measured(monkeypatch, PRETENDED)


def _measured(monkeypatch: pytest.MonkeyPatch, peers: tuple[Peer, ...]) -> dict[str, pd.DataFrame]:
    """Tables of pretended libraries, which run in this process: a closure does not travel to another."""
    monkeypatch.setattr(experiment, "PEERS", peers)
    monkeypatch.setattr(experiment, "outcomes", lambda peer: list(conformance([peer])))
    parts = [experiment.measure(unit, PROFILE) for unit in experiment.plan(PROFILE)]
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: pd.concat([part[name] for part in parts if name in part], ignore_index=True) for name in names}


def test_each_library_gets_its_verdict(tables: dict[str, pd.DataFrame]) -> None:
    assert tables["libraries"].cases.tolist() == [2, 2, 1, 0]
    cases = tables["cases"].set_index(["stack", "target"])
    assert cases.verdict.tolist() == ["standard"] * 2 + ["neither"] * 2 + ["could not run"]
    assert cases.note["xla", "float8_e5m2"] == "ImportError: no compiler"
    wrong = cases.loc[("torch<=2.12", "float8_e5m2")]
    assert wrong.tried_of_policy == 65536 and wrong.fault_of_policy == "ties away" and 0 < wrong.wrong_of_policy < 65536


def test_the_verdict_counts_and_names_what_is_wrong(tables: dict[str, pd.DataFrame]) -> None:
    verdict = experiment.verdict(tables)
    assert verdict.status == "no claim"  # what is published is about other sources than these
    assert "Of 5 conversions of 2 packages 2 are as a standard says" in verdict.summary
    assert "2 neither" in verdict.summary and "1 could not be run" in verdict.summary
    assert "Not installed: gfloat (no-such-package)." in verdict.summary
    told = [finding.measured for finding in verdict.findings]
    assert any("ties away" in text for text in told) and "could not be run: ImportError: no compiler" in told


@pytest.mark.parametrize("kept", [True, False])
def test_published_claims_are_judged(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch saturates E4M3 and not E5M2: a library that does as it says, and one that saturates both."""

    def convert(source: str, target: str) -> Any:
        cast = fp.STACKS["torch"].cast(target, source=source)
        return lambda x: fp.encode(x, cast if kept else cast.replace(overflow="saturate"))

    skips = tuple({to for _, to in fp.STACKS["torch"]} - set(TWO))
    peer = Peer("torch>=2.13", "numpy", convert, ("float32", "float64"), skips=skips)
    verdict = experiment.verdict(_measured(monkeypatch, (peer,)))
    assert verdict.status == ("holds" if kept else "holds with conditions")
    assert f"{3 if kept else 1} of 3 published claims about them hold" in verdict.summary


def test_the_heat_map_has_a_cell_a_case(tables: dict[str, pd.DataFrame]) -> None:
    with figures.style():
        figure = experiment.draw(tables)["conformance"]
        assert len(figures.png_bytes(figure)) <= figures.MAX_PNG_BYTES
    states = figure.axes[0].images[0].get_array()
    assert states is not None and states.shape == (2, 3) and np.isfinite(states.filled(np.nan)).sum() == 5
    counts = tables["cases"].query("verdict == 'neither'").wrong_of_policy
    assert {text.get_text() for text in figure.axes[0].texts} == {experiment._count(count) for count in counts}
    assert [experiment._count(count) for count in (9_999, 10_000, 130_486)] == ["9,999", "10k", "130k"]


def test_without_any_library_it_claims_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = _measured(monkeypatch, PRETENDED[3:])
    assert experiment.draw(tables) == {} and experiment.verdict(tables).status == "no claim"


def test_a_changed_version_is_another_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "PEERS", PRETENDED)
    before = experiment.plan(PROFILE)
    for peer in PRETENDED[:3]:
        monkeypatch.setitem(vars(peer), "version", "99.0")
    after = experiment.plan(PROFILE)
    assert all(a != b for a, b in zip(before[:3], after[:3], strict=True)) and before[3] == after[3]


@pytest.mark.parametrize("installed", [None, (0, 9), (2, 0)])
def test_a_library_with_rows_by_release_is_one_unit(
    installed: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the release which is installed; where none is, one that says so."""
    new, old = PRETENDED[0], replace(PRETENDED[0], skips=("float8_e5m2",))
    peers = tuple(replace(peer) for peer in (replace(new, since=(1,)), replace(old, until=(1,))))
    for peer in peers:
        peer.__dict__["version"] = None if installed is None else ".".join(map(str, installed))
    monkeypatch.setattr(experiment, "PEERS", peers)
    (unit,) = experiment.plan(Profile())
    assert unit["version"] == ("absent" if installed is None else ".".join(map(str, installed)))
    tried: list[Peer] = []
    monkeypatch.setattr(experiment, "outcomes", lambda peer: tried.append(peer) or [])
    experiment.measure(unit, Profile())
    assert tried == ([] if installed is None else [peers[installed < (1,)]])


@pytest.mark.parametrize("name", names())
def test_no_plan_has_a_unit_twice(name: str) -> None:
    """Nor with nothing but what the tests need installed, as a newcomer's lab."""
    units = [repr(sorted(unit.items())) for unit in load(name).plan(Profile())]
    assert units and len(set(units)) == len(units)


def test_it_runs_in_the_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _measured(monkeypatch, PRETENDED[:1])
    runner.run(experiment, PROFILE, tmp_path)
    assert (tmp_path / "e03_conformance" / "result.json").exists()
