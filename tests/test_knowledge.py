"""Facts, longer descriptions, markers and synonyms: tables in every format that is promised, and bad ones refused."""

from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scmmgpt.data.definitions import Definitions, as_sentence, read_descriptions
from scmmgpt.data.facts import CellFacts, fact_columns, read_facts
from scmmgpt.data.grammar import tidy
from scmmgpt.data.markers import Markers, MarkerTable
from scmmgpt.data.ontology import Ontology, normalise
from scmmgpt.data.origin import age, draw_context, stage

CENSUS_ROW = {
    "cell_type": "natural killer cell",
    "cell_type_ontology_term_id": "CL:0000623",
    "tissue": "blood",
    "tissue_ontology_term_id": "UBERON:0000178",
    "tissue_type": "tissue",
    "disease": "systemic lupus erythematosus",
    "disease_ontology_term_id": "MONDO:0007915",
    "assay": "10x 3' v2",
    "assay_ontology_term_id": "EFO:0009899",
    "sex": "female",
    "sex_ontology_term_id": "PATO:0000383",
    "development_stage": "65-year-old stage",
    "development_stage_ontology_term_id": "HsapDv:0000159",
    "self_reported_ethnicity": "European ancestry",
    "self_reported_ethnicity_ontology_term_id": "HANCESTRO:0005",
    "suspension_type": "cell",
    "organism": "Homo sapiens",
    "organism_ontology_term_id": "NCBITaxon:9606",
    "donor_id": "d1",
}


@pytest.fixture(scope="module")
def ontology() -> Ontology:
    return Ontology()


# Facts


def test_a_row_of_the_census(ontology):
    assert CellFacts.from_obs(CENSUS_ROW, ontology) == CellFacts(
        cell_type="natural killer cell",
        cell_type_id="CL:0000623",
        tissue="blood",
        disease="systemic lupus erythematosus",
        sex="female",
        assay="10x 3' v2",
        donor="d1",
        organism="Homo sapiens",
        development_stage="65-year-old stage",
        ethnicity="European ancestry",
        suspension_type="cell",
        tissue_id="UBERON:0000178",
        disease_id="MONDO:0007915",
        assay_id="EFO:0009899",
    )


def test_names_come_from_ids_where_only_ids_are_there(ontology):
    ids = {name: value for name, value in CENSUS_ROW.items() if name.endswith("_ontology_term_id")}
    rest = {name: CENSUS_ROW[name] for name in ("suspension_type", "donor_id")}
    assert CellFacts.from_obs(ids | rest, ontology) == CellFacts.from_obs(CENSUS_ROW, ontology)


def test_ids_are_brought_up_to_date_and_free_text_is_kept(ontology):
    raw = ontology._schema.ontology("UBERON")
    old, new = next(
        (i, term["replaced_by"])
        for i, term in raw.items()
        if term["deprecated"] and term.get("replaced_by") in raw and not raw[term["replaced_by"]]["deprecated"]
    )
    facts = CellFacts.from_obs({"cell_type": "x", "tissue_ontology_term_id": old}, ontology)
    assert (facts.tissue, facts.tissue_id) == (raw[new]["label"], new)
    facts = CellFacts.from_obs({"cell_type": "x", "tissue": "my tissue", "tissue_ontology_term_id": old}, ontology)
    assert (facts.tissue, facts.tissue_id) == ("my tissue", new)
    facts = CellFacts.from_obs({"cell_type": "B cell", "cell_type_ontology_term_id": "CL:0000004"}, ontology)
    assert facts.cell_type_id == "CL:0000236"  # obsolete without a replacement: what the label says
    fish = CellFacts.from_obs({"cell_type": "x", "tissue": "fin", "tissue_ontology_term_id": "ZFA:0000108"}, ontology)
    assert (fish.tissue, fish.tissue_id) == ("fin", None)
    with pytest.raises(ValueError, match=r"'UBERON:9999999' is not in UBERON"):
        CellFacts.from_obs({"cell_type": "x", "tissue_ontology_term_id": "UBERON:9999999"}, ontology)


def test_several_values_and_grown_tissue(ontology):
    row = CENSUS_ROW | {
        "disease": "type 2 diabetes mellitus || obesity disorder",
        "disease_ontology_term_id": "MONDO:0005148 || MONDO:0011122",
        "self_reported_ethnicity": "",
        "self_reported_ethnicity_ontology_term_id": "HANCESTRO:0005,HANCESTRO:0014",
        "tissue": "lung",
        "tissue_type": "organoid",
    }
    facts = CellFacts.from_obs(row, ontology)
    assert (facts.disease, facts.disease_id) == ("type 2 diabetes mellitus and obesity disorder", None)
    assert (facts.tissue, facts.tissue_id) == ("lung organoid", None)
    names = [ontology.label(i) for i in ("HANCESTRO:0005", "HANCESTRO:0014")]
    assert facts.ethnicity == f"{names[0]} and {names[1]}"


@pytest.mark.parametrize("label", ["Other", "unassigned", "doublet"])
def test_labels_that_are_no_type(ontology, label):
    assert CellFacts.from_obs({"cell_type": label}, ontology) == CellFacts()
    known = {"cell_type": label, "cell_type_ontology_term_id": "CL:0000236"}
    assert CellFacts.from_obs(known, ontology) == CellFacts("B cell", "CL:0000236")


values = st.sampled_from(["", "unknown", None, float("nan"), "blood", "female", "normal", "CL:0000236", "B cell"])


@given(data=st.data())
def test_a_table_is_read_as_its_rows_are(ontology, data):
    columns = data.draw(st.lists(st.sampled_from(["tissue", "sex", "disease", "donor_id", "note"]), unique=True))
    rows = data.draw(st.lists(st.tuples(*[values] * (len(columns) + 1)), max_size=6))
    obs = pd.DataFrame(rows, columns=["cell_type", *columns], dtype=object)
    if data.draw(st.booleans()):
        obs = obs.astype("category")
    expected = [CellFacts.from_obs(row, ontology) for row in obs.astype(object).to_dict("records")]
    assert read_facts(obs, ontology) == expected


def test_every_fact_has_its_columns():
    names = {name for name in fact_columns() if not name.endswith("_ontology_term_id")}
    assert names - {"cell_type", "tissue_type"} >= {"tissue", "development_stage", "self_reported_ethnicity"}
    assert len(names) - 1 + 4 == len(fields(CellFacts))  # four ids are fields of their own


def test_stages_of_life(ontology):
    assert age("65-year-old stage") == "65-year-old"
    assert age("8-week-old mouse stage") == "8-week-old"
    assert age("adult stage") is None
    assert stage("Carnegie stage 20") == "Carnegie stage 20"
    assert stage("human adult stage") == "the human adult stage"
    assert stage("third decade human stage") == "the third decade stage"
    assert stage("90 year-old and over stage") == "an age of 90 years or more"
    rng = np.random.default_rng(0)
    facts = CellFacts(disease="normal", sex="male", development_stage="8-year-old stage", tissue="lung")
    chances = dict.fromkeys(("disease", "sex", "development_stage", "tissue"), 1.0)
    assert draw_context(facts, rng, chances)[0] == " from the lung of a healthy 8-year-old male donor"


# Longer descriptions


@pytest.mark.parametrize(
    "columns",
    [("term_id", "text", "source"), ("defined_class", "desc", "pubs"), ("CL ID", "Final version (QC'd)", "x")],
)
def test_tables_of_descriptions(ontology, tmp_path, columns):
    path = tmp_path / "descriptions.csv.gz"
    rows = [
        ("CL:0000236", "B cells make  antibodies [PMID:1].\n\nThey do more.", "a"),
        ("CL:0000236", "B cells make antibodies.", "b"),
        ("CL:0000004", "Nothing replaces this.", "c"),
        ("FBbt:1", "A fly.", "d"),
        ("CL:0000084", " ", "e"),
    ]
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    assert read_descriptions([path], ontology) == {"CL:0000236": ("B cells make antibodies.", "They do more.")}


def test_descriptions_that_curators_turned_down_are_left_out(ontology, tmp_path):
    path = tmp_path / "guide.csv"
    table = pd.DataFrame(
        {"CL ID": ["CL:0000236", "CL:0000084", "CL:0000623"], "Final version (QC'd)": ["B.", "T.", "N."]}
    )
    table.assign(**{"For CL inclusion": ["0", "１", ""]}).to_csv(path, index=False)
    assert read_descriptions([path], ontology) == {"CL:0000084": ("T.",)}


def test_tables_that_hold_no_descriptions(ontology, tmp_path):
    with pytest.raises(ValueError, match=r"`descriptions` names .*absent\.csv"):
        read_descriptions([tmp_path / "absent.csv"], ontology)
    path = tmp_path / "wrong.csv"
    path.write_text("id,words\n1,2\n")
    with pytest.raises(ValueError, match=r"`descriptions`.*\['id', 'words'\].*rename"):
        read_descriptions([path], ontology)


def test_only_paragraphs_that_stand_alone_are_told(ontology):
    paragraphs = (
        "B cells make antibodies. They live long.",
        "These cells do more.",
        "Some B cells wait.",
        "Others go.",
    )
    definitions = Definitions(ontology, {"CL:0000236": paragraphs})
    told = {
        " ".join(definitions.at_length("CL:0000236", "B cell", np.random.default_rng(seed))) for seed in range(200)
    }
    assert {"B cells make antibodies.", "B cells make antibodies. They live long.", "Some B cells wait."} <= told
    assert any(text.startswith("It is a lymphocyte of B lineage") for text in told)
    assert not any("These" in text or "Others" in text for text in told)


@pytest.mark.parametrize(
    ("definition", "sentence"),
    [
        ("A lymphocyte that waits.", "It is a lymphocyte that waits."),
        ("Neuron of the cerebellum.", "It is a neuron of the cerebellum."),
        ("CD4-positive T cell that waits.", "It is a CD4-positive T cell that waits."),
        ("Epithelial cells derived from ectoderm.", "Such cells are epithelial cells derived from ectoderm."),
        ("Pioneer neurons establish a pathway.", "Pioneer neurons establish a pathway."),
        ("Langerhans cell is a dendritic cell.", "A Langerhans cell is a dendritic cell."),
        ("The main structural component of the liver.", "It is the main structural component of the liver."),
        ("The motor neurons that wait.", "It is one of the motor neurons that wait."),
        ("One of two cells that wait.", "It is one of two cells that wait."),
        ("A pigment cell is a cell that waits.", "A pigment cell is a cell that waits."),
    ],
)
def test_definitions_become_sentences(definition, sentence):
    assert as_sentence(definition, "It") == sentence


def test_what_a_tissue_a_disease_and_an_assay_is(ontology):
    define = Definitions(ontology).of_origin
    assert define("UBERON:0000178", "blood", "The blood") == (
        "The blood is a fluid that is composed of blood plasma and erythrocytes."
    )
    assert define("EFO:0009899", "10x 3' v2", "10x 3' v2").startswith("10X 3' v2 is the second version of")
    assert define("EFO:0008780", "inDrop", "InDrop") is None  # "Indexing droplets (inDrop)." tells nothing


def test_slips_of_the_pen_are_mended():
    assert tidy("Cells of the the kidney , an cell  of a organism..") == "Cells of the kidney, a cell of an organism."
    kept = "A type A enteroendocrine cell, e.g. a one-eyed, a European one ... had had."
    assert tidy(kept) == kept


# Markers


def test_the_accordions_markers_need_support(ontology, tmp_path):
    def rows(gene, kind, sources, species="Human"):
        return [(species, "CL:0000236", gene, kind, f"source {i}") for i in range(sources)]

    table = [
        *rows("MS4A1", "positive", 6), *rows("CD19", "positive", 3), *rows("CD69", "positive", 2),
        *rows("ALB", "positive", 1), *rows("CD3E", "negative", 2), *rows("CD3D", "negative", 1),
        *rows("CD4", "negative", 2), *rows("CD4", "positive", 3), *rows("Cd19", "positive", 2, "Mouse"),
    ]  # fmt: skip
    path = tmp_path / "accordion.csv"
    pd.DataFrame(table, columns=["species", "CL_ID", "marker", "marker_type", "resource"]).to_csv(path, index=False)
    markers = MarkerTable.read([path], ontology)
    assert markers.nearest("CL:0000236") == ("CL:0000236", Markers(("MS4A1", "CD19", "CD4"), ("CD3E",)))
    assert markers.nearest("CL:0000788", "Mus musculus") == ("CL:0000236", Markers(("Cd19",)))  # a naive B cell is one
    assert markers.nearest("CL:0000084") is None
    assert markers.nearest("CL:0000236", "Danio rerio") is None


def test_sctypes_markers(ontology, tmp_path):
    path = tmp_path / "sctype.csv"
    path.write_text(
        "tissueType,cellName,geneSymbolmore1,geneSymbolmore2,shortName\n"
        'Immune system,Natural killer  cells,"NKG7, GNLY,NKG7","CD3E",NK\nImmune system,Odd ones,ODD,,Odd\n'
    )
    assert MarkerTable.read([path], ontology).nearest("CL:0000623") == (
        "CL:0000623",
        Markers(("NKG7", "GNLY"), ("CD3E",)),
    )


def test_tables_that_hold_no_markers(ontology, tmp_path):
    with pytest.raises(ValueError, match=r"`markers` names .*absent\.csv"):
        MarkerTable.read([tmp_path / "absent.csv"], ontology)
    path = tmp_path / "wrong.csv"
    path.write_text("id,genes\n1,2\n")
    with pytest.raises(ValueError, match=r"`markers`.*\['id', 'genes'\].*rename"):
        MarkerTable.read([path], ontology)
    path.write_text("term_id,gene,kind\nCL:0000236,CD19,perhaps\n")
    with pytest.raises(ValueError, match=r"of the kind \['perhaps'\]"):
        MarkerTable.read([path], ontology)


def test_the_tables_of_the_data_folder_are_read(ontology, scmmgpt_data):
    folder = scmmgpt_data / "knowledge"
    extended = read_descriptions([folder / "cl_extended_descriptions.csv.gz"], ontology)
    guide = read_descriptions([folder / "cellguide_validated_descriptions__Sheet1.csv.gz"], ontology)
    assert min(len(extended), len(guide)) > 400
    for name in ("markers_cell_marker_accordion_CL.csv.gz", "markers_sctype.csv.gz"):
        markers = MarkerTable.read([folder / name], ontology)
        assert {"NKG7", "GNLY"} <= set(markers.nearest("CL:0000623")[1].positive)
    assert "CD3E" in markers.nearest("CL:0000623")[1].negative


# The ontology, against its raw file


def test_synonyms_mean_one_term_only(ontology):
    raw = {i: term for i, term in ontology._schema.ontology("CL").items() if not term["deprecated"]}
    carriers: dict[str, set[str]] = {}
    for i, term in raw.items():
        for name in (term["label"], *term.get("synonyms", ())):
            carriers.setdefault(normalise(name), set()).add(i)
    number = 0
    for i, term in raw.items():
        for synonym in ontology.synonyms(i):
            assert carriers[normalise(synonym)] == {i}
            assert normalise(synonym) != normalise(term["label"])
            number += 1
    assert number > 1500
    assert ontology.synonyms("CL:0000236") == ["B lymphocyte"]


def test_exclusive_types_have_no_kind_in_common(ontology):
    raw = {i: term for i, term in ontology._schema.ontology("CL").items() if not term["deprecated"]}
    rng = np.random.default_rng(0)
    found = set()
    ids = [*rng.choice(sorted(raw), 25, replace=False), "CL:0000084", "CL:0000236", "CL:0000542"]
    for one in ids:
        for other in ids:
            common = any({one, other} <= {i, *term["ancestors"]} for i, term in raw.items())
            assert ontology.are_exclusive(one, other) == (not common)
            found.add(common)
    assert found == {True, False}
    assert not ontology.are_exclusive("CL:0000624", "CL:0000813")  # a memory T cell may be CD4-positive


def test_the_line_of_descent_leads_upwards(ontology):
    line = ontology.line_of_descent("CL:0000788")
    assert line[0] == "CL:0000788"
    assert set(line[1:]) == ontology.ancestors("CL:0000788")
    assert line.index("CL:0000236") < line.index("CL:0000542") < line.index("CL:0000000")
    assert ontology.num_kinds("CL:0000236") == sum(
        "CL:0000236" in ontology.ancestors(i, include_self=True)
        for i, term in ontology._schema.ontology("CL").items()
        if not term["deprecated"]
    )
