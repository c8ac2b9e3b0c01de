"""Random numbers that are functions of what they are drawn for: (seed, epoch, cell), (cell, gene).

Whole arrays at once, and yet what is drawn for a cell never depends on its batch, its worker or what was drawn before;
so a resumed run draws what an undisturbed one would. Imports numpy only.
"""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB))
_LAST_SHIFT = np.uint64(31)


def hash64(*parts: int | np.ndarray) -> np.ndarray:
    """
    A 64-bit hash of tuples of whole numbers: SplitMix64's output function (Steele et al. 2014) over the parts in turn.

    Args:
        parts (`int` or `np.ndarray` of integers): broadcast against each other.

    Returns:
        `np.ndarray`, uint64, of the broadcast shape.
    """
    state = np.zeros((), dtype=np.uint64)
    for part in parts:
        state = extend_hash(state, part)
    return state


def extend_hash(state: np.ndarray, part: int | np.ndarray) -> np.ndarray:
    """`hash64(*parts, part)` from `state = hash64(*parts)`; what many tuples have in common is then hashed once."""
    with np.errstate(over="ignore"):
        state = state ^ np.asarray(part).astype(np.uint64)
        state += _GOLDEN
        for shift, factor in _ROUNDS:
            state ^= state >> shift
            state *= factor
        state ^= state >> _LAST_SHIFT
    return state


def uniform(*parts: int | np.ndarray) -> np.ndarray:
    """Numbers in [0, 1), float64, one for each tuple of whole numbers; see [`hash64`]."""
    return to_unit(hash64(*parts))


def to_unit(hashes: np.ndarray) -> np.ndarray:
    """64-bit hashes -> numbers in [0, 1), float64."""
    return (hashes >> np.uint64(11)) * 2.0**-53


__all__ = ["extend_hash", "hash64", "to_unit", "uniform"]
