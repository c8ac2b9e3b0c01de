"""Nearest-neighbour metrics: does a generated cell look like its type, and is it a copy of a training cell?"""

import numpy as np
from scipy import sparse
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors


def knn_correct(
    train: sparse.csr_matrix | np.ndarray,
    train_labels: np.ndarray,
    cells: sparse.csr_matrix | np.ndarray,
    labels: np.ndarray,
    k: int,
) -> np.ndarray:
    """
    Whether each cell is recognised as its type by its `k` nearest real training cells; the mean is k-NN accuracy.

    The field's usual measure of text -> cell generation, easily made meaningless in two ways. Fitting the classifier
    on generated cells lets a generator define its own types, so it is fitted on real *training* cells here. And
    a mean profile without any spread scores best, so it is never quoted without a variance ratio beside it.

    Args:
        train (`(n, d)`), train_labels (`(n,)`):
            Real training cells in a named space, and their types.
        cells (`(c, d)`), labels (`(c,)`):
            Cells in the same space, and the type each was asked to be.
        k (`int`):
            Neighbours that vote, Euclidean distance, equal weights. Published values differ by k: always named.

    Returns:
        `(c,)` bool.
    """
    if k > train.shape[0]:
        raise ValueError(f"k is {k} but there are only {train.shape[0]} training cells: choose a smaller k")
    classifier = KNeighborsClassifier(k, algorithm="brute").fit(train, train_labels)
    return classifier.predict(cells) == labels


def memorisation_ratio(train: np.ndarray, heldout: np.ndarray, generated: np.ndarray) -> float:
    """
    Median distance of a generated cell to its nearest training cell, over that of a held-out real cell.

    A generator that repeats its training cells wins every other metric. Real cells nobody has seen show how near
    a new cell comes by itself: 1 is like new real cells, 0 is copying, above 1 lies off the data. Cells shrunk
    towards their type's mean also come out below 1, so read it beside the variance ratio.

    Args:
        train (`(n, d)`), heldout (`(h, d)`), generated (`(g, d)`):
            Cells in one named space.
    """
    index = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(train)
    real = float(np.median(index.kneighbors(heldout)[0]))
    made = float(np.median(index.kneighbors(generated)[0]))
    return made / real if real > 0 else float("nan")
