"""Spread, sparsity, and gene-wise moments: what separates cells from mean profiles."""

import numpy as np
from scipy import sparse


def gene_moments(cells: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (divisor `n`) of each gene, `(m,)` each, without making the matrix dense."""
    mean = np.asarray(cells.mean(axis=0)).ravel()
    mean_square = np.asarray(cells.multiply(cells).mean(axis=0)).ravel()
    return mean, np.maximum(mean_square - mean**2, 0.0)


def variance_ratio(real: sparse.csr_matrix, generated: sparse.csr_matrix) -> float:
    """
    Total variance (sum over genes, space `log1p_raw`) of generated cells over that of real cells.

    The plainest test of diversity: 1 is the spread of real cells; a class-mean profile, which wins k-NN accuracy, has
    only the spread between types. Counting noise is part of real cells and therefore of the target.

    Args:
        real (`(n, m)`), generated (`(g, m)`):
            Cells in the space `log1p_raw`.
    """
    return float(gene_moments(generated)[1].sum() / gene_moments(real)[1].sum())


def zero_fraction(counts: sparse.csr_matrix) -> float:
    """
    Share of all cell-gene entries that are zero.

    Real single-cell counts are mostly zeros; a generator with the wrong observation model misses their number first.
    Shown beside the real value, as a difference in percentage points.
    """
    return 1.0 - np.count_nonzero(sparse.csr_matrix(counts).data) / np.prod(counts.shape)


def moment_correlations(real: sparse.csr_matrix, generated: sparse.csr_matrix) -> tuple[float, float]:
    """
    Pearson correlation over genes of the genes' means, and of their variances, in the space `log1p_raw`.

    Necessary but easy: highly expressed genes carry a correlation near 1 through almost any generator, so it finds
    faults and proves nothing. NaN when all genes have the same value.
    """
    correlations = []
    for x, y in zip(gene_moments(real), gene_moments(generated), strict=True):
        constant = np.ptp(x) == 0 or np.ptp(y) == 0
        correlations.append(float("nan") if constant else float(np.corrcoef(x, y)[0, 1]))
    return correlations[0], correlations[1]
