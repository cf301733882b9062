"""Which sources and machine a measurement depends on, as one digest: a kept unit is reused only where it is the same.

It covers all of fpemu, the experiment, every module of the lab that the experiment imports, Python, the numerical
packages and the processor. Words and pictures are left out (titles, captions, ``draw``, ``verdict``, figures.py):
they come after the tables, so that a figure can be improved without measuring again.
"""

from __future__ import annotations

import ast
import importlib.util
import platform
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path

import fpemu
from analysis import environment
from analysis.experiment import Experiment

WORDS_AND_PICTURES = frozenset({"TITLE", "QUESTION", "CLAIMS", "CAPTIONS", "draw", "verdict"})
NEVER_MEASURING = frozenset({"analysis", "analysis.experiment", "analysis.figures", "analysis.experiments"})
NUMERICAL = ("numpy", "numba", "pandas", "scikit-learn")


@cache
def library() -> str:
    """Digest of every source file of fpemu."""
    total = sha256()
    for folder in fpemu.__path__:
        for path in sorted(Path(folder).rglob("*.py")):
            total.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def _defines(node: ast.stmt) -> set[str]:
    """The names a statement of a module gives a meaning to."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _is_picture(name: str) -> bool:
    return name in WORDS_AND_PICTURES or name.startswith(("draw_", "_draw_"))


def _measuring(tree: ast.Module) -> list[ast.stmt]:
    """The statements of an experiment that can change its tables; a docstring (a lone constant) cannot."""
    return [
        node
        for node in tree.body
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        and not ((names := _defines(node)) and all(map(_is_picture, names)))
    ]


def _imports(nodes: list[ast.stmt]) -> Iterator[str]:
    """Modules of the lab that statements import, by full name (``from a import b`` may mean a.b)."""
    for node in nodes:
        for part in ast.walk(node):
            if isinstance(part, ast.Import):
                yield from (alias.name for alias in part.names)
            elif isinstance(part, ast.ImportFrom) and part.module and not part.level:
                yield part.module
                yield from (f"{part.module}.{alias.name}" for alias in part.names)


def _source_of(module: str) -> Path | None:
    """The file of a module of the lab; None for anything else, a function of a module for example."""
    if module.partition(".")[0] != "analysis" or module in NEVER_MEASURING:
        return None
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin and spec.has_location else None


def of(experiment: Experiment) -> str:
    """The digest for one experiment, as hexadecimal text."""
    body = _measuring(ast.parse(Path(str(experiment.__file__)).read_text(encoding="utf-8")))
    total = sha256("\n".join(map(ast.unparse, body)).encode())
    waiting, seen = list(_imports(body)), set()
    while waiting:
        module = waiting.pop()
        path = None if module in seen else _source_of(module)
        seen.add(module)
        if path is not None:
            waiting.extend(_imports(ast.parse(path.read_text(encoding="utf-8")).body))
    for module in sorted(seen):
        path = _source_of(module)
        if path is not None:
            total.update(module.encode() + b"\0" + path.read_bytes())
    total.update(library().encode())
    machine = (
        platform.python_version(),
        platform.machine(),
        environment.cpu_model(),
        *map(environment.version, NUMERICAL),
    )
    total.update("\0".join(machine).encode())
    return total.hexdigest()
