"""Cells in memory with what is known of each, as batches for the collator.

Must not import the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset

from ..processing_scmmgpt import AlignedCounts
from .blocks import CellBlock
from .draws import hash64, uniform
from .facts import CellFacts

_TWIN = 1  # what a number is drawn for


@dataclass(frozen=True, eq=False)
class CellBatch:
    """
    C cells on their way to the collator.

    Args:
        cells (`CellBlock`): the cells.
        twins (`CellBlock`): for each another cell of which the same is known, or the cell itself where there is none.
        seeds (`np.ndarray` of shape `(C,)`, uint64): the seed of everything that is drawn for a cell.
        panels (`Sequence[np.ndarray]`): the gene panels that `panel_index` counts, each `(M,)` ascending gene ids.
        facts (`Sequence[CellFacts]`): the facts that `facts_index` counts.
        panel_seed (`int`): the seed of the random panels that cells share; it should change every so many batches.
    """

    cells: CellBlock
    twins: CellBlock
    seeds: np.ndarray
    panels: Sequence[np.ndarray]
    facts: Sequence[CellFacts]
    panel_seed: int


class CellDataset(Dataset):
    """
    Cells of one or more sources, each with its own gene panel.

    Args:
        sources (`Sequence[AlignedCounts]`): the counts.
        facts (`Sequence[Sequence[CellFacts]]`): what is known of the cells of each source, in their order.
        seed (`int`): with the epoch and the cell's index, the seed of its masks, panels and phrasings.

    Raises:
        ValueError: when a source has more or fewer facts than cells.
    """

    def __init__(self, sources: Sequence[AlignedCounts], facts: Sequence[Sequence[CellFacts]], seed: int = 0) -> None:
        for source, known in zip(sources, facts, strict=True):
            if len(source) != len(known):
                raise ValueError(
                    f"`facts` holds {len(known)} entries for {len(source)} cells. Make one CellFacts per row of `obs`."
                )
        self.seed, self.epoch = seed, 0
        self.panels = [source.panel for source in sources]
        rows: dict[CellFacts, int] = {}
        index = [[rows.setdefault(fact, len(rows)) for fact in known] for known in facts]
        self.facts = list(rows)
        self.cells = CellBlock.concatenate(
            [
                as_block(source, panel, np.array(known, dtype=np.int32))
                for panel, (source, known) in enumerate(zip(sources, index, strict=True))
            ]
        )
        self._by_facts = np.argsort(self.cells.facts_index, kind="stable")
        self._first_of_facts = np.searchsorted(self.cells.facts_index[self._by_facts], np.arange(len(rows) + 1))

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at the start of an epoch, so that each one draws afresh."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, index: int) -> CellBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> CellBatch:
        """The cells at `indices` as one batch; torch's loaders ask for a batch by this method."""
        cells = np.asarray(indices)
        seeds = hash64(self.seed, self.epoch, cells)
        facts = self.cells.facts_index[cells]
        first, size = self._first_of_facts[facts], np.diff(self._first_of_facts)[facts]
        twins = self._by_facts[first + (uniform(seeds, _TWIN) * size).astype(np.int64)]
        panel_seed = int(hash64(self.seed, self.epoch))
        return CellBatch(
            self.cells.select(cells), self.cells.select(twins), seeds, self.panels, self.facts, panel_seed
        )


def as_block(source: AlignedCounts, panel: int, facts_index: np.ndarray) -> CellBlock:
    """Aligned cells as a [`CellBlock`], all of panel number `panel`."""
    names = source.cell_names or [f"cell {i}" for i in range(len(source))]
    return CellBlock(
        source.indptr,
        source.gene_ids.astype(np.int32),
        source.counts,
        np.full(len(source), panel, dtype=np.int32),
        facts_index,
        np.array(names, dtype=object),
    )


__all__ = ["CellBatch", "CellDataset", "as_block"]
