"""Are PyTorch's tensors on the host taken wherever arrays are: the same results, no copy, no lock, no gradient?

(``tox -e torch``; without torch only what must hold without it.)
"""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from verbs import CODE_VERBS, MORE_VALUE_VERBS, VALUE_VERBS

import fpemu as fp
from fpemu.formats import as_format
from fpemu.tensors import tensor_array

FLOATS = (
    "float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
    "float8_e8m0fnu", "float4_e2m1fn_x2",
)  # fmt: skip
INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
X = np.random.default_rng(3).uniform(0.5, 4, (4, 4))
CODES = np.random.default_rng(4).integers(0, 16, (4, 4)).astype(np.uint8)
ALL_VALUES = VALUE_VERBS | MORE_VALUE_VERBS
NO_ARRAYS = {  # of fpemu.__all__: records, catalogues, what takes other things
    "ENGINES", "FORMATS", "STACKS", "Band", "ByZero", "Cast", "CastLoss", "Engine", "Errors", "ExponentHistogram", "FloatFormat",
    "NaN", "Order", "Overflow", "PackOrder", "Relation", "Rounding", "Stack", "Stochastic", "Subnormals", "TensorStats", "get_threads",
    "intersect_bands", "load", "set_threads",
}  # fmt: skip


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed: tox -e torch")


def bits(array: np.ndarray) -> np.ndarray:
    return array.view(f"u{array.dtype.itemsize}")


def pair(torch: Any, name: str) -> tuple[Any, np.ndarray]:
    """A tensor of a dtype, and the array of NumPy or ml_dtypes with the same elements."""
    if name in INTEGERS:
        return torch.from_numpy(CODES.astype(np.int64)).clone().to(getattr(torch, name)), CODES.astype(name)
    numpy = np.dtype(getattr(ml_dtypes, name.removesuffix("_x2"), name))
    array = X.astype(numpy)
    if name.endswith("_x2"):
        halves = bits(array)
        return torch.from_numpy(halves[:, ::2] | halves[:, 1::2] << 4).clone().view(getattr(torch, name)), array
    signed = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[numpy.itemsize]
    return torch.from_numpy(bits(array).view(str(signed)[6:])).clone().view(getattr(torch, name)), array


def outcome(verb: Any, x: Any) -> Any:
    """What a verb gives, or the error that it raises."""
    try:
        return verb(x)
    except (TypeError, ValueError) as error:
        return type(error), str(error)


def arrays_in(result: Any) -> Iterator[np.ndarray]:
    if isinstance(result, np.ndarray):
        yield result
    elif isinstance(result, (tuple, list)):
        for one in result:
            yield from arrays_in(one)


def assert_apart(result: Any, tensor: Any) -> None:
    """What a verb gives is plain arrays, none of them in the tensor's memory, which may be freed."""
    first, nbytes = tensor.data_ptr(), tensor.untyped_storage().nbytes()
    for array in arrays_in(result):
        assert type(array) is np.ndarray
        assert not first <= array.__array_interface__["data"][0] < first + nbytes


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("verb", ALL_VALUES)
def test_every_verb_takes_every_floating_dtype(torch: Any, verb: str, name: str) -> None:
    tensor, array = pair(torch, name)
    call = ALL_VALUES[verb]
    expected = outcome(call, array)
    kinds = {"plain": tensor, "parameter": torch.nn.Parameter(tensor, requires_grad=not name.startswith("float4"))}
    if not name.endswith("_x2"):
        kinds["transposed"] = tensor.t().contiguous().t()
    for kind, one in kinds.items():
        found = outcome(call, one)
        np.testing.assert_equal(found, expected, err_msg=kind)
        assert_apart(found, tensor)
    assert tensor.untyped_storage().resizable()


@pytest.mark.parametrize("name", [*INTEGERS, "float4_e2m1fn_x2"])
@pytest.mark.parametrize("verb", CODE_VERBS)
def test_every_verb_takes_codes_of_every_integer(torch: Any, verb: str, name: str) -> None:
    tensor, array = pair(torch, name)
    call = CODE_VERBS[verb]
    found, expected = outcome(call, tensor), outcome(call, array)
    if verb == "unpack" and name == "float4_e2m1fn_x2":
        expected = bits(array)  # it holds packed codes
    np.testing.assert_equal(found, expected)
    assert_apart(found, tensor)
    assert tensor.untyped_storage().resizable()


@pytest.mark.parametrize("name", FLOATS[3:])
def test_dtypes_that_are_codes_bring_their_format(torch: Any, name: str, tmp_path: Path) -> None:
    tensor, array = pair(torch, name)
    format = name.removesuffix("_x2")
    np.testing.assert_equal(fp.decode(tensor), array.astype(np.float32))
    np.testing.assert_equal(fp.cast(tensor, target="e5m2"), fp.cast(array, target="e5m2"))
    fp.save(tmp_path / "codes", tensor)
    codes, saved = fp.load(tmp_path / "codes")
    assert saved == fp.FORMATS[format] and np.array_equal(codes, bits(array))
    with pytest.raises(ValueError, match=f"the array holds codes of {format}, not of float6"):
        fp.decode(tensor, "e2m3")
    assert np.array_equal(fp.as_ml_dtype(tensor, format), array)


def test_no_verb_is_left_out() -> None:
    called = {verb.split(",")[0].split(" ")[0] for verb in (*ALL_VALUES, *CODE_VERBS)} | {"save"}
    assert set(fp.__all__) - NO_ARRAYS - called == set()
    takes = {"DelayedScaling", "hadamard", "mx", "nvfp4", "per_tensor", "simulate", "tiles", "tournament"}
    assert takes <= called
    functions = {name for name in fp.scaling.__all__ if isinstance(getattr(fp.scaling, name), types.FunctionType)}
    assert functions - {"loss_scaler"} <= called


# ---- memory ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", FLOATS[:-1])
def test_memory_is_shared_whatever_the_strides(torch: Any, name: str) -> None:
    tensor = pair(torch, name)[0]
    views = {
        "plain": tensor,
        "transposed": tensor.t(),
        "rows": tensor[1::2, 1:],
        "one": tensor[2, 3],
        "expanded": tensor[:1].expand(3, 4),
        "empty": tensor[:0],
    }
    for kind, view in views.items():
        array = tensor_array(view)
        assert array.shape == tuple(view.shape), kind
        if array.size:
            size = tensor.element_size()
            assert array.__array_interface__["data"] == (view.data_ptr(), True), kind
            assert array.strides == tuple(size * n for n in view.stride())
        np.testing.assert_equal(
            fp.quantize(view, "fp32", dtype=np.float64),
            fp.quantize(view.contiguous(), "fp32", dtype=np.float64),
            err_msg=kind,
        )
    assert tensor.untyped_storage().resizable()
    tensor.untyped_storage().resize_(0)  # as sharded training frees what it does not need
    with pytest.raises(TypeError, match="storage holds 0 bytes: it was freed"):
        fp.quantize(tensor, "e4m3")


def test_what_is_shared_is_read_only_and_lives_as_long_as_its_array(torch: Any) -> None:
    array = tensor_array(torch.arange(1000.0))
    assert not array.flags.writeable
    assert array.sum() == 499500


def test_a_gradient_is_left_behind_and_the_graph_untouched(torch: Any) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = x * 3
    assert fp.quantize(y, "e4m3").tolist() == [3.0, 6.0]
    y.sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]


def test_negative_views_are_resolved(torch: Any) -> None:
    negative = torch.tensor([1 + 2j, 3 - 4j]).conj().imag
    assert negative.is_neg()
    assert fp.quantize(negative, "e4m3").tolist() == [-2.0, 4.0]


def test_pairs_of_fp4_lie_along_the_last_axis(torch: Any) -> None:
    packed = torch.tensor([[0x21, 0x43, 0x65], [0x87, 0xA9, 0xCB]], dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    array = tensor_array(packed)
    assert bits(array).tolist() == [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]]
    assert bits(tensor_array(packed[1:])).tolist() == [[7, 8, 9, 10, 11, 12]]
    assert fp.pack(packed).tolist() == packed.view(torch.uint8).tolist()
    for turned in (packed.t(), packed[:, ::2], packed[0, 0]):
        with pytest.raises(TypeError, match="holds pairs along its last axis"):
            fp.decode(turned)


# ---- what is refused ------------------------------------------------------------------------------------------------
def refused(torch: Any) -> dict[str, tuple[Any, str]]:
    class Marked(torch.Tensor):
        pass

    ones = torch.ones(3)
    return {
        "meta": (torch.empty(3, device="meta"), "a meta tensor has no elements"),
        "coo": (ones.to_sparse(), r"layout torch.sparse_coo is not taken: pass x.to_dense\(\)"),
        "csr": (torch.eye(3).to_sparse_csr(), "layout torch.sparse_csr is not taken"),
        "quantized": (torch.quantize_per_tensor(ones, 0.1, 0, torch.qint8), r"quantized .* x.dequantize\(\)"),
        "nested": (torch.nested.nested_tensor([ones, ones]), "nested tensor|_NestedTensor"),
        "jagged": (torch.nested.nested_tensor([ones, ones], layout=torch.jagged), "NestedTensor is not taken"),
        "subclass": (ones.as_subclass(Marked), "of the class .*Marked is not taken"),
        "complex": (torch.ones(3, dtype=torch.complex64), "complex64"),
        "half complex": (torch.ones(3, dtype=torch.complex32), "torch.complex32 are not taken"),
        "conjugate": (torch.ones(3, dtype=torch.complex64).conj(), "complex64"),
        "bool": (torch.ones(3, dtype=torch.bool), "bool"),
        "small integers": (torch.ones(3, dtype=torch.uint8).view(torch.uint4), "torch.uint4 are not taken"),
        "zero": (torch._efficientzerotensor(3), "freed, or never filled"),
        "a list": ([torch.empty(3, device="meta")], "a meta tensor has no elements"),
        "mixed list": ([ones, torch.ones(3, dtype=torch.bfloat16)], "dtype object"),
    }


KINDS = ("meta", "coo", "csr", "quantized", "nested", "jagged", "subclass", "complex", "half complex", "conjugate", "bool",
         "small integers", "zero", "a list", "mixed list")  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_other_tensors_are_refused_in_one_line(torch: Any, kind: str) -> None:
    tensor, message = refused(torch)[kind]
    for call in (lambda x: fp.quantize(x, "e4m3"), lambda x: fp.add(x, x, "e4m3"), lambda x: fp.decode(x, "e4m3"),
                 lambda x: fp.tensor_stats(x, "e4m3"), lambda x: fp.scaling.mx(x, "e4m3"), lambda x: fp.pack(x, "e2m1"),
                 lambda x: fp.matmul(x, x, engine="bf16")):  # fmt: skip
        with pytest.raises(TypeError) as caught:
            call(tensor)
        assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match=message):
        fp.encode(tensor, "e4m3")


def test_inside_transforms_and_fake_modes(torch: Any) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    def inner(x: Any) -> Any:
        with pytest.raises(TypeError, match="inside a transform"):
            fp.quantize(x, "e4m3")
        return x.sum()

    torch.func.vmap(inner)(torch.ones(3, 2))
    torch.func.grad(inner)(torch.ones(3))
    real = torch.ones(3)
    with FakeTensorMode():
        with pytest.raises(TypeError, match="FakeTensor is not taken"):
            fp.quantize(torch.ones(3), "e4m3")
        assert fp.quantize(real, "e4m3").tolist() == [1.0, 1.0, 1.0]


def test_an_output_that_is_a_tensor_is_refused(torch: Any) -> None:
    with pytest.raises(TypeError, match="out must be a NumPy array, not Tensor"):
        fp.quantize(torch.ones(3), "e4m3", out=torch.ones(3))


# ---- dtypes as formats ----------------------------------------------------------------------------------------------
def test_torch_dtypes_are_formats(torch: Any) -> None:
    for name in FLOATS:
        dtype = getattr(torch, name)
        if name == "float64":
            with pytest.raises(ValueError, match="unknown format 'float64'"):
                as_format(dtype)
            continue
        format = fp.FORMATS[name.removesuffix("_x2")]
        assert as_format(dtype) is format and as_format(str(dtype)) is format
    with pytest.raises(ValueError, match="unknown format 'int8'"):
        fp.encode(X, torch.int8)
    assert np.array_equal(fp.encode(X, torch.bfloat16), fp.encode(X, "bf16"))
    assert np.array_equal(
        fp.cast(CODES, source=torch.float8_e5m2, target=torch.float16), fp.cast(CODES, source="e5m2", target="fp16")
    )
    assert fp.tensor_stats(X, torch.float8_e4m3fn).rows() == fp.tensor_stats(X, "e4m3").rows()
    assert fp.add(X, X, torch.float16, source=torch.bfloat16).dtype == np.float64


ML_NAMES = [name for name in fp.FORMATS if hasattr(ml_dtypes, name)]


@pytest.mark.parametrize("name", ["float16", "float32", *ML_NAMES])
def test_dtypes_of_numpy_are_formats(name: str) -> None:
    scalar = getattr(ml_dtypes, name, None) or getattr(np, name)
    for given in (scalar, np.dtype(scalar), f"numpy.{name}", f"np.{name}", f"ml_dtypes.{name}"):
        assert as_format(given) is fp.FORMATS[name]
    assert fp.Cast(scalar).format is fp.FORMATS[name]


def test_what_names_no_format() -> None:
    for given in (np.float64, np.int8, np.dtype("U3"), "torch.int8", "numpy.bf16x", "torch"):
        with pytest.raises(ValueError, match="unknown format"):
            as_format(given)
    for given in (float, int, 16, None, np, np.zeros(3), [np.float16]):
        with pytest.raises(TypeError, match="a format is a name, a FloatFormat or a dtype"):
            as_format(given)  # type: ignore[arg-type]


def test_dtypes_where_functions_take_one_or_several() -> None:
    x = X.astype(np.float32)
    several = fp.tensor_stats(x, [np.float16, "e4m3", ml_dtypes.bfloat16])
    assert [row["format"] for row in several.rows()] == ["float16", "float8_e4m3fn", "bfloat16"]
    assert fp.tensor_stats(x, np.float16).rows() == fp.tensor_stats(x, "fp16").rows()
    one = fp.add(CODES, CODES, "bf16", source=np.dtype("float16"))
    assert np.array_equal(one, fp.add(CODES, CODES, "bf16", source=("fp16", np.float16)))
    assert fp.STACKS["torch>=2.13"].cast("e4m3", source=np.float64).via == fp.Cast("fp32")
    assert fp.encode(1.5, "e4m3", via=np.float16) == fp.encode(1.5, "e4m3")


# ---- without torch --------------------------------------------------------------------------------------------------
def test_nothing_imports_torch() -> None:
    """Where torch is installed too: all public modules, and a call of each kind, leave it where it is."""
    script = """
import pkgutil, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch": raise AssertionError("torch was imported")
sys.meta_path.insert(0, Refuse())
import numpy as np, fpemu as fp
for module in pkgutil.walk_packages(fp.__path__, "fpemu."):
    if ".cuda" not in module.name and ".device" not in module.name and not module.name.endswith("__main__"):
        __import__(module.name)
fp.formats.as_format(np.float16), fp.formats.as_format("torch.bfloat16")
fp.arrays.as_plain([1.0, [2.0]][:1], "values"), fp.arrays.bits_of(np.ones(2))
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_stand_in_for_torch_is_not_asked_for_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that is being imported has no Tensor yet; one that could not be imported is None."""
    for module in (types.ModuleType("torch"), None):
        monkeypatch.setitem(sys.modules, "torch", module)
        assert fp.quantize([1.0, 2.0], "e4m3").tolist() == [1.0, 2.0]
