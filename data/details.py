"""What detailed descriptions add: other names, kinds, long definitions, markers, and what a tissue or disease is.

Must not import torch or transformers.
"""

import numpy as np

from .definitions import Definitions
from .evidence import CellGenes
from .facts import CellFacts
from .grammar import capitalised, listing, plural, with_article
from .markers import MarkerTable
from .naming import Kinship, TypeNames
from .ontology import ONTOLOGIES
from .origin import HEALTHY
from .templates import ABSENT, ALSO_KNOWN, CONTRASTED, KINDS, MARKERS, pick

# Markers at most in one statement.
_MAX_NAMED = 4


class Details:
    """
    Sentences for detailed descriptions.

    Args:
        names (`TypeNames`): What types are called.
        kinship (`Kinship`): What kind of cell a type is.
        definitions (`Definitions`): What terms mean.
        markers (`MarkerTable`, *optional*): Which genes mark which types.
    """

    def __init__(
        self, names: TypeNames, kinship: Kinship, definitions: Definitions, markers: MarkerTable | None = None
    ) -> None:
        self.names, self.kinship, self.definitions, self.markers = names, kinship, definitions, markers
        self._terms: dict[tuple[str, str], str | None] = {}

    def of_type(self, facts: CellFacts, rng: np.random.Generator) -> list[str]:
        """Returns sentences on a cell's type in general: its other names, its kind and its definition."""
        if facts.cell_type_id is None or facts.cell_type is None:
            return []
        noun, ontology_name = self.names.of(facts)
        cells = capitalised(plural(ontology_name or noun))
        told = []
        if rng.random() < 0.4 and (synonyms := self.names.synonyms(facts)):
            name = pick(rng, synonyms)
            forms = {"name": name, "a_name": with_article(name), "names": plural(name), "cells": cells}
            told.append(pick(rng, ALSO_KNOWN).format(**forms))
        if rng.random() < 0.5 and (kinds := self.kinship.kinds(facts.cell_type_id)):
            kind = pick(rng, kinds)
            told.append(pick(rng, KINDS).format(kind=kind, kinds=plural(kind), cells=cells))
        if rng.random() < 0.85:
            told += self.definitions.at_length(facts.cell_type_id, noun, rng)
        return told

    def of_genes(self, facts: CellFacts, rng: np.random.Generator, genes: CellGenes) -> list[str]:
        """
        Returns statements on markers that the cell's own counts bear out.

        Positive ones name genes that the cell has clearly more of than is usual. Negative ones name genes that were
        measured and not detected: such as its type is told by lacking, and markers of a lineage that it is not of.
        """
        if self.markers is None or facts.cell_type_id is None:
            return []
        nearest = self.markers.nearest(facts.cell_type_id, facts.organism)
        if nearest is None:
            return []
        cells = plural(self.kinship.ontology.label(nearest[0]))
        told = []
        if rng.random() < 0.7 and (found := genes.enriched(nearest[1].positive)):
            told.append(self._statement(MARKERS, found, cells, rng))
        if rng.random() < 0.4 and (absent := genes.not_detected(nearest[1].negative)):
            told.append(self._statement(ABSENT, absent, cells, rng))
        _, others = self.kinship.sides(facts.cell_type_id)
        if rng.random() < 0.3 and others:
            other = self.markers.nearest(pick(rng, others), facts.organism)
            absent = genes.not_detected(other[1].positive) if other else []
            absent = [gene for gene in absent if gene not in nearest[1].positive]
            if absent:
                told.append(self._statement(CONTRASTED, absent, plural(self.kinship.ontology.label(other[0])), rng))
        return told

    def of_origin(self, facts: CellFacts, told: CellFacts, rng: np.random.Generator) -> list[str]:
        """Returns what the tissue, the disease or the assay is, one of those that the text has told, or nothing."""
        known = [
            (told.tissue, facts.tissue_id, "UBERON", "The {}"),
            (told.disease, facts.disease_id, "MONDO", "{}"),
            (told.assay, facts.assay_id, "EFO", "{}"),
        ]
        known = [entry for entry in known if entry[0] and entry[0].casefold() not in HEALTHY]
        if not known or rng.random() >= 0.35:
            return []
        name, term_id, ontology, subject = known[int(rng.integers(len(known)))]
        term_id = term_id or self._find(name, ontology)
        if term_id is None or term_id.partition(":")[0] not in ONTOLOGIES:
            return []
        sentence = self.definitions.of_origin(term_id, name, capitalised(subject.format(name)))
        return [sentence] if sentence else []

    def _find(self, name: str, ontology: str) -> str | None:
        if (name, ontology) not in self._terms:
            self._terms[name, ontology] = self.names.ontology.resolve(name, ontology)
        return self._terms[name, ontology]

    @staticmethod
    def _statement(wordings: tuple[str, ...], genes: list[str], cells: str, rng: np.random.Generator) -> str:
        """Names one to four genes, those with most support more often."""
        named = genes[: int(rng.integers(1, _MAX_NAMED + 1))]
        are = "is" if len(named) == 1 else "are"
        return pick(rng, wordings).format(genes=listing(named), cells=cells, are=are)
