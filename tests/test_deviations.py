"""What installed libraries were seen to do against what their rows of STACKS state, pinned by version, fault and count.

Sources of 16 bits, whose inputs are all tried, so that a count depends on the library alone.
"""

from __future__ import annotations

import pytest

from fpemu.testing.conformance import NEITHER, examine, told
from fpemu.testing.peers import PEERS

UP, INFINITY, THRESHOLD = "rounds up", "wrong result of infinity", "wrong overflow threshold"
NAN, NEGATIVE = "wrong result of NaN", "wrong result of negative numbers"
SEEN = [  # stack, package, version, source, target, inputs that differ, of what kind most are
    ("ml_dtypes", "ml_dtypes", "0.6.0", "bfloat16", "float8_e8m0fnu", 31, UP),
    ("xla", "jax", "0.10.2", "bfloat16", "float8_e8m0fnu", 31, UP),
    *(
        ("onnx-saturate<=23", package, version, source, target, 2, INFINITY)
        for package, version in (("onnx", "1.23.2"), ("onnxruntime", "1.32.0"))
        for source in ("float16", "bfloat16")
        for target in ("float8_e4m3fnuz", "float8_e5m2fnuz")
    ),
    ("onnx-saturate", "onnx", "1.23.2", "float16", "float4_e2m1fn", 2046, NAN),
    ("onnx-nosat", "onnx", "1.23.2", "bfloat16", "float4_e2m1fn", 254, NAN),
    # Of negative numbers, which are unspecified; beside them infinities, zeros and what is below 2^-126.
    *(
        (stack, "onnx", "1.23.2", "bfloat16", "float8_e8m0fnu", count, NEGATIVE)
        for stack, count in (
            ("onnx-saturate", 32705),
            ("onnx-saturate-down", 32514),
            ("onnx-saturate-nearest", 32608),
            ("onnx-nosat", 32578),
            ("onnx-nosat-down", 32831),
            ("onnx-nosat-nearest", 32734),
        )
    ),
    ("onnx-nosat", "onnxruntime", "1.32.0", "float16", "float8_e4m3fn", 128, THRESHOLD),
    ("onnx-nosat", "onnxruntime", "1.32.0", "bfloat16", "float8_e4m3fn", 16, THRESHOLD),
    ("onnx-nosat", "onnxruntime", "1.32.0", "float16", "float8_e5m2", 256, "wrong overflow result"),
    ("onnx-nosat", "onnxruntime", "1.32.0", "bfloat16", "float8_e5m2", 32, THRESHOLD),
]


@pytest.mark.parametrize(("stack", "package", "version", "source", "target", "count", "fault"), SEEN)
def test_deviations_are_as_seen(
    stack: str, package: str, version: str, source: str, target: str, count: int, fault: str
) -> None:
    peers = [one for one in PEERS if (one.stack, one.package) == (stack, package) and one.is_installed]
    if not peers:
        pytest.skip(f"{package} is not installed, or of another release")
    peer = peers[0]
    outcome = examine(peer, source=source, target=target)
    report = outcome.against_policy
    assert report is not None, told(outcome)
    if peer.version != version and (report.failing, report.fault) != (count, fault):
        pytest.xfail(f"seen with {package} {version}: {count} inputs, {fault}; now {told(outcome)}")
    assert (outcome.verdict, report.failing, report.fault) == (NEITHER, count, fault), told(outcome)
