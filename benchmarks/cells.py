"""Cells for benchmarks: synthetic, of eight data sets, as shards, `.h5ad` and SOMA experiment with the same order."""

import json
from dataclasses import asdict
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from scmmgpt import ScMMGPTFeatureExtractor
from scmmgpt.data import CellFacts

NUM_DATASETS = 8
CELLS_PER_SHARD = 16_384


def make_cells(num_cells: int, num_genes: int, genes_per_cell: int = 1000, seed: int = 0) -> anndata.AnnData:
    """
    Cells that express about `genes_per_cell` of `num_genes` genes, in an order that knows nothing of their data set.

    512 prototypes of each data set are drawn gene by gene; a cell is a random nine tenths of a prototype's genes.
    """
    rng = np.random.default_rng(seed)
    prototypes = []
    for _ in range(NUM_DATASETS):
        rate = rng.lognormal(0.0, 1.5, num_genes)
        for _ in range(512):
            size = int(genes_per_cell * rng.lognormal(0.0, 0.25) / 0.9)
            genes = np.sort(np.argpartition(rng.exponential(size=num_genes) / rate, size)[:size])
            prototypes.append((genes.astype(np.int32), rng.geometric(0.6, size).astype(np.float32)))
    of_cell = rng.integers(len(prototypes), size=num_cells)
    indices, data, lengths = [], [], []
    for i in of_cell:
        genes, counts = prototypes[i]
        kept = rng.random(len(genes), dtype=np.float32) < 0.9
        indices.append(genes[kept])
        data.append(counts[kept])
        lengths.append(int(kept.sum()))
    limits = np.concatenate([[0], np.cumsum(lengths)])
    matrix = sp.csr_matrix((np.concatenate(data), np.concatenate(indices), limits), shape=(num_cells, num_genes))
    obs = pd.DataFrame(index=[f"cell{i:07d}" for i in range(num_cells)])
    obs["dataset_id"] = pd.Categorical.from_codes(of_cell // 512, [f"dataset{i}" for i in range(NUM_DATASETS)])
    return anndata.AnnData(matrix, obs=obs, var=pd.DataFrame(index=[f"GENE{i}" for i in range(num_genes)]))


def write_shards(adata: anndata.AnnData, folder: Path) -> None:
    """The layout of `scmmgpt data build`, with its encodings."""
    extractor = ScMMGPTFeatureExtractor.from_genes(list(adata.var_names), max_genes=2048)
    extractor.save_pretrained(folder / "processor")
    (folder / "train").mkdir()
    pq.write_table(pa.Table.from_pylist([asdict(CellFacts("B cell"))]), folder / "facts.parquet")
    panel = {"panel_id": [0], "gene_ids": [list(range(adata.n_vars))], "sources": [["synthetic"]]}
    pq.write_table(pa.table(panel), folder / "panels.parquet")
    shards = {}
    for start in range(0, adata.n_obs, CELLS_PER_SHARD):
        cells = adata[start : start + CELLS_PER_SHARD]
        limits = pa.array(cells.X.indptr.astype(np.int32))
        codes = cells.obs["dataset_id"].cat.codes.to_numpy().astype(np.int32)
        columns = {
            "cell_id": cells.obs_names.to_numpy(),
            "gene_ids": pa.ListArray.from_arrays(limits, cells.X.indices.astype(np.uint16)),
            "counts": pa.ListArray.from_arrays(limits, cells.X.data.astype(np.uint32)),
            "panel_id": np.zeros(len(cells), dtype=np.uint32),
            "facts_id": np.zeros(len(cells), dtype=np.uint32),
            "dataset_id": pa.DictionaryArray.from_arrays(codes, list(adata.obs["dataset_id"].cat.categories)),
        }
        name = f"train/shard-{start // CELLS_PER_SHARD:05d}.parquet"
        pq.write_table(
            pa.table(columns),
            folder / name,
            row_group_size=1024,
            compression="zstd",
            use_dictionary=["counts.list.element", "dataset_id"],
            column_encoding={"gene_ids.list.element": "DELTA_BINARY_PACKED"},
        )
        shards[name] = {"cells": len(cells), "bytes": (folder / name).stat().st_size}
    (folder / "manifest.json").write_text(json.dumps({"shards": shards}))


def write_soma(adata: anndata.AnnData, folder: Path) -> None:
    """A SOMA experiment in the layout of the CELLxGENE Census: measurement `RNA`, layer `raw`."""
    import tiledbsoma.io

    tiledbsoma.io.from_anndata(str(folder), adata, measurement_name="RNA", X_layer_name="raw")
