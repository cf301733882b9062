"""fpemu: low-precision floating point, bit by bit.

Importing it loads no plotting library, touches no GPU and compiles nothing.
"""

from importlib import import_module as _import_module
from types import ModuleType as _ModuleType

from fpemu.arithmetic import (
    Relation,
    abs,
    absolute,
    add,
    compare,
    divide,
    fma,
    maximum,
    maximum_number,
    minimum,
    minimum_number,
    multiply,
    negate,
    sqrt,
    subtract,
)
from fpemu.arrays import as_ml_dtype, cast, decode, encode, quantize
from fpemu.engines import ENGINES, Engine, explain_dot, matmul
from fpemu.formats import FORMATS, FloatFormat
from fpemu.histogram import Band, ExponentHistogram, intersect_bands
from fpemu.io import load, save
from fpemu.orders import Order
from fpemu.packing import PackOrder, pack, unpack
from fpemu.policies import ByZero, Cast, NaN, Overflow, Rounding, Stochastic, Subnormals
from fpemu.stacks import STACKS, Stack
from fpemu.stats import CastLoss, Errors, TensorStats, errors, exponent_histogram, tensor_stats
from fpemu.sums import dot, sum
from fpemu.targets.threads import get_threads, set_threads

__version__ = "0.1.0"


def __getattr__(name: str) -> _ModuleType:
    """``fpemu.scaling``, imported when it is first asked for."""
    if name == "scaling":
        return _import_module("fpemu.scaling")
    raise AttributeError(f"module 'fpemu' has no attribute {name!r}")


__all__ = [
    "ENGINES",
    "FORMATS",
    "STACKS",
    "Band",
    "ByZero",
    "Cast",
    "CastLoss",
    "Engine",
    "Errors",
    "ExponentHistogram",
    "FloatFormat",
    "NaN",
    "Order",
    "Overflow",
    "PackOrder",
    "Relation",
    "Rounding",
    "Stack",
    "Stochastic",
    "Subnormals",
    "TensorStats",
    "abs",
    "absolute",
    "add",
    "as_ml_dtype",
    "cast",
    "compare",
    "decode",
    "divide",
    "dot",
    "encode",
    "errors",
    "explain_dot",
    "exponent_histogram",
    "fma",
    "get_threads",
    "intersect_bands",
    "load",
    "matmul",
    "maximum",
    "maximum_number",
    "minimum",
    "minimum_number",
    "multiply",
    "negate",
    "pack",
    "quantize",
    "save",
    "set_threads",
    "sqrt",
    "subtract",
    "sum",
    "tensor_stats",
    "unpack",
]
