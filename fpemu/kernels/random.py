"""The random word of an element: a function of seed and index alone, so no layout, chunk or thread can change it."""

import numpy as np

from fpemu.kernels.jit import kernel

GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def seed_key(seed: int) -> int:
    """The key of a seed, splitmix64(seed)."""
    z = (seed + GOLDEN) & _MASK
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & _MASK
    return z ^ z >> 31


@kernel
def random_counter(key, index):
    """The counter of an element; that of the next is GOLDEN more, modulo 2**64."""
    return np.uint64(key + np.uint64(index * np.uint64(GOLDEN)))


@kernel
def random_word(counter):
    """32 random bits: the high half of splitmix64's finaliser (Steele, Lea, Flood 2014) of a counter."""
    z = np.uint64(np.uint64(counter ^ np.uint64(counter >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9))
    z = np.uint64(np.uint64(z ^ np.uint64(z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB))
    # The high half of z ^ (z >> 31), in 32-bit lanes.
    high = np.uint32(z >> np.uint64(32))
    return np.uint32(high ^ np.uint32(high >> np.uint32(31)))
