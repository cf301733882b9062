"""Does ``fpemu scaler`` know what each column of a table is, or say in one line what it would have to be told?"""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from fpemu.cli import main
from fpemu.cli.trace_names import LOG2, MAGNITUDE, meaning

BOM = codecs.BOM_UTF8.decode()


def read(content: str | bytes, *options: str, folder: Path, name: str = "t.csv") -> Any:
    """What the command read, from its JSON; the text of its error, one line."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    result = CliRunner().invoke(
        main, ["scaler", str(path), "--policy", "static", "--json", *options], prog_name="fpemu"
    )
    if result.exit_code == 0:
        return json.loads(result.output)
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.exception
    assert result.output.count("\n") == 1 and result.output.isascii() and result.output[:-1].isprintable(), (
        result.output
    )
    return result.output


MAGNITUDES = (
    "amax", "AMAX", "grad_amax", "grad_max", "max_abs", "absmax", "abs-max", "train/grad_max", "run-7 - train/grad_amax", "grads/layer.0/amax",
    "decoder.1.fc2.weight.grad.amax", "cur_amax", "logs/amax", "Grad Amax",
)  # fmt: skip
LOGARITHMS = (
    "log2_amax",
    "log2amax",
    "log2(amax)",
    "LOG2_GRAD_MAX",
    "train/log2_amax",
    "amax_log2",
    "log2 amax",
    "log2(grad_max)",
)
UNKNOWN = (
    "value", "x", "max", "grad", "arr_0", "log_amax", "log2/amax", "log/amax", "amax/log2", "amax (log2)", "amax__MAX", "run - amax__MIN",
    "neg_log2_amax", "amin", "exponent/amax", "log2(log2_amax)", "amaxes",
)  # fmt: skip
REFUSED = {
    "grad_norm": "norm", "train/grad_norm": "norm", "gnorm": "norm", "grad_2.0_norm_total": "norm", "l2_norm/grad/global": "norm",
    "total_norm": "norm", "loss_scale": "a loss scale", "train/loss_scale": "a loss scale", "Train/Samples/loss_scale": "a loss scale",
    "loss-scale": "a loss scale", "scale": "a loss scale", "loss_scale_before": "a loss scale", "lr": "learning rate",
    "train/learning_rate": "learning rate", "overflow": "overflowed", "found_inf": "overflowed", "step": "steps", "_step": "steps",
    "lm loss": "a loss", "loss": "a loss", "_timestamp": "a time", "log10_amax": "another base", "ln_amax": "another base",
    "log10/amax": "another base", "scaled/amax": "scaled gradients", "scaled_amax": "scaled gradients", "weight/amax": "another tensor",
    "activations/amax": "another tensor",
}  # fmt: skip


def test_what_names_say() -> None:
    for unit, names in ((MAGNITUDE, MAGNITUDES), (LOG2, LOGARITHMS), (None, UNKNOWN)):
        for name in names:
            said = meaning(name)
            assert said.unit == unit and not said.refused, name
    for name, why in REFUSED.items():
        assert meaning(name).unit is None and why in meaning(name).refused, name


@pytest.mark.parametrize("name", ["grad_norm", "loss_scale", "lr", "overflow", "log10_amax", "weight/amax"])
def test_what_is_no_amax_is_refused_under_any_flag(name: str, tmp_path: Path) -> None:
    for options in ((), ("--unit", "magnitude"), ("--unit", "log2", "--column", name), ("--linear",)):
        found = read(f"{name}\n1\n", *options, folder=tmp_path)
        assert f"'{name}' is no trace: " in found and "amax, grad_amax" in found and "log2_amax" in found


@pytest.mark.parametrize("content", ["value\n1\n2\n", "1\n2\n", BOM + "1\n2\n", "# mine\n1\n2\n"])
def test_a_unit_is_known_or_asked_for(content: str, tmp_path: Path) -> None:
    found = read(content, folder=tmp_path)
    assert "unit: --unit magnitude for amax itself, --unit log2 for its logarithm" in found
    for unit in (MAGNITUDE, LOG2):
        given = read(content, "--unit", unit, folder=tmp_path)
        assert given["unit"] == unit and given["steps"] == 2
    assert read("amax\n1\n", "--unit", "log2", folder=tmp_path).startswith("Error")
    assert "is log2 by its name, and --unit says magnitude" in read("log2_amax\n1\n", "--linear", folder=tmp_path)


def steps_of(found: Any) -> tuple[str | None, str, int, int]:
    return found["column"], found["unit"], found["steps"], found["policies"][0]["skips"]


@pytest.mark.parametrize(
    ("content", "column"),
    [
        (BOM + "amax\n0.5\n2\n", "amax"),
        (BOM + "amax,loss\n0.5,1\n2,1\n", "amax"),
        (BOM + BOM + "# amax\n0.5\n2\n", "amax"),
        ("# amax\n5.000000000000000000e-01\n2.000000000000000000e+00\n", "amax"),
        ("# step amax\n0.0e+00 5.0e-01\n1.0e+00 2.0e+00\n", "amax"),
        ("# made by hand\n# step,grad_max\n0,0.5\n1,2\n# the end\n", "grad_max"),
        ("_step,train/loss,train/grad_norm,train/grad_max\n0,2,3,0.5\n1,2,3,2\n", "train/grad_max"),
        ('"Step","run-7 - grad_amax","run-7 - grad_amax__MIN","run-7 - grad_amax__MAX"\n"0","0.5","1","1"\n"1","2","1","1"\n', "run-7 - grad_amax"),
        ("step;amax\r\n0;0.5\r\n1;2\r\n", "amax"),
        ("step\tamax\r0\t0.5\r1\t2\r", "amax"),
        ("step  amax\n0     0.5\n1     2\n", "amax"),
        ('"amax","loss; mean, of all"\n"0.5","1"\n"2","1"\n', "amax"),
        ("\n\namax\n0.5\n2\n\n", "amax"),
        ("amax\n0.5\n2\n".encode("utf-16"), "amax"),
        (codecs.BOM_UTF16_BE + "amax\n0.5\n2\n".encode("utf-16-be"), "amax"),
        ("amax\n0.5\n2\n".encode("utf-32"), "amax"),
    ],
)  # fmt: skip
def test_tables(content: str | bytes, column: str, tmp_path: Path) -> None:
    """2 at a scale of 2^16 overflows, 0.5 does not: read as logarithms, neither would be so."""
    assert steps_of(read(content, folder=tmp_path)) == (column, MAGNITUDE, 2, 1)


def test_no_step_is_lost(tmp_path: Path) -> None:
    """What might be a number is no name: the first row is never taken for a header."""
    assert steps_of(read(BOM + "2\n0.5\n", "--unit", "magnitude", folder=tmp_path)) == (None, MAGNITUDE, 2, 1)
    for first in ("N/A", "1.#INF", "-", "0x1p3", "None", "1_0", "2,5"):
        assert read(f"{first}\n0.5\n", "--unit", "magnitude", folder=tmp_path).startswith("Error"), first
    assert "stands where a name should" in read("5,a\n1,2\n", "--column", "5", "--unit", "log2", folder=tmp_path)
    assert "row 3: an empty cell is not a step" in read("amax\n1\n\n2\n", folder=tmp_path)


WRONG = [
    ("amax\n1\n-0.5\n", (), "row 3: -0.5 is no amax: amax is never negative; --unit log2"),
    ("grad_max\n# x\n-inf\n", (), "row 3: -inf is no amax"),
    ("log2_amax\n3\n65504\n", (), "row 3: 65504 is log2 of no float64, whose logarithms end at 1024: --unit magnitude"),
    ("log2_amax\n-2000\n", (), "row 2: -2000 is log2 of no float64"),
    ("log2_amax\nnan\n", (), "row 2: nan is no number; with the recorded scale (--scale) or overflow (--overflow) beside it"),
    ("amax\n1e400\n", (), "row 2: '1e400' lies beyond float64"),
    ("amax\n1e-400\n", (), "row 2: '1e-400' lies beyond float64"),
    ("amax\ntrue\n", (), "row 2: 'true' is no number"),
    ("step;amax\n0;1,5\n", (), "row 2: '1,5' is no number"),
    ("amax\n1,5\n", (), "row 2 has 2 fields, row 1 has 1"),
    ("amax,b\n1,2\n3\n", (), "row 3 has 1 fields, row 1 has 2"),
    ("amax,amax\n1,2\n", ("--column", "amax"), "2 columns are called 'amax'"),
    ("amax,log2_amax\n1,2\n", (), "which column? choose one with --column: amax, log2_amax"),
    ("lr,loss_scale,train/grad_norm\n1,1,1\n", (), "train/grad_norm: a norm is no largest magnitude"),
    ("step,value\n1,1\n", ("--unit", "log2"), "which column? choose one with --column: step, value"),
    ("a,b;c\n1,2;3\n", (), "fields could be parted by"),
    ("amax\n" + "1" * 200_000 + "\n", (), "it is no table: field larger than field limit"),
    ('amax\n"1\n2\n', (), "it is no table: unexpected end of data"),
    (b"am\xff\n1\n", (), "no text in UTF-8: invalid start byte at byte 2"),
    ("amax\n1\n".encode("utf-16-le"), (), "no text: it has NUL characters"),
    ("# amax\n", (), "empty"),
    ("amax\n", (), "a header, and no rows below it"),
    ("am\x1b[31max\n1\n", (), r"'am\x1b[31max' does not say its unit"),
    ("amax\u200b\n1\n", (), r"'amax\u200b' does not say its unit"),
    ("a\x07,b\n1,2\n", (), r"choose one with --column: a\x07, b"),
    ("amax\n1\n", ("--column", "x\x1b"), r"no column 'x\x1b'; there are: amax"),
    (",".join(f"c{i}" for i in range(900)) + "\n" + ",".join("1" * 900) + "\n", (), "c18, c19, and 880 more"),
    ("amax,overflow\n1,10\n", (), "row 2: 10 in 'overflow' is neither 0 nor 1"),
    ("amax,overflow\n1,0\ninf,0\n", (), "row 3: inf contradicts the 0 in the column of overflows"),
    ("amax,overflow\n1,0\nnan,\n", (), "row 3: nan is no number"),
    ("amax,s\n1,0\n", ("--scale", "s"), "row 2: 0 in 's' is no scale: positive and finite"),
    ("amax,s\n1,inf\n", ("--scale-after", "s"), "row 2: inf in 's' is no scale"),
    ("amax,s\n1,1\n", ("--scale", "s", "--scale-after", "s"), "--scale and --scale-after say the same thing"),
    ("amax,s\n1,1\n", ("--scale", "t"), "no column 't'; there are: amax, s"),
    ("1\n", ("--unit", "log2", "--overflow", "o"), "it has no header, so no column 'o'"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "options", "message"), WRONG)
def test_what_is_wrong_is_said_in_a_line(
    content: str | bytes, options: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    assert message in read(content, *options, folder=tmp_path)


# ---- arrays ---------------------------------------------------------------------------------------------------------
def test_arrays(tmp_path: Path) -> None:
    def run(name: str, *options: str) -> str:
        return (
            CliRunner().invoke(main, ["scaler", str(tmp_path / name), "--policy", "static", "--json", *options]).output
        )

    np.save(tmp_path / "bare.npy", [0.5, 2.0])
    assert "its numbers have no name that says their unit: --unit magnitude" in run("bare.npy")
    assert steps_of(json.loads(run("bare.npy", "--unit", "magnitude"))) == (None, MAGNITUDE, 2, 1)
    assert "it has no header, so no column 'amax'" in run("bare.npy", "--column", "amax")
    for name, arrays, message in (
        ("a", {"arr_0": [0.5]}, "the name 'arr_0' does not say its unit"),
        ("b", {"grad_norm": [0.5]}, "'grad_norm' is no trace"),
        ("c", {"amax": [0.5, np.nan]}, "element 1: nan is no number"),
        ("d", {"amax": [0.5, -1]}, "element 1: -1 is no amax"),
        ("e", {"amax": [True, False]}, "a trace is one number a step, not bool"),
        ("f", {"amax": [0.5, 1], "overflow": [1]}, "2 steps, and 1 in 'overflow'"),
        ("g", {"amax": [0.5], "s": [1]}, "no array 't'; there are: amax, s"),
        ("h", {"amax": [0.5], "log2_amax": [1]}, "which array? choose one with --column: amax, log2_amax"),
    ):
        np.savez(tmp_path / f"{name}.npz", **{key: np.array(value) for key, value in arrays.items()})  # type: ignore[arg-type]
        found = run(f"{name}.npz", *(("--scale", "t") if name == "g" else ()))
        assert message in found and found.count("\n") == 1, name
    np.savez(
        tmp_path / "whole.npz",
        log2_amax=[-3.0, np.inf],
        loss=np.ones(9),
        overflow=[False, True],
        scale_before=[8, 2**16],
    )
    found = json.loads(run("whole.npz"))
    assert steps_of(found) == ("log2_amax", LOG2, 2, 1) and found["scale"] == {"column": "scale_before", "is": "used"}


# ---- recorded columns -----------------------------------------------------------------------------------------------
def test_recorded_columns(tmp_path: Path) -> None:
    """The same overflow at 2^17, told in every way: under a static scale of 2^16 it is undetermined, once."""
    for content, options, where in (
        ("amax,s\n0.1,131072\ninf,131072\n0.1,65536\n", ("--scale", "s"), ("s", "used", None)),
        ("amax,s\n0.1,131072\ninf,65536\n0.1,65536\n", ("--scale-after", "s"), ("s", "after", None)),
        ("amax,s\n0.1,\nnan,131072\n0.1,\n", ("--scale", "s"), ("s", "used", None)),
        ("amax,x/loss_scale_before,overflow\n0.1,,\n,131072,1\n0.1,,\n", (), ("x/loss_scale_before", "used", "overflow")),
        ("amax,loss_scale_after,o\n0.1,131072,False\n0.2,65536,True\n0.1,65536,false\n", ("--overflow", "o"), ("loss_scale_after", "after", "o")),
    ):  # fmt: skip
        found = read(content, *options, folder=tmp_path)
        assert ((found["scale"] or {}).get("column"), (found["scale"] or {}).get("is"), found["overflow"]) == where
        row = found["policies"][0]
        assert (found["recorded_overflows"], row["skips"], row["undetermined"]) == (1, 0, 1), content
        assert row["if_undetermined_overflow"]["skips"] == 1 and not found["notes"]
        assert found["units"]["wasted_exponents"] == "binades"
    sure = read("amax,s\n0.1,65536\ninf,65536\n", "--scale", "s", folder=tmp_path)["policies"][0]
    assert (sure["skips"], sure["undetermined"], sure["if_undetermined_overflow"]) == (1, 0, None)


def test_what_a_reader_should_know_is_noted(tmp_path: Path) -> None:
    """A scale that may be the one before or after is not taken, but named; jumps of the steps are told."""
    found = read("amax,train/loss_scale\n0.1,65536\ninf,32768\n", folder=tmp_path)
    assert found["scale"] is None and found["policies"][0]["undetermined"] == 1
    assert found["notes"] == [
        "1 step overflowed at a scale that is not recorded (train/loss_scale?): name its column with --scale, or --scale-after where it "
        "is the scale after the step"
    ]
    jump = read("_step,amax\n0,0.1\n1,0.1\n1,0.1\n10,0.1\n", folder=tmp_path)
    assert jump["notes"] == ["row 5: _step jumps, and rows are taken as consecutive steps"]
