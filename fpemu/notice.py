"""What the library says unasked: one line on standard error, never on standard output; nothing where FPEMU_QUIET is set."""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def notice(line: str) -> None:
    """Say it, if anybody can hear it."""
    if os.environ.get("FPEMU_QUIET") or sys.stderr is None:
        return
    with suppress(OSError, ValueError):  # a pipe nobody reads, a closed file
        print(f"fpemu: {line}", file=sys.stderr, flush=True)
