"""The command ``fpemu``; one file a verb."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from fpemu import __version__
from fpemu.cli import check, conform, engines, explain, explain_dot, formats, inspect, scaler
from fpemu.cli.interrupt import LINE, told_once
from fpemu.cli.terminal import close_outputs, flush
from fpemu.reading import first_line
from fpemu.shown import shown

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
UNPRINTED = 1


class Program(click.Group):
    """A group that ends a Ctrl-C with one line and exit code 130."""

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, standalone_mode=False, **extra)
        with told_once() as interrupt:
            try:
                code = super().main(args, prog_name, standalone_mode=False, **extra)
                flush()
            except click.ClickException as error:
                if not isinstance(error, click.exceptions.NoArgsIsHelpError):  # (whose message is a page)
                    vars(error).update(message=shown(error.message))
                error.show()
                sys.exit(error.exit_code)
            except OSError as error:
                close_outputs()
                click.echo(f"fpemu: cannot print: {first_line(error)}", err=True)
                sys.exit(UNPRINTED)
            except MemoryError:
                click.echo("fpemu: out of memory", err=True)
                sys.exit(UNPRINTED)
            except (click.Abort, KeyboardInterrupt):
                click.echo(LINE.decode(), err=True, nl=False)
                sys.exit(INTERRUPTED)
            sys.exit(INTERRUPTED if interrupt.came else code if isinstance(code, int) else 0)


@click.group(
    cls=Program,
    context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done; 1 a value or a file could not be taken; 2 wrong usage; 130 interrupted.",
)
@click.version_option(__version__, prog_name="fpemu")
def main() -> None:
    """Low-precision floating point, bit by bit: FP16, BF16, FP8, FP6, FP4 and any other format up to 32 bits.

    \b
    What is E4M3, exactly?                 fpemu formats e4m3
    Why does 0.1 become 0x1d in E4M3?      fpemu explain 0.1 e4m3
    How does a Hopper GPU add FP16?        fpemu explain-dot
    What do tensor cores differ in?        fpemu engines fp16.fp32
    What would FP8 do to my gradients?     fpemu inspect gradients.npz
    Which loss scaler suits my training?   fpemu scaler trace.csv
    Is my conversion right?                fpemu check mymodule:to_fp8 --to e4m3
    Do my libraries agree?                 fpemu conform
    """


for command in (
    formats.formats,
    explain.explain,
    engines.engines,
    explain_dot.explain_dot,
    inspect.inspect,
    scaler.scaler,
    check.check,
    conform.conform,
):
    main.add_command(command)

__all__ = ["main"]
