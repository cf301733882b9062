"""Does a fingerprint change with everything that a measurement depends on, however far away, and with nothing else?"""

from __future__ import annotations

import ast
import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import fpemu as fp
from analysis import experiment, fingerprint

ROOT = Path(__file__).parents[2]
NAMES = experiment.names()

# A small lab: what is imported, how, and from where.
TREE = {
    "lab/__init__.py": "",
    "lab/direct.py": "from lab import second\n",
    "lab/second.py": "import lab.third as t\n",
    "lab/third.py": "X = 1\n",
    "lab/late.py": "import importlib\nM = importlib.import_module('lab.named')\ndef f():\n    from lab.inner.deep import g\n    return g\n",
    "lab/inner/__init__.py": "from .near import N\n",
    "lab/inner/near.py": "N = 1\n",
    "lab/inner/deep.py": "from ..up import U\nfrom . import sister\ndef g(): pass\n",
    "lab/inner/sister.py": "",
    "lab/inner/weights.csv": "1,2\n",
    "lab/inner/notes.md": "words\n",
    "lab/up.py": "U = 1\n",
    "lab/ring_a.py": "import lab.ring_b\n",
    "lab/ring_b.py": "import lab.ring_a\n",
    "lab/named.py": "",
    "lab/alone.py": "",
    "lab/figures.py": "",
    "lab/drawn.py": "",
    "lab/experiments/__init__.py": "",
}
EXPERIMENT = '''"""Words."""
import lab.direct
from lab.ring_a import anything
from lab.late import f
from lab import figures
import importlib
SIZE, OTHER = 3, 4
LIMIT = 0.5
TITLE = "a title"
CAPTIONS = {"a": f"below {LIMIT}"}


def plan(profile):
    return [{"size": SIZE}]


def helper(unit):
    return unit


class Way:
    tint = "red"


def measure(unit, profile):
    return {"rows": helper(unit)}


def draw(tables):
    import lab.drawn
    return Way


def verdict(tables):
    return judged(tables) < LIMIT


def judged(tables):
    return 1
'''
USED = {
    "lab/direct.py", "lab/second.py", "lab/third.py", "lab/late.py", "lab/inner/__init__.py", "lab/inner/near.py", "lab/inner/deep.py",
    "lab/inner/sister.py", "lab/inner/weights.csv", "lab/up.py", "lab/ring_a.py", "lab/ring_b.py", "lab/named.py",
}  # fmt: skip


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """The fingerprint of the small lab's experiment, worked out again at each call."""
    for name, text in {**TREE, "lab/experiments/e1.py": EXPERIMENT}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(fingerprint, "LAB", "lab")
    monkeypatch.setattr(fingerprint, "NEVER_MEASURING", frozenset({"lab.figures", "lab.experiments"}))
    importlib.invalidate_caches()
    module: Any = SimpleNamespace(__name__="lab.experiments.e1", __file__=str(tmp_path / "lab/experiments/e1.py"))
    yield lambda: fingerprint.of(module)
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab"]:
        del sys.modules[name]


@pytest.mark.parametrize("file", [name for name in TREE if name.endswith((".py", ".csv", ".md"))])
def test_every_module_that_is_imported_in_whatever_way_counts(
    small: Callable[[], str], tmp_path: Path, file: str
) -> None:
    before = small()
    assert small() == before
    path = tmp_path / file
    path.write_text(path.read_text() + ("# changed\n" if file.endswith(".py") else "3\n"))
    assert (small() != before) == (file in USED or file == "lab/__init__.py")


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("SIZE, OTHER = 3, 4", "SIZE, OTHER = 3, 5", True),
        ("return unit", "return dict(unit)", True),
        ('"size": SIZE', '"size": 2', True),
        ("import importlib\n", "import importlib, math\n", True),
        ("LIMIT = 0.5", "LIMIT = 0.25", False),
        ('tint = "red"', 'tint = "blue"', False),
        ("return 1", "return 2", False),
        ("return judged(tables) < LIMIT", "return judged(tables) > LIMIT", False),
        ('"a title"', '"another"', False),
        ("return Way", "return Way()", False),
        ("Words.", "Other words.", False),
        ("LIMIT = 0.5", "LIMIT = 0.5  # a comment", False),
        ("LIMIT = 0.5", "LIMIT = 0.5\nprint(LIMIT)", True),
        ("def judged", "@importlib.reload\ndef judged", True),
        ("def helper(unit):", "def helper(unit, limit=LIMIT):", True),
    ],
)
def test_of_an_experiment_what_its_measurement_uses_counts(
    small: Callable[[], str], tmp_path: Path, old: str, new: str, counts: bool
) -> None:
    before, path = small(), tmp_path / "lab/experiments/e1.py"
    assert EXPERIMENT.count(old) == 1
    path.write_text(EXPERIMENT.replace(old, new))
    assert (small() != before) == counts


@pytest.mark.parametrize("package", ["numpy", "numba", "llvmlite", "pandas", "scikit-learn", "scipy", "ml_dtypes"])
def test_versions_of_numerical_packages_count(
    small: Callable[[], str], monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    before, version = small(), fingerprint.environment.version
    monkeypatch.setattr(fingerprint.environment, "version", lambda name: "0" if name == package else version(name))
    assert small() != before


@pytest.mark.parametrize("where", ["platform.python_version", "platform.machine", "environment.cpu_model", "library"])
def test_python_machine_and_library_count(
    small: Callable[[], str], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    before = small()
    monkeypatch.setattr(f"analysis.fingerprint.{where}", lambda: "another")
    assert small() != before


# ---- the real lab ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "module", "counts"),
    [
        ("e13", "analysis.training.losses", True),  # by small_tasks, networks
        ("e15", "analysis.pairs", True),  # by ladders
        ("e15", "analysis.training.numerics", True),
        ("e21", "analysis.training.optimizers", True),  # by scaled
        ("e17", "analysis.training.text", True),
        ("e01", "analysis.training.digits", True),
        ("e01", "analysis.training.text", False),
        ("e01", "analysis.ladders", False),
        ("e02", "analysis.sums", False),
        ("e05", "analysis.training.digits", False),
        ("e13", "analysis.claims", False),
    ],
)
def test_indirect_imports_of_real_experiments(
    name: str, module: str, counts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = experiment.load(name)
    before, original = fingerprint.of(one), fingerprint._source_of
    source = original(module)
    assert source is not None
    changed = tmp_path / source.name
    changed.write_text(source.read_text() + "\nCHANGED = True\n")
    monkeypatch.setattr(fingerprint, "_source_of", lambda one: changed if one == module else original(one))
    assert (fingerprint.of(one) != before) == counts


@pytest.mark.parametrize("name", NAMES)
def test_sources_are_those_that_importing_loads(name: str) -> None:
    """By another way than following the text: what the sources' own namespaces hold of the lab's modules and functions."""
    found = fingerprint.sources(experiment.load(name))
    for module in found:
        try:
            namespace = vars(importlib.import_module(module))
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            continue
        for value in namespace.values():
            if isinstance(value, ModuleType) and value.__name__.startswith(f"{module}."):
                continue  # a package's own modules, whoever imported them
            home = str(getattr(value, "__module__", None) or getattr(value, "__name__", ""))
            if home.startswith("analysis.") and home not in fingerprint.NEVER_MEASURING:
                assert home in found, f"{module} uses {home}"


@pytest.mark.parametrize("name", NAMES)
def test_what_never_measures_gives_measurements_only_types_and_tints(name: str) -> None:
    """Of the modules that are left out, ``plan`` and ``measure`` use records of the contract, and labels and colours of figures."""
    tree = ast.parse(Path(str(experiment.load(name).__file__)).read_text(encoding="utf-8"))
    nodes = fingerprint._measuring(tree)
    used = set().union(*map(fingerprint._names, nodes))
    taken = {
        alias.name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module in fingerprint.NEVER_MEASURING
        for alias in node.names
        if (alias.asname or alias.name) in used
    }
    assert taken <= {"Claim", "Profile", "Unit", "colour", "label"}


def test_every_kernel_and_data_file_of_the_library_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "fpemu"
    shutil.copytree(ROOT / "fpemu", copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fp, "__path__", [str(copy)])
    digest: Any = fingerprint.library
    before = digest.__wrapped__()
    for path in [*sorted(copy.rglob("*.py")), copy / "kernels" / "table.npz"]:
        text = path.read_bytes() if path.exists() else None
        path.write_bytes((text or b"") + b"# changed\n")
        assert digest.__wrapped__() != before, path
        path.unlink() if text is None else path.write_bytes(text)
    (copy / "kernels" / "README.md").write_text("other words")
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "x.nbc").write_bytes(b"cache")
    assert digest.__wrapped__() == before
