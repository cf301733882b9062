"""A line a minute about a test run whose output goes to a file, where a row of dots tells little and a slow test nothing."""

from __future__ import annotations

import os
import time
from threading import Event, Thread
from typing import IO

import pytest

LINE_EVERY = 60.0  # seconds


class Telling:
    """A plugin of the process that collects the reports: alone, or the one that xdist's workers report to.

    It writes to a copy of the real standard output, since pytest captures the other while a test runs here.
    """

    def __init__(self, session: pytest.Session, to: IO[str], every: float = LINE_EVERY) -> None:
        self._session, self._to, self._every = session, to, every
        self._done, self._failed = 0, 0
        self._started = time.monotonic()
        self._stop = Event()
        self._thread = Thread(target=self._tell, name="telling", daemon=True)
        self._thread.start()

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._done += report.when == "teardown"
        self._failed += report.failed

    @pytest.hookimpl
    def pytest_sessionfinish(self) -> None:
        self._stop.set()
        self._thread.join()
        self._to.close()

    def _tell(self) -> None:
        while not self._stop.wait(self._every):
            minutes = (time.monotonic() - self._started) / 60
            of = f" of {self._session.testscollected:,}" if self._session.testscollected else ""
            failed = f", {self._failed:,} failed" if self._failed else ""
            print(f"\nafter {minutes:.1f} min: {self._done:,}{of} tests done{failed}", file=self._to, flush=True)


def tell_of(session: pytest.Session) -> None:
    """Begin, unless this is a worker, or somebody watches the dots."""
    if hasattr(session.config, "workerinput"):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        if not os.isatty(1):
            session.config.pluginmanager.register(Telling(session, os.fdopen(os.dup(1), "w")), "telling")
