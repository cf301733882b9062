"""Seeds of random roundings: one for every place where a run draws, so that no two places share random words."""

from __future__ import annotations

from hashlib import blake2b

OPERAND, UPDATE = 1, 2  # what draws: the operand of a product; the update of a weight


def draw_seed(seed: int, purpose: int, *places: int) -> int:
    """The seed of a place, 64 bits hashed from a run's seed, what draws, and where.

    Numbers packed side by side would meet where one outgrows its bits; a hash of their digits does not.
    """
    return int.from_bytes(blake2b(repr((seed, purpose, *places)).encode(), digest_size=8).digest())
