"""A small corpus in the layout of `scmmgpt data build`, for tests of what reads one."""

import json
from dataclasses import asdict
from pathlib import Path

import anndata
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scmmgpt import ScMMGPTFeatureExtractor
from scmmgpt.data import CellFacts, Ontology, read_facts
from scmmgpt.data.facts import number_facts


def write_corpus(folder: Path, adata: anndata.AnnData, rows_per_group: int = 8, num_shards: int = 2) -> Path:
    """Writes all cells of an AnnData as the split "train", in their order."""
    extractor = ScMMGPTFeatureExtractor.from_genes(list(adata.var_names))
    cells = extractor.align(adata)
    facts, facts_index = number_facts(read_facts(adata.obs, Ontology()))
    labels = [name for name in ("cell_type", "tissue", "dataset_id") if name in adata.obs]
    lists = {"gene_ids": (cells.gene_ids, pa.uint16()), "counts": (cells.counts, pa.uint32())}
    table = pa.table(
        {"cell_id": cells.cell_names}
        | {
            name: pa.ListArray.from_arrays(pa.array(cells.indptr, pa.int32()), pa.array(values.astype(int), kind))
            for name, (values, kind) in lists.items()
        }
        | {"panel_id": np.zeros(len(cells), dtype=np.uint32), "facts_id": (facts_index + 1).astype(np.uint32)}
        | {name: pa.array(adata.obs[name].astype(str)).dictionary_encode() for name in labels}
    )
    (folder / "train").mkdir(parents=True)
    extractor.save_pretrained(folder / "processor")
    # The table also holds what is known of cells of other splits.
    table_of_facts = [asdict(fact) for fact in [CellFacts("of a test cell"), *facts]]
    pq.write_table(pa.Table.from_pylist(table_of_facts), folder / "facts.parquet")
    panels = {"panel_id": [0], "gene_ids": [cells.panel.tolist()], "sources": [["a"]]}
    pq.write_table(pa.table(panels), folder / "panels.parquet")
    shards = {}
    for i, rows in enumerate(np.array_split(np.arange(len(cells)), num_shards)):
        path = folder / "train" / f"shard-{i:05d}.parquet"
        piece = table.slice(int(rows[0]), len(rows))
        pq.write_table(piece, path, row_group_size=rows_per_group, write_page_checksum=True)
        shards[path.relative_to(folder).as_posix()] = {"cells": len(rows), "bytes": path.stat().st_size}
    (folder / "manifest.json").write_text(json.dumps({"shards": shards}))
    return folder
