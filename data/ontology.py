"""Names, definitions and ancestry of ontology terms, read offline from the package cellxgene-ontology-guide.

Knows the Cell Ontology (CL), UBERON (tissues), MONDO (diseases) and EFO (assays), and the names of what else CELLxGENE
writes as ids: stages (HsapDv, MmusDv), sexes (PATO) and ethnicities (HANCESTRO). Must not import torch,
transformers or anything of this package but `author_labels` and `grammar`.
"""

import re
import unicodedata
from importlib.metadata import version as package_version

from cellxgene_ontology_guide.supported_versions import CXGSchema

from .author_labels import BLOOD_LABELS
from .grammar import tidy

ONTOLOGIES = ("CL", "UBERON", "MONDO", "EFO")
# Prefix of an id -> ontology that holds its term.
_FILED_UNDER = {name: name for name in (*ONTOLOGIES, "HsapDv", "MmusDv", "PATO", "HANCESTRO")} | {"AfPO": "HANCESTRO"}

_CITATION = re.compile(
    r"\s*(?:\[[^\]]*\]|\((?:[^()]*\b(?:19|20)\d\d[a-z]?\b[^()]*|(?:PMID|DOI|Ref)\b[^()]*|[A-Z]{2,}:\d{4,}|https?:[^()]*)\))",
    re.IGNORECASE,
)
_GREEK = str.maketrans({"α": "alpha ", "β": "beta ", "γ": "gamma ", "δ": "delta "})
# Synonyms that read badly in running text.
_AWKWARD_SYNONYM = re.compile(r"[()\[\]{};:\"|]|\bobsolete\b|.{61}", re.IGNORECASE)
_PLURAL_WORD = re.compile(r"\b(\w*(?:cell|cyte|blast|phil|phage|neuron|platelet))s\b")


def normalise(label: str) -> str:
    """
    Brings spellings of one name together: case, punctuation, plural, Greek letters, and "CD14+" for "CD14-positive".

    A minus sign after a marker keeps its meaning, so that "CD4-" and "CD4+" stay apart.

    Args:
        label (`str`): A cell type, tissue, disease or assay as somebody wrote it.

    Returns:
        `str`: Lower-case words joined by single spaces.
    """
    text = unicodedata.normalize("NFKC", label).casefold().translate(_GREEK)
    text = re.sub(r"(?<=\w)\+", " positive ", text)
    text = re.sub(r"(?<=\w)[-\u2212](?=[\s/,)]|cd\d|$)", " negative ", text)
    text = " ".join(re.findall(r"[^\W_]+", text))
    text = _PLURAL_WORD.sub(r"\1", text)
    return re.sub(r"(?<=\w[^\Wsui])s$", "", text)


class Ontology:
    """
    Look-ups in CL, UBERON, MONDO and EFO.

    An ontology is read when the first of its terms is asked for and kept for the life of the object. Look-ups by
    name also build an index (CL in about 0.1 s, MONDO in 1.5 s). An obsolete id stands for the term that replaces it,
    in every method.
    """

    def __init__(self) -> None:
        self._schema = CXGSchema()
        self._name_index: dict[str, tuple[dict[str, str], dict[str, set[str]]]] = {}
        self._families: dict[str, dict[str, frozenset[str]]] = {}

    @property
    def version(self) -> str:
        """Releases behind every answer, such as "CL v2026-03-26, UBERON ... (cellxgene-ontology-guide 1.11.1)"."""
        releases = ", ".join(f"{name} {self._release(name)}" for name in ONTOLOGIES)
        return f"{releases} (cellxgene-ontology-guide {package_version('cellxgene-ontology-guide')})"

    def current(self, term_id: str) -> str:
        """
        Follows an obsolete id to the term that replaced it.

        Args:
            term_id (`str`): An id such as "CL:0000236".

        Returns:
            `str`: The id itself, or that of its replacement.

        Raises:
            ValueError: The id is unknown, or obsolete without a replacement in these ontologies.
        """
        current_id = self.find_current(term_id)
        if current_id is None:
            term = self._term(term_id)
            raise ValueError(
                f"`term_id` {term_id!r} ({term['label']}) is obsolete and has no replacement in "
                f"{', '.join(ONTOLOGIES)}; {self._advice(term)}."
            )
        return current_id

    def find_current(self, term_id: str) -> str | None:
        """As [`current`], but `None` for an obsolete id without a replacement."""
        term, current_id = self._term(term_id), term_id
        while term["deprecated"]:
            successor = term.get("replaced_by")
            if successor is None or successor.partition(":")[0] not in _FILED_UNDER:
                return None
            current_id, term = successor, self._term(successor)
        return current_id

    @staticmethod
    def knows(term_id: str) -> bool:
        """Tells whether an id is of one of the ontologies that are read; of others, such as FBbt, nothing is known."""
        return term_id.partition(":")[0] in _FILED_UNDER

    def label(self, term_id: str) -> str:
        """Returns the name of a term, such as "natural killer cell" for "CL:0000623"."""
        return self._term(self.current(term_id))["label"]

    def definition(self, term_id: str) -> str | None:
        """Returns the definition of a term without its bracketed citations, or `None` where there is none."""
        text = self._term(self.current(term_id)).get("description")
        if not text:
            return None
        return tidy(_CITATION.sub("", text)) or None

    def definitions(self, ontology: str = "CL") -> list[str]:
        """Returns the definitions of all current terms of an ontology, in the order of their ids."""
        self._check(ontology)
        terms = self._schema.ontology(ontology)
        texts = (self.definition(term_id) for term_id in sorted(terms) if not terms[term_id]["deprecated"])
        return [text for text in texts if text]

    def ancestors(self, term_id: str, include_self: bool = False) -> set[str]:
        """
        Every term above a term, up to the root.

        Args:
            term_id (`str`): An id such as "CL:0000236".
            include_self (`bool`, *optional*, defaults to `False`): Whether the term is counted among them.

        Returns:
            `set[str]`: Ids of the same ontology.
        """
        current_id = self.current(term_id)
        above = set(self._term(current_id)["ancestors"])
        return above | {current_id} if include_self else above

    def is_descendant(self, term_id: str, ancestor_id: str, include_self: bool = False) -> bool:
        """Tells whether `term_id` lies below `ancestor_id`; a term is below itself only with `include_self`."""
        return self.current(ancestor_id) in self.ancestors(term_id, include_self=include_self)

    def parents(self, term_id: str) -> list[str]:
        """Returns the ids of the terms directly above a term, in the order of their ids."""
        above: dict[str, int] = self._term(self.current(term_id))["ancestors"]
        return sorted(ancestor_id for ancestor_id, distance in above.items() if distance == 1)

    def line_of_descent(self, term_id: str) -> list[str]:
        """Returns a term and every term above it, each before what lies above it, the one with fewer kinds first."""
        current_id = self.current(term_id)
        return [current_id, *sorted(self.ancestors(current_id), key=lambda i: (self.num_kinds(i), i))]

    def num_kinds(self, term_id: str) -> int:
        """Returns how many current terms lie below a term, itself included: small where a term says much."""
        return len(self._family(self.current(term_id)))

    def are_exclusive(self, term_id: str, other_id: str) -> bool:
        """
        Tells whether nothing can be both of two things, as far as their ontology knows: no term lies below both.

        Ontologies hardly ever state that two terms exclude each other, so this is a reading of what they leave out. A
        "memory T cell" and a "CD4-positive T cell" have kinds in common and are not exclusive, a "T cell" and a
        "B cell" are.

        Args:
            term_id, other_id (`str`): Ids of one ontology.
        """
        return self._family(self.current(term_id)).isdisjoint(self._family(self.current(other_id)))

    def synonyms(self, term_id: str) -> list[str]:
        """
        Other names that mean a term exactly and no other term of its ontology.

        Left out are spellings of the name itself, and what reads badly in running text.

        Args:
            term_id (`str`): An id such as "CL:0000236".

        Returns:
            `list[str]`: Such as "B lymphocyte", in the order of the ontology.
        """
        current_id = self.current(term_id)
        names, carriers = self._index(current_id.partition(":")[0])
        taken = {normalise(self.label(current_id))}
        chosen = []
        # The package holds exact synonyms only.
        for synonym in self._term(current_id).get("synonyms", ()):
            plain = normalise(synonym)
            owners = carriers.get(plain, set()) | {names.get(plain, current_id)}
            if plain and plain not in taken and owners == {current_id} and not _AWKWARD_SYNONYM.search(synonym):
                taken.add(plain)
                chosen.append(" ".join(synonym.split()))
        return chosen

    def proper_nouns(self, ontology: str = "CL") -> frozenset[str]:
        """
        Words that an ontology's names always write with a capital, such as "Langerhans".

        Args:
            ontology (`str`, *optional*, defaults to `"CL"`): One of "CL", "UBERON", "MONDO", "EFO".

        Returns:
            `frozenset[str]`: Plain words of at least three letters.
        """
        self._check(ontology)
        live = [term for term in self._schema.ontology(ontology).values() if not term["deprecated"]]
        words = {word for term in live for word in re.findall(r"[^\W\d_]+", term["label"])}
        return frozenset(w for w in words if re.fullmatch(r"[A-Z][a-z]{2,}", w) and w.lower() not in words)

    def resolve(self, label: str, ontology: str = "CL") -> str | None:
        """
        Finds the term that a label names.

        Tried in this order: the exact name, an exact synonym, for cell types the vocabulary of blood studies (see
        `author_labels.py`), then names and synonyms with case, punctuation and plural set aside, and for cell types
        names with "cell" added or removed. A synonym that several terms share counts only if one of them lies above
        the others.

        Args:
            label (`str`): A name as an author wrote it, such as "CD14+ Monocytes" or "DC".
            ontology (`str`, *optional*, defaults to `"CL"`): One of "CL", "UBERON", "MONDO", "EFO".

        Returns:
            `str | None`: The id, or `None` where nothing matches.
        """
        self._check(ontology)
        if not isinstance(label, str):
            raise ValueError(
                f"`label` is {label!r} of type {type(label).__name__}, expected a string; convert it with `str` or "
                "leave missing labels out."
            )
        names, synonyms = self._index(ontology)
        plain = normalise(label)
        # Exact spellings first: case tells some abbreviations apart.
        for attempt in (label, plain):
            found = names.get(attempt) or self._most_general(synonyms.get(attempt, set()))
            if found:
                return found
        if ontology != "CL":
            return None
        # Not for synonyms: "alpha" would become "alpha cell", which CL files under the retina.
        return names.get(f"{plain} cell") or names.get(plain.removesuffix(" cell"))

    def _most_general(self, candidates: set[str]) -> str | None:
        for candidate in candidates:
            if all(other == candidate or self.is_descendant(other, candidate) for other in candidates):
                return candidate
        return None

    def _index(self, ontology: str) -> tuple[dict[str, str], dict[str, set[str]]]:
        """Maps exact and normalised names to one id, and exact and normalised synonyms to all ids that carry them."""
        if ontology not in self._name_index:
            live = {i: term for i, term in self._schema.ontology(ontology).items() if not term["deprecated"]}
            names = {normalise(term["label"]): term_id for term_id, term in reversed(live.items())}
            if ontology == "CL":
                names |= {normalise(text): i for i, labels in BLOOD_LABELS.items() for text in labels}
            names |= {term["label"]: term_id for term_id, term in live.items()}
            synonyms: dict[str, set[str]] = {}
            for term_id, term in live.items():
                for synonym in term.get("synonyms", ()):
                    synonyms.setdefault(synonym, set()).add(term_id)
                    synonyms.setdefault(normalise(synonym), set()).add(term_id)
            self._name_index[ontology] = names, synonyms
        return self._name_index[ontology]

    def _family(self, term_id: str) -> frozenset[str]:
        """Returns a current term and all current terms below it."""
        ontology = _FILED_UNDER[term_id.partition(":")[0]]
        if ontology not in self._families:
            below: dict[str, set[str]] = {}
            for child_id, term in self._schema.ontology(ontology).items():
                for ancestor_id in () if term["deprecated"] else (child_id, *term["ancestors"]):
                    below.setdefault(ancestor_id, set()).add(child_id)
            self._families[ontology] = {ancestor_id: frozenset(terms) for ancestor_id, terms in below.items()}
        return self._families[ontology][term_id]

    def _term(self, term_id: str) -> dict:
        prefix = term_id.partition(":")[0] if isinstance(term_id, str) else None
        if prefix not in _FILED_UNDER:
            raise ValueError(
                f"`term_id` is {term_id!r}, expected an id of {', '.join(_FILED_UNDER)} such as 'CL:0000236'; find "
                "one with `Ontology.resolve(label)`."
            )
        ontology = _FILED_UNDER[prefix]
        term = self._schema.ontology(ontology).get(term_id)
        if term is None:
            raise ValueError(
                f"`term_id` {term_id!r} is not in {ontology} {self._release(ontology)}; check the digits, or update "
                "the package cellxgene-ontology-guide if the term is newer."
            )
        return term

    def _release(self, ontology: str) -> str:
        return self._schema.supported_ontologies[ontology]["version"]

    @staticmethod
    def _check(ontology: str) -> None:
        if ontology not in ONTOLOGIES:
            raise ValueError(
                f"`ontology` is {ontology!r}, expected one of {', '.join(ONTOLOGIES)}; pass one of these."
            )

    @staticmethod
    def _advice(term: dict) -> str:
        if term.get("consider"):
            return f"consider {', '.join(term['consider'])}"
        return "choose a current term with `Ontology.resolve(label)`"
