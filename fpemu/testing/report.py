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

    def data(self) -> dict[str, Any]:
        """As what JSON can hold."""
        return {
            "x": number(self.x),
            "got": self.got if isinstance(self.got, str) else number(self.got),
            "right": number(self.right),
            "code": hex(self.code),
            "rule": self.rule,
            "kind": self.kind,
        }


@dataclass(frozen=True)
class Fault:
    """One thing that a function does wrong.

    Attributes
    ----------
    name: what it does. detail: how, where that can be told.
    regions: where on the number line (``fpemu.testing.faults.REGIONS``), with how many wrong inputs; empty where it has
        nothing to do with the input's value.
    example: the simplest input that shows it.
    """

    name: str
    detail: str = ""
    regions: dict[str, int] = field(default_factory=dict)
    example: Counterexample | None = None

    @property
    def count(self) -> int:
        """How many wrong inputs it accounts for."""
        return sum(self.regions.values())

    @property
    def region(self) -> str | None:
        """Where most of them lie."""
        return max(self.regions, key=lambda name: self.regions[name], default=None)

    def __str__(self) -> str:
        where = ", ".join(f"{region} {count:,}" for region, count in self.regions.items())
        return f"{self.name}{': ' if self.detail else ''}{self.detail}" + (f" ({where})" if where else "")

    def data(self) -> dict[str, Any]:
        """As what JSON can hold."""
        example = None if self.example is None else self.example.data()
        return {
            "name": self.name,
            "detail": self.detail,
            "count": self.count,
            "regions": self.regions,
            "example": example,
        }


@dataclass(frozen=True)
class Report:
    """The outcome of a check; printed, it reads as a report.

    Attributes
    ----------
    name: of the function. cast: the policy it was held against. source: what the inputs came in.
    tried, failing: how many inputs, and how many came out wrong.
    exhaustive: whether ``tried`` were all there are.
    faults: what is wrong, gravest first; what leaves the values alone (memory, repeated calls) comes before the others.
    looked_at, classified: of how many wrong inputs the fault was sought, and for how many it has a name of its own
        (not only "wrong neighbour" or "wrong value").
    explanation: the counterexample, bit by bit.
    implements: the policy that the function does implement, where one fits all that was tried.
    notes: what the function does not take, and else is worth knowing, but is no fault.
    """

    name: str
    cast: Cast
    source: str
    tried: int
    failing: int
    exhaustive: bool
    faults: tuple[Fault, ...] = ()
    looked_at: int = 0
    classified: int = 0
    explanation: str = ""
    implements: Cast | None = None
    notes: tuple[str, ...] = ()

    @property
    def conforms(self) -> bool:
        """Whether nothing was wrong."""
        return not (self.failing or self.faults)

    @property
    def fault(self) -> str | None:
        """The name of the first fault."""
        return next((fault.name for fault in self.faults), None)

    @property
    def counterexample(self) -> Counterexample | None:
        """The simplest failing input that shows the first fault which has one; None if there is none."""
        return next((fault.example for fault in self.faults if fault.example is not None), None)

    def __bool__(self) -> bool:
        return self.conforms

    def __str__(self) -> str:
        how = "all there are" if self.exhaustive else "chosen and drawn"
        lines = [f"{self.name}: {self.source} to {describe(self.cast)}", f"tried    {self.tried:,} inputs, {how}"]
        notes = [f"note     {note}" for note in self.notes]
        if self.conforms:
            return "\n".join([*lines, "result   conforms", *notes])
        lines.append(f"result   {self.failing:,} wrong ({self.failing / max(self.tried, 1):.3g} of them)")
        lines += [f"{'' if at else 'faults':<9}{fault}" for at, fault in enumerate(self.faults)]
        if self.failing:
            of = f" of {self.looked_at:,} looked at" if self.looked_at < self.failing else ""
            lines.append(f"named    {self.classified:,} of the {self.failing:,} wrong inputs{of}")
            lines.append(f"fits     {'no policy known here' if self.implements is None else describe(self.implements)}")
        lines += notes
        lines += [f"example  {self.counterexample}"] if self.counterexample else []
        return "\n".join(lines) + (f"\n\n{self.explanation}" if self.explanation else "")

    def data(self) -> dict[str, Any]:
        """The report as what JSON can hold."""
        return {
            "name": self.name,
            "source": self.source,
            "policy": describe(self.cast),
            "conforms": self.conforms,
            "exhaustive": self.exhaustive,
            "tried": self.tried,
            "failing": self.failing,
            "looked_at": self.looked_at,
            "classified": self.classified,
            "fault": self.fault,
            "faults": [fault.data() for fault in self.faults],
            "implements": None if self.implements is None else describe(self.implements),
            "notes": list(self.notes),
            "counterexample": None if self.counterexample is None else self.counterexample.data(),
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
