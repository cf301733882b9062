"""A conversion of one element, of at most three stages."""

from fpemu.kernels.decode import decode
from fpemu.kernels.encode import encode
from fpemu.kernels.jit import kernel


@kernel
def convert(x, word, source, to, back, plan):
    """Decode a code by ``source``, encode the value by ``to``, decode that code by ``back``; a spec of None: do not.

    Values are the bits of a lane; ``word``: 32 random bits.
    """
    if source is not None:
        x = decode(x, source, plan.source_sign)
    if to is not None:
        x = encode(x, word, to, plan)
    if back is not None:
        x = decode(x, back, plan.source_sign)
    return x
