"""Names are resolved to genes: against a search through all names, hand-worked cases, and files of other species."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmmgpt import ScMMGPTFeatureExtractor

GENES = ["CD3D", "MS4A1", "LYZ", "H3-3B", "C4A", "C4B", "IGHV1-69", "SSB", "SPSB1"]
ENSEMBL = ["ENSG00000167286", "ENSG00000156738", "ENSG00000090382", "", "", "", "ENSG00000211973", "", ""]
ALIASES = {
    "CD3D": "T3D|B1|LYZ|SSB.1",  # LYZ is the symbol of another gene
    "MS4A1": "CD20|B1|SSB.1|ENSG00000999999",
    "H3-3B": "H3F3B",
    "SPSB1": "SSB-1",
}
MOUSE = {
    "CD3D": "Cd3d|ENSMUSG00000032094",
    "LYZ": "Lyz1|Lyz2|ENSMUSG00000069515|ENSMUSG00000069516",
    "C4A": "C4b",
    "C4B": "C4b",
    "MS4A1": "Ms4a1",
    "SSB": "C3",  # not so, but some symbols of mice are in capitals
}


@pytest.fixture(scope="module")
def extractor() -> ScMMGPTFeatureExtractor:
    return ScMMGPTFeatureExtractor.from_genes(GENES, ENSEMBL, aliases=ALIASES, orthologs={"mouse": MOUSE})


def align_ones(extractor, names, **columns):
    adata = anndata.AnnData(np.ones((1, len(names))), var=pd.DataFrame(columns, index=names))
    return extractor.align(adata)


# --- aliases, Ensembl ids, copies


@pytest.mark.parametrize(
    ("name", "gene"),
    [
        ("CD20", "MS4A1"),
        ("cd20", "MS4A1"),
        ("T3D", "CD3D"),
        ("H3F3B", "H3-3B"),
        ("B1", None),  # of two genes
        ("LYZ", "LYZ"),
        ("lyz", "LYZ"),
        ("ENSG00000999999.4", "MS4A1"),
        ("C4A_ENSG00000156738", "MS4A1"),  # as CELLxGENE tells genes of one symbol apart
        ("CD3D_ENSG00000156738.2", "MS4A1"),
        ("CD3D-1", "CD3D"),
        ("CD3D.1", "CD3D"),
        ("ENSG00000090382-1", "LYZ"),
        ("cd3d-1", "CD3D"),
        ("SSB.1", None),  # a name of two genes, though it may be a copy as well
        ("CD3D-2", None),  # where there is no CD3D-1
        ("IGHV1-69-2", None),
        ("IGHV1-69", "IGHV1-69"),
        ("CD20-1", None),  # a copy of an alias may be a name of its own
        ("SSB-1", "SPSB1"),
        ("Cd3d", "CD3D"),
        ("Lyz2", None),
    ],
)
def test_other_names_of_a_gene(extractor, name, gene):
    assert extractor.gene_ids([name]).tolist() == [-1 if gene is None else GENES.index(gene)]


def test_a_file_with_copies_has_them_summed():
    extractor = ScMMGPTFeatureExtractor.from_genes(["CD3D", "MS4A1", "MS4A1-2"])
    adata = anndata.AnnData(np.array([[1, 2, 4, 8, 16, 32]]))
    adata.var_names = ["CD3D", "CD3D", "CD3D", "MS4A1", "MS4A1-1", "MS4A1-2"]
    adata.var_names_make_unique()
    assert adata.var_names.tolist()[:3] == ["CD3D", "CD3D-1", "CD3D-2"]
    aligned = extractor.align(adata)
    assert aligned.gene_ids.tolist() == [0, 1, 2]  # MS4A1-2 is a gene of the vocabulary
    assert aligned.counts.tolist() == [7, 24, 32]
    assert (aligned.report.matched_by_symbol, aligned.report.merged_duplicates) == (6, 3)


def test_the_report_counts_every_gene_once_and_names_the_candidates(extractor):
    names = ["CD3D", "ms4a1", "ENSG00000090382.3", "H3F3B", "B1", "NOVEL", "B1-1"]
    report = align_ones(extractor, names).report
    found = [getattr(report, f"matched_by_{kind}") for kind in ("symbol", "case", "ensembl", "alias", "ortholog")]
    assert found == [1, 1, 1, 1, 0]
    assert report.ambiguous == {"B1": ["CD3D", "MS4A1"]}
    assert report.unmatched == ["NOVEL", "B1-1"]
    assert report.matched == 4
    assert report.species == "human"
    assert "1 ambiguous: 'B1 of CD3D or MS4A1'" in str(report)
    assert "1 by symbol, 1 by symbol in other case, 1 by Ensembl id, 1 by alias)" in str(report)


def test_genes_that_differ_by_case_only_are_ambiguous_in_other_case():
    extractor = ScMMGPTFeatureExtractor.from_genes(["aBC", "ABC", "DEF"], aliases={"DEF": "abc"}, min_match_share=0)
    assert align_ones(extractor, ["abc", "DEF"]).report.ambiguous == {"abc": ["aBC", "ABC"]}
    report = align_ones(extractor, ["abc", "DEF"], symbol=["ABC", ""]).report  # another column tells
    assert (report.ambiguous, report.matched_by_symbol) == ({}, 2)


def test_a_stronger_name_in_any_column_beats_an_alias(extractor):
    aligned = align_ones(extractor, ["CD20", "B1", "MS4A1"], gene_ids=["ENSG00000090382", "ENSG00000167286", "x"])
    assert aligned.gene_ids.tolist() == [0, 1, 2]
    assert (aligned.report.matched_by_ensembl, aligned.report.matched_by_alias, aligned.report.ambiguous) == (2, 0, {})


name = st.text("abAB", min_size=1, max_size=3)


@settings(max_examples=300)
@given(
    st.lists(name, min_size=1, max_size=8, unique=True), st.lists(st.lists(name, max_size=4), max_size=8), st.data()
)
def test_resolving_is_a_search_through_all_names_strongest_first(vocab, others, data):
    aliases = {symbol: "|".join(names) for symbol, names in zip(vocab, others, strict=False) if names}
    extractor = ScMMGPTFeatureExtractor.from_genes(vocab, aliases=aliases)
    names = data.draw(st.lists(name, max_size=12))
    for found, wanted in zip(extractor.gene_ids(names).tolist(), names, strict=True):
        exact = [i for i, symbol in enumerate(vocab) if symbol == wanted]
        case = [i for i, symbol in enumerate(vocab) if symbol.upper() == wanted.upper()]
        alias = [
            i
            for i, symbol in enumerate(vocab)
            if wanted.upper() in [other.upper() for other in aliases.get(symbol, "").split("|")]
        ]
        genes = exact or case or alias
        assert found == (genes[0] if len(genes) == 1 else -1)


# --- other species


def test_mouse_genes_are_found_as_orthologs_and_summed(extractor):
    names = ["Cd3d", "Lyz1", "Lyz2", "C3", "C4b", "Ssb", "Ms4a1-1"]
    aligned = extractor.align(np.array([[1, 2, 4, 8, 16, 32, 64]]), names)
    assert aligned.gene_ids.tolist() == [0, 1, 2, 7]
    assert aligned.counts.tolist() == [1, 64, 6, 8]
    report = aligned.report
    assert (report.species, report.matched_by_ortholog, report.merged_duplicates) == ("mouse", 5, 1)
    assert report.ambiguous == {"C4b": ["C4A", "C4B"]}
    assert report.unmatched == ["Ssb"]  # spelled as SSB, but no ortholog of it
    assert "5 as orthologs of mouse" in str(report)
    assert extractor.gene_ids(names, species="mouse").tolist() == [0, 2, 2, 7, -1, -1, 1]
    with pytest.raises(ValueError, match=r"gene_ids\(adata.var_names, species='mouse'\) >= 0"):
        extractor.align(np.array([[0, 1], [1, 0]]), ["Cd3d", "Ssb"])


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["ENSMUSG00000032094.7", "ENSMUSG00000069516"], {}),
        (["Cd3d", "Lyz2"], {"gene_ids": ["ENSMUSG00000032094", "ENSMUSG00000069516"]}),
        (["0", "1"], {"feature_name": ["Cd3d", "Lyz2"]}),
        (["ENSMUSG00000032094", "ENSMUSG99999999999"], {"feature_name": ["Cd3d", "Lyz1"]}),
    ],
)
def test_mouse_ids_and_mixed_columns(extractor, names, columns):
    aligned = align_ones(extractor, names, **columns)
    assert aligned.gene_ids.tolist() == [0, 2]
    assert aligned.report.matched_by_ortholog == 2


def test_orthologs_do_not_change_how_the_own_species_is_read(extractor):
    aligned = align_ones(extractor, ["cd3d", "C3", "LYZ", "ENSMUSG00000032094"])
    assert aligned.gene_ids.tolist() == [0, 2]
    assert aligned.report.unmatched == ["C3", "ENSMUSG00000032094"]


def test_the_species_is_the_one_that_knows_most_names():
    rat = {"CD3D": "Cd3d", "LYZ": "Lyz2", "SSB": "Zzz9"}
    extractor = ScMMGPTFeatureExtractor.from_genes(GENES, orthologs={"mouse": MOUSE, "rat": rat})
    report = align_ones(extractor, ["Cd3d", "Lyz2", "Zzz9"]).report
    assert (report.species, report.matched_by_ortholog) == ("rat", 3)


def test_a_species_without_orthologs_is_refused_with_the_cure(extractor):
    names = ["ENSMMUG00000000001", "ENSMMUG00000000002"]
    with pytest.raises(ValueError, match=r"look like rhesus macaque genes.*no rhesus macaque orthologs.*--orthologs"):
        align_ones(extractor, names, feature_name=["CD3D", "LYZ"])
    with pytest.raises(ValueError, match=r"look like human genes.*holds mouse genes"):
        align_ones(ScMMGPTFeatureExtractor.from_genes(["Cd3d", "Lyz2"]), ["CD3D", "LYZ2"])
    with pytest.raises(ValueError, match=r"`species`='rat'.*orthologs of 'mouse'"):
        extractor.gene_ids(["Cd3d"], species="rat")
    # Their symbols come from human orthologs, so a file that leads with them can be read.
    assert align_ones(extractor, ["CD3D", "LYZ"], gene_ids=names).report.matched_by_symbol == 2


def test_surface_proteins_are_refused():
    genes = [f"CD{i}" for i in range(40)]
    extractor = ScMMGPTFeatureExtractor.from_genes(genes, aliases={"CD1": "CD45RA"})
    assert align_ones(extractor, genes).report.matched == 40  # genes, though called so
    proteins = [f"CD{i} (clone {i})" for i in range(12)] + ["CD45RA"]
    with pytest.raises(ValueError, match=r"13 of 53 features look like surface proteins .*'CD0 \(clone 0\)'"):
        align_ones(extractor, [*genes, *proteins])
    larger = ScMMGPTFeatureExtractor.from_genes([f"G{i}" for i in range(60)])
    assert align_ones(larger, [*larger.vocab[:-2], *proteins]).report.matched == 60  # a few odd names of many


# --- saved files


@settings(max_examples=20)
@given(st.dictionaries(st.sampled_from(GENES), st.lists(st.text("xyzÜ-.1", min_size=1), min_size=1), max_size=5))
def test_all_names_round_trip_through_the_saved_file(tmp_path_factory, others):
    names = {symbol: "|".join(aliases) for symbol, aliases in others.items()}
    orthologs = {"mouse": {symbol: f"m{joined}" for symbol, joined in names.items()}}
    extractor = ScMMGPTFeatureExtractor.from_genes(GENES, ENSEMBL, aliases=names, orthologs=orthologs)
    folder = tmp_path_factory.mktemp("saved")
    extractor.save_pretrained(folder)
    loaded = ScMMGPTFeatureExtractor.from_pretrained(folder)
    assert (loaded.aliases, loaded.orthologs) == (names, orthologs)
    asked = [*GENES, *(name for aliases in others.values() for name in aliases)]
    np.testing.assert_array_equal(loaded.gene_ids(asked), extractor.gene_ids(asked))
    asked = [name for joined in orthologs["mouse"].values() for name in joined.split("|")]
    np.testing.assert_array_equal(loaded.gene_ids(asked, species="mouse"), extractor.gene_ids(asked, species="mouse"))


def test_a_file_without_aliases_and_orthologs_loads_as_before(tmp_path):
    ScMMGPTFeatureExtractor.from_genes(GENES, ENSEMBL).save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    content = json.loads(path.read_text())
    assert content.pop("aliases") is None
    assert content.pop("orthologs") is None
    path.write_text(json.dumps(content))
    loaded = ScMMGPTFeatureExtractor.from_pretrained(tmp_path)
    assert loaded.gene_ids(["CD3D", "ENSG00000090382.1", "CD20"]).tolist() == [0, 2, -1]


@pytest.mark.parametrize(
    ("field", "names"),
    [
        ("aliases", {"CD4": "T4"}),
        ("aliases", {"<pad>": "T4"}),
        ("aliases", {"CD3D": ["T3D"]}),
        ("orthologs", {"mouse": {"CD4": "Cd4"}}),
    ],
)
def test_names_of_no_gene_are_refused(field, names):
    with pytest.raises(ValueError, match=rf"`{field}.* must map gene tokens of `vocab` to strings"):
        ScMMGPTFeatureExtractor.from_genes(GENES, **{field: names})


def test_orthologs_of_the_own_species_are_refused():
    with pytest.raises(ValueError, match="`orthologs` has human genes, but so has the vocabulary"):
        ScMMGPTFeatureExtractor.from_genes(GENES, orthologs={"human": {"CD3D": "CD3D"}})
    ids = ["ENSRNOG00000000001", "ENSRNOG00000000002"]
    extractor = ScMMGPTFeatureExtractor.from_genes(["Cd3d", "Lyz2"], ids, orthologs={"mouse": {"Cd3d": "Cd3d"}})
    assert align_ones(extractor, ["Cd3d", "Lyz2"]).report.matched_by_symbol == 2
