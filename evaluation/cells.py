"""`LabelledCells`, the one form in which every task, baseline and figure receives cells.

Imports numpy and scipy only: AnnData is taken apart by the caller.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class LabelledCells:
    """
    Cells with one label each over a fixed list of genes.

    Args:
        counts (`scipy.sparse.csr_matrix` or array of shape `(n, m)`):
            Raw counts, never normalised. Kept sparse (csr, float64). A mean profile may hold fractions.
        labels (array of `n` strings):
            The cell type of each cell.
        gene_names (`list[str]` of length `m`):
            The genes, in the order of the columns.
    """

    counts: sparse.csr_matrix
    labels: np.ndarray
    gene_names: list[str]

    def __post_init__(self) -> None:
        counts = sparse.csr_matrix(self.counts, dtype=np.float64)
        labels = np.asarray(self.labels, dtype=str)
        num_cells, num_genes = counts.shape
        if labels.shape != (num_cells,):
            raise ValueError(
                f"labels has shape {labels.shape} but counts has {num_cells} cells: pass one label per cell"
            )
        if len(self.gene_names) != num_genes:
            raise ValueError(
                f"gene_names has {len(self.gene_names)} names but counts has {num_genes} columns:"
                " pass one name per column"
            )
        if not np.isfinite(counts.data).all() or (counts.data < 0).any():
            raise ValueError("counts holds negative, infinite or NaN values: pass raw counts")
        object.__setattr__(self, "counts", counts)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "gene_names", list(self.gene_names))

    def __len__(self) -> int:
        return self.counts.shape[0]

    def select(self, indices: np.ndarray) -> "LabelledCells":
        """The cells at `indices` (integers or a boolean mask), in that order."""
        return LabelledCells(self.counts[indices], self.labels[indices], self.gene_names)


def check_same_genes(**cells: LabelledCells) -> None:
    """Raises `ValueError` unless all arguments, named in the message, have the same genes in the same order."""
    (first, reference), *others = cells.items()
    for name, other in others:
        if other.gene_names != reference.gene_names:
            shared = len(set(other.gene_names) & set(reference.gene_names))
            raise ValueError(
                f"{name} has {len(other.gene_names)} genes and {first} has {len(reference.gene_names)},"
                f" {shared} shared: select the same genes in the same order before comparing"
            )
