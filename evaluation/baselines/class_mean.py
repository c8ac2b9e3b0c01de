"""The mean profile of each type: bounds the claim "the k-NN accuracy is high".

This is what a decoder trained by regression returns: perfectly typical, hence a perfect k-NN accuracy, and
useless as cells, having no spread within a type and hardly a zero. Only variance, zeros and MMD tell.
"""

import numpy as np
from scipy import sparse

from ..cells import LabelledCells


def generate(train: LabelledCells, labels: np.ndarray, seed: int = 0) -> LabelledCells:
    """
    Gives for each asked label the mean raw counts of the training cells of that label.

    Args:
        train ([`LabelledCells`]):
            Real training cells; every asked label must occur.
        labels (`(n,)`):
            The types asked for, one per cell wanted.
        seed (`int`, *optional*):
            Unused: nothing is drawn. All generation baselines are called alike.

    Returns:
        [`LabelledCells`]: `n` cells in the order of `labels`, with fractional counts.
    """
    labels = np.asarray(labels, dtype=str)
    types, codes = np.unique(labels, return_inverse=True)
    missing = np.setdiff1d(types, train.labels).tolist()
    if missing:
        raise ValueError(
            f"labels asks for {missing}, but no training cell has them: split so that every type is on both sides"
        )
    means = np.vstack([train.counts[train.labels == label].mean(axis=0).A1 for label in types])
    return LabelledCells(sparse.csr_matrix(means)[codes], labels, train.gene_names)
