"""Cells are read by gene name: against scipy and pandas, hand-worked cells and the names people really use."""

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scmmgpt.processing_scmmgpt import AlignedCounts, ScMMGPTFeatureExtractor

GENES = ["CD3D", "MS4A1", "C1orf127", "1-Mar", "NaN", "HLA-A", "Ünicode", "LYZ"]
ENSEMBL = ["ENSG00000167286", "ENSG00000156738", "", "", "", "ENSG00000206503", "", "ENSG00000090382"]


@pytest.fixture(scope="module")
def extractor() -> ScMMGPTFeatureExtractor:
    return ScMMGPTFeatureExtractor.from_genes(GENES, ENSEMBL)


def dense(aligned: AlignedCounts, width: int) -> np.ndarray:
    return sp.csr_matrix((aligned.counts, aligned.gene_ids, aligned.indptr), shape=(len(aligned), width)).toarray()


def random_counts(seed: int, cells: int, genes: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.8, (cells, genes))
    counts[:, 0] += 1  # no empty cell
    return counts


# --- names


@pytest.mark.parametrize(
    ("name", "gene"),
    [
        ("CD3D", "CD3D"),
        ("cd3d", "CD3D"),
        (" CD3D ", "CD3D"),
        ("C1ORF127", "C1orf127"),
        ("1-Mar", "1-Mar"),
        ("1-MAR", "1-Mar"),
        ("NaN", "NaN"),
        ("ünicode", "Ünicode"),
        ("ENSG00000167286", "CD3D"),
        ("ENSG00000167286.12", "CD3D"),
        ("ensg00000167286.3", "CD3D"),
        ("ENSG00000206503.15_PAR_Y", "HLA-A"),
        ("ENSG00000000000", None),
        ("CD3", None),
        ("", None),
        ("<pad>", None),
        (float("nan"), None),
        (None, None),
        (0, None),
    ],
)
def test_a_name_is_found_as_symbol_then_without_case_then_as_ensembl_id(extractor, name, gene):
    assert extractor.gene_ids([name]).tolist() == [-1 if gene is None else GENES.index(gene)]


def test_genes_that_differ_by_case_only_are_found_by_their_exact_symbol_only():
    extractor = ScMMGPTFeatureExtractor.from_genes(["Abc", "ABC", "DEF"])
    assert extractor.gene_ids(["Abc", "ABC", "abc", "def"]).tolist() == [0, 1, -1, 2]


def test_synonyms_of_one_ensembl_id_are_the_first_and_a_symbol_may_be_an_ensembl_id():
    ids = ["ENSG00000145416", "ENSG00000145416", ""]
    extractor = ScMMGPTFeatureExtractor.from_genes(["MARCHF1", "MARCH1", "ENSG00000212907"], ids)
    assert extractor.gene_ids(["ENSG00000145416.9", "MARCH1", "ENSG00000212907.2"]).tolist() == [0, 1, 2]


symbols = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda s: s.strip("<> ") == s),
    min_size=1,
    max_size=20,
    unique=True,
)


@settings(max_examples=100, deadline=None)
@given(symbols, st.lists(st.text(max_size=8), max_size=10))
def test_every_symbol_finds_itself_and_no_name_finds_a_gene_spelled_otherwise(names, others):
    extractor = ScMMGPTFeatureExtractor.from_genes(names)
    assert extractor.gene_ids(names).tolist() == list(range(len(names)))
    for name, gene in zip(others, extractor.gene_ids(others), strict=True):
        assert gene < len(names)
        if gene >= 0:
            assert name.strip().upper() == names[gene].strip().upper()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**11 - 1), st.integers(1, 99), st.booleans())
def test_the_version_and_case_of_an_ensembl_id_do_not_matter(number, version, lower):
    name = f"ENSG{number:011d}"
    extractor = ScMMGPTFeatureExtractor.from_genes(["X", "Y"], ["", name])
    spelled = f"{name.lower() if lower else name}.{version}"
    assert extractor.gene_ids([name, spelled, f"{name}0"]).tolist() == [1, 1, -1]


# --- kinds of input


def as_inputs(counts: np.ndarray, names: list[str]) -> dict:
    adata = anndata.AnnData(sp.csr_matrix(counts), var=pd.DataFrame(index=names))
    adata.layers["counts"] = sp.csc_matrix(counts)
    adata.layers["dense"] = counts
    larger = anndata.concat([adata, adata[:1]], index_unique="-")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # np.matrix is deprecated, and users still have it
        matrix = np.matrix(counts)
    return {
        "anndata": (adata, {}),
        "layer csc": (adata, {"layer": "counts"}),
        "layer dense": (adata, {"layer": "dense"}),
        "view": (larger[: len(counts)], {}),
        "dataframe": (pd.DataFrame(counts, columns=names), {}),
        "ndarray": (counts, {"gene_names": names}),
        "float32": (counts.astype(np.float32), {"gene_names": np.array(names)}),
        "uint8": (counts.astype(np.uint8), {"gene_names": pd.Index(names)}),
        "matrix": (matrix, {"gene_names": tuple(names)}),
        "csr": (sp.csr_matrix(counts), {"gene_names": names}),
        "csc": (sp.csc_array(counts), {"gene_names": names}),
        "coo": (sp.coo_matrix(counts), {"gene_names": pd.Series(names)}),
        "torch": (torch.tensor(counts), {"gene_names": names}),
        "torch bfloat16": (torch.tensor(counts, dtype=torch.bfloat16), {"gene_names": names}),
        "torch sparse": (torch.tensor(counts).to_sparse(), {"gene_names": names}),
        "dicts": ([dict(zip(names, row.tolist(), strict=True)) for row in counts], {}),
    }


@pytest.mark.parametrize("kind", list(as_inputs(np.eye(2, dtype=int), ["A", "B"])))
def test_every_kind_of_input_gives_the_same_cells(extractor, kind):
    names = [*GENES[::-1], "UNKNOWN"]
    counts = random_counts(0, 7, len(names))
    cells, arguments = as_inputs(counts, names)[kind]
    aligned = extractor.align(cells, **arguments)
    expected = np.zeros((7, len(extractor.vocab)))
    expected[:, : len(GENES)] = counts[:, :-1][:, ::-1]
    np.testing.assert_array_equal(dense(aligned, len(extractor.vocab)), expected)
    assert (aligned.indptr.dtype, aligned.gene_ids.dtype, aligned.panel.dtype) == (np.int64, np.int32, np.int64)
    assert aligned.counts.dtype == np.float32
    assert (aligned.counts > 0).all()
    assert aligned.panel.tolist() == list(range(len(GENES)))
    assert aligned.report.unmatched == ["UNKNOWN"]


@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_backed_files_and_their_views(extractor, tmp_path, form):
    counts = random_counts(1, 9, len(GENES))
    anndata.AnnData(form(counts), var=pd.DataFrame(index=GENES)).write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    for cells, expected in ((backed, counts), (backed[3:6], counts[3:6])):
        aligned = extractor.align(cells)
        np.testing.assert_array_equal(dense(aligned, len(GENES)), expected)
        assert aligned.cell_names == list(cells.obs_names)
    backed.file.close()


def test_sparse_input_is_never_made_dense(extractor):
    class Sparse(sp.csr_matrix):
        def toarray(self, *args, **kwargs):
            raise AssertionError("made dense")

        todense = __array__ = toarray

    counts = Sparse(random_counts(2, 5, len(GENES)))
    assert len(extractor.align(counts, gene_names=GENES)) == 5


def test_cells_beyond_one_block_of_rows(extractor, monkeypatch):
    monkeypatch.setattr("scmmgpt.feature_extraction_scmmgpt.VALUES_AT_A_TIME", 4 * len(GENES))
    monkeypatch.setattr("scmmgpt.encoding_scmmgpt._PIECE_ENTRIES", 7)
    counts = random_counts(3, 11, len(GENES))
    for matrix in (counts, sp.csr_matrix(counts)):
        np.testing.assert_array_equal(dense(extractor.align(matrix, GENES), len(GENES)), counts)


def test_empty_cells_are_kept_where_asked(extractor):
    counts = random_counts(3, 4, len(GENES))
    counts[[0, 2]] = 0
    with pytest.raises(ValueError, match="2 of 4 cells have no counts"):
        extractor.align(counts, GENES)
    np.testing.assert_array_equal(dense(extractor.align(counts, GENES, keep_empty_cells=True), len(GENES)), counts)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(
        st.sampled_from([*GENES, "cd3d", "ENSG00000167286.4", "ms4a1", "NOT-A-GENE"]), min_size=1, max_size=9
    ),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_duplicates_are_summed_as_pandas_does_in_any_order(extractor, names, seed, data):
    names = ["LYZ", *names]
    counts = random_counts(seed, 4, len(names))
    ids = extractor.gene_ids(names)
    expected = pd.DataFrame(counts.T).groupby(ids).sum().drop(-1, errors="ignore").T
    order = data.draw(st.permutations(range(len(names))))
    aligned = extractor.align(sp.csr_matrix(counts[:, order]), [names[i] for i in order])
    np.testing.assert_array_equal(dense(aligned, len(GENES))[:, expected.columns], expected)
    assert aligned.panel.tolist() == expected.columns.tolist()
    assert aligned.report.merged_duplicates == (ids >= 0).sum() - len(expected.columns)


def test_var_columns_answer_where_var_names_fail(extractor):
    var = pd.DataFrame(
        {
            "gene_symbols": ["WRONG", "MS4A1", "LYZ", "nothing"],
            "gene_ids": ["ENSG00000156738", None, np.nan, "ENSG00000206503.1"],
        },
        index=["CD3D", "x1", "x2", "x3"],
    )
    aligned = extractor.align(anndata.AnnData(np.ones((1, 4)), var=var))
    assert aligned.gene_ids.tolist() == [0, 1, 5, 7]
    report = aligned.report
    assert (report.matched_by_symbol, report.matched_by_ensembl, report.unmatched) == (3, 1, [])


def test_gene_names_replace_var_names(extractor):
    adata = anndata.AnnData(np.ones((1, 2)), var=pd.DataFrame(index=["LYZ", "CD3D"]))
    assert extractor.align(adata, gene_names=["MS4A1", "HLA-A"]).gene_ids.tolist() == [1, 5]


def test_a_surface_protein_is_not_the_gene_of_the_same_name(extractor):
    var = pd.DataFrame({"feature_types": ["Gene Expression", "Antibody Capture"]}, index=["LYZ", "CD3D"])
    aligned = extractor.align(anndata.AnnData(np.array([[1, 500]]), var=var))
    assert aligned.gene_ids.tolist() == [7]
    assert (aligned.report.num_genes, aligned.report.unmatched) == (1, [])


def test_a_single_dict_is_a_cell_and_the_panel_is_what_the_dicts_name(extractor):
    assert extractor.align({"CD3D": 3, "LYZ": 0}).panel.tolist() == [0, 7]
    aligned = extractor.align([{"CD3D": 3}, {"LYZ": 2, "UNKNOWN": 1}])
    assert aligned.panel.tolist() == [0, 7]
    assert [row.tolist() for row in aligned.row(1)] == [[7], [2.0]]


def test_whole_numbers_that_float32_blurred_are_rounded(extractor):
    aligned = extractor.align(np.array([[2.0004, 0.9998]], dtype=np.float32), gene_names=["CD3D", "LYZ"])
    assert aligned.counts.tolist() == [2.0, 1.0]


def test_values_of_unknown_genes_are_not_looked_at(extractor):
    assert extractor.align(np.array([[1.0, np.nan, -3.5]]), ["CD3D", "x", "y"]).counts.tolist() == [1.0]


# --- the report


def test_the_share_is_counted_against_the_smaller_side(extractor):
    small, many = ["CD3D", "LYZ"], [f"OTHER{i}" for i in range(3000)]
    assert extractor.align(np.ones((1, 2)), small).report.share == 1.0
    report = extractor.align(np.ones((1, 3008)), [*GENES, *many]).report
    assert (report.share, report.matched, len(report.unmatched)) == (1.0, 8, 3000)
    report = extractor.align(np.ones((1, 4)), ["CD3D", "cd3d", "x", "y"]).report
    assert (report.share, report.matched, report.merged_duplicates) == (0.25, 2, 1)
    assert "2 of 4 genes matched" in str(report)
    assert "unmatched: 'x', 'y'" in str(report)


def test_the_share_below_which_matching_fails_can_be_set():
    names = [f"OTHER{i}" for i in range(19)]
    counts = np.ones((1, 20))
    genes = [f"G{i}" for i in range(100)]
    with pytest.raises(ValueError, match="min_match_share"):
        ScMMGPTFeatureExtractor.from_genes(genes).align(counts, ["G0", *names])
    extractor = ScMMGPTFeatureExtractor.from_genes(genes, min_match_share=0.05)
    assert extractor.align(counts, ["G0", *names]).report.share == pytest.approx(0.05)


def test_mouse_genes_are_not_taken_for_human_ones_by_their_spelling(extractor):
    mouse = ScMMGPTFeatureExtractor.from_genes(["Cd3d", "Lyz2"])
    assert mouse.align(np.ones((1, 2)), ["Cd3d", "Lyz2"]).report.share == 1.0
    assert extractor.align(np.ones((1, 2)), ["cd3d", "lyz"]).report.share == 1.0  # lower case is no mouse
    for names in (["Cd3d", "Lyz"], ["ENSMUSG00000032094", "ENSMUSG00000069516"]):
        with pytest.raises(ValueError, match="look like mouse genes"):
            extractor.align(np.ones((1, 2)), names)
    var = pd.DataFrame({"feature_name": ["Cd3d", "Lyz"]}, index=["ENSMUSG00000032094", "ENSMUSG00000069516"])
    with pytest.raises(ValueError, match="look like mouse genes"):
        extractor.align(anndata.AnnData(np.ones((1, 2)), var=var))


# --- aligned counts


def test_select_is_indexing(extractor):
    counts = random_counts(4, 6, len(GENES))
    adata = anndata.AnnData(counts, var=pd.DataFrame(index=GENES))
    aligned = extractor.align(adata)
    for pick in ([4, 0, 4], slice(1, 4), np.array([True, False] * 3), np.array([], dtype=int)):
        picked = aligned.select(pick)
        np.testing.assert_array_equal(dense(picked, len(GENES)), counts[pick])
        assert picked.cell_names == adata.obs_names[pick].tolist()


def test_aligned_counts_pass_through(extractor):
    aligned = extractor.align(np.ones((2, 2)), ["CD3D", "LYZ"])
    assert extractor.align(aligned) is aligned
    again = ScMMGPTFeatureExtractor.from_genes(GENES, max_genes=7)  # other settings, the same genes
    assert again.align(aligned) is aligned


def test_counts_of_another_vocabulary_are_refused_though_their_ids_fit(extractor):
    aligned = extractor.align(np.ones((2, 2)), ["CD3D", "LYZ"])
    other = ScMMGPTFeatureExtractor.from_genes(GENES[::-1], ENSEMBL[::-1])
    for cells in (aligned, aligned.select([1])):
        with pytest.raises(ValueError, match=r"aligned to another gene vocabulary .* Align the original cells again"):
            other.align(cells)


# --- where the counts are


def log_normalised(**kwargs):
    adata = anndata.AnnData(np.array([[0.5, 1.2], [0.0, 2.3]]), var=pd.DataFrame(index=["CD3D", "LYZ"]), **kwargs)
    return adata


def test_layer_raw_is_that_of_the_anndata(extractor):
    adata = log_normalised()
    raw = anndata.AnnData(np.array([[3, 0, 1], [2, 2, 5]]), var=pd.DataFrame(index=["LYZ", "CD3D", "MS4A1"]))
    raw.obs_names = adata.obs_names
    adata.raw = raw
    aligned, expected = extractor.align(adata, layer="raw"), extractor.align(raw)
    np.testing.assert_array_equal(dense(aligned, len(GENES)), dense(expected, len(GENES)))
    assert aligned.panel.tolist() == expected.panel.tolist()
    one = extractor.align(adata[1:], layer="raw")  # a view
    np.testing.assert_array_equal(dense(one, len(GENES)), dense(expected, len(GENES))[1:])
    assert one.cell_names == ["1"]


def test_the_error_names_where_the_file_may_keep_its_counts(extractor):
    counts = np.array([[3, 1], [2, 2]])
    adata = log_normalised(layers={"umi": counts})
    adata.raw = adata.copy()
    with pytest.raises(ValueError, match=r'also offers `layer="umi"` or `layer="raw"`'):
        extractor.align(adata)
    with pytest.raises(ValueError, match=r'also offers `layer="umi"`\), or recover'):
        extractor.align(adata, layer="raw")
    with pytest.raises(ValueError, match=r"no layer 'counts'\. Layers available: 'umi', 'raw'"):
        extractor.align(adata, layer="counts")
    with pytest.raises(ValueError, match=r"no layer 'raw'\. Layers available: none"):
        extractor.align(log_normalised(), layer="raw")
    with pytest.raises(ValueError, match=r"the file offers no layer and no raw\), or recover .*recover_counts"):
        extractor.align(log_normalised())
    layer_called_raw = log_normalised(layers={"raw": counts})
    np.testing.assert_array_equal(
        extractor.align(layer_called_raw, layer="raw").counts, counts[[0, 0, 1, 1], [0, 1, 0, 1]]
    )


def test_real_cells_agree_with_pandas(scmmgpt_data):
    adata = anndata.read_h5ad(scmmgpt_data / "h5ad" / "liver_he2020_20.h5ad")
    vocab = sorted(adata.var_names[::3].str.lower().unique())
    extractor = ScMMGPTFeatureExtractor.from_genes(vocab)
    aligned = extractor.align(adata)
    frame = adata.to_df().T.groupby(adata.var_names.str.lower()).sum().T.reindex(columns=vocab)
    np.testing.assert_array_equal(dense(aligned, len(vocab)), frame.to_numpy())
    assert aligned.cell_names == adata.obs_names.tolist()
