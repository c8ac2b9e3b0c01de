"""Text from the facts known of a cell: descriptions to learn, prompts to generate from, instructions with answers.

Also the two parsers that score such text. Everything is drawn with the generator passed in, so that
a seed fixes the text. Must not import torch or transformers.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from .definitions import Definitions
from .details import Details
from .evidence import CellGenes
from .facts import CellFacts
from .grammar import capitalised, listing, plural, sentences, speaks_of_genes, with_article
from .markers import MarkerTable
from .naming import Kinship, TypeNames
from .ontology import Ontology
from .origin import ASKED, HEALTHY, HEALTHY_WORD, TOLD, draw_context
from .questions import Exchange, Questioner
from .templates import TASKS, WORDINGS, pick, prompts

# Facts that texts tell in the words they are known by.
_TOLD_AS_KNOWN = (
    "tissue",
    "sex",
    "assay",
    "donor",
    "condition",
    "organism",
    "development_stage",
    "ethnicity",
    "suspension_type",
)
_CONDITION_STYLES = ("bare", "singular", "singular", "plural", "sentence", "definition")
_ASKED_WITHOUT_TYPE = 0.03
_REQUESTED = 0.4
_CALLED_OTHERWISE = 0.3
# Share of choices that do not hold the right type.
_NONE_OF_THESE = 0.1


def check_tasks(tasks: Mapping[str, float]) -> None:
    """Raises a `ValueError` unless `tasks` gives a positive weight to some of [`TASKS`] and none to anything else."""
    unknown = sorted(set(tasks) - set(TASKS))
    if unknown or not tasks:
        raise ValueError(f"`tasks` names {unknown or 'nothing'}, expected weights of {', '.join(TASKS)}; name some.")
    wrong = {name: weight for name, weight in tasks.items() if not weight > 0}
    if wrong:
        raise ValueError(f"`tasks` gives {wrong}, expected weights above 0; leave out what is not wanted.")


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
        if speaks_of_genes(sentence)
        for word in re.findall(r"[\w.+/-]+", sentence)
    ]
    return list(dict.fromkeys(word for word in words if word in gene_vocabulary))


class CaptionWriter:
    """
    Writes about cells in English; [`TypeNames`] says how it calls their types.

    Args:
        ontology (`Ontology`): Where names and definitions come from.
        wording (`str`, *optional*, defaults to `"plain"`): "plain", few forms, which a small model learns in minutes;
            or "varied", which adds paraphrases, requests and alternative names.
        descriptions (`Mapping[str, tuple[str, ...]]`, *optional*): Longer descriptions of types; see
            [`read_descriptions`].
        markers (`MarkerTable`, *optional*): Which genes mark which types.
    """

    def __init__(
        self,
        ontology: Ontology,
        wording: str = "plain",
        descriptions: Mapping[str, tuple[str, ...]] | None = None,
        markers: MarkerTable | None = None,
    ) -> None:
        if wording not in WORDINGS:
            raise ValueError(f"`wording` is {wording!r}, expected one of {sorted(WORDINGS)}; pass one of these.")
        self.ontology = ontology
        self.wording = WORDINGS[wording]
        self.definitions = Definitions(ontology, descriptions)
        self._names = TypeNames(ontology)
        self._kinship = Kinship(ontology)
        self._details = Details(self._names, self._kinship, self.definitions, markers)
        self._questioner = Questioner(self._names, self._kinship, markers)

    def conversation(
        self,
        facts: CellFacts,
        rng: np.random.Generator,
        genes: CellGenes | None = None,
        tasks: Mapping[str, float] | None = None,
        others: Sequence[CellFacts] = (),
    ) -> tuple[str, str]:
        """
        An instruction about a cell, and the answer to learn.

        Where a task cannot be done with what is known, such as a choice without an ontology id, the cell is described.

        Args:
            facts (`CellFacts`): What is known of the cell.
            rng (`np.random.Generator`): Chooses the task, the wording and what is told.
            genes (`CellGenes`, *optional*): The cell's own counts; without them no gene is spoken of.
            tasks (`Mapping[str, float]`, *optional*): Weights of "annotate" (name the type), "describe", "elaborate"
                (a paragraph), "choose" (the type among candidates) and "answer" (questions); "describe" alone if left
                out.
            others (`Sequence[CellFacts]`, *optional*): Where the wrong candidates of a choice come from.

        Returns:
            `tuple[str, str]`: The instruction, with one `<cell>`, and the answer.
        """
        exchange: Exchange = None
        task = _draw_task(tasks, rng) if tasks else "describe"
        if task == "annotate":
            exchange = self._instruction("annotate", rng), self.name(facts)
        elif task == "elaborate":
            exchange = self._instruction("elaborate", rng), self.elaborate(facts, rng, genes)
        elif task == "choose":
            exchange = self._choice(facts, rng, others)
        elif task == "answer":
            exchange = self._questioner.ask(facts, rng, genes)
        if exchange is not None:
            return exchange
        top_genes = genes.top() if genes else ()
        return self._instruction("describe", rng), self.describe(facts, rng, top_genes)

    def describe(self, facts: CellFacts, rng: np.random.Generator, top_genes: Sequence[str] = ()) -> str:
        """
        A description to learn: the type first, then origin, definition and genes, as far as known.

        Args:
            facts (`CellFacts`): What is known of the cell. The donor is never told, nor the ethnicity.
            rng (`np.random.Generator`): Chooses the wording and which facts are told.
            top_genes (`Sequence[str]`, *optional*): Symbols of genes the cell expresses highly or more
                than others do, best first. Three descriptions in four name the first three to six.

        Returns:
            `str`: One to five sentences.
        """
        noun, ontology_name = self._names.of(facts)
        context, _ = draw_context(facts, rng, TOLD)
        defined = rng.random() < 0.6
        if ontology_name and (not defined or rng.random() < 0.5):
            context = f" ({ontology_name}){context}"
        parts = [self._opening(noun, context, rng)]
        if defined and facts.cell_type_id:
            parts += self.definitions.brief(facts.cell_type_id, noun, rng)
        if top_genes and rng.random() < 0.75:
            parts.append(self._gene_sentence(top_genes, rng))
        return " ".join(parts)

    def elaborate(self, facts: CellFacts, rng: np.random.Generator, genes: CellGenes | None = None) -> str:
        """
        A paragraph: what [`describe`] tells, and of the type its other names, its kind, a longer description and its
        markers, and what the tissue, the disease or the assay is; each as far as known, and each in part of the draws.

        Args:
            facts (`CellFacts`): What is known of the cell. The donor is never told, nor the ethnicity.
            rng (`np.random.Generator`): Chooses.
            genes (`CellGenes`, *optional*): The cell's own counts, which every statement on genes agrees with.

        Returns:
            `str`: One to about ten sentences.
        """
        noun, ontology_name = self._names.of(facts)
        context, told = draw_context(facts, rng, TOLD)
        gloss = f" ({ontology_name})" if ontology_name else ""
        parts = [self._opening(noun, gloss + context, rng), *self._details.of_type(facts, rng)]
        about_genes = self._details.of_genes(facts, rng, genes) if genes else []
        if genes and rng.random() < 0.75 and (top := genes.top()):
            about_genes.append(self._gene_sentence(top, rng))
        about_origin = self._details.of_origin(facts, told, rng)
        rest = [about_genes, about_origin] if rng.random() < 0.5 else [about_origin, about_genes]
        return " ".join([*parts, *rest[0], *rest[1]])

    def condition(self, facts: CellFacts, rng: np.random.Generator) -> str:
        """
        A prompt that asks for cells, from a bare type to a sentence with a definition.

        Names the type in nearly every draw and a random part of the other facts, never genes. With varied wording, a
        part of the prompts are requests: "Generate a T cell from the lung."

        Args:
            facts (`CellFacts`): What is known of the cell.
            rng (`np.random.Generator`): Chooses the wording and which facts are asked for.

        Returns:
            `str`: One to three sentences, or a name.
        """
        if not self.wording.requests or rng.random() >= _REQUESTED:
            return self.condition_and_facts(facts, rng)[0]
        noun, gloss = self._called(facts, rng)
        context, _ = draw_context(facts, rng, ASKED)
        if rng.random() < 0.3:
            cell = f"{plural(noun)}{gloss}{context}"
        else:
            cell = f"{with_article(noun)}{gloss}{context}"
        requests = [text for text in self.wording.requests if not (cell.startswith(plural(noun)) and " does " in text)]
        return pick(rng, requests).format(cell=cell)

    def condition_and_facts(self, facts: CellFacts, rng: np.random.Generator) -> tuple[str, CellFacts]:
        """
        A text that is true of a cell, as [`condition`] asks for it, and which of the facts it tells.

        Args:
            facts (`CellFacts`): What is known of the cell.
            rng (`np.random.Generator`): Chooses the wording and which facts are told.

        Returns:
            `tuple[str, CellFacts]`: The text, and the told facts, `None` where nothing is said.
        """
        context, told = draw_context(facts, rng, ASKED)
        if context and rng.random() < _ASKED_WITHOUT_TYPE:
            return f"A cell{context}.", told
        kind = {"cell_type": facts.cell_type, "cell_type_id": facts.cell_type_id}
        told = replace(told, **kind)
        noun, gloss = self._called(facts, rng)
        style = pick(rng, _CONDITION_STYLES)
        if style == "bare":
            return f"{noun}{gloss}", CellFacts(**kind)
        if style == "plural":
            ontology_name = self._names.of(facts)[1]
            glosses = f" ({plural(ontology_name)})" if gloss else ""
            return f"{capitalised(plural(noun))}{glosses}{context}.", told
        if style == "sentence":
            return f"This is {with_article(noun)}{gloss}{context}.", told
        text = f"{capitalised(with_article(noun))}{gloss}{context}."
        if style == "definition" and facts.cell_type_id:
            text = " ".join([text, *self.definitions.brief(facts.cell_type_id, noun, rng)])
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
            kind = " = ".join(filter(None, self._names.of(fact))) if fact.cell_type else ""
            disease = HEALTHY_WORD if (fact.disease or "").casefold() in HEALTHY else fact.disease
            rows.append([kind, disease, *(getattr(fact, field) for field in _TOLD_AS_KNOWN)])
        return np.array([[claim or "" for claim in row] for row in rows], dtype=object)

    def name(self, facts: CellFacts) -> str:
        """Returns the canonical text of a cell's type: "A CD56+ NK cell (natural killer cell)."."""
        return self._names.canonical(facts)

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
        noun, _ = self._names.of(facts)
        texts = [
            self.name(facts),
            noun,
            f"{capitalised(with_article(noun))}.",
            f"This is {with_article(noun)}.",
            f"{capitalised(plural(noun))}.",
        ]
        definition = self.definitions.first(cell_type_id, "It") if cell_type_id else None
        if definition:
            texts.append(f"{texts[0]} {definition}")
        return list(dict.fromkeys(texts))

    def type_name(self, label: str) -> str:
        """Returns the noun by which texts call a label: "CD19+ B cell" for "CD19+ B"."""
        return self._names.of(CellFacts(cell_type=label))[0]

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
        return self._names.mentioned(text, labels)

    def _called(self, facts: CellFacts, rng: np.random.Generator) -> tuple[str, str]:
        """Draws what a prompt calls a type, and the ontology's name in brackets, or nothing."""
        noun, ontology_name = self._names.of(facts)
        if self.wording.synonyms and rng.random() < _CALLED_OTHERWISE and (others := self._names.synonyms(facts)):
            return pick(rng, others), ""
        return noun, f" ({ontology_name})" if ontology_name and rng.random() < 0.5 else ""

    def _opening(self, noun: str, context: str, rng: np.random.Generator) -> str:
        # Not "This cell is a cell".
        choices = [text for text in self.wording.openings if noun != "cell" or " cell " not in text]
        return capitalised(pick(rng, choices).format(type=with_article(noun), context=context))

    def _instruction(self, task: str, rng: np.random.Generator) -> str:
        return pick(rng, self.wording.prompts[task])

    def _gene_sentence(self, top_genes: Sequence[str], rng: np.random.Generator) -> str:
        genes = listing(list(top_genes[: int(rng.integers(3, 7))]))
        return pick(rng, self.wording.genes).format(genes=genes)

    def _choice(self, facts: CellFacts, rng: np.random.Generator, others: Sequence[CellFacts]) -> Exchange:
        """The type among two to five candidates, of which the cell is at most one."""
        if facts.cell_type_id is None or facts.cell_type is None:
            return None
        wrong = self._kinship.distractors(facts, others, int(rng.integers(1, 5)), rng)
        is_among = len(wrong) < 2 or rng.random() >= _NONE_OF_THESE
        if not wrong:
            return None
        candidates = [self._names.of(fact)[0] for fact in (facts, *wrong)][0 if is_among else 1 :]
        candidates = [candidates[i] for i in rng.permutation(len(candidates))]
        # "CD4-positive, alpha-beta T cell" has a comma of its own.
        mark = "; " if any("," in name for name in candidates) else ", "
        options = f"{mark.join(candidates[:-1])}{mark.rstrip() if mark == '; ' else ''} or {candidates[-1]}"
        question = self._instruction("choose", rng).format(options=options)
        answer = f"{capitalised(with_article(self._names.of(facts)[0]))}."
        return question, answer if is_among else "None of these."


def _draw_task(tasks: Mapping[str, float], rng: np.random.Generator) -> str:
    draw, total = rng.random() * sum(tasks.values()), 0.0
    for task, weight in tasks.items():
        total += weight
        if draw < total:
            return task
    return task


__all__ = ["CaptionWriter", "check_tasks", "named_genes", "prompts"]
