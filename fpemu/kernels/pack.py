"""Step 4: a rounded magnitude code takes its sign, or the code of what does not fit."""

from fpemu.kernels.jit import kernel


@kernel
def pack(negative, magnitude, code, spec, plan):
    """The code of a rounded magnitude ``code`` (unbounded above); ``magnitude`` are the source's bits."""
    U = type(magnitude)
    minus = negative != U(0)
    code = U(0) if code < spec.output_floor else code
    if plan.mirrored:
        # Whatever is too large becomes one code, the next or the largest finite value's own; NaN perhaps another.
        code = U(min(code, spec.over_positive))
        code = spec.nan_positive if magnitude > spec.source_infinity else code
        return U(code | (spec.sign if minus else U(0)))

    under = code < spec.lowest
    if plan.zeroless:
        # Without zero and subnormals the codes begin one binade later.
        code = U(max(code, spec.lowest) - spec.lowest)

    sign = spec.sign if minus and code >= spec.signed_from else U(0)
    over = code > (spec.max_negative if minus else spec.max_positive)
    result = U(code | sign)
    if over:
        result = spec.over_negative if minus else spec.over_positive

    if plan.zeroless:
        if under:
            result = spec.under
        if minus:
            result = spec.over_negative
        if magnitude == U(0):
            result = spec.zero

    if magnitude >= spec.source_infinity:
        result = spec.infinity_negative if minus else spec.infinity_positive
    if magnitude > spec.source_infinity:
        result = spec.nan_negative if minus else spec.nan_positive
    return result
