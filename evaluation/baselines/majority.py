"""Majority class: bounds the claim "the accuracy is high".

Where one type fills half of the cells, 50 % accuracy means nothing. A method must beat this row on
balanced accuracy too, where it scores 1 / number of types.
"""

import numpy as np
from scipy import sparse

from ..cells import LabelledCells


def predict(train: LabelledCells, counts: sparse.csr_matrix, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """
    Gives every cell the commonest training label (alphabetically first on a tie).

    Args:
        train ([`LabelledCells`]):
            Labelled training cells.
        counts (`(n, m)`):
            Cells to label.
        seed (`int`, *optional*):
            Unused: nothing is drawn. All annotation baselines are called alike.

    Returns:
        Labels `(n,)` and confidence `(n,)`, the label's share of the training cells.
    """
    labels, sizes = np.unique(train.labels, return_counts=True)
    commonest = np.argmax(sizes)
    num_cells = counts.shape[0]
    return (
        np.full(num_cells, labels[commonest]),
        np.full(num_cells, sizes[commonest] / len(train)),
    )
