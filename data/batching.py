"""Batches by a budget of tokens: cells of like length together, so that little is spent on padding.

Plain functions on lengths; must not import torch.
"""

import numpy as np


def cut_batches(lengths: np.ndarray, max_tokens: int, rng: np.random.Generator) -> list[np.ndarray]:
    """
    Parts cells into batches of like length, each within a budget of padded tokens.

    Cells are sorted by length, equal lengths in random order, and cut where the next cell would take the batch, padded
    to its longest, over the budget. The batches come in random order.

    Args:
        lengths (`np.ndarray` of shape `(C,)`): tokens of each cell, at least 1.
        max_tokens (`int`): most tokens of a batch, padding included. A longer cell is a batch of its own.
        rng (`np.random.Generator`): decides the order.

    Returns:
        `list[np.ndarray]`: positions of the cells of each batch; every cell is in one batch.

    Raises:
        ValueError: when `max_tokens` is below 1.
    """
    if max_tokens < 1:
        raise ValueError(f"`max_tokens`={max_tokens}: expected at least 1, and better the tokens of several cells.")
    order = rng.permutation(len(lengths))
    order = order[np.argsort(lengths[order], kind="stable")]
    sizes, start = lengths[order], 0
    batches = []
    while start < len(order):
        # The longest cell comes last: n cells take n times its tokens, which grows with n.
        stop = start + max(1, _most_cells(sizes[start:], max_tokens))
        batches.append(order[start:stop])
        start = stop
    return [batches[i] for i in rng.permutation(len(batches))]


def _most_cells(ascending: np.ndarray, max_tokens: int) -> int:
    """How many of the first cells fit the budget together."""
    window = ascending[: max(1, max_tokens // max(1, int(ascending[0])))]
    return int(np.searchsorted(window * np.arange(1, len(window) + 1), max_tokens, side="right"))


def padding_share(lengths: np.ndarray, batches: list[np.ndarray]) -> float:
    """Share of a padded layout's tokens that are padding, over all `batches` of cells of the given `lengths`."""
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    return 1.0 - int(sum(lengths[batch].sum() for batch in batches)) / padded if padded else 0.0


__all__ = ["cut_batches", "padding_share"]
