"""``PEERS``: the libraries that convert on this machine, each with the row of ``STACKS`` that it states.

A peer is a row: its package, its stack, the versions the row is for, and how to call it.  Nothing is imported before
a peer is asked for a conversion.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu.stacks import ALL, STACKS, Stack

Array = NDArray[Any]
Convert = Callable[[Array], Any]  # inputs as NumPy or ml_dtypes arrays; codes or values


@dataclass(frozen=True)
class Peer:
    """An implementation of a stack.

    Attributes
    ----------
    stack: the name of its row in STACKS. package: what pip calls it.
    convert: makes the function from inputs to codes or values; called with ``source=`` and ``target=``.
    sources, skips: sources that it is tried from, and targets of the stack that it is not tried on (or has not).
    since, until: the releases it is for, [since, until).
    takes: what the function is called with, as for ``check_conversion``.
    """

    stack: str
    package: str
    convert: Callable[..., Convert]
    sources: tuple[str, ...] = ALL
    skips: tuple[str, ...] = ()
    since: tuple[int, ...] = (0,)
    until: tuple[int, ...] = (10**6,)
    takes: str = "ml_dtypes"

    @property
    def name(self) -> str:
        """The stack, and the package where that is called otherwise."""
        return self.stack if self.stack.startswith(self.package) else f"{self.stack} ({self.package})"

    @cached_property
    def version(self) -> str | None:
        """The installed version; None where it is not installed."""
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return None

    @property
    def is_installed(self) -> bool:
        """Whether a release that the row is for is installed."""
        if self.version is None:
            return False
        release = tuple(int(part) for part in re.findall(r"\d+", self.version.split("+")[0])[:2])
        return self.since <= release < self.until

    def cases(self) -> list[tuple[str, str]]:
        """The pairs (source, target) that it is tried on."""
        return [(of, to) for of, to in self.of_stack() if of in self.sources and to not in self.skips]

    def of_stack(self) -> Stack:
        """Its row of STACKS."""
        return STACKS[self.stack]


# ---- how each is called ---------------------------------------------------------------------------------------------
def _dtype(name: str) -> np.dtype[Any]:
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name, name))


def _codes(array: Array) -> Array:
    return array.view(f"u{array.itemsize}")


def _astype(source: str, target: str) -> Convert:
    to = np.dtype(target) if target in ("float16", "float32") else _dtype(target)
    return lambda x: _codes(x.astype(to))


def _torch(source: str, target: str) -> Convert:
    import torch

    unsigned = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32}

    def convert(x: Array) -> Array:
        bits = torch.from_numpy(np.ascontiguousarray(_codes(x))).view(getattr(torch, source))
        narrow = bits.to(getattr(torch, target))
        return np.asarray(narrow.view(unsigned[narrow.element_size()]).numpy())

    return convert


def _jax(source: str, target: str) -> Convert:
    import jax

    to = _dtype(target)

    def convert(x: Array) -> Array:
        with jax.enable_x64(True):
            return _codes(np.asarray(jax.numpy.asarray(x).astype(to)))

    return convert


_IR = {21: 10, 28: 14}  # of the operator sets asked for, the version of the file format that has their types


def _onnx_model(source: str, target: str, opset: int, saturate: int, round_mode: str) -> tuple[Any, int]:
    """Cast to the target and, so that the result is a plain array, on to float32, which is exact; and the source's number."""
    from onnx import TensorProto, helper

    types = {"float16": "FLOAT16", "bfloat16": "BFLOAT16", "float32": "FLOAT", "float64": "DOUBLE",
             "float8_e4m3fn": "FLOAT8E4M3FN", "float8_e5m2": "FLOAT8E5M2", "float8_e4m3fnuz": "FLOAT8E4M3FNUZ",
             "float8_e5m2fnuz": "FLOAT8E5M2FNUZ", "float8_e8m0fnu": "FLOAT8E8M0", "float6_e2m3fn": "FLOAT6E2M3",
             "float6_e3m2fn": "FLOAT6E3M2", "float4_e2m1fn": "FLOAT4E2M1"}  # fmt: skip
    of, to = (getattr(TensorProto, types[name]) for name in (source, target))
    modes = {"round_mode": round_mode} if target == "float8_e8m0fnu" else {}
    nodes = [
        helper.make_node("Cast", ["x"], ["y"], to=to, saturate=saturate, **modes),
        helper.make_node("Cast", ["y"], ["z"], to=TensorProto.FLOAT),
    ]
    ends = [helper.make_tensor_value_info(name, type, [None]) for name, type in (("x", of), ("z", TensorProto.FLOAT))]
    graph = helper.make_graph(nodes, "cast", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=_IR[opset]), of


def _onnx(saturate: int, opset: int, round_mode: str = "up", *, source: str, target: str) -> Convert:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(_onnx_model(source, target, opset, saturate, round_mode)[0])
    return lambda x: evaluator.run(None, {"x": x})[0]


def _onnxruntime(saturate: int, opset: int, round_mode: str = "up", *, source: str, target: str) -> Convert:
    import onnxruntime as ort

    model, of = _onnx_model(source, target, opset, saturate, round_mode)
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # both casts are wanted
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def convert(x: Array) -> Array:
        plain = np.ascontiguousarray(_codes(x) if source == "bfloat16" else x)
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy_with_onnx_type(plain, of))
        binding.bind_output("z")
        session.run_with_iobinding(binding)
        return np.asarray(binding.get_outputs()[0].numpy())

    return convert


def _gfloat(saturate: bool, source: str, target: str) -> Convert:
    import gfloat
    from gfloat import formats

    names = {"float16": "binary16", "bfloat16": "bfloat16", "float8_e4m3fn": "ocp_e4m3", "float8_e5m2": "ocp_e5m2",
             "float6_e2m3fn": "ocp_e2m3", "float6_e3m2fn": "ocp_e3m2", "float4_e2m1fn": "ocp_e2m1"}  # fmt: skip
    info = getattr(formats, f"format_info_{names[target]}")
    return lambda x: gfloat.round_ndarray(info, x.astype(np.float64), gfloat.RoundMode.TiesToEven, sat=saturate)


def _apytypes(source: str, target: str) -> Convert:
    import apytypes

    from fpemu.formats import FORMATS

    format = FORMATS[target]

    def convert(x: Array) -> Array:
        values = x.astype(np.float64)
        made = apytypes.APyFloatArray.from_float(values, format.exponent_bits, format.trailing_bits)
        return np.asarray(made.to_numpy())

    return convert


def _qtorch(source: str, target: str) -> Convert:
    import torch
    from qtorch.quant import float_quantize  # compiles its kernels: a C++ compiler and ninja are needed

    from fpemu.formats import FORMATS

    format = FORMATS[target]
    quantize = partial(float_quantize, exp=format.exponent_bits, man=format.trailing_bits, rounding="nearest")
    return lambda x: quantize(torch.from_numpy(np.array(x))).numpy()


def _faultchop(source: str, target: str) -> Convert:
    import pychop

    chop = pychop.FaultChop({"float8_e4m3fn": "q43", "float8_e5m2": "q52"}[target], subnormal=1)
    return lambda x: np.asarray(chop(x))


_HALVES, _FP4, _FP6 = ("float16", "bfloat16"), ("float4_e2m1fn",), ("float6_e2m3fn", "float6_e3m2fn")
_OF_LATER_OPSETS = ("float8_e8m0fnu", *_FP4, *_FP6)


def _onnx_peers(
    package: str, convert: Callable[..., Convert], since: tuple[int, ...], skips: tuple[str, ...]
) -> list[Peer]:
    """``since``: the release that has all types; the types that earlier ones may lack are not tried there."""
    peers = [
        Peer("onnx-saturate<=23", package, partial(convert, 1, 21), skips=_OF_LATER_OPSETS),
        Peer("onnx-saturate", package, partial(convert, 1, 28), skips=skips, since=since),
        Peer("onnx-nosat", package, partial(convert, 0, 28), skips=(*_HALVES, *skips), since=since),
        Peer("onnx-nosat", package, partial(convert, 0, 21), skips=(*_HALVES, *_OF_LATER_OPSETS), until=since),
    ]
    for mode in ("down", "nearest"):
        peers.append(Peer(f"onnx-saturate-{mode}", package, partial(convert, 1, 28, mode), since=since))
        peers.append(Peer(f"onnx-nosat-{mode}", package, partial(convert, 0, 28, mode), since=since))
    return peers


PEERS: tuple[Peer, ...] = (
    Peer("numpy", "numpy", _astype),
    Peer("ml_dtypes", "ml_dtypes", _astype),
    Peer("torch>=2.13", "torch", _torch, since=(2, 13)),
    Peer("torch<=2.12", "torch", _torch, until=(2, 13)),
    Peer("xla", "jax", _jax),
    *_onnx_peers("onnx", _onnx, (1, 23), ()),
    *_onnx_peers("onnxruntime", _onnxruntime, (1, 32), (*_FP4, *_FP6)),
    Peer("gfloat", "gfloat", partial(_gfloat, False)),
    Peer("gfloat-saturate", "gfloat", partial(_gfloat, True), skips=("float16", "bfloat16")),
    Peer("apytypes", "apytypes", _apytypes),
    Peer("qpytorch", "qtorch", _qtorch),
    Peer("chop", "pychop", _faultchop, skips=("float16", "bfloat16")),
)
