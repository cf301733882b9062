"""``fpemu explain-dot``: how an engine adds up a dot product."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import click
import numpy as np

from fpemu.cli.numbers import Numbers
from fpemu.cli.terminal import EngineName, print_json
from fpemu.engines import Engine
from fpemu.engines.model import BlockSum
from fpemu.formats import FloatFormat

ENGINE = "hopper.wgmma.fp16.fp32"
_POWER = re.compile(r"([+-]?)(?:(\d+(?:\.\d*)?)\*)?2\^([+-]?\d{1,5})")
_REPEATED = re.compile(r"(.+?)\s+x\s*(\d{1,5})")
MOST = 1 << 16  # products


@click.command(
    "explain-dot",
    cls=Numbers,
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},
    epilog="Exit codes: 0 done; 2 wrong usage, operands that do not fit the engine among it.",
)
@click.argument("a", required=False)
@click.argument("b", required=False)
@click.option(
    "--engine", type=EngineName(), default=ENGINE, show_default=True,
    help="A tensor core, or an accumulator that rounds every sum; `fpemu engines` lists them.",
)  # fmt: skip
@click.option("--c", default="0", show_default=True, metavar="VALUE", help="What the accumulator begins with.")
@click.option("--a-scales", metavar="VALUES", default=None, help="Block scales of A, for engines that have them.")
@click.option("--b-scales", metavar="VALUES", default=None, help="Block scales of B.")
@click.option("--code", is_flag=True, help="All of them are codes: 0x3c00, 0b1111 or 60.")
@click.option(
    "--promote-every", type=click.IntRange(min=1), default=None,
    help="Move the sum of so many products into a second accumulator, rounding to nearest even.",
)  # fmt: skip
@click.option("--block", type=click.IntRange(min=1), default=None, help="Show one block of many in full, from 1.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
def explain_dot(
    a: str | None,
    b: str | None,
    engine: Engine,
    c: str,
    a_scales: str | None,
    b_scales: str | None,
    code: bool,
    promote_every: int | None,
    block: int | None,
    as_json: bool,
) -> None:
    """Show how an engine computes C + the sum of A times B: alignment, the bits cut off, rounding, error.

    A and B are values between commas: 0.1, 1e-3, 0x1.8p-4, 2^-12, -1.5*2^3, inf; "2^-4 x 32" is a value 32 times.
    They are rounded to the engine's formats first, to nearest even. Without A and B an example is shown.

    \b
    fpemu explain-dot
    fpemu explain-dot "1, 2^-12, -1" "1, 2^-13, 1"
    fpemu explain-dot --engine hopper.wgmma.e4m3.fp32 "2^-4 x 32" "2^-4 x 32" --c 64
    fpemu explain-dot --engine fp16 "1 x 4" "2048, 1, 1, 3"
    fpemu explain-dot --engine ampere.mma.bf16.fp32 --code 0x3f80,0x4000 0x3f80,0x3f80
    """
    from fpemu.engines.explain import explain_dot as told_of

    if (a is None) != (b is None):
        raise click.UsageError("give both A and B, or neither to see an example")
    if (a_scales is not None or b_scales is not None) and a is None:
        raise click.UsageError("scales come with A and B")
    try:
        if a is None or b is None:
            operands = example(engine)
        else:
            operands = {
                "a": _line("A", a, engine.a, code),
                "b": _line("B", b, engine.b, code),
                "c": _one("--c", c, engine.accumulator, code),
            }
            scaling = engine.scaling
            for name, line in (("a_scales", a_scales), ("b_scales", b_scales)):
                option = f"--{name.replace('_', '-')}"
                if line is not None:
                    if scaling is None:
                        raise ValueError(f"{engine.name} takes no block scales")
                    operands[name] = _line(option, line, scaling.format, code)
                elif scaling is not None:
                    raise ValueError(f"{engine.name} needs {option}: one for {scaling.block} values")
        told = told_of(**operands, engine=engine, promote_every=promote_every)
        text = None if as_json else told.text(block)
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    print_json(told.record) if text is None else click.echo(text)


# ---- operands -------------------------------------------------------------------------------------------------------
def _line(name: str, text: str, format: FloatFormat, code: bool) -> np.ndarray[Any, Any]:
    """The codes of values between commas."""
    found: list[int] = []
    for part in text.split(","):
        repeated = _REPEATED.fullmatch(part.strip())
        one, count = (repeated[1], int(repeated[2])) if repeated else (part, 1)
        if len(found) + count > MOST:
            raise ValueError(f"{name}: at most {MOST:,} values")
        found += [_code(name, one.strip(), format, code)] * count
    return np.array(found, format.code_dtype)


def _one(name: str, text: str, format: FloatFormat, code: bool) -> np.ndarray[Any, Any]:
    return np.array(_code(name, text.strip(), format, code), format.code_dtype)


def _code(name: str, text: str, format: FloatFormat, code: bool) -> int:
    from fpemu import reference
    from fpemu.explain import parse_code, parse_value
    from fpemu.policies import Cast

    try:
        if not text:
            raise ValueError("a value is missing between commas")
        if code:
            return parse_code(text, format)
        power = _POWER.fullmatch(text.replace(" ", ""))
        if power is None:
            value, _ = parse_value(text, format.name)
            return reference.encode(value, Cast(format))
        sign, factor, exponent = power.groups()
        return reference.encode(Fraction(f"{sign}{factor or 1}") * reference.power_of_two(int(exponent)), Cast(format))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def example(engine: Engine) -> dict[str, Any]:
    """Operands that show what an engine does: a product at the end of what is kept, beside two that cancel.

    The product is 1.5 * 1.5 = 10.01 in binary times 2**-F: one bit is cut off.  Where the formats have no values
    so small, the accumulator is large instead.
    """
    rule = engine.arithmetic
    if not isinstance(rule, BlockSum):  # ten terms of the harmonic series
        return {"a": np.ones(10), "b": 1 / np.arange(1, 11)}
    low = max(-(rule.fraction_bits // 2), engine.a.emin)
    rest = max(-rule.fraction_bits - low, engine.b.emin)
    deficit = min(low + rest + rule.fraction_bits, engine.accumulator.emax)
    found: dict[str, Any] = {
        "a": np.array([1.0, 1.5 * 2.0**low, -1.0]),
        "b": np.array([1.0, 1.5 * 2.0**rest, 1.0]),
        "c": np.array(2.0**deficit if deficit > 0 else 0.0),
    }
    if engine.scaling is not None:
        found |= {"a_scales": np.array([2.0]), "b_scales": np.array([0.5])}
    return found
