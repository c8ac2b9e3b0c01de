"""Real training cells under shuffled labels: bounds the claim "the text was understood".

As a set, these cells are as realistic as the ceiling row; only their labels are wrong. A generator
that ignores its prompt can reach this row's MMD and variance, but not a better k-NN accuracy.
"""

import numpy as np

from ..cells import LabelledCells
from . import resampled_cells


def generate(train: LabelledCells, labels: np.ndarray, seed: int = 0) -> LabelledCells:
    """
    The cells of the row "resampled training cells" for the same seed, with their labels permuted.

    Arguments as in [`~scmmgpt.evaluation.baselines.resampled_cells.generate`].

    Returns:
        [`LabelledCells`]: `n` cells; cell and label have nothing to do with each other.
    """
    cells = resampled_cells.generate(train, labels, seed)
    order = np.random.default_rng(seed).permutation(len(cells))
    return LabelledCells(cells.counts[order], cells.labels, cells.gene_names)
