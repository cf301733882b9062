"""Ctrl-C: one line, at once, and nothing after it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fpemu.writing import stopped

LINE = b"fpemu: interrupted\n"
SHOW_CURSOR = b"\x1b[?25h"  # (a progress bar hides it, and could not bring it back any more)


class Interrupt:
    """Whether one came."""

    came = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Say so, close the outputs, forbid writing, and unwind, so that temporary files go; a second one ends the process."""
        self.came = True
        stopped.set()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        sink = os.open(os.devnull, os.O_WRONLY)
        for output in (1, 2):
            if os.isatty(output):
                os.write(output, SHOW_CURSOR)
        os.write(2, LINE)
        for output in (1, 2):
            os.dup2(sink, output)
        os.close(sink)
        raise KeyboardInterrupt


@contextmanager
def told_once() -> Iterator[Interrupt]:
    """Ctrl-C as this module has it, in a process that has left it as Python does.

    Python's own way leaves the outputs open, and an exception in a callback (of a garbage collection, of a lock) is printed and
    forgotten: the command would go on and print its result.
    """
    interrupt = Interrupt()
    ours = threading.current_thread() is threading.main_thread() and _is_pythons() and _has_outputs()
    if ours:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupt
    finally:
        if ours and not interrupt.came:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_pythons() -> bool:
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _has_outputs() -> bool:
    """Whether what is printed goes to the process's own outputs (not to a test's, or a notebook's)."""
    return sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__ and sys.stdout is not None
