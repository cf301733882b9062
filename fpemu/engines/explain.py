"""``explain_dot``: a dot product of an engine, told in full.

What it tells is made in ``explain_record`` (data) and ``explain_text``; importing this loads neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fpemu.engines.catalogue import as_engine
from fpemu.engines.matmul import _codes, _scales
from fpemu.engines.model import Engine, promoted
from fpemu.targets.environment import in_default_environment


@in_default_environment
@dataclass(frozen=True)
class DotExplanation:
    """What ``explain_dot`` found.

    Attributes
    ----------
    engine: that did it, promotion included.
    code: of the result, in the accumulator's format.
    record: all of it as plain data: operands, steps with their terms, result, exact result, error.
    """

    engine: Engine
    code: int
    record: dict[str, Any]

    def text(self, block: int | None = None) -> str:
        """All of it for a person, in 100 columns (float64: more); of many blocks the list, or one of them (from 1).

        ValueError for a block that there is not.
        """
        from fpemu.engines.explain_text import text

        return text(self.record, block)

    def __str__(self) -> str:
        return self.text()


@in_default_environment
def explain_dot(
    a: ArrayLike,
    b: ArrayLike,
    c: ArrayLike | None = None,
    *,
    engine: Engine | str,
    promote_every: int | None = None,
    a_scales: ArrayLike | None = None,
    b_scales: ArrayLike | None = None,
) -> DotExplanation:
    """How an engine computes ``c + sum(a * b)``: every alignment, every bit that is cut off, every rounding.

    Parameters
    ----------
    a, b: (K,): codes (unsigned integers) or values of the engine's formats, as in ``fpemu.matmul``.
    c: one code or value of the accumulator's format; default +0.
    engine: a tensor core, or an accumulator in sequential order: a name from ENGINES, or an Engine.
    promote_every: as in ``fpemu.matmul``.
    a_scales, b_scales: (ceil(K / block),): codes or values of block scales, for engines that have them.

    ``print`` the result to read it; its ``record`` is the same as data.

    Raises TypeError and ValueError as ``fpemu.matmul`` does, and ValueError for other engines.
    """
    to = as_engine(engine)
    if not _is_told(to):
        raise ValueError(
            f"{to.name}: only tensor cores, and accumulators in sequential order without chance, are told of"
        )
    if promote_every is not None:
        to = promoted(to, promote_every)
    left, right = (_line(name, _codes(name, x, f)) for name, x, f in (("a", a, to.a), ("b", b, to.b)))
    if len(left) != len(right):
        raise ValueError(f"a and b must be equally long, not {len(left)} and {len(right)}")
    if not left:
        raise ValueError("a and b are empty: a dot product needs at least one product")
    begin = _codes("c", 0.0 if c is None else c, to.accumulator)
    if begin.size != 1:
        raise ValueError(f"c must be one value, not shape {begin.shape}")
    scales = _scales(to, a_scales, b_scales)
    lines = [_line(name, x) for name, x in zip(("a_scales", "b_scales"), scales or (), strict=False)]
    if to.scaling is not None:
        count = -(-len(left) // to.scaling.block)
        for name, line in zip(("a_scales", "b_scales"), lines, strict=True):
            if len(line) != count:
                raise ValueError(f"{name}: {len(left)} products have {count} of them, not {len(line)}")
    from fpemu.engines.explain_record import record

    return DotExplanation(to, *record(to, left, right, int(begin.reshape(())), lines))


def _is_told(engine: Engine) -> bool:
    from fpemu.engines.definition import is_told

    return is_told(engine)


def _line(name: str, codes: np.ndarray[Any, Any]) -> list[int]:
    if codes.ndim != 1:
        raise ValueError(f"{name} must have one dimension, not shape {codes.shape}")
    return [int(code) for code in codes]
