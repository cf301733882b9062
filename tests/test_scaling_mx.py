"""Are MX blocks those of their definition: every rule, element format, rounding, axis and special value?"""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scaling_inputs import blocks, with_specials
from test_stochastic import word

import fpemu as fp
from fpemu import FORMATS, Cast
from fpemu.kernels.spec import LANE32, LANE64
from fpemu.scaling import Fate, Scaled, ScaleRule, Special, definition, mx
from fpemu.scaling.mx_rules import rule_numbers

RULES = [rule.value for rule in ScaleRule]
ELEMENTS = ["e4m3", "e5m2", "e2m3", "e3m2", "e2m1"]
OTHERS = ["float8_e4m3fnuz", "binary6p3se", "bfloat16", "binary5p1se"]


def names(fates: int) -> set[str]:
    return {flag.name for flag in Fate if fates & flag}  # type: ignore[misc]


def check(
    x: np.ndarray[Any, Any], result: Scaled, cast: Cast, block: int, rule: str, special: str, **random: int
) -> None:
    """Compare a result, blocks along the last axis of x, with the definition."""
    n = x.shape[-1]
    rows = x.reshape(-1, n)
    shape = (len(rows), -(-n // block))
    codes, scales, flags = result.codes.reshape(rows.shape), result.scales.reshape(shape), result.fates.reshape(shape)
    stochastic = cast.rounding is fp.Rounding.STOCHASTIC
    for r, row in enumerate(rows):
        for b in range(shape[1]):
            part = slice(b * block, min((b + 1) * block, n))
            first = r * n + part.start + random.get("offset", 0)
            words = [
                word(random["seed"], first + i) >> (32 - cast.random_bits) if stochastic else None
                for i in range(part.stop - part.start)
            ]
            xs = [float(value) for value in row[part]]
            expected = definition.mx_block(xs, cast, rule, special, words)
            found = (int(scales[r, b]), [int(code) for code in codes[r, part]], names(int(flags[r, b])))
            assert found == tuple(expected), (xs, rule, special, cast.format.name)


def saturating(name: str, **policies: Any) -> Cast:
    return Cast(name, overflow="saturate", **policies)


@pytest.mark.parametrize("name", ELEMENTS)
def test_scales_end_at_the_largest_power_of_two_of_e8m0(name: str) -> None:
    """Amaxes of the last exponent that has a scale, of the first that has none, and of the next."""
    x = np.ldexp(np.ones((3, 4)), 127 + FORMATS[name].emax + np.arange(3)[:, None])
    result = mx(x, name, block=4, rule="floor")
    assert result.scales.ravel().tolist() == [0xFE, 0xFF, 0xFF]
    check(x, result, saturating(name), 4, "floor", "element")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ELEMENTS)
def test_every_rule(name: str, dtype: Any) -> None:
    x = blocks(FORMATS[name], dtype, 7, count=12)
    for rule in RULES:
        check(x, mx(x, name, block=4, rule=rule), saturating(name), 4, rule, "nan-block")


@pytest.mark.parametrize("special", [special.value for special in Special])
@pytest.mark.parametrize("name", [*ELEMENTS[1:], *OTHERS])
def test_specials(name: str, special: str) -> None:
    x = with_specials(blocks(FORMATS[name], np.float32, 5, count=20))
    check(x, mx(x, name, block=3, special=special), saturating(name), 3, "floor", special)


@pytest.mark.parametrize("rounding", [rounding.value for rounding in fp.Rounding])
def test_every_rounding(rounding: str) -> None:
    for name, dtype in (("e2m1", np.float32), ("e4m3", np.float32), ("e3m2", np.float64)):
        x = blocks(FORMATS[name], dtype, 6, count=6)
        result = mx(x, name, block=4, rounding=rounding, seed=5, offset=11)
        check(x, result, saturating(name, rounding=rounding), 4, "floor", "nan-block", seed=5, offset=11)


@pytest.mark.parametrize(("bits", "variant"), [(8, "A"), (32, "B"), (4, "C")])
def test_random_bits(bits: int, variant: str) -> None:
    x = blocks(FORMATS["e4m3"], np.float32, 6, count=4)
    options: Any = {"rounding": "stochastic", "random_bits": bits, "stochastic": variant}
    check(x, mx(x, "e4m3", block=4, seed=3, **options), saturating("e4m3", **options), 4, "floor", "nan-block", seed=3)


@pytest.mark.nojit
def test_rules_are_thresholds() -> None:
    """A rule's addition carries where its words say, to the last place of either lane, in every binade's middle and ends."""
    for lane, dtype in ((LANE32, np.float32), (LANE64, np.float64)):
        for name in [*ELEMENTS, *OTHERS, "float16"]:
            format = FORMATS[name]
            for rule in ScaleRule:
                raised, lower = rule_numbers(rule, format, lane)
                one = 1 << lane.trailing_bits
                for f in {one, one + 1, 2 * one - 1, 2 * one - raised - 1, 2 * one - raised, one + one // 2} - {
                    2 * one
                }:
                    amax = Fraction(f, one) * 32
                    biased = (int(np.array(float(amax), dtype).view(lane.code)) + raised >> lane.trailing_bits) - lower
                    assert biased - lane.bias == definition.mx_exponent(amax, format, rule.value), (name, rule, f)


def test_published_blocks() -> None:
    """OCP MX 6.3 read from exponent bits: 8 less an ulp is below 8, which microxcaling's and gfloat's logarithm misses."""
    x = np.array([np.nextafter(np.float32(8), np.float32(0)), 0.5], np.float32)
    result = mx(x, "e2m1")
    assert result.dequantize().tolist() == [6, 0.5] and result.scales.tolist() == [127]
    assert mx(np.float32([7.99, 0.5]), "e2m1").dequantize().tolist() == [6, 0.5]
    # microxcaling#4: 957 becomes 896, by the rule.
    assert mx(np.float32([957.0]), "e4m3").dequantize().tolist() == [896]


@pytest.mark.nojit
def test_reciprocal_of_max_gives_rceil() -> None:
    """The originals of rceil: amax times float32(1 / max), and amax / max, rounded up to a power of two in float32.

    Exactly the rule, for every float32 significand (Transformer Engine and torchao multiply; cuBLAS's text divides).
    """
    significand = np.arange(0, 1 << 23, 3, dtype=np.uint32)
    for name in ELEMENTS:
        format = FORMATS[name]
        raised, lower = rule_numbers(ScaleRule.RCEIL, format, LANE32)
        edges = np.uint32((1 << 23) - raised) + np.arange(-3, 4, dtype=np.int64).astype(np.uint32)
        bits = np.concatenate([significand, edges & np.uint32((1 << 23) - 1)]) | np.uint32(127 << 23)
        amax = bits.view(np.float32)
        ours = (bits + np.uint32(raised) >> np.uint32(23)) - np.uint32(lower)
        for original in (amax * (np.float32(1) / np.float32(format.max)), amax / np.float32(format.max)):
            field = original.view(np.uint32)
            assert np.array_equal((field >> np.uint32(23)) + ((field & np.uint32((1 << 23) - 1)) != 0), ours), name


# SQNR of Gaussian blocks of 32, in dB, and the share of clipped blocks, as measured elsewhere with two decimals (and, by
# MLX's own measurement of its old rule, 243 of 512 for another format): fpemu's facts, 17.
SQNR = {
    "e4m3": {"floor": 30.63, "even": 31.19, "nearest": 22.45, "rceil": 31.53, "ceil": 31.53},
    "e2m1": {"floor": 18.77, "even": 19.01, "nearest": 18.30, "rceil": 18.74, "ceil": 16.81},
}


@pytest.mark.parametrize("name", SQNR)
def test_sqnr(name: str) -> None:
    """Within five standard errors of ours and the rounding of theirs; theirs has at least our sampling error again."""
    x = np.random.default_rng(7).standard_normal((8192, 32)).astype(np.float32)
    power = (x.astype(np.float64) ** 2).sum(1)
    for rule, published in SQNR[name].items():
        result = mx(x, name, rule=rule)
        noise = ((result.dequantize(np.float64) - x) ** 2).sum(1)
        sqnr = 10 * np.log10(power.sum() / noise.sum())
        # The delta method on the ratio of two means over independent blocks.
        spread = power / power.mean() - noise / noise.mean()
        error = 10 / np.log(10) * spread.std() / np.sqrt(len(x))
        assert abs(sqnr - published) < 5 * np.sqrt(2) * error + 0.005, (rule, sqnr, error)
    clipped = mx(x, name).clipped / len(x)
    expected = {"e4m3": 0.17, "e2m1": 0.30}[name]
    assert abs(clipped - expected) < 5 * np.sqrt(clipped * (1 - clipped) / len(x)) + 0.005


def test_layer_norm_gains_collapse() -> None:
    """Gains in (0.875, 1): one code and -6.8 % by floor, three codes and no bias by rceil (arXiv 2506.20752)."""
    gains = np.random.default_rng(0).uniform(0.88, 0.999, (512, 32)).astype(np.float32)
    floor, rceil = mx(gains, "e4m3"), mx(gains, "e4m3", rule="rceil")
    bias = {
        rule: (result.dequantize(np.float64) / gains).mean() - 1
        for rule, result in (("floor", floor), ("rceil", rceil))
    }
    assert np.unique(floor.codes).size == 1 and np.unique(rceil.codes).size == 3
    # The mean of 0.875 / x over the uniform distribution is 0.875 ln(0.999 / 0.88) / 0.119.
    error = 5 * (0.875 / gains).std() / np.sqrt(gains.size)
    assert abs(bias["floor"] - (0.875 * np.log(0.999 / 0.88) / 0.119 - 1)) < error
    assert round(bias["floor"], 3) in (-0.067, -0.068) and abs(bias["rceil"]) < 0.001
    assert floor.single_code == floor.clipped == floor.blocks == floor.several == 512
    assert rceil.single_code == rceil.clipped == 0


def test_nearest_clips_up_to_29_percent() -> None:
    """MLX#4353: worst 29.27 %; 1 - 1/sqrt(2) is the limit."""
    x = np.float32(448) * np.linspace(1, 2, 4001, dtype=np.float32)[:, None]
    worst = (1 - mx(x, "e4m3", rule="nearest").dequantize(np.float64) / x).max()
    assert 0.29 < worst < 1 - 0.5**0.5


@pytest.mark.parametrize("rounding", ["nearest-even", "stochastic"])
def test_axes(rounding: str) -> None:
    """Blocks along any axis are those along the last of the moved array, but for random words, which go by x's own order."""
    x = blocks(FORMATS["e4m3"], np.float32, 30, count=10)[:60].reshape(6, 10, 30)
    for axis in (0, 1, 2, -1, -3):
        result = mx(x, "e4m3", block=4, axis=axis, rounding=rounding, seed=2)
        moved = np.moveaxis(x, axis, -1)
        assert result.scales.shape == tuple(-(-n // 4) if i == axis % 3 else n for i, n in enumerate(x.shape))
        along = mx(moved, "e4m3", block=4)
        assert np.array_equal(np.moveaxis(result.scales, axis, -1), along.scales)
        scales = np.repeat(along.scale_values(np.float64), 4, -1)[..., : moved.shape[-1]]
        scaled = np.moveaxis(moved / scales, -1, axis)
        expected = fp.encode(scaled, "e4m3", overflow="saturate", rounding=rounding, seed=2)
        assert np.array_equal(result.codes, expected)
        assert np.array_equal(
            result.dequantize(), np.float32(fp.decode(expected, "e4m3") * np.moveaxis(scales, -1, axis))
        )


def test_layouts() -> None:
    """Strided, Fortran-ordered, byte-swapped, read-only, float16, ml_dtypes: the same values give the same codes."""
    x = np.random.default_rng(3).standard_normal((12, 40)).astype(np.float16).astype(np.float32)
    expected = mx(x, "e3m2", block=16)
    frozen = x.copy()
    frozen.setflags(write=False)
    wide = np.zeros((24, 80), np.float32)
    wide[::2, ::2] = x
    others = [
        np.asfortranarray(x),
        x.astype(">f4"),
        frozen,
        wide[::2, ::2],
        x.astype(np.float16),
        x.astype(np.float64),
        x.tolist(),
    ]
    for other in others:
        result = mx(other, "e3m2", block=16)
        assert np.array_equal(result.codes, expected.codes) and np.array_equal(result.scales, expected.scales)
        assert np.array_equal(result.fates, expected.fates)
    ml_dtypes = pytest.importorskip("ml_dtypes")
    short = x.astype(ml_dtypes.bfloat16)
    assert np.array_equal(mx(short, "e3m2").codes, mx(short.astype(np.float32), "e3m2").codes)


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (3, 0, 2)])
def test_empty(shape: tuple[int, ...]) -> None:
    for axis in range(len(shape)):
        result = mx(np.zeros(shape, np.float32), "e4m3", axis=axis)
        assert result.codes.shape == shape and result.dequantize().shape == shape
        assert result.blocks == result.scales.size and result.dead == result.clipped == result.single_code == 0


def test_counts() -> None:
    """Each flag by hand, blocks of four in E2M1."""
    x = np.float32(
        [
            [4.0, 2.0, 1.0, 0.5],
            [0.0, -0.0, 0.0, 0.0],
            [7.0, 1.0, 0.0, 0.0],  # clipped
            [5.5, 5.25, -0.0, 0.0],  # one code
            [6.0, -6.0, 0.0, 0.0],  # two, by their signs
            [3.0, 0.0, 0.0, 0.0],  # one element
            [2.0**-130, 2.0**-130, 0, 0],  # below half of the smallest value times 2**-127: dead
            [np.inf, 1.0, 0.0, 0.0],
        ]
    )  # fmt: skip
    result = mx(x, "e2m1", block=4)
    assert [names(int(flags)) for flags in result.fates[:, 0]] == [
        {"OCCUPIED", "SEVERAL"},
        set(),
        {"OCCUPIED", "SEVERAL", "CLIPPED"},
        {"OCCUPIED", "SEVERAL", "SINGLE_CODE"},
        {"OCCUPIED", "SEVERAL"},
        {"OCCUPIED"},
        {"OCCUPIED", "SEVERAL", "DEAD"},
        {"NAN"},
    ]
    counts = (
        result.blocks,
        result.occupied,
        result.several,
        result.clipped,
        result.single_code,
        result.dead,
        result.nan,
    )
    assert counts == (8, 6, 5, 1, 1, 1, 1)
    assert "dead=1" in repr(result)
    assert np.isnan(result.dequantize()[7]).all() and result.which(Fate.DEAD)[6, 0]


def test_errors() -> None:
    x = np.ones(4, np.float32)
    for bad, error, message in (
        (lambda: mx(np.ones(4, int), "e4m3"), TypeError, "int64"),
        (lambda: mx(np.ones(4, complex), "e4m3"), TypeError, "complex128"),
        (lambda: mx(x, "e4m3", block=0), ValueError, "at least 1"),
        (lambda: mx(x, "e4m3", block=1.5), TypeError, "block must be an int"),  # type: ignore[arg-type]
        (lambda: mx(x, "e4m3", axis=1), ValueError, "no axis 1; valid: -1 to 0"),
        (lambda: mx(np.float32(1), "e4m3"), ValueError, "0-d"),
        (lambda: mx(x, "e4m3", rule="up"), ValueError, "floor, ceil, even, rceil, nearest"),
        (lambda: mx(x, "e4m3", special="none"), ValueError, "nan-block, element"),
        (lambda: mx(x, "e8m0"), ValueError, "sign and a zero"),
        (lambda: mx(x, "binary16p1se"), ValueError, "float32"),
        (lambda: mx(x, "e4m3", seed=-1), ValueError, "seed"),
        (lambda: mx(x, "e4m3").dequantize(np.float16), TypeError, "float32 or float64"),
    ):
        with pytest.raises(error, match=message):
            bad()


@pytest.mark.parametrize("size", [64, 8192])
def test_out(size: int) -> None:
    """Codes land where they are asked to, by either way."""
    x = np.random.default_rng(2).standard_normal((2, size)).astype(np.float32)
    out = np.empty(x.shape, np.uint8)
    result = mx(x, "e4m3", out=out)
    assert result.codes is out and np.array_equal(out, mx(x, "e4m3").codes)
    for wrong, error in (
        (out.astype(np.uint16), TypeError),
        (out[:1], ValueError),
        (out.T.copy().T, ValueError),
        ([], TypeError),
    ):
        with pytest.raises(error, match="out must be"):
            mx(x, "e4m3", out=wrong)  # type: ignore[arg-type]


def test_the_package_offers_it_without_loading_the_compiler() -> None:
    code = "import sys, fpemu; fpemu.scaling.mx; assert 'numba' not in sys.modules; fpemu.scalings"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "no attribute 'scalings'" in result.stderr, result.stderr


def test_arrays_on_a_gpu_are_refused() -> None:
    class There:
        @property
        def __cuda_array_interface__(self) -> dict[str, object]:
            return {"shape": (4,), "typestr": "<f4", "data": (0, False), "version": 3}

    with pytest.raises(TypeError, match="GPU"):
        mx(There(), "e4m3")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*ELEMENTS, "float8_e4m3fnuz", "binary8p4se", "bfloat16"])
def test_loops_are_the_general_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One compiled pass gives what whole arrays give, for every rule, block and special value; the general way is held against exact rationals above."""
    from fpemu.targets import host_scaling

    format, rng = FORMATS[name], np.random.default_rng(8)
    for block in (16, 32) if name == "e2m1" else (32,):
        plain = blocks(format, np.float32, block, count=400)
        sparse = np.where(rng.random(plain.shape) < 0.9, 0, plain).astype(np.float32)
        few = (rng.integers(0, 3, plain.shape) * np.exp2(rng.integers(-20, 20, (len(plain), 1)))).astype(np.float32)
        x = np.concatenate([plain, sparse, few, with_specials(plain), -plain])
        assert host_scaling.takes(x, saturating(name), block, True)
        for rule in RULES:
            for special in Special:
                fast = mx(x, name, block=block, rule=rule, special=special)
                with monkeypatch.context() as patch:
                    patch.setattr(host_scaling, "takes", lambda *facts: False)
                    slow = mx(x, name, block=block, rule=rule, special=special)
                for what in ("codes", "scales", "fates"):
                    np.testing.assert_array_equal(
                        getattr(fast, what), getattr(slow, what), err_msg=f"{rule} {special} {what}"
                    )
                assert fast.cut == slow.cut and fast.codes.dtype == slow.codes.dtype
    many = rng.standard_normal((3, 700, 64)).astype(
        np.float32
    )  # in threads, and an end of fewer blocks than are worked on at once
    assert np.array_equal(mx(many, name).codes[1], mx(many[1], name).codes)
    assert mx(many, name).scales.shape == (3, 700, 2)
