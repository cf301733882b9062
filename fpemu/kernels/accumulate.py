"""One more term of a sum: an exact number added to the code of an accumulator, rounded once."""

from fpemu.kernels.add import add
from fpemu.kernels.jit import kernel
from fpemu.kernels.open_code import open_code
from fpemu.kernels.operate import with_sign
from fpemu.kernels.round_exact import round_exact


@kernel
def accumulate(code, term, word, accumulator, to, plan):
    """``(code, kind)`` of the accumulator ``code`` plus a term: the new code, and the kind of the exact sum."""
    total = add(term, open_code(code, accumulator, plan.source_sign), plan)
    return round_exact(total, word, to, plan), total.kind


@kernel
def compensate(code, lost, term, words, accumulator, to, plan):
    """``(code, lost, kind)``: a step of Kahan's sum, whose ``lost`` is what the sum has too much; four roundings.

    ``kind``: the largest of the four exact results'.
    """
    last = plan.source_sign
    total = open_code(code, accumulator, last)
    y = add(term, opposite(open_code(lost, accumulator, last)), plan)
    y_code = round_exact(y, words[0], to, plan)
    new_code, new_kind = accumulate(y_code, total, words[1], accumulator, to, plan)
    moved = add(open_code(new_code, accumulator, last), opposite(total), plan)
    moved_code = round_exact(moved, words[2], to, plan)
    rest = add(open_code(moved_code, accumulator, last), opposite(open_code(y_code, accumulator, last)), plan)
    kind = max(max(y.kind, new_kind), max(moved.kind, rest.kind))
    return new_code, round_exact(rest, words[3], to, plan), kind


@kernel
def opposite(x):
    """-x."""
    return with_sign(x, type(x.negative)(x.negative ^ type(x.negative)(1)))
