"""Does the command tell the truth, refuse what it cannot take in one line, and keep to its exit codes?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

import fpemu as fp
from fpemu import explain as telling
from fpemu import reference
from fpemu.cli import main
from fpemu.cli import tensors as reading
from fpemu.cli.losses import near_one, percent
from fpemu.io import save
from tests.children import PATIENCE, child, wait_until


def run(*arguments: object, code: int | None = 0) -> Result:
    """The command in this process; its exit code is checked."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert code is None or result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def run_json(*arguments: object, code: int = 0) -> Any:
    """What the command prints with --json; strictly parsed, so that NaN and Infinity are errors."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(run(*arguments, "--json", code=code).stdout, parse_constant=refuse)


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


# ---- all commands ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", [None, *main.commands])
def test_help_tells_of_every_option_and_the_exit_codes(command: str | None) -> None:
    said = run(*([command] if command else []), "--help").stdout
    assert "Exit codes: 0" in said
    for param in (main.commands[command] if command else main).params:
        if isinstance(param, click.Option):
            assert param.opts[-1] in said
            assert param.help, f"{param.opts} has no help"


def test_the_installed_and_the_module_command_start() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fpemu", "explain", "0.1", "e4m3"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert "0x1d" in done.stdout
    assert done.stderr == ""
    done = subprocess.run(
        [sys.executable, "-m", "fpemu", "explain", "0.1"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


# ---- formats --------------------------------------------------------------------------------------------------------
def test_formats_lists_every_named_format_and_all_of_them_on_demand() -> None:
    said = run("formats").stdout
    named = [name for name in fp.FORMATS if not name.startswith("binary")]
    assert all(name in said for name in named)
    assert f"{len(fp.FORMATS) - len(named)} formats of the IEEE P3109 family" in said
    everything = run("formats", "--all").stdout.split()
    assert set(fp.FORMATS) <= set(everything)


@pytest.mark.parametrize("name", [*[*fp.FORMATS][:15], "binary8p3se", "binary8p1uf", "binary16p1ue", "binary5p5ue"])
def test_landmarks_are_what_the_codes_mean(name: str) -> None:
    facts = run_json("formats", name)
    format = fp.FORMATS[name]
    marks = {mark["what"]: mark for mark in facts["landmarks"]}
    for mark in marks.values():
        assert mark["value"] == telling.number(reference.value(mark["code"], format))
        assert int(mark["hex"], 16) == int(mark["bits"].replace(" ", ""), 2) == mark["code"]
        assert mark["value"] in run("formats", name).stdout
    assert marks["largest finite"]["code"] == format.max_code
    assert ("infinity" in marks) == format.infinities
    assert ("NaN (canonical)" in marks) == format.has_nan
    if "one" in marks:
        assert marks["one"]["value"] == "1"
        assert Fraction(reference.value(marks["next above one"]["code"], format)) == 1 + Fraction(format.eps)
    if "smallest subnormal" in marks:
        assert float(marks["smallest subnormal"]["value"]) == format.smallest_subnormal
        assert float(marks["largest subnormal"]["value"]) < format.smallest_normal


def test_the_picture_of_a_code() -> None:
    said = run("formats", "e4m3").stdout
    assert "S EEEE TTT" in said
    assert "exponent field, bits 6 to 3" in said
    assert "1.T * 2^(E - 7); where E = 0: 0.T * 2^-6" in said


# ---- explain --------------------------------------------------------------------------------------------------------
def test_explain_says_all_that_matters() -> None:
    said = run("explain", "0.1", "e4m3").stdout
    for words in (
        "0.1 is no float64 value; the nearest is 0.1000000000000000055511151 = 0x1.999999999999ap-4",
        "exponent -4",
        "1.1001100110011001",
        "kept     1100 | guard 1, sticky 1",
        "2^-7 = 0.0078125",
        "0x1c", "0 0011 100", "0.09375",
        "0x1d", "0 0011 101", "0.1015625",
        "above half way: the nearer",
        "relative 0.01562",
    ):  # fmt: skip
        assert words in said


def test_explain_at_the_edges() -> None:
    assert "exactly half way: tie to the even code" in run("explain", "-464", "e4m3").stdout
    assert "0xfe" in run("explain", "-464", "e4m3").stdout
    overflow = run("explain", "1e6", "e4m3").stdout
    assert "none" in overflow
    assert "beyond the finite values" in overflow
    assert "nan, code 0x7f" in overflow
    assert "overflow ieee makes it NaN" in run("explain", "inf", "e4m3").stdout
    assert "-0, code 0x80" in run("explain", "-0", "e4m3").stdout
    assert "code 0x7e of float8_e4m3fn is 448" in run("explain", "0x7e", "e4m3", "--code").stdout
    assert "--code reads it as a code" in run("explain", "0x7e", "e4m3").stdout
    assert "the nearest is inf" in run("explain", "1e400", "fp16").stdout
    # The text is rounded to the source once: 0.1 in float16 is another number than 0.1 in float64.
    assert "0.0999755859375" in run("explain", "0.1", "e4m3", "--from", "fp16").stdout


@pytest.mark.parametrize(
    ("text", "value", "exact"),
    [
        ("0.1", 0.1, False), ("0.5", 0.5, True), ("-1e-3", -1e-3, False), ("0x1.8p1", 3.0, True), ("0x.8", 0.5, True),
        ("0x1.00000000000008p0", 1.0, False), ("1e400", float("inf"), False), ("-1e-400", -0.0, False),
        ("1e999999999999", float("inf"), False), ("-0", -0.0, True), ("inf", float("inf"), True), ("1_000", 1e3, True),
        ("0x1p-1074", 5e-324, True), ("0x1p99999", float("inf"), False),
        ("123456789012345678", 1.2345678901234568e17, False),
    ],
)  # fmt: skip
def test_texts_become_the_nearest_float64(text: str, value: float, exact: bool) -> None:
    real, told_exact = telling.parse_value(text)
    assert np.float64(real).tobytes() == np.float64(value).tobytes()
    assert told_exact == exact


@given(st.decimals(allow_nan=False, allow_infinity=False), st.sampled_from(["float16", "float32", "e4m3", "bf16"]))
def test_texts_are_rounded_to_their_source_once(decimal: Any, source: str) -> None:
    text = str(decimal)
    if abs(decimal.adjusted()) > 3000:
        return
    real, exact = telling.parse_value(text, source)
    expected = reference.value(reference.encode(Fraction(text), source), source)
    assert abs(real) == abs(expected) or (real != real and expected != expected)
    assert exact == (Fraction(text) == (real if np.isfinite(float(real)) else None))


def exact(text: str) -> Fraction:
    """The number a text of ``telling.number`` means."""
    odd, _, exponent = text.rpartition("2^")
    return (
        Fraction(odd.removesuffix(" * ") or 1) * Fraction(2) ** int(exponent) if "2^" in text else Fraction(float(text))
    )


SOURCES = {"float64": np.float64, "float32": np.float32, "float16": np.float16}
TARGETS = ["fp16", "bf16", "e4m3", "e5m2", "e4m3fnuz", "e8m0", "e2m3", "e2m1", "binary8p1se", "binary8p4ue", "tf32"]


@settings(max_examples=60)
@given(st.data())
def test_explain_agrees_with_encode(data: st.DataObject) -> None:
    source = data.draw(st.sampled_from(list(SOURCES)), label="source")
    format = data.draw(st.sampled_from(TARGETS), label="format")
    dtype = SOURCES[source]
    width = np.dtype(dtype).itemsize * 8
    bits = data.draw(st.integers(0, (1 << width) - 1), label="bits")
    near = data.draw(st.floats(-600, 600, allow_nan=False), label="near")
    anything = np.array(bits, f"u{width // 8}").view(dtype)[()]
    x = data.draw(st.sampled_from([anything, dtype(near)]), label="x")
    policies = {
        "rounding": data.draw(st.sampled_from([member.value for member in fp.Rounding])),
        "overflow": data.draw(st.sampled_from([member.value for member in fp.Overflow])),
        "subnormals": data.draw(st.sampled_from([member.value for member in fp.Subnormals])),
        "nan": data.draw(st.sampled_from(["canonical", "unsigned", "max", "zero"])),
    }
    random_bits, seed = data.draw(st.integers(1, 32)), data.draw(st.integers(0, 2**64 - 1))
    variant = data.draw(st.sampled_from("ABC"))
    text = "nan" if np.isnan(x) else repr(float(x)) if source == "float64" else float(x).hex()
    if np.isnan(x):
        x = dtype("nan")  # a text has no sign and payload of a NaN
    if np.isnan(x) and not fp.FORMATS[format].has_nan and policies["nan"] in ("canonical", "unsigned"):
        return
    options = [part for name, value in policies.items() for part in (f"--{name}", value)]
    options += ["--from", source, "--seed", seed, "--random-bits", random_bits, "--stochastic", variant]
    told = run_json("explain", text, format, *options)

    code = int(fp.encode(x, format, seed=seed, random_bits=random_bits, stochastic=variant, **policies))
    assert told["code"] == int(told["hex"], 16) == code
    assert int(told["bits"].replace(" ", ""), 2) == code
    if np.isfinite(x):
        result = reference.value(code, format)
        finite = not isinstance(result, float) or np.isfinite(result)
        assert told["error"] is None if not finite else exact(told["error"]) == Fraction(result) - Fraction(float(x))
        for side, beyond in (("toward_zero", False), ("away_from_zero", True)):
            near = told[side]
            if near is None:
                continue
            assert (
                abs(exact(near["value"])) >= abs(Fraction(float(x)))
                if beyond
                else abs(exact(near["value"])) <= abs(Fraction(float(x)))
            )
            if near["code"] is not None:
                assert Fraction(reference.value(near["code"], format)) == exact(near["value"])


@pytest.mark.parametrize("variant", "ABC")
@pytest.mark.parametrize("position", [Fraction(1, 16), Fraction(5, 32), Fraction(1, 2), Fraction(31, 32)])
def test_the_chances_told_are_those_of_all_words(variant: str, position: Fraction) -> None:
    x = float(1 + position / 8)  # between 1 and 1.125 in E4M3
    cast = fp.Cast("e4m3", "stochastic", random_bits=4, stochastic=variant)
    gap = reference.explain(x, cast, 0).gap
    assert gap is not None
    ups = sum(run_json("explain", x, "e4m3", "--rounding", "stochastic", "--random-bits", 4, "--stochastic", variant,
                       "--word", word)["result"] == "1.125" for word in range(16))  # fmt: skip
    assert telling.outward_chances(gap, cast) == ups


def test_all_roundings_are_those_of_encode() -> None:
    rows = run_json("explain", "-0.1", "e4m3", "--all-roundings", "--seed", 3)["roundings"]
    assert [row["rounding"] for row in rows] == [rounding.value for rounding in fp.Rounding]
    for row in rows:
        assert row["code"] == int(fp.encode(-0.1, "e4m3", rounding=row["rounding"], seed=3))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nan", "e2m1"], 1, "name a policy"),
        (["zero", "e4m3"], 2, "'zero' is no number"),
        (["0x", "e4m3"], 2, "is no number"),
        (["1", "e4m4"], 2, "unknown format 'e4m4'"),
        (["1", "e4m3", "--rounding", "nearest"], 2, "'nearest-even'"),
        (["1", "e4m3", "--from", "fp17"], 2, "unknown format 'fp17'"),
        (["0x100", "e4m3", "--code"], 2, "has codes 0 to 0xff"),
        (["1.5", "e4m3", "--code"], 2, "is no code"),
        (["1", "e4m3", "--code", "--from", "float64"], 2, "at most 32 bits"),
        (["1", "e4m3", "--word", "16", "--random-bits", "4"], 2, "must fit in 4 random bits"),
        (["1", "e4m3", "--word", "x"], 2, "no integer"),
        (["1", "e4m3", "--no-such"], 2, "No such option"),
        (["-1"], 2, "Missing argument"),
    ],
)
def test_what_explain_refuses(arguments: list[str], code: int, message: str) -> None:
    result = run("explain", *arguments, code=code)
    assert message in result.stderr
    assert result.stdout == ""


# ---- inspect --------------------------------------------------------------------------------------------------------
@pytest.fixture
def gradients() -> np.ndarray[Any, Any]:
    x = (np.random.default_rng(0).standard_normal((40, 50)) * 1e-6).astype(np.float32)
    x[:3] = 0
    return x


def agrees(told: dict[str, Any], stats: fp.TensorStats) -> None:
    """Counts are equal, floats to the rounding of merged sums."""
    for name in ("size", "zeros", "nonfinite", "nonzero", "amax"):
        assert told[name] == getattr(stats, name)
    assert len(told["casts"]) == len(stats)
    for mine, theirs in zip(told["casts"], stats.rows(), strict=True):
        for key, value in theirs.items():
            if isinstance(value, float) and np.isnan(value):
                assert mine[key] is None
            elif isinstance(value, float) and np.isinf(value):
                assert mine[key] == ("Infinity" if value > 0 else "-Infinity")
            else:
                assert mine[key] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), key


@pytest.mark.parametrize("chunk", [64, 1 << 24])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8", ">f8"])
@pytest.mark.parametrize("kind", ["npy", "npz", "compressed"])
def test_inspect_agrees_with_tensor_stats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gradients: Any, chunk: int, dtype: str, kind: str
) -> None:
    monkeypatch.setattr(reading, "CHUNK_BYTES", chunk)
    x = np.asfortranarray(gradients[:20] if chunk == 64 else gradients).astype(dtype)
    file = tmp_path / f"x.{kind[:3]}"
    {
        "npy": lambda: np.save(file, x),
        "npz": lambda: np.savez(file, w=x),
        "compressed": lambda: np.savez_compressed(file, w=x),
    }[kind]()
    file = next(tmp_path.iterdir())
    told = run_json("inspect", file, "--formats", "fp16,e4m3,e8m0", "--scale", 4096)["files"][0]["tensors"][0]
    stats = fp.tensor_stats(x, ["fp16", "e4m3", "e8m0"], 4096.0)
    agrees(told, stats)
    assert told["histogram"]["counts"] == stats.histogram.counts.tolist()
    band = stats.histogram.band("fp16", 1e-3)
    assert told["loss_scales"]["float16"]["lowest"] == band.lowest
    assert told["loss_scales"]["float16"]["highest"] == band.highest
    assert "float8_e8m0fnu" not in told["loss_scales"]


def test_the_table_has_the_numbers(tmp_path: Path, gradients: Any) -> None:
    np.savez(tmp_path / "g.npz", w=gradients, b=gradients * 1000)
    said = run("inspect", tmp_path / "g.npz").stdout
    stats = fp.tensor_stats(gradients, ["fp16", "bf16", "e4m3", "e5m2"])
    rows = {line.split("  ")[0].strip(): line for line in lines(said.split("g.npz: b")[0])}
    assert rows["became zero"].split()[2:] == [f"{loss.new_zero:,}" for loss in stats]
    assert rows["became subnormal"].split()[2:] == [f"{loss.new_subnormal:,}" for loss in stats]
    assert f"{stats['fp16'].sqnr_db:.1f}" in rows["signal to noise (dB)"]
    assert "All 2 tensors" in said
    bands = [fp.exponent_histogram(x).band("fp16") for x in (gradients, gradients * 1000)]
    both = fp.intersect_bands(bands)
    assert f"2^{both.lowest} to 2^{both.highest}" in said.split("All 2 tensors")[1]


def test_shares_never_round_to_all_or_nothing() -> None:
    assert [percent(share) for share in (0.0, 1.0, 0.5, 1e-9, 0.9999999999)] == [
        "0 %",
        "100 %",
        "50 %",
        "1e-07 %",
        "> 99.9999 %",
    ]
    assert percent(float("nan")) == "-"
    assert near_one(1.0) == "1"
    assert near_one(1 - 1e-9) == "1 - 1.0e-09"
    assert near_one(0.0) == "0"


def test_codes_with_their_format(tmp_path: Path, gradients: Any) -> None:
    codes = fp.encode(gradients * 2**14, "e5m2")
    save(tmp_path / "codes.npz", codes, "e5m2")
    told = run_json("inspect", tmp_path / "codes.npz", "--formats", "fp16,e4m3")["files"][0]["tensors"]
    assert [tensor["name"] for tensor in told] == ["codes"]
    assert told[0]["dtype"] == "codes of float8_e5m2"
    assert told[0]["casts"][0]["sqnr_db"] == "Infinity"  # float16 holds every e5m2 value
    assert told[0]["casts"][0]["new_subnormal"] == 0
    stats = fp.tensor_stats(fp.decode(codes, "e5m2"), ["e4m3"])
    assert told[0]["casts"][1]["new_zero"] == stats["e4m3"].new_zero


def test_raw_elements_become_codes_with_as(tmp_path: Path, gradients: Any) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = gradients.astype(ml_dtypes.bfloat16)
    np.save(tmp_path / "raw.npy", x)
    np.savez(tmp_path / "ints.npz", a=x.view(np.uint16), b=x.view(np.int16), c=x.view(np.uint16).astype(">u2"))
    assert np.load(tmp_path / "raw.npy").dtype == np.dtype("V2")
    refused = run("inspect", tmp_path / "raw.npy", code=1)
    assert "--as bfloat16" in refused.stderr
    told = run_json("inspect", tmp_path / "raw.npy", tmp_path / "ints.npz", "--as", "bf16", "--formats", "fp16")
    found = [tensor for file in told["files"] for tensor in file["tensors"]]
    assert [tensor["name"] for tensor in found] == ["raw.npy", "a", "b", "c"]
    expected = fp.tensor_stats(x.astype(np.float32), ["fp16"])
    assert {tensor["casts"][0]["new_zero"] for tensor in found} == {expected["fp16"].new_zero}
    wrong = run("inspect", tmp_path / "raw.npy", "--as", "e4m3", code=1)
    assert "no codes of float8_e4m3fn" in wrong.stderr


def test_codes_beyond_a_format_are_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([1, 200], np.uint8))
    result = run("inspect", tmp_path / "x.npy", "--as", "e2m1", code=1)
    assert lines(result.stderr) == [f"fpemu: {tmp_path / 'x.npy'}: float4_e2m1fn has codes 0 to 0xf; found 1 to 0xc8"]


def test_what_is_no_float_is_named_and_skipped(tmp_path: Path, gradients: Any) -> None:
    np.savez(
        tmp_path / "x.npz", w=gradients, step=np.int64(3), names=np.array(["a"]), flag=np.array([True]),
        z=np.array([1j]), when=np.array(["2020-01-01"], "M8[D]"), pair=np.zeros(2, "f4,f4"),
    )  # fmt: skip
    result = run("inspect", tmp_path / "x.npz")
    skipped = {line.split(": ")[2]: line for line in lines(result.stderr)}
    assert set(skipped) == {"step", "names", "flag", "z", "when", "pair"}
    assert all("skipped, " in line for line in skipped.values())
    assert "x.npz: w" in result.stdout


def test_a_refused_member_fails_though_others_are_inspected(tmp_path: Path, gradients: Any) -> None:
    np.savez(tmp_path / "x.npz", w=gradients, bad=np.array([{}], object))
    result = run("inspect", tmp_path / "x.npz", code=1)
    assert "x.npz: w" in result.stdout
    assert "x.npz: bad: pickled objects are refused" in result.stderr


def test_empty_zero_and_nonfinite_tensors(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "x.npz",
        empty=np.zeros((0, 3)),
        zeros=np.zeros(4),
        none=np.array([np.nan, np.inf]),
        one=np.float32(2),
    )
    told = run_json("inspect", tmp_path / "x.npz")["files"][0]["tensors"]
    assert [tensor["size"] for tensor in told] == [0, 4, 2, 1]
    assert told[0]["casts"][0]["new_zero_of_nonzero"] is None
    assert told[1]["casts"][0]["sqnr_db"] is None
    assert told[2]["nonfinite"] == 2
    run("inspect", tmp_path / "x.npz", "--html", tmp_path / "x.html", "--png", tmp_path / "x.png")


def broken_files(folder: Path) -> dict[str, str]:
    """Name -> what is said of it."""
    x = np.arange(1000, dtype=np.float32)
    np.save(folder / "good.npy", x)
    np.savez(folder / "good.npz", w=x)
    whole = (folder / "good.npy").read_bytes()
    (folder / "cut.npy").write_bytes(whole[:-1])
    (folder / "long.npy").write_bytes(whole + b"\0")
    (folder / "head.npy").write_bytes(whole[:20])
    archive = (folder / "good.npz").read_bytes()
    (folder / "cut.npz").write_bytes(archive[:-40])
    (folder / "flipped.npz").write_bytes(archive[:2000] + bytes([archive[2000] ^ 1]) + archive[2001:])
    np.save(folder / "pickled.npy", np.array([{}], object), allow_pickle=True)
    np.savez(folder / "pickled.npz", bad=np.array([{}], object))
    (folder / "empty").write_bytes(b"")
    (folder / "text").write_text("not a tensor")
    with zipfile.ZipFile(folder / "other.zip", "w") as other:
        other.writestr("data.pkl", b"")
    with zipfile.ZipFile(folder / "liar.npz", "w") as liar:
        liar.writestr("w.npy", b"nothing like an array")
    return {
        "cut.npy": "cut short", "long.npy": "too long", "head.npy": "", "cut.npz": "not an .npz archive, or cut short",
        "flipped.npz": "w: Bad CRC-32",
        "pickled.npy": "pickled objects are refused", "pickled.npz": "bad: pickled",
        "empty": "empty", "text": "neither .npy, .npz, .safetensors nor .pt",
        "other.zip": "without .npy members", "liar.npz": "w: damaged",
        "missing.npy": "No such file", ".": "Is a directory",
    }  # fmt: skip


def test_each_broken_file_is_one_line_and_the_others_are_inspected(tmp_path: Path) -> None:
    expected = broken_files(tmp_path)
    result = run("inspect", *(tmp_path / name for name in expected), tmp_path / "good.npy", code=1)
    said = lines(result.stderr)
    assert len(said) == len(expected)
    for line, (name, words) in zip(said, expected.items(), strict=True):
        assert line.startswith(f"fpemu: {tmp_path / name}: ")
        assert words in line
        assert line.count(str(tmp_path)) == 1
    assert "good.npy" in result.stdout
    told = run_json("inspect", tmp_path / "cut.npy", tmp_path / "good.npy", code=1)
    assert len(told["problems"]) == 1
    assert [len(file["tensors"]) for file in told["files"]] == [0, 1]


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(ran),))

    np.save(tmp_path / "x.npy", np.array([Trap()], object), allow_pickle=True)
    np.savez(tmp_path / "x.npz", a=np.array([Trap()], object))
    run("inspect", tmp_path / "x.npy", tmp_path / "x.npz", "--as", "e4m3", code=1)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scale", "0"], "positive"), (["--scale", "nan"], "positive"), (["--scale", "x"], "valid float"),
        (["--formats", "e4m3,e4m4"], "unknown format 'e4m4'"), (["--formats", ","], "at least one"),
        (["--formats", "binary16p1ue"], "float64 cannot hold"), (["--as", "x"], "unknown format"),
        (["--rounding", "nearest"], "nearest-even"), (["--no-such"], "No such option"),
    ],
)  # fmt: skip
def test_wrong_usage_is_told_before_any_file_is_read(tmp_path: Path, options: list[str], message: str) -> None:
    result = run("inspect", tmp_path / "missing.npy", *options, code=2)
    assert message in result.stderr
    assert "missing.npy" not in result.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory in KiB is Linux's")
@pytest.mark.parametrize("kind", ["npy", pytest.param("npz", marks=pytest.mark.exhaustive)])
def test_memory_is_bounded(tmp_path: Path, kind: str) -> None:
    size = 24 * reading.CHUNK_BYTES // 4
    x = np.zeros(size, np.float32)
    x[::1000] = 1e-6
    save_it = {"npy": np.save, "npz": np.savez_compressed}[kind]
    save_it(tmp_path / f"x.{kind}", x)  # type: ignore[operator]
    del x
    program = (
        "import resource, sys\nfrom fpemu.cli import main\nfrom fpemu.stats import tensor_stats\nimport numpy as np\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "tensor_stats(np.zeros(1 << 21, np.float32), ['e4m3'])\nbefore = peak()\n"
        "main(sys.argv[1:], standalone_mode=False)\nprint('peak', peak() - before)"
    )
    command = [sys.executable, "-c", program, "inspect", str(tmp_path / f"x.{kind}"), "--formats", "e4m3"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    assert f"{size:,} elements" in said
    kilobytes = int(said.split("peak ")[1])
    assert kilobytes * 1024 < 8 * reading.CHUNK_BYTES  # of 24; measured: about 3


# ---- pages and pictures ---------------------------------------------------------------------------------------------
def test_the_page_is_self_contained_and_escaped(tmp_path: Path, gradients: Any) -> None:
    np.savez(tmp_path / "x.npz", **{"<script>alert(1)</script>": gradients, "b": gradients, "n": np.array([1])})
    result = run("inspect", tmp_path / "x.npz", "--html", tmp_path / "o.html", "--scale", 64)
    page = (tmp_path / "o.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http://" not in page
    assert "https://" not in page
    assert page.count("data:image/png;base64,") == 2
    assert "Cast after multiplying by 64" in page
    stats = fp.tensor_stats(gradients, ["fp16"], 64.0)
    assert f"<td>{stats['fp16'].new_zero:,}</td>" in page
    assert "n: skipped, integers" in page
    assert "wrote" in result.stderr


def test_the_picture_is_written_whole_or_not_at_all(
    tmp_path: Path, gradients: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", gradients)
    run("inspect", tmp_path / "x.npy", "--png", tmp_path / "o.png")
    first = (tmp_path / "o.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    result = run("inspect", tmp_path / "x.npy", "--png", tmp_path / "o.png", code=1)
    assert "No space left" in result.stderr
    assert (tmp_path / "o.png").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.png", "x.npy"]


def test_a_missing_folder_for_the_picture_is_one_line(tmp_path: Path, gradients: Any) -> None:
    np.save(tmp_path / "x.npy", gradients)
    result = run("inspect", tmp_path / "x.npy", "--png", tmp_path / "no" / "o.png", code=1)
    assert "No such file or directory" in result.stderr


# ---- interruption ---------------------------------------------------------------------------------------------------
def test_an_interrupted_command_is_one_line_and_130(
    tmp_path: Path, gradients: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", gradients)

    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fpemu.cli.inspect._piece_stats", stop)
    for extra in (["--json"], ["--html", str(tmp_path / "o.html"), "--png", str(tmp_path / "o.png")]):
        result = run("inspect", tmp_path / "x.npy", *extra, code=130)
        assert result.stdout == ""
        assert lines(result.stderr) == ["fpemu: interrupted"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_real_interrupt_of_a_real_process(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones(3, np.float32))
    there = tmp_path / "there"
    program = f"""
import pathlib, sys, time
from fpemu.cli import inspect, main
inspect._piece_stats = lambda *_: (pathlib.Path({str(there)!r}).touch(), time.sleep({PATIENCE}))
main(sys.argv[1:])
"""
    with child([sys.executable, "-c", program, "inspect", str(tmp_path / "x.npy"), "--json"]) as process:
        wait_until(there.exists, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert out == ""
    assert lines(err) == ["fpemu: interrupted"]


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_an_interrupt_that_python_forgets_ends_the_output_too() -> None:
    """An exception in a callback of a weak reference is printed, and the command goes on."""
    program = """
import os, signal, weakref
from fpemu.cli import formats, main

class Held: pass
held = Held()
reference = weakref.ref(held, lambda _: (os.kill(os.getpid(), signal.SIGINT), sum(range(10**5))))

def print_json(data, really=formats.print_json):
    global held
    held = None
    really(data)

signal.signal(signal.SIGINT, signal.default_int_handler)
formats.print_json = print_json
main(["formats", "e4m3", "--json"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "fpemu: interrupted\n")


# ---- the page --------------------------------------------------------------------------------------------------------
def test_the_page_is_what_the_commands_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fpemu.cli import pages

    monkeypatch.setattr(pages, "PAGE", tmp_path / "README.md")
    assert pages.run(["--check"]) == 1  # not there
    assert pages.run([]) == 0
    text = pages.PAGE.read_text()
    assert all(f"$ {line}" in text for lines in pages.EXAMPLES.values() for line in lines)
    assert set(pages.EXAMPLES) == set(main.commands)
    pages.PAGE.write_text(text.replace("\n", "  \n"))
    assert pages.run(["--check"]) == 0  # line breaks aside
    pages.PAGE.write_text(text.replace("0.3125, code 0x2a", "0.3125, code 0x2b"))
    assert pages.run(["--check"]) == 1
    assert pages.run(["--chekc"]) == 2


def test_python_m_fpemu() -> None:
    done = subprocess.run([sys.executable, "-m", "fpemu", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"fpemu, version {fp.__version__}\n"
