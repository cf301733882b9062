"""``fpemu inspect``: what casts would lose of the tensors in a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from fpemu.cli.overview import MOST_TABLES, ORDERS, in_order, lines
from fpemu.cli.tensors import Skipped, Tensor, data_bytes, tensors
from fpemu.cli.terminal import FormatName, FormatNames, console, plain_table, print_json, told_of
from fpemu.formats import FloatFormat
from fpemu.policies import Cast, Overflow, Rounding
from fpemu.reading import DAMAGE, first_line
from fpemu.shown import shown
from fpemu.writing import writing_whole

if TYPE_CHECKING:
    from fpemu.cli.losses import Inspected
    from fpemu.stats import TensorStats

MOST_PANELS = 40  # of one PNG


@click.command(
    epilog="Exit codes: 0 every file was read (arrays that hold no floats are named and skipped); 1 a file or an "
    "array could not be read, or nothing was found to inspect; 2 wrong usage; 130 interrupted. Pages and pictures are "
    "written whole or not at all."
)
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option(
    "--formats", type=FormatNames(), default="fp16,bf16,e4m3,e5m2", show_default=True, help="Formats to cast to."
)
@click.option(
    "--scale", type=float, default=1.0, show_default=True, help="Multiply by this first, as a loss scale does."
)
@click.option(
    "--rounding", type=click.Choice([rounding.value for rounding in Rounding]), default=Rounding.NEAREST_EVEN.value,
    show_default=True, help="Which of its two neighbours a value becomes.",
)  # fmt: skip
@click.option(
    "--overflow", type=click.Choice([overflow.value for overflow in Overflow]), default=Overflow.IEEE.value,
    show_default=True, help="What becomes of values beyond the largest finite one; with ieee, infinity or NaN.",
)  # fmt: skip
@click.option(
    "--as", "raw", type=FormatName(), default=None,
    help="Take raw elements and integers of this width as codes: bfloat16 arrays saved by NumPy read back as raw |V2.",
)  # fmt: skip
@click.option(
    "--tensor", "patterns", multiple=True, metavar="GLOB",
    help="Only tensors whose name fits, as *.weight does; may be given several times.",
)  # fmt: skip
@click.option(
    "--sort", "order", type=click.Choice(list(ORDERS)), default="file", show_default=True,
    help="Which tensors come first: the largest, or those that lose most in any of the formats.",
)  # fmt: skip
@click.option(
    "--show", "layout", type=click.Choice(["auto", "rows", "tables"]), default="auto", show_default=True,
    help=f"One row a tensor, or a table each; auto: rows where there are more than {MOST_TABLES}.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help='Print JSON and nothing else; NaN is null, infinity "Infinity".')
@click.option("--html", type=click.Path(dir_okay=False), default=None, help="Write a self-contained page with figures.")
@click.option("--png", type=click.Path(dir_okay=False), default=None, help="Write the exponent histograms as one PNG.")
def inspect(
    files: Sequence[str],
    formats: tuple[FloatFormat, ...],
    scale: float,
    rounding: str,
    overflow: str,
    raw: FloatFormat | None,
    patterns: Sequence[str],
    order: str,
    layout: str,
    as_json: bool,
    html: str | None,
    png: str | None,
) -> None:
    """Show what casting the tensors in FILES to low precision would lose: underflow, overflow, error, best loss scale.

    FILES are .npy, .npz, .safetensors or files of fpemu.save, of any size: they are read (and unpacked) in pieces of
    16 MiB, and never unpickled. A .pt is read by PyTorch, where that is installed, weights only.
    Shares are of the non-zero elements and of the energy (sum of squares).

    \b
    fpemu inspect gradients.npz
    fpemu inspect gradients.npz --scale 65536 --png histogram.png
    fpemu inspect weights.npy --as bfloat16 --formats e4m3,e5m2 --overflow saturate
    fpemu inspect model.safetensors --tensor '*.weight' --sort sqnr --show rows
    """
    casts = _casts(formats, rounding, overflow, scale)
    found, problems, failed = _inspect_all(files, casts, scale, raw, patterns)
    found = in_order(found, order)
    if patterns and not (found or problems):
        problems.append(f"no tensor is called {' or '.join(patterns)}")
    from fpemu.cli.losses import settings

    how = settings(scale, rounding, overflow)
    if as_json:
        print_json(_document(files, found, problems, how, scale))
    else:
        _print_tables(found, how, layout == "rows" or (layout == "auto" and len(found) > MOST_TABLES))
    for problem in problems:
        click.echo(f"fpemu: {shown(problem)}", err=True)
    _write_pictures(found, problems, how, html, png)
    click.get_current_context().exit(1 if failed or not found else 0)


def _casts(formats: Sequence[FloatFormat], rounding: str, overflow: str, scale: float) -> list[Cast]:
    """The casts, tried on nothing so that what cannot work is said before any file is read."""
    from fpemu.stats import tensor_stats

    try:
        casts = [Cast(format, rounding, overflow) for format in formats]
        tensor_stats(np.zeros(0, np.float32), casts, scale)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return casts


# ---- reading --------------------------------------------------------------------------------------------------------
def _inspect_all(
    files: Sequence[str], casts: Sequence[Cast], scale: float, raw: FloatFormat | None, patterns: Sequence[str]
) -> tuple[list[Inspected], list[str], bool]:
    """What was found, what was not inspected (a line each), and whether any of that is a failure.

    ``patterns``: of the names of those that are asked for; none: all.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from fpemu.cli.losses import Inspected, title

    found: list[Inspected] = []
    problems: list[str] = []
    failed = False
    err = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("inspect", total=sum(map(data_bytes, files)))
        for file in files:
            progress.update(task, description=shown(os.path.basename(file)))
            try:
                for entry in tensors(file, raw):
                    if patterns and not any(fnmatchcase(entry.name, pattern) for pattern in patterns):
                        continue
                    if isinstance(entry, Skipped):
                        problems.append(f"{title(file, entry.name)}: {'' if entry.failed else 'skipped, '}{entry.why}")
                        failed |= entry.failed
                        continue
                    try:
                        stats = _stats(entry, casts, scale, lambda size: progress.advance(task, size))
                    except DAMAGE as error:
                        problems.append(f"{title(file, entry.name)}: {first_line(error)}")
                        failed = True
                        continue
                    found.append(Inspected(file, entry.name, entry.dtype, entry.shape, stats))
            except DAMAGE as error:
                problems.append(f"{shown(file)}: {first_line(error).removeprefix(f'{shown(file)}: ')}")
                failed = True
    return found, problems, failed


def _stats(tensor: Tensor, casts: Sequence[Cast], scale: float, advance: Any) -> TensorStats:
    """The statistics of a tensor, piece by piece."""
    from fpemu.stats import tensor_stats

    total, done = None, 0
    for piece in tensor.pieces:
        stats = _piece_stats(piece, tensor.format, casts, scale, done)
        total = stats if total is None else total.merge(stats)
        done += piece.size
        advance(piece.nbytes)
    return tensor_stats(np.zeros(0, np.float32), casts, scale) if total is None else total


def _piece_stats(
    piece: Any, format: FloatFormat | None, casts: Sequence[Cast], scale: float, offset: int
) -> TensorStats:
    from fpemu.arrays import codes_of
    from fpemu.stats import tensor_stats
    from fpemu.targets.host_stats import collect

    if format is None:
        return tensor_stats(piece, casts, scale, offset=offset)
    codes, source = codes_of(piece, format)
    return collect(codes, source, tuple(casts), scale, 0, offset)


# ---- writing --------------------------------------------------------------------------------------------------------
def _print_tables(found: Sequence[Inspected], how: str, in_rows: bool) -> None:
    from fpemu.cli.losses import NOTE, common_table, headline, table

    out = console()

    def show(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        lines = plain_table(*headings)
        for row in rows:
            lines.add_row(*row)
        out.print(lines)

    if in_rows and found:
        click.echo("\n".join(lines(found)))
    for one in () if in_rows else found:
        out.print(shown(one.title))
        out.print(headline(one))
        show(*table(one.stats))
    if len(found) > 1:
        out.print(f"All {len(found)} tensors")
        show(*common_table(found))
    if found:
        out.print(f"{how[0].upper()}{how[1:]}. {NOTE}")


def _document(
    files: Sequence[str], found: Sequence[Inspected], problems: Sequence[str], how: str, scale: float
) -> dict[str, Any]:
    from fpemu import __version__
    from fpemu.cli.losses import band_data, common_bands, data

    return {
        "fpemu": __version__,
        "how": how,
        "scale": scale,
        "files": [{"file": file, "tensors": [data(one) for one in found if one.file == file]} for file in files],
        "loss_scales_for_all": {name: band_data(band) for name, band in common_bands(found).items()},
        "problems": list(problems),
    }


def _write_pictures(
    found: Sequence[Inspected], problems: Sequence[str], how: str, html: str | None, png: str | None
) -> None:
    if not (html or png) or not found:
        return
    from fpemu.cli.page import page
    from fpemu.plots import exponent_histograms, save_figure

    if html:
        with told_of(html), writing_whole(html) as stream:
            stream.write(page(found, problems, how).encode())
    if png:
        if len(found) > MOST_PANELS:
            click.echo(f"fpemu: the PNG shows the first {MOST_PANELS} of {len(found)} tensors", err=True)
        formats = [part.cast.format for part in found[0].stats.formats]
        with told_of(png):
            save_figure(exponent_histograms({one.title: one.stats for one in found[:MOST_PANELS]}, formats), png)
