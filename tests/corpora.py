"""Small sources of every kind, and what a corpus holds, for the tests of `scmmgpt data build`."""

import hashlib
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import scipy.sparse as sp

from scmmgpt import ScMMGPTFeatureExtractor

GENES = [f"GENE{i}" for i in range(50)]
LABELS = ["B cell", "T cell", "monocyte"]


def make_cells(study: str, num_cells: int = 60, seed: int = 0, genes: list[str] = GENES) -> anndata.AnnData:
    """Counts of two donors; the last cell has none at all."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.6, (num_cells, len(genes))).astype(np.float32)
    counts[-1] = 0
    counts[:-1, 0] += 1  # nobody else is empty
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(rng.choice(LABELS, num_cells)),
            "author": rng.choice(["x", "y"], num_cells),
            "tissue": "blood",
            "assay": rng.choice(["10x 3' v2", "unknown"], num_cells),
            "disease": "normal",
            "donor_id": rng.choice(["d1", "d2"], num_cells),
            "dataset_id": f"dataset {study}",
            "study": study,
            "organism": "Homo sapiens",
            "is_primary_data": rng.random(num_cells) < 0.7,
        },
        index=[f"{study}-{i}" for i in range(num_cells)],
    )
    return anndata.AnnData(X=sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=genes))


def write_sources(folder: Path, studies: str = "abcd", **options) -> list[str]:
    """One file for each study."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, study in enumerate(studies):
        make_cells(study, seed=seed, **options).write_h5ad(folder / f"{study}.h5ad")
    return [str(folder / f"{study}.h5ad") for study in studies]


def read_corpus(folder: Path) -> pd.DataFrame:
    """All cells of a corpus: the columns of its shards, `split`, and `profile`, their counts by gene name."""
    vocab = ScMMGPTFeatureExtractor.from_pretrained(folder / "processor").vocab
    tables = []
    for path in sorted(folder.glob("*/shard-*.parquet")):
        tables.append(pq.read_table(path).to_pandas().assign(split=path.parent.name))
    cells = pd.concat(tables, ignore_index=True)
    cells["profile"] = [
        {vocab[gene]: int(count) for gene, count in zip(genes, counts, strict=True)}
        for genes, counts in zip(cells["gene_ids"], cells["counts"], strict=True)
    ]
    return cells.set_index("cell_id", verify_integrity=True)


def profiles(adata: anndata.AnnData) -> list[dict[str, int]]:
    """Counts of each cell by gene name, from the dense matrix."""
    dense = adata.X.toarray() if sp.issparse(adata.X) else np.asarray(adata.X)
    return [{adata.var_names[i]: int(row[i]) for i in np.flatnonzero(row)} for row in dense]


def content(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a corpus."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def write_soma(folder: Path, adata: anndata.AnnData) -> str:
    """A SOMA experiment as the Census lays it out: measurement RNA, layer raw, genes by `feature_id`."""
    import tiledbsoma
    import tiledbsoma.io

    cells = adata.copy()
    cells.var = pd.DataFrame(
        {"feature_id": [f"ENSG{i:011d}" for i in range(cells.n_vars)], "feature_name": list(cells.var_names)},
        index=cells.var_names,
    )
    tiledbsoma.io.from_anndata(str(folder), cells, measurement_name="RNA", X_layer_name="raw")
    return str(folder)


def write_census(folder: Path, adata: anndata.AnnData, collection_of: dict[str, str]) -> str:
    """A whole collection as the Census lays it out; `collection_of` names the collection of each dataset."""
    import pyarrow as pa
    import tiledbsoma

    with tiledbsoma.Collection.create(str(folder)) as root:
        data, info = root.add_new_collection("census_data"), root.add_new_collection("census_info")
        write_soma(folder / "census_data" / "homo_sapiens", adata)
        with tiledbsoma.Experiment.open(str(folder / "census_data" / "homo_sapiens")) as experiment:
            data.set("homo_sapiens", experiment, use_relative_uri=True)
        schema = pa.schema([(name, pa.large_string()) for name in ("dataset_id", "collection_id", "citation")]).insert(
            0, pa.field("soma_joinid", pa.int64())
        )
        table = info.add_new_dataframe("datasets", schema=schema, domain=[(0, len(collection_of) - 1)])
        columns = [
            range(len(collection_of)),
            collection_of,
            collection_of.values(),
            [f"cite {x}" for x in collection_of],
        ]
        table.write(
            pa.Table.from_arrays(
                [pa.array(list(x), t) for x, t in zip(columns, schema.types, strict=True)], schema=schema
            )
        )
    return str(folder)
