"""TARGETS: what each group of works, and each latency, must reach; whether it did is computed from the results."""

from __future__ import annotations

from dataclasses import dataclass

SHARE, TIMES, RATE, SECONDS = "share", "times", "rate", "seconds"


@dataclass(frozen=True)
class Target:
    """One number to reach: at least, or for seconds at most."""

    measure: str  #: share of the roofline, times as fast as a peer, elements a second, or seconds
    bound: float
    peer: str = ""  #: of TIMES
    unit: str = "elem"  #: of RATE

    def met(self, value: float) -> bool:
        """Whether a measured value reaches it."""
        return value <= self.bound if self.measure == SECONDS else value >= self.bound

    def __str__(self) -> str:
        if self.measure == SHARE:
            return f"≥ {self.bound:.2f} of a copy"
        if self.measure == TIMES:
            return f"faster than {self.peer}" if self.bound == 1 else f"≥ {self.bound:g} × {self.peer}"
        if self.measure == RATE:
            return f"≥ {self.bound / 1e9:g} G{self.unit}/s"
        return f"≤ {self.bound * 1e6:g} µs" if self.bound < 1e-3 else f"≤ {self.bound:g} s"


_TO_16 = (Target(SHARE, 0.7), Target(TIMES, 1, "torch"))
_TO_8 = (*_TO_16, Target(TIMES, 30, "ml_dtypes"))

TARGETS: dict[str, tuple[Target, ...]] = {
    "encode to 16 bits": _TO_16,
    "encode to 8 bits": _TO_8,
    "quantize to 16 bits": _TO_16,
    "quantize to 8 bits": _TO_8,
    "decode": (Target(SHARE, 0.85),),
    "other formats": (Target(SHARE, 0.4),),
    "other roundings": (Target(SHARE, 0.4),),
    "stochastic rounding": (Target(SHARE, 0.5),),
    "float64 input": (Target(SHARE, 0.4),),
    "MX blocks": (Target(SHARE, 0.5),),
    "tensor_stats": (Target(RATE, 0.25e9),),
    "matmul on tensor cores": (Target(RATE, 4e9, unit="MAC"),),
    "matmul in 16 bits": (Target(RATE, 8e9, unit="MAC"),),
    "quantize 1,024 elements": (Target(SECONDS, 5e-6),),
    "import": (Target(SECONDS, 0.35),),
    "first call": (Target(SECONDS, 1.0),),
}
