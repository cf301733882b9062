"""``fpemu explain``: how one value becomes a code."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import click

from fpemu.cli.numbers import Numbers
from fpemu.cli.terminal import FormatName, console, plain_table, print_json
from fpemu.formats import FloatFormat, as_format
from fpemu.policies import Cast, NaN, Overflow, Policy, Rounding, Stochastic, Subnormals, as_cast


def _choice(policy: type[Policy]) -> click.Choice[str]:
    return click.Choice([member.value for member in policy])


@click.command(
    cls=Numbers,
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},
    epilog="Exit codes: 0 done; 1 the value cannot be converted (NaN into a format without one); 2 wrong usage.",
)
@click.argument("value")
@click.argument("format", type=FormatName())
@click.option(
    "--rounding", type=_choice(Rounding), default=Rounding.NEAREST_EVEN.value, show_default=True,
    help="Which of its two neighbours VALUE becomes.",
)  # fmt: skip
@click.option(
    "--overflow", type=_choice(Overflow), default=Overflow.IEEE.value, show_default=True,
    help="What becomes of values beyond the largest finite one, and of infinities.",
)  # fmt: skip
@click.option(
    "--subnormals", type=_choice(Subnormals), default=Subnormals.KEEP.value, show_default=True,
    help="What becomes of results below the smallest normal value.",
)  # fmt: skip
@click.option("--nan", type=_choice(NaN), default=NaN.CANONICAL.value, show_default=True, help="What becomes of a NaN.")
@click.option(
    "--from", "source", default=None, metavar="FORMAT",
    help="The format VALUE comes in: float64 (the default) or any other. VALUE is first rounded to it, to nearest.",
)  # fmt: skip
@click.option(
    "--code", is_flag=True,
    help="VALUE is a code (0x3c, 0b111100 or 60) of the --from format; without --from, of FORMAT.",
)  # fmt: skip
@click.option("--all-roundings", is_flag=True, help="Add a table of what each rounding makes of VALUE.")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True, help="Of stochastic rounding.")
@click.option(
    "--word", default=None, metavar="INTEGER",
    help="The random bits of stochastic rounding themselves, e.g. 0x80000000, in place of those of --seed.",
)  # fmt: skip
@click.option(
    "--random-bits", type=click.IntRange(1, 32), default=32, show_default=True, help="How many random bits it uses."
)
@click.option(
    "--stochastic", type=_choice(Stochastic), default=Stochastic.A.value, show_default=True, help="Its P3109 variant."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
def explain(
    value: str,
    format: FloatFormat,
    source: str | None,
    code: bool,
    all_roundings: bool,
    seed: int,
    word: str | None,
    as_json: bool,
    **policies: Any,
) -> None:
    """Show how VALUE becomes a code of FORMAT: bits, neighbours, the rule that decided, and the error.

    VALUE is a decimal or hexadecimal number, inf or nan; as everywhere in a computer, 0.1 means the float64 nearest
    to it, and the output says where the two differ. Negative values need no quoting.

    \b
    fpemu explain 0.1 e4m3
    fpemu explain -464 e4m3 --all-roundings
    fpemu explain 65520 fp16 --rounding toward-zero
    fpemu explain 0x7e e4m3 --code
    fpemu explain 1e-3 bf16 --rounding stochastic --seed 7
    """
    from fpemu import reference
    from fpemu.explain import parse_code, parse_value, record

    origin = source if source is not None else format.name if code else "float64"
    try:
        if origin != "float64":
            origin = as_format(origin).name
        if code:
            if origin == "float64":
                raise ValueError("--code needs a format of at most 32 bits in --from")
            x, told_exactly = reference.value(parse_code(value, as_format(origin)), origin), True
        else:
            x, told_exactly = parse_value(value, origin)
        cast = as_cast(format, **policies)
        bits = _word(word, seed, cast)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        told = reference.explain(x, cast, bits, source=origin)
        others = [_one(x, cast, rounding, bits, origin) for rounding in Rounding] if all_roundings else []
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    facts = {"text": value, "source": origin, "text_is_exact": told_exactly, **record(told, cast)}
    if as_json:
        print_json(facts | ({"roundings": others} if all_roundings else {}))
        return
    _show(facts, _first_line(value, origin, code, told_exactly, x, format), format)
    if others:
        _show_roundings(others)


def _word(text: str | None, seed: int, cast: Cast) -> int:
    from fpemu.explain import word_of

    if text is None:
        return word_of(seed, 0, cast.random_bits)
    try:
        word = int(text, 0)
    except ValueError:
        raise ValueError(f"--word {text!r} is no integer") from None
    if not 0 <= word < 1 << cast.random_bits:
        raise ValueError(f"--word must fit in {cast.random_bits} random bits, 0 to {(1 << cast.random_bits) - 1:#x}")
    return word


def _one(x: Any, cast: Cast, rounding: Rounding, word: int, source: str) -> dict[str, Any]:
    from fpemu import reference
    from fpemu.explain import record

    rounded = cast.replace(rounding=rounding)
    return record(reference.explain(x, rounded, word, source=source), rounded)


def _first_line(text: str, source: str, code: bool, exact: bool, x: Any, format: FloatFormat) -> str:
    from fpemu.explain import number
    from fpemu.reference import as_float

    if code:
        return f"code {text} of {source} is {number(x)}"
    if exact:
        hint = ""
        if text.lower().lstrip("+-").startswith("0x") and "p" not in text.lower():
            hint = " (read as a hexadecimal number; --code reads it as a code)"
        return f"{text} is exactly the {source} value {number(x)}{hint}"
    try:
        near = as_float(x)
    except ValueError:
        near = math.inf
    if not near or not math.isfinite(near):
        return f"{text} is no {source} value; the nearest is {number(x)}"
    return f"{text} is no {source} value; the nearest is {Decimal(near):.25g} = {near.hex()}"


def _show(facts: dict[str, Any], first: str, format: FloatFormat) -> None:
    out = console()
    out.print(f"{facts['text']} to {format.name}, rounding {facts['rounding']}, overflow {facts['overflow']}\n")
    lines = [("value", first)]
    if facts["significand"] is not None:
        sign = "-" if facts["sign"] else "+"
        lines.append(("", f"sign {sign}, exponent {facts['exponent']}, significand {facts['significand']}"))
    if facts["kept"] is not None:
        discarded = facts["discarded"]
        rest = f", then {discarded[1:]}" if len(discarded) > 1 else ""
        lines.append(("kept", f"{facts['kept']} | guard {facts['guard']}, sticky {facts['sticky']}{rest}"))
        lines.append(("spacing", f"{facts['spacing']}; the value lies {facts['position']:.6g} of a spacing outward"))
    _print_lines(lines)
    if facts["toward_zero"] is not None:
        table = plain_table("neighbours", "code", "bits", "value", left=3)
        for side, key in (("toward zero", "toward_zero"), ("away from zero", "away_from_zero")):
            near = facts[key]
            table.add_row(side, near["hex"] or "none", near["bits"] or "beyond the finite values", near["value"])
        out.print(table)
    lines = [("rule", facts["rule"]), ("result", f"{facts['result']}, code {facts['hex']} = {facts['bits']}")]
    if facts["error"] is not None:
        relative, spacings = facts["relative_error"], facts["error_in_spacings"]
        error = facts["error"] if facts["error"] == "0" or facts["error"][0] == "-" else f"+{facts['error']}"
        if relative is not None and error != "0":
            error += f", relative {relative:.4g}" if math.isfinite(relative) else ", relative beyond float64"
        if spacings:
            error += f", {abs(spacings):.4g} spacings"
        lines.append(("error", error))
    _print_lines(lines)


def _print_lines(lines: list[tuple[str, str]]) -> None:
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    for name, text in lines:
        grid.add_row(name, text)
    console().print(grid)


def _show_roundings(others: list[dict[str, Any]]) -> None:
    table = plain_table("rounding", "code", "bits", "value", "spacings off", "decided by", left=3)
    table.columns[-1].justify = "left"
    for row in others:
        off = row["error_in_spacings"]
        shown = "" if off is None else f"{off:+.4g}" if off else "0"
        table.add_row(row["rounding"], row["hex"], row["bits"], row["result"], shown, row["decided"])
    out = console()
    out.print()
    out.print(table)
