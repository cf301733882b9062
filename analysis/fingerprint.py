"""Which sources and machine a measurement depends on, as one digest: a kept unit is reused only where it is the same.

It covers all of fpemu; of the experiment, what ``plan`` and ``measure`` use; every module of the lab that this imports, directly or
through others, with the packages they lie in and the data files beside them; Python, the numerical packages and the processor. Words,
pictures and verdicts are left out: they come after the tables, so that they can be improved without measuring again.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import platform
from collections.abc import Iterable, Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path

import fpemu
from analysis import environment
from analysis.experiment import Experiment, Profile

LAB = "analysis"  # the package whose modules are followed
MEASURING = frozenset({"plan", "measure"})
NEVER_MEASURING = frozenset({"analysis", "analysis.experiment", "analysis.figures", "analysis.experiments"})
NUMERICAL = ("numpy", "numba", "llvmlite", "pandas", "scikit-learn", "scipy", "ml_dtypes")
NO_DATA = frozenset({".pyc", ".md", ".j2", ".css", ".mplstyle", ".typed", ".nbi", ".nbc"})  # words, pictures, caches


def _files(folder: Path, pattern: str) -> Iterator[Path]:
    """Files in which a measurement can lie, in order: sources and data."""
    for path in sorted(folder.glob(pattern)):
        if path.is_file() and path.suffix not in NO_DATA and "__pycache__" not in path.parts:
            yield path


@cache
def library() -> str:
    """Digest of every source and data file of fpemu."""
    total = sha256()
    for folder in map(Path, fpemu.__path__):
        for path in _files(folder, "**/*"):
            total.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def _defines(node: ast.stmt) -> set[str]:
    """The names that a statement of a module gives a meaning to and does nothing else; empty for any other statement."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return set() if node.decorator_list and isinstance(node, ast.FunctionDef) else {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    parts = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return (
        {part.id for part in parts if isinstance(part, ast.Name)}
        if all(isinstance(p, ast.Name) for p in parts)
        else set()
    )


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _measuring(tree: ast.Module) -> list[ast.stmt]:
    """The statements of an experiment that can change its tables: those that do more than define names, and the definitions that
    ``plan``, ``measure`` or these use; a docstring (a lone constant) cannot."""
    body = [node for node in tree.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    used: set[str] = set(MEASURING).union(*(_names(node) for node in body if not _defines(node)))
    while True:
        chosen = [node for node in body if not (names := _defines(node)) or names & used]
        more = used.union(*map(_names, chosen))
        if more == used:
            return chosen
        used = more


def _package_of(module: str, path: Path) -> str:
    """What a relative import in a module starts from."""
    return module if path.name == "__init__.py" else module.rpartition(".")[0]


def _imports(nodes: Iterable[ast.AST], package: str) -> Iterator[str]:
    """Modules that statements may import, by full name (``from a import b`` may mean a.b), anywhere in them.

    ``package``: from which relative imports start.  A text that is a module's full name counts: ``import_module("analysis.sums")``.
    """
    for part in (part for node in nodes for part in ast.walk(node)):
        if isinstance(part, ast.Import):
            yield from (alias.name for alias in part.names)
        elif isinstance(part, ast.ImportFrom):
            base = part.module or ""
            if part.level:
                base = importlib.util.resolve_name("." * part.level + base, package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in part.names)
        elif isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value.startswith(f"{LAB}."):
            yield part.value


def _with_packages(module: str) -> list[str]:
    """A module and the packages it lies in, which are imported before it."""
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _source_of(module: str) -> Path | None:
    """The file of a module of the lab; None for anything else, a function of a module for example."""
    if (
        module.partition(".")[0] != LAB
        or module in NEVER_MEASURING
        or not all(map(str.isidentifier, module.split(".")))
    ):
        return None
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin and spec.has_location else None


def sources(experiment: Experiment) -> dict[str, Path]:
    """The modules of the lab on which an experiment's tables depend, and their files."""
    path = Path(str(experiment.__file__))
    waiting = list(
        _imports(_measuring(ast.parse(path.read_text(encoding="utf-8"))), _package_of(experiment.__name__, path))
    )
    found: dict[str, Path] = {}
    seen: set[str] = set()
    while waiting:
        for module in _with_packages(waiting.pop()):
            if module not in seen and (source := _source_of(module)) is not None:
                found[module] = source
                waiting.extend(_imports([ast.parse(source.read_text(encoding="utf-8"))], _package_of(module, source)))
            seen.add(module)
    return found


def of(experiment: Experiment) -> str:
    """The digest for one experiment, as hexadecimal text."""
    tree = ast.parse(Path(str(experiment.__file__)).read_text(encoding="utf-8"))
    total = sha256("\n".join(map(ast.unparse, _measuring(tree))).encode())
    found = sources(experiment)
    for module, path in sorted(found.items()):
        total.update(module.encode() + b"\0" + path.read_bytes())
    for folder in sorted({path.parent for path in found.values()}):
        for path in _files(folder, "*"):
            if path.suffix != ".py":
                total.update(path.name.encode() + b"\0" + path.read_bytes())
    total.update(inspect.getsource(Profile).encode() + library().encode())
    machine = (
        platform.python_version(),
        platform.machine(),
        environment.cpu_model(),
        *map(environment.version, NUMERICAL),
    )
    total.update("\0".join(machine).encode())
    return total.hexdigest()
