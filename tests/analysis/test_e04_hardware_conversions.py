"""Does the experiment say nothing without a recording, and show what a recording holds, with its differences in their place?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from gpu_stand_in import SOME, Fault, StandIn
from implementations import JIT
from matplotlib.figure import Figure

from analysis import figures, report, runner
from analysis.experiment import Profile, load
from analysis.gpu.inputs import Codes
from analysis.gpu.parts import PARTS
from analysis.gpu.record import record
from analysis.gpu.speed import Timing, missing, timing

pytestmark = pytest.mark.skipif(not JIT, reason="takes too long without the compiler")

hardware: Any = load("e04_hardware_conversions")
PROFILE = Profile()
SATFINITE, TF32, TORCH = "ptx-fp32-fp16-rn-satfinite", "ptx-fp32-tf32-rn", "torch-fp32-e4m3"


def saturates_not(inputs: Codes, codes: Codes) -> Codes:
    return np.where(codes & 0x7FFF == 0x7BFF, codes + 1, codes).astype(np.uint16)


def other_nan(inputs: Codes, codes: Codes) -> Codes:
    return np.where(codes == 0x7FFFE000, np.uint32(0x7FC00000), codes)


FAULTS: dict[str, Fault] = {SATFINITE: saturates_not, TF32: other_nan}


class Pretended(StandIn):
    """A stand-in that says it is a GPU: what it records never leaves a test's folder."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(gpu=True, **options)
        self.name = name

    def facts(self) -> dict[str, Any]:
        return {"is_gpu": True, "name": self.name}

    def timings(self) -> list[Timing]:
        return [
            timing("float16", "device copy", 1 << 28, 6 << 28, [0.001], 0.001),
            timing("float16", "fpemu.encode", 1 << 28, 6 << 28, [0.00125], 0.001),
            missing("float16", "torch", 1 << 28, 6 << 28, ImportError("no torch")),
        ]


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(hardware, "RECORDINGS", tmp_path / "recordings")
    return tmp_path


def quiet(line: str) -> None:
    """What the recorder tells is not looked at."""


def test_without_a_recording_nothing_is_claimed(reports: Path) -> None:
    outcome = runner.run(hardware, PROFILE, reports)
    assert outcome.verdict.status == "no claim" and outcome.verdict.findings == ()
    assert outcome.verdict.summary.startswith("No recording yet: `python -m analysis.gpu record conversions`")
    result = json.loads((reports / "e04_hardware_conversions" / "result.json").read_text())
    assert result["figures"] == [] and [table["rows"] for table in result["tables"]] == [0]
    report.write(reports)
    assert report.problems(reports) == []
    for page in ("README.md", "index.html"):
        text = (reports / page).read_text()
        assert "No recording yet" in text and "<img" not in text and "![" not in text


def test_a_stand_in_is_refused(reports: Path) -> None:
    record(StandIn(), hardware.RECORDINGS, parts=[PARTS[TF32]], coverage=SOME, tell=quiet)
    with pytest.raises(runner.Failed, match="made by a stand-in, not by a GPU"):
        runner.run(hardware, PROFILE, reports)


def test_a_recording_that_agrees_holds(reports: Path) -> None:
    parts = [PARTS[name] for name in (SATFINITE, TF32)]
    assert runner.run(hardware, PROFILE, reports).verdict.status == "no claim"
    record(Pretended("GPU A"), hardware.RECORDINGS, parts=parts, coverage=SOME, tell=quiet)
    outcome = runner.run(hardware, Profile("full"), reports)
    assert outcome.measured == 1, "a new recording is another unit"
    assert outcome.verdict.status == "holds"
    inputs = 2 * SOME.chunks.size * 65536
    assert outcome.verdict.summary == (
        f"GPU A: hardware instruction: 2 of 2 conversions identical bit for bit ({inputs:,} inputs)."
    )
    assert runner.run(hardware, Profile("full"), reports).measured == 0


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """Two devices, the second with faults and a part that is missing."""
    folder = tmp_path_factory.mktemp("recordings")
    parts = [PARTS[name] for name in (SATFINITE, TF32, "ptx-e4m3-fp16-rn", TORCH)]
    record(Pretended("GPU A"), folder, parts=parts, coverage=SOME, tell=quiet)
    record(Pretended("GPU B", faults=FAULTS, missing=(TORCH,)), folder, parts=parts, coverage=SOME, tell=quiet)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "RECORDINGS", folder)
        units = [hardware.measure(unit, PROFILE) for unit in hardware.plan(PROFILE)]
    return {name: pd.concat([unit[name] for unit in units], ignore_index=True) for name in units[0]}


def test_differences_are_in_their_class(tables: dict[str, pd.DataFrame]) -> None:
    classes = tables["classes"]
    wrong = classes[classes.status != "identical"].set_index(["hardware", "part", "class"])
    assert set(wrong.index) == {
        ("GPU B", SATFINITE, "overflow"),
        ("GPU B", SATFINITE, "infinite"),
        ("GPU B", TF32, "NaN"),
    }
    # Infinities are two of the kept inputs; each became 0x7C00 instead of 0x7BFF.
    assert wrong.loc[("GPU B", SATFINITE, "infinite")].tolist()[1:4] == [2, 2, 0]
    assert wrong.loc[("GPU B", TF32, "NaN")].status == "other NaN codes"
    assert tables["recordings"].set_index("hardware").not_recorded.to_dict() == {"GPU A": "none", "GPU B": TORCH}


def test_the_verdict_goes_by_the_hardware(tables: dict[str, pd.DataFrame]) -> None:
    verdict = hardware.verdict(tables)
    assert verdict.status == "does not hold at this scale"
    assert "hardware instruction: 4 of 6 conversions identical" in verdict.summary
    assert "PyTorch: 1 of 1 conversions identical" in verdict.summary
    assert "recorded inputs)" in verdict.summary, "a quick run says how many of the recorded inputs it replayed"
    told = {finding.quantity: finding.measured for finding in verdict.findings}
    assert told["GPU B: FP32 to FP16, `cvt.rn.satfinite.f16.f32`"].startswith("differs in ")
    assert "0x7f800000 (infinite): 0x7c00, predicted 0x7bff" in told["GPU B: FP32 to FP16, `cvt.rn.satfinite.f16.f32`"]
    assert told["GPU B: FP32 to TF32, `cvt.rn.tf32.f32`"].startswith("other NaN codes in ")
    assert told["GPU A: E4M3 to FP16, `cvt.rn.f16x2.e4m3x2`"] == "identical over 256 inputs"
    only_nan = {**tables, "parts": tables["parts"][tables["parts"].part != SATFINITE]}
    assert hardware.verdict(only_nan).status == "holds with conditions"


def cells(figure: Figure) -> dict[str, list[str]]:
    """The numbers written into the heat map of each device."""
    return {ax.get_title(loc="left"): [text.get_text() for text in ax.texts] for ax in figure.axes}


def test_figures(tables: dict[str, pd.DataFrame]) -> None:
    with figures.style():
        drawn = hardware.draw(tables)
        for figure in drawn.values():
            figure.canvas.draw()
            assert len(figures.png_bytes(figure)) <= figures.MAX_PNG_BYTES
    assert set(drawn) == set(hardware.CAPTIONS)
    written = cells(drawn["classes"])
    assert written["GPU A"] == [] and len(written["GPU B"]) == 3 and "2" in written["GPU B"]
    assert cells(drawn["speed"])["GPU A"] == ["0.80", "not timed"]
    for figure in drawn.values():
        assert all(ax.get_xlabel() for ax in figure.axes) and figure.axes[0].get_ylabel()


def test_speed_without_times(tables: dict[str, pd.DataFrame]) -> None:
    with figures.style():
        figure = hardware.draw_speed(None)
        assert [text.get_text() for text in figure.axes[0].texts] == ["nothing was timed"]
