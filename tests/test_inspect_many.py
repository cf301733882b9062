"""Are many tensors one row each, in the order and choice asked for, and is none of them slow?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from implementations import JIT

import fpemu as fp
from fpemu.cli import main
from fpemu.cli.overview import MOST_TABLES, ORDERS

pytestmark = pytest.mark.skipif(not JIT, reason="takes too long without the compiler")
RNG = np.random.default_rng(5)
HELD = {
    "b.weight": RNG.standard_normal((4, 8)).astype(np.float32),
    "a.weight": RNG.standard_normal(5).astype(np.float32) * np.float32(2**12),  # overflows in e4m3
    "a.bias": RNG.standard_normal(3).astype(np.float32) * np.float32(2**-12),  # becomes zero in it
    "c.zero": np.zeros(2, np.float32),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.savez(tmp_path / "x.npz", **HELD)
    return tmp_path / "x.npz"


def run(*arguments: Any, code: int = 0) -> Any:
    result = CliRunner().invoke(main, ["inspect", *map(str, arguments), "--formats", "e4m3,bf16"], prog_name="fpemu")
    assert result.exit_code == code, result.output
    return result


def names(*arguments: Any) -> list[str]:
    return [one["name"] for one in json.loads(run(*arguments, "--json").stdout)["files"][0]["tensors"]]


def test_rows_hold_the_numbers_of_the_tables(path: Path) -> None:
    lines = run(path, "--show", "rows").stdout.splitlines()
    row = {line.split()[0]: line.split() for line in lines if line.split()[:1] and line.split()[0] in HELD}
    assert list(row) == list(HELD)
    stats = fp.tensor_stats(HELD["a.bias"], ["e4m3", "bf16"])
    lost = stats["e4m3"].new_zero_of_nonzero
    assert lost == 1 and stats["e4m3"].sqnr_db == 0
    assert row["a.bias"][1:] == [
        "3",
        f"{stats.amax:.3g}",
        "100",
        "%",
        "0.0",
        "0",
        "%",
        f"{stats['bf16'].sqnr_db:.1f}",
        "-",
    ]
    over = fp.tensor_stats(HELD["a.weight"], "e4m3")["e4m3"].saturated_of_nonzero
    assert over > 0 and row["a.weight"][-3:] == ["e4m3", f"{100 * over:.3g}", "%"]
    assert row["c.zero"][1:] == ["2", "0", "-", "-", "-", "-", "-"] and row["b.weight"][1] == "4x8"


def test_more_than_a_dozen_are_rows(tmp_path: Path) -> None:
    for count, tables in ((MOST_TABLES, True), (MOST_TABLES + 1, False)):
        np.savez(tmp_path / "x.npz", **{f"t{i}": np.ones(2, np.float32) for i in range(count)})
        said = run(tmp_path / "x.npz").stdout
        assert ("signal to noise" in said) == tables
        assert ("signal to noise" in run(tmp_path / "x.npz", "--show", "rows").stdout) is False
        assert "signal to noise" in run(tmp_path / "x.npz", "--show", "tables").stdout
        assert f"All {count} tensors" in said
    assert len(said.splitlines()) < count + 20


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("file", ["b.weight", "a.weight", "a.bias", "c.zero"]),
        ("name", ["a.bias", "a.weight", "b.weight", "c.zero"]),
        ("size", ["b.weight", "a.weight", "a.bias", "c.zero"]),
        ("amax", ["a.weight", "b.weight", "a.bias", "c.zero"]),
        ("zero", ["a.bias", "b.weight", "a.weight", "c.zero"]),
        ("overflow", ["a.weight", "b.weight", "a.bias", "c.zero"]),
        ("sqnr", ["a.bias", "b.weight", "a.weight", "c.zero"]),
    ],
)
def test_orders(order: str, expected: list[str], path: Path) -> None:
    found = names(path, "--sort", order)
    if order == "sqnr":  # -inf where one overflows to NaN
        assert found[0] == "a.weight" and found[-1] == "c.zero"
    else:
        assert found == expected
    assert order in ORDERS


def test_only_those_that_fit(path: Path) -> None:
    assert names(path, "--tensor", "*.weight") == ["b.weight", "a.weight"]
    assert names(path, "--tensor", "a.*", "--tensor", "c.zero") == ["a.weight", "a.bias", "c.zero"]
    none = run(path, "--tensor", "no*", code=1)
    assert "no tensor is called no*" in none.stderr


def test_thousands_of_small_tensors(tmp_path: Path) -> None:
    """Each costs some calls, no memory map and no table: in a thousand as in one, and all of them are counted."""
    from fpemu.cli import tensors as reader

    count = 1000
    header = {f"t{i}": {"dtype": "F32", "shape": [], "data_offsets": [4 * i, 4 * i + 4]} for i in range(count)}
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    values = RNG.standard_normal(count).astype("<f4")
    path.write_bytes(len(text).to_bytes(8, "little") + text + values.tobytes())
    found = list(reader.tensors(str(path), None))
    assert [float(next(one.pieces)[0]) for one in found if isinstance(one, reader.Tensor)] == values.tolist()
