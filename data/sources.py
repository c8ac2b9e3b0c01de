"""Where training reads cells from: memory, an `.h5ad` that stays on disk, the shards of a corpus, or several of these.

A source is read a unit at a time, a run of about a thousand neighbouring cells, so that memory does not grow with it.
Must not import torch or the model.
"""

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Protocol

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset

from ..processing_scmmgpt import AlignedCounts, ScMMGPTFeatureExtractor
from .blocks import CellBlock
from .facts import CellFacts, number_facts, read_facts
from .h5ad import check_h5ad
from .ontology import Ontology

if TYPE_CHECKING:
    from pandas import DataFrame

# Enough to read at disk speed, few enough that a window of several units is a good shuffle.
UNIT_CELLS = 1024


class CellSource(Protocol):
    """
    Cells that are read a unit at a time.

    Attributes:
        vocab (`Sequence[str]`): the gene vocabulary that its gene ids belong to.
        panels (`Sequence[np.ndarray]`): its gene panels, each `(M,)` int64, ascending gene ids.
        facts (`Sequence[CellFacts]`): the distinct facts of its cells.
        unit_sizes (`np.ndarray` of shape `(U,)`, int64): cells of each unit.
    """

    vocab: Sequence[str]
    panels: Sequence[np.ndarray]
    facts: Sequence[CellFacts]
    unit_sizes: np.ndarray

    def read(self, unit: int) -> CellBlock:
        """The cells of a unit."""

    def labels(self, column: str) -> np.ndarray:
        """A column of `obs` for all cells, `(C,)` object, in the order of the units; `None` where nothing is known."""


class AnnDataSource:
    """
    Cells in memory.

    Args:
        adata (`AnnData`): raw counts.
        extractor (`ScMMGPTFeatureExtractor`): matches the genes.
        ontology (`Ontology`): where labels are looked up.
        label_key (`str`): column of `obs` with the cell type.
        layer (`str`, *optional*): layer with the counts, or `raw`; `X` when absent.

    Raises:
        ValueError: as [`ScMMGPTFeatureExtractor.align`] and [`CellFacts.from_obs`] do.
    """

    def __init__(
        self,
        adata: AnnData,
        extractor: ScMMGPTFeatureExtractor,
        ontology: Ontology,
        label_key: str = "cell_type",
        layer: str | None = None,
    ) -> None:
        self.vocab = extractor.vocab
        self.facts, facts_index = number_facts(read_facts(adata.obs, ontology, label_key))
        aligned = extractor.align(adata, layer=layer)
        self.panels = [aligned.panel]
        self.unit_sizes = _unit_sizes(len(aligned))
        self._obs = adata.obs
        self._block = _compact_block(aligned, facts_index, len(self.vocab))

    def read(self, unit: int) -> CellBlock:
        """The cells of a unit."""
        return self._block.select(np.arange(unit * UNIT_CELLS, unit * UNIT_CELLS + self.unit_sizes[unit]))

    def labels(self, column: str) -> np.ndarray:
        """A column of `obs` for all cells, `(C,)` object."""
        return _obs_labels(self._obs, column)


class H5adSource:
    """
    The cells of an `.h5ad` file whose counts stay on disk.

    Args:
        path (`str` or `PathLike`): the file; its counts lie dense or by rows (CSR).
        extractor, ontology, label_key, layer: as for [`AnnDataSource`].

    Raises:
        ValueError: the file is none, has no such layer, keeps its counts by columns, or its first cells are unusable.
    """

    def __init__(
        self,
        path: str | PathLike,
        extractor: ScMMGPTFeatureExtractor,
        ontology: Ontology,
        label_key: str = "cell_type",
        layer: str | None = None,
    ) -> None:
        self.path, self.vocab, self._extractor = check_h5ad(path), extractor.vocab, extractor
        with h5py.File(self.path) as file:
            is_raw = layer == "raw" and "raw" in file
            self._place = "X" if layer is None else ("raw/X" if is_raw else f"layers/{layer}")
            self._check_layout(file)
            self._obs = read_elem(file["obs"])
            self._var = read_elem(file["raw/var" if is_raw else "var"])
        self.facts, self._facts_index = number_facts(read_facts(self._obs, ontology, label_key))
        self.unit_sizes = _unit_sizes(len(self._obs))
        self.panels = [self._align(0).panel]

    def _check_layout(self, file: h5py.File) -> None:
        if self._place not in file:
            offered = [*file.get("layers", ()), *(["raw"] if "raw" in file else [])]
            raise ValueError(
                f"`layer`: {self.path} has no {self._place}; it has {', '.join(offered) or 'no layers'}. Pass one of "
                "these, or none for X."
            )
        if file[self._place].attrs.get("encoding-type") == "csc_matrix":
            raise ValueError(
                f"`path`: {self.path} keeps its counts by genes (CSC), so that a thousand cells cannot be read alone. "
                "Make a corpus of it with `scmmgpt data build`, or write it again with `adata.X.tocsr()`."
            )

    def _align(self, unit: int) -> AlignedCounts:
        start = unit * UNIT_CELLS
        stop = start + int(self.unit_sizes[unit])
        # Opened anew each time: a handle must not cross into another process.
        with h5py.File(self.path) as file:
            matrix = file[self._place]
            counts = sparse_dataset(matrix)[start:stop] if isinstance(matrix, h5py.Group) else matrix[start:stop]
        names = pd.DataFrame(index=self._obs.index[start:stop])
        try:
            return self._extractor.align(AnnData(counts, obs=names, var=self._var))
        except ValueError as error:
            raise ValueError(f"{self.path}, cells {start} to {stop - 1}: {error}") from error

    def read(self, unit: int) -> CellBlock:
        """The cells of a unit."""
        start = unit * UNIT_CELLS
        facts_index = self._facts_index[start : start + self.unit_sizes[unit]]
        return _compact_block(self._align(unit), facts_index, len(self.vocab))

    def labels(self, column: str) -> np.ndarray:
        """A column of `obs` for all cells, `(C,)` object."""
        return _obs_labels(self._obs, column)


class MixedSource:
    """
    Several sources of one gene vocabulary as one.

    Args:
        sources (`Sequence[CellSource]`): the sources.
        names (`Sequence[str]`): what `labels("source")` calls them.

    Raises:
        ValueError: when there is none, or their vocabularies differ.
    """

    def __init__(self, sources: Sequence[CellSource], names: Sequence[str]) -> None:
        if not sources:
            raise ValueError("`sources` is empty. Pass at least one source of cells.")
        for source, name in zip(sources, names, strict=True):
            if list(source.vocab) != list(sources[0].vocab):
                raise ValueError(
                    f"`sources`: {name} and {names[0]} have different gene vocabularies ({len(source.vocab)} and "
                    f"{len(sources[0].vocab)} tokens). Build both with the same one: `scmmgpt data build --genes`."
                )
        self._sources, self._names = sources, names
        self.vocab = sources[0].vocab
        self.panels = [panel for source in sources for panel in source.panels]
        self.facts, facts_index = number_facts([fact for source in sources for fact in source.facts])
        self._facts_index = np.split(facts_index, np.cumsum([len(source.facts) for source in sources])[:-1])
        self._first_panel = np.cumsum([0, *(len(source.panels) for source in sources)])
        self._first_unit = np.cumsum([0, *(len(source.unit_sizes) for source in sources)])
        self.unit_sizes = np.concatenate([source.unit_sizes for source in sources])

    def read(self, unit: int) -> CellBlock:
        """The cells of a unit."""
        which = int(np.searchsorted(self._first_unit, unit, side="right")) - 1
        block = self._sources[which].read(unit - int(self._first_unit[which]))
        return replace(
            block,
            panel_index=(block.panel_index + self._first_panel[which]).astype(np.int32),
            facts_index=self._facts_index[which][block.facts_index],
        )

    def labels(self, column: str) -> np.ndarray:
        """A column of `obs` for all cells, `(C,)` object; `source` is the name of the source."""
        if column == "source":
            sizes = [int(source.unit_sizes.sum()) for source in self._sources]
            return np.repeat(np.array(self._names, dtype=object), sizes)
        return np.concatenate([source.labels(column) for source in self._sources])


def gene_dtype(vocab_size: int) -> np.dtype:
    """The smallest type of gene ids, as shards have it; blocks of one vocabulary then join without conversion."""
    return np.dtype(np.uint16 if vocab_size < 2**16 else np.uint32)


def _unit_sizes(num_cells: int) -> np.ndarray:
    return np.diff(np.append(np.arange(0, num_cells, UNIT_CELLS), num_cells)).astype(np.int64)


def _compact_block(aligned: AlignedCounts, facts_index: np.ndarray, vocab_size: int) -> CellBlock:
    return CellBlock(
        aligned.indptr,
        aligned.gene_ids.astype(gene_dtype(vocab_size)),
        aligned.counts.astype(np.uint32),
        np.zeros(len(aligned), dtype=np.int32),
        facts_index,
        np.array(aligned.cell_names, dtype=object),
    )


def _obs_labels(obs: "DataFrame", column: str) -> np.ndarray:
    if column not in obs:
        raise ValueError(f"`column` is {column!r}, but the columns of `obs` are: {', '.join(map(str, obs.columns))}.")
    values = obs[column].astype(object)
    return values.where(values.notna(), None).to_numpy()


__all__ = ["UNIT_CELLS", "AnnDataSource", "CellSource", "H5adSource", "MixedSource"]
