"""On a GPU, or in Numba's simulator: are the bits those of the CPU, whatever the layout, the owner and the stream?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from edges import NAMED, around, specials
from on_device import KIND, Interface, get, put, through

import fpemu as fp
from fpemu import FORMATS, Cast, Rounding, Stochastic

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not KIND, reason="no GPU, and not in the simulator")]

Array = np.ndarray[Any, Any]
FEW = 200 if KIND == "simulator" else 100_000
SOME = ("float8_e4m3fn", "float8_e5m2", "bfloat16", "float8_e8m0fnu", "float4_e2m1fn", "binary8p3se")


def sample(format: fp.FloatFormat, dtype: str) -> Array:
    """Edges of a format, thinned to what the device takes."""
    x = np.concatenate([specials(dtype), around(format, dtype)])
    return np.ascontiguousarray(x[:: max(1, x.size // FEW)])


def any_nan(format: fp.FloatFormat) -> str:
    return "canonical" if format.has_nan else "max"


def same(a: Array, b: Array) -> None:
    """Equal in every bit, and in dtype and shape."""
    assert a.dtype == b.dtype
    unsigned = f"u{a.dtype.itemsize}"
    np.testing.assert_array_equal(np.asarray(a).view(unsigned), np.asarray(b).view(unsigned))


# ---- the same bits ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("rounding", Rounding)
def test_encode_and_quantize(name: str, rounding: Rounding) -> None:
    format = FORMATS[name]
    cast = Cast(format, rounding, nan=any_nan(format))
    for dtype in ("float32", "float64"):
        x = sample(format, dtype)
        same(through(fp.encode)(x, cast, seed=7, offset=5), fp.encode(x, cast, seed=7, offset=5))
        same(through(fp.quantize)(x, cast, seed=7), fp.quantize(x, cast, seed=7))


@pytest.mark.parametrize(
    ("variant", "bits"), [(variant, bits) for variant in Stochastic for bits in (32, 8, 1)], ids=str
)
def test_stochastic_takes_the_same_random_bits(variant: Stochastic, bits: int) -> None:
    x = np.linspace(-3, 500, FEW).astype(np.float32)
    cast = Cast("e4m3", "stochastic", stochastic=variant, random_bits=bits)
    for seed, offset in ((0, 0), (2**64 - 1, 2**64 - 3)):
        same(through(fp.encode)(x, cast, seed=seed, offset=offset), fp.encode(x, cast, seed=seed, offset=offset))


@pytest.mark.parametrize(
    "policies",
    [
        {"overflow": "saturate"},
        {"overflow": "propagate"},
        {"overflow": "p3109-propagate"},
        {"subnormals": "flush-output"},
        {"subnormals": "flush-input"},
        {"subnormals": "round-to-min"},
        {"nan": "unsigned", "nan_code": 0x7F},
        {"via": "float16"},
    ],
    ids=str,
)
def test_policies(policies: dict[str, Any]) -> None:
    cast = Cast("e4m3", **policies)
    x = sample(FORMATS["e4m3"], "float32")
    same(through(fp.encode)(x, cast), fp.encode(x, cast))


@pytest.mark.parametrize("name", NAMED)
def test_decode_and_cast(name: str) -> None:
    format = FORMATS[name]
    step = max(1, (1 << format.bits) // FEW)
    codes = np.arange(0, 1 << format.bits, step, dtype=np.uint64).astype(format.code_dtype)
    for dtype in ("float32", "float64"):
        same(through(fp.decode)(codes, format, dtype=dtype), fp.decode(codes, format, dtype=dtype))
    same(through(fp.cast)(codes, source=format, target="float16"), fp.cast(codes, source=format, target="float16"))
    if FORMATS["float16"].holds(format):
        same(through(fp.decode)(codes, format, dtype="float16"), fp.decode(codes, format, dtype="float16"))


@pytest.mark.parametrize("name", ["binary8p1ue", "binary16p2se", "binary12p1uf"])
def test_formats_that_decode_by_a_table(name: str) -> None:
    """Values below those of a lane, and wider ones that go by the host."""
    format = FORMATS[name]
    codes = np.arange(0, 1 << format.bits, max(1, (1 << format.bits) // FEW)).astype(format.code_dtype)
    if format.holds_in_float64:
        same(through(fp.decode)(codes, format, dtype="float64"), fp.decode(codes, format, dtype="float64"))
        same(through(fp.cast)(codes, source=format, target="bf16"), fp.cast(codes, source=format, target="bf16"))


def test_a_wide_format_goes_by_the_host() -> None:
    format = fp.FloatFormat.ieee(5, 26)  # more significant bits than the kernel decodes
    codes = np.arange(0, 1 << 32, (1 << 32) // 150, dtype=np.uint64).astype(np.uint32)
    same(through(fp.decode)(codes, format), fp.decode(codes, format))
    same(through(fp.cast)(codes, source=format, target="e5m2"), fp.cast(codes, source=format, target="e5m2"))


def test_float16_input() -> None:
    x = np.arange(0, 1 << 16, max(1, (1 << 16) // FEW), dtype=np.uint32).astype(np.uint16).view(np.float16)
    for cast in (Cast("e4m3"), Cast("e5m2", "stochastic"), Cast("bf16")):
        same(through(fp.encode)(x, cast, seed=1), fp.encode(x, cast, seed=1))
    same(through(fp.quantize)(x, "e5m2"), fp.quantize(x, "e5m2"))


# ---- layout ----------------------------------------------------------------------------------------------------------
VIEWS = {
    "transposed": lambda x: x.T,
    "steps": lambda x: x[::2, :, 1::3],
    "backwards": lambda x: x[::-1, ::-2],
    "permuted": lambda x: x.transpose(1, 3, 0, 2),
    "broadcast": lambda x: np.broadcast_to(x[:, :1], x.shape),
    "one element": lambda x: x[1, 2, 3, :1],
    "no axis": lambda x: x[1, 2, 3, 0:1].reshape(()),
    "empty": lambda x: x[:, :0],
    "axes of one": lambda x: x[:, None, :1],
}


@pytest.mark.parametrize("view", VIEWS)
def test_layout_changes_nothing(view: str) -> None:
    x = VIEWS[view]((np.arange(2 * 3 * 5 * 4, dtype=np.float32) / 7 - 3).reshape(2, 3, 5, 4))
    for rounding in ("nearest-even", "stochastic"):
        got = fp.quantize(put(x), "e4m3", rounding=rounding, seed=2)
        want = np.asarray(fp.quantize(np.ascontiguousarray(x), "e4m3", rounding=rounding, seed=2)).reshape(x.shape)
        assert tuple(got.shape) == x.shape
        same(get(got), want)
    codes = fp.encode(np.ascontiguousarray(x), "e4m3").reshape(x.shape)
    same(get(fp.encode(put(x), "e4m3", via="fp16")), fp.encode(x, "e4m3", via="fp16").reshape(x.shape))
    same(get(fp.decode(put(np.asarray(codes)), "e4m3")), np.asarray(fp.decode(codes, "e4m3")).reshape(x.shape))


@pytest.mark.parametrize("view", ["transposed", "steps", "backwards", "permuted"])
def test_an_output_of_any_layout(view: str) -> None:
    x = (np.arange(120, dtype=np.float32) / 7 - 3).reshape(2, 3, 5, 4)
    like = np.full(VIEWS[view](x).shape, 77, np.uint8)
    holder = np.full((2, 3, 5, 4), 77, np.uint8)
    out = put(VIEWS[view](holder))
    source = np.ascontiguousarray(VIEWS[view](x))
    for more in ({}, {"via": "fp16"}):
        assert fp.encode(put(source), "e4m3", out=out, **more) is out
        same(get(out), fp.encode(source, "e4m3", **more))
    # What lies between the elements is as it was.
    kept = out.memory.copy_to_host()
    assert (kept == 77).sum() >= kept.size - like.size


def test_in_place_and_overlapping() -> None:
    x = np.linspace(-9, 9, 64).astype(np.float32)
    there = put(x)
    assert fp.quantize(there, "e4m3", out=there) is there
    same(get(there), fp.quantize(x, "e4m3"))
    there = put(x)
    ahead = Interface(there.memory, x[1:], 4)
    behind = Interface(there.memory, x[:-1], 0)
    fp.quantize(behind, "e4m3", out=ahead)
    same(get(ahead), fp.quantize(x[:-1], "e4m3"))


def test_results_lie_where_the_input_does() -> None:
    from numba import cuda

    there = cuda.to_device(np.ones(5, np.float32))
    result = fp.encode(there, "e4m3")
    assert type(result) is type(there)
    assert result.dtype == np.uint8
    assert fp.encode(put(np.ones(0, np.float32)), "e4m3").shape == (0,)


# ---- what is refused -------------------------------------------------------------------------------------------------
def test_a_nan_for_a_format_without_one_is_refused_before_anything_is_written() -> None:
    x = np.ones((3, 50), np.float32)
    out = put(np.full((3, 50), 9, np.uint8))
    for place in ((2, 40), (1, 7)):
        x[place] = np.nan
        with pytest.raises(ValueError, match=rf"NaN at index \({place[0]}, {place[1]}\) cannot become float4_e2m1fn"):
            fp.encode(put(x), "e2m1", out=out)
        with pytest.raises(ValueError, match=rf"NaN at index \({place[1]}, {place[0]}\) cannot become"):
            fp.encode(put(x.T), "e2m1")
    assert (get(out) == 9).all()
    assert (get(fp.encode(put(x), "e2m1", nan="max")) == fp.encode(x, "e2m1", nan="max")).all()


def test_bad_input_is_told_what_to_do() -> None:
    x = put(np.ones(4, np.float32))
    with pytest.raises(TypeError, match="values of dtype int32 are not taken"):
        fp.encode(put(np.ones(4, np.int32)), "e4m3")
    with pytest.raises(TypeError, match="on a GPU codes of float8_e4m3fn are uint8, not int64"):
        fp.decode(put(np.ones(4, np.int64)), "e4m3")
    with pytest.raises(ValueError, match="float4_e2m1fn has codes 0 to 0xf; found 0x10"):
        fp.decode(put(np.array([1, 16, 3], np.uint8)), "e2m1")
    with pytest.raises(TypeError, match="format is needed"):
        fp.decode(put(np.ones(4, np.uint8)))
    with pytest.raises(TypeError, match="out must lie on the GPU as the input does, not be a ndarray on the host"):
        fp.encode(x, "e4m3", out=np.empty(4, np.uint8))
    with pytest.raises(TypeError, match="out must have dtype uint8, not float32"):
        fp.encode(x, "e4m3", out=x)
    with pytest.raises(ValueError, match=r"out must have shape \(4,\), not \(5,\)"):
        fp.encode(x, "e4m3", out=put(np.empty(5, np.uint8)))
    with pytest.raises(ValueError, match="out is read-only"):
        fp.encode(x, "e4m3", out=put(np.empty(4, np.uint8), read_only=True))
    with pytest.raises(ValueError, match="out has elements that share memory"):
        fp.encode(x, "e4m3", out=put(np.broadcast_to(np.empty(1, np.uint8), 4)))
    with pytest.raises(TypeError, match="out must be a NumPy array"):
        fp.encode(np.ones(4, np.float32), "e4m3", out=put(np.empty(4, np.uint8)))
    with pytest.raises(ValueError, match="out has elements that share memory"):
        overlapping = np.lib.stride_tricks.as_strided(np.empty(9, np.uint8), (2, 2), (1, 1))
        fp.encode(put(np.ones((2, 2), np.float32)), "e4m3", out=put(overlapping))
    with pytest.raises(TypeError, match="on a GPU only native byte order is taken, not >f4"):
        fp.encode(put(np.ones(4, ">f4")), "e4m3")
    there = put(np.ones(8, np.float32))
    for odd in (
        {"shape": (4,), "strides": (5,)},
        {"shape": (4,), "data": (there.__cuda_array_interface__["data"][0] + 1, False)},
    ):
        with pytest.raises(ValueError, match="elements that do not lie at multiples of their size are not taken"):
            moved = put(np.ones(8, np.float32))
            moved.__cuda_array_interface__ |= odd
            fp.encode(moved, "e4m3")
    with pytest.raises(TypeError, match="Interface has no memory on a GPU"):
        there.__cuda_array_interface__["data"] = (0, False)
        fp.encode(there, "e4m3")
    with pytest.raises(TypeError, match="masked arrays are not taken"):
        masked = put(np.ones(4, np.float32))
        masked.__cuda_array_interface__["mask"] = x
        fp.encode(masked, "e4m3")
    with pytest.raises(TypeError, match="codes on a GPU are not taken here: copy them to the host first"):
        fp.pack(put(np.ones(4, np.uint8)), "e2m1")


# ---- statistics ------------------------------------------------------------------------------------------------------
def tensors() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    size = 700 if KIND == "simulator" else 3_000_000
    x = (rng.standard_normal(size) * 10.0 ** rng.integers(-12, 6, size)).astype(np.float32)
    x[:9] = 0, -0.0, 1e-41, 2.0**-149, 2.0**-126, np.inf, np.nan, -np.inf, 448
    return {
        "float32": x,
        "finite": np.ascontiguousarray(x[np.isfinite(x)]),
        "float16": x.clip(-6e4, 6e4).astype(np.float16),
        "float64": x.astype(np.float64) * 1e-300,
        "two blocks": rng.standard_normal(17_000) * 1e-4 if KIND == "simulator" else x.astype(np.float64),
        "strided": x[: size // 6 * 6].reshape(6, -1).T[::2],
        "empty": x[:0],
    }


@pytest.mark.parametrize("name", tensors())
@pytest.mark.parametrize("scale", [1.0, 2.0**10, 3.0])
def test_tensor_stats_are_the_same_numbers(name: str, scale: float) -> None:
    if name == "two blocks" and KIND == "simulator" and scale != 1.0:
        pytest.skip("a minute in the simulator")
    x = tensors()[name]
    casts = [Cast("e4m3"), Cast("fp16"), Cast("e5m2", "stochastic", "saturate"), Cast("e8m0"), Cast("e2m1", nan="max")]
    if name == "two blocks" and KIND == "simulator":
        casts = casts[:1]
    there = fp.tensor_stats(put(x), casts, scale, seed=3, offset=7)
    here = fp.tensor_stats(x, casts, scale, seed=3, offset=7)
    for a, b in zip(there.rows(), here.rows(), strict=True):
        assert {k: repr(v) for k, v in a.items()} == {k: repr(v) for k, v in b.items()}
    mine, theirs = there.histogram, here.histogram
    for part in ("exponents", "counts", "powers"):
        np.testing.assert_array_equal(getattr(mine, part), getattr(theirs, part))
    np.testing.assert_allclose(mine.squares, theirs.squares, rtol=1e-12)
    assert (mine.zeros, mine.nonfinite, mine.amax) == (theirs.zeros, theirs.nonfinite, theirs.amax)


def test_statistics_of_codes_that_decode_by_a_table() -> None:
    torch = pytest.importorskip("torch")
    if KIND == "gpu" and torch.cuda.is_available():
        codes = torch.arange(256, dtype=torch.uint8, device="cuda").view(torch.float8_e4m3fn)
        here = fp.tensor_stats(fp.decode(np.arange(256, dtype=np.uint8), "e4m3"), ["e5m2"])
        assert fp.tensor_stats(codes, ["e5m2"])["e5m2"].new_zero == here["e5m2"].new_zero


# ---- owners ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def torch_on_device(monkeypatch: pytest.MonkeyPatch) -> Any:
    """torch, and the device its tensors are put on: in the simulator that is memory of the host, said to be a GPU's."""
    torch = pytest.importorskip("torch")
    if KIND == "gpu":
        if not torch.cuda.is_available():
            pytest.skip("torch has no GPU")
        return torch, "cuda"
    from fpemu.targets import dispatch

    monkeypatch.setattr(dispatch, "_lies_on_gpu", lambda x: dispatch.is_torch(x) or hasattr(x, "__cuda_ndarray__"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0))
    return torch, "cpu"


def test_torch_tensors(torch_on_device: Any) -> None:
    torch, device = torch_on_device
    x = np.linspace(-500, 500, 120).astype(np.float32).reshape(2, 3, 5, 4)
    tensor = torch.from_numpy(x).to(device)
    codes = fp.encode(tensor, "e4m3")
    assert codes.dtype == torch.uint8
    assert codes.device == tensor.device
    same(codes.cpu().numpy(), fp.encode(x, "e4m3"))
    same(fp.quantize(tensor, "bf16").cpu().numpy(), fp.quantize(x, "bf16"))
    wide = fp.encode(tensor, "fp16")
    assert wide.dtype == torch.uint16
    out = torch.empty_like(tensor)
    assert fp.quantize(tensor, "e4m3", out=out) is out
    same(out.cpu().numpy(), fp.quantize(x, "e4m3"))

    # Dtypes NumPy does not have bring their format; the layout is kept.
    narrow = tensor.to(torch.bfloat16)
    same(fp.encode(narrow, "e4m3").cpu().numpy(), fp.encode(narrow.float().cpu().numpy(), "e4m3"))
    fp8 = codes.view(torch.float8_e4m3fn)
    same(fp.decode(fp8).cpu().numpy(), fp.decode(fp.encode(x, "e4m3"), "e4m3"))
    same(fp.cast(fp8, target="e5m2").cpu().numpy(), fp.cast(fp.encode(x, "e4m3"), source="e4m3", target="e5m2"))
    last = tensor.to(memory_format=torch.channels_last)
    kept = fp.encode(last, "e4m3")
    assert kept.stride() == last.stride()
    same(kept.cpu().numpy(), fp.encode(x, "e4m3"))
    assert repr(fp.tensor_stats(tensor, ["e4m3"])) == repr(fp.tensor_stats(x, ["e4m3"]))


def test_torch_tensors_that_are_not_taken(torch_on_device: Any) -> None:
    torch, device = torch_on_device
    with pytest.raises(TypeError, match=r"requires grad is not taken: rounding has no gradient; pass x.detach\(\)"):
        fp.encode(torch.ones(3, device=device, requires_grad=True), "e4m3")
    with pytest.raises(TypeError, match="of layout torch"):
        fp.encode(torch.ones(3, device=device).to_sparse(), "e4m3")
    with pytest.raises(TypeError, match="values of dtype int64 are not taken"):
        fp.encode(torch.ones(3, device=device, dtype=torch.int64), "e4m3")
    with pytest.raises(ValueError, match="the array holds codes of float8_e5m2, not of float8_e4m3fn"):
        fp.decode(torch.ones(3, device=device).to(torch.float8_e5m2), "e4m3")


@pytest.mark.skipif(KIND != "gpu", reason="needs a GPU")
def test_cupy_arrays_and_streams() -> None:
    cupy = pytest.importorskip("cupy")
    x = np.linspace(-500, 500, 1 << 20).astype(np.float32)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        there = cupy.asarray(x) * cupy.float32(2)
        codes = fp.encode(there, "e4m3")  # queued behind the product, on the same stream
        assert isinstance(codes, cupy.ndarray)
        stream.synchronize()
        same(cupy.asnumpy(codes), fp.encode(2 * x, "e4m3"))


@pytest.mark.skipif(KIND != "gpu", reason="needs a GPU")
def test_a_torch_stream_is_respected() -> None:
    torch = pytest.importorskip("torch")
    x = torch.linspace(-500, 500, 1 << 24, device="cuda")
    want = fp.encode((3 * x).cpu().numpy(), "e4m3")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        codes = fp.encode(3 * x, "e4m3")
    stream.synchronize()
    same(codes.cpu().numpy(), want)


@pytest.mark.skipif(KIND != "gpu", reason="needs a GPU with 16 GiB")
def test_more_than_2_to_the_32_elements() -> None:
    torch = pytest.importorskip("torch")
    size = (1 << 32) + 1000
    if torch.cuda.mem_get_info()[0] < 3 * size:
        pytest.skip("too little memory")
    codes = torch.zeros(size, dtype=torch.uint8, device="cuda")
    codes[-1000:] = torch.arange(1000, device="cuda").to(torch.uint8)
    narrow = fp.cast(codes, source="e4m3", target="e5m2")
    same(narrow[-1000:].cpu().numpy(), fp.cast(codes[-1000:].cpu().numpy(), source="e4m3", target="e5m2"))
    random = fp.cast(codes, source="e4m3", target="e2m1", rounding="stochastic", nan="max", seed=1)
    tail = fp.cast(
        codes[-1000:].cpu().numpy(),
        source="e4m3",
        target="e2m1",
        rounding="stochastic",
        nan="max",
        seed=1,
        offset=1 << 32,
    )
    same(random[-1000:].cpu().numpy(), tail)
