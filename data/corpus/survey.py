"""The first look at a source: its hash, its cells and what is said of them, its genes, and whether it can be used.

Counts are read of a few cells only. What is found lies in the work folder, so an interrupted build looks once.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from ...feature_extraction_scmmgpt import ScMMGPTFeatureExtractor
from ..facts import CellFacts, read_facts
from ..h5ad import name_genes, recover_counts
from ..ontology import Ontology
from .files import whole_file, write_json
from .find import open_source
from .layout import OBS_COLUMNS, cells_path, descriptions_path, survey_path
from .settings import BuildSettings
from .sources import CountSource, SourceSpec

_CELLS_TO_CHECK = 256
_PROTEIN_NAME = re.compile(r"(anti-)?(CD\d|HLA-|TCR)", re.IGNORECASE)
_CELLS_SCHEMA = pa.schema(
    [("row", pa.int64()), ("key", pa.uint64()), ("cell_id", pa.string()), ("description", pa.int32())]
)
FACT_FIELDS = tuple(field.name for field in fields(CellFacts))
FACT_PREFIX = "fact:"  # of the columns of a description that hold its facts
GROUP = "split_value"  # of a description: its value of `split_key`


def survey_source(folder: Path, number: int, spec: SourceSpec, settings: BuildSettings) -> int:
    """
    Looks at a source and writes what it finds to the work folder.

    Args:
        folder (`Path`): the corpus.
        number (`int`): place of the source among all.
        spec, settings: the source, and what the user wants.

    Returns:
        `int`: cells of the source.
    """
    source = open_source(spec)
    found: dict[str, Any] = {"refused": None}
    try:
        symbols, ensembl_ids = genes_of(source)
        found |= {"cells": source.num_cells, "symbols": symbols, "ensembl_ids": ensembl_ids}
        found["sha256"], found["bytes"] = source.fingerprint()
        found["notes"] = source.notes()
        found |= _write_cells(folder, number, source, settings)
        found["by_columns"] = source.by_columns
        _check(source, pq.ParquetFile(cells_path(folder, number)), settings)
    except ValueError as error:
        found["refused"] = str(error)
    write_json(survey_path(folder, number), found)
    return found.get("cells", 0)


def genes_of(source: CountSource) -> tuple[list[str], list[str]]:
    """Symbols and Ensembl ids (`""` where there is none) of the genes of a source, without other features."""
    nothing = anndata.AnnData(X=sp.csr_matrix((0, len(source.var)), dtype=np.float32), var=source.var.copy())
    named = name_genes(nothing)
    ids = ["" if name in ("nan", "None") else name for name in named.var["ensembl_id"].astype(str)]
    return list(map(str, named.var_names)), ids


def counts_of(
    source: CountSource, matrix: sp.csr_matrix, cell_ids: Sequence[str], settings: BuildSettings
) -> anndata.AnnData:
    """Cells as the feature extractor reads them, taken back to counts if that is asked for."""
    cells = source.as_anndata(matrix, cell_ids)
    return recover_counts(cells) if settings.recover_counts else cells


def _check(source: CountSource, cells: pq.ParquetFile, settings: BuildSettings) -> None:
    """Refuses proteins, and values that are no counts, with the cure."""
    names = source.var.index.astype(str)
    kinds = set(source.var["feature_types"].astype(str)) if "feature_types" in source.var else set()
    proteins = [name for name in names if _PROTEIN_NAME.match(name)]
    if (kinds and "Gene Expression" not in kinds) or 3 * len(proteins) >= len(names):
        raise ValueError(
            f"`sources`: the {len(names)} features of {source.spec.location} are surface proteins, not genes "
            f"({', '.join(map(repr, (proteins or list(names))[:4]))}, ...). Pass the RNA counts of these cells."
        )
    if cells.num_row_groups == 0:
        raise ValueError(f"`sources`: no cell of {source.spec.location} is left by the filter {source.spec.filter!r}.")
    first = cells.read_row_group(0, columns=["row", "cell_id"]).slice(0, _CELLS_TO_CHECK)
    matrix, names = source.read(first["row"].to_numpy()), first["cell_id"].to_pylist()
    symbols, ensembl_ids = genes_of(source)
    own = ScMMGPTFeatureExtractor.from_genes(symbols, ensembl_ids)
    try:
        own.align(counts_of(source, matrix, names, settings), keep_empty_cells=True)
    except ValueError as error:
        raise ValueError(f"{source.spec.location}: {_for_a_build(str(error))}") from error


def _for_a_build(message: str) -> str:
    """The cure in the words of this command."""
    message = message.replace(
        "recover them from log-normalised values with `scmmgpt.data.recover_counts`",
        "pass `--recover-counts` if they are log-normalised",
    )
    return re.sub(r'`layer="([^"]*)"`', r"`--layer \1`", message)


def _write_cells(folder: Path, number: int, source: CountSource, settings: BuildSettings) -> dict[str, Any]:
    """Writes the cells that the filter lets through, and the distinct things that `obs` says of them."""
    descriptions = _Descriptions(settings)
    keys, datasets = [], set()
    wanted = [key for key in (settings.label_key, settings.split_key) if key]

    def tables() -> Iterator[pa.Table]:
        for block in source.obs_blocks(wanted):
            ids = block["cell_id"].to_numpy(dtype=object)
            keys.append(cell_keys(ids, settings.seed))
            datasets.update(cell_id.partition(":")[0] for cell_id in ids)
            arrays = [block["row"].to_numpy(), keys[-1], ids, descriptions.number(block)]
            yield pa.table(arrays, schema=_CELLS_SCHEMA)

    with whole_file(cells_path(folder, number)) as part, pq.ParquetWriter(part, _CELLS_SCHEMA) as writer:
        for table in _of_size(tables(), settings.cells_per_chunk):
            writer.write_table(table, row_group_size=settings.cells_per_chunk)
    with whole_file(descriptions_path(folder, number)) as part:
        pq.write_table(descriptions.table(), part)
    all_keys = np.concatenate(keys) if keys else np.empty(0, dtype=np.uint64)
    if len(np.unique(all_keys)) < len(all_keys):
        raise ValueError(
            f"`sources`: {source.spec.location} has cells with the same id. Make the names of its cells unique."
        )
    return {"kept": len(all_keys), "datasets": sorted(datasets)}


def cell_keys(cell_ids: Sequence[str], seed: int) -> np.ndarray:
    """
    A 64-bit keyed hash (BLAKE2b) of each cell's id, uint64: it decides the cell's shard and its place in it.

    Of 100 million cells two share one with a chance of 3 in 10,000.
    """
    key = seed.to_bytes(8, "little", signed=True)
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8, key=key).digest() for name in cell_ids)
    return np.frombuffer(digests, dtype="<u8")


def _of_size(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of exactly `rows` rows, but for the last."""
    pending = _CELLS_SCHEMA.empty_table()
    for table in tables:
        pending = pa.concat_tables([pending, table])
        while len(pending) >= rows:
            yield pending.slice(0, rows)
            pending = pending.slice(rows)
    if len(pending):
        yield pending


class _Descriptions:
    """The distinct rows of `obs`, numbered as they come, with the facts of each."""

    def __init__(self, settings: BuildSettings) -> None:
        self._settings = settings
        self._numbers: dict[tuple[str | None, ...], int] = {}
        self._cells: list[int] = []

    def number(self, obs: pd.DataFrame) -> np.ndarray:
        """The number of each cell's description, int32."""
        group, columns = np.zeros(len(obs), dtype=np.int64), []
        for column in self._columns(obs):
            codes, words = _codes(column, len(obs))
            group = pd.factorize(group * (len(words) + 1) + codes + 1)[0]
            columns.append((codes, words))
        first = np.unique(group, return_index=True)[1]
        distinct = [[words[code] if code >= 0 else None for code in codes[first]] for codes, words in columns]
        rows = list(zip(*distinct, strict=True))
        numbers = np.array([self._numbers.setdefault(row, len(self._numbers)) for row in rows], dtype=np.int32)
        self._cells += [0] * (len(self._numbers) - len(self._cells))
        for number, cells in zip(numbers, np.bincount(group, minlength=len(rows)), strict=True):
            self._cells[number] += int(cells)
        return numbers[group]

    def _columns(self, obs: pd.DataFrame) -> list[pd.Series | None]:
        """Those of `OBS_COLUMNS`, then the value to split by."""
        label_key, split_key = self._settings.label_key, self._settings.split_key
        for argument, key in (("label_key", label_key), ("split_key", split_key)):
            if key is not None and key not in obs:
                raise ValueError(
                    f"`{argument}` is {key!r}, but the columns of `obs` are: {', '.join(map(str, obs.columns))}. Pass "
                    "a column that every source has."
                )
        columns = {name: obs[name] for name in OBS_COLUMNS if name in obs}
        if label_key is not None:
            columns["cell_type"] = obs[label_key]
            if label_key != "cell_type":
                columns.pop("cell_type_ontology_term_id", None)  # it is that of another column
        return [*map(columns.get, OBS_COLUMNS), None if split_key is None else obs[split_key]]

    def table(self) -> pa.Table:
        """One row for each description: columns of `obs`, `fact:` columns and the number of cells."""
        rows = pd.DataFrame(list(self._numbers), columns=[*OBS_COLUMNS, GROUP], dtype=object)
        facts = read_facts(rows[list(OBS_COLUMNS)], Ontology()) if len(rows) else []
        told = rows["cell_type_ontology_term_id"]
        rows["cell_type_ontology_term_id"] = told.where(told.notna(), [fact.cell_type_id for fact in facts])
        for name in FACT_FIELDS:
            rows[f"{FACT_PREFIX}{name}"] = [getattr(fact, name) for fact in facts]
        schema = [(name, pa.string()) for name in rows.columns]
        rows["cells"] = self._cells
        return pa.Table.from_pandas(rows, pa.schema([*schema, ("cells", pa.int64())]), preserve_index=False)


def _codes(column: pd.Series | None, length: int) -> tuple[np.ndarray, list[str]]:
    """Numbers of the distinct values of a column, -1 where it is empty, and the values as words."""
    if column is None:
        return np.full(length, -1, dtype=np.int64), []
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.codes.to_numpy(dtype=np.int64), list(map(str, column.cat.categories))
    codes, values = pd.factorize(column)
    return codes.astype(np.int64), list(map(str, values))
