"""The typical transcriptome, and what sets a cell apart from it. Plain functions on arrays."""

from collections.abc import Iterable, Sequence

import numpy as np

from ..encoding_scmmgpt import row_of_entry, row_sums
from ..processing_scmmgpt import AlignedCounts
from .blocks import CellBlock


def mean_profile(sources: Sequence[AlignedCounts], vocab_size: int) -> np.ndarray:
    """
    Share of each gene in a typical transcriptome: the mean over cells of their proportions, taken for each gene over
    the cells in which it was measured.

    Genes that were measured and never seen get a thousandth of the median expressed gene's share, since a softmax
    cannot say never; tokens outside every panel get 0.

    Args:
        sources (`Sequence[AlignedCounts]`): training cells, one entry per panel.
        vocab_size (`int`): number of gene tokens `V`.

    Returns:
        `np.ndarray` of shape `(V,)`, float64, summing to 1.
    """
    total_share, num_measured = np.zeros(vocab_size), np.zeros(vocab_size)
    for cells in sources:
        total_share += _sum_of_shares(cells, vocab_size)
        num_measured[cells.panel] += len(cells)
    return _profile(total_share, num_measured)


def mean_profile_of_blocks(blocks: Iterable[CellBlock], panels: Sequence[np.ndarray], vocab_size: int) -> np.ndarray:
    """[`mean_profile`] of cells that come in blocks, whose `panel_index` counts `panels`."""
    total_share, cells_of_panel = np.zeros(vocab_size), np.zeros(len(panels))
    for block in blocks:
        total_share += _sum_of_shares(block, vocab_size)
        cells_of_panel += np.bincount(block.panel_index, minlength=len(panels))
    num_measured = np.zeros(vocab_size)
    for panel, num_cells in zip(panels, cells_of_panel, strict=True):
        num_measured[panel] += num_cells
    return _profile(total_share, num_measured)


def _sum_of_shares(cells: AlignedCounts | CellBlock, vocab_size: int) -> np.ndarray:
    rows, totals = row_of_entry(cells.indptr), row_sums(cells.counts, cells.indptr)
    return np.bincount(cells.gene_ids, cells.counts / totals[rows], minlength=vocab_size)


def _profile(total_share: np.ndarray, num_measured: np.ndarray) -> np.ndarray:
    measured = num_measured > 0
    profile = np.divide(total_share, num_measured, where=measured, out=np.zeros(len(total_share)))
    floor = 1e-3 * np.median(profile[profile > 0])
    profile[measured] = np.maximum(profile[measured], floor)
    return profile / profile.sum()


def characteristic_genes(gene_ids: np.ndarray, counts: np.ndarray, profile: np.ndarray, n: int) -> np.ndarray:
    """
    The genes that set a cell apart: the largest terms of its log-likelihood ratio against the typical transcriptome,
    x_g log(p_g / profile_g), among genes with at least two counts.

    Args:
        gene_ids, counts (`np.ndarray` of shape `(N,)`): the expressed genes of one cell.
        profile (`np.ndarray` of shape `(V,)`): see [`mean_profile`].
        n (`int`): how many at most.

    Returns:
        `np.ndarray` of shape `(<= n,)`: gene ids, most characteristic first; ties by gene id.
    """
    score = counts * np.log(counts / counts.sum() / np.maximum(profile[gene_ids], 1e-12))
    candidates = np.flatnonzero((counts >= 2) & (score > 0))
    order = candidates[np.lexsort((gene_ids[candidates], -score[candidates]))]
    return gene_ids[order[:n]]


__all__ = ["characteristic_genes", "mean_profile", "mean_profile_of_blocks"]
