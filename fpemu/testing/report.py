"""What ``check_conversion`` found, as data and as text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fpemu import explain, reference
from fpemu.explain import number
from fpemu.formats import FloatFormat
from fpemu.policies import OVERFLOW_RULES, Cast, NaN, Rounding, Stochastic, Subnormals
from fpemu.reference import Real


@dataclass(frozen=True)
class Counterexample:
    """One input that the conversion gets wrong.

    Attributes
    ----------
    x: the input, exact. source: the dtype or format it came in.
    got, right: what the function made of it and what the policy makes of it; got is text where it is no number.
    code: the right code. rule: what decided it.
    kind: the kind of fault.
    """

    x: Real
    source: str
    got: Real | str
    right: Real
    code: int
    rule: str
    kind: str

    def __str__(self) -> str:
        got = self.got if isinstance(self.got, str) else number(self.got)
        return f"{number(self.x)} ({self.source}) became {got}, not {number(self.right)} ({self.rule}): {self.kind}"


@dataclass(frozen=True)
class Report:
    """The outcome of a check; printed, it reads as a report.

    Attributes
    ----------
    name: of the function. cast: the policy it was held against. source: what the inputs came in.
    tried, failing: how many inputs, and how many came out wrong.
    exhaustive: whether ``tried`` were all there are.
    counterexample: the simplest failing input, None if there is none; ``explanation`` tells it bit by bit.
    faults: kind of fault -> how many of the failing inputs that were looked at show it, the commonest first.
    implements: the policy that the function does implement, where one fits all that was tried.
    """

    name: str
    cast: Cast
    source: str
    tried: int
    failing: int
    exhaustive: bool
    counterexample: Counterexample | None = None
    explanation: str = ""
    faults: dict[str, int] = field(default_factory=dict)
    implements: Cast | None = None

    @property
    def conforms(self) -> bool:
        """Whether nothing was wrong."""
        return not self.failing

    @property
    def fault(self) -> str | None:
        """The commonest kind of fault."""
        return next(iter(self.faults), None)

    def __bool__(self) -> bool:
        return self.conforms

    def __str__(self) -> str:
        how = "all there are" if self.exhaustive else "chosen and drawn"
        lines = [f"{self.name}: {self.source} to {describe(self.cast)}", f"tried    {self.tried:,} inputs, {how}"]
        if self.conforms:
            return "\n".join([*lines, "result   conforms"])
        lines.append(f"result   {self.failing:,} wrong ({self.failing / self.tried:.3g} of them)")
        lines.append("faults   " + ", ".join(f"{kind} ({count:,})" for kind, count in self.faults.items()))
        fits = "no policy known here" if self.implements is None else describe(self.implements)
        lines += [f"fits     {fits}", f"example  {self.counterexample}"]
        return "\n".join(lines) + (f"\n\n{self.explanation}" if self.explanation else "")

    def data(self) -> dict[str, Any]:
        """The report as what JSON can hold."""
        example = self.counterexample
        return {
            "name": self.name,
            "source": self.source,
            "policy": describe(self.cast),
            "conforms": self.conforms,
            "exhaustive": self.exhaustive,
            "tried": self.tried,
            "failing": self.failing,
            "fault": self.fault,
            "faults": self.faults,
            "implements": None if self.implements is None else describe(self.implements),
            "counterexample": None
            if example is None
            else {
                "x": number(example.x),
                "got": example.got if isinstance(example.got, str) else number(example.got),
                "right": number(example.right),
                "code": hex(example.code),
                "rule": example.rule,
                "kind": example.kind,
            },
        }


def describe(cast: Cast) -> str:
    """A cast as its format and the policies that are not the default ones (the rounding always)."""
    parts = [cast.format.name, cast.rounding.value]
    parts.append(f"overflow {cast.overflow.value}" if cast.overflow in OVERFLOW_RULES else "")
    if cast.subnormals is not Subnormals.KEEP:
        parts.append(cast.subnormals.value)
    if cast.nan is not NaN.CANONICAL:
        parts.append(f"NaN {cast.nan.value}")
    if cast.rounding is Rounding.STOCHASTIC:
        variant = "" if cast.stochastic is Stochastic.A else f", variant {cast.stochastic.value}"
        parts.append(f"{cast.random_bits} random bits{variant}")
    if cast.via is not None:
        parts.append(f"via {describe(cast.via)}")
    return ", ".join(part for part in parts if part)


def told(x: Real, cast: Cast, source: FloatFormat | None) -> str:
    """How an input should have been converted, bit by bit."""
    facts = explain.record(reference.explain(x, cast, source=source or "float64"), cast)
    lines = [f"value    {facts['value']}"]
    if facts["exponent"] is not None:
        lines[0] += f" = {'-' * facts['sign']}{facts['significand']} * 2^{facts['exponent']}"
    if facts["kept"] is not None:
        ends = [facts["toward_zero"], facts["away_from_zero"]]
        lines.append(f"kept     {facts['kept']} | guard {facts['guard']}, sticky {facts['sticky']}")
        lines.append("between  " + " and ".join(f"{end['value']} ({end['hex'] or 'no code'})" for end in ends))
    return "\n".join([*lines, f"rule     {facts['rule']}", f"right    {facts['result']}, code {facts['hex']}"])
