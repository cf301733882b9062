"""Matrix engines: a catalogue of real chips as data, one model of their arithmetic, and ``matmul`` over arrays."""

from fpemu.engines.catalogue import ENGINES, as_engine
from fpemu.engines.explain import DotExplanation, explain_dot
from fpemu.engines.matmul import matmul
from fpemu.engines.model import BlockSum, Chain, Engine, Library, Scaling, chain, promoted

__all__ = [
    "ENGINES",
    "BlockSum",
    "Chain",
    "DotExplanation",
    "Engine",
    "Library",
    "Scaling",
    "as_engine",
    "chain",
    "explain_dot",
    "matmul",
    "promoted",
]
