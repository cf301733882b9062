"""For those who test conversions of their own: Hypothesis strategies for formats, codes and the inputs that go wrong."""

from fpemu.testing import strategies
from fpemu.testing.regions import REGIONS, points

__all__ = ["REGIONS", "points", "strategies"]
