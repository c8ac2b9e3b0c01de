"""The spaces in which cells are compared. A distance without its space is not a number one can repeat."""

import numpy as np
from scipy import sparse
from sklearn.decomposition import PCA

SPACES = ("log1p_raw", "pca50_fit_on_train")


def log1p_cp10k(counts: sparse.spmatrix | np.ndarray, target: float = 1e4) -> sparse.csr_matrix:
    """
    Space `log1p_raw`: `log(1 + target * count / library size)`.

    The field's usual scale: the library size, mostly a matter of sequencing depth, is divided out, and the logarithm
    keeps a few highly expressed genes from deciding every distance. Genes are not scaled to unit variance, which would
    give the noise of rare genes the weight of markers.

    Args:
        counts (`(n, m)`):
            Raw counts. A cell without counts stays all zero.
        target (`float`, *optional*, defaults to 10,000):
            The library size to which each cell is scaled.

    Returns:
        `scipy.sparse.csr_matrix` of shape `(n, m)`, float64.
    """
    counts = sparse.csr_matrix(counts, dtype=np.float64)
    library = np.asarray(counts.sum(axis=1)).ravel()
    factor = np.divide(target, library, out=np.zeros_like(library), where=library > 0)
    scaled = (sparse.diags(factor) @ counts).tocsr()
    return scaled.log1p()


def fit_pca50(train_log1p: sparse.csr_matrix, seed: int = 0) -> PCA:
    """
    Space `pca50_fit_on_train`: the first `min(50, n - 1, m - 1)` principal components of the real training cells.

    Distances over thousands of genes are mostly counting noise; 50 components keep what distinguishes cells. The
    fit sees real training cells only, so a generator can neither bend the space nor profit from held-out cells.

    With few training cells the components also fit their noise: in them, 490 training cells had 1.6 times the variance
    of 210 unseen cells of the same study, and so a larger distance to them than good generated cells have. Rows made
    of training cells are therefore no ceiling for distances here, only in `log1p_raw`.

    Args:
        train_log1p (`(n, m)`):
            Real training cells in the space `log1p_raw`.
        seed (`int`, *optional*, defaults to 0):
            Starts the Lanczos iteration. The matrix stays sparse.

    Returns:
        `sklearn.decomposition.PCA`: fitted; its `transform` takes sparse matrices.
    """
    num_components = min(50, train_log1p.shape[0] - 1, train_log1p.shape[1] - 1)
    if num_components < 1:
        raise ValueError(f"train_log1p has shape {train_log1p.shape}: principal components need 2 cells and 2 genes")
    return PCA(num_components, svd_solver="arpack", random_state=seed).fit(train_log1p)
