"""Scores of what descriptions say: whether the type is right, and whether the cell expresses the genes named.

Reading the type and the genes off a text is `data.captions`' work.

BLEU and its kin belong here too, through a kept library with its tokenisation named; they reward wording.
"""

from collections.abc import Sequence

import numpy as np
from scipy import sparse


def right_type(labels: np.ndarray, named: Sequence[str | None]) -> np.ndarray:
    """
    Whether each description names the right type, `(n,)` bool; the mean is the share that does.

    A description that names no type is wrong, not missing: dropping it would reward silence.
    """
    return np.array([label == name for label, name in zip(labels, named, strict=True)], dtype=bool)


def split_by_expression(
    named_genes: Sequence[Sequence[str]], counts: sparse.csr_matrix, gene_names: Sequence[str]
) -> list[tuple[list[str], list[str]]]:
    """
    Of the genes that each description names, those that its own cell expresses (count above 0), and the others.

    Args:
        named_genes (`n` lists of `str`):
            The genes named for each cell. One that is not in `gene_names` counts as not expressed.
        counts (`(n, m)`), gene_names (`m` strings):
            The cells described, in raw counts.
    """
    counts = sparse.csr_matrix(counts)
    split = []
    for row, genes in enumerate(named_genes):
        start, end = counts.indptr[row : row + 2]
        columns = counts.indices[start:end][counts.data[start:end] > 0]
        present = {gene_names[column] for column in columns}
        split.append(([gene for gene in genes if gene in present], [gene for gene in genes if gene not in present]))
    return split


def grounding_precision(named: np.ndarray, expressed: np.ndarray) -> float:
    """
    Share of the named genes that are expressed in the very cell described, over all cells (micro average).

    A fluent sentence about the type is not yet about the cell; this finds genes that were made up. Read it with the
    number of genes named: naming only ubiquitous genes scores high. NaN when no description names a gene.

    Args:
        named (`(n,)`), expressed (`(n,)`):
            How many genes each description names, and how many of those its cell expresses.
    """
    total = np.sum(named)
    return float(np.sum(expressed) / total) if total else float("nan")
