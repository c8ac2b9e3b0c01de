"""Intervals by resampling. Cells of one donor are not independent: resample donors where they are known."""

from collections.abc import Callable

import numpy as np


def bootstrap_interval(
    statistic: Callable[..., float],
    *arrays: np.ndarray,
    groups: np.ndarray | None = None,
    num_draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """
    Percentile bootstrap interval of `statistic(*arrays)` (Efron 1979).

    It needs no formula for the statistic, so accuracy and macro-F1 get intervals of one kind. The resampling unit
    must be what was sampled: with cells as units, cells of one donor pass for independent and the interval comes
    out too narrow for the question "on another donor?".

    Args:
        statistic (callable):
            Takes the resampled arrays, returns a number. Draws on which it returns NaN are left out.
        arrays:
            Arrays of equal length `n`, resampled together.
        groups (`(n,)`, *optional*):
            Donor or study of each cell: whole groups are drawn. Without it, cells are drawn. One group alone gives no
            interval.
        num_draws (`int`, *optional*, defaults to 1000):
            Number of resamples.
        level (`float`, *optional*, defaults to 0.95):
            Share of the draws inside the interval.
        seed (`int`, *optional*, defaults to 0):
            The same seed gives the same interval.

    Returns:
        `tuple[float, float]`: the lower and the upper end; NaN when no draw has a value, or there is one group.
    """
    arrays = tuple(np.asarray(array) for array in arrays)
    lengths = {len(array) for array in arrays} | ({len(groups)} if groups is not None else set())
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"arrays and groups have lengths {sorted(lengths)}: pass equal, non-zero lengths")
    if groups is not None and len(np.unique(groups)) < 2:
        return float("nan"), float("nan")  # every draw would be the same, and the interval of no width
    rng = np.random.default_rng(seed)
    draw = _cell_draws(lengths.pop(), rng) if groups is None else _group_draws(groups, rng)
    values = []
    for _ in range(num_draws):
        chosen = draw()
        values.append(statistic(*(array[chosen] for array in arrays)))
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    if values.size == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _cell_draws(num_cells: int, rng: np.random.Generator) -> Callable[[], np.ndarray]:
    return lambda: rng.integers(num_cells, size=num_cells)


def _group_draws(groups: np.ndarray, rng: np.random.Generator) -> Callable[[], np.ndarray]:
    _, codes = np.unique(np.asarray(groups), return_inverse=True)
    members = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    return lambda: np.concatenate([members[code] for code in rng.integers(len(members), size=len(members))])
