"""Text from the facts known of a cell: descriptions to learn, prompts to generate from, instructions.

Also the two parsers that score such text. Everything is drawn with the generator passed in, so that
a seed fixes the text. Must not import torch or transformers.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from .facts import CellFacts
from .grammar import (
    capitalised,
    listing,
    lower_words,
    plural,
    sentences,
    singular,
    with_article,
)
from .ontology import Ontology, normalise

_HEALTHY = frozenset({"normal", "healthy", "control", "healthy control"})
_HEALTHY_WORD = "healthy"
# Facts that texts tell in the words they are known by.
_TOLD_AS_KNOWN = ("tissue", "sex", "assay", "donor", "condition", "organism")
# The adjective of a species, and what to call one of its members.
_SPECIES = {"Homo sapiens": ("human", "donor"), "Mus musculus": ("mouse", "mouse")}

# A name that ends like this needs no further noun: "monocyte", "pDC", "cell of sinusoid".
_CELL_NOUN = re.compile(
    r"(?:cell|cyte|blast|phil|phage|neuron|platelet|progenitor|precursor|clast|DC|HSPC|HSC|ILC\d?"
    r"|NKT|[Tt]reg)(?: (?:of|in|from) .*)?$"
)
# Capitalised by nature, though no name of the Cell Ontology shows it.
_ABBREVIATED_WORDS = frozenset({"Treg"})

_PROMPTS = {
    "describe": (
        "<cell> Describe this cell.",
        "Describe this cell: <cell>",
        "<cell> What is known about this cell?",
        "<cell> Write a short description of the cell.",
        "Here is the expression profile of a cell: <cell> Describe the cell in words.",
        "<cell> What kind of cell is this, and where does it come from?",
    ),
    "annotate": (
        "<cell> What is the type of this cell?",
        "Name the type of this cell: <cell>",
        "<cell> Which cell type is this?",
        "<cell> Annotate this cell.",
        "Here is the expression profile of a cell: <cell> Give its cell type.",
    ),
}
_OPENINGS = (
    "This is {type}{context}.",
    "This cell is {type}{context}.",
    "The cell is {type}{context}.",
    "{type}{context}.",
    "The expression profile is that of {type}{context}.",
)
# `named_genes` looks in sentences that say "genes" or "transcripts".
_GENE_SENTENCES = (
    "Highly expressed genes include {genes}.",
    "Among its prominent transcripts are {genes}.",
    "Genes that stand out in it are {genes}.",
)
_GENE_CLAIM = re.compile(r"\b(?:genes|transcripts)\b", re.IGNORECASE)
_CONDITION_STYLES = ("bare", "singular", "singular", "plural", "sentence", "definition")
# Chance that a known fact enters a description, which should teach what the cell shows ...
_TOLD = {"tissue": 0.85, "organism": 0.6, "disease": 0.7, "sex": 0.5, "assay": 0.5, "condition": 0.7}
# ... and a prompt, which must work with any of them missing.
_ASKED = {
    "tissue": 0.5,
    "organism": 0.5,
    "disease": 0.4,
    "sex": 0.4,
    "donor": 0.2,
    "condition": 0.6,
    "assay": 0.3,
}
_ASKED_WITHOUT_TYPE = 0.03
# Longer definitions would crowd the cell's own facts out of a training text.
_MAX_DEFINITION = 400


def prompts(task: str, rng: np.random.Generator | None = None) -> str:
    """
    An instruction with one `<cell>` placeholder.

    Args:
        task (`str`): "describe" or "annotate".
        rng (`np.random.Generator`, *optional*): Chooses the wording; the canonical one without it.

    Returns:
        `str`: The instruction.
    """
    if task not in _PROMPTS:
        raise ValueError(f"`task` is {task!r}, expected one of {sorted(_PROMPTS)}; pass one of these.")
    choices = _PROMPTS[task]
    return choices[0] if rng is None else _pick(rng, choices)


def named_genes(text: str, gene_vocabulary: Collection[str]) -> list[str]:
    """
    The genes that a text says are expressed.

    Only sentences that speak of "genes" or "transcripts" count: a definition may name CD3 to say that
    it is absent. A symbol counts as a whole word, so "CD14-positive" names no gene.

    Args:
        text (`str`): A description.
        gene_vocabulary (`Collection[str]`): Known symbols; a set makes the look-up fast.

    Returns:
        `list[str]`: Symbols in the order of the text, each once.
    """
    words = [
        word.rstrip(".")
        for sentence in sentences(text)
        if _GENE_CLAIM.search(sentence)
        for word in re.findall(r"[\w.+/-]+", sentence)
    ]
    return list(dict.fromkeys(word for word in words if word in gene_vocabulary))


class CaptionWriter:
    """
    Writes about cells in English.

    A cell type is called by its Cell Ontology name where the author's label is that name (case,
    punctuation, plural and a missing "cell" set aside). Any other label keeps the author's words, so
    that labels which share a term stay apart, and carries the ontology's name in brackets or in the
    definition: "CD56+ NK cell (natural killer cell)". A label outside the ontology is quoted as
    "cell of type Vascular".

    Args:
        ontology (`Ontology`): Where names and definitions come from.
    """

    def __init__(self, ontology: Ontology) -> None:
        self.ontology = ontology
        self._names: dict[tuple[str, str | None], tuple[str, str | None]] = {}
        self._nouns: frozenset[str] | None = None

    def describe(self, facts: CellFacts, rng: np.random.Generator, top_genes: Sequence[str] = ()) -> str:
        """
        A description to learn: the type first, then origin, definition and genes, as far as known.

        Args:
            facts (`CellFacts`): What is known of the cell. The donor is never told.
            rng (`np.random.Generator`): Chooses the wording and which facts are told.
            top_genes (`Sequence[str]`, *optional*): Symbols of genes the cell expresses highly or more
                than others do, best first. Three descriptions in four name the first three to six.

        Returns:
            `str`: One to five sentences.
        """
        noun, ontology_name = self._name(facts)
        context, _ = self._context(facts, rng, _TOLD)
        defined = rng.random() < 0.6
        if ontology_name and (not defined or rng.random() < 0.5):
            context = f" ({ontology_name}){context}"
        opening = _pick(rng, _OPENINGS).format(type=with_article(noun), context=context)
        parts = [capitalised(opening)]
        if defined and facts.cell_type_id:
            parts += self._definition(facts.cell_type_id, noun, rng)
        if top_genes and rng.random() < 0.75:
            genes = listing(list(top_genes[: int(rng.integers(3, 7))]))
            parts.append(_pick(rng, _GENE_SENTENCES).format(genes=genes))
        return " ".join(parts)

    def condition(self, facts: CellFacts, rng: np.random.Generator) -> str:
        """
        A prompt that asks for cells, from a bare type to a sentence with a definition.

        Names the type in nearly every draw and a random part of the other facts, never genes.

        Args:
            facts (`CellFacts`): What is known of the cell.
            rng (`np.random.Generator`): Chooses the wording and which facts are asked for.

        Returns:
            `str`: One to three sentences, or a name.
        """
        return self.condition_and_facts(facts, rng)[0]

    def condition_and_facts(self, facts: CellFacts, rng: np.random.Generator) -> tuple[str, CellFacts]:
        """
        The text of [`condition`], and which of the facts it tells.

        Args:
            facts (`CellFacts`): What is known of the cell.
            rng (`np.random.Generator`): Chooses the wording and which facts are told.

        Returns:
            `tuple[str, CellFacts]`: The text, and the told facts, `None` where nothing is said.
        """
        context, told = self._context(facts, rng, _ASKED)
        if context and rng.random() < _ASKED_WITHOUT_TYPE:
            return f"A cell{context}.", told
        kind = {"cell_type": facts.cell_type, "cell_type_id": facts.cell_type_id}
        told = replace(told, **kind)
        noun, ontology_name = self._name(facts)
        gloss = f" ({ontology_name})" if ontology_name and rng.random() < 0.5 else ""
        style = _pick(rng, _CONDITION_STYLES)
        if style == "bare":
            return f"{noun}{gloss}", CellFacts(**kind)
        if style == "plural":
            glosses = f" ({plural(ontology_name)})" if gloss else ""
            return f"{capitalised(plural(noun))}{glosses}{context}.", told
        if style == "sentence":
            return f"This is {with_article(noun)}{gloss}{context}.", told
        text = f"{capitalised(with_article(noun))}{gloss}{context}."
        if style == "definition" and facts.cell_type_id:
            text = " ".join([text, *self._definition(facts.cell_type_id, noun, rng)])
        return text, told

    def is_true(self, told: Sequence[CellFacts], facts: Sequence[CellFacts]) -> np.ndarray:
        """
        Which texts are true of which cells: every fact that is told is known of the cell.

        A type is true of the cells that are called by it, and of no descendant: where one label is "T cell" and
        another "naive T cell", their author kept them apart.

        Args:
            told (`Sequence[CellFacts]`): What each of `T` texts tells; see [`condition_and_facts`].
            facts (`Sequence[CellFacts]`): What is known of each of `C` cells.

        Returns:
            `np.ndarray` of shape `(T, C)`, bool.
        """
        claims, known = map(self._claims, (told, facts))
        agree = (claims[:, None] == known[None]) | (claims[:, None] == "")  # (T, C, fields)
        return agree.all(-1)

    def _claims(self, facts: Sequence[CellFacts]) -> np.ndarray:
        """`(len(facts), fields)`: each fact as texts tell it, so that synonyms are equal; "" where there is none."""
        rows = []
        for fact in facts:
            kind = " = ".join(filter(None, self._name(fact))) if fact.cell_type else ""
            disease = _HEALTHY_WORD if (fact.disease or "").casefold() in _HEALTHY else fact.disease
            rows.append([kind, disease, *(getattr(fact, field) for field in _TOLD_AS_KNOWN)])
        return np.array([[claim or "" for claim in row] for row in rows], dtype=object)

    def name(self, facts: CellFacts) -> str:
        """Returns the canonical text of a cell's type: "A CD56+ NK cell (natural killer cell)."."""
        noun, ontology_name = self._name(facts)
        gloss = f" ({ontology_name})" if ontology_name else ""
        return f"{capitalised(with_article(noun))}{gloss}."

    def candidates(self, label: str, cell_type_id: str | None = None) -> list[str]:
        """
        Phrasings of one type, whose embeddings are averaged to a class prompt.

        Args:
            label (`str`): The author's label.
            cell_type_id (`str`, *optional*): Its Cell Ontology id; what the label resolves to if left
                out.

        Returns:
            `list[str]`: Distinct texts, always the same, the canonical one of `name` first.
        """
        cell_type_id = cell_type_id or self.ontology.resolve(label)
        facts = CellFacts(cell_type=label, cell_type_id=cell_type_id)
        noun, _ = self._name(facts)
        texts = [
            self.name(facts),
            noun,
            f"{capitalised(with_article(noun))}.",
            f"This is {with_article(noun)}.",
            f"{capitalised(plural(noun))}.",
        ]
        definition = self.ontology.definition(cell_type_id) if cell_type_id else None
        if definition:
            texts.append(f"{texts[0]} {_as_sentence(sentences(definition)[0], 'It')}")
        return list(dict.fromkeys(texts))

    def type_name(self, label: str) -> str:
        """Returns the noun by which texts call a label: "CD19+ B cell" for "CD19+ B"."""
        return self._name(CellFacts(cell_type=label))[0]

    def mentioned_type(self, text: str, labels: Sequence[str]) -> str | None:
        """
        Reads off which of several types a text names.

        The first name in the text counts, the longest of those that start there; singular or plural,
        in any case.

        Args:
            text (`str`): A description, generated or not.
            labels (`Sequence[str]`): Authors' labels to choose from.

        Returns:
            `str | None`: One of `labels`, or `None` where the text names none of them.

        Raises:
            ValueError: Two labels are written alike, as "B cell" and "B cells" are.
        """
        label_of: dict[str, str] = {}
        for label in dict.fromkeys(labels):
            for form in (self.type_name(label), plural(self.type_name(label))):
                other = label_of.setdefault(form.casefold(), label)
                if other != label:
                    raise ValueError(
                        f"`labels` holds {other!r} and {label!r}, which are both written {form!r}; "
                        "merge them into one label."
                    )
        forms = sorted(label_of, key=len, reverse=True)
        if not forms:
            return None
        pattern = "|".join(map(re.escape, forms))
        found = re.search(rf"(?<![\w+/-])(?:{pattern})(?![\w+/-])", text, re.IGNORECASE)
        return label_of[found.group().casefold()] if found else None

    def _name(self, facts: CellFacts) -> tuple[str, str | None]:
        """Returns the noun for a cell's type, and the ontology's name where the noun is another."""
        if facts.cell_type is None:
            return "cell", None
        key = (facts.cell_type, facts.cell_type_id)
        if key not in self._names:
            noun = self._noun(facts.cell_type)
            ontology_name = self.ontology.label(facts.cell_type_id) if facts.cell_type_id else None
            same = ontology_name is not None and normalise(noun) == normalise(ontology_name)
            self._names[key] = noun, None if same else ontology_name
        return self._names[key]

    def _noun(self, label: str) -> str:
        term_id = self.ontology.resolve(label)
        if term_id is not None:
            ontology_name = self.ontology.label(term_id)
            if normalise(ontology_name) in (normalise(label), f"{normalise(label)} cell"):
                return ontology_name
        noun = lower_words(singular(label), self._proper_nouns())
        if _CELL_NOUN.search(noun):
            return noun
        return f"{noun} cell" if term_id is not None else f"cell of type {label}"

    def _proper_nouns(self) -> frozenset[str]:
        if self._nouns is None:
            self._nouns = self.ontology.proper_nouns() | _ABBREVIATED_WORDS
        return self._nouns

    def _definition(self, term_id: str, noun: str, rng: np.random.Generator) -> list[str]:
        """Returns the first sentence of a term's definition, sometimes the second, or nothing."""
        text = self.ontology.definition(term_id)
        told = sentences(text)[: 2 if rng.random() < 0.3 else 1] if text else []
        while told and sum(map(len, told)) > _MAX_DEFINITION:
            told.pop()
        if not told:
            return []
        ontology_name = self.ontology.label(term_id)
        named = normalise(ontology_name) != normalise(noun) or rng.random() < 0.5
        subject = capitalised(with_article(ontology_name)) if named else "It"
        return [_as_sentence(told[0], subject), *told[1:]]

    def _context(self, facts: CellFacts, rng: np.random.Generator, chances: dict[str, float]) -> tuple[str, CellFacts]:
        """Returns where a cell comes from, as it follows the cell's name, from a draw of its facts; and the draw."""
        kept = {field for field, chance in chances.items() if rng.random() < chance}
        told = CellFacts(**{field: getattr(facts, field) for field in kept})
        is_animal = facts.organism not in (None, "Homo sapiens")
        person = self._person(told, is_animal)
        species = _SPECIES.get(told.organism or "", (told.organism, ""))[0]
        text = ""
        if told.tissue and species and not told.sex and not told.disease and rng.random() < 0.5:
            text = f" from {species} {told.tissue}"
        elif told.tissue:
            text = f" from the {told.tissue}" + (f" of {with_article(person)}" if person else "")
        elif person:
            text = f" from {with_article(person)}"
        if told.donor:
            donor = told.donor if told.donor.casefold().startswith("donor") else f"donor {told.donor}"
            text += f" ({donor})" if text else f" from {donor}"
        if told.condition:
            text += f", in the {told.condition} condition"
        if told.assay:
            text += f", {_pick(rng, ('profiled with', 'measured with'))} {told.assay}"
        if person and is_animal:
            told = replace(told, organism=facts.organism)  # "a female animal" is no person
        return text, told

    @staticmethod
    def _person(told: CellFacts, is_animal: bool) -> str:
        """Returns whom the cell comes from, such as "healthy female human donor", or nothing."""
        if not (told.sex or told.disease or told.organism):
            return ""
        healthy = told.disease is not None and told.disease.casefold() in _HEALTHY
        ill = told.disease is not None and not healthy
        species, member = _SPECIES.get(told.organism or "", (told.organism, "animal" if is_animal else "donor"))
        if ill and member == "donor":
            member = "patient"
        words = [_HEALTHY_WORD if healthy else None, told.sex, species if species != member else None, member]
        return " ".join(filter(None, words)) + (f" with {told.disease}" if ill else "")


def _as_sentence(definition: str, subject: str) -> str:
    """
    Turns the first sentence of a definition into one with a subject.

    "A lymphocyte that ..." becomes "It is a lymphocyte that ..."; what is a sentence already, speaks of
    many cells or starts without an article keeps its form.
    """
    definition = definition if definition.endswith((".", "!", "?")) else f"{definition}."
    phrase = re.match(r"(?:An?|Any|A\(n\)) (?P<rest>.*)$", definition, re.DOTALL)
    if phrase is None:
        return capitalised(definition)
    # The article is put anew: some definitions have the wrong one.
    noun_phrase = with_article(phrase.group("rest"))
    if _has_main_verb(definition) or re.match("(?:class|group|population)s? of", phrase.group("rest")):
        return capitalised(noun_phrase)
    return f"{subject} is {noun_phrase}"


def _has_main_verb(definition: str) -> bool:
    """Tells "A pigment cell is a cell ..." from "A cell that is ..."."""
    before_verb = re.split(r"\b(?:is|are|has|have)\b", definition, maxsplit=1)
    relative = re.search(r"\b(?:that|which|whose|who|where|when|with|having|,)\b|,", before_verb[0])
    return len(before_verb) > 1 and relative is None


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]
