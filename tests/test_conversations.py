"""Instructions and answers: tidy English on every type, and nothing said that the cell does not bear out."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmmgpt.data.captions import CaptionWriter, check_tasks, named_genes
from scmmgpt.data.evidence import CellGenes, GeneBackground
from scmmgpt.data.facts import CellFacts
from scmmgpt.data.grammar import sentences
from scmmgpt.data.markers import MarkerTable
from scmmgpt.data.ontology import Ontology
from scmmgpt.data.templates import TASKS

# Names that no text holds unless it speaks of the gene: three types mark three genes each, NK cells lack some.
MARKERS = pd.DataFrame(
    [
        *(("CL:0000084", f"TMARK{i}", "positive") for i in range(3)),
        *(("CL:0000236", f"BMARK{i}", "positive") for i in range(3)),
        *(("CL:0000576", f"MMARK{i}", "positive") for i in range(3)),
        *(("CL:0000236", f"BLACK{i}", "negative") for i in range(2)),
    ],
    columns=["term_id", "gene", "kind"],
)
SYMBOLS = [*MARKERS["gene"], *(f"OTHER{i}" for i in range(9))]
KNOWN = CellFacts(
    "naive B cell",
    "CL:0000788",
    "blood",
    "systemic lupus erythematosus",
    "female",
    "10x 3' v2",
    "d1",
    "stimulated",
    "Homo sapiens",
    "65-year-old stage",
    "European",
    "nucleus",
)
OTHERS = [CellFacts(name, term_id) for name, term_id in [
    ("T cell", "CL:0000084"), ("monocyte", "CL:0000576"), ("B cell", "CL:0000236"), ("lymphocyte", "CL:0000542"),
    ("astrocyte", "CL:0000127"), ("memory B cell", "CL:0000787"), ("fibroblast", "CL:0000057"), ("x", None),
]]  # fmt: skip

# What no text may show. Rules of thumb, independent of the code that writes.
FAULTS = {
    "spaces": r"  | [,.;:?!]|^\s|\s$",
    "unfilled": r"[{}]|\bNone\b(?! of these)|\bnan\b",
    "doubled word": r"\b(?!alpha|dendritic)([A-Za-z]{2,}) \1\b(?!-)",
    "doubled stop": r"(?<!\.)\.\.(?!\.)|,,|,\.|;\.|\?\.",
    "a for an": r"(?:(?<!type )\ba|^A|\. A) (?:(?:[aio]|e(?!u))[a-z]{3,}|NK\b|HSC\b)",
    "an for a": r"\b[Aa]n (?:[bcdfgjklmnpqrstvwxyz][a-z]{3,}|eu[a-z]+|uni[pq][a-z]+|T |B |CD\d)",
}


@pytest.fixture(scope="module")
def ontology() -> Ontology:
    return Ontology()


@pytest.fixture(scope="module")
def markers(ontology, tmp_path_factory) -> MarkerTable:
    path = tmp_path_factory.mktemp("markers") / "markers.csv"
    MARKERS.to_csv(path, index=False)
    return MarkerTable.read([path], ontology)


@pytest.fixture(scope="module")
def writer(ontology, markers) -> CaptionWriter:
    descriptions = {"CL:0000788": ("Naive B cells wait. They are small. They recirculate.", "These are more.")}
    return CaptionWriter(ontology, "varied", descriptions, markers)


def make_genes(counts: dict[str, float], missing=(), profile=None) -> CellGenes:
    """A cell with `counts` over all `SYMBOLS` but those `missing` from its panel."""
    profile = np.full(len(SYMBOLS), 1 / len(SYMBOLS)) if profile is None else profile
    panel = np.array([i for i, symbol in enumerate(SYMBOLS) if symbol not in missing], dtype=np.int64)
    gene_ids = np.array([i for i in panel if counts.get(SYMBOLS[i])], dtype=np.int64)
    values = np.array([counts[SYMBOLS[i]] for i in gene_ids], dtype=np.float32)
    return CellGenes(GeneBackground(SYMBOLS, profile), gene_ids, values, panel)


def current_terms(ontology) -> list[str]:
    return [i for i, term in ontology._schema.ontology("CL").items() if not term["deprecated"]]


# English


@pytest.mark.parametrize("wording", ["plain", "varied"])
def test_every_type_is_written_about_in_tidy_english(ontology, wording):
    writer, rng = CaptionWriter(ontology, wording), np.random.default_rng(0)
    terms = current_terms(ontology)
    others = [CellFacts(ontology.label(i), i) for i in terms]
    tissues, stages = ["lung", "islet of Langerhans", None], ["8-year-old stage", "Carnegie stage 20", "adult stage"]
    assert len(terms) > 3000
    for number, term_id in enumerate(terms):
        facts = CellFacts(
            ontology.label(term_id),
            term_id,
            tissues[number % 3],
            ["asthma", "normal"][number % 2],
            "female",
            "MERFISH",
            organism=["Homo sapiens", "Mus musculus", None][number % 3],
            development_stage=stages[number % 3],
        )
        texts = [writer.condition(facts, rng)]
        for task in TASKS:
            question, answer = writer.conversation(facts, rng, tasks={task: 1.0}, others=others)
            assert question.count("<cell>") == 1
            for text in (question, answer):
                assert text.endswith((".", "?", "<cell>")), text
            for sentence in sentences(answer):
                assert re.match(r"[A-Z\d(]|[a-z]+[A-Z\d]", sentence), sentence
            texts += [question, answer]
        for text in texts:
            faults = [name for name, fault in FAULTS.items() if re.search(fault, text)]
            assert not faults, (faults, text)
            assert text.count("(") == text.count(")"), text


def test_a_seed_fixes_the_text_whatever_was_written_before(ontology, markers, writer):
    genes = make_genes({"BMARK0": 5, "OTHER1": 3, "OTHER2": 2})
    fresh = CaptionWriter(ontology, "varied", writer.definitions.descriptions, markers)
    tasks = dict.fromkeys(TASKS, 1.0)

    def draw(writer, seed):
        rng = np.random.default_rng(seed)
        return *writer.conversation(KNOWN, rng, genes, tasks, OTHERS), writer.condition(KNOWN, rng)

    last_first = [draw(fresh, seed) for seed in reversed(range(200))]
    assert [draw(writer, seed) for seed in range(200)] == last_first[::-1]
    assert len(set(last_first)) > 190


def test_tasks_are_as_frequent_as_asked(writer):
    rng = np.random.default_rng(0)
    answers = [writer.conversation(KNOWN, rng, tasks={"annotate": 0.3, "describe": 0.7})[1] for _ in range(1000)]
    assert 250 < sum(answer == "A naive B cell." for answer in answers) < 360


@pytest.mark.parametrize("tasks", [{}, {"generate": 1.0}, {"describe": 0.0}, {"describe": float("nan")}])
def test_impossible_tasks_are_refused(tasks):
    with pytest.raises(ValueError, match="`tasks`"):
        check_tasks(tasks)


def test_unknown_wording_is_refused(ontology):
    with pytest.raises(ValueError, match=r"`wording` is 'rich', expected one of \['plain', 'varied'\]"):
        CaptionWriter(ontology, "rich")


def test_what_cannot_be_done_becomes_a_description(writer):
    for task in ("choose", "answer"):
        question, answer = writer.conversation(CellFacts(), np.random.default_rng(0), tasks={task: 1.0}, others=OTHERS)
        assert re.search(r"\ba cell\b", answer, re.IGNORECASE), answer
        assert question.count("<cell>") == 1


# What is known is told, and nothing else


def test_details_and_their_limits(writer):
    texts = [writer.elaborate(KNOWN, np.random.default_rng(seed)) for seed in range(400)]
    joined = " ".join(texts)
    told = (
        "65-year-old",
        "a single nucleus",
        "Naive B cells wait. They are small.",
        "a kind of mature B cell",
        "naive B lymphocyte",
        "The blood is a fluid",
        "Systemic lupus erythematosus is an autoimmune",
    )
    for words in told:
        assert words in joined, words
    for words in ("European", "d1", "These are more", "genes", "transcripts", "detected"):
        assert words not in joined, words
    asked = " ".join(writer.condition(KNOWN, np.random.default_rng(seed)) for seed in range(400))
    assert "self-reported ethnicity European" in asked
    assert re.search(r"\bGenerate a (?:naive B cell|naive B lymphocyte)\b", asked)


def test_synonyms_only_stand_for_the_ontologys_own_name(writer):
    author = CellFacts("CD19+ B", "CL:0000236")
    for seed in range(200):
        assert "B lymphocyte" not in writer.condition(author, np.random.default_rng(seed))


# Questions, against the ontology read here


def test_yes_and_no_follow_the_ontology(ontology, writer):
    rng = np.random.default_rng(0)
    raw = ontology._schema.ontology("CL")
    by_name = {term["label"]: i for i, term in raw.items() if not term["deprecated"]}
    judged = {True: 0, False: 0}
    for term_id in rng.choice(current_terms(ontology), 300, replace=False):
        exchange = writer._questioner.is_it(CellFacts(ontology.label(term_id), term_id), rng)
        if exchange is None:
            continue
        name = re.search(r"(?:is it|this|this cell|following cell|this be) an? (.*?)\?", exchange[0]).group(1)
        asked, line = by_name[name], {term_id, *raw[term_id]["ancestors"]}
        yes = exchange[1].startswith("Yes")
        assert yes == (asked in line)
        if not yes:  # and no kind of the cell's type is of the class either
            below = {i for i, term in raw.items() if term_id in term["ancestors"] and not term["deprecated"]}
            assert not any(asked in raw[i]["ancestors"] for i in below)
        judged[yes] += 1
    assert min(judged.values()) > 80


def test_a_choice_holds_the_type_once_or_not_at_all(ontology, writer):
    rng, none = np.random.default_rng(1), 0
    raw = ontology._schema.ontology("CL")
    for _ in range(300):
        question, answer = writer.conversation(KNOWN, rng, tasks={"choose": 1.0}, others=OTHERS)
        options = [fact for fact in OTHERS if re.search(rf"(?<!memory )\b{fact.cell_type}\b", question)]
        assert ("naive B cell" in question) == (answer == "A naive B cell.")
        assert answer in ("A naive B cell.", "None of these.")
        none += answer == "None of these."
        ids = [fact.cell_type_id for fact in options]
        if "naive B cell" in question:
            ids = [i for i in ids if i != "CL:0000236"] + ["CL:0000788"]
        assert len(ids) >= 2
        for one in ids:
            assert not set(ids) & set(raw[one]["ancestors"]), question  # "lymphocyte" and "B cell" would be true too
    assert 5 < none < 60


# Genes, against the counts


def claims(text: str) -> tuple[set[str], set[str]]:
    """The genes that a text says are there, and those it says are not detected."""
    there, absent = set(), set()
    for clause in re.split(r"[.;] |[.;]$|(?<=detected), (?=[A-Z]+\d)", text):
        words = set(re.findall(r"\w+", clause)) & set(SYMBOLS)
        (absent if re.search(r"\bnot\b|\bno trace\b", clause) else there).update(words)
    return there, absent


def test_the_reader_of_claims_reads_both_kinds():
    assert claims("It expresses TMARK1 and OTHER1; OTHER2 is not detected.") == ({"TMARK1", "OTHER1"}, {"OTHER2"})
    assert claims("OTHER1 is detected, OTHER2 and OTHER3 are not.") == ({"OTHER1"}, {"OTHER2", "OTHER3"})


def test_real_cells_are_described_by_what_they_hold(ontology, scmmgpt_data):
    from scmmgpt import ScMMGPTFeatureExtractor
    from scmmgpt.data import name_genes, read_cells, read_facts, take_counts
    from scmmgpt.data.profile import mean_profile

    adata = name_genes(take_counts(read_cells(scmmgpt_data / "h5ad" / "pbmc3k_10x.h5ad"), None))
    extractor = ScMMGPTFeatureExtractor.from_genes(list(adata.var_names))
    cells, facts = extractor.align(adata), read_facts(adata.obs, ontology)
    background = GeneBackground(extractor.vocab, mean_profile([cells], len(extractor.vocab)))
    markers = MarkerTable.read([scmmgpt_data / "knowledge" / "markers_cell_marker_accordion_CL.csv.gz"], ontology)
    writer, vocabulary, told = CaptionWriter(ontology, "varied", markers=markers), set(extractor.vocab), 0
    for row in range(0, len(facts), 10):
        gene_ids, counts = cells.row(row)
        genes = CellGenes(background, gene_ids, counts, cells.panel)
        seen = {extractor.vocab[i] for i in gene_ids}
        text = writer.elaborate(facts[row], np.random.default_rng(row), genes)
        assert set(named_genes(text, vocabulary)) <= seen
        for sentence in sentences(text):
            if re.search(r"not detected|no trace", sentence):
                absent = set(re.findall(r"[\w.-]+", sentence)) & vocabulary
                assert absent
                assert not absent & seen
                told += 1
    assert told > 30


cells = st.dictionaries(st.sampled_from(SYMBOLS), st.integers(1, 50), min_size=1)
types = st.sampled_from(
    [("naive B cell", "CL:0000788"), ("B cell", "CL:0000236"), ("T cell", "CL:0000084"), ("astrocyte", "CL:0000127"),
     ("CD14+ Mono", "CL:0001054"), ("Vascular", None)]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(kind=types, counts=cells, missing=st.sets(st.sampled_from(SYMBOLS)), seed=st.integers(0, 2**32))
def test_nothing_is_said_of_genes_that_the_counts_do_not_bear_out(
    ontology, markers, writer, kind, counts, missing, seed
):
    genes, facts = make_genes(counts, missing), CellFacts(*kind)
    measured = set(SYMBOLS) - missing
    seen = set(counts) & measured
    total = sum(counts[symbol] for symbol in seen)
    for task in ("describe", "elaborate", "answer"):
        question, text = writer.conversation(facts, np.random.default_rng(seed), genes, {task: 1.0})
        there, absent = claims(text)
        assert there <= seen, text
        assert absent <= measured - seen, text
        assert set(named_genes(text, set(SYMBOLS))) <= seen, text
        asked = set(re.findall(r"\w+", question)) & set(SYMBOLS)
        assert asked <= measured, question
        if text in ("Yes.", "No.") and asked:
            assert asked <= (seen if text == "Yes." else measured - seen)
        if len(asked) > 1:
            assert there == asked & seen, (question, text)
        for sentence in sentences(text):
            found = re.search(r"(?:mark|typical of|[Mm]arker genes of) ([\w, -]+? cells|monocytes)", sentence)
            if found and not re.search(r"not detected|no trace", sentence):
                named = set(re.findall(r"\w+", sentence)) & set(SYMBOLS)
                # Counts are float32, so a share of exactly twice the usual may fall on either side.
                assert all(counts[symbol] / total > (2 - 1e-6) / len(SYMBOLS) for symbol in named), text
