"""Processes that tests start: Ctrl-C reaches them, however the tests were started, and none outlives its test."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

PATIENCE = 900  # seconds after which a process hangs; never how long it may take: the machine may be busy


@contextmanager
def interruptible() -> Iterator[None]:
    """Children started meanwhile take SIGINT as their own, although a background job (``nohup``) is started to ignore it.

    An ignored signal stays ignored in children, a handled one is theirs to choose.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def child(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process in a group of its own, which is killed, with whatever it started, when the block is left."""
    with interruptible():
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()  # closes its pipes and waits for it


def wait_until(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something a process does; fail where it ends before, or hangs."""
    last = time.monotonic() + PATIENCE
    while not holds():
        assert process.poll() is None, f"ended with {process.returncode}: {process.communicate()[1]}"
        assert time.monotonic() < last, "hangs"
        time.sleep(0.02)
