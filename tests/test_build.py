"""A corpus holds every count of its sources under the right gene, cell and split, whatever the sources look like."""

import json

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from scmmgpt import ScMMGPTFeatureExtractor
from scmmgpt.cli import main
from scmmgpt.data import CellFacts
from scmmgpt.data.corpus import BuildSettings, build_corpus, verify_corpus
from scmmgpt.data.corpus.survey import cell_keys
from scmmgpt.data.splits import part_groups

from .corpora import GENES, make_cells, profiles, read_corpus, write_census, write_soma, write_sources

SMALL = {"cells_per_chunk": 16, "cells_per_shard": 40}


def build(sources, output, **settings):
    return build_corpus(sources, output, BuildSettings(**SMALL | settings), progress=False)


def expected(cells: list[anndata.AnnData]) -> dict[str, dict[str, int]]:
    """Profile of each cell that has counts, by its id."""
    return {
        f"{dataset}:{name}": profile
        for adata in cells
        for dataset, name, profile in zip(adata.obs["dataset_id"], adata.obs_names, profiles(adata), strict=True)
        if profile
    }


@pytest.mark.parametrize("kind", ["csr", "csc", "dense", "layer", "raw"])
def test_every_count_arrives(tmp_path, kind):
    """Genes in another order in every source, one gene that only one source has."""
    cells = [make_cells("a"), make_cells("b", seed=1, genes=[*GENES[::-1], "EXTRA"]), make_cells("c", seed=2)]
    paths = []
    for adata in cells:
        stored = adata.copy()
        if kind == "csc":
            stored.X = sp.csc_matrix(stored.X)
        elif kind == "dense":
            stored.X = stored.X.toarray()
        elif kind != "csr":
            stored.layers["counts"] = stored.X.copy()
            stored.raw = stored
            stored.X = stored.X * 0.37
            stored = stored[:, :30].copy() if kind == "raw" else stored
        paths.append(str(tmp_path / f"{adata.obs['study'].iloc[0]}.h5ad"))
        stored.write_h5ad(paths[-1])
    layer = {"layer": "counts", "raw": "raw"}.get(kind)
    manifest = build(paths, tmp_path / "corpus", layer=layer)
    corpus = read_corpus(tmp_path / "corpus")

    assert corpus["profile"].to_dict() == expected(cells)
    assert all((np.diff(genes.astype(int)) > 0).all() for genes in corpus["gene_ids"])
    assert corpus["num_genes"].tolist() == [len(x) for x in corpus["profile"]]
    assert corpus["total_counts"].tolist() == [sum(x.values()) for x in corpus["profile"]]
    assert manifest["cells"] | {"out": 177, "no counts in matched genes": 3, "in": 180} == manifest["cells"]
    dropped = pq.read_table(tmp_path / "corpus" / "dropped.parquet").to_pandas()
    assert set(dropped["cell_id"]) == {f"dataset {x}:{x}-59" for x in "abc"}
    assert verify_corpus(tmp_path / "corpus", progress=False) == manifest


def test_what_is_said_of_cells(tmp_path):
    sources = write_sources(tmp_path)
    manifest = build(sources, tmp_path / "corpus", seed=3)
    corpus = read_corpus(tmp_path / "corpus")
    obs = pd.concat([anndata.read_h5ad(path).obs for path in sources])
    obs.index = obs["dataset_id"].astype(str) + ":" + obs.index
    for column in ("cell_type", "tissue", "donor_id", "study"):
        assert corpus[column].tolist() == obs.loc[corpus.index, column].astype(str).tolist()
    ids = {"B cell": "CL:0000236", "T cell": "CL:0000084", "monocyte": "CL:0000576"}
    assert corpus["cell_type_ontology_term_id"].tolist() == corpus["cell_type"].map(ids).tolist()

    facts = [CellFacts(**row) for row in pq.read_table(tmp_path / "corpus" / "facts.parquet").to_pylist()]
    assert len(set(facts)) == len(facts) == manifest["num_facts"] == len(corpus["facts_id"].unique())
    for row in corpus.itertuples():
        fact = facts[row.facts_id]
        assert (fact.cell_type, fact.cell_type_id, fact.donor) == (row.cell_type, ids[row.cell_type], row.donor_id)
        assert fact.assay == (None if row.assay == "unknown" else row.assay)
    panels = pq.read_table(tmp_path / "corpus" / "panels.parquet").to_pydict()
    assert panels["sources"] == [["a", "b", "c", "d"]]
    assert len(panels["gene_ids"][0]) == len(GENES)

    # No study is on two sides, and the order is that of a hash: neither the source's, nor that of another seed.
    assert (corpus.groupby("study")["split"].nunique() == 1).all()
    assert {name: set(groups) for name, groups in manifest["splits"]["groups"].items()} == {
        name: set(corpus.loc[corpus["split"] == name, "study"]) for name in ("train", "validation", "test")
    }
    for path in (tmp_path / "corpus").glob("*/shard-*.parquet"):
        names = pq.read_table(path)["cell_id"].to_pylist()
        keys = cell_keys(names, 3)
        assert (keys[1:] >= keys[:-1]).all()
        assert (np.diff(cell_keys(names, 4).astype(float)) < 0).any()


def test_readable_by_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    build(write_sources(tmp_path), tmp_path / "corpus")
    files = str(tmp_path / "corpus" / "train" / "*.parquet")
    stream = datasets.load_dataset(
        "parquet", data_files={"train": files}, streaming=True, cache_dir=str(tmp_path / "cache")
    )["train"]
    corpus = read_corpus(tmp_path / "corpus")
    rows = {row["cell_id"]: row["counts"] for row in stream}
    assert rows == {name: list(x) for name, x in corpus.loc[corpus["split"] == "train", "counts"].items()}


def test_same_cells_in_two_sources_are_taken_once(tmp_path):
    sources = write_sources(tmp_path)
    part = anndata.read_h5ad(sources[0])[10:30].copy()
    part.write_h5ad(tmp_path / "z-copy.h5ad")
    manifest = build([*sources, str(tmp_path / "z-copy.h5ad")], tmp_path / "corpus")
    corpus = read_corpus(tmp_path / "corpus")
    assert corpus["profile"].to_dict() == expected([anndata.read_h5ad(path) for path in sources])
    assert manifest["source_reports"][-1]["cells"]["the same cell is in an earlier source"] == 20
    assert sum(n for name, n in manifest["cells"].items() if name != "in") == manifest["cells"]["in"] == 260


@pytest.mark.parametrize("layout", ["census", "experiment"])
def test_soma(tmp_path, layout):
    """A real SOMA experiment, read with a filter, has the cells and counts of the AnnData that it was made from."""
    pytest.importorskip("tiledbsoma")
    parts = [make_cells(study, seed=seed) for seed, study in enumerate("abcd")]
    adata = anndata.concat(parts)
    if layout == "census":
        del adata.obs["study"]  # the Census says it elsewhere
        collections = {f"dataset {x}": f"collection {x if x < 'c' else 'cd'}" for x in "abcd"}
        source = write_census(tmp_path / "soma", adata, collections)
    else:
        source = write_soma(tmp_path / "soma", adata)
    manifest = build([source], tmp_path / "corpus", filter="is_primary_data == True and tissue == 'blood'")
    corpus = read_corpus(tmp_path / "corpus")

    wanted = adata.obs["is_primary_data"].to_numpy()
    found = {name.rpartition(":")[2]: profile for name, profile in corpus["profile"].items()}
    # The vocabulary is of symbols, which `var` has beside the ids.
    assert found == {str(i): x for i, x in enumerate(profiles(adata)) if wanted[i] and x}
    assert manifest["cells"]["filtered out"] == (~wanted).sum()
    if layout == "census":
        assert set(corpus["study"]) == {"collection a", "collection b", "collection cd"}
        assert (corpus.groupby("study")["split"].nunique() == 1).all()
        assert manifest["source_reports"][0]["notes"]["citations"]["dataset a"] == "cite dataset a"


def test_census_needs_a_version(tmp_path):
    with pytest.raises(ValueError, match=r"census_version.*2025-11-08"):
        build(["census:homo_sapiens"], tmp_path / "corpus")


def test_filter_of_files(tmp_path):
    sources = write_sources(tmp_path)
    manifest = build(sources, tmp_path / "corpus", filter="is_primary_data == True and donor_id in ['d1']")
    cells = [anndata.read_h5ad(path) for path in sources]
    cells = [x[x.obs["is_primary_data"] & (x.obs["donor_id"] == "d1")] for x in cells]
    assert read_corpus(tmp_path / "corpus")["profile"].to_dict() == expected(cells)
    assert manifest["cells"]["filtered out"] == 240 - sum(len(x) for x in cells)
    with pytest.raises(ValueError, match=r"`filter`.*cannot be asked of .*a\.h5ad.*columns: cell_type"):
        build(sources, tmp_path / "other", filter="colour == 'red'")


def test_refused_sources_are_named_with_the_cure(tmp_path):
    sources = write_sources(tmp_path / "good")
    bad = make_cells("log")
    bad.X.data = np.log1p(bad.X.data)
    bad.layers["counts"] = bad.X.copy()
    bad.write_h5ad(tmp_path / "log.h5ad")
    proteins = make_cells("adt", genes=[f"CD{i}" for i in range(1, 41)])
    proteins.write_h5ad(tmp_path / "adt.h5ad")
    twice = make_cells("twice")
    twice.obs_names = ["same"] * len(twice)
    twice.write_h5ad(tmp_path / "twice.h5ad")
    everything = [*sources, *(str(tmp_path / f"{name}.h5ad") for name in ("log", "adt", "twice"))]
    with pytest.raises(ValueError, match=r"3 of 7 sources") as error:
        build(everything, tmp_path / "corpus")
    for cure in (
        "--recover-counts",
        "--layer counts",
        "Pass the RNA counts",
        "obs_names_make_unique",
        "--skip-refused",
    ):
        assert cure in str(error.value)
    # Nothing stands in the way of the cure.
    manifest = build(everything, tmp_path / "corpus", skip_refused=True)
    assert set(manifest["refused"]) == {"log", "adt", "twice"}
    assert len(read_corpus(tmp_path / "corpus")) == 4 * 59
    manifest = build([*sources, str(tmp_path / "log.h5ad")], tmp_path / "recovered", recover_counts=True)
    recovered = read_corpus(tmp_path / "recovered")["profile"]
    assert recovered[recovered.index.str.startswith("dataset log")].to_dict() == expected([make_cells("log")])


def test_own_vocabulary_and_labels(tmp_path):
    ScMMGPTFeatureExtractor.from_genes(GENES[:20]).save_pretrained(tmp_path / "genes")
    sources = write_sources(tmp_path)
    manifest = build(sources, tmp_path / "corpus", genes=str(tmp_path / "genes"), label_key="author")
    corpus = read_corpus(tmp_path / "corpus")
    wanted = {
        name: {gene: count for gene, count in profile.items() if gene in GENES[:20]}
        for name, profile in expected([anndata.read_h5ad(path) for path in sources]).items()
    }
    assert corpus["profile"].to_dict() == {name: profile for name, profile in wanted.items() if profile}
    assert set(corpus["cell_type"]) == {"x", "y"}
    assert manifest["source_reports"][0]["genes"]["unmatched"]["number"] == 30


def test_unlabelled_cells_and_one_study(tmp_path):
    adata = make_cells("a")
    adata.obs = adata.obs[["donor_id"]]
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match=r"1 value\(s\) of 'study'.*`validation_share` and `test_share` to 0"):
        build([str(tmp_path)], tmp_path / "corpus")
    manifest = build([str(tmp_path)], tmp_path / "corpus", validation_share=0, test_share=0)
    assert manifest["splits"]["cells"] == {"train": 59, "validation": 0, "test": 0}
    manifest = build([str(tmp_path)], tmp_path / "by donor", validation_share=0)
    assert manifest["splits"]["key"] == "donor_id"


def test_given_splits(tmp_path):
    sources = write_sources(tmp_path)
    manifest = build(sources, tmp_path / "corpus", split_key="study", split_of={"b": "test", "d": "validation"})
    assert {name: list(x) for name, x in manifest["splits"]["groups"].items()} == {
        "train": ["a", "c"],
        "validation": ["d"],
        "test": ["b"],
    }
    manifest = build(sources, tmp_path / "by author", split_key="author", validation_share=0)
    assert manifest["splits"]["donors_on_several_sides"]
    with pytest.raises(ValueError, match=r"`split_of` names \['e'\].*'a', 'b'"):
        build(sources, tmp_path / "unknown", split_key="study", split_of={"e": "test"})


@given(
    sizes=st.dictionaries(st.text(max_size=3), st.integers(1, 1000), min_size=3, max_size=30),
    shares=st.tuples(st.floats(0, 0.45), st.floats(0, 0.45)),
    seed=st.integers(0, 2**32),
)
def test_groups_fill_all_parts(sizes, shares, seed):
    shares = dict(zip(("test", "validation"), shares, strict=True))
    part_of_group = part_groups(sizes, shares, np.random.default_rng(seed))
    assert set(part_of_group) == set(sizes)
    assert set(part_of_group.values()) == {"train", *(part for part, share in shares.items() if share > 0)}


def test_command_line(tmp_path, capsys):
    write_sources(tmp_path / "sources")
    (tmp_path / "splits.json").write_text(json.dumps({"b": "test"}))
    arguments = [str(tmp_path / "sources"), str(tmp_path / "corpus"), "--split-key", "study"]
    assert main(["data", "build", *arguments, "--split-file", str(tmp_path / "splits.json")]) == 0
    assert "59 in test" in capsys.readouterr().out
    assert main(["data", "verify", str(tmp_path / "corpus")]) == 0
    (tmp_path / "corpus" / "facts.parquet").write_bytes(b"")
    assert main(["data", "verify", str(tmp_path / "corpus")]) == 1
    assert "facts.parquet: 0 bytes instead of" in capsys.readouterr().err


def test_real_files(tmp_path, scmmgpt_data):
    """All real files go through, or are refused for what they are; counts and totals are those of the files."""
    folder = scmmgpt_data / "h5ad"
    manifest = build_corpus([str(folder)], tmp_path / "corpus", BuildSettings(skip_refused=True), progress=False)
    not_counts = {path.stem for path in folder.glob("*_log.h5ad")} | {"hcl_reference_pseudobulk"}
    assert set(manifest["refused"]) == not_counts | {"tcell_bcell_adt192_minimars"}
    reports = {report["name"]: report for report in manifest["source_reports"]}
    assert "protein_counts" in reports["pbmc_10k_protein_scvi200"]["notes"]["proteins_left_aside"]
    assert reports["mouse_brain_merfish_abca"]["cells"]["out"] == 1000
    cells = total = 0
    for name, report in reports.items():
        adata = anndata.read_h5ad(folder / f"{name}.h5ad")
        cells, total = cells + len(adata), total + int(adata.X.sum())
        assert report["cells"]["out"] == len(adata)
        assert report["genes"]["num_genes"] == adata.n_vars
    assert cells == manifest["cells"]["out"]
    assert total == sum(shard["total_counts"] for shard in manifest["shards"].values())
