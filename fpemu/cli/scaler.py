"""``fpemu scaler``: replay loss scalers over a trace of the largest gradient of each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from fpemu.cli.terminal import FormatName, console, plain_table, print_json
from fpemu.cli.trace_names import OVERFLOW, SCALE_AFTER, SCALE_USED, UNITS
from fpemu.formats import FloatFormat
from fpemu.scaling.loss_policies import LOSS_POLICIES
from fpemu.shown import shown

if TYPE_CHECKING:
    from fpemu.cli.traces import Trace
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
    "--column", default=None, help="Column of a table, or array of an .npz, that holds amax or its logarithm."
)
@click.option(
    "--unit", type=click.Choice(UNITS), default=None,
    help="What the numbers are, where the column's name does not say it: amax itself, or its logarithm to base 2.",
)  # fmt: skip
@click.option("--linear", is_flag=True, help="The same as --unit magnitude.")
@click.option(
    "--scale", default=None, metavar="COLUMN",
    help=f"The recorded loss scale that each step used. By name: {', '.join(SCALE_USED)}.",
)  # fmt: skip
@click.option(
    "--scale-after", default=None, metavar="COLUMN",
    help=f"The same as it was after each step's update, which is what most tools log. By name: {', '.join(SCALE_AFTER)}.",
)  # fmt: skip
@click.option(
    "--overflow", default=None, metavar="COLUMN",
    help=f"Whether the recorder found an overflow, 0 or 1. By name: {', '.join(OVERFLOW)}.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
@click.option("--png", type=click.Path(dir_okay=False), default=None, help="Draw trajectories and costs.")
def scaler(
    trace: str,
    policies: Sequence[str],
    format: FloatFormat,
    column: str | None,
    unit: str | None,
    linear: bool,
    scale: str | None,
    scale_after: str | None,
    overflow: str | None,
    as_json: bool,
    png: str | None,
) -> None:
    """Show what loss scalers would have done over TRACE: scales, skipped steps, exponents wasted, dead zones.

    TRACE has a row a step, with the largest absolute unscaled gradient (amax): a .csv or other table of text, an .npz, or
    numbers alone (.npy, text), in order. What a column holds is known by its name, with any prefix (train/amax), or by
    --unit: amax, absmax, max_abs, grad_amax, grad_max are magnitudes; log2_amax, log2(amax), amax_log2 are logarithms
    to base 2, -inf for a gradient of zeros. Any other name, and numbers without one, need --unit. A norm is no amax.

    An infinity, a NaN, or a 1 in the column of overflows is an overflow of the recorder, at its scale S: some FP16 value of
    that pass reached 65520 or met inf - inf. A replay takes the pass to be the same under another scale, but for the factor. So the
    step overflows at scales of S and above; below S, or where S is not recorded, it is undetermined, for amax is at least
    65520 / S only if the recorded tensor is itself FP16. Undetermined steps are counted, and taken as applied; what would be
    skipped if each of them overflowed stands beside. These are two extremes, no bounds.

    \b
    fpemu scaler trace.csv
    fpemu scaler trace.csv --policy torch --policy megatron --png tournament.png
    fpemu scaler amax.npy --unit magnitude --format bf16
    fpemu scaler log.csv --column train/grad_max --scale-after train/loss_scale
    """
    from fpemu.cli.traces import Asked, read_trace

    if linear and unit not in (None, "magnitude"):
        raise click.UsageError("--linear is --unit magnitude: give one of them")
    try:
        read = read_trace(trace, Asked("magnitude" if linear else unit, column, scale, scale_after, overflow))
    except OSError as error:
        raise click.ClickException(f"{trace}: {error.strerror or error}") from None
    except ValueError as error:
        raise click.ClickException(f"{trace}: {error}") from None
    names = list(LOSS_POLICIES) if "all" in policies else list(dict.fromkeys(policies)) or list(DEFAULT)
    found = [_replayed(name, read, format) for name in names]
    if as_json:
        print_json(_data(trace, read, format, found))
    else:
        _print_table(found, format, read)
    if png:
        _draw(png, read, found)


class Both(NamedTuple):
    """A replay whose undetermined steps are applied, and one where they overflow; the same where there are none."""

    applied: Replay
    overflow: Replay


def _replayed(name: str, read: Trace, format: FloatFormat) -> Both:
    from fpemu.scaling.loss_simulation import simulate

    replay = simulate(name, read.recording, format)
    if not replay.undetermined.any():
        return Both(replay, replay)
    return Both(replay, simulate(name, read.recording, format, undetermined="overflow"))


def _draw(png: str, read: Trace, found: Sequence[Both]) -> None:
    from fpemu.plots import save_figure
    from fpemu.plots_scaler import replays

    try:
        save_figure(replays(read.recording, [both.applied for both in found]), png)
    except OSError as error:
        raise click.ClickException(f"{png}: {error.strerror or error}") from None
    click.echo(f"wrote {png}", err=True)


# What the numbers of the JSON are.
UNITS_OUT = {
    "first_scale": "factor", "last_scale": "factor", "skips": "steps", "undetermined": "steps", "wasted_exponents": "binades",
}  # fmt: skip


def _data(path: str, read: Trace, format: FloatFormat, found: Sequence[Both]) -> dict[str, Any]:
    """Everything, as plain data."""
    rows = [
        {
            **_row(both.applied),
            "if_undetermined_overflow": None if both.applied is both.overflow else _row(both.overflow),
        }
        for both in found
    ]
    return {
        "trace": path,
        "column": read.column,
        "unit": read.unit,
        "scale": None if read.scale is None else {"column": read.scale, "is": read.scale_is},
        "overflow": read.overflow,
        "format": format.name,
        "steps": len(read.recording),
        "recorded_overflows": int(read.recording.overflow.sum()),
        "notes": list(read.notes),
        "units": UNITS_OUT,
        "policies": rows,
    }


def _row(replay: Replay) -> dict[str, Any]:
    """A replay as plain data, with the scales at its ends."""
    return {**replay.summary(), "first_scale": float(replay.scale[0]), "last_scale": float(replay.scale[-1])}


def _print_table(found: Sequence[Both], format: FloatFormat, read: Trace) -> None:
    out = console()
    unsure = any(both.applied is not both.overflow for both in found)
    open_headings = ("open", "or skipped") if unsure else ()
    table = plain_table("scaler", "skipped", *open_headings, "longest", "wasted", "first scale", "last scale", "")
    for replay, other in found:
        row, worse = _row(replay), _row(other)
        notes = []
        if replay.stopped is not None:
            notes.append(f"gave up at step {replay.stopped}")
        if replay.dead_zone_at is not None:
            notes.append(f"dead zone from step {replay.dead_zone_at}")
        opened = (f"{row['undetermined']:,}", f"{worse['skips']:,}") if unsure else ()
        table.add_row(
            replay.policy, f"{row['skips']:,}", *opened, f"{row['longest_skip']:,}", f"{row['wasted_exponents']:.2f}",
            _power(row["first_scale"]), _power(row["last_scale"]), "; ".join(notes),
        )  # fmt: skip
    named = "numbers without a name" if read.column is None else shown(read.column)
    out.print(f"{len(read.recording):,} steps of {named} ({read.unit}), gradients cast to {format.name}")
    for note in read.notes:
        out.print(note)
    out.print(table)
    out.print(LEGEND + (UNDETERMINED if unsure else ""))


LEGEND = (
    "skipped: steps not applied; longest: most of them in a row; wasted: exponents left unused below overflow, mean of applied steps. "
    "Dead zone: a scale below 1, zero, infinite, or with an infinite inverse."
)
UNDETERMINED = (
    " Open: undetermined, steps that overflowed in the recording, at a scale that is larger than this scaler's or not recorded; taken as "
    "applied. Or skipped: not applied if each of these overflows."
)


def _power(scale: float) -> str:
    """A scale, as a power of two where it is one."""
    from math import frexp, isfinite

    if not isfinite(scale) or scale <= 0:
        return f"{scale:g}"
    significand, exponent = frexp(scale)
    return f"2^{exponent - 1}" if significand == 0.5 else f"{scale:.4g}"
