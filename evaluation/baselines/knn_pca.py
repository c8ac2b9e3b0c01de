"""k-NN on 50 principal components: bounds the claim "the embedding has learned cell types".

Principal components know no labels and no text. An embedding that does not beat them adds nothing but cost.
"""

import numpy as np
from scipy import sparse
from sklearn.neighbors import KNeighborsClassifier

from ..cells import LabelledCells
from ..metrics.spaces import fit_pca50, log1p_cp10k

NUM_NEIGHBOURS = 15


def predict(train: LabelledCells, counts: sparse.csr_matrix, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """
    The vote of the 15 nearest training cells in the space `pca50_fit_on_train`.

    Args:
        train ([`LabelledCells`]):
            Labelled training cells; with fewer than 15, all of them vote.
        counts (`(n, m)`):
            Cells to label, raw counts over the same genes.
        seed (`int`, *optional*, defaults to 0):
            Starts the principal component iteration.

    Returns:
        Labels `(n,)` and confidence `(n,)`, the share of the votes.
    """
    train_log1p = log1p_cp10k(train.counts)
    pca = fit_pca50(train_log1p, seed)
    classifier = KNeighborsClassifier(min(NUM_NEIGHBOURS, len(train)))
    classifier.fit(pca.transform(train_log1p), train.labels)
    probabilities = classifier.predict_proba(pca.transform(log1p_cp10k(counts)))
    return classifier.classes_[probabilities.argmax(axis=1)], probabilities.max(axis=1)
