"""A backward pass in low precision, emulated: every tensor that the pass reads or writes is rounded to the format.

What is emulated, precisely (the usual mixed-precision contract of matrix engines):
- the forward pass, the loss and the logit gradient are float32, so that only the backward pass differs;
- operands: weights and layer inputs are rounded once, to the same format, unscaled;
- results: the scaled logit gradient, every weight, bias and activation gradient are rounded as they are produced;
- products are accumulated in float32 by the machine's BLAS: results repeat on one machine, but not across machines;
- the ReLU's gates are the float32 forward pass's own bits;
- the loss scale multiplies the logit gradient and the gradients are divided by it in float32: exact, for it is a power
  of two (but for values outside float32's normal range, which only BF16 could hold).
"""

import numpy as np

import fpemu as fp
from analysis.training import mlp


class Emulation:
    """One forward pass prepared for backward passes in `cast` (a format name or fp.Cast) at any loss scale."""

    def __init__(self, parameters: mlp.Parameters, trace: mlp.Trace, cast: "str | fp.Cast") -> None:
        self.cast = cast
        self.parameters = mlp.Parameters([self.rounded(w) for w in parameters.weights], parameters.biases)
        self.trace = mlp.Trace([self.rounded(a) for a in trace.inputs], trace.gates, trace.logits)

    def rounded(self, x: mlp.Array) -> mlp.Array:
        """x, float32, with every element rounded to the format."""
        return fp.quantize(x, self.cast)

    def backward(self, logit_gradient: mlp.Array, log2_scale: int) -> mlp.Gradients:
        """The gradients after unscaling, float32; infinities and NaNs of an overflow are kept."""
        scale, unscale = np.float32(2.0**log2_scale), np.float32(2.0**-log2_scale)
        # An overflowing pass computes with infinities on purpose.
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = mlp.backward(self.parameters, self.trace, logit_gradient * scale, self.rounded)
        return mlp.Gradients(
            [g * unscale for g in scaled.activations],
            [g * unscale for g in scaled.weights],
            [g * unscale for g in scaled.biases],
            scaled.images * unscale,
        )
