"""Texts from facts: right English, right biology, distinct labels kept apart, and parsers that read them."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmmgpt.data.captions import CaptionWriter, named_genes, prompts
from scmmgpt.data.facts import CellFacts
from scmmgpt.data.grammar import (
    capitalised,
    lower_words,
    plural,
    sentences,
    singular,
    with_article,
)
from scmmgpt.data.ontology import Ontology

BULK_LABELS = [
    "CD14+ Monocyte",
    "CD19+ B",
    "CD34+",
    "CD4+/CD25 T Reg",
    "CD4+/CD45RA+/CD25- Naive T",
    "CD4+/CD45RO+ Memory",
    "CD56+ NK",
    "CD8+ Cytotoxic T",
    "CD8+/CD45RA+ Naive Cytotoxic",
    "Dendritic",
]
GENES = ["LYZ", "S100A9", "HLA-DRA", "MT-CO1", "CST3", "AC012345.1", "FTL", "CD14"]
OBS = {
    "cell_type": "CD56+ NK",
    "tissue": "blood",
    "disease": "systemic lupus erythematosus",
    "sex": "female",
    "assay": "10x 3' v1",
    "donor_id": "1015",
    "condition": "stim",
    "organism": "Homo sapiens",
}


@pytest.fixture(scope="module")
def ontology() -> Ontology:
    return Ontology()


@pytest.fixture(scope="module")
def writer(ontology) -> CaptionWriter:
    return CaptionWriter(ontology)


def draws(write, facts, count=300, **kwargs):
    return [write(facts, np.random.default_rng(seed), **kwargs) for seed in range(count)]


# Facts


def test_facts_of_a_row(ontology):
    facts = CellFacts.from_obs(OBS, ontology)
    assert facts == CellFacts(
        cell_type="CD56+ NK",
        cell_type_id="CL:0000623",
        tissue="blood",
        disease="systemic lupus erythematosus",
        sex="female",
        assay="10x 3' v1",
        donor="1015",
        condition="stimulated",
        organism="Homo sapiens",
    )


@pytest.mark.parametrize("missing", ["", " ", "unknown", "Unknown", "nan", "NA", float("nan"), None])
def test_missing_values(ontology, missing):
    assert CellFacts.from_obs(dict.fromkeys(OBS, missing), ontology) == CellFacts()
    assert CellFacts.from_obs({"cell_type": missing}, ontology) == CellFacts()


def test_ids_come_from_the_column_of_their_label(ontology):
    obs = {"cell_type": "Cluster 3", "cell_type_ontology_term_id": "CL:0000236", "fine": "NK", "odd": "Cluster 3"}
    assert CellFacts.from_obs(obs, ontology).cell_type_id == "CL:0000236"
    assert CellFacts.from_obs(obs, ontology, "fine").cell_type_id == "CL:0000623"
    assert CellFacts.from_obs(obs, ontology, "odd").cell_type_id is None
    fly = {"cell_type": "neuron", "cell_type_ontology_term_id": "FBbt:00005106"}
    assert CellFacts.from_obs(fly, ontology).cell_type_id == "CL:0000540"
    with pytest.raises(ValueError, match="CL:9999999"):
        CellFacts.from_obs({"cell_type": "x", "cell_type_ontology_term_id": "CL:9999999"}, ontology)


def test_coded_sex_is_not_told(ontology):
    assert CellFacts.from_obs({"cell_type": "B", "sex": "2"}, ontology).sex is None
    assert CellFacts.from_obs({"cell_type": "B", "sex": "F"}, ontology).sex == "female"


def test_facts_of_a_pandas_row(ontology):
    import pandas as pd

    row = pd.DataFrame([OBS]).astype("category").iloc[0]
    assert CellFacts.from_obs(row, ontology) == CellFacts.from_obs(OBS, ontology)


def test_missing_label_column(ontology):
    with pytest.raises(ValueError, match=r"`label_key` is 'type'.*'cell_type'"):
        CellFacts.from_obs(OBS, ontology, "type")


# English


@pytest.mark.parametrize(
    ("phrase", "article"),
    [
        ("B cell", "a"), ("NK cell", "an"), ("FCGR3A+ monocyte", "an"), ("CD4 T cell", "a"), ("MAIT cell", "a"),
        ("IgA plasma cell", "an"), ("pDC", "a"), ("mDC", "an"), ("alpha-beta T cell", "an"), ("ILC2", "an"),
        ("unipolar brush cell", "a"), ("urothelial cell", "a"), ("umbrella cell", "an"),
        ("unswitched memory B cell", "an"),
        ("HSC", "an"), ("Th1 cell", "a"), ("M cell", "an"), ("L2/3 neuron", "an"), ("ON-bipolar cell", "an"),
        ("erythrocyte", "an"), ("type II pneumocyte", "a"), ("8-cell blastomere", "an"), ("", "a"),
    ],
)  # fmt: skip
def test_article(phrase, article):
    assert with_article(phrase) == f"{article} {phrase}"


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("B cell", "B cells"),
        ("monocyte", "monocytes"),
        ("CD8-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cells"),
        ("endothelial cell of hepatic sinusoid", "endothelial cells of hepatic sinusoid"),
        ("innate lymphoid cell, human", "innate lymphoid cells, human"),
        ("neuroblast (sensu Vertebrata)", "neuroblasts (sensu Vertebrata)"),
        ("cell of type Other", "cells of type Other"),
        ("polar body", "polar bodies"),
    ],
)
def test_plural(one, many):
    assert plural(one) == many


def test_singular():
    assert singular("NK cells") == "NK cell"
    assert singular("Monocytes") == "Monocyte"
    assert singular("Treg") == "Treg"
    assert singular("CD4+ Naïves") == "CD4+ Naïves"


def test_capitals():
    assert capitalised("an NK cell") == "An NK cell"
    assert capitalised("pDCs") == "pDCs"
    assert lower_words("CD4+/CD45RO+ Memory Th1 NK pDC") == "CD4+/CD45RO+ memory Th1 NK pDC"
    assert lower_words("Naive Langerhans Cell", frozenset({"Langerhans"})) == "naive Langerhans cell"


def test_sentences():
    text = "A cell, e.g. Schwann's, is A. B. Smith et al. 2 cells. It expresses AC012345.1! Really? Yes."
    assert sentences(text) == [
        "A cell, e.g. Schwann's, is A. B. Smith et al. 2 cells.",
        "It expresses AC012345.1!",
        "Really?",
        "Yes.",
    ]
    assert sentences("") == []


# Names of types


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("CD14+ Monocyte", "A CD14-positive monocyte."),
        ("CD19+ B", "A CD19+ B cell (B cell)."),
        ("CD56+ NK", "A CD56+ NK cell (natural killer cell)."),
        ("CD4+/CD45RO+ Memory", "A CD4+/CD45RO+ memory cell (CD4-positive, alpha-beta memory T cell)."),
        ("CD8+ Cytotoxic T", "A CD8+ cytotoxic T cell (CD8-positive, alpha-beta cytotoxic T cell)."),
        ("NK cells", "An NK cell (natural killer cell)."),
        ("B cells", "A B cell."),
        ("Dendritic", "A dendritic cell."),
        ("pDC", "A pDC (plasmacytoid dendritic cell)."),
        ("Langerhans cell", "A Langerhans cell."),
        ("Vascular", "A cell of type Vascular."),
    ],
)
def test_canonical_names(writer, ontology, label, name):
    facts = CellFacts.from_obs({"cell_type": label}, ontology)
    assert writer.name(facts) == name
    assert writer.candidates(label)[0] == name
    assert writer.candidates(label) == writer.candidates(label)


def test_labels_that_share_a_term_stay_apart(writer, ontology):
    labels = ["B", "B Activated", "CD19+ B", "CD20+ B"]
    assert len({ontology.resolve(label) for label in labels}) == 1
    names = [writer.name(CellFacts.from_obs({"cell_type": label}, ontology)) for label in labels]
    assert len(set(names)) == len(labels)
    assert all(not set(writer.candidates(a)) & set(writer.candidates(b)) for a in labels for b in labels if a != b)


def test_candidates_of_every_kind(writer):
    texts = writer.candidates("CD56+ NK")
    assert len(texts) >= 5
    assert len(set(texts)) == len(texts)
    assert any("spontaneously kill" in text for text in texts)
    assert all("NK cell" in text for text in texts)
    assert len(writer.candidates("Vascular")) >= 3


def test_a_cell_of_unknown_type(writer):
    assert writer.name(CellFacts()) == "A cell."
    for text in draws(writer.describe, CellFacts(tissue="lung"), 50):
        assert re.match(r"(This is|This cell is|The cell is|The expression profile is that of|A) ?a? ?cell", text)


# Descriptions


@pytest.mark.parametrize("label", [*BULK_LABELS, "NK", "Vascular", "astrocyte"])
def test_descriptions_name_their_type_first_and_are_read_back(writer, ontology, label):
    labels = [*BULK_LABELS, "NK", "Vascular", "astrocyte", "B cell", "T cell", "monocyte"]
    facts = CellFacts.from_obs(OBS | {"cell_type": label}, ontology)
    for text in draws(writer.describe, facts, 100, top_genes=GENES):
        assert writer.mentioned_type(text, labels) == label
        assert writer.type_name(label).casefold() in sentences(text)[0].casefold()


def test_descriptions_tell_what_is_known_and_nothing_else(writer, ontology):
    facts = CellFacts.from_obs(OBS, ontology)
    texts = draws(writer.describe, facts, top_genes=GENES)
    joined = " ".join(texts)
    for words in ("blood", "lupus", "female", "10x 3' v1", "stimulated", "spontaneously kill", "LYZ", "human"):
        assert words in joined
    assert "1015" not in joined  # nobody can read a donor's name off a cell
    bare = " ".join(draws(writer.describe, CellFacts("CD56+ NK", "CL:0000623")))
    for word in ("blood", "patient", "donor", "healthy", "profiled", "genes", "None", "nan"):
        assert word not in bare


def test_definitions_belong_to_the_type(writer, ontology):
    facts = CellFacts("CD14+ Monocyte", "CL:0001054")
    first = "a monocyte that expresses CD14 and is negative for the lineage markers CD3, CD19, and CD20."
    assert any(first in text for text in draws(writer.describe, facts))
    assert all("lymphocyte" not in text for text in draws(writer.describe, facts))


def test_named_genes_are_the_cells_own(writer, ontology):
    facts = CellFacts.from_obs(OBS | {"cell_type": "CD14+ Monocyte"}, ontology)
    vocabulary = {*GENES, "CD3", "CD19", "CD20", "A", "MICA"}
    counts = set()
    for text in draws(writer.describe, facts, top_genes=GENES):
        genes = named_genes(text, vocabulary)
        assert genes == GENES[: len(genes)]
        counts.add(len(genes))
    assert counts == {0, 3, 4, 5, 6}
    for text in draws(writer.describe, facts, 50, top_genes=GENES[:2]):
        assert named_genes(text, vocabulary) in ([], GENES[:2])


def test_genes_of_other_sentences_are_not_claims():
    vocabulary = {"CD14", "CD3E", "LYZ", "HLA-DRA"}
    text = "A CD14-positive monocyte, negative for CD3E. Highly expressed genes include LYZ, HLA-DRA, LYZ and CD14+."
    assert named_genes(text, vocabulary) == ["LYZ", "HLA-DRA"]
    assert named_genes("Genes: LYZ.", vocabulary) == ["LYZ"]
    assert named_genes("", vocabulary) == []


def test_animals_are_neither_donors_nor_patients(writer):
    facts = CellFacts("astrocyte", "CL:0000127", "neocortex", "Alzheimer disease", "male", organism="Mus musculus")
    joined = " ".join(draws(writer.describe, facts) + draws(writer.condition, facts))
    assert "male mouse with Alzheimer disease" in joined
    assert not re.search(r"\b(?:donor|patient|human)\b", joined)


# Prompts that ask for cells


def test_conditions_range_from_a_name_to_a_definition(writer, ontology):
    facts = CellFacts.from_obs(OBS, ontology)
    texts = draws(writer.condition, facts, 600)
    assert len(set(texts)) > 150
    assert "CD56+ NK cell" in texts
    assert any("spontaneously kill" in text for text in texts)
    assert any(text.startswith("CD56+ NK cells") for text in texts)
    without_type = [text for text in texts if writer.mentioned_type(text, BULK_LABELS) is None]
    assert 1 <= len(without_type) <= 0.08 * len(texts)
    assert all(text.startswith("A cell ") for text in without_type)
    assert all(writer.mentioned_type(text, BULK_LABELS) in ("CD56+ NK", None) for text in texts)
    joined = " ".join(texts)
    for words in ("donor 1015", "lupus", "stimulated", "10x 3' v1", "female", "human blood"):
        assert words in joined
    assert not named_genes(joined, GENES)


@settings(max_examples=150, deadline=None)
@given(
    label=st.sampled_from(
        [*BULK_LABELS, "Vascular", "pDC", "Naive CD4 T", "endothelial cell of hepatic sinusoid", None]
    ),
    optional=st.fixed_dictionaries(
        {
            "tissue": st.sampled_from([None, "blood", "islet of Langerhans"]),
            "disease": st.sampled_from([None, "normal", "COVID-19"]),
            "sex": st.sampled_from([None, "female"]),
            "assay": st.sampled_from([None, "MERFISH"]),
            "donor": st.sampled_from([None, "d1", "donor A"]),
            "condition": st.sampled_from([None, "stimulated"]),
            "organism": st.sampled_from([None, "Homo sapiens", "Mus musculus", "Danio rerio"]),
        }
    ),
    seed=st.integers(0, 10_000),
)
def test_every_text_is_tidy_and_fixed_by_its_seed(writer, ontology, label, optional, seed):
    facts = CellFacts(label, ontology.resolve(label) if label else None, **optional)
    for write in (writer.describe, writer.condition):
        text = write(facts, np.random.default_rng(seed))
        assert text == write(facts, np.random.default_rng(seed))
        assert text == " ".join(text.split())
        assert not re.search(
            r" [,.]|\(\)|\.\.|,,|\bNone\b|\ba [aeio]|\bA [aeio]|\ban [bcdfgjkpqtvwz]|donor donor", text
        )
        assert text.count("(") == text.count(")")
        if " " in text and text.endswith("."):
            assert text[0].isupper() or text.startswith("pDC")
    assert writer.describe(facts, np.random.default_rng(seed)).endswith(".")


# Reading a type off a text


def test_the_first_and_longest_name_wins(writer):
    labels = ["B cell", "memory B cell", "T cell", "NK"]
    assert writer.mentioned_type("This is a memory B cell, not a T cell.", labels) == "memory B cell"
    assert writer.mentioned_type("B cells from human blood.", labels) == "B cell"
    assert writer.mentioned_type("NAIVE B CELL", labels) == "B cell"
    assert writer.mentioned_type("A pre-B cell.", labels) is None
    assert writer.mentioned_type("A B cellular body.", labels) is None
    assert writer.mentioned_type("", labels) is None
    assert writer.mentioned_type("A B cell.", []) is None


def test_labels_written_alike_are_refused(writer):
    with pytest.raises(ValueError, match=r"'B cell' and 'B cells'.*merge"):
        writer.mentioned_type("A B cell.", ["B cell", "B cells"])


# Instructions


@pytest.mark.parametrize("task", ["describe", "annotate"])
def test_instructions_hold_one_placeholder(task):
    texts = {prompts(task, np.random.default_rng(seed)) for seed in range(100)} | {prompts(task)}
    assert len(texts) >= 5
    assert all(text.count("<cell>") == 1 for text in texts)
    assert prompts(task) == prompts(task)


def test_canonical_instruction_and_unknown_task():
    assert prompts("describe") == "<cell> Describe this cell."
    with pytest.raises(ValueError, match=r"`task` is 'compare'.*'annotate', 'describe'"):
        prompts("compare")


def test_every_type_of_the_ontology_can_be_written_about(writer, ontology):
    rng = np.random.default_rng(0)
    roots = ("CL:0000542", "CL:0000115", "CL:0000066", "CL:0000540")
    term_ids = [i for i, term in ontology._schema.ontology("CL").items() if not term["deprecated"]]
    assert len(term_ids) > 3000
    for term_id in [*roots, *rng.choice(term_ids, 300, replace=False)]:
        label = ontology.label(term_id)
        text = writer.describe(CellFacts(label, term_id), rng)
        assert text.endswith((".", "!", "?"))
        assert "  " not in text
        assert label.casefold() in text.casefold()


# What is told, and of whom it is true


def test_what_is_told_is_what_the_text_says(writer):
    facts = CellFacts(
        "CD56+ NK", "CL:0000623", "lung", "asthma", "female", "10x 3' v2", "d7", "stimulated", "Homo sapiens"
    )
    words = {
        "tissue": "lung",
        "disease": "asthma",
        "sex": "female",
        "assay": "10x 3' v2",
        "donor": "donor d7",
        "condition": "stimulated",
        "organism": "human",
        "cell_type": "CD56+ NK cell",
    }
    for seed in range(300):
        text, told = writer.condition_and_facts(facts, np.random.default_rng(seed))
        assert text == writer.condition(facts, np.random.default_rng(seed))
        for field, word in words.items():
            assert getattr(told, field) in (None, getattr(facts, field))
            assert (word in text) == (getattr(told, field) is not None), (field, text)


def test_a_text_is_true_of_cells_of_which_all_it_tells_is_known(writer):
    nk = CellFacts("CD56+ NK", "CL:0000623", tissue="blood", disease="normal", sex="male")
    cells = [nk, CellFacts("CD16+ NK", "CL:0000623", tissue="blood", disease="healthy"), CellFacts()]
    told = {
        CellFacts(): [True, True, True],
        CellFacts(tissue="blood"): [True, True, False],  # of the last it is not known
        CellFacts(disease="healthy control"): [True, True, False],
        CellFacts("CD56+ NK", "CL:0000623"): [True, False, False],  # one term, but two names
        CellFacts("CD56+ NK", "CL:0000623", sex="female"): [False, False, False],
        CellFacts("lymphocyte", "CL:0000542"): [False, False, False],  # an ancestor is another label
    }
    assert writer.is_true(list(told), cells).tolist() == list(told.values())
    spelt = writer.is_true([CellFacts("B cells", "CL:0000236")], [CellFacts("B cell", "CL:0000236")])
    assert spelt.tolist() == [[True]]


def test_an_animal_is_told_apart_from_a_person(writer):
    mouse = CellFacts("B cell", "CL:0000236", sex="female", organism="Rattus norvegicus")
    for seed in range(60):
        text, told = writer.condition_and_facts(mouse, np.random.default_rng(seed))
        assert (told.organism is not None) == ("animal" in text or "Rattus" in text), text
