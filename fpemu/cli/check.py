"""``fpemu check``: does a function implement the conversion it says it does?"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import click

from fpemu.cli.terminal import FormatName, print_json
from fpemu.formats import FloatFormat
from fpemu.policies import NaN, Overflow, Policy, Rounding, Stochastic, Subnormals
from fpemu.shown import shown, shown_lines

COUNTEREXAMPLE, COULD_NOT_RUN = 1, 2


Command = Callable[..., None]


def _policy(name: str, policy: type[Policy], default: Policy, text: str) -> Callable[[Command], Command]:
    choice = click.Choice([member.value for member in policy])
    return click.option(f"--{name}", type=choice, default=default.value, show_default=True, help=text)


@click.command(
    epilog="Exit codes: 0 it conforms; 1 it does not: a counter-example is shown; 2 it could not be run, or wrong usage."
)
@click.argument("function", metavar="MODULE:FUNCTION")
@click.option("--from", "source", default="float32", show_default=True, metavar="FORMAT",
              help="What the inputs come in: float64, float32 or any format of at most 16 bits.")  # fmt: skip
@click.option("--to", "target", type=FormatName(), required=True, help="The target.")
@_policy("rounding", Rounding, Rounding.NEAREST_EVEN, "Which of its two neighbours a value should become.")
@_policy("overflow", Overflow, Overflow.IEEE, "What values beyond the largest finite one should become.")
@_policy("subnormals", Subnormals, Subnormals.KEEP, "What should happen below the smallest normal value.")
@_policy("nan", NaN, NaN.CANONICAL, "What a NaN should become.")
@click.option("--via", type=FormatName(), default=None, help="A format that values should be rounded to first.")
@click.option(
    "--random-bits", type=click.IntRange(1, 32), default=32, show_default=True, help="Of stochastic rounding."
)
@_policy("stochastic", Stochastic, Stochastic.A, "Its P3109 variant.")
@click.option("--takes", type=click.Choice(["values", "codes", "ml_dtypes", "torch"]), default="values", show_default=True,
              help="What the function is called with.")  # fmt: skip
@click.option("--exhaustive", is_flag=True, help="Try all 2^32 inputs of float32.")
@click.option("--forbid-mutation", is_flag=True, help="Writing to the argument is a fault too.")
@click.option("--draws", type=click.IntRange(min=64), default=1 << 16, show_default=True,
              help="Conversions that a probability gets, of stochastic rounding.")  # fmt: skip
@click.option("--fresh", is_flag=True, help="The same random draws in every call are a fault too.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the inputs that are drawn.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
def check(
    function: str,
    source: str,
    target: FloatFormat,
    takes: str,
    exhaustive: bool,
    forbid_mutation: bool,
    draws: int,
    fresh: bool,
    seed: int,
    as_json: bool,
    **policies: Any,
) -> None:
    """Hold a function against the conversion it should be: how many inputs are wrong, which, how, and what fits instead.

    MODULE:FUNCTION takes an array of inputs (or one at a time) and returns codes (integers) or values (floats). The
    module is looked for in the current folder too, and importing it runs it.

    \b
    fpemu check mymodule:to_fp8 --to e4m3
    fpemu check mymodule:to_fp8 --from float64 --to e5m2 --overflow saturate --exhaustive
    fpemu check mymodule:to_fp8_sr --to e4m3 --rounding stochastic
    """
    from fpemu.testing import NotAConversion, check_conversion, check_stochastic

    try:
        called = _load(function)
        if policies["rounding"] == Rounding.STOCHASTIC.value:
            outcome = check_stochastic(
                called,
                target,
                source=source,
                takes=takes,
                draws=draws,
                fresh=fresh,
                forbid_mutation=forbid_mutation,
                **policies,
            )
            text, document, conforms = str(outcome), outcome.data(), outcome.conforms
        else:
            report = check_conversion(
                called, target, source=source, takes=takes, exhaustive=exhaustive, seed=seed, forbid_mutation=forbid_mutation,
                progress=exhaustive and sys.stderr.isatty(), **policies,
            )  # fmt: skip
            text, document, conforms = str(report), report.data(), report.conforms
    except (NotAConversion, TypeError, ValueError) as error:
        click.echo(shown(f"fpemu: {function}: {' '.join(str(error).split())}"), err=True)
        click.get_current_context().exit(COULD_NOT_RUN)
    if as_json:
        print_json(document)
    else:
        click.echo(shown_lines(text))
    click.get_current_context().exit(0 if conforms else COUNTEREXAMPLE)


def _load(name: str) -> Callable[[Any], Any]:
    """The function of that name.  ValueError says what is not there."""
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise ValueError("write MODULE:FUNCTION, as in mymodule:to_fp8")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise ValueError(f"the module cannot be imported: {type(error).__name__}: {error}") from None
    for part in path.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{module} has no {path}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{path} is no function but {type(found).__name__}")
    return found  # type: ignore[no-any-return]
