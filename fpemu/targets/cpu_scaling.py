"""Loops over blocks that share a power of two (MX): float32 values to codes, scales and flags, one pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from fpemu.kernels.block_scale import LARGEST_FAST, inverse_bits, scale_code
from fpemu.kernels.encode import encode
from fpemu.kernels.spec import LANE32, EncodeSpec, Plan
from fpemu.targets.cpu import Driver, compiled, frozen_spec, made_once, read_only, writable
from fpemu.targets.streaming import LINE, fetch_line
from fpemu.targets.wide import use_widest_registers

OCCUPIED, SEVERAL, DEAD, CLIPPED, SINGLE_CODE = 1, 2, 8, 16, 32  # as scaling.Fate
TOGETHER = 32  # blocks worked on at once: what they need stays in the first cache
RECOUNT, LATER = 128, 255  # flags between the passes: elements are to be counted; left to the general way


@made_once
def block_driver(plan: Plan, spec: EncodeSpec, block: int, writes: np.dtype[Any]) -> Driver:
    """``driver(bits, codes, scales, fates, numbers)`` over whole blocks of a flat array; a block it cannot take gets the flag LATER.

    ``numbers``, uint32: ``raised`` and ``lower`` of the rule (kernels/block_scale.py); the bits of half the format's smallest value, which
    and below which a magnitude becomes zero, and of its largest; and the smallest code of a scale under which an input that is subnormal
    in float32 becomes zero.  x / 2**e is one exact float32 product: where an input or the product leaves the normal range, it becomes
    zero in the format whether the machine keeps subnormals or not.
    """
    plan, frozen = Plan(*plan), frozen_spec(spec, LANE32)
    mask, infinity = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)

    def block_loop(bits, codes, scales, fates, numbers):
        use_widest_registers()
        up, down, bottom, top = numbers[0], np.int32(numbers[1]), numbers[2], numbers[3]
        lowest = np.int32(numbers[4])
        sizes, inverses = np.empty(TOGETHER * block, np.uint32), np.empty(TOGETHER * block, np.float32)
        for start in range(0, scales.size, TOGETHER):
            count = min(TOGETHER, scales.size - start)
            row, out = bits[start * block : (start + count) * block], codes[start * block : (start + count) * block]
            # 1. The largest magnitude of each block, by folding neighbours: all blocks at once, with no sum across a register.
            length = row.size >> 1
            for i in range(length):
                sizes[i] = max(np.uint32(row[2 * i] & mask), np.uint32(row[2 * i + 1] & mask))
            while length > count:
                length >>= 1
                for i in range(length):
                    sizes[i] = max(sizes[2 * i], sizes[2 * i + 1])
            # 2. The scales.
            ahead = (start + TOGETHER) * block
            for b in range(count):
                for i in range(0, block, LINE // 4):
                    fetch_line(bits, ahead + b * block + i)  # of the blocks that come next, while there is time
                code = scale_code(sizes[b], up, down)
                inverse = np.uint32(inverse_bits(min(code, np.int32(LARGEST_FAST)))).view(np.float32)
                scales[start + b] = np.uint8(code)
                for i in range(block):
                    inverses[b * block + i] = inverse
            # 3. The elements.
            for i in range(row.size):
                scaled = np.float32(np.uint32(row[i]).view(np.float32) * inverses[i]).view(np.uint32)
                out[i] = encode(scaled, np.uint32(0), frozen, plan)
            # 4. The flags.  Rounding keeps order: the largest element says whether all become zero, and whether one is beyond.  Two
            # elements that are not zero and get different codes say that there are several and not one code; else they are counted.
            for b in range(count):
                largest, first = sizes[b], b * block
                scaled = np.float32(np.uint32(largest).view(np.float32) * inverses[first]).view(np.uint32)
                flags = 0
                if largest > np.uint32(0):
                    flags = (OCCUPIED | SEVERAL) | (CLIPPED if scaled > top else 0) | (DEAD if scaled <= bottom else 0)
                    apart = (row[first] & mask) != 0 and (row[first + 1] & mask) != 0 and out[first] != out[first + 1]
                    flags |= 0 if apart else RECOUNT
                code = np.int32(scales[start + b])
                if largest >= infinity or code > LARGEST_FAST or (largest > np.uint32(0) and code < lowest):
                    flags = LATER
                fates[start + b] = np.uint8(flags)

    arguments = (read_only(np.uint32), writable(writes), writable(np.uint8), writable(np.uint8), read_only(np.uint32))
    return compiled(block_loop, (plan, spec, block, writes), *arguments)


@made_once
def recount_driver(block: int, writes: np.dtype[Any]) -> Driver:
    """``driver(bits, codes, fates)``: the flags SEVERAL and SINGLE_CODE of blocks with the flag RECOUNT.

    (In a driver of its own: beside the other loops it costs them half their speed.)
    """
    mask, kept = np.uint32(0x7FFFFFFF), OCCUPIED | DEAD | CLIPPED

    def recount_loop(bits, codes, fates):
        for b in range(fates.size):
            flags = np.int64(fates[b])
            if flags & RECOUNT and flags != LATER:
                row, own = bits[b * block : (b + 1) * block], codes[b * block : (b + 1) * block]
                filled, most, least = np.uint32(0), np.uint32(0), np.uint32(0xFFFFFFFF)
                for i in range(block):
                    zero = np.uint32(row[i] & mask) == np.uint32(0)
                    filled = np.uint32(filled + np.uint32(not zero))
                    most = max(most, np.uint32(0) if zero else np.uint32(own[i]))
                    least = min(least, np.uint32(0xFFFFFFFF) if zero else np.uint32(own[i]))
                flags &= kept
                if filled > np.uint32(1):
                    flags |= SEVERAL
                    if not flags & DEAD and most == least:
                        flags |= SINGLE_CODE
                fates[b] = np.uint8(flags)

    arguments = (read_only(np.uint32), read_only(writes), writable(np.uint8))
    return compiled(recount_loop, (block, writes), *arguments)
