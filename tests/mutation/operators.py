"""What is changed: a table of operators, each from a node of the syntax tree to edits of its source.

Left alone, by rule, because a change there means nothing or changes only words: text (f-strings included), annotations and
types, decorators (sizes of caches), imports, ``if TYPE_CHECKING``, assertions, the arguments of ``raise``, of warnings and of
``np.errstate``, the ``strict`` of ``zip``, and the -1 of a reshape, for which any negative number does.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple


class Edit(NamedTuple):
    """Bytes from start to end, replaced."""

    start: int
    end: int
    text: bytes


class Source:
    """A file as bytes, in which nodes of its tree have places."""

    def __init__(self, content: bytes, required: Mapping[str, Collection[str]] | None = None) -> None:
        self.content, self.tree = content, ast.parse(content)
        self.required = required or {}  # by function: arguments without a default
        self._lines = [0]
        for line in content.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def start(self, node: ast.expr | ast.stmt) -> int:
        return self._lines[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr | ast.stmt) -> int:
        return self._lines[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)

    def text(self, node: ast.expr | ast.stmt) -> bytes:
        return self.content[self.start(node) : self.end(node)]

    def replace(self, node: ast.expr | ast.stmt, text: bytes) -> Edit:
        return Edit(self.start(node), self.end(node), text)

    def between(self, left: ast.expr, right: ast.expr, old: str, new: str) -> Edit:
        """A token between two operands, replaced."""
        start = self.end(left)
        gap = self.content[start : self.start(right)]
        found = re.search(rb"\s+".join(map(re.escape, old.encode().split())), gap)
        assert found is not None, (old, gap)
        return Edit(start + found.start(), start + found.end(), new.encode())


Edits = Iterator[Edit]

ARITHMETIC = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "//"), ast.Pow: ("**", "*"), ast.LShift: ("<<", ">>"), ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"), ast.BitXor: ("^", "&"),
}  # fmt: skip
COMPARISON = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}  # fmt: skip
ORDERED = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
LIKE = {
    "min": "max", "minimum": "maximum", "fmin": "fmax", "any": "all", "floor": "ceil", "zeros": "ones", "zeros_like": "ones_like",
    "argmin": "argmax", "mean": "sum", "isnan": "isinf", "logical_and": "logical_or", "var": "std",
}  # fmt: skip
LIKE |= {other: one for one, other in LIKE.items()}
UNWRAPPED = {
    "abs",
    "sqrt",
    "floor",
    "ceil",
    "round",
    "sorted",
    "sort",
    "unique",
    "exp",
    "log",
    "log2",
    "exp2",
    "sign",
    "square",
}
METHODS = {"copy", "astype"}
COMMUTATIVE = {"min", "max", "minimum", "maximum", "fmin", "fmax", "array_equal", "add", "multiply"} | {
    "matches", "_is"  # ours: whether two are the same
}  # fmt: skip
UNSWAPPED = COMMUTATIVE | {"isinstance", "issubclass", "getattr", "hasattr", "setattr", "asarray", "array"}


def called(node: ast.Call) -> str:
    """The last name of what is called."""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def is_text(node: ast.expr) -> bool:
    """Whether ``+`` and ``%`` beside it put pieces together."""
    text = isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    parts = isinstance(node, ast.BinOp) and (is_text(node.left) or is_text(node.right))
    return text or parts or isinstance(node, ast.JoinedStr | ast.List | ast.Tuple)


def is_type(node: ast.expr) -> bool:
    """Whether ``|`` beside it is a union of types."""
    if isinstance(node, ast.Name):
        capital = node.id[0].isupper() and not node.id.isupper()
        return capital or node.id in {"int", "float", "str", "bool", "bytes", "tuple", "list", "dict", "set"}
    if isinstance(node, ast.BinOp):
        return is_type(node.left) or is_type(node.right)
    return isinstance(node, ast.Subscript) and is_type(node.value)


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def is_rest(node: ast.AST, child: ast.AST) -> bool:
    """Whether it is the extent of a reshape that follows from the others."""
    negative = isinstance(child, ast.UnaryOp) and isinstance(child.op, ast.USub)
    return negative and isinstance(node, ast.Call) and called(node) == "reshape"


# ---- operators --------------------------------------------------------------------------------------------------------
def arithmetic(node: ast.AST, source: Source) -> Edits:
    if isinstance(node, ast.BinOp) and not is_text(node.left) and not is_text(node.right):
        if type(node.op) in ARITHMETIC and not (isinstance(node.op, ast.BitOr) and is_type(node)):
            yield source.between(node.left, node.right, *ARITHMETIC[type(node.op)])
    elif isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC and not is_text(node.value):
        yield source.between(node.target, node.value, *(f"{sign}=" for sign in ARITHMETIC[type(node.op)]))


def comparison(node: ast.AST, source: Source) -> Edits:
    if isinstance(node, ast.Compare):
        operands = [node.left, *node.comparators]
        for left, operator, right in zip(operands[:-1], node.ops, operands[1:], strict=True):
            yield source.between(left, right, *COMPARISON[type(operator)])


def constant(node: ast.AST, source: Source) -> Edits:
    if not isinstance(node, ast.Constant):
        return
    value = node.value
    if isinstance(value, bool):
        yield source.replace(node, str(not value).encode())
    elif isinstance(value, int):
        yield source.replace(node, str(value + 1).encode())
        yield source.replace(node, str(value - 1).encode())
    elif isinstance(value, float):
        yield source.replace(node, repr(2 * value if value else 1.0).encode())


def logic(node: ast.AST, source: Source) -> Edits:
    if isinstance(node, ast.BoolOp):
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values[:-1], node.values[1:], strict=True):
            yield source.between(left, right, old, new)
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.UAdd):
        yield source.replace(node, b"(" + source.text(node.operand) + b")")


def condition(node: ast.AST, source: Source) -> Edits:
    """Negated, where no other operator does it."""
    tests = [node.test] if isinstance(node, ast.If | ast.While | ast.IfExp) else getattr(node, "ifs", [])
    for test in tests:
        single = isinstance(test, ast.Compare) and len(test.ops) == 1 and not isinstance(test.ops[0], ORDERED)
        negated = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
        if not single and not negated and not is_type_checking(test):
            yield source.replace(test, b"(not (" + source.text(test) + b"))")


def keyword_dropped(node: ast.AST, source: Source) -> Edits:
    """An argument that has a default, as far as the code of the project says."""
    if not isinstance(node, ast.Call):
        return
    for keyword in node.keywords:
        if keyword.arg not in (None, "strict") and keyword.arg not in source.required.get(called(node), ()):
            start, end = source.start(keyword), source.end(keyword)  # type: ignore[arg-type]
            tail = re.match(rb"\s*,", source.content[end:])
            yield Edit(start, end + (tail.end() if tail else 0), b"")


def arguments_swapped(node: ast.AST, source: Source) -> Edits:
    """Two that could be taken for each other."""
    if isinstance(node, ast.Call) and len(node.args) == 2 and called(node) not in UNSWAPPED:
        first, second = node.args
        like = (ast.Name, ast.Attribute, ast.Subscript, ast.Call, ast.BinOp)
        if isinstance(first, like) and isinstance(second, like) and ast.dump(first) != ast.dump(second):
            gap = source.content[source.end(first) : source.start(second)]
            yield Edit(source.start(first), source.end(second), source.text(second) + gap + source.text(first))


def call_replaced(node: ast.AST, source: Source) -> Edits:
    """By its like (min, max), or by its argument (abs)."""
    if not isinstance(node, ast.Call):
        return
    name, function = called(node), node.func
    if name in LIKE:
        end = source.end(function)
        yield Edit(end - len(name), end, LIKE[name].encode())
    if name in UNWRAPPED and node.args and not isinstance(node.args[0], ast.Starred | ast.GeneratorExp):
        yield source.replace(node, b"(" + source.text(node.args[0]) + b")")
    if name in METHODS and isinstance(function, ast.Attribute):
        yield source.replace(node, source.text(function.value))


def slice_opened(node: ast.AST, source: Source) -> Edits:
    if isinstance(node, ast.Slice):
        for bound in (node.lower, node.upper):
            if bound is not None:
                yield source.replace(bound, b"")


def statement_dropped(node: ast.AST, source: Source) -> Edits:
    """Calls for their effect, additions, elements and attributes set, errors raised."""
    calls = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    sets = isinstance(node, ast.Assign) and all(isinstance(one, ast.Subscript | ast.Attribute) for one in node.targets)
    if calls or sets or isinstance(node, ast.AugAssign | ast.Raise):
        yield source.replace(node, b"pass")  # type: ignore[arg-type]


def loop(node: ast.AST, source: Source) -> Edits:
    if isinstance(node, ast.Break | ast.Continue):
        yield source.replace(node, b"continue" if isinstance(node, ast.Break) else b"break")


def truth_returned(node: ast.AST, source: Source) -> Edits:
    """The answer of a function annotated with bool, negated."""
    if isinstance(node, ast.FunctionDef) and isinstance(node.returns, ast.Name) and node.returns.id == "bool":
        for inner in ast.walk(node):
            if isinstance(inner, ast.Return) and isinstance(
                inner.value, ast.Name | ast.Call | ast.BoolOp | ast.Attribute
            ):
                yield source.replace(inner.value, b"not (" + source.text(inner.value) + b")")


OPERATORS: dict[str, Callable[[ast.AST, Source], Edits]] = {
    "arithmetic": arithmetic,
    "comparison": comparison,
    "constant": constant,
    "logic": logic,
    "condition": condition,
    "keyword dropped": keyword_dropped,
    "arguments swapped": arguments_swapped,
    "call replaced": call_replaced,
    "slice opened": slice_opened,
    "statement dropped": statement_dropped,
    "loop": loop,
    "truth returned": truth_returned,
}


# ---- what is left alone -----------------------------------------------------------------------------------------------
def children(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a node that may be changed."""
    if isinstance(node, ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom | ast.Raise):
        return
    if isinstance(node, ast.Call) and called(node) in ("errstate", "warn", "cast", "TypeVar", "ParamSpec"):
        return
    left_out = {"annotation", "returns", "decorator_list", "type_params"}
    if isinstance(node, ast.If) and is_type_checking(node.test):
        left_out |= {"test", "body"}
    for name, value in ast.iter_fields(node):
        if name not in left_out:
            for child in value if isinstance(value, list) else [value]:
                strict = isinstance(child, ast.keyword) and child.arg == "strict"
                if isinstance(child, ast.AST) and not strict and not is_rest(node, child):
                    yield child


def edits(node: ast.AST, source: Source) -> Iterator[tuple[str, Edit]]:
    """All changes of a node itself, by operator."""
    if isinstance(node, ast.Call) and called(node) in ("errstate", "cast", "TypeVar", "ParamSpec"):
        return
    for name, operator in OPERATORS.items():
        for edit in operator(node, source):
            yield name, edit
