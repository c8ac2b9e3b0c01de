"""Sentences that define terms: from the ontologies, and longer ones from tables that the user supplies.

Must not import torch or transformers.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from itertools import takewhile
from pathlib import Path

import numpy as np
import pandas as pd

from .grammar import capitalised, plural, sentences, speaks_of_genes, tidy, with_article
from .ontology import Ontology, normalise
from .templates import DEFINED_TERM

# Longer definitions would crowd the cell's own facts out of a training text.
_MAX_DEFINITION = 400
# "Indexing droplets (inDrop)." only spells an abbreviation out.
_MIN_DEFINITION = 40
_MAX_DESCRIPTION = 700
# Columns of tables of descriptions: our own, the Cell Ontology's extended descriptions and CellGuide's.
_ID_COLUMNS = ("term_id", "defined_class", "CL ID")
_TEXT_COLUMNS = ("text", "desc", "Final version (QC'd)")
# Where the curators say which descriptions they accept.
_ACCEPTED_COLUMN = "For CL inclusion"
# A sentence that starts so hangs on the one before.
_HANGING = re.compile(
    r"(?:However|Moreover|Furthermore|Additionally|In addition|Also|Besides|Thus|Therefore|Hence|For example|Another|"
    r"Other|This|These|Those|They|Their|Its|It|Such|Both|In contrast|On the other hand|As a result|Consequently)\b"
)
# The noun that a definition without an article starts with, ...
_HEAD = re.compile(
    r"(?!(?:This|Most|Mostly|Derived|Scattered|Undifferentiated)\b)"
    r"[^.;:]*?\b\w*(?:cell|cyte|blast|neuron|phage|(?:precursor|progenitor)(?! cell)|receptor)"
    r"(?: subset| subtype| type)?(?P<plural>s?)\b"
    r"(?P<rest>.*)",
    re.DOTALL | re.IGNORECASE,
)
# ... and what follows it where the definition is no sentence.
_FRAGMENT = re.compile(
    r"\.?$|,? \(?(?:that|which|whose|with|of|in|from|found|located|forming|produced|committed|having|resembling|not"
    r"|derived|involved|resident|rich|present)\b"
)
# What keeps its capital in mid-sentence, as do abbreviations and symbols.
_PROPER_START = re.compile(r"[A-Z]+\b|\w+\d|Gr1|Langerhans|Kolmer|Purkinje|Rohon|Schwann|Bergmann|Mueller|Golgi")
_REFERENCE = re.compile(r"\s*[\[(](?:PMID|DOI|https?|\d+(?:[,–-]\s*\d+)*)[^\])]*[\])]", re.IGNORECASE)


def read_descriptions(paths: Iterable[str | Path], ontology: Ontology) -> dict[str, tuple[str, ...]]:
    """
    Longer descriptions of terms from tables.

    A table is CSV, compressed or not, with a column of term ids and one of texts: `term_id` and `text`, or as the Cell
    Ontology writes its extended descriptions (`defined_class`, `desc`) or CellGuide's (`CL ID`, `Final version
    (QC'd)`, of which only rows marked 1 in `For CL inclusion` are taken). Further columns, such as `source`, are for
    the reader.

    Args:
        paths (`Iterable[str | Path]`): The tables; for a term that several describe, each text counts once.
        ontology (`Ontology`): Brings ids up to date.

    Returns:
        `dict[str, tuple[str, ...]]`: Current id -> paragraphs, each on one line.

    Raises:
        ValueError: A file is missing or has no such columns, or an id is unknown.
    """
    found: dict[str, dict[str, None]] = {}
    for path in map(Path, paths):
        for term_id, text in _description_rows(path):
            current_id = ontology.find_current(term_id) if ontology.knows(term_id) else None
            paragraphs = [tidy(_REFERENCE.sub("", part)) for part in text.split("\n")]
            if current_id:
                found.setdefault(current_id, {}).update(dict.fromkeys(filter(None, paragraphs)))
    return {term_id: tuple(paragraphs) for term_id, paragraphs in found.items()}


def _description_rows(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        raise ValueError(f"`descriptions` names {path}, which is no file; give the path of a CSV table.")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    columns = [next((name for name in names if name in table), None) for names in (_ID_COLUMNS, _TEXT_COLUMNS)]
    if None in columns:
        raise ValueError(
            f"`descriptions`: {path} has the columns {list(table.columns)}, expected one of {_ID_COLUMNS} and one of "
            f"{_TEXT_COLUMNS}; rename its columns to term_id and text."
        )
    if _ACCEPTED_COLUMN in table:
        table = table[[unicodedata.normalize("NFKC", mark).strip() == "1" for mark in table[_ACCEPTED_COLUMN]]]
    ids, texts = (table[name].str.strip() for name in columns)
    return [(term_id, text) for term_id, text in zip(ids, texts, strict=True) if term_id and text]


class Definitions:
    """
    Says what terms mean.

    Args:
        ontology (`Ontology`): Where definitions come from.
        descriptions (`Mapping[str, tuple[str, ...]]`, *optional*): Longer ones; see [`read_descriptions`].
    """

    def __init__(self, ontology: Ontology, descriptions: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self.ontology = ontology
        self.descriptions = descriptions or {}
        self._sentences: dict[str, list[str]] = {}
        self._beginnings: dict[str, list[list[str]]] = {}

    def brief(self, term_id: str, noun: str, rng: np.random.Generator) -> list[str]:
        """
        The first sentence of a cell type's definition, sometimes the second.

        Args:
            term_id (`str`): The type.
            noun (`str`): What the text before has called it.
            rng (`np.random.Generator`): Chooses.

        Returns:
            `list[str]`: Up to two sentences; none where there is no definition or only a very long one.
        """
        told = self._defining(term_id)[: 2 if rng.random() < 0.3 else 1]
        # "It expresses genes such as FOXP3" is true of the type, and would be read as said of this cell.
        told = list(takewhile(lambda sentence: not speaks_of_genes(sentence), told))
        while told and sum(map(len, told)) > _MAX_DEFINITION:
            told = told[:-1]
        if not told:
            return []
        ontology_name = self.ontology.label(term_id)
        named = normalise(ontology_name) != normalise(noun) or rng.random() < 0.5
        subject = capitalised(with_article(ontology_name)) if named else "It"
        return [as_sentence(told[0], subject), *told[1:]]

    def first(self, term_id: str, subject: str) -> str | None:
        """Returns the first sentence of a term's definition with `subject` as its subject, or `None`."""
        told = self._defining(term_id)
        return as_sentence(told[0], subject) if told else None

    def at_length(self, term_id: str, noun: str, rng: np.random.Generator) -> list[str]:
        """
        A few sentences on a cell type: from a longer description where there is one, else its definition.

        A description is told from the start of one of its paragraphs, which must name the type there: a paragraph
        that starts with "They" says nothing without the one before.

        Args:
            term_id (`str`): The type.
            noun (`str`): What the text before has called it.
            rng (`np.random.Generator`): Chooses.

        Returns:
            `list[str]`: Up to four sentences.
        """
        beginnings = self._described(term_id)
        if not beginnings or rng.random() < 0.25:
            return self.brief(term_id, noun, rng)
        # The first paragraph says what the cell is.
        paragraph = beginnings[0 if rng.random() < 0.6 else int(rng.integers(len(beginnings)))]
        told = paragraph[: int(rng.integers(1, 5))]
        told = list(takewhile(lambda sentence: not speaks_of_genes(sentence), told))
        while len(told) > 1 and sum(map(len, told)) > _MAX_DESCRIPTION:
            told = told[:-1]
        return told

    def of_origin(self, term_id: str, name: str, subject: str) -> str | None:
        """
        What a tissue, disease or assay is, in one sentence.

        Args:
            term_id (`str`): The term.
            name (`str`): What texts call it.
            subject (`str`): The same as the subject of a sentence: "The lung", "Asthma".

        Returns:
            `str | None`: The sentence, where there is a definition of a length that is worth telling.
        """
        definition = "".join(self._defining(term_id)[:1])
        if not _MIN_DEFINITION <= len(definition) <= _MAX_DEFINITION or speaks_of_genes(definition):
            return None
        if definition.casefold().startswith(
            (f"{name} is ".casefold(), f"{name} (".casefold(), f"{subject} is ".casefold())
        ):
            return capitalised(definition)
        if re.match(r"The ", definition) and not _has_main_verb(definition):
            return f"{subject} is {definition[0].lower()}{definition[1:]}"
        if re.match(r"(?:An?|Any) ", definition):
            return as_sentence(definition, subject)
        return DEFINED_TERM.format(name=name, definition=capitalised(definition))

    def texts(self) -> list[str]:
        """Returns all longer descriptions, in the order of their ids."""
        return [text for term_id in sorted(self.descriptions) for text in self.descriptions[term_id]]

    def _defining(self, term_id: str) -> list[str]:
        if term_id not in self._sentences:
            told = [text.rstrip(" ;,:") for text in sentences(self.ontology.definition(term_id) or "")]
            self._sentences[term_id] = [text if text.endswith((".", "!", "?")) else f"{text}." for text in told]
        return self._sentences[term_id]

    def _described(self, term_id: str) -> list[list[str]]:
        """Returns the paragraphs about a type that can stand alone, as sentences."""
        if term_id not in self._beginnings:
            name = self.ontology.label(term_id)
            names = [form.casefold() for form in (name, plural(name))]
            split = [sentences(text) for text in self.descriptions.get(self.ontology.current(term_id), ())]
            self._beginnings[term_id] = [
                paragraph
                for paragraph in split
                if not (_HANGING.match(paragraph[0]) or speaks_of_genes(paragraph[0]))
                and any(form in paragraph[0].casefold() for form in names)
                and all(text.endswith((".", "!", "?")) for text in paragraph)
            ]
        return self._beginnings[term_id]


def as_sentence(definition: str, subject: str) -> str:
    """
    Turns the first sentence of a definition into one with a subject.

    "A lymphocyte that ..." becomes "It is a lymphocyte that ...", "Neuron of the cerebellum." "It is a neuron of the
    cerebellum.", and "Epithelial cells derived from ..." "Such cells are epithelial cells derived from ..."; what is a
    sentence already keeps its form.

    Args:
        definition (`str`): The sentence, with its full stop.
        subject (`str`): Such as "It" or "A B cell".
    """
    phrase = re.match(r"(?:[Aa]n?|Any|A\(n\)) (?P<rest>.*)$", definition, re.DOTALL)
    if phrase is None:
        return _completed(definition, subject)
    # The article is put anew: some definitions have the wrong one.
    noun_phrase = with_article(phrase.group("rest"))
    if _has_main_verb(definition):
        return capitalised(noun_phrase)
    if re.match("(?:class|group|population)s? of", phrase.group("rest")):
        return f"Such cells are {noun_phrase}"
    return f"{subject} is {noun_phrase}"


def _completed(definition: str, subject: str) -> str:
    """A definition without an article, made a sentence if it is none."""
    if definition.startswith("One of "):
        return f"{subject} is o{definition[1:]}"
    is_the = definition.startswith("The ")
    phrase = definition.removeprefix("The ")
    found = _HEAD.match(phrase)
    if is_the and not _has_main_verb(definition) and not phrase.startswith("set of"):
        return f"{subject} is {'one of ' if found and found['plural'] else ''}the {phrase}"
    if is_the or found is None:
        return capitalised(definition)
    lowered = phrase if _PROPER_START.match(phrase) else phrase[0].lower() + phrase[1:]
    if found["plural"]:
        return f"Such cells are {lowered}" if _FRAGMENT.match(found["rest"]) else capitalised(definition)
    if _FRAGMENT.match(found["rest"]):
        return f"{subject} is {with_article(lowered)}"
    return capitalised(with_article(lowered)) if found["rest"].startswith(" is ") else capitalised(definition)


def _has_main_verb(definition: str) -> bool:
    """Tells "A pigment cell is a cell ..." from "A cell that is ..."."""
    before_verb = re.split(r"\b(?:is|are|has|have)\b", definition, maxsplit=1)
    relative = re.search(r"\b(?:that|which|whose|who|where|when|with|having|,)\b|,", before_verb[0])
    return len(before_verb) > 1 and relative is None
