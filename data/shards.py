"""The shards of a corpus as a source of cells: ragged Parquet files, read a row group at a time.

Every file is checked as it is read; one that is damaged is named, with the cure. Must not import torch or the model.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from ..processing_scmmgpt import ScMMGPTFeatureExtractor
from .blocks import CellBlock
from .corpus.layout import FACTS, MANIFEST, PANELS, PROCESSOR
from .facts import CellFacts

_COLUMNS = ("cell_id", "gene_ids", "counts", "panel_id", "facts_id")


class ShardSource:
    """
    The cells of one split of a corpus that `scmmgpt data build` has written; a unit is a row group.

    Args:
        folder (`str` or `PathLike`): the corpus.
        split (`str`): "train", "validation" or "test".

    Attributes:
        extractor (`ScMMGPTFeatureExtractor`): the gene vocabulary of the corpus.
        facts (`list[CellFacts]`): the distinct facts of the cells of this split.

    Raises:
        ValueError: when the folder is no corpus, is unfinished, has no cells of this split, or a file is missing, of
            another size than the manifest says, or no Parquet file.
    """

    def __init__(self, folder: str | PathLike, split: str = "train") -> None:
        self.folder, self.split = Path(folder), split
        if not is_corpus(self.folder):
            raise ValueError(
                f"`folder`: {self.folder} has no {MANIFEST}, so it is no finished corpus. Make or finish one with "
                f"`scmmgpt data build SOURCE... {self.folder}`."
            )
        self.extractor = ScMMGPTFeatureExtractor.from_pretrained(self.folder / PROCESSOR)
        self.vocab = self.extractor.vocab
        facts = [CellFacts(**row) for row in self._table(FACTS).to_pylist()]
        panels = self._table(PANELS)["gene_ids"]
        self.panels = [np.asarray(panel.values, dtype=np.int64) for panel in panels]
        self._shards = self._find_shards()
        surveys = [self._survey(path) for path in tqdm(self._shards, "opening shards", leave=False, delay=2)]
        groups = [sizes for sizes, _ in surveys]
        self._shard_of_unit = np.repeat(np.arange(len(groups)), [len(sizes) for sizes in groups])
        self._first_unit = np.cumsum([0, *(len(sizes) for sizes in groups)])
        self.unit_sizes = np.concatenate(groups)
        # The table is of all splits; what is known of test cells is no business of training.
        used = np.unique(np.concatenate([facts_ids for _, facts_ids in surveys]))
        if used[-1] >= len(facts):
            raise self._damaged(self.folder / FACTS, f"it has {len(facts)} rows, and cells name {used[-1]}")
        self.facts = [facts[i] for i in used]
        self._row_of_facts_id = np.searchsorted(used, np.arange(len(facts))).astype(np.int32)

    def _find_shards(self) -> list[Path]:
        """The files of the split, as the manifest lists them."""
        manifest = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        listed = {name: entry["bytes"] for name, entry in manifest["shards"].items()}
        shards = sorted(self.folder / name for name in listed if name.startswith(f"{self.split}/"))
        if not shards:
            splits = sorted({name.partition("/")[0] for name in listed})
            raise ValueError(f"`split`={self.split!r}: {self.folder} has cells of {splits}. Choose one of these.")
        for path in shards:
            size = listed[path.relative_to(self.folder).as_posix()]
            if not path.is_file() or path.stat().st_size != size:
                found = f"{path.stat().st_size} bytes" if path.is_file() else "missing"
                raise self._damaged(path, f"{found}, and the manifest says {size} bytes")
        return shards

    def _damaged(self, path: Path, problem: object) -> ValueError:
        return ValueError(
            f"{path} is damaged: {problem}. Delete it and run `scmmgpt data build` with {self.folder} again, which "
            "writes it anew; `scmmgpt data verify` checks the whole corpus."
        )

    @contextmanager
    def _reading(self, path: Path) -> Iterator[pq.ParquetFile]:
        """Opened anew each time: a handle must not cross into another process."""
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                yield file
        except (pa.ArrowException, OSError, KeyError) as error:
            raise self._damaged(path, error) from error

    def _table(self, name: str) -> pa.Table:
        with self._reading(self.folder / name) as file:
            return file.read()

    def _survey(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Cells of each row group, and the distinct ids of facts."""
        with self._reading(path) as file:
            missing = sorted(set(_COLUMNS) - set(file.schema_arrow.names))
            if missing:
                raise self._damaged(path, f"it has no columns {missing}")
            groups = range(file.num_row_groups)
            sizes = np.array([file.metadata.row_group(group).num_rows for group in groups], dtype=np.int64)
            return sizes, np.unique(file.read(columns=["facts_id"])["facts_id"].to_numpy())

    def read(self, unit: int) -> CellBlock:
        """The cells of a unit. Raises a `ValueError` when its file is damaged."""
        shard = self._shard_of_unit[unit]
        path = self._shards[shard]
        with self._reading(path) as file:
            # One thread: loader workers run beside each other.
            table = file.read_row_group(int(unit - self._first_unit[shard]), columns=list(_COLUMNS), use_threads=False)
        columns = {name: table[name].combine_chunks() for name in _COLUMNS}
        limits, genes = _ragged(columns["gene_ids"])
        limits_of_counts, counts = _ragged(columns["counts"])
        if not np.array_equal(limits, limits_of_counts):
            raise self._damaged(path, "a cell has more genes than counts, or fewer")
        block = CellBlock(
            limits,
            genes,
            counts,
            columns["panel_id"].to_numpy().astype(np.int32),
            self._row_of_facts_id[columns["facts_id"].to_numpy()],
            columns["cell_id"].to_numpy(zero_copy_only=False),
        )
        for name, values, size in (
            ("gene_ids", genes, len(self.vocab)),
            ("panel_id", block.panel_index, len(self.panels)),
        ):
            if values.max(initial=0) >= size:
                raise self._damaged(path, f"{name} reaches {values.max()}, and there are {size}")
        return block

    def labels(self, column: str) -> np.ndarray:
        """A column of the shards for all cells, `(C,)` object; `None` where nothing is known."""
        parts = []
        for path in tqdm(self._shards, f"reading {column}", leave=False, delay=2):
            with self._reading(path) as file:
                if column not in file.schema_arrow.names:
                    raise ValueError(f"`column` is {column!r}, but the shards have: {file.schema_arrow.names}.")
                values = file.read(columns=[column])[column].to_pandas().astype(object)
                parts.append(values.where(values.notna(), None).to_numpy())
        return np.concatenate(parts)


def is_corpus(path: str | PathLike) -> bool:
    """Whether a path is a corpus that `scmmgpt data build` has finished: the manifest is written last."""
    return (Path(path) / MANIFEST).is_file()


def _ragged(lists: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """Limits `(C + 1,)` int64 and entries `(N,)` of a column of lists, the entries without a copy."""
    limits = lists.offsets.to_numpy().astype(np.int64)
    return limits - limits[0], lists.values.to_numpy()[limits[0] : limits[-1]]


__all__ = ["ShardSource", "is_corpus"]
