"""``fpemu.errors`` once more, in exact rationals and by its words alone."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

import fpemu as fp

ULP = {
    "float16": (-14, 10),
    "float32": (-126, 23),
    "float64": (-1022, 52),
    "bfloat16": (-126, 7),
}  # emin, trailing bits


def row(reference: Any, x: Any, format: str | None = None) -> dict[str, Any]:
    """Every figure as an exact Fraction, the SQNR as the ratio of energies, cosine and z as signed squares; None for NaN.

    ``sizes``: what the signed figures would be if the terms of their sums had one sign, in the same form.
    """
    r, q = (np.asarray(side) for side in (reference, x))
    name = format or r.dtype.name
    pairs = [(float(a), float(b)) for a, b in zip(r.ravel(), q.ravel(), strict=True)]
    usual = [(a, b) for a, b in pairs if math.isfinite(a)]
    found: dict[str, Any] = {
        "elements": len(pairs),
        "compared": len(usual),
        "reference_nan": sum(math.isnan(a) for a, _ in pairs),
        "reference_infinite": sum(math.isinf(a) for a, _ in pairs),
        "specials_lost": sum(not math.isfinite(a) and repr(a) != repr(b) for a, b in pairs),
        "nan": sum(math.isnan(b) for _, b in usual),
        "infinite": sum(math.isinf(b) for _, b in usual),
    }
    if found["nan"] or found["infinite"]:
        spoilt = {"sqnr_db": -math.inf, "relative_rms": math.inf, "largest_ulp": math.inf}
        return found | spoilt | dict.fromkeys(("bias", "bias_z", "cosine", "gain", "sizes"))
    exact = [(Fraction(a), Fraction(b)) for a, b in usual]
    signal, result = sum(a * a for a, _ in exact), sum(b * b for _, b in exact)
    product, noise = sum(a * b for a, b in exact), sum((b - a) ** 2 for a, b in exact)
    n, total = len(exact), sum(b - a for a, b in exact)
    mean = Fraction(total, n) if n else None
    spread = sum((b - a - mean) ** 2 for a, b in exact) if mean is not None else 0
    found["sqnr_db"] = (signal / noise if noise else math.inf) if signal else None
    found["relative_rms"] = Fraction(noise) / signal if signal else None
    found["bias"] = mean
    found["bias_z"] = None
    if n > 1 and noise:
        assert mean is not None
        found["bias_z"] = math.copysign(math.inf, mean) if not spread else mean * abs(mean) * n * (n - 1) / spread
    found["cosine"] = product * abs(product) / (signal * result) if signal and result else None
    found["gain"] = product / signal if signal else None
    size = sum(abs(a * b) for a, b in exact)
    off = Fraction(sum(abs(b - a) for a, b in exact), n or 1)
    found["sizes"] = {
        "bias": off,
        "bias_z": off * off * n * (n - 1) / spread if spread else Fraction(0),
        "cosine": size * size / (signal * result) if signal and result else Fraction(0),
        "gain": size / signal if signal else Fraction(0),
    }
    found["largest_ulp"] = max((abs(b - a) / unit(a, name) for a, b in exact), default=None)
    return found


def unit(r: Fraction, name: str) -> Fraction:
    """One in the last place of r."""
    format = fp.FORMATS[name] if name not in ULP else None
    emin, trailing = ULP[name] if format is None else (format.emin, format.trailing_bits)
    exponent = emin
    while abs(r) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    return Fraction(2) ** (exponent - trailing)
