"""The mutation run itself: what it changes and leaves alone, its draw, its interval, and a small project tried from end to end."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from tests.mutation.candidates import Mutant, draw, files, mutants, required_arguments, shares
from tests.mutation.covering import in_order, reaching
from tests.mutation.report import reasons, spot, wilson

ROOT = Path(__file__).parents[1]

# a line of code, and all it can become
CHANGED = {
    "a + b": {"a - b"},
    "a // b": {"a / b"},
    "a is not None": {"a is None"},
    "a < b <= c": {"a <= b <= c", "a < b < c"},
    "x = 3": {"x = 4", "x = 2"},
    "x = 0.5": {"x = 1.0"},
    "x = 0.0": {"x = 1.0"},
    "x = True": {"x = False"},
    "a and b": {"a or b"},
    "x = -a": {"x = (a)"},
    "x = not a": {"x = (a)"},
    "x = a if b else c": {"x = a if (not (b)) else c"},
    "x = a[b:c]": {"x = a[:c]", "x = a[b:]"},
    "x += a": {"x -= a", "pass"},
    "x[a] = b": {"pass"},
    "f(a)": {"pass"},
    "x = f(a, b)": {"x = f(b, a)"},
    "x = min(a, b)": {"x = max(a, b)"},
    "x = np.abs(a)": {"x = (a)"},
    "x = a.astype(b)": {"x = a"},
    "x = f(a, key=b)": {"x = f(a, )"},
    "raise ValueError(f'{1 + 2}')": {"pass"},
    "while True: break": {"while False: break", "while (not (True)): break", "while True: continue"},
    "def f() -> bool: return a": {"def f() -> bool: return not (a)"},
}
ALONE = (
    '"""Text 1 + 1."""', "x: int | None = None", "x = f'{a + 1}'", "X = int | float", "@lru_cache(maxsize=3)\ndef f(): ...",
    "if TYPE_CHECKING:\n    x = 1", "assert a < 1", "def f(x: Array[3]) -> Array[3]: ...", "x = zip(a, strict=True)",
    "x = a.reshape(-1, b)",
    "with np.errstate(over='ignore'): ...", "x = 'a' + b", "from a import b", "__all__ = ['a']", "x = f(a, a)", "x = matches(a, b)", "x = _is(a, b)",
)  # fmt: skip


@pytest.mark.parametrize("code", CHANGED)
def test_changes(code: str) -> None:
    content = code.encode()
    assert {mutant.applied(content).decode() for mutant in mutants("a.py", content)} == CHANGED[code]


@pytest.mark.parametrize("code", ALONE)
def test_left_alone(code: str) -> None:
    assert [mutant.new for mutant in mutants("a.py", code.encode())] == []


def test_arguments_that_must_be_given_are_not_dropped() -> None:
    content = b"x = f(a, key=b)"
    assert not mutants("a.py", content, {"f": {"key"}})
    required = required_arguments(ROOT)
    assert required["cross_entropy"] == {"logits", "labels"}
    assert required["Network"] == {"body", "loss"}
    assert required["Text"] == {"train", "test"}  # a field of it has a default


@pytest.fixture(scope="module")
def candidates() -> list[Mutant]:
    required = required_arguments(ROOT)
    return [mutant for file in files(ROOT) for mutant in mutants(file, (ROOT / file).read_bytes(), required)]


def test_a_seeded_draw(candidates: list[Mutant]) -> None:
    """The same again, another with another seed; every file has its share; every mutant is code, and other code."""
    assert len({mutant.key for mutant in candidates}) == len(candidates)
    drawn = draw(candidates, 300, seed=7)
    assert drawn == draw(candidates, 300, seed=7)
    assert len(set(drawn) & set(draw(candidates, 300, seed=8))) < 100
    for file in {mutant.file for mutant in candidates}:
        all_of_it, taken = (sum(mutant.file == file for mutant in group) for group in (candidates, drawn))
        assert abs(taken - 300 * all_of_it / len(candidates)) <= 1, file
        assert taken >= 1, file
    contents = {mutant.file: (ROOT / mutant.file).read_bytes() for mutant in drawn}
    trees = {file: ast.dump(ast.parse(content)) for file, content in contents.items()}
    for mutant in drawn[::3]:
        assert ast.dump(ast.parse(mutant.applied(contents[mutant.file]))) != trees[mutant.file], mutant


def test_the_draw_of_a_function_does_not_depend_on_what_is_above_it() -> None:
    body = b"def f(a, b):\n    return a + b, a - b, a * b, a / b, a < b, a > b, a == b, a and b\n"
    below = b"import math\n\n\ndef g(a):\n    return a\n\n\n" + body
    one, other = (draw(mutants("a.py", content), 4, seed=3) for content in (body, below))
    assert [mutant.key for mutant in one] == [mutant.key for mutant in other]


def test_what_a_function_imports_is_known() -> None:
    """So that code for a library that is not installed can be left out of the draw."""
    content = (
        b"import a\n\ndef f(x):\n    import b.c\n    def g(y):\n        return y + 1\n    return g(x)\n\ny = a + 1\n"
    )
    assert {(mutant.where, mutant.needs) for mutant in mutants("a.py", content)} == {
        ("f.g", frozenset({"b"})),
        ("", frozenset()),
    }


def test_shares() -> None:
    assert shares([50, 30, 20], 10) == [5, 3, 2]
    assert shares([1000, 1, 0, 1], 10) == [8, 1, 0, 1]
    assert shares([3, 3], 6) == [3, 3]
    with pytest.raises(ValueError, match="cannot draw 3 of 2 mutants from 2 files"):
        shares([1, 1], 3)
    with pytest.raises(ValueError, match="cannot draw 1 of 2"):
        shares([1, 1], 1)


@pytest.mark.parametrize(
    ("successes", "number", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson(successes: int, number: int, low: float, high: float) -> None:
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    assert wilson(successes, number) == pytest.approx((low, high), abs=5e-5)


def test_quick_tests_come_first_and_files_stay_together() -> None:
    seconds = {"slow::a": 5.0, "slow::b": 1.0, "slow::c": 0.9, "quick::a": 2.0, "quick::b": 1.0, "quick::c": 0.5}
    assert in_order(seconds, seconds) == ["quick::c", "slow::c", "quick::b", "quick::a", "slow::b", "slow::a"]


def test_files_of_tests_that_reach_the_code() -> None:
    found = reaching(ROOT)
    assert {"tests/test_scaling_mx.py", "tests/test_testing.py", "tests/analysis/test_training.py"} <= set(found)
    assert "tests/test_formats.py" not in found


def test_reasons_are_of_mutants_that_exist(candidates: list[Mutant]) -> None:
    there = {spot(mutant) for mutant in candidates}
    assert [reason for place, reason in reasons().items() if place not in there] == []


# ---- a small project from end to end ----------------------------------------------------------------------------------
CODE = """
def opposite(x):
    return -x


LIMIT = 3
LEAST = opposite(LIMIT)


def clamped(x):
    while x > LIMIT:
        x -= 1
    return x


def positive(x):
    return x > 0


def never(x, y):
    return x + y


def doubled(x, y):
    return x + y
"""
TESTS = """
import time

import pytest
from fpemu.scaling.small import LEAST, clamped, doubled, positive


@pytest.fixture(scope="module")
def made():
    return doubled(4, 4)


def test_runs_only(made):
    assert made is not None


def test_doubled(made):
    assert made == 8


def test_clamped():
    time.sleep(0.3)  # so that it is never the quickest
    assert clamped(6) == 3


def test_least():
    assert LEAST == -3


def test_positive():
    assert positive(2) and not positive(-2)
"""


@pytest.mark.exhaustive
def test_a_small_project(tmp_path: Path) -> None:
    """What tests hold is killed, an endless loop is stopped, the rest is alive; nothing is written but in the working folder."""
    root, work = tmp_path / "project", tmp_path / "work"
    for name, content in {
        "fpemu/__init__.py": "", "fpemu/scaling/__init__.py": "", "fpemu/scaling/small.py": CODE, "tests/test_small.py": TESTS,
        "setup.cfg": "[tool:pytest]\npythonpath = .\nfilterwarnings = error\n",
    }.items():  # fmt: skip
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    before = _digest(root)
    command = [sys.executable, "-m", "tests.mutation", "--mutants", "0", "--patience", "1", "--jobs", "1"]
    command += ["--root", str(root), "--work", str(work), "--at-least", "0.1"]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert first.returncode == 0, first.stdout + first.stderr
    assert _digest(root) == before

    status = {}
    for row in json.loads((work / "outcomes.json").read_text()):
        _, where, _, _, new, _ = row["key"].split("\n")
        status[where, new] = row["status"]
    assert status["doubled", "return x - y"] == "killed"  # though another test set the fixture up
    assert status["", "LIMIT = 4"] == "killed"  # a line of the import
    assert status["opposite", "return (x)"] == "killed"  # called by one
    assert status["clamped", "x += 1"] == "timed out"
    assert status["clamped", "while x >= LIMIT:"] == "killed"
    assert status["positive", "return x >= 0"] == "survived"
    assert status["never", "return x - y"] == "not covered"
    alive = sum(one in ("survived", "not covered") for one in status.values())
    assert f"killed {len(status) - alive} of {len(status)} = " in first.stdout
    assert "-    return x > 0\n+    return x >= 0\n" in (work / "report.md").read_text()

    again = subprocess.run([*command[:-1], "0.99"], cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 1
    assert f"0 mutants to try, {len(status)} tried before or not covered" in again.stdout
    assert "below the bound" in again.stdout

    hasty = [*command, "--seconds", "0", "--work", str(tmp_path / "hasty")]
    ended = subprocess.run(hasty, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0 and "; 1 tests passed, 4 left out; no reason given" in ended.stdout, ended.stdout

    (root / "tests/test_small.py").write_text(TESTS + "\n\ndef test_wrong():\n    assert positive(0)\n")
    broken = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert broken.returncode == 1
    assert "the tests fail without a mutant" in broken.stderr


def _digest(folder: Path) -> str:
    whole = sha256()
    for path in sorted(folder.rglob("*")):
        whole.update(str(path).encode() + (path.read_bytes() if path.is_file() else b""))
    return whole.hexdigest()
