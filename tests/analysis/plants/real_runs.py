"""Tables of real runs (e38), just inside and outside what its verdict asks for."""

from __future__ import annotations

import pandas as pd

from tests.analysis.lab import Tables
from tests.analysis.plants.common import CONDITIONS, FAILS, HOLDS, NO_CLAIM, Cases, down, up

ROW = "hysteresis of overflows in a row"


def real(
    runs: int = 4, unexplained: int = 0, contradicted: int = 0, ratio: float = 0.75, least: float = 1.0, rest: int = 10 * 200, capped: bool = False,
    skips: int = 12, first: float = 32.0, megatron: str = "megatron", row: int = 7,
) -> Tables:  # fmt: skip
    """Two runs of GradScaler, of which the second has ``ratio`` times the skips at balance, and one of Megatron, of which a last one is left out where
    there are no ``runs``: unexplained events of the second, contradicted prints, steps after its warm-up, what explains the docstring."""
    balance = 1 / 200  # W + H = 200
    names = ("torch", "torch", "megatron" if megatron else "torch", "apex")
    rows = [
        {"run": f"r{k}", "policy": policy, "interval": 199, "hysteresis": 1, "capped": k == 1 and capped, "first": (16.0, 16.0, first, 16.0)[k],
         "steps": 1000 + k, "skips": skips + k, "warm_skips": (3, 9, 17, 5)[k], "rest": (2000, rest, 1999, 2500)[k], "events": 20 + k,
         "explained": 20 + k - (unexplained if k == 1 else 0), "prints": 50, "contradicted": contradicted if k == 2 else 0, "low": 3.0 + k,
         "high": 14.0 + k, "share": balance * (least, ratio, 0.01, 1.0)[k], "balance": balance}
        for k, policy in enumerate(names)
    ]  # fmt: skip
    near = [
        {"run": "r0", "policy": "torch", "variant": "interval - 1", "events": 20, "explained": 9},
        {"run": "r1", "policy": "torch", "variant": "interval - 1", "events": 21, "explained": 21},
        {"run": "r2", "policy": names[2], "variant": ROW, "events": 7, "explained": row},
    ]
    columns = ["run", "policy", "variant", "events", "explained"]
    return {
        "runs": pd.DataFrame(rows[:runs], columns=list(rows[0])),
        "near": pd.DataFrame(near[:runs], columns=columns),
    }


CASES: Cases = {
    "e38": (real, [
        ({}, HOLDS), ({"unexplained": 1}, FAILS), ({"contradicted": 1}, FAILS), ({"ratio": 0.5}, HOLDS), ({"ratio": down(0.5)}, CONDITIONS),
        ({"ratio": 1.25}, HOLDS), ({"ratio": up(1.25)}, CONDITIONS), ({"ratio": up(1.25), "rest": 1999}, HOLDS),
        ({"ratio": 0.1, "capped": True}, HOLDS), ({"least": 0.1}, CONDITIONS), ({"least": 0.1, "skips": 0}, HOLDS),
        ({"unexplained": 1, "ratio": 9.0}, FAILS), ({"runs": 0}, NO_CLAIM),
    ]),
}  # fmt: skip
