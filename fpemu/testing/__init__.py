"""For those who test conversions of their own: is this function the conversion it says it is?

``check_conversion`` and ``check_stochastic`` hold a function against a policy, ``check_roundtrip`` a pair of functions
against a format; ``strategies`` are Hypothesis strategies for the inputs that go wrong.
"""

from fpemu.testing import strategies
from fpemu.testing.conversion import assert_conversion, check_conversion
from fpemu.testing.functions import NotAConversion
from fpemu.testing.regions import REGIONS, points
from fpemu.testing.report import Counterexample, Fault, Report
from fpemu.testing.roundtrip import check_roundtrip
from fpemu.testing.stochastic import StochasticReport, check_stochastic

__all__ = [
    "REGIONS",
    "Counterexample",
    "Fault",
    "NotAConversion",
    "Report",
    "StochasticReport",
    "assert_conversion",
    "check_conversion",
    "check_roundtrip",
    "check_stochastic",
    "points",
    "strategies",
]
