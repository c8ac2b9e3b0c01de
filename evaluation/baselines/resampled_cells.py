"""Real training cells of the asked type: bounds the claim "the generated cells are realistic".

Nothing that learns from the training cells can be expected to look more like held-out cells than
other real cells do: this row is the ceiling, and the unit in which MMD is read. It creates nothing new
(memorisation ratio 0).
"""

import numpy as np

from ..cells import LabelledCells


def generate(train: LabelledCells, labels: np.ndarray, seed: int = 0) -> LabelledCells:
    """
    Draws for each asked label one training cell of that label.

    Args:
        train ([`LabelledCells`]):
            Real training cells.
        labels (`(n,)`):
            The types asked for, one per cell wanted.
        seed (`int`, *optional*, defaults to 0):
            Decides the draw: without replacement where a type has enough cells, else with.

    Returns:
        [`LabelledCells`]: `n` cells in the order of `labels`.
    """
    rng = np.random.default_rng(seed)
    labels = np.asarray(labels, dtype=str)
    chosen = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        pool, wanted = np.flatnonzero(train.labels == label), np.flatnonzero(labels == label)
        if pool.size == 0:
            raise ValueError(
                f"labels asks for {label!r}, but no training cell has it (training labels:"
                f" {np.unique(train.labels).tolist()}): split so that every type is on both sides"
            )
        chosen[wanted] = rng.choice(pool, size=wanted.size, replace=wanted.size > pool.size)
    return LabelledCells(train.counts[chosen], labels, train.gene_names)
