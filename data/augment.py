"""Cells as other experiments might have shown them: mixtures of like cells, fewer genes measured, values hidden.

Pure functions on whole blocks. What is drawn for a cell depends on its seed alone.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..encoding_scmmgpt import row_limits, row_of_entry, row_sums
from .blocks import CellBlock
from .draws import hash64, uniform

# What a number is drawn for.
_MIXED, _PART, _DROPPED, _SHARE, _GENE, _MASK_SHARE, _MASK = range(10, 17)


def mix_with_twins(cells: CellBlock, twins: CellBlock, seeds: np.ndarray, share: float) -> CellBlock:
    """
    Gives some cells a random part of their own molecules and the rest of their twin's, so that the mixture is as deep
    as one cell and as noisy, and there are as many as pairs of cells.

    Args:
        cells, twins (`CellBlock` of C cells): the cells, and for each another of which the same is known.
        seeds (`np.ndarray` of shape `(C,)`, uint64): seeds of the cells.
        share (`float`): share of cells that are mixed.

    Returns:
        `CellBlock`: the cells; one whose mixture would be empty stays as it is.
    """
    mixed = np.flatnonzero(uniform(seeds, _MIXED) < share)
    if not mixed.size:
        return cells
    num_genes = max(int(cells.gene_ids.max()), int(twins.gene_ids.max())) + 1
    gene_ids, counts = list(np.split(cells.gene_ids, cells.indptr[1:-1])), np.split(cells.counts, cells.indptr[1:-1])
    for row in mixed:
        rng, mixture = np.random.default_rng(int(hash64(seeds[row], _PART))), np.zeros(num_genes, dtype=np.int64)
        part, own, other = rng.random(), slice(*cells.indptr[row : row + 2]), slice(*twins.indptr[row : row + 2])
        mixture[cells.gene_ids[own]] += rng.binomial(cells.counts[own].astype(np.int64), part)
        mixture[twins.gene_ids[other]] += rng.binomial(twins.counts[other].astype(np.int64), 1.0 - part)
        seen = np.flatnonzero(mixture)
        if seen.size:
            gene_ids[row], counts[row] = seen.astype(cells.gene_ids.dtype), mixture[seen].astype(cells.counts.dtype)
    return replace(
        cells,
        indptr=row_limits(np.array([len(row) for row in gene_ids])),
        gene_ids=np.concatenate(gene_ids),
        counts=np.concatenate(counts),
    )


def drop_genes(
    cells: CellBlock, panels: Sequence[np.ndarray], seeds: np.ndarray, share: float, min_panel_share: float
) -> tuple[CellBlock, list[np.ndarray]]:
    """
    Shows some cells as another assay might have seen them: a random part of the genes of their panel not measured.

    Args:
        cells (`CellBlock` of C cells): the cells.
        panels (`Sequence[np.ndarray]`): the panels that `panel_index` counts, each `(M,)` ascending gene ids.
        seeds (`np.ndarray` of shape `(C,)`, uint64): seeds of the cells.
        share (`float`): share of cells that lose genes.
        min_panel_share (`float`): a cell keeps a share of its panel that is drawn from here to 1.

    Returns:
        `tuple[CellBlock, list[np.ndarray]]`: the cells, and the panels that their `panel_index` counts now. A cell
        that would be left without any gene keeps them all.
    """
    kept_share = min_panel_share + (1.0 - min_panel_share) * uniform(seeds, _SHARE)
    kept_share[uniform(seeds, _DROPPED) >= share] = 1.0
    rows = row_of_entry(cells.indptr)
    kept = uniform(seeds[rows], _GENE, cells.gene_ids) < kept_share[rows]
    whole = (row_sums(kept, cells.indptr) == 0) | (kept_share == 1.0)
    kept |= whole[rows]
    used, panel_index = np.unique(cells.panel_index, return_inverse=True)
    smaller = [
        panel[uniform(seed, _GENE, panel) < limit]
        for panel, seed, limit in zip(
            (panels[i] for i in cells.panel_index[~whole]), seeds[~whole], kept_share[~whole], strict=True
        )
    ]
    panel_index[~whole] = len(used) + np.arange(len(smaller))
    new_panels = [*(panels[i] for i in used), *smaller]
    needed, panel_index = np.unique(panel_index, return_inverse=True)
    cells = replace(cells.keep(kept), panel_index=panel_index.astype(np.int32))
    return cells, [new_panels[i] for i in needed]


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
    rows = row_of_entry(limits)
    masked = uniform(seeds[rows], _MASK, token_ids) < (max_share * uniform(seeds, _MASK_SHARE))[rows]
    masked[limits[:-1]] = False
    return masked


__all__ = ["drop_genes", "mask_tokens", "mix_with_twins"]
