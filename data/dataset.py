"""Cells in memory with what is known of each, as batches for the collator.

Must not import the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch.utils.data import Dataset

from ..processing_scmmgpt import AlignedCounts
from .blocks import CellBlock
from .draws import hash64, uniform
from .facts import CellFacts, number_facts

_TWIN = 1  # what a number is drawn for


@dataclass(frozen=True, eq=False)
class CellBatch:
    """
    C cells on their way to the collator, which takes their counts from the block that they lie in.

    Args:
        block (`CellBlock`): holds the cells and their twins.
        rows (`np.ndarray` of shape `(C,)`): places of the cells in the block.
        twin_rows (`np.ndarray` of shape `(C,)`): for each the place of another cell of which the same is known, or its
            own where there is none.
        seeds (`np.ndarray` of shape `(C,)`, uint64): the seed of everything that is drawn for a cell.
        panels (`Sequence[np.ndarray]`): the gene panels that `panel_index` counts, each `(M,)` ascending gene ids.
        facts (`Sequence[CellFacts]`): the facts that `facts_index` counts.
        panel_seed (`int`): the seed of the random panels that cells share; it should change every so many batches.
    """

    block: CellBlock
    rows: np.ndarray
    twin_rows: np.ndarray
    seeds: np.ndarray
    panels: Sequence[np.ndarray]
    facts: Sequence[CellFacts]
    panel_seed: int

    @cached_property
    def cells(self) -> CellBlock:
        """The cells."""
        return self.block.select(self.rows)

    @cached_property
    def twins(self) -> CellBlock:
        """Their twins; most batches need none."""
        return self.block.select(self.twin_rows)


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
        self.facts, index = number_facts(fact for known in facts for fact in known)
        limits = np.cumsum([0, *map(len, sources)])
        self.cells = CellBlock.concatenate(
            [as_block(source, i, index[limits[i] : limits[i + 1]]) for i, source in enumerate(sources)]
        )
        self._twins = Twins(self.cells.facts_index)

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
        twins, panel_seed = self._twins.draw(cells, seeds), int(hash64(self.seed, self.epoch))
        return CellBatch(self.cells, cells, twins, seeds, self.panels, self.facts, panel_seed)


class Twins:
    """
    For any cell of a block another of which the same is known.

    Args:
        facts_index (`np.ndarray` of shape `(C,)`): which facts each cell has.
    """

    def __init__(self, facts_index: np.ndarray) -> None:
        self._facts_index = facts_index
        self._by_facts = np.argsort(facts_index, kind="stable")
        self._first = np.searchsorted(facts_index[self._by_facts], np.arange(facts_index.max(initial=-1) + 2))

    def draw(self, cells: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """A cell for each of `cells` `(B,)` by its seed; the cell itself where it is the only one of its kind."""
        facts = self._facts_index[cells]
        first, size = self._first[facts], self._first[facts + 1] - self._first[facts]
        return self._by_facts[first + (uniform(seeds, _TWIN) * size).astype(np.int64)]


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


__all__ = ["CellBatch", "CellDataset", "Twins", "as_block"]
