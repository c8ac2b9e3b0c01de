"""`.h5ad` files, read in pieces: compressed rows, compressed columns and dense matrices, layers and `raw`."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import read_elem, sparse_dataset

from .files import sha256_of
from .sources import ENTRIES_AT_A_TIME, CountSource

_SAID_OF_ITSELF = ("license", "licence", "citation", "title", "schema_version", "schema_reference")


class H5adSource(CountSource):
    """An `.h5ad` file. Raises a `ValueError` when it is none, or has no such layer."""

    @cached_property
    def _file(self) -> h5py.File:
        path = Path(self.spec.location)
        if not path.is_file() or not h5py.is_hdf5(path):
            found = "no HDF5 file" if path.is_file() else "not there"
            raise ValueError(f"`sources`: {path} is {found}. Pass .h5ad files, folders of them, or SOMA experiments.")
        try:
            file = h5py.File(path)
        except OSError as error:
            raise ValueError(f"`sources`: {path} is damaged ({error}). Get the file again.") from error
        if not {"obs", "var"} <= set(file):
            raise ValueError(
                f"`sources`: {path} is an HDF5 file of {sorted(file)} without `obs` and `var`, no AnnData."
            )
        return file

    @cached_property
    def _obs(self) -> pd.DataFrame:
        return read_elem(self._file["obs"])

    @property
    def num_cells(self) -> int:
        return len(self._obs)

    @property
    def _is_raw(self) -> bool:
        return self.spec.layer == "raw" and "raw" in self._file

    @cached_property
    def var(self) -> pd.DataFrame:
        return read_elem(self._file["raw/var" if self._is_raw else "var"])

    @property
    def other_layers(self) -> list[str]:
        offered = [*self._file.get("layers", ()), *(["raw"] if "raw" in self._file else [])]
        return [layer for layer in offered if layer != self.spec.layer]

    def obs_blocks(self, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        obs = self._obs.assign(row=np.arange(self.num_cells))
        names = pd.Series(obs.index.astype(str), index=obs.index)
        if not names.is_unique:
            raise ValueError(
                f"`sources`: {self.spec.location} has repeated cell names, such as "
                f"{names[names.duplicated()].iloc[0]!r}, so its cells cannot be told apart. Call "
                "`adata.obs_names_make_unique()` and write it again."
            )
        # The same cell of the same dataset has the same id in every file.
        dataset = self.spec.name
        if "dataset_id" in obs:
            dataset = obs["dataset_id"].astype(object).where(obs["dataset_id"].notna(), self.spec.name).astype(str)
        obs["cell_id"] = dataset + ":" + names
        if self.spec.filter is not None:
            try:
                obs = obs.query(self.spec.filter, engine="python")
            except Exception as error:  # pandas raises whatever the expression does
                raise ValueError(
                    f"`filter`: {self.spec.filter!r} cannot be asked of {self.spec.location}: {error}. Its columns: "
                    f"{', '.join(map(str, self._obs.columns))}."
                ) from error
        yield obs

    @cached_property
    def _matrix(self) -> Any:
        layer = self.spec.layer
        place = "X" if layer is None else ("raw/X" if self._is_raw else f"layers/{layer}")
        if place not in self._file:
            raise ValueError(
                f"`layer`: {self.spec.location} has no {place}. It offers: {', '.join(self.other_layers) or 'X only'}."
            )
        element = self._file[place]
        return sparse_dataset(element) if isinstance(element, h5py.Group) else element

    @property
    def by_columns(self) -> bool:
        return getattr(self._matrix, "format", None) == "csc"

    def read(self, rows: np.ndarray) -> sp.csr_matrix:
        if self.by_columns:
            place = np.full(self.num_cells, -1)
            place[rows] = np.arange(len(rows))
            found = [(place[row], column, value) for row, column, value in self.column_pieces()]
            found = [(row[row >= 0], column[row >= 0], value[row >= 0]) for row, column, value in found]
            row, column, value = map(np.concatenate, zip(*found, strict=True))
            return sp.csr_matrix((value, (row, column)), shape=(len(rows), len(self.var)))
        span = max(1, ENTRIES_AT_A_TIME // max(1, len(self.var)))
        blocks, position = [], 0
        while position < len(rows):
            stop = int(np.searchsorted(rows, rows[position] + span))
            first, last = int(rows[position]), int(rows[stop - 1]) + 1
            blocks.append(sp.csr_matrix(self._matrix[first:last])[rows[position:stop] - first])
            position = stop
        return sp.vstack(blocks, format="csr")

    def column_pieces(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Rows, columns and values of a matrix that is stored by columns, in the order of the file."""
        group = self._matrix.group
        indptr = group["indptr"][:].astype(np.int64)
        for start in range(0, max(1, int(indptr[-1])), ENTRIES_AT_A_TIME):
            stop = min(start + ENTRIES_AT_A_TIME, int(indptr[-1]))
            columns = np.searchsorted(indptr, np.arange(start, stop), side="right") - 1
            yield group["indices"][start:stop], columns, group["data"][start:stop]

    def fingerprint(self) -> tuple[str, int]:
        path = Path(self.spec.location)
        return sha256_of(path), path.stat().st_size

    def notes(self) -> dict[str, Any]:
        notes: dict[str, Any] = {}
        uns = self._file.get("uns", {})
        for name in _SAID_OF_ITSELF:
            if name in uns:
                notes[name] = str(read_elem(uns[name]))
        aside = {name: self._file["obsm"][name] for name in self._file.get("obsm", ()) if "protein" in name.lower()}
        if aside:
            notes["proteins_left_aside"] = {
                name: list(item.shape) if isinstance(item, h5py.Dataset) else len(item.attrs.get("column-order", item))
                for name, item in aside.items()
            }
        if "feature_types" in self.var:
            others = self.var["feature_types"].astype(str).value_counts().drop("Gene Expression", errors="ignore")
            if len(others):
                notes["features_left_aside"] = {str(kind): int(number) for kind, number in others.items()}
        return notes
