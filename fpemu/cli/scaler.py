"""``fpemu scaler``: replay loss scalers over a trace of the largest gradient of each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from fpemu.cli.terminal import FormatName, console, plain_table, print_json
from fpemu.formats import FloatFormat
from fpemu.scaling.loss_policies import LOSS_POLICIES

if TYPE_CHECKING:
    from fpemu.scaling.loss_simulation import Replay

DEFAULT = ("torch", "apex", "deepspeed", "megatron", "fairseq", "jmp", "tensorflow", "logmax")


@click.command(
    epilog="Exit codes: 0 replayed; 1 the trace could not be read; 2 wrong usage; 130 interrupted. Pictures are written "
    "whole or not at all."
)
@click.argument("trace", type=click.Path())
@click.option(
    "--policy", "policies", multiple=True, type=click.Choice([*LOSS_POLICIES, "all"]), metavar="NAME",
    help=f"A scaler, or all; may be repeated. There are: {', '.join(LOSS_POLICIES)}. Default: {', '.join(DEFAULT)}.",
)  # fmt: skip
@click.option(
    "--format",
    "format",
    type=FormatName(),
    default="fp16",
    show_default=True,
    help="What scaled gradients are cast to.",
)
@click.option(
    "--column", default=None, help="Column of a .csv, or array of an .npz, where it is not log2_amax or amax."
)
@click.option(
    "--linear", is_flag=True, help="The numbers are amax, not its logarithm (a column called amax is taken so)."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
@click.option("--png", type=click.Path(dir_okay=False), default=None, help="Draw trajectories and costs.")
def scaler(
    trace: str,
    policies: Sequence[str],
    format: FloatFormat,
    column: str | None,
    linear: bool,
    as_json: bool,
    png: str | None,
) -> None:
    """Show what loss scalers would have done over TRACE: scales, skipped steps, exponents wasted, dead zones.

    TRACE holds log2 of the largest absolute unscaled gradient, one number a step: a .csv with a column log2_amax (or
    amax), an .npy, an .npz, or text with a number a line. -inf is a step whose gradients are all zero; inf and nan are
    steps that overflow whatever the scale.

    \b
    fpemu scaler trace.csv
    fpemu scaler trace.csv --policy torch --policy megatron --png tournament.png
    fpemu scaler amax.npy --linear --format bf16
    """
    from fpemu.cli.traces import read_trace

    try:
        logs = read_trace(trace, linear, column)
    except OSError as error:
        raise click.ClickException(f"{trace}: {error.strerror or error}") from None
    except ValueError as error:
        raise click.ClickException(f"{trace}: {error}") from None
    from fpemu.scaling.loss_simulation import simulate

    names = list(LOSS_POLICIES) if "all" in policies else list(dict.fromkeys(policies)) or list(DEFAULT)
    found = [simulate(name, logs, format) for name in names]
    if as_json:
        print_json(
            {"trace": trace, "format": format.name, "steps": len(logs), "policies": [_row(replay) for replay in found]}
        )
    else:
        _print_table(found, format, len(logs))
    if png:
        from fpemu.plots import save_figure
        from fpemu.plots_scaler import replays

        try:
            save_figure(replays(logs, found), png)
        except OSError as error:
            raise click.ClickException(f"{png}: {error.strerror or error}") from None
        click.echo(f"wrote {png}", err=True)


def _row(replay: Replay) -> dict[str, Any]:
    """A replay as plain data, with the scales at its ends."""
    return {**replay.summary(), "first_scale": float(replay.scale[0]), "last_scale": float(replay.scale[-1])}


def _print_table(found: Sequence[Replay], format: FloatFormat, steps: int) -> None:
    out = console()
    table = plain_table("scaler", "skipped", "longest", "wasted", "first scale", "last scale", "")
    for replay in found:
        row = _row(replay)
        notes = []
        if replay.stopped is not None:
            notes.append(f"gave up at step {replay.stopped}")
        if replay.dead_zone_at is not None:
            notes.append(f"dead zone from step {replay.dead_zone_at}")
        table.add_row(
            replay.policy, f"{row['skips']:,}", f"{row['longest_skip']:,}", f"{row['wasted_exponents']:.2f}",
            _power(row["first_scale"]), _power(row["last_scale"]), "; ".join(notes),
        )  # fmt: skip
    out.print(f"{steps:,} steps, gradients cast to {format.name}")
    out.print(table)
    out.print(
        "skipped: steps not applied; longest: most of them in a row; wasted: exponents left unused below overflow, mean of applied steps. "
        "Dead zone: a scale below 1, zero, infinite, or with an infinite inverse."
    )


def _power(scale: float) -> str:
    """A scale, as a power of two where it is one."""
    from math import frexp, isfinite

    if not isfinite(scale) or scale <= 0:
        return f"{scale:g}"
    significand, exponent = frexp(scale)
    return f"2^{exponent - 1}" if significand == 0.5 else f"{scale:.4g}"
