"""Does explain-dot tell what the engine does, every term and bit and the exact result, and refuse the rest in a line?"""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

import fpemu as fp
from fpemu import ENGINES, reference
from fpemu.cli import main
from fpemu.cli.explain_dot import example
from fpemu.engines import BlockSum, chain
from fpemu.engines.definition import dot
from fpemu.engines.explain_text import WIDTH, brief

CHAINS = [name for name, engine in ENGINES.items() if name.startswith("sequential")]
TENSOR_CORES = [name for name, engine in ENGINES.items() if isinstance(engine.arithmetic, BlockSum)]


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def run_json(*arguments: object) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(run(*arguments, "--json").stdout, parse_constant=refuse)


def exact(text: str) -> Fraction:
    """The number a text of ``fpemu.explain.number`` means."""
    odd, _, exponent = text.rpartition("2^")
    if "2^" not in text:
        return Fraction(float(text))
    factor = odd.removesuffix(" * ")
    return Fraction({"": "1", "-": "-1"}.get(factor, factor)) * Fraction(2) ** int(exponent)


# ---- any operands ---------------------------------------------------------------------------------------------------
def draw(name: str, length: int, near_one: bool, seed: int) -> dict[str, list[int]]:
    """Codes for an engine: any, or finite ones around one, so that terms overlap."""
    engine, rng = ENGINES[name], np.random.default_rng(seed)

    def codes(format: fp.FloatFormat, count: int) -> list[int]:
        one = format.bias << format.trailing_bits
        reach = min(6 << format.trailing_bits, one, format.max_code - one)
        low, high = (one - reach, one + reach) if near_one else (0, format.magnitude_mask)
        signs = rng.integers(0, 2, count) * format.sign_mask
        return [int(code) for code in rng.integers(low, high, count, endpoint=True) | signs]

    found = {"a": codes(engine.a, length), "b": codes(engine.b, length), "c": codes(engine.accumulator, 1)}
    if engine.scaling is not None:
        count = -(-length // engine.scaling.block)
        found |= {"a_scales": codes(engine.scaling.format, count), "b_scales": codes(engine.scaling.format, count)}
    return found


drawn = given(
    name=st.sampled_from(TENSOR_CORES), length=st.integers(1, 70), near_one=st.booleans(), seed=st.integers(0, 2**32)
)


def arrays(name: str, found: dict[str, list[int]]) -> dict[str, Any]:
    """The codes as ``explain_dot`` takes them."""
    engine = ENGINES[name]
    formats = {"a": engine.a, "b": engine.b, "c": engine.accumulator}
    scale = None if engine.scaling is None else engine.scaling.format
    taken = {key: np.array(codes, formats.get(key, scale).code_dtype) for key, codes in found.items()}  # type: ignore[union-attr]
    return {**taken, "c": taken["c"][0]}


@settings(max_examples=60)
@drawn
def test_what_is_told_is_what_happens(name: str, length: int, near_one: bool, seed: int) -> None:
    found, engine = draw(name, length, near_one, seed), ENGINES[name]
    rule = engine.arithmetic
    assert isinstance(rule, BlockSum)
    told = fp.explain_dot(**arrays(name, found), engine=name)
    scales = [found[key] for key in ("a_scales", "b_scales") if key in found]
    assert told.code == dot(found["a"], found["b"], found["c"][0], engine, *scales)
    record = told.record
    assert record["result"]["code"] == told.code
    for step in record["steps"]:
        if step["kind"] == "addition" or step["special"] is not None:
            continue
        unit = Fraction(2) ** (step["top"] - rule.fraction_bits)
        assert sum(term["units"] for term in step["terms"]) == step["units"]
        assert exact(step["sum"]) == step["units"] * unit
        lost = Fraction(0)
        for term in step["terms"]:
            sign = -1 if term["sign"] else 1
            cut = Fraction(int(term["cut"] or "0", 2), 2 ** len(term["cut"])) * unit
            # What is kept and what is cut off make up the term.
            assert exact(term["value"]) == term["units"] * unit + sign * cut
            whole, _, rest = term["significand"].partition(".")
            assert Fraction(int(whole + rest, 2), 2 ** len(rest)) * Fraction(2) ** term["exponent"] * sign == exact(
                term["value"]
            )
            assert term["counts_as"] == (rule.zero_exponent if term["zero"] else term["exponent"])
            assert term["counts_as"] <= step["top"]
            assert (term["counts_as"] == step["top"]) == (term["term"] in step["set_by"])
            lost += sign * cut
        assert exact(step["lost"]) == lost
    json.dumps(record, allow_nan=True)
    for block in (None, 1):
        assert max(map(len, told.text(block).splitlines())) <= WIDTH


def test_no_line_is_longer_than_promised() -> None:
    """A wide table that Hypothesis found, and zeros that are no run of products."""
    name = "b200.tcgen05.e2m1xe2m3.fp32"
    wide, scattered = draw(name, 60, True, 163), draw(name, 140, True, 163)
    scattered["a"][::2] = [0] * 70
    for found, block in ((wide, None), (scattered, 4)):
        text = fp.explain_dot(**arrays(name, found), engine=name).text(block)
        assert 90 < max(map(len, text.splitlines())) <= WIDTH
    assert "124, 126 to 127: zeros, which count as exponent" in " ".join(text.split())


@settings(max_examples=60)
@drawn
def test_the_exact_result_is_exact(name: str, length: int, near_one: bool, seed: int) -> None:
    found, engine = draw(name, length, near_one, seed), ENGINES[name]
    record = fp.explain_dot(**arrays(name, found), engine=name).record

    def value(code: int, format: fp.FloatFormat, ignored: int = 0) -> Any:
        return reference.value(code >> ignored << ignored, format)

    terms = [value(found["c"][0], engine.accumulator)]
    for k, (x, y) in enumerate(zip(found["a"], found["b"], strict=True)):
        factors = [value(x, engine.a, engine.ignored_bits), value(y, engine.b, engine.ignored_bits)]
        if engine.scaling is not None:
            format = engine.scaling.format
            seen = format.magnitude_mask if engine.scaling.unsigned else (1 << format.bits) - 1
            factors += [value(found[key][k // engine.scaling.block] & seen, format) for key in ("a_scales", "b_scales")]
        terms.append(factors)
    flat = [terms[0], *(x for factors in terms[1:] for x in factors)]
    if any(isinstance(x, float) and not math.isfinite(x) for x in flat):
        assert record["error"] is None
        return
    total = Fraction(terms[0]) + sum(math.prod(map(Fraction, factors)) for factors in terms[1:])
    assert exact(record["exact"]) == total
    if record["error"] is not None:
        assert exact(record["error"]) == exact(record["result"]["value"]) - total
        assert record["nearest"]["code"] == reference.encode(total, engine.accumulator)


# ---- by hand --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("engine", "a", "b", "c", "code", "says"),
    [
        # A product at the last of 25 places, and one place below.
        ("hopper.wgmma.fp16.fp32", "1,2^-12,-1", "1,2^-13,1", "0", 0x33000000, "+ 0.0000000000000000000000001 |"),
        ("hopper.wgmma.fp16.fp32", "1,2^-13,-1", "1,2^-13,1", "0", 0, "+ 0.0000000000000000000000000 | 1"),
        ("ampere.mma.fp16.fp32", "1,2^-12,-1", "1,2^-13,1", "0", 0, "+ 0.000000000000000000000000 | 1"),
        # Exponents are not normalised: 1.5 * 1.5 = 10.01 has exponent 0.
        ("hopper.mma.fp16.fp32", "1.5,2^-12,-1.5", "1.5,2^-13,1.5", "0", 0x33000000, "+10.01"),
        # Magnitudes are cut off, not values: -2^-26 leaves nothing.
        ("hopper.mma.fp16.fp32", "1,-2^-13,-1", "1,2^-13,1", "0", 0, "a sum of zero is +0"),
        ("hopper.mma.bf16.fp32", "2^104", "1", "0x1.fffffep127", 0x7F800000, "beyond the largest finite value"),
        ("hopper.mma.bf16.fp32", "2^127,-2^127", "2^127,2^127", "1", 0, "shifted by"),
        # Zeros count as 2^-133: ten places lower nothing more is kept.
        ("hopper.mma.bf16.fp32", "2^-23,-2^-32", "2^-126,2^-126", "0", 0, "top exponent"),
        ("hopper.mma.bf16.fp32", "2^-23,-2^-33", "2^-126,2^-126", "0", 1, "zero: counts as -133, top exponent"),
        ("hopper.mma.bf16.fp32", "-2^-24", "2^-126", "0", 0, "a negative value that becomes zero is +0"),
        ("hopper.mma.fp16.fp16", "16", "1", "65504", 0x7C00, "beyond the largest finite value"),
        ("hopper.mma.fp16.fp32", "inf", "0", "0", 0x7FFFFFFF, "k 0 is NaN (a NaN operand, or inf * 0)"),
        ("hopper.mma.fp16.fp32", "inf,1", "1,-inf", "0", 0x7FFFFFFF, "+inf (k 0) meets -inf (k 1)"),
        ("hopper.mma.fp16.fp32", "-inf,1", "1,1", "0", 0xFF800000, "k 0 is -inf: so is the sum"),
        ("hopper.mma.fp16.fp16", "1", "1", "nan", 0x7FFF, "the accumulator is NaN already"),
        # FP8 on Hopper: 13 places, and a sum of 14 bits; the emulated path adds to the accumulator as such.
        ("hopper.wgmma.e4m3.fp32", "0", "0", "0x1.0007fep0", 0x3F800000, "discarded"),
        ("hopper.mma.e4m3.fp32", "0", "0", "0x1.0007fep0", 0x3F8003FF, "ordinary addition"),
        ("hopper.wgmma.e4m3.fp32", "2^-4 x 32", "2^-4 x 32", "32", 0x42008000, "k 0 to 31"),
        ("hopper.wgmma.e4m3.fp32", "2^-4 x 32", "2^-4 x 32", "64", 0x42800000, "cut off  0.125 in all"),
        # TF32 looks at 19 bits.
        ("hopper.mma.tf32.fp32", "0x1.003ffep0", "1", "0", 0x3F800000, "last 13 bits"),
    ],
)  # fmt: skip
def test_by_hand(engine: str, a: str, b: str, c: str, code: int, says: str) -> None:
    arguments = ("explain-dot", "--engine", engine, a, b, "--c", c)
    said = run(*arguments).stdout
    assert says in said
    assert f"{code:#0{10 if engine.endswith('32') else 6}x}" in said.splitlines()[-1 - len(lines_after(said))]
    assert run_json(*arguments)["result"]["code"] == code


def lines_after(said: str) -> list[str]:
    """What follows the last line with the result."""
    rows = said.splitlines()
    last = max(i for i, row in enumerate(rows) if row.startswith(("result ", "d ")))
    return rows[last + 1 :]


def test_scales_and_groups_are_told() -> None:
    nvf4 = ("explain-dot", "--engine", "b200.tcgen05.e2m1.nvf4.fp32", "6 x 17", "1.5 x 17")
    told = run_json(*nvf4, "--a-scales", "2,1", "--b-scales", "0.5,1")
    assert [(term["term"], term["value"]) for term in told["steps"][0]["terms"]] == [
        ("k 0 to 15", "144"),
        ("k 16 to 16", "9"),
        ("c", "0"),
    ]
    said = run(*nvf4, "--a-scales", "2,1", "--b-scales", "0.5,1").stdout
    assert "16 products at a time are added exactly" in said
    assert "scales of k 0 to 15: a 0x40 = 0 1000 000 = 2, b 0x30 = 0 0110 000 = 0.5" in said
    mx = run_json("explain-dot", "--engine", "b200.tcgen05.e4m3.mxf8f6f4.fp32", "1 x 33", "1 x 33",
                  "--a-scales", "2^10,1", "--b-scales", "4,1")  # fmt: skip
    assert [mx["steps"][i]["terms"][0]["exponent"] for i in (0, 1)] == [12, 0]
    assert mx["result"]["value"] == str(32 * 4096 + 1)


def test_blocks_are_listed_and_shown_one_by_one() -> None:
    asked = ("explain-dot", "--engine", "volta.mma.fp16.fp32", "1 x 16", "1 x 16")
    said = run(*asked).stdout
    assert [line.split()[:4] for line in said.splitlines() if "to" in line.split()[2:3]] == [
        [str(i + 1), str(4 * i), "to", str(4 * i + 3)] for i in range(4)
    ]
    third = run(*asked, "--block", 3).stdout
    assert "block 3 of 4, with c = 0x41000000" in third
    assert "k 8 to 11" in third
    promoted = run("explain-dot", "--engine", "volta.mma.fp16.fp32", "1 x 16", "1 x 16", "--promote-every", 8).stdout
    assert sum(line.lstrip().startswith("+  ") for line in promoted.splitlines()) == 2


@settings(max_examples=60)
@given(name=st.sampled_from(CHAINS), length=st.integers(1, 40), near_one=st.booleans(), seed=st.integers(0, 2**32))
def test_an_ordinary_accumulator_is_told_product_by_product(name: str, length: int, near_one: bool, seed: int) -> None:
    found, engine = draw(name, length, near_one, seed), ENGINES[name]
    told = fp.explain_dot(**arrays(name, found), engine=name)
    assert told.code == dot(found["a"], found["b"], found["c"][0], engine)
    before = found["c"][0]
    for k, step in enumerate(told.record["steps"]):
        assert (step["k"], step["before"]["code"]) == (k, before)
        before = step["after"]["code"]
        if step["kept"] is None:
            continue
        assert exact(step["sum"]) == exact(step["before"]["value"]) + exact(step["product"])
        if engine.arithmetic.fused:  # type: ignore[union-attr]
            one = told.record["operands"][k]
            assert exact(step["product"]) == exact(one["a"]["value"]) * exact(one["b"]["value"])
        assert step["after"]["code"] == reference.encode(exact(step["sum"]), engine.accumulator)
    assert max(map(len, str(told).splitlines())) <= WIDTH


def test_sums_that_stall_are_seen_to() -> None:
    said = run("explain-dot", "--engine", "fp16", "1 x 4", "2048,1,1,3").stdout.splitlines()
    rows = [" ".join(line.split()) for line in said]
    assert "k 1 1 2049 1 0x6800 2048" in rows
    assert "k 3 3 2051 1 0x6802 2052" in rows
    assert "d 0x6802 = 0 11010 0000000010 = 2052" in rows
    assert "products are rounded first" in run("explain-dot", "--engine", "sequential.mul-add.float16.float16").stdout


def test_every_engine_has_an_example_that_loses_something() -> None:
    for name in TENSOR_CORES:
        told = fp.explain_dot(**example(ENGINES[name]), engine=name)
        assert told.record["error"] not in (None, "0"), name
        assert max(map(len, str(told).splitlines())) <= WIDTH, name


def test_codes_are_read_as_codes() -> None:
    told = run_json("explain-dot", "--code", "0x3c00,0b1", "0x3c00,15360", "--c", "0x3f800000")
    assert [one["a"]["value"] for one in told["operands"]] == ["1", "5.960464477539063e-08"]
    assert told["result"]["value"] == "2.000000" or exact(told["result"]["value"]) == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [("2^-3", 0.125), ("-2^3", -8.0), ("1.5*2^2", 6.0), ("-.5", -0.5), ("0x1.8p1", 3.0), ("1e-1", 0.0999755859375),
     ("-inf", -math.inf)],
)  # fmt: skip
def test_values_are_read(text: str, value: float) -> None:
    told = run_json("explain-dot", text, "1")
    assert float(told["operands"][0]["a"]["value"]) == value


@pytest.mark.parametrize(
    ("value", "said"),
    [("0", "0"), ("-1048576", "-1048576"), ("0.30000000000000004", "0.30000000000000004"),
     ("0.0999755859375", "819 * 2^-13"), ("2.9802322387695312e-08", "2^-25"),
     ("-3 * 2^-1080", "-3 * 2^-1080"), ("inf", "inf"), (f"{3**60} * 2^-1080", "about 1.0701 * 2^-985")],
)  # fmt: skip
def test_numbers_in_few_characters(value: str, said: str) -> None:
    assert brief(value) == said


# ---- bad input ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "hopper"], "unknown engine 'hopper'"),
        (["1"], "give both A and B"),
        (["1,2", "1"], "equally long, not 2 and 1"),
        (["1,,2", "1,1,1"], "a value is missing"),
        (["one", "1"], "A: 'one' is no number"),
        (["1", "2^x"], "B: '2^x' is no number"),
        (["1", "1", "--c", "zero"], "--c: 'zero' is no number"),
        (["--code", "0x10000", "0"], "has codes 0 to 0xffff"),
        (["--code", "1.5", "0"], "is no code"),
        (["--engine", "blas"], "only tensor cores"),
        (["--engine", "fp16", "1", "1", "--block", "1"], "adds product by product"),
        (["--engine", "fp16", "1", "1", "--promote-every", "16"], "promote_every is for tensor cores"),
        (["--engine", "b200.tcgen05.e2m1.nvf4.fp32", "1", "1"], "needs --a-scales"),
        (["--engine", "b200.tcgen05.e2m1.nvf4.fp32", "1", "1", "--a-scales", "1,1", "--b-scales", "1"], "not 2"),
        (["--engine", "b200.tcgen05.e2m1.nvf4.fp32", "nan", "1", "--a-scales", "1", "--b-scales", "1"], "A: NaN"),
        (["1", "1", "--a-scales", "1"], "takes no block scales"),
        (["--a-scales", "1"], "scales come with A and B"),
        (["1", "1", "--block", "2"], "there is no block 2"),
        (["1", "1", "--promote-every", "17"], "multiple of the 16 products"),
        (["1 x 70000", "1"], "at most 65,536 values"),
        (["1", "1", "--no-such"], "No such option"),
    ],
)  # fmt: skip
def test_what_is_refused(arguments: list[str], message: str) -> None:
    result = run("explain-dot", *arguments, code=2)
    assert message in result.stderr
    assert result.stderr.count("Error:") == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"a": [[1.0]], "b": [[1.0]]}, ValueError, "one dimension"),
        ({"a": [], "b": []}, ValueError, "empty"),
        ({"a": [1.0], "b": [1.0], "engine": "blas"}, ValueError, "only tensor cores"),
        ({"a": [1.0], "b": [1.0], "engine": chain("fp16", order="pairwise")}, ValueError, "only tensor cores"),
        ({"a": [1.0], "b": [1.0], "engine": chain("fp16", rounding="stochastic")}, ValueError, "only tensor cores"),
        ({"a": [1.0], "b": [1.0], "engine": 3}, TypeError, "name or an Engine"),
        ({"a": [1.0], "b": [1.0], "c": [1.0, 2.0]}, ValueError, "one value"),
        ({"a": [1.0], "b": [1.0], "a_scales": [1.0]}, TypeError, "no block scales"),
    ],
)
def test_what_the_function_refuses(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        fp.explain_dot(**{"engine": "hopper.mma.fp16.fp32", **arguments})


# ---- fpemu engines --------------------------------------------------------------------------------------------------
def test_the_list_of_engines_has_all_of_them() -> None:
    assert [one["name"] for one in run_json("engines")] == list(ENGINES)
    everything = run("engines", "--all").stdout
    assert all(name in everything for name in ENGINES)
    some = run("engines", "hopper.wgmma").stdout
    assert "hopper.wgmma.e4m3.fp32" in some
    assert "hopper.wgmma.e4m3xe5m2.fp32" not in some
    assert "And 4 with two different inputs" in some
    assert "ampere" not in some


def test_the_facts_of_an_engine() -> None:
    told = {facts["name"]: facts for facts in run_json("engines")}
    assert told["sequential.fma.float16.float16"]["aliases"] == ["fp16"]
    for name, engine in ENGINES.items():
        facts, rule = told[name], engine.arithmetic
        assert (facts["a"], facts["b"], facts["accumulator"]) == (engine.a.name, engine.b.name, engine.accumulator.name)
        assert facts["evidence"] == list(engine.evidence)
        if isinstance(rule, BlockSum):
            shown = [facts[key] for key in ("block_length", "fraction_bits", "zero_exponent", "rounding", "grid")]
            assert shown == [rule.length, rule.fraction_bits, rule.zero_exponent, rule.rounding.value, rule.grid.name]
            assert (facts["span"] or 0, facts["group"] or 0) == (rule.span, rule.group)


def test_an_engine_in_words() -> None:
    said = " ".join(run("engines", "hopper.mma.e4m3.fp32").stdout.split())
    assert "16 products and the accumulator are aligned, cut off, added and rounded once" in said
    assert "32 products (in each four: 0 and 1, then 2 and 3) are summed from zero" in said
    assert "H100, H200" in run("engines", "hopper.mma.fp16.fp32").stdout
    assert "nearest-even at every step, sequential" in " ".join(run("engines", "bf16").stdout.split())
    assert "differ between machines" in run("engines", "blas").stdout
    assert "float8_e4m3fn, one for 16 values" in run("engines", "b200.tcgen05.e2m1.nvf4.fp32").stdout


def test_an_engine_that_there_is_not() -> None:
    result = run("engines", "hoper.mma.fp16.fp32", code=2)
    assert "did you mean hopper.mma.fp16.fp32" in result.stderr
