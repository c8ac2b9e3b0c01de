"""Ontology look-ups against the raw files of cellxgene-ontology-guide, read here by another way."""

import io
import json
import time
from importlib.resources import files

import pandas as pd
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from scmmgpt.data.author_labels import BLOOD_LABELS
from scmmgpt.data.ontology import ONTOLOGIES, Ontology, normalise

BULK_LABELS = {
    "CD14+ Monocyte": "CD14-positive monocyte",
    "CD19+ B": "B cell",
    "CD34+": "hematopoietic precursor cell",
    "CD4+/CD25 T Reg": "CD4-positive, CD25-positive, alpha-beta regulatory T cell",
    "CD4+/CD45RA+/CD25- Naive T": "naive thymus-derived CD4-positive, alpha-beta T cell",
    "CD4+/CD45RO+ Memory": "CD4-positive, alpha-beta memory T cell",
    "CD56+ NK": "natural killer cell",
    "CD8+ Cytotoxic T": "CD8-positive, alpha-beta cytotoxic T cell",
    "CD8+/CD45RA+ Naive Cytotoxic": "naive thymus-derived CD8-positive, alpha-beta T cell",
    "Dendritic": "dendritic cell",
}


@pytest.fixture(scope="module")
def ontology() -> Ontology:
    return Ontology()


@pytest.fixture(scope="module")
def raw() -> dict:
    """The Cell Ontology as the package ships it, without the package's own reader."""
    folder = files("cellxgene_ontology_guide") / "data"
    release = json.loads((folder / "latest_ontology_info.json").read_text())["ontologies"]["CL"]["version"]
    packed = (folder / f"CL-ontology-{release}.json.zst").read_bytes()
    return json.load(zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed)))


def test_every_live_cell_type_matches_the_raw_file(ontology, raw):
    live = {term_id: term for term_id, term in raw.items() if not term["deprecated"]}
    assert len(live) > 3000
    for term_id, term in live.items():
        assert ontology.label(term_id) == term["label"]
        assert ontology.ancestors(term_id) == set(term["ancestors"])
        assert ontology.ancestors(term_id, include_self=True) == {term_id, *term["ancestors"]}
        assert ontology.resolve(term["label"]) == term_id


def test_definitions_lose_citations_and_nothing_else(ontology, raw):
    changed = 0
    for term_id, term in raw.items():
        if term["deprecated"]:
            continue
        text, written = ontology.definition(term_id), term.get("description")
        if written is None:
            assert text is None
        elif text != " ".join(written.split()):
            changed += 1
            assert len(text) > 20
            assert "et al., 20" not in text
            # Nothing is new but a mended article or full stop.
            new = set(text.split()) - set(written.split())
            assert all(word[-1] in ".,;" or word in ("A", "An", "a", "an") for word in new)
    assert 10 < changed < 400
    expected = "A lymphocyte of B lineage that is capable of B cell mediated immunity."
    assert ontology.definition("CL:0000236") == expected


def test_is_descendant(ontology):
    assert ontology.is_descendant("CL:0000236", "CL:0000542")  # a B cell is a lymphocyte
    assert not ontology.is_descendant("CL:0000542", "CL:0000236")
    assert not ontology.is_descendant("CL:0000236", "CL:0000236")
    assert ontology.is_descendant("CL:0000236", "CL:0000236", include_self=True)


def test_all_ontologies_answer_offline(ontology):
    assert ontology.label(ontology.resolve("blood", "UBERON")) == "blood"
    assert ontology.label("MONDO:0007915") == "systemic lupus erythematosus"
    assert ontology.label(ontology.resolve("10X 3' V2", "EFO")) == "10x 3' v2"
    for name in ONTOLOGIES:
        assert f"{name} v" in ontology.version


@pytest.mark.parametrize(("label", "name"), BULK_LABELS.items())
def test_labels_of_the_demonstration_cells(ontology, raw, label, name):
    term_id = ontology.resolve(label)
    assert raw[term_id]["label"] == name
    assert not raw[term_id]["deprecated"]


def test_the_demonstration_has_no_other_labels():
    import scanpy

    assert set(scanpy.datasets.pbmc68k_reduced().obs["bulk_labels"]) == set(BULK_LABELS)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("B", "B cell"),
        ("b-cells", "B cell"),
        ("T Lymphocyte", "T cell"),
        ("NK cells", "natural killer cell"),
        ("CD14+ Monocytes", "CD14-positive monocyte"),
        ("CD4 T cells", "CD4-positive, alpha-beta T cell"),
        ("DC", "dendritic cell"),
        ("dendritic_cells", "dendritic cell"),
        ("FCGR3A+ Mono", "CD14-low, CD16-positive monocyte"),
        ("Mast", "mast cell"),
        ("γδ T cell", "gamma-delta T cell"),
        ("Megakaryocytes", "megakaryocyte"),
        ("Endothelial Cells", "endothelial cell"),
        ("CD4-positive,  alpha-beta T-Cell", "CD4-positive, alpha-beta T cell"),
    ],
)
def test_spellings_of_cell_types(ontology, label, name):
    assert ontology.label(ontology.resolve(label)) == name


@pytest.mark.parametrize("label", ["Other", "Vascular", "", "cell 7", "unknown", "alpha", "CD4-CD8-"])
def test_labels_that_name_no_term(ontology, label):
    assert ontology.resolve(label) is None


def test_every_author_label_resolves_to_its_own_term(ontology, raw):
    for term_id, labels in BLOOD_LABELS.items():
        assert not raw[term_id]["deprecated"]
        for label in labels:
            assert ontology.resolve(label) == term_id, label
    written = [normalise(label) for labels in BLOOD_LABELS.values() for label in dict.fromkeys(labels)]
    by_term = {normalise(x): i for i, labels in BLOOD_LABELS.items() for x in labels}
    assert len(by_term) == len(set(written))


def test_a_shared_synonym_means_the_most_general_term_or_nothing(ontology):
    # "uterine gland" is a synonym of two terms, one of which is the other's kind.
    general = ontology.resolve("uterine gland", "UBERON")
    assert {general} < {"UBERON:0002451", "UBERON:0012276"}
    assert ontology.is_descendant(({"UBERON:0002451", "UBERON:0012276"} - {general}).pop(), general)
    # Two different things are both called so.
    assert ontology.resolve("malpighian corpuscle", "UBERON") is None
    assert ontology.resolve("BM2 B-Lymphocytes") is None


def test_obsolete_ids_follow_their_replacement(ontology, raw):
    replaced = {i: t["replaced_by"] for i, t in raw.items() if t["deprecated"] and t.get("replaced_by") in raw}
    direct = {i: new for i, new in replaced.items() if not raw[new]["deprecated"]}
    assert len(direct) > 50
    for term_id, new in direct.items():
        assert ontology.current(term_id) == new
        assert ontology.label(term_id) == raw[new]["label"]


def test_obsolete_ids_without_replacement_say_what_to_consider(ontology):
    with pytest.raises(ValueError, match=r"CL:0000004.*obsolete.*consider CL:0000000"):
        ontology.label("CL:0000004")


@pytest.mark.parametrize("term_id", ["CL:9999999", "XX:1", "B cell", "", None, 236])
def test_unknown_ids(ontology, term_id):
    with pytest.raises(ValueError, match="`term_id`"):
        ontology.label(term_id)


def test_bad_arguments_of_resolve(ontology):
    with pytest.raises(ValueError, match=r"`ontology` is 'GO'.*CL, UBERON"):
        ontology.resolve("B cell", "GO")
    with pytest.raises(ValueError, match=r"`label` is nan of type float"):
        ontology.resolve(float("nan"))


def test_markers_with_plus_and_minus_stay_apart():
    assert normalise("CD14+ Monocytes") == normalise("CD14-positive monocyte")
    assert normalise("CD25- T") != normalise("CD25+ T")
    assert normalise("CD4-CD8- T") == "cd4 negative cd8 negative t"
    assert normalise("T-cell") == normalise("T cells") == "t cell"


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing_more(label):
    once = normalise(label)
    assert once == " ".join(once.split())
    assert normalise(label.upper() if label.isascii() else label) == once


def test_loads_only_what_is_asked_for_and_soon():
    start = time.perf_counter()
    fresh = Ontology()
    assert fresh.resolve("B cell") == "CL:0000236"
    assert time.perf_counter() - start < 5
    assert set(fresh._name_index) == {"CL"}


def test_labels_of_real_studies_agree_with_their_curated_ids(ontology, scmmgpt_data):
    import anndata

    agree, judged = 0, 0
    for path in sorted((scmmgpt_data / "h5ad").glob("pbmc*.h5ad")):
        obs = anndata.read_h5ad(path, backed="r").obs
        pairs = pd.DataFrame(obs[["cell_type_original", "cell_type_ontology_term_id"]].astype(str)).drop_duplicates()
        for label, curated in pairs.itertuples(index=False):
            found = ontology.resolve(label)
            if curated == "unknown":
                assert found is None, label
            elif found is not None:
                judged += 1
                agree += found == curated
                assert curated in ontology.ancestors(found, True) or found in ontology.ancestors(curated), label
    assert judged > 40
    assert agree / judged > 0.9
