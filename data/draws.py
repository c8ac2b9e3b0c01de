"""Random numbers that are functions of what they are drawn for: (seed, epoch, cell), (cell, gene).

Whole arrays at once, and yet what is drawn for a cell never depends on its batch, its worker or what was drawn before;
so a resumed run draws what an undisturbed one would. Imports numpy only.
"""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


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
        with np.errstate(over="ignore"):
            state = (state ^ np.asarray(part).astype(np.uint64)) + _GOLDEN
            state = (state ^ (state >> np.uint64(30))) * _FIRST
            state = (state ^ (state >> np.uint64(27))) * _SECOND
            state = state ^ (state >> np.uint64(31))
    return state


def uniform(*parts: int | np.ndarray) -> np.ndarray:
    """Numbers in [0, 1), float64, one for each tuple of whole numbers; see [`hash64`]."""
    return (hash64(*parts) >> np.uint64(11)) * 2.0**-53


__all__ = ["hash64", "uniform"]
