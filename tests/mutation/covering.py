"""Which tests run which line, from what the recorder kept, and which of them try a mutant."""

from __future__ import annotations

import ast
import json
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import coverage

from tests.mutation.candidates import Mutant
from tests.mutation.recorder import FIXTURE, PACKAGES

QUICK = 1.0  # seconds
ROOTS = {"fpemu/__init__.py", "analysis/__init__.py"}  # imported by all, and importing on demand


@dataclass
class Covering:
    """lines: tests by (file, line).  at_import: lines that ran before any test.  seconds: of each test, as recorded.

    cached: files of tests that share what they compute.
    """

    lines: dict[tuple[str, int], set[str]] = field(default_factory=lambda: defaultdict(set))
    at_import: set[tuple[str, int]] = field(default_factory=set)
    seconds: dict[str, float] = field(default_factory=dict)
    cached: set[str] = field(default_factory=set)

    def of_file(self, file: str) -> set[str]:
        """Tests that run any line of it."""
        return {test for (name, _), tests in self.lines.items() if name == file for test in tests}

    def tests(self, mutant: Mutant, importers: Collection[str]) -> set[str]:
        """Those that run its statement.

        Of one that runs at import: also those that run its module or one that imports it, and all of a file that imports it.
        """
        first, last = mutant.lines
        places = {(mutant.file, line) for line in range(first, last + 1)}
        found = set().union(*(self.lines.get(place, set()) for place in places))
        if mutant.at_import or places & self.at_import:
            found = found.union(*(self.of_file(file) for file in (mutant.file, *importers)))
            found |= {test for test in self.seconds if file_of(test) in importers}
        shared = {file_of(test) for test in found} & self.cached
        return found | {test for test in self.seconds if file_of(test) in shared}


def file_of(test: str) -> str:
    return test.split("::")[0]


def read(folder: Path, root: Path) -> Covering:
    """What the recorder's processes kept."""
    found, fixtures = Covering(), defaultdict(list)
    for path in sorted(folder.glob("tests.*.json")):
        record = json.loads(path.read_text())
        found.seconds |= record["seconds"]
        found.cached |= set(record["cached"])
        for test, used in record["fixtures"].items():
            for fixture in used:
                fixtures[fixture].append(test)
    for path in sorted(folder.glob("lines.*")):
        data = coverage.CoverageData(str(path))
        data.read()
        for name in data.measured_files():
            file = Path(name).relative_to(root).as_posix()
            for line, contexts in data.contexts_by_lineno(name).items():
                if "" in contexts:
                    found.at_import.add((file, line))
                for context in filter(None, contexts):
                    found.lines[file, line].update(fixtures[context] if context.startswith(FIXTURE) else [context])
    return found


def importers(root: Path, files: Collection[str]) -> dict[str, set[str]]:
    """By file: which of the files, and which files of tests, import it, by its own name or from its package."""
    found: dict[str, set[str]] = {file: set() for file in files}
    for file in {*files, *tests_in(root)}:
        if not file.endswith("__init__.py"):
            direct = imported(root, file)
            through = [imported(root, package) for package in direct if package.endswith("__init__.py")]
            for other in direct.union(*through) & found.keys():
                found[other].add(file)
    return found


def tests_in(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in (root / "tests").rglob("test_*.py"))


def reaching(root: Path, folders: Collection[str] = PACKAGES) -> list[str]:
    """Files of tests that come to these folders by imports, through any number of files."""
    known: dict[str, set[str]] = {}

    def reached(file: str, seen: set[str]) -> set[str]:
        if file not in known:
            known[file] = imported(root, file)
        for other in known[file] - seen:
            seen.add(other)
            reached(other, seen)
        return seen

    inside = tuple(f"{folder}/" for folder in folders)
    return [test for test in tests_in(root) if any(file.startswith(inside) for file in reached(test, set()))]


def imported(root: Path, file: str) -> set[str]:
    """Files of the project that a file imports anywhere in it, or takes from ``fp``."""
    names = set()
    for node in ast.walk(ast.parse((root / file).read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "fp":
            names.add(f"fpemu.{node.attr}")
    paths = [f"{name.replace('.', '/')}{ending}" for name in names for ending in (".py", "/__init__.py")]
    return {path for path in paths if (root / path).is_file() and path not in ROOTS}


def in_order(tests: Collection[str], seconds: dict[str, float]) -> list[str]:
    """Tests of less than a second before all others; of each, files in order of the time they take, tests of a file likewise.

    Files stay together, so that what their tests share is set up once, or twice.
    """
    total: dict[str, float] = defaultdict(float)
    for test in tests:
        total[file_of(test)] += seconds.get(test, 0.0)

    def place(test: str) -> tuple[bool, float, str, float, str]:
        took = seconds.get(test, 0.0)
        return took >= QUICK, total[file_of(test)], file_of(test), took, test

    return sorted(tests, key=place)
