"""On a GPU, or in Numba's simulator: are matrix products those of the CPU, bit by bit, whatever the engine, the layout and the owner?

In the simulator the definition says what is right, which is quicker there than the loops of the CPU without a compiler.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from engine_inputs import CLASSES, cancelling, draw
from on_device import KIND, get, put

import fpemu as fp
from fpemu import ENGINES, Engine, matmul
from fpemu.engines import BlockSum, Scaling, as_engine, chain, definition, promoted
from fpemu.policies import Rounding

if KIND:
    from fpemu.targets.cuda_matmul import SIDE

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not KIND, reason="no GPU, and not in the simulator")]

Array = np.ndarray[Any, Any]
# How many of each class of codes, and K: panels and blocks with ragged ends.
TIMES, LENGTH = (1, 21) if KIND == "simulator" else (20, 1000)

MADE = {
    # Products that are no numbers of float32, more fraction bits than an int32 has room for, signed scales.
    "wide": Engine("wide", *(fp.FORMATS["float32"],) * 3, BlockSum(8, 25, -133, fp.FORMATS["float32"], Rounding.TOWARD_ZERO)),
    "long": Engine("long", *(fp.FORMATS["fp16"],) * 2, fp.FORMATS["fp32"], BlockSum(16, 30, -138, fp.FORMATS["fp32"], Rounding.TOWARD_ZERO)),
    "signed": replace(ENGINES["b200.tcgen05.e4m3.mxf8f6f4.fp32"], name="signed", scaling=Scaling(fp.FORMATS["e4m3"], 32)),
    "promoted": promoted(ENGINES["hopper.wgmma.e4m3.fp32"], 64),
    "promoted by one": promoted(ENGINES["ampere.mma.fp16.fp16"], 8),
    "reaching": chain(fp.FloatFormat.ieee(7, 8), inputs="fp16"),
    "short of others": chain("bf16", inputs=("e5m2", "bf16")),
}  # fmt: skip
BLOCKS = (
    "volta.mma.fp16.fp32", "ampere.mma.bf16.fp32", "hopper.mma.tf32.fp32", "ada.mma.e4m3xe5m2.fp16", "hopper.mma.e4m3.fp16",
    "b200.tcgen05.e4m3xe2m1.mxf8f6f4.fp32", "b200.tcgen05.e2m1.mxf4.fp32", "b200.tcgen05.e2m1.nvf4.fp32",
)  # fmt: skip
CHAINS = (
    "fp32", "fp16", "bf16", "hopper.mma.fp64.fp64", "sequential.fma.float8_e4m3fn.float32", "sequential.mul-add.float32.float32",
    "sequential.mul-add.float16.float16", "sequential.mul-add.bfloat16.bfloat16",
)  # fmt: skip


def engine_of(name: str) -> Engine:
    return MADE[name] if name in MADE else as_engine(name)


def wanted(engine: Engine, a: Array, b: Array, c: Array | None = None, **scales: Array) -> Array:
    """The right codes of products of codes."""
    if KIND == "gpu":
        return np.asarray(matmul(a, b, c, engine=engine, **scales))
    m, n = a.shape[-2], b.shape[-1]
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2], () if c is None else c.shape[:-2])
    a, b, *more = (np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (a, b, *scales.values()))
    start = np.broadcast_to(np.zeros((), engine.accumulator.code_dtype) if c is None else c, (*batch, m, n))
    result = np.zeros((*batch, m, n), engine.accumulator.code_dtype)
    for *index, i, j in np.ndindex(result.shape):
        at = tuple(index)
        along = {
            name: (x[at][i] if name[0] == "a" else x[at][:, j]).tolist() for name, x in zip(scales, more, strict=True)
        }
        row, column = a[at][i].tolist(), b[at][:, j].tolist()
        result[at][i, j] = definition.dot(row, column, int(start[at][i, j]), engine, **along)
    return result


def same(got: Any, right: Array) -> None:
    """Equal in every bit, and in dtype and shape."""
    found = get(got)
    assert (found.dtype, found.shape) == (right.dtype, right.shape)
    unsigned = f"u{right.dtype.itemsize}"
    np.testing.assert_array_equal(
        np.ascontiguousarray(found).view(unsigned), np.ascontiguousarray(right).view(unsigned)
    )


def generator(*facts: object) -> np.random.Generator:
    return np.random.default_rng(crc32(repr(facts).encode()))


def scales_of(engine: Engine, rng: np.random.Generator, batch: int, m: int, k: int, n: int) -> dict[str, Array]:
    """Codes of scales: near one, but some of the first of a batch anywhere."""
    if engine.scaling is None:
        return {}
    count, format = -(-k // engine.scaling.block), engine.scaling.format
    one = int(fp.encode(1.0, format))
    shapes = {"a_scales": (batch, m, count), "b_scales": (batch, count, n)}
    codes = {name: rng.integers(one - 6, one + 6, shape) for name, shape in shapes.items()}
    for x in codes.values():
        x[0] = np.where(rng.random(x[0].shape) < 0.2, rng.integers(0, 1 << format.bits, x[0].shape), x[0])
    return {name: x.astype(format.code_dtype) for name, x in codes.items()}


# ---- the same bits ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [*BLOCKS, *CHAINS, *MADE])
def test_all_classes_of_codes(name: str) -> None:
    """Each class of rows meets each of columns: specials, subnormals, the largest; and beside them products that cancel, none of them wide."""
    engine, rng = engine_of(name), generator(name)
    rows, columns = [*CLASSES] * TIMES, ["normal", "finite", "tiny", "huge"] * TIMES
    m, k, n = len(rows), LENGTH, len(columns)
    a = np.stack([np.stack([draw(kind, rng, engine.a, (k,)) for kind in rows])] * 2)
    b = np.stack([np.stack([draw(kind, rng, engine.b, (k,)) for kind in columns], axis=1)] * 2)
    a[1], b[1] = cancelling(rng, engine, m, n, k)
    c = np.stack([draw(kind, rng, engine.accumulator, (m, n)) for kind in ("raw", "zeros")])
    scales = scales_of(engine, rng, 2, m, k, n)
    same(
        matmul(put(a), put(b), put(c), engine=engine, **{x: put(y) for x, y in scales.items()}),
        wanted(engine, a, b, c, **scales),
    )


@pytest.mark.parametrize(
    "name", ["hopper.wgmma.e4m3.fp32", "hopper.mma.e4m3.fp32", "promoted", "b200.tcgen05.e2m1.nvf4.fp32", "bf16"]
)
@pytest.mark.parametrize("k", [0, 70])
def test_any_length(name: str, k: int) -> None:
    """Nothing at all (an accumulator stays, but a NaN becomes the engine's own), and a few panels and a little more."""
    engine, rng = engine_of(name), generator(name, k)
    a, b = draw("normal", rng, engine.a, (1, k)), draw("normal", rng, engine.b, (k, 5))
    c = draw("normal", rng, engine.accumulator, (1, 5))
    c[0, :3] = engine.accumulator.max_code + 3, engine.accumulator.sign_mask, 0
    blocks = {x: y[0] for x, y in scales_of(engine, rng, 1, 1, k, 5).items()}
    right = wanted(engine, a, b, c, **blocks) if k else matmul(a, b, c, engine=engine, **blocks)
    same(matmul(put(a), put(b), put(c), engine=engine, **{x: put(y) for x, y in blocks.items()}), right)


@pytest.mark.parametrize(
    ("name", "sign"), [("fp16", 0x8000), ("sequential.mul-add.bfloat16.bfloat16", 0x8000), ("ampere.mma.fp16.fp16", 0)]
)
def test_a_sum_of_negative_zeros(name: str, sign: int) -> None:
    """It keeps its sign in a chain, where nothing stands for products beyond the last; in a tensor core it has none."""
    engine = engine_of(name)
    negative, one = np.full((1, 2), 0x8000, np.uint16), np.array(fp.encode(np.ones((2, 1)), engine.b))
    got = get(matmul(put(negative), put(one), put(negative[:, :1]), engine=engine))
    assert got.item() == sign


# ---- shapes and layouts ----------------------------------------------------------------------------------------------
def test_several_tiles() -> None:
    engine, rng = ENGINES["hopper.mma.fp16.fp32"], generator("tiles")
    a, b = draw("normal", rng, engine.a, (SIDE + 1, 3)), draw("normal", rng, engine.b, (3, 2 * SIDE + 1))
    same(matmul(put(a), put(b), engine=engine), wanted(engine, a, b))


def test_layouts_and_leading_dimensions() -> None:
    """Transposed, reversed and stepped views, and dimensions of a stack in another order, repeated or missing."""
    engine, rng = ENGINES["ampere.mma.fp16.fp32"], generator("layouts")
    a = draw("normal", rng, engine.a, (2, 9, 2, 1)).transpose(0, 2, 3, 1)[:, ::-1]  # (2, 2, 1, 9)
    b = draw("normal", rng, engine.b, (2, 3, 18)).transpose(2, 0, 1)[::2].transpose(1, 0, 2)  # (2, 9, 3)
    c = draw("normal", rng, engine.accumulator, (1, 1, 3))[..., ::-1]
    same(matmul(put(a), put(b), put(c), engine=engine), wanted(engine, a, b, c))
    same(matmul(put(a[0, 0]), put(b), put(c), engine=engine), wanted(engine, a[0, 0], b, c))


def test_empty_results() -> None:
    got = matmul(put(np.ones((0, 4), np.float32)), put(np.ones((4, 3), np.float32)), engine="hopper.mma.fp16.fp32")
    assert tuple(got.shape) == (0, 3)


# ---- values, outputs, owners -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["hopper.wgmma.e4m3.fp16", "hopper.mma.tf32.fp32", "hopper.mma.fp64.fp64"])
def test_values_are_rounded_first(name: str) -> None:
    engine, rng = engine_of(name), generator("values", name)
    x, y = rng.standard_normal((2, 11)).astype(np.float32), rng.standard_normal((11, 3))
    if engine.a.bits == 64:
        a, b = x.astype(np.float64).view(np.uint64), y.view(np.uint64)
        same(matmul(put(x), put(y), engine=engine), wanted(engine, a, b).view(np.float64))
        return
    a, b = fp.encode(x, engine.a), fp.encode(y, engine.b)
    right = wanted(engine, a, b)
    same(matmul(put(x), put(y), engine=engine), fp.decode(right, engine.accumulator))
    same(matmul(put(a), put(y), engine=engine), right)


def test_an_output_of_any_layout_and_in_place() -> None:
    engine, rng = ENGINES["ampere.mma.fp16.fp16"], generator("out")
    a, b, c = (draw("normal", rng, engine.a, shape) for shape in ((2, 9), (9, 3), (2, 3)))
    right = wanted(engine, a, b, c)
    out = put(np.zeros((3, 4), np.uint16).T[::2])
    assert matmul(put(a), put(b), put(c), engine=engine, out=out) is out
    same(out, right)
    there = put(c)
    assert matmul(put(a), put(b), there, engine=engine, out=there) is there
    same(there, right)
    values = put(np.zeros((2, 3), np.float32))
    x, y = fp.decode(a, "fp16"), fp.decode(b, "fp16")
    assert matmul(put(x), put(y), put(c), engine=engine, out=values) is values
    same(values, fp.decode(right, "fp16"))


def test_results_lie_where_the_operands_do() -> None:
    from numba import cuda

    there = cuda.to_device(np.ones((2, 2), np.float32))
    result = matmul(there, there, engine="hopper.mma.fp16.fp32")
    assert type(result) is type(there)
    same(result, np.full((2, 2), 2, np.float32))


def test_torch_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    device = "cuda"
    if KIND == "gpu":
        if not torch.cuda.is_available():
            pytest.skip("torch has no GPU")
    else:
        from types import SimpleNamespace

        from fpemu.targets import dispatch

        device = "cpu"
        monkeypatch.setattr(dispatch, "_lies_on_gpu", lambda x: dispatch.is_torch(x) or hasattr(x, "__cuda_ndarray__"))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0))
    rng = generator("torch")
    a, b = rng.standard_normal((2, 20)).astype(np.float32), rng.standard_normal((20, 3)).astype(np.float32)
    x, y = (torch.from_numpy(one).to(device) for one in (a, b))
    got = matmul(x, y, engine="hopper.wgmma.e4m3.fp32")
    assert (got.dtype, got.device) == (torch.float32, x.device)
    codes = wanted(ENGINES["hopper.wgmma.e4m3.fp32"], fp.encode(a, "e4m3"), fp.encode(b, "e4m3"))
    assert (got.cpu().numpy() == fp.decode(codes, "fp32")).all()
    narrow = matmul(x.to(torch.float8_e4m3fn), y.to(torch.float8_e4m3fn), engine="hopper.wgmma.e4m3.fp32")
    assert torch.equal(narrow, got)


# ---- what is refused -------------------------------------------------------------------------------------------------
def test_bad_input_is_told_what_to_do() -> None:
    x = np.ones((4, 4), np.float32)
    there = put(x)
    with pytest.raises(TypeError, match="b lies on the host, but another operand on a GPU: copy one of them"):
        matmul(there, x, engine="hopper.mma.fp16.fp32")
    for engine in ("blas", chain("bf16", rounding="stochastic"), chain("fp16", order="pairwise")):
        with pytest.raises(TypeError, match="does not run on a GPU: copy the operands to the host first"):
            matmul(there, there, engine=engine)
    with pytest.raises(ValueError, match=r"a \(4, 4\) and b \(3, 4\) differ in K"):
        matmul(there, put(x[:3]), engine="hopper.mma.fp16.fp32")
    with pytest.raises(TypeError, match="b: on a GPU codes of float16 are uint16, not int64"):
        matmul(there, put(np.ones((4, 4), np.int64)), engine="hopper.mma.fp16.fp32")
    with pytest.raises(ValueError, match="float4_e2m1fn has codes 0 to 0xf; found 0x10"):
        matmul(put(np.full((4, 4), 16, np.uint8)), there, engine="b200.tcgen05.e2m1.fp32")
    with pytest.raises(TypeError, match="takes no block scales"):
        matmul(there, there, a_scales=there, engine="hopper.mma.fp16.fp32")
    with pytest.raises(TypeError, match="needs a_scales and b_scales"):
        matmul(there, there, engine="b200.tcgen05.e2m1.nvf4.fp32")
    with pytest.raises(TypeError, match="out must lie on the GPU as the input does"):
        matmul(there, there, engine="hopper.mma.fp16.fp32", out=x)
    with pytest.raises(TypeError, match="out must have dtype float32, not uint32"):
        matmul(there, there, engine="hopper.mma.fp16.fp32", out=put(x.view(np.uint32)))
    with pytest.raises(ValueError, match=r"out must have shape \(4, 4\), not \(2, 4\)"):
        matmul(there, there, engine="hopper.mma.fp16.fp32", out=put(x[:2]))
    with pytest.raises(TypeError, match="out must be a NumPy array"):
        matmul(x, x, engine="hopper.mma.fp16.fp32", out=there)
