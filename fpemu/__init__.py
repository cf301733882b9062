"""fpemu: low-precision floating point, bit by bit.

Importing it loads no plotting library, touches no GPU and compiles nothing.
"""

from fpemu.arrays import as_ml_dtype, cast, decode, encode, quantize
from fpemu.formats import FORMATS, FloatFormat
from fpemu.policies import Cast, NaN, Overflow, Rounding, Stochastic, Subnormals

__version__ = "0.1.0"

__all__ = [
    "FORMATS",
    "Cast",
    "FloatFormat",
    "NaN",
    "Overflow",
    "Rounding",
    "Stochastic",
    "Subnormals",
    "as_ml_dtype",
    "cast",
    "decode",
    "encode",
    "quantize",
]
