"""Are wrong stacks reported as wrong, right ones accepted, and those that cannot run survived?"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import fpemu as fp
from fpemu.cli import main
from fpemu.testing import conformance as conformance_module
from fpemu.testing.conformance import FAILED, NEITHER, POLICY, STANDARD, conformance, examine, told
from fpemu.testing.peers import PEERS, Peer

Array = np.ndarray[Any, Any]
pytest.importorskip("ml_dtypes")


def _like(stack: str, **policies: Any) -> Any:
    return lambda source, target: lambda x: fp.encode(x, fp.STACKS[stack].cast(target, source=source), **policies)


def _raises(source: str, target: str) -> Any:
    raise ImportError("no compiler")


def _crashes(source: str, target: str) -> Any:
    os.kill(os.getpid(), signal.SIGSEGV)


def fake(convert: Any, stack: str = "torch>=2.13", sources: tuple[str, ...] = ("float32",)) -> Peer:
    """A stack that is always installed."""
    return Peer(stack, "numpy", convert, sources, takes="ml_dtypes")


CASES = [
    (_like("torch>=2.13"), "float32", "float8_e4m3fn", STANDARD, "OFP8 saturating", None),
    (_like("torch>=2.13"), "float32", "float8_e5m2", STANDARD, "OFP8", None),
    (_like("torch>=2.13"), "float64", "float8_e4m3fn", POLICY, None, "double rounding"),
    (_like("torch>=2.13", overflow="ieee"), "float32", "float8_e4m3fn", NEITHER, "OFP8", "wrong overflow result"),
    (_like("torch>=2.13", rounding="nearest-away"), "float32", "float8_e5m2", NEITHER, None, "ties away"),
    (_raises, "float32", "float8_e5m2", FAILED, None, None),
]


@pytest.mark.parametrize(("convert", "source", "target", "verdict", "standard", "fault"), CASES)
def test_verdicts(
    convert: Any, source: str, target: str, verdict: str, standard: str | None, fault: str | None
) -> None:
    outcome = examine(fake(convert), source=source, target=target)
    assert (outcome.verdict, outcome.standard) == (verdict, standard)
    assert fault is None or (outcome.shown is not None and outcome.shown.fault == fault and fault in told(outcome))
    if verdict == FAILED:
        assert outcome.error == "ImportError: no compiler"
    json.dumps(outcome.data())


def test_a_crash_is_an_outcome_and_the_next_stack_runs() -> None:
    numpy = next(peer for peer in PEERS if peer.stack == "numpy")
    outcomes = list(conformance([fake(_crashes, "numpy"), numpy], isolated=True))
    assert [outcome.verdict for outcome in outcomes] == [FAILED] + [STANDARD] * 3
    assert "SIGSEGV" in outcomes[0].error


# Where an installed library does not keep the policy that its row states, and how.
DEVIATES = {
    ("ml_dtypes", "float8_e8m0fnu"), ("jax", "float8_e8m0fnu"), ("qtorch", "float16"), ("qtorch", "float8_e4m3fn"),
    ("qtorch", "float8_e5m2"), ("pychop", "float8_e4m3fn"), ("pychop", "float8_e5m2"),
}  # fmt: skip


HELD = [peer for peer in PEERS if peer.is_installed and peer.package not in ("onnx", "onnxruntime")]


@pytest.mark.parametrize("peer", HELD, ids=lambda peer: peer.name)
def test_installed_stacks_do_what_their_rows_say(peer: Peer) -> None:
    """All but ONNX, whose deviations test_deviations.py pins."""
    for outcome in conformance([peer]):
        known = (outcome.package, outcome.target) in DEVIATES
        assert outcome.verdict not in (NEITHER, FAILED) or known, told(outcome)


def run(*arguments: str, code: int) -> str:
    result = CliRunner().invoke(main, ["conform", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_the_command() -> None:
    said = run("numpy", code=0)
    assert said.count("IEEE 754") >= 3 and "from float64" in said
    data = json.loads(run("numpy", "--json", code=0))
    assert {outcome["verdict"] for outcome in data["outcomes"]} == {"standard"}
    assert "torch>=2.13" in run("--list", code=0)
    assert len(json.loads(run("--list", "--json", code=0))) == len(fp.STACKS)
    assert "no installable stack tensorflow; valid: numpy" in run("tensorflow", code=2)


def test_exit_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    for convert, code, words in ((_wrong, 1, "ties away"), (_raises, 2, "no compiler")):
        monkeypatch.setattr("fpemu.testing.peers.PEERS", (fake(convert, "numpy"),))
        assert words in run("numpy", code=code)
    monkeypatch.setattr("fpemu.testing.peers.PEERS", (Peer("numpy", "no-such-package", _raises),))
    assert "fpemu: not installed: no-such-package" in run("numpy", code=2)


def _wrong(source: str, target: str) -> Any:
    return lambda x: fp.encode(x, target, rounding="nearest-away")


def test_ctrl_c_is_answered_by_the_command_alone_and_not_by_its_processes() -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as before:
        heard = before.apply(signal.getsignal, (signal.SIGINT,))
    with conformance_module._deaf_to_interrupts():
        pool = context.Pool(1)
    with pool:
        assert pool.apply(signal.getsignal, (signal.SIGINT,)) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN or heard is signal.SIG_IGN
