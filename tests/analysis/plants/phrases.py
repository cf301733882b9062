"""What a summary or a finding must say of planted tables: an experiment, what is planted, and the phrase."""

from __future__ import annotations

from math import inf, nan, sqrt
from typing import Any

from tests.analysis.plants import scaling, sums
from tests.analysis.plants.common import down, up
from tests.analysis.plants.ladders import HIDES, MORE, SHOWS

PHRASES: list[tuple[str, dict[str, Any], str]] = [
    ("e01", {"served": up(1e-3)}, "2^15 to 2^15"),
    ("e01", {"overflowed": True}, "2^15 to 2^15"),
    ("e01", {"plain": (1.0, 1.0)}, "its direction is not damaged at any step"),
    ("e01", {"plain": (0.999, 1.0)}, "damaged (cosine at most 0.999) at step 100 only"),
    ("e01", {"plain": (nan, 0.5)}, "step 100: none (a layer is all zero or not finite)"),
    ("e01", {}, "none serves every captured step in float8_e5m2."),
    ("e01", {"e5m2": 0.0}, "each format has one that serves every captured step"),
    ("e01", {"logits": 0.77}, "by 100"),
    ("e01", {"logits": down(0.77)}, "after 100, by 1,000"),
    ("e01", {"logits": 0.6}, "after 1,000"),
    ("e01", {"zeroed": (0.0, 40.0)}, "step 100: none lost"),
    ("e05", {}, ", as predicted from its spacing"),
    ("e05", {"predicted": 8192.0}, "not as predicted"),
    ("e05", {"last": up(0.1)}, "they stall too"),
    ("e08", {}, "the published 2 % lie between"),
    ("e08", {"positive": 0.02}, "do not lie between"),
    ("e09", {"fp16": (*sums.FP16_GROUPS[:2], sums.FP16_GROUPS[2][:2], sums.FP16_GROUPS[2][2:])}, "H100 and B200 in up to 0.0 % up to"),
    ("e12", {"first": (5.0, 5.0)}, "detector: 2^5 to 2^5"),
    ("e12", {"first": (5.0, 4.0)}, "detector: none (2^5 is needed, 2^4 overflows)"),
    ("e12", {"first": (5.0, 4.0), "second": (9.0, 7.0)}, "none: 2^9 needed, 2^7 at most"),
    ("e12", {"first": (5.0, 5.0)}, "2^-20 to 2^40 2^5 to 2^5"),
    ("e13", {"detector_fp16": inf}, "diverged in 1 of 3"),
    ("e14", {"lost_above": 1e-9}, "An update was lost above the line, or survived below it."),
    ("e15", {"fp16": HIDES, "bf16": HIDES}, "To nearest no format lose measurably, more than a change of seed does none;"),
    ("e15", {"MLP_fp16_Kahan": SHOWS}, "The remedies do not bring everything back."),
    ("e18", {"better": 20.0}, "for not every tensor"),
    ("e19", {"after": 0.01}, "Then it is not over."),
    ("e21", {"at": (scaling.E4M3, "floor"), "by": 9.0}, "FLOOR is best in E4M3 (39.63 dB)"),
    ("e21", {"at": (scaling.E2M1, "ceil"), "by": 9.0}, "CEIL in E2M1 (25.81 dB)"),
    ("e22", {"collapsed": 0.25}, "No block collapses."),
    ("e24", {}, "Nothing diverges; beyond a change of seed: nothing."),
    ("e24", {"head": inf}, "Something diverges; beyond a change of seed: head in NVFP4 too."),
    ("e24", {"bf16_mxfp4": MORE}, "Nothing diverges; beyond a change of seed: MXFP4, head in BF16."),
    ("e25", {"above": 16.5}, "to nearest nothing:"),
    ("e26", {}, "The line is crossed by some layers."),
    ("e26", {"least": sqrt(3)}, "The line is not reached"),
    ("e27", {}, "epsilon 1e-4 keeps every weight finite"),
    ("e27", {"saved": nan}, "epsilon 1e-4 does not save every weight"),
    ("e28", {"logmax": 1.0}, "logmax skips least (1)"),
    ("e30", {}, "begins at layers that lose 45.0 %: the counts overlap"),
    ("e30", {"damaged": 0.55}, "begins at layers that lose 55.0 %: the counts do not overlap"),
    ("e30", {"damaged": up(0.5)}, "the counts overlap"),
    ("e30", {"damaged": 0.55, "turned": 1e-3}, "begins at layers that lose 50.0 %: the counts do not overlap"),
    ("e30", {"harm": 5e-6}, "and no step is damaged. Rank"),
    ("e30", {"harm": 5e-6}, "60.0 %; none"),
    ("e30", {"harm": 5e-6}, "2.0e-03; none"),
    ("e31", {}, "saves all of them but 90.0 %, MXFP4"),
    ("e31", {"row_wise": 0.0}, "saves all of them, MXFP4"),
    ("e35", {}, "beyond it: none"),
    ("e35", {"fp16_static": MORE, "nvfp4": MORE}, "beyond it: fp16-static, nvfp4."),
    ("e37", {}, "Recorded: GPUs."),
    ("e37", {"gpus": (True, False)}, "Recorded: GPUs and CPUs."),
    ("e37", {"gpus": (False, False)}, "Recorded: PyTorch's CPU autocast; no GPU has been recorded."),
]  # fmt: skip
