"""Are wrong stacks reported as wrong, right ones accepted, and those that cannot run survived?"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from syrupy.assertion import SnapshotAssertion

import fpemu as fp
from fpemu.cli import main
from fpemu.stacks import Row, Stack
from fpemu.testing import check_conversion
from fpemu.testing import conformance as conformance_module
from fpemu.testing.conformance import FAILED, NEITHER, POLICY, STANDARD, UNDESCRIBED, conformance, examine, told
from fpemu.testing.peers import PEERS, Peer

Array = np.ndarray[Any, Any]
pytest.importorskip("ml_dtypes")


def _like(stack: str, **policies: Any) -> Any:
    return lambda source, target: lambda x: fp.encode(x, fp.STACKS[stack].cast(target, source=source), **policies)


def _raises(source: str, target: str) -> Any:
    raise ImportError("no compiler")


def _crashes(source: str, target: str) -> Any:
    os.kill(os.getpid(), signal.SIGSEGV)


def _crashes_on_e5m2(source: str, target: str) -> Any:
    return _crashes(source, target) if target == "float8_e5m2" else lambda x: fp.encode(x, target)


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


@pytest.mark.parametrize("overflow", ["ieee", "saturate", "propagate"])
@pytest.mark.parametrize("target", ["float8_e4m3fn", "float8_e5m2"])
def test_an_outcome_in_words_and_as_data(overflow: str, target: str, snapshot: SnapshotAssertion) -> None:
    """As it was read before, where all inputs are tried."""
    peer = fake(_like("torch>=2.13", overflow=overflow))
    outcome = replace(examine(peer, source="float16", target=target), version="1.0")
    assert f"{told(outcome)}\n{json.dumps(outcome.data(), indent=1)}" == snapshot


def _says_much(source: str, target: str) -> Any:
    raise RuntimeError("a line\n  " + "and more of it " * 100)


def test_what_is_raised_is_told_in_one_line_of_bounded_length() -> None:
    error = examine(fake(_says_much), source="float32", target="float8_e5m2").error
    assert error.startswith("RuntimeError: a line and more of it and more") and len(error) == 300


@pytest.mark.parametrize(("target", "standard"), [("float8_e8m0fnu", False), ("float8_e5m2", True)])
def test_where_no_policy_is_stated_the_note_says_why(
    monkeypatch: pytest.MonkeyPatch, target: str, standard: bool
) -> None:
    """Held against the standard where there is one."""
    stack = Stack("odd", "", (), (Row((target,), ("float32",), None, note="by a table of its own"),))
    monkeypatch.setattr(Peer, "of_stack", lambda peer: stack)
    outcome = examine(fake(_wrong), source="float32", target=target)
    assert (outcome.error, outcome.keeps_policy, outcome.standard) == ("by a table of its own", None, None)
    assert (outcome.against_standard is not None) == outcome.has_standard == standard
    assert outcome.verdict == UNDESCRIBED and ("ties away" if standard else outcome.error) in told(outcome)


def test_a_crash_is_an_outcome_and_the_next_stack_runs() -> None:
    numpy = next(peer for peer in PEERS if peer.stack == "numpy")
    outcomes = list(conformance([fake(_crashes, "numpy"), numpy], isolated=True))
    assert [outcome.verdict for outcome in outcomes] == [FAILED] + [STANDARD] * 3
    assert "SIGSEGV" in outcomes[0].error


def test_a_process_sends_an_outcome_for_each_case() -> None:
    class Sender(list[Any]):
        send = list.append

    sent, cases = Sender(), [("float32", "float16"), ("float64", "bfloat16"), ("float32", "float8_e5m2")]
    conformance_module._work(fake(_like("torch>=2.13")), cases, False, sent)
    assert [(one.source, one.target, one.keeps_policy) for one in sent] == [(*case, True) for case in cases]


def test_what_came_before_a_crash_is_kept() -> None:
    peer = Peer("torch>=2.13", "numpy", _crashes_on_e5m2, ("float32",))
    targets = [target for _, target in peer.cases()]
    last = targets.index("float8_e5m2")
    outcomes = list(conformance([peer], isolated=True))
    assert [one.target for one in outcomes] == targets and 0 < last < len(targets) - 1
    assert [one.failed for one in outcomes] == [False] * last + [True] * (len(targets) - last)


def test_how_a_process_ended_in_words() -> None:
    ended = {-int(signal.SIGSEGV): "SIGSEGV", 3: "exit code 3", 0: "exit code 0", None: "exit code None"}
    assert {code: conformance_module._ending(code) for code in ended} == ended


def test_a_peer_s_process_ends_with_this_one() -> None:
    outcomes = conformance([peer for peer in PEERS if peer.stack == "numpy"], isolated=True)
    next(outcomes)
    assert [process.daemon for process in multiprocessing.active_children()] == [True]
    outcomes.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("source", "exhaustive", "every"), [
    ("float32", True, True), ("float32", False, False), ("float16", True, False)])  # fmt: skip
def test_all_inputs_are_those_of_float32(
    monkeypatch: pytest.MonkeyPatch, source: str, exhaustive: bool, every: bool
) -> None:
    asked = []

    def check(function: Any, cast: Any, **more: Any) -> Any:
        asked.append(more.pop("exhaustive"))
        return check_conversion(function, cast, **more)

    monkeypatch.setattr(conformance_module, "check_conversion", check)
    peer = Peer("torch>=2.13", "numpy", _like("torch>=2.13"), (source,))
    monkeypatch.setattr(Peer, "cases", lambda peer: [(source, "float8_e4m3fn"), (source, "float8_e5m2")])
    assert [one.keeps_policy for one in conformance([peer], exhaustive=exhaustive)] == [True, True]
    assert asked and set(asked) == {every}


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


@pytest.mark.parametrize(
    ("version", "stack"),
    [("1.13.1", "torch<=2.12"), ("2.12.1", "torch<=2.12"), ("2.13.0+cpu", "torch>=2.13"), ("3.0a0", "torch>=2.13")],
)
def test_one_row_is_for_an_installed_version(monkeypatch: pytest.MonkeyPatch, version: str, stack: str) -> None:
    monkeypatch.setattr("fpemu.testing.peers.metadata.version", lambda package: version)
    of_torch = [replace(peer) for peer in PEERS if peer.package == "torch"]
    assert [peer.stack for peer in of_torch if peer.is_installed] == [stack]


def test_rows_of_both_kinds_of_overflow_call_each_its_own() -> None:
    given = {(peer.stack, peer.package): peer.convert.args for peer in PEERS if isinstance(peer.convert, partial)}
    onnx = {
        "onnx-saturate<=23": (1, 21), "onnx-saturate": (1, 28), "onnx-nosat": (0, 21),
        "onnx-saturate-down": (1, 28, "down"), "onnx-saturate-nearest": (1, 28, "nearest"),
        "onnx-nosat-down": (0, 28, "down"), "onnx-nosat-nearest": (0, 28, "nearest"),
    }  # fmt: skip
    assert given == {
        ("gfloat", "gfloat"): (False,), ("gfloat-saturate", "gfloat"): (True,),
        **{(stack, package): args for stack, args in onnx.items() for package in ("onnx", "onnxruntime")},
    }  # fmt: skip


@pytest.mark.parametrize(("version", "targets"), [("1.17.0", 4), ("1.22.1", 4), ("1.23.2", 8), ("2.0.0", 8)])
def test_types_of_later_operator_sets_are_tried_where_the_release_has_them(
    monkeypatch: pytest.MonkeyPatch, version: str, targets: int
) -> None:
    """Of saturate=0, which every release has: the four 8-bit formats, and from 1.23 on E8M0, two of 6 bits, one of 4."""
    monkeypatch.setattr("fpemu.testing.peers.metadata.version", lambda package: version)
    peers = [replace(peer) for peer in PEERS if (peer.stack, peer.package) == ("onnx-nosat", "onnx")]
    (peer,) = [peer for peer in peers if peer.is_installed]
    assert len({to for _, to in peer.cases()}) == targets


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
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background ignores it
    try:
        with conformance_module._deaf_to_interrupts():
            pool = multiprocessing.get_context("spawn").Pool(1)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, heard)
    with pool:
        assert pool.apply(signal.getsignal, (signal.SIGINT,)) is signal.SIG_IGN
