from typing import Any

from analysis.gpu.inputs import Coverage
from analysis.gpu.part import Part

PARTS: dict[str, Part] = {}
INPUT_FACTS: dict[str, Any] = {}
QUICK = Coverage(((0, 16),))
