"""What a build needs of a source: its cells a block at a time, its genes, and counts for ranges of rows.

Cells and genes come first, counts later and in pieces, so that memory does not grow with the source. Must not import
torch or the model.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

ENTRIES_AT_A_TIME = 1 << 24  # values held while a source is read: 64 MB of float32


@dataclass(frozen=True)
class SourceSpec:
    """
    What names a source; enough to open it in another process.

    Args:
        kind (`str`): "h5ad" or "soma".
        name (`str`): unique in a corpus.
        location (`str`): path or URI; `census` for the CELLxGENE Census.
        layer (`str`, *optional*): layer with the raw counts, or `raw`; `X` (SOMA: `raw`) when absent.
        filter (`str`, *optional*): which cells to take, such as `is_primary_data == True and tissue == 'blood'`.
        organism (`str`, *optional*): experiment of a Census, such as `homo_sapiens`.
        census_version (`str`, *optional*): release of the Census.
    """

    kind: str
    name: str
    location: str
    layer: str | None = None
    filter: str | None = None
    organism: str | None = None
    census_version: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class CountSource(ABC):
    """Cells with their counts. `row` is the place of a cell in the source; SOMA's is its `soma_joinid`."""

    by_columns = False  # whether the counts are stored gene by gene, and have to be turned before they are read

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec

    @property
    @abstractmethod
    def num_cells(self) -> int:
        """Cells before the filter."""

    @cached_property
    @abstractmethod
    def var(self) -> pd.DataFrame:
        """One row per gene, indexed by its name."""

    @property
    def other_layers(self) -> list[str]:
        """Where else counts may lie."""
        return []

    @abstractmethod
    def obs_blocks(self, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        """The cells that the filter lets through, `row` ascending, with their `cell_id`, `columns` and those of
        `OBS_COLUMNS` that the source has."""

    @abstractmethod
    def read(self, rows: np.ndarray) -> sp.csr_matrix:
        """Values of the cells at ascending `rows` over all genes, `(len(rows), genes)`, as they are stored."""

    @abstractmethod
    def fingerprint(self) -> tuple[str, int]:
        """A hash that changes when the cells do, and the size in bytes (0 where it is not known)."""

    @abstractmethod
    def notes(self) -> dict[str, Any]:
        """What the source says of itself that a reader of the corpus should know."""

    def as_anndata(self, matrix: sp.csr_matrix, cell_ids: Sequence[str]) -> anndata.AnnData:
        """Values of some cells, with their names and those of the genes. The other layers are there by name, so
        that errors can offer them."""
        empty = sp.csr_matrix(matrix.shape, dtype=np.float32)
        layers = dict.fromkeys(self.other_layers, empty)
        return anndata.AnnData(X=matrix, obs=pd.DataFrame(index=cell_ids), var=self.var, layers=layers)
