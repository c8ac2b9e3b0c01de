"""Counts that are stored gene by gene, turned into rows in one pass with bounded memory.

Reading a few thousand cells of such a matrix means reading all of it, so doing so for every chunk would take hours.
"""

import shutil
import uuid
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from .files import PART, room_on_disk
from .h5ad_source import H5adSource

_DTYPE = np.dtype([("row", "<u4"), ("column", "<u4"), ("value", "<f8")])


def turn_to_rows(source: H5adSource, rows: np.ndarray, folder: Path, cells_per_chunk: int) -> None:
    """
    Writes the entries of some cells to a folder, one file for each chunk of them.

    Args:
        source ([`H5adSource`]): a file whose counts are stored by columns.
        rows (`np.ndarray` of shape `(C,)`, int64): the cells, ascending.
        folder (`Path`): is there when everything is in it.
        cells_per_chunk (`int`): cells of each file.
    """
    place = np.full(source.num_cells, -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}{PART}")
    try:
        with room_on_disk(folder):
            part.mkdir(parents=True)
            for row, column, value in source.column_pieces():
                position = place[row]
                order = np.argsort(position, kind="stable")
                order = order[np.searchsorted(position[order], 0) :]
                chunk, within = np.divmod(position[order], cells_per_chunk)
                entries = np.empty(len(order), dtype=_DTYPE)
                entries["row"], entries["column"], entries["value"] = within, column[order], value[order]
                starts = np.flatnonzero(np.diff(chunk, prepend=-1))
                for start, piece in zip(starts, np.split(entries, starts[1:]), strict=False):
                    with open(part / f"{chunk[start]:06d}", "ab") as file:
                        file.write(piece.tobytes())
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_turned(folder: Path, chunk: int, shape: tuple[int, int]) -> sp.csr_matrix:
    """The cells of a chunk, `(cells, genes)`."""
    path = folder / f"{chunk:06d}"
    entries = np.fromfile(path, dtype=_DTYPE) if path.exists() else np.empty(0, dtype=_DTYPE)
    return sp.csr_matrix((entries["value"], (entries["row"], entries["column"])), shape=shape)
