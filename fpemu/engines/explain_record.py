"""What ``definition.steps`` worked out of a dot product, as a record of plain data.

Numbers in it are exact texts, as in ``fpemu.explain``; bits are strings of 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from fpemu import reference
from fpemu.engines.definition import (
    AdditionStep,
    ChainStep,
    Number,
    Operand,
    Step,
    aligned,
    opened,
    product,
    steps,
)
from fpemu.engines.model import BlockSum, Chain, Engine
from fpemu.explain import hexadecimal, number, spaced
from fpemu.explain import record as rounding_record
from fpemu.formats import FloatFormat
from fpemu.policies import Cast
from fpemu.reference import Real

Record = dict[str, Any]


def record(engine: Engine, a: list[int], b: list[int], c: int, scales: list[list[int]]) -> tuple[int, Record]:
    """The code of the result and all that led to it."""
    done = list(steps(a, b, c, engine, *scales))
    return done[-1].code, _record(engine, a, b, c, scales, done)


# ---- the record -----------------------------------------------------------------------------------------------------
def _record(
    engine: Engine,
    a: list[int],
    b: list[int],
    c: int,
    scales: list[list[int]],
    done: Sequence[Step],
) -> Record:
    to = engine.accumulator
    code = done[-1].code
    exact = _exact(engine, a, b, c, scales)
    return {
        "engine": engine.name,
        "a_format": engine.a.name,
        "b_format": engine.b.name,
        "accumulator": to.name,
        "ignored_bits": engine.ignored_bits,
        **_facts(engine),
        "operands": [
            {"k": k, "a": _coded(x, engine.a, engine.ignored_bits), "b": _coded(y, engine.b, engine.ignored_bits)}
            for k, (x, y) in enumerate(zip(a, b, strict=True))
        ],
        "c": _coded(c, to),
        "scales": _scale_records(engine, scales, len(a)),
        "steps": [_step(step, place, engine, len(a)) for place, step in enumerate(done)],
        "result": _coded(code, to),
        **_judged(exact, code, to),
    }


def _facts(engine: Engine) -> Record:
    """What the steps go by."""
    rule = engine.arithmetic
    names = ("block_length", "fraction_bits", "zero_exponent", "group", "span", "fused")
    facts: Record = dict.fromkeys(names)
    if isinstance(rule, BlockSum):
        known = (rule.length, rule.fraction_bits, rule.zero_exponent, rule.group, rule.span)
        return facts | dict(zip(names, known, strict=False)) | {
            "grid": rule.grid.name, "rounding": rule.rounding.value,
        }  # fmt: skip
    assert isinstance(rule, Chain)
    return facts | {"fused": rule.fused, "grid": engine.accumulator.name, "rounding": rule.cast.rounding.value}


def _coded(code: int, format: FloatFormat, ignored_bits: int = 0) -> Record:
    """A code, its bits (without those that are not looked at), and its value."""
    seen = code >> ignored_bits << ignored_bits
    bits = spaced(seen, format)
    return {
        "code": code,
        "hex": hexadecimal(code, format),
        "bits": bits[: len(bits) - ignored_bits],
        "value": number(reference.value(seen, format)),
    }


def _scale_records(engine: Engine, scales: list[list[int]], length: int) -> list[Record]:
    scaling = engine.scaling
    if scaling is None:
        return []
    mask = scaling.format.magnitude_mask if scaling.unsigned else -1
    return [
        {
            "first_k": i * scaling.block,
            "last_k": min((i + 1) * scaling.block, length) - 1,
            "a": _coded(x & mask, scaling.format) | {"code": x, "hex": hexadecimal(x, scaling.format)},
            "b": _coded(y & mask, scaling.format) | {"code": y, "hex": hexadecimal(y, scaling.format)},
        }
        for i, (x, y) in enumerate(zip(*scales, strict=True))
    ]


def _step(step: Step, place: int, engine: Engine, length: int) -> Record:
    to = engine.accumulator
    before, after = _coded(step.before, to), _coded(step.code, to)
    if isinstance(step, AdditionStep):
        return {"kind": "addition", "before": before, "added": _coded(step.added, to), "after": after}
    if isinstance(step, ChainStep):
        return {
            "kind": "product",
            "k": place,
            "before": before,
            "product": number(step.term),
            "sum": number(step.total),
            **_chain_rounding(step.total, engine),
            "after": after,
        }
    rule = engine.arithmetic
    assert isinstance(rule, BlockSum)
    per_term = rule.group or 1
    count = -(-length // per_term)
    there = [i for i, position in enumerate(step.positions) if position < count]
    labels = [_label(step.positions[i], rule, length) for i in there] + ["c"]
    terms = [step.terms[i] for i in there] + [step.terms[-1]]
    out: Record = {
        "kind": "block",
        "missing": len(step.positions) - len(there),
        "before": before,
        "special": None,
        "top": None,
        "set_by": [],
        "terms": [_bare(label, term) for label, term in zip(labels, terms, strict=True)],
        "units": None,
        "sum": None,
        "lost": None,
        "kept": None,
        "discarded": None,
        "rule": _special_rule(labels, terms, engine),
        "after": after,
    }
    if isinstance(step.total, float):
        out["special"] = number(step.total)
        return out
    # All terms of the block, those beyond the end too: they are zeros, whose exponent counts.
    numbers = [term for term in step.terms if isinstance(term, Number)]
    grid, top = aligned(numbers, rule)
    chosen = [(numbers[i], grid[i]) for i in (*there, len(numbers) - 1)]
    out["top"] = top
    exact = Fraction(0)
    for fact, (term, place_) in zip(out["terms"], chosen, strict=True):
        magnitude = abs(term.significand)
        cut = magnitude & ((1 << place_.shift) - 1) if place_.shift > 0 else 0
        fact |= {
            "counts_as": place_.exponent,
            "shift": place_.shift,
            "units": place_.units,
            "cut": f"{cut:0{place_.shift}b}" if place_.shift > 0 else "",
        }
        exact += term.significand * reference.power_of_two(term.exponent - term.places)
        if place_.exponent == top:
            out["set_by"].append(fact["term"])
    units, exponent = step.total
    total = units * reference.power_of_two(exponent)
    out |= {"units": units, "sum": number(total), "lost": number(exact - total), **_rounding(total, step.code, engine)}
    return out


def _label(position: int, rule: BlockSum, length: int) -> str:
    if not rule.group:
        return f"k {position}"
    return f"k {position * rule.group} to {min((position + 1) * rule.group, length) - 1}"


def _bare(label: str, term: Operand) -> Record:
    """A term before it is aligned; a number's significand in binary, its exponent that of the point."""
    facts: Record = {
        "term": label, "value": None, "sign": None, "significand": None, "places": None, "exponent": None,
        "zero": False, "counts_as": None, "shift": None, "units": None, "cut": None,
    }  # fmt: skip
    if isinstance(term, float):
        return facts | {"value": number(term)}
    value = term.significand * reference.power_of_two(term.exponent - term.places)
    return facts | {
        "value": number(value),
        "sign": int(term.significand < 0),
        "significand": _fixed(abs(term.significand), term.places),
        "places": term.places,
        "exponent": term.exponent,
        "zero": term.significand == 0 and not term.cancelled,
    }


def _fixed(magnitude: int, places: int) -> str:
    """A non-negative number of units of 2**-places in binary."""
    whole, rest = magnitude >> places, magnitude & ((1 << places) - 1)
    return f"{whole:b}.{rest:0{places}b}" if places else f"{whole:b}."


def _special_rule(labels: list[str], terms: list[Operand], engine: Engine) -> str | None:
    """Which terms are no numbers, and what follows."""
    nans = [label for label, term in zip(labels, terms, strict=True) if isinstance(term, float) and math.isnan(term)]
    infinities = {
        sign: [label for label, term in zip(labels, terms, strict=True) if term == sign * math.inf] for sign in (1, -1)
    }
    if nans == ["c"]:
        return "the accumulator is NaN already: the engine's one NaN"
    if nans:
        verb = "is" if len(nans) == 1 else "are"
        return f"{_list(nans)} {verb} NaN (a NaN operand, or inf * 0): the engine's one NaN"
    if infinities[1] and infinities[-1]:
        return f"+inf ({_list(infinities[1])}) meets -inf ({_list(infinities[-1])}): invalid, the engine's one NaN"
    for sign, found in infinities.items():
        if found:
            return f"{_list(found)} {'is' if len(found) == 1 else 'are'} {'+' if sign > 0 else '-'}inf: so is the sum"
    return None


def _list(names: list[str], most: int = 2) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _rounding(total: Fraction, code: int, engine: Engine) -> Record:
    """The bits kept and discarded, and the rule."""
    rule, to = engine.arithmetic, engine.accumulator
    assert isinstance(rule, BlockSum)
    nothing = {"kept": None, "discarded": None}
    if total == 0:
        return nothing | {"rule": "a sum of zero is +0, whatever the signs"}
    magnitude = code & to.magnitude_mask
    cast = Cast(rule.grid, rounding=rule.rounding)
    facts = rounding_record(reference.explain(total, cast), cast)
    found = {"kept": facts["kept"], "discarded": facts["discarded"]}
    if magnitude == to.infinity_code:
        return found | {"rule": "beyond the largest finite value: infinity, under every rounding"}
    if magnitude == 0 and total < 0:
        return found | {"rule": f"{facts['rule']}; a negative value that becomes zero is +0"}
    return found | {"rule": facts["rule"]}


def _chain_rounding(total: Real, engine: Engine) -> Record:
    """The bits kept and discarded, and the rule, of one sum in an ordinary accumulator."""
    if isinstance(total, float) and math.isnan(total):
        return {"kept": None, "discarded": None, "rule": "NaN"}
    cast = engine.result
    facts = rounding_record(reference.explain(total, cast), cast)
    return {key: facts[key] for key in ("kept", "discarded", "rule")}


def _exact(engine: Engine, a: list[int], b: list[int], c: int, scales: list[list[int]]) -> Fraction | float:
    """The dot product of the operands that the engine sees, without any rounding."""
    mask = ~((1 << engine.ignored_bits) - 1)
    scaling = engine.scaling
    terms: list[Operand] = [opened(c, engine.accumulator)]
    for k, (x, y) in enumerate(zip(a, b, strict=True)):
        term = product(opened(x & mask, engine.a), opened(y & mask, engine.b))
        if scaling is not None:
            seen = scaling.format.magnitude_mask if scaling.unsigned else -1
            for line in scales:
                term = product(term, opened(line[k // scaling.block] & seen, scaling.format))
        terms.append(term)
    floats = {term for term in terms if isinstance(term, float)}
    if floats:
        return math.nan if len(floats) > 1 else floats.pop()
    numbers = [term for term in terms if isinstance(term, Number)]
    return sum((n.significand * reference.power_of_two(n.exponent - n.places) for n in numbers), Fraction(0))


def _judged(exact: Fraction | float, code: int, to: FloatFormat) -> Record:
    """The result beside the exact one."""
    out: Record = {
        "exact": number(exact), "error": None, "relative_error": None, "error_in_spacings": None, "nearest": None,
    }  # fmt: skip
    if isinstance(exact, float):
        return out
    out["nearest"] = _coded(reference.encode(exact, Cast(to)), to)
    result: Real = reference.value(code, to)
    if isinstance(result, float) and not math.isfinite(result):
        return out
    error = Fraction(result) - exact
    last = to.finest_exponent  # exponent of the exact result's last place
    if exact:
        last = max(reference.floor_log2(abs(exact)) - to.trailing_bits, last)
    return out | {
        "error": number(error),
        "relative_error": _ratio(error / abs(exact)) if exact else None,
        "error_in_spacings": _ratio(error / reference.power_of_two(last)),
    }


def _ratio(x: Fraction) -> float:
    try:
        return float(x)
    except OverflowError:
        return math.inf if x > 0 else -math.inf
