"""``fpemu engines``: the catalogue of matrix engines, or one in detail."""

from __future__ import annotations

from typing import Any

import click

from fpemu.cli.formats import short_name
from fpemu.cli.terminal import console, plain_table, print_json
from fpemu.engines import ENGINES, Engine
from fpemu.engines.catalogue import ALIASES, HARDWARE
from fpemu.engines.model import BlockSum, Chain

HEADINGS = ("engine", "inputs", "sum", "block", "kept", "zero", "rounding", "besides", "agrees with")


@click.command(epilog="Exit codes: 0 done; 2 wrong usage, a NAME that no engine has among it.")
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="List the engines with two different inputs too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else: all that match, all facts.")
def engines(name: str | None, everything: bool, as_json: bool) -> None:
    """List the matrix engines: all, those with NAME in their name, or one in detail.

    The columns of the list: the formats of the operands and of the accumulator; "block", how many products are added
    at once; "kept", how many places below the largest exponent; "zero", the exponent that zeros count as; how the
    sum is rounded; what there is besides: block scales, exact groups, spans summed apart; and what the model was seen
    to agree with, bit for bit.

    \b
    fpemu engines hopper
    fpemu engines e4m3.fp32
    fpemu engines hopper.wgmma.e4m3.fp32
    """
    if name is not None and name in ENGINES:
        one = ENGINES[name]
        print_json(detail(one)) if as_json else _show_one(one)
        return
    listed = [engine for engine in ENGINES.values() if name is None or name.strip().lower() in engine.name]
    if not listed:
        try:
            ENGINES[name or ""]
        except KeyError as error:
            raise click.UsageError(error.args[0]) from None
    if as_json:
        print_json([detail(engine) for engine in listed])
        return
    shown = [engine for engine in listed if everything or engine.a == engine.b] or listed
    table = plain_table(*HEADINGS, left=3)
    for column in table.columns[6:]:
        column.justify = "left"
    table.padding = (0, 1, 0, 0)
    table.columns[0].no_wrap = True
    for engine in shown:
        table.add_row(*_row(engine))
    out = console()
    out.print(table)
    if len(shown) < len(listed):
        out.print(
            f"And {len(listed) - len(shown)} with two different inputs, as e4m3xe5m2 in their names: "
            f"`fpemu engines{f' {name}' if name else ''} --all`."
        )


def detail(engine: Engine) -> dict[str, Any]:
    """An engine as plain data: its facts, sources and evidence."""
    rule = engine.arithmetic
    facts: dict[str, Any] = {
        "name": engine.name,
        "aliases": [alias for alias, name in ALIASES.items() if name == engine.name],
        "kind": type(rule).__name__,
        "a": engine.a.name,
        "b": engine.b.name,
        "accumulator": engine.accumulator.name,
        "ignored_bits": engine.ignored_bits,
        "block_length": None,
        "fraction_bits": None,
        "zero_exponent": None,
        "grid": engine.accumulator.name,
        "rounding": None,
        "group": None,
        "span": None,
        "picks": None,
        "fused": None,
        "order": None,
        "scales": None,
        "reproducible": engine.reproducible,
        "evidence": list(engine.evidence),
        "sources": list(engine.sources),
    }
    if isinstance(rule, BlockSum):
        facts |= {
            "block_length": rule.length,
            "fraction_bits": rule.fraction_bits,
            "zero_exponent": rule.zero_exponent,
            "grid": rule.grid.name,
            "rounding": rule.rounding.value,
            "group": rule.group or None,
            "span": rule.span or None,
            "picks": [list(pick) for pick in rule.picks] or None,
        }
    elif isinstance(rule, Chain):
        facts |= {"rounding": rule.cast.rounding.value, "fused": rule.fused, "order": rule.order}
    if engine.scaling is not None:
        scaling = engine.scaling
        facts["scales"] = {
            "format": scaling.format.name, "block": scaling.block, "sign_ignored": scaling.unsigned,
        }  # fmt: skip
    return facts


def _row(engine: Engine) -> tuple[str, ...]:
    facts = detail(engine)
    a, b = short_name(engine.a), short_name(engine.b)
    if engine.ignored_bits:
        a = b = f"{a}, {engine.a.bits - engine.ignored_bits} bits"
    return (
        engine.name,
        a if a == b else f"{a}, {b}",
        short_name(engine.accumulator),
        *("" if facts[key] is None else str(facts[key]) for key in ("block_length", "fraction_bits", "zero_exponent")),
        _rounding(engine, facts),
        _besides(facts),
        _evidence(engine),
    )


def _rounding(engine: Engine, facts: dict[str, Any]) -> str:
    if facts["rounding"] is None:
        return "the library's"
    grid = f", {facts['grid']}" if facts["grid"] != engine.accumulator.name else ""
    return f"{facts['rounding']}{grid}"


def _besides(facts: dict[str, Any]) -> str:
    parts = []
    if facts["scales"]:
        parts.append(f"{facts['scales']['format']} for {facts['scales']['block']}")
    if facts["group"]:
        parts.append(f"groups of {facts['group']}")
    if facts["span"]:
        parts.append(f"spans of {facts['span']}")
    if facts["order"]:
        parts.append(f"{facts['order']}, {'fused' if facts['fused'] else 'products rounded'}")
    return "; ".join(parts)


def _evidence(engine: Engine) -> str:
    """What it was compared with, without versions."""
    return ", ".join(
        one.removeprefix(HARDWARE) if one.startswith(HARDWARE) else one.split()[0].rstrip(",")
        for one in engine.evidence
    )


def _show_one(engine: Engine) -> None:
    from rich.table import Table

    facts = detail(engine)
    aliases = f" ({', '.join(facts['aliases'])})" if facts["aliases"] else ""
    out = console()
    out.print(f"{engine.name}{aliases}\n")
    grid = Table.grid(padding=(0, 2))
    for heading, text in _sentences(engine, facts):
        grid.add_row(f"  {heading}", text)
    out.print(grid)


def _sentences(engine: Engine, facts: dict[str, Any]) -> list[tuple[str, str]]:
    inputs = facts["a"] if facts["a"] == facts["b"] else f"{facts['a']} times {facts['b']}"
    ignored = f", the last {engine.ignored_bits} bits not looked at" if engine.ignored_bits else ""
    lines = [("inputs", inputs + ignored), ("accumulator", facts["accumulator"])]
    if facts["block_length"]:
        lines += [
            (
                "block",
                f"{facts['block_length']} products and the accumulator are aligned, cut off, added and rounded once",
            ),
            (
                "kept",
                f"{facts['fraction_bits']} places below the largest exponent of a block; what lies below is cut off",
            ),
            ("zeros", f"count as exponent {facts['zero_exponent']}"),
            ("rounding", f"{facts['rounding']} to {facts['grid']}; beyond its largest finite value infinity"),
        ]
    elif facts["rounding"]:
        how = "products enter exactly" if facts["fused"] else "products are rounded first"
        lines.append(("rounding", f"{facts['rounding']} at every step, {facts['order']}; {how}"))
    else:
        lines.append(("rounding", "the library's own, in an order of its own: bits differ between machines"))
    if facts["group"]:
        lines.append(("groups", f"{facts['group']} products are added exactly, scaled, and enter as one term"))
    if facts["span"]:
        order = " (in each four: " + ", then ".join(" and ".join(map(str, pick)) for pick in facts["picks"]) + ")"
        end = "are summed from zero, then added to the accumulator, rounded to nearest even"
        lines.append(("spans", f"{facts['span']} products{order if facts['picks'] else ''} {end}"))
    if facts["scales"]:
        sign = ", their sign bit ignored" if facts["scales"]["sign_ignored"] else ""
        lines.append(("scales", f"{facts['scales']['format']}, one for {facts['scales']['block']} values{sign}"))
    lines.append(("agrees with", "; ".join(engine.evidence) or "no recording yet"))
    lines.append(("sources", "; ".join(engine.sources) or "its definition"))
    return lines
