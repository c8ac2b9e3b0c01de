"""Cells as other experiments might have shown them: mixtures of like cells, fewer genes measured, values hidden.

Pure functions on whole blocks. What is drawn for a cell depends on its seed and on that of the random panels, which
many cells share.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..encoding_scmmgpt import row_sums, sum_by_gene
from .blocks import CellBlock
from .draws import extend_hash, hash64, to_unit, uniform

# What a number is drawn for.
_MIXED, _PART, _DROPPED, _WHICH, _SHARE, _GENE, _MASK_SHARE, _MASK = range(10, 18)
# Enough to differ, few enough that the panels of a batch take less room than its cells.
_NUM_PANELS = 16


def mix_with_twins(cells: CellBlock, twins: CellBlock, seeds: np.ndarray, share: float) -> CellBlock:
    """
    Gives some cells a random part of their own molecules and the rest of their twin's, so that the mixture is as deep
    as one cell and as noisy, and there are as many as pairs of cells.

    Args:
        cells, twins (`CellBlock` of C cells): the cells, and for each another of which the same is known.
        seeds (`np.ndarray` of shape `(C,)`, uint64): seeds of the cells.
        share (`float`): share of cells that are mixed.

    Returns:
        `CellBlock`: the cells; one whose mixture would be empty, or whose twin has another panel, stays as it is.
    """
    mixed = np.flatnonzero((uniform(seeds, _MIXED) < share) & (cells.panel_index == twins.panel_index))
    if not mixed.size:
        return cells
    # The entries of a cell, then those of its twin, and the same for the next.
    pairs = CellBlock.concatenate([cells.select(mixed), twins.select(mixed)])
    pairs = pairs.select(np.arange(2 * len(mixed)).reshape(2, -1).T.ravel())
    counts = np.split(pairs.counts, pairs.indptr[1:-1])
    parts = []
    for seed, own, other in zip(hash64(seeds[mixed], _PART).tolist(), counts[::2], counts[1::2], strict=True):
        rng = np.random.default_rng(seed)
        part = rng.random()
        parts += [_thin(own, part, rng), _thin(other, 1.0 - part, rng)]
    indptr, gene_ids, counts = sum_by_gene(pairs.indptr[::2], pairs.gene_ids, np.concatenate(parts))
    mixtures = replace(cells.select(mixed), indptr=indptr, gene_ids=gene_ids, counts=counts.astype(cells.counts.dtype))
    filled = np.flatnonzero(mixtures.lengths)
    source = np.arange(len(cells))
    source[mixed[filled]] = len(cells) + filled
    return CellBlock.concatenate([cells, mixtures]).select(source)


def _thin(counts: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Molecules that are left when each stays with probability `share`."""
    left = (rng.random(len(counts)) < share).astype(np.int64)  # of single molecules, which most are
    several = np.flatnonzero(counts > 1)
    left[several] = rng.binomial(counts[several].astype(np.int64), share)
    return left


class RandomPanels:
    """
    Some panels with fewer genes, which many cells share: drawing and storing one of thousands of genes for every cell
    would take longer than all else that is done for it.

    Args:
        panels (`Sequence[np.ndarray]`): the panels to take genes from, each `(M,)` ascending gene ids.
        vocab_size (`int`): number of gene tokens `V`.
        min_share (`float`): each keeps a share of the genes that is drawn from here to 1, every gene by itself.
        seed (`int`): decides which genes they keep.
    """

    def __init__(self, panels: Sequence[np.ndarray], vocab_size: int, min_share: float, seed: int) -> None:
        self.panels, self.seed = panels, seed
        number = np.arange(_NUM_PANELS)
        shares = min_share + (1.0 - min_share) * uniform(seed, _SHARE, number)
        kept = uniform(seed, _GENE, number[:, None], np.arange(vocab_size)) < shares[:, None]
        self.kept = np.concatenate([kept, np.ones((1, vocab_size), dtype=bool)])  # the last keeps all
        self._cut: dict[tuple[int, int], np.ndarray] = {}

    def cut(self, panel: int, number: int) -> np.ndarray:
        """The genes of panel number `panel` that random panel `number` keeps."""
        if number == _NUM_PANELS:
            return self.panels[panel]
        if (panel, number) not in self._cut:
            genes = self.panels[panel]
            self._cut[panel, number] = genes[self.kept[number, genes]]
        return self._cut[panel, number]


def drop_genes(
    cells: CellBlock, random_panels: RandomPanels, seeds: np.ndarray, share: float
) -> tuple[CellBlock, list[np.ndarray]]:
    """
    Shows some cells as another assay might have seen them: a random part of the genes of their panel not measured.

    Args:
        cells (`CellBlock` of C cells): the cells.
        random_panels (`RandomPanels`): what is measured of the panels that `panel_index` counts.
        seeds (`np.ndarray` of shape `(C,)`, uint64): seeds of the cells.
        share (`float`): share of cells that lose genes.

    Returns:
        `tuple[CellBlock, list[np.ndarray]]`: the cells, and the panels that their `panel_index` counts now. A cell
        that would be left without any gene keeps them all.
    """
    number = (uniform(seeds, _WHICH) * _NUM_PANELS).astype(np.int64)
    number[uniform(seeds, _DROPPED) >= share] = _NUM_PANELS
    if (number < _NUM_PANELS).any():
        kept = _look_up(random_panels.kept, number, cells)
        is_empty = row_sums(kept, cells.indptr) == 0
        if is_empty.any():
            number[is_empty] = _NUM_PANELS
            kept = _look_up(random_panels.kept, number, cells)
        cells = cells.keep(kept)
    pairs = cells.panel_index.astype(np.int64) * (_NUM_PANELS + 1) + number
    used, panel_index = np.unique(pairs, return_inverse=True)
    panels = [random_panels.cut(*divmod(int(pair), _NUM_PANELS + 1)) for pair in used]
    return replace(cells, panel_index=panel_index.astype(np.int32)), panels


def _look_up(kept: np.ndarray, number: np.ndarray, cells: CellBlock) -> np.ndarray:
    """Which entries the random panel of each cell keeps, `(N,)` bool."""
    return kept.ravel().take(np.repeat(number * kept.shape[1], cells.lengths) + cells.gene_ids)


def mask_tokens(limits: np.ndarray, token_ids: np.ndarray, seeds: np.ndarray, max_share: float) -> np.ndarray:
    """
    Chooses the tokens whose values are hidden; the hidden share differs from cell to cell, and may be none.

    Args:
        limits (`np.ndarray` of shape `(C + 1,)`): limits of the cells among the tokens, `<cls>` first in each.
        token_ids (`np.ndarray` of shape `(N,)`): the tokens.
        seeds (`np.ndarray` of shape `(C,)`, uint64): seeds of the cells.
        max_share (`float`): a cell's hidden share is drawn from 0 to this.

    Returns:
        `np.ndarray` of shape `(N,)`, bool; never `<cls>`.
    """
    lengths = np.diff(limits)
    shares = max_share * uniform(seeds, _MASK_SHARE)
    masked = to_unit(extend_hash(np.repeat(hash64(seeds, _MASK), lengths), token_ids)) < np.repeat(shares, lengths)
    masked[limits[:-1]] = False
    return masked


__all__ = ["RandomPanels", "drop_genes", "mask_tokens", "mix_with_twins"]
