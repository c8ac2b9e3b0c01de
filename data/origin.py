"""Where a cell comes from, as it follows the cell's name in a sentence. Must not import torch or transformers."""

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from .facts import CellFacts
from .grammar import with_article
from .templates import pick

HEALTHY = frozenset({"normal", "healthy", "control", "healthy control"})
HEALTHY_WORD = "healthy"
# The adjective of a species, and what to call one of its members.
SPECIES = {"Homo sapiens": ("human", "donor"), "Mus musculus": ("mouse", "mouse")}
# Chance that a known fact enters a description, which should teach what the cell shows ...
TOLD = {
    "tissue": 0.85,
    "organism": 0.6,
    "disease": 0.7,
    "sex": 0.5,
    "assay": 0.5,
    "condition": 0.7,
    "development_stage": 0.5,
    "suspension_type": 0.3,
}
# ... and a prompt, which must work with any of them missing.
ASKED = {
    "tissue": 0.5,
    "organism": 0.5,
    "disease": 0.4,
    "sex": 0.4,
    "donor": 0.2,
    "condition": 0.6,
    "assay": 0.3,
    "development_stage": 0.3,
    "ethnicity": 0.1,
    "suspension_type": 0.15,
}
_AGE = re.compile(r"(?P<age>\d+)[- ](?P<unit>day|week|month|year)[- ]old(?: (?:human|mouse))? stage$")
_OPEN_AGE = re.compile(r"(?P<age>\d+)[- ]year[- ]old and over(?: human)? stage$")
_MATERIAL = {"nucleus": "a single nucleus", "cell": "a whole cell"}


def draw_context(facts: CellFacts, rng: np.random.Generator, chances: Mapping[str, float]) -> tuple[str, CellFacts]:
    """
    Draws which facts to tell, and tells them.

    Args:
        facts (`CellFacts`): What is known of the cell.
        rng (`np.random.Generator`): Chooses.
        chances (`Mapping[str, float]`): `TOLD` or `ASKED`.

    Returns:
        `tuple[str, CellFacts]`: The text, such as " from the blood of a healthy donor", with the space before it, or
        nothing; and the facts that it tells.
    """
    # One draw per field that is known or always was among them, so that a new field leaves other texts as they were.
    draws = {f: rng.random() for f in chances if f in _ALWAYS_DRAWN or getattr(facts, f) is not None}
    told = CellFacts(**{field: getattr(facts, field) for field, draw in draws.items() if draw < chances[field]})
    is_animal = facts.organism not in (None, "Homo sapiens")
    person = _person(told, is_animal)
    text = _place(told, person, rng)
    if told.donor:
        donor = told.donor if told.donor.casefold().startswith("donor") else f"donor {told.donor}"
        text += f" ({donor})" if text else f" from {donor}"
    if told.ethnicity:
        text += f", self-reported ethnicity {told.ethnicity}"
    if told.development_stage and not age(told.development_stage):
        text += f", at {stage(told.development_stage)}"
    if told.condition:
        text += f", in the {told.condition} condition"
    if told.suspension_type in _MATERIAL and not told.assay:
        text += f", profiled as {_MATERIAL[told.suspension_type]}"
    if told.assay:
        material = f" as {_MATERIAL[told.suspension_type]}" if told.suspension_type in _MATERIAL else ""
        text += f", {pick(rng, ('profiled', 'measured'))}{material} with {told.assay}"
    if told.suspension_type not in _MATERIAL:
        told = replace(told, suspension_type=None)
    if person and is_animal:
        told = replace(told, organism=facts.organism)  # "a female animal" is no person
    return text, told


_ALWAYS_DRAWN = frozenset({"tissue", "organism", "disease", "sex", "donor", "condition", "assay"})


def age(development_stage: str) -> str | None:
    """Returns the adjective of an age, such as "65-year-old" for "65-year-old stage", or `None` for another stage."""
    found = _AGE.match(development_stage)
    return f"{found['age']}-{found['unit']}-old" if found else None


def stage(development_stage: str) -> str:
    """Returns a stage of life as it follows "at": "the adult stage", "Carnegie stage 20", "an age of 90 or more"."""
    found = _OPEN_AGE.match(development_stage)
    if found:
        return f"an age of {found['age']} years or more"
    if re.search(r"\bstage \w+$", development_stage):
        return development_stage
    name = re.sub(r" (?:human|mouse) stage", " stage", development_stage)
    return f"the {name}" if "stage" in name else f"the {name} stage"


def is_healthy(facts: CellFacts) -> bool | None:
    """Tells whether a cell's donor is known to be healthy, or ill; `None` where nothing is known."""
    return None if facts.disease is None else facts.disease.casefold() in HEALTHY


def _place(told: CellFacts, person: str, rng: np.random.Generator) -> str:
    species = SPECIES.get(told.organism or "", (told.organism, ""))[0]
    is_aged = bool(told.development_stage and age(told.development_stage))
    bare = told.tissue and species and not told.sex and not told.disease and not is_aged
    if bare and rng.random() < 0.5:
        return f" from {species} {told.tissue}"
    if told.tissue:
        return f" from the {told.tissue}" + (f" of {with_article(person)}" if person else "")
    return f" from {with_article(person)}" if person else ""


def _person(told: CellFacts, is_animal: bool) -> str:
    """Returns whom the cell comes from, such as "healthy female human donor", or nothing."""
    years = age(told.development_stage) if told.development_stage else None
    if not (told.sex or told.disease or told.organism or years):
        return ""
    healthy = is_healthy(told)
    species, member = SPECIES.get(told.organism or "", (told.organism, "animal" if is_animal else "donor"))
    if healthy is False and member == "donor":
        member = "patient"
    words = [
        HEALTHY_WORD if healthy else None,
        years,
        told.sex,
        species if species != member else None,
        member,
    ]
    return " ".join(filter(None, words)) + (f" with {told.disease}" if healthy is False else "")
