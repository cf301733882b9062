"""Every public function that takes an array, each as a call of one argument: of values, or of codes of E2M1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fpemu as fp
from fpemu import scaling

Verb = Callable[[Any], Any]


def _scaled(make: Callable[[Any], scaling.Scaled]) -> Verb:
    def verb(x: Any) -> Any:
        made = make(x)
        return made.codes, made.scales

    return verb


VALUE_VERBS: dict[str, Verb] = {
    "encode": lambda x: fp.encode(x, "e4m3"),
    "quantize": lambda x: fp.quantize(x, "e4m3"),
    "add": lambda x: fp.add(x, x, "fp16"),
    "fma": lambda x: fp.fma(x, 1.0, 1.0, "fp16"),
    "sqrt": lambda x: fp.sqrt(x, "fp16"),
    "compare": lambda x: fp.compare(x, 1.0, "fp16"),
    "sum": lambda x: fp.sum(x, "fp16"),
    "dot": lambda x: fp.dot(x, x, "fp16"),
    "matmul": lambda x: fp.matmul(x, x, engine="bf16"),
    "matmul, float64": lambda x: fp.matmul(x, x, engine="b200.mma.fp64.fp64"),
    "explain_dot": lambda x: fp.explain_dot(x[0], x[0], engine="hopper.wgmma.bf16.fp32").record,
    "tensor_stats": lambda x: fp.tensor_stats(x, ["fp16", "e4m3"]).rows(),
    "exponent_histogram": lambda x: fp.exponent_histogram(x).counts,
    "mx": _scaled(lambda x: scaling.mx(x, "e4m3")),
    "nvfp4": _scaled(lambda x: scaling.nvfp4(x)),
    "tiles": _scaled(lambda x: scaling.tiles(x, "e4m3")),
    "per_tensor": _scaled(lambda x: scaling.per_tensor(x, "e4m3")),
    "hadamard": lambda x: scaling.hadamard(x, 4),
    "DelayedScaling": lambda x: scaling.DelayedScaling("e4m3").quantize(x).codes,
}
CODE_VERBS: dict[str, Verb] = {
    "decode": lambda x: fp.decode(x, "e2m1"),
    "cast": lambda x: fp.cast(x, source="e2m1", target="e4m3"),
    "add": lambda x: fp.add(x, x, "e2m1"),
    "sum": lambda x: fp.sum(x, "e2m1"),
    "matmul": lambda x: fp.matmul(x, x, engine="b200.tcgen05.e2m1.fp32"),
    "pack": lambda x: fp.pack(x, "e2m1"),
    "unpack": lambda x: fp.unpack(x, "e2m1"),
    "as_ml_dtype": lambda x: fp.as_ml_dtype(x, "e2m1").view(np.uint8),
}
# Those that come in by the same door as one above.
MORE_VALUE_VERBS: dict[str, Verb] = {
    "subtract": lambda x: fp.subtract(x, x, "fp16"),
    "multiply": lambda x: fp.multiply(x, x, "fp16"),
    "divide": lambda x: fp.divide(x, x, "fp16"),
    "negate": lambda x: fp.negate(x, "fp16"),
    "absolute": lambda x: fp.absolute(x, "fp16"),
    "abs": lambda x: fp.abs(x, "fp16"),
    "minimum": lambda x: fp.minimum(x, x, "fp16"),
    "maximum": lambda x: fp.maximum(x, x, "fp16"),
    "minimum_number": lambda x: fp.minimum_number(x, x, "fp16"),
    "maximum_number": lambda x: fp.maximum_number(x, x, "fp16"),
    "fma of arrays": lambda x: fp.fma(x, x, x, "fp16"),
    "sum from": lambda x: fp.sum(x, "fp16", initial=x[0]),
    "errors": lambda x: fp.errors(x, x),
    "errors of a list": lambda x: fp.errors([x, x], np.ones((2, 4, 4))),
    "Scaled.errors": lambda x: scaling.mx(np.ones((4, 4), np.float32), "e4m3").errors(x),
    "Cast.encode": lambda x: fp.Cast("bf16").encode(x),
    "Cast.quantize": lambda x: fp.Cast("bf16").quantize(x),
    "Stack.cast": lambda x: fp.STACKS["torch>=2.13"].cast("e4m3").encode(x),
    "matmul, c": lambda x: fp.matmul(np.ones((4, 4)), np.ones((4, 4)), x, engine="bf16"),
    "simulate": lambda x: scaling.simulate("torch", x[0]).scale,
    "tournament": lambda x: scaling.tournament(["torch"], x[0]),
    "hadamard of 1": lambda x: scaling.hadamard(x, 1),
    "a list": lambda x: fp.quantize([x, x], "e4m3"),
}
