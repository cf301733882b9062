"""What fpemu says a part's outputs are, on the CPU."""

from __future__ import annotations

import numpy as np

import fpemu
from analysis.gpu.hashing import is_nan
from analysis.gpu.inputs import Codes
from analysis.gpu.parts import TF32_SHIFT, Part, Prediction

BLOCK_CHUNKS = 64  # chunks replayed at a time: 2**22 inputs, whose codes stay in the cache of a core or two


def predicted(part: Part, prediction: Prediction, inputs: Codes) -> Codes:
    """The codes, in the holder's ``code_dtype``, that a part should make of bit patterns of its source."""
    codes = fpemu.cast(inputs, prediction.cast, part.source)
    if part.holder != part.target:
        codes = codes.astype(part.holder.code_dtype) << part.holder.code_dtype.type(TF32_SHIFT)
    if prediction.nan_rule is not None:
        nans = np.flatnonzero(is_nan(inputs, part.source))
        if nans.size:
            codes[nans] = prediction.nan_rule(inputs[nans], part.source, part.target)
    return codes
