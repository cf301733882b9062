"""fpemu: low-precision floating point, bit by bit.

Importing it loads no plotting library, touches no GPU and compiles nothing.
"""

from fpemu.arrays import as_ml_dtype, cast, decode, encode, quantize
from fpemu.engines import ENGINES, Engine, matmul
from fpemu.formats import FORMATS, FloatFormat
from fpemu.histogram import Band, ExponentHistogram, intersect_bands
from fpemu.io import load, save
from fpemu.packing import pack, unpack
from fpemu.policies import Cast, NaN, Overflow, Rounding, Stochastic, Subnormals
from fpemu.stacks import STACKS, Stack
from fpemu.stats import CastLoss, TensorStats, exponent_histogram, tensor_stats
from fpemu.targets.threads import get_threads, set_threads

__version__ = "0.1.0"

__all__ = [
    "ENGINES",
    "FORMATS",
    "STACKS",
    "Band",
    "Cast",
    "CastLoss",
    "Engine",
    "ExponentHistogram",
    "FloatFormat",
    "NaN",
    "Overflow",
    "Rounding",
    "Stack",
    "Stochastic",
    "Subnormals",
    "TensorStats",
    "as_ml_dtype",
    "cast",
    "decode",
    "encode",
    "exponent_histogram",
    "get_threads",
    "intersect_bands",
    "load",
    "matmul",
    "pack",
    "quantize",
    "save",
    "set_threads",
    "tensor_stats",
    "unpack",
]
