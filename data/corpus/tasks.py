"""The work of a build: a chunk of cells of one source, sorted by destination; then a shard, gathered from all chunks.

Where a cell goes and its place there are a hash of its id, so no task needs to know of another, and the bytes written
depend neither on the order of the tasks nor on how many run at once.
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from ...encoding_scmmgpt import row_limits, take_rows
from ...feature_extraction_scmmgpt import AlignedCounts, ScMMGPTFeatureExtractor
from .columns import read_turned, turn_to_rows
from .files import sha256_of, whole_file, write_json
from .find import open_source
from .layout import (
    NO_COUNTS,
    OBS_COLUMNS,
    PROCESSOR,
    REPEATED,
    ROWS_PER_GROUP,
    all_descriptions_path,
    by_rows_path,
    cells_path,
    chunk_path,
    gene_id_type,
    list_of,
    repeated_path,
    shard_name,
    shard_record_path,
    shard_schema,
)
from .plan import PlannedSource
from .settings import BuildSettings
from .sources import CountSource
from .survey import counts_of

_CELLS_AT_A_TIME = 2048  # whose genes are matched and sorted together


def turn_source(folder: Path, source: PlannedSource) -> int:
    """Turns the counts of a source that stores them by columns. Returns its cells."""
    rows = pq.read_table(cells_path(folder, source.number), columns=["row"])["row"].to_numpy()
    turn_to_rows(open_source(source.spec), rows, by_rows_path(folder, source.number), source.cells_per_chunk)
    return len(rows)


def write_chunk(folder: Path, source: PlannedSource, chunk: int, settings: BuildSettings, vocab_sha256: str) -> int:
    """
    Reads a chunk of a source and writes its cells with their destinations, sorted by them.

    Returns:
        `int`: cells of the chunk, dropped ones too.
    """
    extractor = _extractor(folder / PROCESSOR, vocab_sha256)
    cells = pq.ParquetFile(cells_path(folder, source.number)).read_row_group(chunk)
    key = cells["key"].to_numpy()
    description = cells["description"].to_numpy() + source.first_description
    where = pq.read_table(all_descriptions_path(folder), columns=["first_shard", "num_shards"])
    first_shard, num_shards = (where[name].to_numpy() for name in ("first_shard", "num_shards"))
    destination = first_shard[description] + (key % num_shards[description].astype(np.uint64)).astype(np.int64)
    if repeated_path(folder, source.number).exists():
        repeated = np.load(repeated_path(folder, source.number)) - chunk * source.cells_per_chunk
        destination[repeated[(repeated >= 0) & (repeated < len(cells))]] = REPEATED

    taken = np.flatnonzero(destination != REPEATED)
    lengths = np.zeros(len(cells), dtype=np.int64)
    pieces = list(_aligned(folder, source, chunk, cells.take(taken), taken, settings, extractor))
    gene_ids, counts, found = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True)) if pieces else ([],) * 3
    lengths[taken] = found
    destination[(lengths == 0) & (destination != REPEATED)] = NO_COUNTS

    order = np.lexsort((key, destination))
    indptr, gene_ids, counts = take_rows(row_limits(lengths), order, np.asarray(gene_ids), np.asarray(counts))
    table = pa.table(
        {
            "destination": destination[order].astype(np.int32),
            "key": key[order],
            "description": description[order].astype(np.int32),
            "cell_id": cells["cell_id"].take(order),
            "gene_ids": _lists(indptr, gene_ids, gene_id_type(len(extractor.vocab))),
            "counts": _lists(indptr, counts, pa.uint32()),
        }
    ).combine_chunks()
    with (
        whole_file(chunk_path(folder, source.number, chunk)) as part,
        pa.OSFile(str(part), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table)
    return len(cells)


@functools.lru_cache(maxsize=1)
def _extractor(folder: Path, sha256: str) -> ScMMGPTFeatureExtractor:
    """Read once in a process, for it takes a second. `sha256` keeps apart what a folder held before."""
    return ScMMGPTFeatureExtractor.from_pretrained(folder)


def _aligned(
    folder: Path,
    planned: PlannedSource,
    chunk: int,
    cells: pa.Table,
    positions: np.ndarray,
    settings: BuildSettings,
    extractor: ScMMGPTFeatureExtractor,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Gene ids, counts and numbers of genes of some cells at a time; `positions` is their place in the chunk."""
    source, turned = open_source(planned.spec), None
    if planned.survey["by_columns"]:
        shape = (planned.cells_in(chunk), len(source.var))
        turned = read_turned(by_rows_path(folder, planned.number), chunk, shape)
    gene_id = gene_id_type(len(extractor.vocab)).to_pandas_dtype()
    rows, names = cells["row"].to_numpy(), cells["cell_id"].to_pylist()
    for start in range(0, len(rows), _CELLS_AT_A_TIME):
        piece = slice(start, start + _CELLS_AT_A_TIME)
        matrix = source.read(rows[piece]) if turned is None else turned[positions[piece]]
        aligned = _align(source, matrix, names[piece], settings, extractor)
        yield aligned.gene_ids.astype(gene_id), aligned.counts.astype(np.uint32), np.diff(aligned.indptr)


def _align(
    source: CountSource,
    matrix: sp.csr_matrix,
    names: list[str],
    settings: BuildSettings,
    extractor: ScMMGPTFeatureExtractor,
) -> AlignedCounts:
    try:
        return extractor.align(counts_of(source, matrix, names, settings), keep_empty_cells=True)
    except ValueError as error:
        raise ValueError(f"{source.spec.location}: {error} Its first cells were counts, others are not.") from error


def _lists(indptr: np.ndarray, values: np.ndarray, kind: pa.DataType) -> pa.ListArray:
    offsets = pa.array(indptr.astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(values.astype(kind.to_pandas_dtype())), type=list_of(kind))


def write_shard(
    folder: Path, split: str, shard: int, destination: int, chunks: Sequence[Path], vocab_size: int
) -> int:
    """
    Gathers the cells of a shard from all chunks, orders them by their hash and writes the Parquet file and its record.

    Returns:
        `int`: its cells.
    """
    table = pa.concat_tables([_slice(path, destination) for path in chunks]).combine_chunks()
    order = np.argsort(table["key"].to_numpy(), kind="stable")
    descriptions = pq.read_table(all_descriptions_path(folder))
    schema = shard_schema(gene_id_type(vocab_size))
    name = shard_name(split, shard)
    entries = total_counts = 0
    with (
        whole_file(folder / name) as part,
        pq.ParquetWriter(part, schema, compression="zstd", use_dictionary=_WORDS, column_encoding=_ENCODING) as writer,
    ):
        for start in range(0, len(order), ROWS_PER_GROUP):
            group = _row_group(table.take(order[start : start + ROWS_PER_GROUP]), descriptions, schema)
            writer.write_table(group, row_group_size=ROWS_PER_GROUP)
            entries += int(np.sum(group["num_genes"].to_numpy(), dtype=np.int64))
            total_counts += int(np.sum(group["total_counts"].to_numpy()))
    path = folder / name
    record = {"cells": len(order), "entries": entries, "total_counts": total_counts, "bytes": path.stat().st_size}
    write_json(shard_record_path(folder, split, shard), record | {"sha256": sha256_of(path)})
    return len(order)


_WORDS = ["cell_id", "panel_id", "facts_id", "counts.list.element", *OBS_COLUMNS]
_ENCODING = {"gene_ids.list.element": "DELTA_BINARY_PACKED"}  # ascending numbers


def _slice(path: Path, destination: int) -> pa.Table:
    """The cells of a chunk that go to a destination, in memory."""
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
        start, stop = np.searchsorted(table["destination"].to_numpy(), [destination, destination + 1])
        return table.take(np.arange(start, stop))


def _row_group(cells: pa.Table, descriptions: pa.Table, schema: pa.Schema) -> pa.Table:
    cells = cells.combine_chunks()
    said = descriptions.take(cells["description"])
    counts, limits = cells["counts"].chunk(0), cells["counts"].chunk(0).offsets.to_numpy()
    values = counts.flatten().to_numpy().astype(np.uint64)
    columns = {
        "cell_id": cells["cell_id"],
        "gene_ids": cells["gene_ids"],
        "counts": cells["counts"],
        "num_genes": np.diff(limits).astype(np.uint32),
        "total_counts": np.add.reduceat(values, limits[:-1] - limits[0]),
        **{name: said[name].cast(schema.field(name).type) for name in ("panel_id", "facts_id", *OBS_COLUMNS)},
    }
    return pa.table(columns, schema=schema)


def unshipped(path: Path) -> pa.Table:
    """The dropped cells of a chunk: `cell_id` and `destination`, which says why."""
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all().select(["cell_id", "destination"])
        return table.take(np.arange(np.searchsorted(table["destination"].to_numpy(), 0)))
