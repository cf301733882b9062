"""A pytest plugin: which test runs which line, and how long each takes (``-p tests.mutation.recorder``).

What is run only once in a process must not be credited to one test alone.  So caches of the code under trial are emptied
before each test; a fixture that several tests share has a context of its own, and the tests that use it are listed; and
files of tests with a cache of their own are listed too: there, tests lean on what another computed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import coverage
import pytest

FOLDER = "FPEMU_MUTATION_RECORD"  # the variable that says where records go
PACKAGES = ("analysis/training", "fpemu/scaling", "fpemu/testing")
FIXTURE = "fixture "  # how the context of a shared fixture begins


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        worker = getattr(config, "workerinput", {}).get("workerid", "main")
        config.pluginmanager.register(Recorder(Path(os.environ[FOLDER]), worker))


def caches_in(name: str) -> list[Any]:
    """The cached functions that a module defines."""
    values = vars(sys.modules[name]).values()
    return [value for value in values if hasattr(value, "cache_clear") and value.__module__ == name]


class Recorder:
    def __init__(self, folder: Path, worker: str) -> None:
        self.folder, self.worker = folder, worker
        self.seconds: dict[str, float] = {}
        self.fixtures: dict[str, list[str]] = {}
        self.cached: set[str] = set()
        self.context = ""
        self.coverage = coverage.Coverage(
            data_file=str(folder / f"lines.{worker}"),
            config_file=False,
            include=[f"{package}/*" for package in PACKAGES],
        )
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        for name in list(sys.modules):
            if name.startswith(tuple(package.replace("/", ".") for package in PACKAGES)):
                for function in caches_in(name):
                    function.cache_clear()
        if caches_in(item.module.__name__):  # type: ignore[attr-defined]
            self.cached.add(item.nodeid.split("::")[0])
        self.coverage.switch_context(item.nodeid)
        self.context, start = item.nodeid, perf_counter()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = perf_counter() - start

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
        outer = self.context
        if fixturedef.scope != "function":
            self.context = f"{FIXTURE}{fixturedef.baseid}::{fixturedef.argname}"
            self.coverage.switch_context(self.context)
        try:
            return (yield)
        finally:
            self.context = outer
            self.coverage.switch_context(outer)

    def pytest_runtest_call(self, item: pytest.Item) -> None:
        found = item._fixtureinfo.name2fixturedefs.values()  # type: ignore[attr-defined]
        shared = [one[-1] for one in found if one[-1].scope != "function"]
        self.fixtures[item.nodeid] = [f"{FIXTURE}{one.baseid}::{one.argname}" for one in shared]

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        self.coverage.save()
        record = {"seconds": self.seconds, "fixtures": self.fixtures, "cached": sorted(self.cached)}
        (self.folder / f"tests.{self.worker}.json").write_text(json.dumps(record))
