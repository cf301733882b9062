"""``python -m fpemu.cli.pages``: the command line as a page, README.md beside this file; nothing on it is pasted.

With ``--check`` nothing is written, and a stale page is exit code 1.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import chdir
from inspect import getsource
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from click.testing import CliRunner

from fpemu.cli import main
from fpemu.cli.check import COUNTEREXAMPLE
from fpemu.io import writing_whole

PAGE = Path(__file__).with_name("README.md")
EXAMPLES = {
    "formats": ("fpemu formats e4m3",),
    "explain": ("fpemu explain 0.3 e4m3", "fpemu explain -464 e4m3 --all-roundings"),
    "engines": ("fpemu engines fp16.fp32", "fpemu engines hopper.mma.e4m3.fp32"),
    "explain-dot": (
        'fpemu explain-dot "1, 1.5*2^-12, -1" "1, 1.5*2^-13, 1"',
        'fpemu explain-dot --engine hopper.wgmma.e4m3.fp32 "2^-4 x 40" "2^-4 x 40" --c 64 --block 1',
        'fpemu explain-dot --engine fp16 "1 x 4" "2048, 1, 1, 3"',
    ),
    "inspect": ("fpemu inspect gradients.npz",),
    "scaler": ("fpemu scaler trace.csv",),
    "conform": ("fpemu conform --list",),
    "check": ("fpemu check mine:to_fp8 --to e4m3",),
}


def save_gradients() -> None:
    """The file that the examples look into."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((256, 64)) * 2.0**-12
    activation = rng.standard_normal((64, 256)) * 2.0 ** rng.integers(-30, -18, (64, 1))
    np.savez("gradients.npz", weight=weight.astype(np.float32), activation=activation.astype(np.float32))


def save_trace() -> None:
    """The trace that the examples replay: gradients that fade by eight binades, a spike now and then."""
    rng = np.random.default_rng(0)
    logs = np.linspace(-4, -12, 8000) + rng.standard_normal(8000) / 2 + 6 * (rng.random(8000) < 1 / 500)
    Path("trace.csv").write_text("log2_amax\n" + "\n".join(f"{value:.3f}" for value in logs) + "\n")


MODULE = """\
import numpy as np

import fpemu


def to_fp8(x):
    return fpemu.encode(x.astype(np.float16), "e4m3")  # through float16: rounded twice
"""


def page() -> str:
    """The whole page."""
    return "\n\n".join(_parts()) + "\n"


def _parts() -> Iterator[str]:
    yield "# The command line"
    yield "Made by `python -m fpemu.cli.pages`, from what the commands print. `gradients.npz` and `trace.csv` are made by"
    yield f"```python\n{getsource(save_gradients)}\n\n{getsource(save_trace)}```"
    yield f"and `mine.py` is\n\n```python\n{MODULE}```"
    yield _shown("fpemu --help")
    with TemporaryDirectory() as folder, chdir(folder):
        save_gradients()
        save_trace()
        Path("mine.py").write_text(MODULE)
        for name in main.commands:
            yield f"## {name}"
            for line in (f"fpemu {name} --help", *EXAMPLES[name]):
                yield _shown(line)


def _shown(line: str) -> str:
    """A command line and what it prints."""
    quiet = {"FPEMU_QUIET": "1"}  # what is compiled depends on what an earlier run has kept
    result = CliRunner(env=quiet).invoke(main, shlex.split(line)[1:], prog_name="fpemu")
    if result.exit_code not in (0, COUNTEREXAMPLE):
        raise RuntimeError(f"{line} ended with exit code {result.exit_code}: {result.output}")
    text = "\n".join(row.rstrip() for row in result.output.rstrip().splitlines())
    return f"```console\n$ {line}\n{text}\n```"


def is_stale() -> bool:
    """Whether the page there is says anything else, line breaks aside: releases of click wrap differently."""
    try:
        return PAGE.read_text(encoding="utf-8").split() != page().split()
    except OSError:
        return True


def run(arguments: Sequence[str]) -> int:
    """Write the page, or check it; returns the exit code."""
    if list(arguments) == ["--check"]:
        if is_stale():
            print("stale: fpemu/cli/README.md is not what the commands print", file=sys.stderr)
            return 1
    elif arguments:
        print("usage: python -m fpemu.cli.pages [--check]", file=sys.stderr)
        return 2
    else:
        text = page().encode()
        with writing_whole(PAGE) as stream:
            stream.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
