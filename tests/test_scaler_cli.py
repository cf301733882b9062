"""Does ``fpemu scaler`` read every kind of trace, replay it, draw it, and say in a line what is wrong with it?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from fpemu.cli import main
from fpemu.scaling import LOSS_POLICIES, Recording, simulate

LOGS = np.concatenate([np.full(50, -8.0), [5.0, np.inf, -np.inf], np.linspace(-8, -12, 40)])


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["scaler", *arguments], prog_name="fpemu")


def written(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith(".npy"):
        np.save(path, np.exp2(LOGS) if "amax" in name else LOGS)
    elif name.endswith(".npz"):
        np.savez(path, log2_amax=LOGS, loss=np.ones(3))
    elif name == "header.csv":
        path.write_text("step,log2_amax\n" + "\n".join(f"{i},{value}" for i, value in enumerate(LOGS)))
    elif name == "amax.csv":
        path.write_text("amax\n" + "\n".join(repr(float(np.exp2(value))) for value in LOGS) + "\n")
    else:
        path.write_text("# log2(amax)\n" + "\n".join(str(value) for value in LOGS))
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("t.npy", ("--unit", "log2")),
        ("amax.npy", ("--linear",)),
        ("amax.npy", ("--unit", "magnitude")),
        ("t.npz", ()),
        ("header.csv", ()),
        ("amax.csv", ()),
        ("t.txt", ()),
    ],
)
def test_every_kind_of_file(name: str, options: tuple[str, ...], tmp_path: Path) -> None:
    result = run(str(written(tmp_path, name)), "--policy", "all", "--json", *options)
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert [row["policy"] for row in found["policies"]] == list(LOSS_POLICIES) and found["steps"] == len(LOGS)
    for row in found["policies"]:
        expected = simulate(row["policy"], Recording(LOGS))
        assert row["undetermined"] == 1 == int(expected.undetermined.sum()), row["policy"]
        assert row["skips"] == int((~expected.applied).sum()), row["policy"]
        last = expected.scale[-1]  # NaN, null in JSON, is LogMax's after a step whose gradients are all zero
        assert row["last_scale"] == (None if np.isnan(last) else last)


def test_table_and_picture(tmp_path: Path) -> None:
    path, png = written(tmp_path, "t.txt"), tmp_path / "out.png"
    result = run(str(path), "--png", str(png), "--format", "bf16")
    assert result.exit_code == 0 and "gradients cast to bfloat16" in result.output
    assert "megatron" in result.output and "nnabla" not in result.output
    assert "93 steps of log2(amax) (log2)" in result.output and "skipped open or skipped longest" in " ".join(
        result.output.split()
    )
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", (), "empty"),
        ("a,b\n1,2\n", (), "which column? choose one with --column: a, b"),
        ("a,b\n1,x\n", ("--column", "b"), "row 2: 'x' is no number"),
        ("a,b\n1,2\n3\n", ("--column", "b"), "row 3 has 1 fields, row 1 has 2"),
        ("a\n1\n", ("--column", "c"), "no column 'c'; there are: a"),
        ("1,2\n3,4\n", (), "2 columns and no header"),
        ("1\n2\n", ("--column", "a"), "it has no header"),
        ("amax\n-1\n", (), "amax is never negative"),
    ],
)
def test_wrong_text(content: str, options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(content)
    result = run(str(path), *options)
    assert result.exit_code == 1 and message in result.output and result.output.count("\n") == 1


def test_wrong_arrays_and_usage(tmp_path: Path) -> None:
    np.save(tmp_path / "matrix.npy", np.ones((2, 2)))
    np.save(tmp_path / "objects.npy", np.array([None, 1.0]), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "matrix.npy").read_bytes()[:40])
    for name, message in (
        ("matrix.npy", "one number a step"),
        ("objects.npy", ""),
        ("cut.npy", ""),
        ("none.npy", "No such file"),
    ):
        result = run(str(tmp_path / name))
        assert result.exit_code == 1 and message in result.output and "Traceback" not in result.output, name
    assert run(str(tmp_path / "matrix.npy"), "--policy", "adam").exit_code == 2
    path = written(tmp_path, "t.txt")
    assert run(str(path), "--png", str(tmp_path / "no" / "folder" / "x.png")).exit_code == 1
