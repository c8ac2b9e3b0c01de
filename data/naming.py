"""What texts call a cell's type, and reading the type off a text. Must not import torch or transformers."""

import re
from collections.abc import Sequence

import numpy as np

from .facts import CellFacts
from .grammar import capitalised, lower_words, plural, singular, with_article
from .lineages import LINEAGES
from .ontology import Ontology, normalise

# A name that ends like this needs no further noun: "monocyte", "pDC", "cell of sinusoid".
_CELL_NOUN = re.compile(
    r"(?:cell|cyte|blast|phil|phage|neuron|platelet|progenitor|precursor|clast|DC|HSPC|HSC|ILC\d?"
    r"|NKT|[Tt]reg)(?: (?:of|in|from) .*)?$"
)
# A term with more kinds below it, such as "somatic cell" or "secretory cell", says next to nothing.
_MAX_KINDS = 350
# Capitalised by nature, though no name of the Cell Ontology shows it.
_ABBREVIATED_WORDS = frozenset({"Treg"})


class TypeNames:
    """
    Names cell types.

    A cell type is called by its Cell Ontology name where the author's label is that name (case,
    punctuation, plural and a missing "cell" set aside). Any other label keeps the author's words, so
    that labels which share a term stay apart, and carries the ontology's name in brackets or in the
    definition: "CD56+ NK cell (natural killer cell)". A label outside the ontology is quoted as
    "cell of type Vascular".

    Args:
        ontology (`Ontology`): Where names come from.
    """

    def __init__(self, ontology: Ontology) -> None:
        self.ontology = ontology
        self._names: dict[tuple[str, str | None], tuple[str, str | None]] = {}
        self._synonyms: dict[str, list[str]] = {}
        self._proper_nouns: frozenset[str] | None = None

    def of(self, facts: CellFacts) -> tuple[str, str | None]:
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

    def canonical(self, facts: CellFacts) -> str:
        """Returns the text that names a cell's type and nothing else."""
        noun, ontology_name = self.of(facts)
        gloss = f" ({ontology_name})" if ontology_name else ""
        return f"{capitalised(with_article(noun))}{gloss}."

    def synonyms(self, facts: CellFacts) -> list[str]:
        """Returns other names of a cell's type; none where its author calls it otherwise than the ontology does."""
        if facts.cell_type_id is None or self.of(facts)[1] is not None:
            return []
        if facts.cell_type_id not in self._synonyms:
            names = self.ontology.synonyms(facts.cell_type_id)
            # Not "OLs" or "astrocytic glia", which fit no article or have no plural.
            self._synonyms[facts.cell_type_id] = [
                name for name in names if _CELL_NOUN.search(name) or re.fullmatch(r"[A-Z][\w-]{1,7}(?<!s)", name)
            ]
        return self._synonyms[facts.cell_type_id]

    def mentioned(self, text: str, labels: Sequence[str]) -> str | None:
        """Returns which of several labels a text names; see [`CaptionWriter.mentioned_type`]."""
        label_of: dict[str, str] = {}
        for label in dict.fromkeys(labels):
            noun = self.of(CellFacts(cell_type=label))[0]
            for form in (noun, plural(noun)):
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

    def _noun(self, label: str) -> str:
        term_id = self.ontology.resolve(label)
        if term_id is not None:
            ontology_name = self.ontology.label(term_id)
            if normalise(ontology_name) in (normalise(label), f"{normalise(label)} cell"):
                return ontology_name
        if self._proper_nouns is None:
            self._proper_nouns = self.ontology.proper_nouns() | _ABBREVIATED_WORDS
        noun = lower_words(singular(label), self._proper_nouns)
        if _CELL_NOUN.search(noun):
            return noun
        return f"{noun} cell" if term_id is not None else f"cell of type {label}"


def is_telling(term_id: str, ontology: Ontology) -> bool:
    """Tells whether a type says something of a cell: lineages do, and types without very many kinds."""
    return term_id in LINEAGES or ontology.num_kinds(term_id) <= _MAX_KINDS


class Kinship:
    """
    What kind of cell a type is, and which types it is not.

    Args:
        ontology (`Ontology`): The Cell Ontology's tree.
    """

    def __init__(self, ontology: Ontology) -> None:
        self.ontology = ontology
        self._kinds: dict[str, list[str]] = {}
        self._sides: dict[str, tuple[list[str], list[str]]] = {}

    def kinds(self, term_id: str) -> list[str]:
        """Returns the names of terms that lie directly above a type, or are its lineage, and say something."""
        if term_id not in self._kinds:
            above = dict.fromkeys([*self.ontology.parents(term_id), *self.sides(term_id)[0]])
            current_id = self.ontology.current(term_id)
            telling = [i for i in above if i != current_id and is_telling(i, self.ontology)]
            self._kinds[term_id] = [self.ontology.label(i) for i in telling]
        return self._kinds[term_id]

    def sides(self, term_id: str) -> tuple[list[str], list[str]]:
        """Returns the lineages that a type belongs to, itself perhaps among them, and those it cannot belong to."""
        if term_id not in self._sides:
            own = self.ontology.ancestors(term_id, include_self=True)
            self._sides[term_id] = (
                [i for i in LINEAGES if i in own],
                [i for i in LINEAGES if self.ontology.are_exclusive(i, term_id)],
            )
        return self._sides[term_id]

    def distractors(
        self, facts: CellFacts, others: Sequence[CellFacts], wanted: int, rng: np.random.Generator
    ) -> list[CellFacts]:
        """
        Types that a cell is certainly not.

        Args:
            facts (`CellFacts`): The cell's facts, with the id of its type.
            others (`Sequence[CellFacts]`): Where other types are taken from, each only if no two of those chosen can
                be one.
            wanted (`int`): How many.
            rng (`np.random.Generator`): Chooses.

        Returns:
            `list[CellFacts]`: At most `wanted`, fewer where the draws find no more.
        """
        chosen: list[CellFacts] = []
        for i in rng.integers(len(others), size=8 * wanted).tolist() if others else ():
            other = others[i]
            if other.cell_type_id is None or other.cell_type is None:
                continue
            so_far = (facts.cell_type_id, *(fact.cell_type_id for fact in chosen))
            if all(self.ontology.are_exclusive(other.cell_type_id, term_id) for term_id in so_far):
                chosen.append(CellFacts(other.cell_type, other.cell_type_id))
            if len(chosen) == wanted:
                break
        return chosen
