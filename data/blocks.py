"""Cells as ragged rows: what sources read, streams shuffle and the collator turns into batches.

Imports numpy and the ragged arithmetic of the remote code; must not import torch or the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..encoding_scmmgpt import keep_entries, row_limits, take_rows


@dataclass(frozen=True, eq=False)
class CellBlock:
    """
    Some cells of one source. C cells, N entries (expressed genes of all cells together).

    Args:
        indptr (`np.ndarray` of shape `(C + 1,)`, int64): Cell `i` owns the entries `indptr[i]:indptr[i + 1]`.
        gene_ids (`np.ndarray` of shape `(N,)`, integers): Gene token ids, ascending within a cell.
        counts (`np.ndarray` of shape `(N,)`): Molecules or reads: whole numbers above 0.
        panel_index (`np.ndarray` of shape `(C,)`, int32): Row of the source's gene panels.
        facts_index (`np.ndarray` of shape `(C,)`, int32): Row of the source's table of distinct facts.
        cell_ids (`np.ndarray` of shape `(C,)`): Names of the cells, unique in the source.
    """

    indptr: np.ndarray
    gene_ids: np.ndarray
    counts: np.ndarray
    panel_index: np.ndarray
    facts_index: np.ndarray
    cell_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Expressed genes of each cell, `(C,)` int64."""
        return np.diff(self.indptr)

    def select(self, cells: np.ndarray) -> "CellBlock":
        """The cells at positions `cells`, in that order; a cell may be named more than once."""
        cells = np.asarray(cells)
        return CellBlock(
            *take_rows(self.indptr, cells, self.gene_ids, self.counts),
            self.panel_index[cells],
            self.facts_index[cells],
            self.cell_ids[cells],
        )

    def keep(self, entries: np.ndarray) -> "CellBlock":
        """Only the entries of the mask `entries` `(N,)`; a cell may be left without any."""
        return CellBlock(
            keep_entries(self.indptr, entries),
            self.gene_ids[entries],
            self.counts[entries],
            self.panel_index,
            self.facts_index,
            self.cell_ids,
        )

    @classmethod
    def concatenate(cls, blocks: Sequence["CellBlock"]) -> "CellBlock":
        """The cells of one or more blocks, one after another."""
        arrays = {
            name: np.concatenate([getattr(block, name) for block in blocks])
            for name in ("gene_ids", "counts", "panel_index", "facts_index", "cell_ids")
        }
        return cls(row_limits(np.concatenate([block.lengths for block in blocks])), **arrays)


def check_counts_fit(counts: np.ndarray, where: str) -> None:
    """Raises a `ValueError` that names `where` when a count needs more than 32 bits, which blocks and shards have."""
    if counts.max(initial=0) >= 2**32:
        raise ValueError(
            f"{where}: a count of {counts.max():.0f} is above {2**32 - 1}, the most that a cell is stored with. "
            "Divide the counts of these cells by a whole number; sums of many cells are no single cells."
        )


__all__ = ["CellBlock", "check_counts_fit"]
