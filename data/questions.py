"""Questions about a cell, with answers that its facts and its own counts give.

Each function returns a question and its answer, or `None` where what is known does not answer it. Must not import
torch or transformers.
"""

from collections.abc import Callable

import numpy as np

from .evidence import CellGenes
from .facts import CellFacts
from .grammar import capitalised, listing, plural, with_article
from .markers import MarkerTable
from .naming import Kinship, TypeNames
from .origin import SPECIES, age, is_healthy, stage
from .templates import pick

_LINEAGE_QUESTIONS = (
    "<cell> Which lineage does this cell belong to?",
    "<cell> Name the lineage of this cell.",
    "To which family of cells does this one belong? <cell>",
)
_WIDE_QUESTIONS = (
    "<cell> What broad class of cell is this?",
    "<cell> Which of the large classes of cells is this cell of?",
    "Name the broadest class that this cell belongs to: <cell>",
)
Exchange = tuple[str, str] | None


class Questioner:
    """
    Asks about cells.

    Args:
        names (`TypeNames`): What types are called.
        kinship (`Kinship`): Which lineages types belong to.
        markers (`MarkerTable`, *optional*): Which genes to ask about.
    """

    def __init__(self, names: TypeNames, kinship: Kinship, markers: MarkerTable | None = None) -> None:
        self.names, self.kinship, self.markers = names, kinship, markers
        self.ontology = names.ontology
        self._genes: dict[tuple[str, str | None], tuple[str, ...]] = {}

    def ask(self, facts: CellFacts, rng: np.random.Generator, genes: CellGenes | None = None) -> Exchange:
        """
        A question that can be answered.

        Args:
            facts (`CellFacts`): What is known of the cell.
            rng (`np.random.Generator`): Chooses the question and its wording.
            genes (`CellGenes`, *optional*): The cell's own counts; without them no question is about genes.

        Returns:
            `tuple[str, str]` or `None`: An instruction with one `<cell>`, and the answer; `None` where nothing that is
            known answers a question.
        """
        kinds: list[Callable[[], Exchange]] = [
            lambda: self.is_it(facts, rng),
            lambda: self.is_it(facts, rng),
            lambda: self.lineage(facts, rng),
            lambda: tissue(facts, rng),
            lambda: health(facts, rng),
            lambda: origin(facts, rng),
        ]
        if genes is not None:
            kinds += [
                lambda: detection(genes, self._interesting(facts), rng),
                lambda: which_genes(genes, self._interesting(facts), rng),
                lambda: self.evidence(facts, genes, rng),
            ]
        exchanges = (kinds[i]() for i in rng.permutation(len(kinds)))
        return next(filter(None, exchanges), None)

    def is_it(self, facts: CellFacts, rng: np.random.Generator) -> Exchange:
        """Whether the cell is of a broad class, as often yes as no."""
        if facts.cell_type_id is None or facts.cell_type is None:
            return None
        own, others = self.kinship.sides(facts.cell_type_id)
        is_yes = bool(own) and (not others or rng.random() < 0.5)
        if not own and not others:
            return None
        name = self.ontology.label(pick(rng, own if is_yes else others))
        noun = with_article(self.names.of(facts)[0])
        question = pick(
            rng,
            (
                "<cell> Is this {cell}?",
                "<cell> Is this cell {cell}?",
                "Is the following cell {cell}? <cell>",
                "<cell> Could this be {cell}?",
                "<cell> Yes or no: is it {cell}?",
            ),
        ).format(cell=with_article(name))
        if not is_yes:
            longer = (f"No, it is {noun}.", f"No, it is not {with_article(name)} but {noun}.")
            return question, pick(rng, ("No.", *longer))
        longer = f"Yes, it is {noun}." if noun == with_article(name) else f"Yes: {noun} is {with_article(name)}."
        return question, pick(rng, ("Yes.", longer))

    def lineage(self, facts: CellFacts, rng: np.random.Generator) -> Exchange:
        """Which lineage, or which class at large, the cell belongs to."""
        if facts.cell_type_id is None:
            return None
        own, _ = self.kinship.sides(facts.cell_type_id)
        broader = [i for i in own if i != self.ontology.current(facts.cell_type_id)]
        if not broader:
            return None
        wide = rng.random() < 0.5
        name = self.ontology.label((max if wide else min)(broader, key=self.ontology.num_kinds))
        question = pick(rng, _WIDE_QUESTIONS if wide else _LINEAGE_QUESTIONS)
        noun = self.names.of(facts)[0]
        answers = (f"It belongs to the {plural(name)}.", f"It is {with_article(name)}.")
        return question, pick(rng, (*answers, f"{capitalised(with_article(noun))} is {with_article(name)}."))

    def evidence(self, facts: CellFacts, genes: CellGenes, rng: np.random.Generator) -> Exchange:
        """Which genes speak for the cell's type."""
        nearest = facts.cell_type_id and self.markers and self.markers.nearest(facts.cell_type_id, facts.organism)
        found = genes.enriched(nearest[1].positive) if nearest else []
        if not found:
            return None
        question = pick(
            rng,
            (
                "<cell> Which markers of its type does this cell express?",
                "<cell> Which genes speak for the type of this cell?",
                "By which of its genes can this cell be recognised? <cell>",
            ),
        )
        noun, cells = self.names.of(facts)[0], plural(self.ontology.label(nearest[0]))
        named = listing(found[:4])
        answers = (f"It expresses {named}, which mark {cells}.", f"{named}, as is typical of {cells}.")
        return question, pick(rng, (*answers, f"It is {with_article(noun)}: it expresses {named}."))

    def _interesting(self, facts: CellFacts) -> tuple[str, ...]:
        """Genes worth asking about: markers of the cell's type and of the lineages that it is not of."""
        if self.markers is None or facts.cell_type_id is None:
            return ()
        key = (facts.cell_type_id, facts.organism)
        if key not in self._genes:
            own, others = self.kinship.sides(facts.cell_type_id)
            near = (self.markers.nearest(i, facts.organism) for i in (facts.cell_type_id, *own, *others))
            self._genes[key] = tuple(dict.fromkeys(gene for found in near if found for gene in found[1].positive[:5]))
        return self._genes[key]


def tissue(facts: CellFacts, rng: np.random.Generator) -> Exchange:
    """Where the cell was taken from."""
    if facts.tissue is None:
        return None
    question = pick(
        rng,
        (
            "<cell> Which tissue does this cell come from?",
            "<cell> Where in the body was this cell taken from?",
            "From which tissue or organ is this cell? <cell>",
            "<cell> Name the tissue of origin.",
        ),
    )
    return question, pick(rng, (f"It comes from the {facts.tissue}.", f"{capitalised(facts.tissue)}.")).strip()


def health(facts: CellFacts, rng: np.random.Generator) -> Exchange:
    """Whether the cell's donor is healthy, or what the disease is."""
    healthy = is_healthy(facts)
    if healthy is None:
        return None
    member = SPECIES.get(facts.organism or "Homo sapiens", ("", "animal"))[1]
    question = pick(
        rng,
        (
            f"<cell> Is the {member} that this cell comes from healthy?",
            f"<cell> Does this cell come from a healthy {member}?",
            f"<cell> Does the {member} of this cell have a disease, and which?",
            f"Is anything known of the health of the {member} of this cell? <cell>",
        ),
    )
    ill = f"The {member} has {facts.disease}."
    answers = (f"The {member} is healthy.", f"It comes from a healthy {member}.")
    return question, pick(rng, answers) if healthy else pick(rng, (ill, f"Not healthy: {ill[0].lower()}{ill[1:]}"))


def origin(facts: CellFacts, rng: np.random.Generator) -> Exchange:
    """The species, sex, stage of life, treatment or method, whichever is known."""
    member = SPECIES.get(facts.organism or "Homo sapiens", ("", "animal"))[1]
    years = facts.development_stage and age(facts.development_stage)
    known = [
        ("Which species is this cell from?", facts.organism and f"It is a cell of {facts.organism}."),
        ("From which species does this cell come?", facts.organism and f"{capitalised(facts.organism)}."),
        (f"Is the {member} of this cell female or male?", facts.sex and f"The {member} is {facts.sex}."),
        (f"What is the sex of the {member}?", facts.sex and f"{capitalised(facts.sex)}."),
        (f"How old is the {member} of this cell?", years and f"It comes from {with_article(years)} {member}."),
        (
            f"At which stage of life was the {member} of this cell?",
            facts.development_stage and not years and f"At {stage(facts.development_stage)}.",
        ),
        (
            "In which condition was this cell measured?",
            facts.condition and f"In the {facts.condition} condition.",
        ),
        ("How was this cell measured?", facts.assay and f"With {facts.assay}."),
        ("Which assay gave this profile?", facts.assay and f"It was profiled with {facts.assay}."),
    ]
    answered = [(question, answer) for question, answer in known if answer]
    if not answered:
        return None
    question, answer = answered[int(rng.integers(len(answered)))]
    return (f"<cell> {question}" if rng.random() < 0.75 else f"{question} <cell>"), answer


def detection(genes: CellGenes, interesting: tuple[str, ...], rng: np.random.Generator) -> Exchange:
    """Whether a molecule of one gene was detected, as often yes as no."""
    if rng.random() < 0.5:
        found = genes.detected(interesting) if rng.random() < 0.5 else genes.top()
        symbol, answers = (pick(rng, found) if found else None), ("Yes.", "Yes, {gene} is detected.")
    else:
        absent = genes.not_detected(interesting) if rng.random() < 0.5 else genes.draw_not_detected(1, rng)
        symbol, answers = (pick(rng, absent) if absent else None), ("No.", "No, {gene} is not detected.")
    if symbol is None:
        return None
    questions = (
        "<cell> Is {gene} detected in this cell?",
        "<cell> Does this cell show transcripts of {gene}?",
        "Are there molecules of {gene} in this cell? <cell>",
    )
    return pick(rng, questions).format(gene=symbol), pick(rng, answers).format(gene=symbol)


def which_genes(genes: CellGenes, interesting: tuple[str, ...], rng: np.random.Generator) -> Exchange:
    """Which of a few genes were detected, one to three of them."""
    seen = list(dict.fromkeys([*genes.detected(interesting), *genes.top()]))
    unseen = list(dict.fromkeys([*genes.not_detected(interesting), *genes.draw_not_detected(3, rng)]))
    if not seen or not unseen:
        return None
    detected = [seen[i] for i in rng.permutation(len(seen))[: rng.integers(1, 4)]]
    absent = [unseen[i] for i in rng.permutation(len(unseen))[: rng.integers(1, 4)]]
    asked = [*detected, *absent]
    asked = [asked[i] for i in rng.permutation(len(asked))]
    detected, absent = ([name for name in asked if name in part] for part in (detected, absent))
    questions = (
        "<cell> Which of these genes does this cell express: {genes}?",
        "<cell> Of {genes}, which are detected?",
        "Which of the genes {genes} are seen in this cell? <cell>",
    )
    are, were = ("is" if len(part) == 1 else "are" for part in (detected, absent))
    answers = (
        f"{listing(detected)}.",
        f"It expresses {listing(detected)}; {listing(absent)} {were} not detected.",
        f"{listing(detected)} {are} detected, {listing(absent)} {were} not.",
    )
    return pick(rng, questions).format(genes=listing(asked)), pick(rng, answers)
