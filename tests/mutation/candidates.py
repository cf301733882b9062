"""Every mutant there is, and a seeded draw of them, stratified by file."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from functools import cache
from hashlib import sha256
from pathlib import Path

from tests.mutation.operators import Edit, Source, children, edits

FOLDERS = ("analysis/training", "fpemu/scaling", "fpemu/testing")
LEFT_OUT = {f"analysis/training/{name}.py" for name in ("mlp", "capture", "emulated")}  # an older family, to be removed
LIBRARIES = ("analysis", "fpemu")  # where definitions of called functions are looked up


@dataclass(frozen=True)
class Mutant:
    """A change of a file.

    where: function or class, with dots.  line: where the change begins.  lines: of its statement, first and last.  at_import:
    whether that runs when the module is imported.  old, new: the lines that change, as one.  twin: how many mutants with the
    same old, new and place come before it.  needs: packages that the functions around it import themselves, since they may be absent.
    """

    file: str
    where: str
    operator: str
    line: int
    lines: tuple[int, int]
    at_import: bool
    edit: Edit
    old: str
    new: str
    twin: int
    needs: frozenset[str]

    @property
    def key(self) -> str:
        """What stays the same when code around it moves."""
        return "\n".join((self.file, self.where, self.operator, self.old, self.new, str(self.twin)))

    def applied(self, content: bytes) -> bytes:
        return content[: self.edit.start] + self.edit.text + content[self.edit.end :]

    def diff(self, content: bytes) -> str:
        """Without context."""
        before, after = content.decode().splitlines(), self.applied(content).decode().splitlines()
        lines = list(unified_diff(before, after, lineterm="", n=0))[2:]
        return "\n".join(lines)


def files(root: Path) -> list[str]:
    """The files mutants are drawn from, relative to the root."""
    found = sorted(path.relative_to(root).as_posix() for folder in FOLDERS for path in (root / folder).rglob("*.py"))
    return [name for name in found if name not in LEFT_OUT]


def required_arguments(root: Path) -> dict[str, set[str]]:
    """By the name of a function or dataclass of the project: arguments without a default."""
    required: dict[str, set[str]] = {}
    for library in LIBRARIES:
        for path in sorted((root / library).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.FunctionDef):
                    named = [*node.args.posonlyargs, *node.args.args]
                    without = named[: len(named) - len(node.args.defaults)]
                    without += [
                        a
                        for a, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
                        if default is None
                    ]
                    names = {argument.arg for argument in without}
                elif isinstance(node, ast.ClassDef):
                    names = {
                        f.target.id
                        for f in node.body
                        if isinstance(f, ast.AnnAssign) and not f.value and isinstance(f.target, ast.Name)
                    }
                else:
                    continue
                required.setdefault(node.name, set()).update(names)
    return required


def mutants(file: str, content: bytes, required: Mapping[str, set[str]] | None = None) -> list[Mutant]:
    """All of a file, in its order."""
    source = Source(content, required)
    seen: set[Edit] = set()
    twins: Counter[tuple[str, ...]] = Counter()
    found = []
    for node, statement, around, at_import in _walk(source.tree, None, (), True):
        for operator, edit in edits(node, source):
            if edit in seen or statement is None or content[edit.start : edit.end] == edit.text:
                continue
            seen.add(edit)
            old, new = _changed(content, edit)
            where = ".".join(scope.name for scope in around)
            needs = frozenset[str]().union(*map(_packages, around))
            spot = (where, operator, old, new)
            line = content.count(b"\n", 0, edit.start) + 1
            found.append(
                Mutant(file, where, operator, line, _span(statement), at_import, edit, old, new, twins[spot], needs)
            )
            twins[spot] += 1
    return found


Scope = ast.FunctionDef | ast.ClassDef


def _walk(
    node: ast.AST, statement: ast.stmt | None, around: tuple[Scope, ...], at_import: bool
) -> Iterator[tuple[ast.AST, ast.stmt | None, tuple[Scope, ...], bool]]:
    """Nodes with their statement, the functions and classes around them, and whether they run at import."""
    if isinstance(node, ast.stmt):
        statement = node
    yield node, statement, around, at_import
    inner = (*around, node) if isinstance(node, Scope) else around
    body = node.body if isinstance(node, ast.FunctionDef | ast.Lambda) else None
    for child in children(node):
        inside = child in body if isinstance(body, list) else child is body
        yield from _walk(child, statement, inner, at_import and not inside)


@cache
def _packages(scope: Scope) -> frozenset[str]:
    """What a function imports, by the first name."""
    nodes = list(ast.walk(scope)) if isinstance(scope, ast.FunctionDef) else []
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return frozenset(name.split(".")[0] for name in names)


def _span(statement: ast.stmt) -> tuple[int, int]:
    """Its lines; of a compound one, those before its body."""
    body = getattr(statement, "body", None)
    last = max(statement.lineno, body[0].lineno - 1) if body else statement.end_lineno or statement.lineno
    return statement.lineno, last


def _changed(content: bytes, edit: Edit) -> tuple[str, str]:
    """The lines that an edit touches, before and after, as one line each."""
    first = content.rfind(b"\n", 0, edit.start) + 1
    last = content.find(b"\n", edit.end)
    last = len(content) if last < 0 else last
    after = content[first : edit.start] + edit.text + content[edit.end : last]
    return tuple(" ".join(text.decode().split()) for text in (content[first:last], after))  # type: ignore[return-value]


def shares(sizes: Sequence[int], number: int) -> list[int]:
    """How many of each stratum: in proportion, by largest remainders, at least one of each that has any.

    Raises ValueError where there are fewer than ``number`` in all, or more strata than ``number``.
    """
    total, strata = sum(sizes), sum(size > 0 for size in sizes)
    if not strata <= number <= total:
        raise ValueError(f"cannot draw {number} of {total} mutants from {strata} files")
    exact = [size * number / total for size in sizes]
    taken = [min(size, max(1, int(share))) if size else 0 for size, share in zip(sizes, exact, strict=True)]
    while sum(taken) != number:
        step = 1 if sum(taken) < number else -1
        movable = [i for i, size in enumerate(sizes) if (taken[i] < size if step > 0 else taken[i] > 1)]
        chosen = max(movable, key=lambda i: step * (exact[i] - taken[i]))
        taken[chosen] += step
    return taken


def draw(candidates: Iterable[Mutant], number: int, seed: int) -> list[Mutant]:
    """A seeded sample, stratified by file.  Within a file the order is that of a keyed hash: code elsewhere does not change it."""
    by_file: dict[str, list[Mutant]] = {}
    for mutant in candidates:
        by_file.setdefault(mutant.file, []).append(mutant)
    chosen = []
    for mutants, share in zip(by_file.values(), shares([len(m) for m in by_file.values()], number), strict=True):
        ranked = sorted(mutants, key=lambda mutant: sha256(f"{seed}\n{mutant.key}".encode()).digest())
        chosen += sorted(ranked[:share], key=lambda mutant: mutant.edit)
    return chosen
