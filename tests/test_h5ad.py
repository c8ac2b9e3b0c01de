"""Reading cells and recovering counts, against counts that the tests themselves normalise."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from scmmgpt.data.h5ad import demo_cells, name_genes, read_cells, recover_counts, take_counts


def make_counts(num_cells=20, num_genes=50, seed=0, largest=None):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.5, 3.0, (num_cells, num_genes))).astype(np.float64)
    counts[:, 0] = 1  # the transcript that sets the scale
    if largest:
        counts[:, 1] = largest
    return counts


def log_normalise(counts, target=1e4):
    totals = counts.sum(1, keepdims=True)
    return np.log1p(counts / np.where(totals == 0, 1, totals) * target)


def cells_of(matrix, **kwargs):
    return anndata.AnnData(
        X=matrix,
        obs=pd.DataFrame({"kept": range(matrix.shape[0])}, index=[f"c{i}" for i in range(matrix.shape[0])]),
        var=pd.DataFrame(index=[f"g{i}" for i in range(matrix.shape[1])]),
        **kwargs,
    )


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_counts_come_back(form, dtype):
    counts = make_counts()
    adata = cells_of(form(log_normalise(counts).astype(dtype)))
    recovered = recover_counts(adata)
    assert sp.issparse(recovered.X)
    assert recovered.X.format == "csr"
    assert recovered.X.dtype == np.float32
    np.testing.assert_array_equal(recovered.X.toarray(), counts)
    assert list(recovered.obs_names) == list(adata.obs_names)
    assert recovered.obs["kept"].tolist() == list(range(20))


@pytest.mark.parametrize(
    "rounding",
    [lambda x: np.round(x, 3), lambda x: x.astype(np.float16).astype(np.float32)],
    ids=["3 decimals", "float16"],
)
def test_large_counts_survive_coarse_storage(rounding):
    counts = make_counts(largest=150)
    np.testing.assert_array_equal(recover_counts(cells_of(rounding(log_normalise(counts, 3e3)))).X.toarray(), counts)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([100.0, 1e4, 1e6]))
def test_any_common_total(seed, target):
    counts = make_counts(5, 30, seed)
    recovered = recover_counts(cells_of(log_normalise(counts, target).astype(np.float32)))
    np.testing.assert_array_equal(recovered.X.toarray(), counts)


def test_counts_stay_as_they_are_even_without_a_one():
    counts = 2.0 * make_counts()
    np.testing.assert_array_equal(recover_counts(cells_of(sp.csr_matrix(counts))).X.toarray(), counts)


def test_empty_cells_stay_empty():
    counts = make_counts()
    counts[3] = 0
    recovered = recover_counts(cells_of(log_normalise(counts).astype(np.float32)))
    np.testing.assert_array_equal(recovered.X.toarray(), counts)


def test_the_input_is_left_alone():
    adata = cells_of(sp.csr_matrix(log_normalise(make_counts())))
    before = adata.X.copy()
    recover_counts(adata)
    np.testing.assert_array_equal(adata.X.toarray(), before.toarray())


def test_scaled_cells_are_taken_from_raw():
    counts = make_counts()
    full = cells_of(sp.csr_matrix(log_normalise(counts)))
    adata = full[:, 5:25].copy()
    adata.X = adata.X.toarray() - 1.0
    adata.raw = full
    recovered = recover_counts(adata)
    np.testing.assert_array_equal(recovered.X.toarray(), counts)
    assert list(recovered.var_names) == list(full.var_names)


def test_values_that_are_no_counts_name_the_worst_cell():
    matrix = log_normalise(make_counts())
    matrix[7] = np.random.default_rng(1).gamma(2.0, 1.0, matrix.shape[1])
    with pytest.raises(ValueError, match=r"neither counts nor log-normalised.*'c7'.*pass raw counts"):
        recover_counts(cells_of(matrix))


@pytest.mark.parametrize("scale", [1e4, 1e6])
def test_normalised_without_logarithm_is_no_count(scale):
    counts = make_counts()
    with pytest.raises(ValueError, match="neither counts nor log-normalised"):
        recover_counts(cells_of(counts / counts.sum(1, keepdims=True) * scale))


def test_scaled_cells_without_raw():
    with pytest.raises(ValueError, match=r"negative values.*`adata.raw` is empty"):
        recover_counts(cells_of(make_counts() - 1.5))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite(bad):
    matrix = log_normalise(make_counts())
    matrix[2, 3] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        recover_counts(cells_of(matrix))


def test_no_matrix():
    with pytest.raises(ValueError, match=r"`adata\.X` is empty"):
        recover_counts(anndata.AnnData(obs=pd.DataFrame(index=["a"])))


def test_reads_what_anndata_writes(tmp_path):
    adata = cells_of(sp.csr_matrix(make_counts()))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = read_cells(tmp_path / "cells.h5ad")
    assert (again.X != adata.X).nnz == 0
    assert read_cells(str(tmp_path / "cells.h5ad")).shape == adata.shape


def test_missing_files_and_other_formats(tmp_path):
    import h5py

    with pytest.raises(ValueError, match=r"nothing.*\.h5ad"):
        read_cells(tmp_path / "none.h5ad")
    with pytest.raises(ValueError, match="a folder"):
        read_cells(tmp_path)
    (tmp_path / "table.h5ad").write_text("gene,count\n")
    with pytest.raises(ValueError, match="not an HDF5 file"):
        read_cells(tmp_path / "table.h5ad")
    with h5py.File(tmp_path / "tenx.h5", "w") as file:
        file.create_group("matrix")
    with pytest.raises(ValueError, match=r"\['matrix'\].*read_10x_h5"):
        read_cells(tmp_path / "tenx.h5")


# Where the counts are


def test_counts_are_taken_from_a_layer_or_from_raw():
    full = cells_of(sp.csr_matrix(make_counts()))
    adata = full[:, 5:25].copy()
    adata.raw = full
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X.toarray())
    assert take_counts(adata, None) is adata
    raw = take_counts(adata, "raw")
    np.testing.assert_array_equal(raw.X.toarray(), full.X.toarray())
    assert list(raw.var_names) == list(full.var_names)
    assert raw.obs["kept"].tolist() == list(range(20))
    with pytest.raises(ValueError, match=r"`layer` is 'umi', but the file has \['counts', 'raw'\]; pass one of these"):
        take_counts(adata, "umi")
    np.testing.assert_array_equal(take_counts(adata, "counts").X.toarray(), full.X.toarray()[:, 5:25])
    with pytest.raises(ValueError, match="`layer` is 'raw', but the file has none"):
        take_counts(full, "raw")


# Names of genes

ENSEMBL_IDS = [f"ENSG{i:011d}" for i in range(4)]


def genes_of(names, **columns):
    return anndata.AnnData(X=np.arange(8.0).reshape(2, 4), var=pd.DataFrame(columns, index=names))


@pytest.mark.parametrize("column", ["feature_name", "gene_symbols", "symbol"])
@pytest.mark.parametrize("dtype", [object, "category"])
def test_symbols_become_the_names_of_genes_known_by_ensembl_id(column, dtype):
    adata = genes_of(ENSEMBL_IDS, **{column: pd.Series(["CD4", "CD8A", None, "CD4"], ENSEMBL_IDS, dtype=dtype)})
    assert name_genes(adata) is adata
    assert adata.var_names.tolist() == ["CD4", "CD8A", ENSEMBL_IDS[2], "CD4-1"]
    assert adata.var["ensembl_id"].tolist() == ENSEMBL_IDS


def test_symbols_stay_and_ids_are_found_beside_them():
    adata = name_genes(genes_of(["CD4", "CD8A", "LYZ", "NKG7"], gene_ids=[*ENSEMBL_IDS[:3], None]))
    assert adata.var_names.tolist() == ["CD4", "CD8A", "LYZ", "NKG7"]
    assert adata.var["ensembl_id"].tolist() == [*ENSEMBL_IDS[:3], ""]
    assert name_genes(genes_of(["CD4", "CD8A", "LYZ", "NKG7"])).var["ensembl_id"].tolist() == [""] * 4
    assert name_genes(genes_of(ENSEMBL_IDS)).var_names.tolist() == ENSEMBL_IDS  # better than nothing


def test_surface_proteins_are_no_genes():
    kinds = ["Gene Expression", "Antibody Capture", "Gene Expression", "Antibody Capture"]
    adata = name_genes(genes_of(["CD4", "CD4 protein", "LYZ", "CD8A"], feature_types=pd.Categorical(kinds)))
    assert adata.var_names.tolist() == ["CD4", "LYZ"]
    np.testing.assert_array_equal(adata.X, [[0, 2], [4, 6]])
    assert name_genes(genes_of(["a", "b", "c", "d"], feature_types=["Peaks"] * 4)).n_vars == 4


def test_demonstration_cells():
    import scanpy

    cells = demo_cells()
    source = scanpy.datasets.pbmc68k_reduced()
    assert cells.shape == (700, 765)
    counts = cells.X.toarray()
    assert (counts == np.rint(counts)).all()
    assert ((counts > 0) == (source.raw.X.toarray() > 0)).all()
    assert (np.where(counts > 0, counts, np.inf).min(1) == 1).all()
    # Cells of 765 genes cannot hold more transcripts than the whole cells did.
    assert (counts.sum(1) <= source.obs["n_counts"].to_numpy() + 1).all()
    # Normalising the counts again gives the stored values, to their three decimals.
    scale = np.expm1(source.raw.X.toarray()).sum(1, keepdims=True) / counts.sum(1, keepdims=True)
    np.testing.assert_allclose(np.log1p(counts * scale), source.raw.X.toarray(), atol=2e-3)
    assert cells.obs["cell_type"].tolist() == source.obs["bulk_labels"].astype(str).tolist()
    assert cells.obs["cell_type_ontology_term_id"].str.match(r"CL:\d{7}$").all()
    assert set(cells.obs["tissue"]) == {"blood"}
    assert all(len(name.partition("-")[0]) == 14 for name in cells.obs_names)  # the barcode of 10x 3' v1


def test_a_real_log_normalised_study_agrees_with_the_wheel(scmmgpt_data):
    stored = read_cells(scmmgpt_data / "h5ad" / "pbmc68k_reduced_scanpy_log.h5ad")
    cells = demo_cells()
    recovered = recover_counts(stored)
    recovered.obs_names = recovered.obs_names.str.rpartition(":").get_level_values(2)
    assert (recovered[cells.obs_names, cells.var_names].X != cells.X).nnz == 0


def test_counts_of_a_real_study_survive_a_round_trip(scmmgpt_data):
    study = read_cells(scmmgpt_data / "h5ad" / "pbmc3k_10x.h5ad")[:300]
    counts = sp.csr_matrix(study.X, dtype=np.float64)
    totals = np.asarray(counts.sum(1)).ravel()
    normalised = sp.csr_matrix(sp.diags(1e4 / totals) @ counts).log1p().astype(np.float32)
    adata = anndata.AnnData(X=normalised, obs=study.obs.copy(), var=study.var.copy())
    np.testing.assert_array_equal(recover_counts(adata).X.toarray(), counts.toarray())
