"""Distances between two sets of cells, as distributions: neither looks at the labels."""

import numpy as np
from scipy import sparse
from sklearn.metrics.pairwise import euclidean_distances


def median_bandwidth(heldout: np.ndarray | sparse.csr_matrix) -> float:
    """
    The median heuristic: the median Euclidean distance between pairs of real held-out cells.

    One bandwidth for all rows of a table, taken from real cells only. Taken from the pooled cells, as is
    often done, a poor generator would widen the kernel and so make its own distance smaller.
    """
    num_cells = heldout.shape[0]
    pairs = np.triu_indices(num_cells, k=1)
    bandwidth = float(np.median(euclidean_distances(heldout)[pairs])) if num_cells > 1 else 0.0
    if not bandwidth > 0:
        raise ValueError(
            f"heldout gives a median distance of {bandwidth} over {num_cells} cells: pass at least 2 cells that differ"
        )
    return bandwidth


def mmd2(
    real: np.ndarray | sparse.csr_matrix,
    generated: np.ndarray | sparse.csr_matrix,
    bandwidth: float,
    biased: bool = True,
) -> float:
    """
    Squared maximum mean discrepancy with the kernel `exp(-||x - y||^2 / (2 bandwidth^2))` (Gretton et al. 2012).

    Zero only for equal distributions, so it sees what k-NN accuracy cannot: missing spread, missing sub-types, wrong
    proportions. The biased V-statistic is never negative, which makes ratios to another row sound, but for
    finite samples it stays above zero even for equal distributions. The unbiased U-statistic is zero on average then,
    and can be negative. Quote both, with the numbers of cells.

    Args:
        real (`(n, d)`), generated (`(g, d)`):
            Cells in one named space, dense or sparse.
        bandwidth (`float`):
            Usually [`median_bandwidth`] of the real held-out cells, in the same space.
        biased (`bool`, *optional*, defaults to `True`):
            V-statistic (equation 5 of the paper) or U-statistic (equation 3).
    """

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.exp(euclidean_distances(x, y, squared=True) / (-2 * bandwidth**2))

    cross = kernel(real, generated).mean()
    within = 0.0
    for cells in (real, generated):
        size = cells.shape[0]
        if biased:
            within += kernel(cells, cells).mean()
        elif size > 1:
            # exp(0) = 1 on the diagonal: here a cell is not compared with itself.
            within += (kernel(cells, cells).sum() - size) / (size * (size - 1))
        else:
            raise ValueError(f"the unbiased estimate needs 2 cells per set, found {size}: pass more cells")
    return float(within - 2 * cross)


def wasserstein1_per_gene(real: sparse.csr_matrix, generated: sparse.csr_matrix) -> np.ndarray:
    """
    Wasserstein-1 (earth mover's) distance of each gene's values: the mean shift between sorted values.

    In the units of the space (`log1p_raw`), so a biologist can read it: 0.1 means that a gene's values lie 0.1 log
    units off on average. It sees each gene alone; MMD sees how genes go together. Exact for any two numbers of cells.

    Args:
        real (`(n, m)`), generated (`(g, m)`):
            Cells over the same genes. Genes are made dense in small blocks only.

    Returns:
        `(m,)` float64; tables show the mean over genes.
    """
    num_real, num_generated = real.shape[0], generated.shape[0]
    # Both quantile functions are constant between these points, in integers to stay exact.
    edges = np.union1d(np.arange(1, num_real + 1) * num_generated, np.arange(1, num_generated + 1) * num_real)
    widths = np.diff(edges, prepend=0) / (num_real * num_generated)
    rows_real, rows_generated = (edges - 1) // num_generated, (edges - 1) // num_real
    real, generated = real.tocsc(), generated.tocsc()
    distances = np.empty(real.shape[1])
    for start in range(0, real.shape[1], 512):
        block = slice(start, start + 512)
        x = np.sort(real[:, block].toarray(), axis=0)[rows_real]
        y = np.sort(generated[:, block].toarray(), axis=0)[rows_generated]
        distances[block] = widths @ np.abs(x - y)
    return distances
