"""``conformance``: installed stacks against the standards, and against the policies that they state.

Standards: IEEE 754 for the formats shaped like its own, OFP8 with and without saturation for E4M3 and E5M2, the ONNX
tables (Cast 19 to 23, and from 24 on) for the formats without negative zero, MX for FP6 and FP4 (infinities clamp, NaNs are left out).  MX defines no
conversion of general reals to E8M0, so that has no standard here.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from fpemu.formats import FORMATS
from fpemu.policies import Cast
from fpemu.testing.conversion import check_conversion
from fpemu.testing.peers import PEERS, Peer
from fpemu.testing.report import Report, describe

_IEEE = ("float16", "bfloat16", "float32", "float8_e4m3", "float8_e3m4")
_OFP8 = ("float8_e4m3fn", "float8_e5m2")
_FNUZ = ("float8_e4m3fnuz", "float8_e5m2fnuz")
_MX = ("float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn")
STANDARDS: dict[str, dict[str, Cast]] = {  # target -> name of the clause -> what it asks for
    **{name: {"IEEE 754": Cast(name)} for name in _IEEE},
    **{name: {"OFP8": Cast(name), "OFP8 saturating": Cast(name, overflow="saturate")} for name in _OFP8},
    **{
        name: {
            "ONNX": Cast(name),
            "ONNX saturating": Cast(name, overflow="saturate"),
            "ONNX saturating to Cast 23": Cast(name, overflow="propagate"),
        }
        for name in _FNUZ
    },
    **{name: {"MX": Cast(name)} for name in _MX},
}

STANDARD, POLICY, NEITHER, UNDESCRIBED, FAILED = (
    "standard", "own policy only", "neither", "not described", "could not run")  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What came of one peer and one case.

    Attributes
    ----------
    stack, package, version: of the peer. source, target: the case.
    standard: the name of the clause that it conforms to, None where it does to none or there is none.
    has_standard: whether there is one.
    against_standard, against_policy: the reports; None where there was nothing to hold it against.
    error: why it could not run, or why there is no policy; else "".
    """

    stack: str
    package: str
    version: str
    source: str
    target: str
    standard: str | None = None
    has_standard: bool = False
    against_standard: Report | None = None
    against_policy: Report | None = None
    failed: bool = False
    error: str = ""

    @property
    def keeps_policy(self) -> bool | None:
        """Whether it does what it states; None where it could not be told."""
        return None if self.against_policy is None else self.against_policy.conforms

    @property
    def verdict(self) -> str:
        """STANDARD, POLICY, NEITHER, UNDESCRIBED or FAILED; STANDARD implies that it keeps its policy too."""
        if self.failed:
            return FAILED
        if self.against_policy is None:
            return STANDARD if self.standard else UNDESCRIBED
        if not self.keeps_policy:
            return NEITHER
        return STANDARD if self.standard else POLICY

    @property
    def shown(self) -> Report | None:
        """The report with the counter-example that matters: against the policy, else against the standard."""
        reports = (self.against_policy, self.against_standard)
        return next((report for report in reports if report is not None and not report.conforms), None)

    def data(self) -> dict[str, Any]:
        """As what JSON can hold."""
        reports = {"against_standard": self.against_standard, "against_policy": self.against_policy}
        fields = ("stack", "package", "version", "source", "target", "verdict", "standard", "has_standard", "error")
        return {field: getattr(self, field) for field in fields} | {
            "keeps_policy": self.keeps_policy, **{name: None if report is None else report.data() for name, report in reports.items()}
        }  # fmt: skip


def examine(peer: Peer, *, source: str, target: str, exhaustive: bool = False) -> Outcome:
    """One case of a peer; whatever it raises is an outcome.

    Parameters
    ----------
    exhaustive: try all 2**32 inputs of float32.
    """
    facts = (peer.stack, peer.package, peer.version or "", source, target)
    row, standards = peer.of_stack().row(target, source=source), STANDARDS.get(target, {})
    if row.policies is None and not standards:
        return Outcome(*facts, error=row.note)
    every = exhaustive and source == "float32"
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            function = peer.convert(source=source, target=target)

            def against(cast: Cast) -> Report:
                # How a peer is called is ours, and so is what arrays that takes.
                takes = _takes(peer, source)
                return check_conversion(function, cast, source=source, takes=takes, exhaustive=every, layouts=False)

            own = None if row.policies is None else against(peer.of_stack().cast(target, source=source))
            reports = {name: own if own and own.cast == cast else against(cast) for name, cast in standards.items()}
    except Exception as error:
        said = " ".join(str(error).split())
        return Outcome(*facts, failed=True, error=f"{type(error).__name__}: {said}"[:300])
    met = next((name for name, report in reports.items() if report.conforms), None)
    nearest = min(reports.values(), key=lambda report: report.failing, default=None)
    note = row.note if row.policies is None else ""
    return Outcome(*facts, met, bool(standards), nearest, own, error=note)


def _takes(peer: Peer, source: str) -> str:
    return "values" if source in ("float16", "float32", "float64") else peer.takes


def conformance(
    peers: Sequence[Peer] = PEERS,
    *,
    exhaustive: bool = False,
    isolated: bool = False,
    began: Callable[[Peer, str, str], None] = lambda peer, source, target: None,
) -> Iterator[Outcome]:
    """Every case of every installed peer.

    Parameters
    ----------
    peers: those that are not installed are passed over.
    exhaustive: try all 2**32 inputs of float32.
    isolated: each peer in a process of its own, so that one that crashes leaves the others alone.
    began: told of each case before it is tried (not where isolated).
    """
    for peer in peers:
        if not peer.is_installed:
            continue
        cases = [case for case in peer.cases() if case[1] in FORMATS]
        if isolated:
            yield from _isolated(peer, cases, exhaustive)
            continue
        for source, target in cases:
            began(peer, source, target)
            yield examine(peer, source=source, target=target, exhaustive=exhaustive)


def _isolated(peer: Peer, cases: list[tuple[str, str]], exhaustive: bool) -> Iterator[Outcome]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(peer, cases, exhaustive, sender), daemon=True)
    with _deaf_to_interrupts():
        process.start()
    sender.close()
    left = list(cases)
    try:
        while left:
            outcome: Outcome = receiver.recv()
            left.pop(0)
            yield outcome
    except EOFError:
        process.join()
        why = f"its process ended with {_ending(process.exitcode)}"
        for source, target in left:
            yield Outcome(peer.stack, peer.package, peer.version or "", source, target, failed=True, error=why)
    finally:
        receiver.close()
        if process.is_alive() and left:
            process.terminate()
        process.join()


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """What is started within inherits it: Ctrl-C reaches every process of a terminal, and this one alone is to answer it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, heard if heard is not None else signal.SIG_DFL)


def _work(peer: Peer, cases: list[tuple[str, str]], exhaustive: bool, sender: Any) -> None:
    for source, target in cases:
        sender.send(examine(peer, source=source, target=target, exhaustive=exhaustive))


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


def told(outcome: Outcome) -> str:
    """One line on an outcome that is not the standard's."""
    head = f"{outcome.stack} ({outcome.package} {outcome.version}) {outcome.source} to {outcome.target}"
    report = outcome.shown
    if report is None or outcome.failed:
        return f"{head}: {outcome.verdict}: {outcome.error}" if outcome.error else f"{head}: {outcome.verdict}"
    against = "its policy" if report is outcome.against_policy else f"{describe(report.cast)}"
    wrong = f"{report.failing:,} of {report.tried:,} wrong against {against}: {report.fault}"
    return f"{head}: {outcome.verdict}; {wrong}; {report.counterexample}"
