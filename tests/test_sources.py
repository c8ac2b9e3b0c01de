"""Sources of cells: the same cells whether in memory, in a file or in shards, and damage is named with its cure."""

import pickle

import anndata
import numpy as np
import pytest
from datasets import load_dataset
from scipy import sparse

from scmmgpt import ScMMGPTFeatureExtractor
from scmmgpt.data import AnnDataSource, CellStream, H5adSource, MixedSource, Ontology, ShardSource, sampling_weights
from scmmgpt.data import sources as sources_module
from scmmgpt.data.corpus import build_corpus

from .micro import make_adata
from .shards import write_corpus
from .tiny import GENES


@pytest.fixture(scope="module")
def adata() -> anndata.AnnData:
    cells = make_adata(50)
    cells.obs["dataset_id"] = ["a"] * 40 + ["b"] * 10
    return cells


@pytest.fixture(scope="module")
def corpus(adata, tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("data") / "corpus", adata)


@pytest.fixture
def extractor() -> ScMMGPTFeatureExtractor:
    return ScMMGPTFeatureExtractor.from_genes(GENES)


def dense_cells(source) -> tuple[np.ndarray, list[str], list[str], list[list[int]]]:
    """Counts over the genes, names, types and panels of all cells, from a source's units."""
    counts, names, types, panels = [], [], [], []
    for unit, size in enumerate(source.unit_sizes):
        block = source.read(unit)
        assert len(block) == size
        matrix = np.zeros((size, len(GENES)), dtype=int)
        matrix[np.repeat(np.arange(size), block.lengths), block.gene_ids] = block.counts
        counts.append(matrix)
        names += block.cell_ids.tolist()
        types += [source.facts[i].cell_type for i in block.facts_index]
        panels += [source.panels[i].tolist() for i in block.panel_index]
    return np.concatenate(counts), names, types, panels


def assert_cells_of(source, adata) -> None:
    counts, names, types, panels = dense_cells(source)
    np.testing.assert_array_equal(counts, adata.X.toarray().astype(int))
    assert names == adata.obs_names.tolist()
    assert types == adata.obs["cell_type"].tolist()
    assert panels == [list(range(60))] * adata.n_obs
    assert source.labels("cell_type").tolist() == types


@pytest.mark.parametrize("layout", ["csr", "dense", "raw", "layer"])
def test_a_backed_file_and_memory_give_the_cells_of_the_file(adata, extractor, tmp_path, monkeypatch, layout):
    monkeypatch.setattr(sources_module, "UNIT_CELLS", 16)
    cells, layer = adata.copy(), None
    if layout == "dense":
        cells.X = cells.X.toarray()
    elif layout == "raw":
        cells.raw, layer = cells, "raw"
        cells.X = np.log1p(cells.X)
    elif layout == "layer":
        cells.layers["counts"], layer = cells.X.copy(), "counts"
        cells.X = np.log1p(cells.X)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    for source in (
        H5adSource(tmp_path / "cells.h5ad", extractor, Ontology(), layer=layer),
        AnnDataSource(cells, extractor, Ontology(), layer=layer),
    ):
        assert source.unit_sizes.tolist() == [16, 16, 16, 2]
        assert_cells_of(source, adata)


def test_files_that_cannot_be_streamed_are_refused_with_the_cure(adata, extractor, tmp_path):
    path = tmp_path / "cells.h5ad"
    cells = adata.copy()
    cells.X = sparse.csc_matrix(cells.X)
    cells.write_h5ad(path)
    with pytest.raises(ValueError, match=r"cells.h5ad keeps its counts by genes \(CSC\).*scmmgpt data build"):
        H5adSource(path, extractor, Ontology())
    with pytest.raises(ValueError, match=r"`layer`: .*cells.h5ad has no layers/counts; it has no layers"):
        H5adSource(path, extractor, Ontology(), layer="counts")
    cells.X = np.log1p(adata.X)
    cells.write_h5ad(path)
    with pytest.raises(ValueError, match=r"cells.h5ad, cells 0 to 49: .*not whole numbers"):
        H5adSource(path, extractor, Ontology())


def test_shards_give_the_cells_that_were_written(adata, corpus):
    source = ShardSource(corpus)
    assert source.unit_sizes.tolist() == [8, 8, 8, 1] * 2
    assert_cells_of(source, adata)
    assert_cells_of(pickle.loads(pickle.dumps(source)), adata)  # as spawned workers get it
    assert source.extractor.vocab[:60] == GENES
    assert {fact.cell_type for fact in source.facts} == set(adata.obs["cell_type"])
    with pytest.raises(ValueError, match=r"`column` is 'donor_id', but the shards have"):
        source.labels("donor_id")


def test_a_corpus_that_is_built_streams_every_cell_once(tmp_path):
    total = {}
    for i, study in enumerate("abc"):
        cells = make_adata(30 + i, seed=i)
        cells.obs["study"] = study
        cells.write_h5ad(tmp_path / f"{study}.h5ad")
        total |= {f"{study}:{name}": n for name, n in zip(cells.obs_names, cells.X.sum(1).A1.astype(int), strict=True)}
    build_corpus([str(tmp_path / "*.h5ad")], tmp_path / "corpus", progress=False)
    found = {}
    for split in ("train", "validation", "test"):
        for block in CellStream(ShardSource(tmp_path / "corpus", split), max_tokens=400, max_genes=61):
            sums = np.add.reduceat(block.counts, block.indptr[:-1])
            assert not found.keys() & set(block.cell_ids)
            found |= dict(zip(block.cell_ids, sums.tolist(), strict=True))
    assert found == total


def test_datasets_streams_the_shards(adata, corpus):
    rows = list(
        load_dataset("parquet", data_files={"train": f"{corpus}/train/*.parquet"}, streaming=True, split="train")
    )
    assert [row["cell_id"] for row in rows] == adata.obs_names.tolist()
    for i in (0, 49):
        assert rows[i]["gene_ids"] == np.flatnonzero(adata.X[i].toarray()[0]).tolist()
        assert rows[i]["counts"] == adata.X[i].toarray()[0][rows[i]["gene_ids"]].astype(int).tolist()
    assert [row["cell_type"] for row in rows] == adata.obs["cell_type"].tolist()


def test_damaged_shards_are_named_with_the_cure(adata, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", adata)
    path = corpus / "train" / "shard-00001.parquet"
    cure = r"Delete it and run `scmmgpt data build` with .*corpus again"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"shard-00001.parquet is damaged: \d+ bytes, and the manifest.*{cure}"):
        ShardSource(corpus)
    path.unlink()
    with pytest.raises(ValueError, match=r"shard-00001.parquet is damaged: missing"):
        ShardSource(corpus)
    path.write_bytes(b"x" * len(whole))
    with pytest.raises(ValueError, match=rf"shard-00001.parquet is damaged: .*{cure}"):
        ShardSource(corpus)
    place = len(whole) // 3  # one byte of the data: only a checksum can tell
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
    source = ShardSource(corpus)
    with pytest.raises(ValueError, match=rf"shard-00001.parquet is damaged: .*{cure}"):
        [source.read(unit) for unit in range(8)]


def test_folders_that_are_no_corpus_are_refused(adata, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", adata)
    with pytest.raises(ValueError, match=r"`split`='test': .* has cells of \['train'\]"):
        ShardSource(corpus, "test")
    (corpus / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"has no manifest.json, so it is no finished corpus.*scmmgpt data build"):
        ShardSource(corpus)


def test_mixed_sources_number_facts_and_panels_anew(adata, corpus):
    shards = ShardSource(corpus)
    few = adata[adata.obs["cell_type"] == "NK", 10:50].copy()
    mixed = MixedSource([shards, AnnDataSource(few, shards.extractor, Ontology())], ["all", "few"])
    counts, names, types, panels = dense_cells(mixed)
    np.testing.assert_array_equal(counts[:50], adata.X.toarray())
    np.testing.assert_array_equal(counts[50:, 10:50], few.X.toarray())
    assert not counts[50:, :10].any()
    assert not counts[50:, 50:].any()
    assert names == [*adata.obs_names, *few.obs_names]
    assert types == [*adata.obs["cell_type"], *few.obs["cell_type"]]
    assert panels == [list(range(60))] * 50 + [list(range(10, 50))] * len(few)
    assert len(set(mixed.facts)) == len(mixed.facts) == 3
    assert mixed.labels("source").tolist() == ["all"] * 50 + ["few"] * len(few)
    other = ScMMGPTFeatureExtractor.from_genes([*GENES, "OTHER"])
    with pytest.raises(ValueError, match=r"few and all have different gene vocabularies \(63 and 62 tokens\)"):
        MixedSource([shards, AnnDataSource(few, other, Ontology())], ["all", "few"])


def test_weights_even_out_labels(corpus):
    source = ShardSource(corpus)
    in_a = source.labels("dataset_id") == "a"
    weights = sampling_weights(source, {"dataset_id": 0.0})
    assert weights.mean() == pytest.approx(1)
    assert weights[in_a].sum() == pytest.approx(weights[~in_a].sum())
    weights = sampling_weights(source, {"dataset_id": 0.5})
    assert weights[in_a].sum() / weights[~in_a].sum() == pytest.approx(2)  # sqrt(40 / 10)
    weights = sampling_weights(source, {"dataset_id": {"a": 0, "b": 3}, "cell_type": 1.0})
    assert weights[in_a].max() == 0
    assert weights[~in_a].tolist() == [5.0] * 10
    for rule, message in (
        ({"dataset_id": 1.5}, r"temperature of dataset_id is 1.5; expected a number in \[0, 1\]"),
        ({"dataset_id": {"a": 1}}, r"weights of dataset_id leave out \['b'\]"),
        ({"dataset_id": {"a": 0, "b": 0}}, "leaves no cell"),
    ):
        with pytest.raises(ValueError, match=message):
            sampling_weights(source, rule)
