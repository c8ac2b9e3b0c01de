"""The wordings that texts are made of: instructions, openings and sentences with places to fill.

Plain data and the function that chooses of it; imports nothing of this package. The first wording of a task is the
canonical one. `PLAIN` is what a small model can learn in minutes; `VARIED` adds to it what a large one should meet.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CELL = "<cell>"
TASKS = ("annotate", "describe", "elaborate", "choose", "answer")

_DESCRIBE = (
    "<cell> Describe this cell.",
    "Describe this cell: <cell>",
    "<cell> What is known about this cell?",
    "<cell> Write a short description of the cell.",
    "Here is the expression profile of a cell: <cell> Describe the cell in words.",
    "<cell> What kind of cell is this, and where does it come from?",
)
_ANNOTATE = (
    "<cell> What is the type of this cell?",
    "Name the type of this cell: <cell>",
    "<cell> Which cell type is this?",
    "<cell> Annotate this cell.",
    "Here is the expression profile of a cell: <cell> Give its cell type.",
)
_ELABORATE = (
    "<cell> Describe this cell in detail.",
    "Describe this cell in detail: <cell>",
    "<cell> Tell me all you know about this cell.",
    "<cell> Write a paragraph about this cell.",
    "<cell> Explain what this cell is, what it does and what it expresses.",
    "Here is the expression profile of a cell: <cell> Write a detailed report.",
    "You are looking at a single cell: <cell> Explain what you see to a student of biology.",
    "<cell> Characterise this cell: type, origin, function and genes.",
)
_CHOOSE = (
    "<cell> Which of these types is this cell: {options}?",
    "<cell> Choose the type of this cell from the following: {options}.",
    "Here is the expression profile of a cell: <cell> Which type fits it best: {options}?",
    "Candidates: {options}. Which of them is this cell? <cell>",
    "<cell> Is this cell one of the following: {options}? If so, say which.",
    "Choose between these types, {options}: <cell>",
)

PROMPTS = {
    "describe": _DESCRIBE,
    "annotate": _ANNOTATE,
    "elaborate": _ELABORATE,
    "choose": _CHOOSE,
}


@dataclass(frozen=True)
class Wording:
    """
    A choice of wordings; in each `{place}` is filled in.

    Args:
        prompts (`dict[str, tuple[str, ...]]`): Instructions of each task but questions, which bring their own.
        openings (`tuple[str, ...]`): First sentences, with the type behind its article and the context.
        genes (`tuple[str, ...]`): Sentences on highly expressed genes. [`named_genes`] looks in sentences that say
            "genes" or "transcripts".
        requests (`tuple[str, ...]`): Ways to ask for cells, around a noun phrase such as "a T cell from the lung".
        synonyms (`bool`): Whether a type is sometimes called by another of its names.
    """

    prompts: dict[str, tuple[str, ...]]
    openings: tuple[str, ...]
    genes: tuple[str, ...]
    requests: tuple[str, ...]
    synonyms: bool


PLAIN = Wording(
    prompts=PROMPTS,
    openings=(
        "This is {type}{context}.",
        "This cell is {type}{context}.",
        "The cell is {type}{context}.",
        "{type}{context}.",
        "The expression profile is that of {type}{context}.",
    ),
    genes=(
        "Highly expressed genes include {genes}.",
        "Among its prominent transcripts are {genes}.",
        "Genes that stand out in it are {genes}.",
    ),
    requests=(),
    synonyms=False,
)
VARIED = Wording(
    prompts=PROMPTS
    | {
        "describe": (
            *_DESCRIBE,
            "<cell> Summarise this cell in a sentence or two.",
            "<cell> Put this cell into words.",
            "What do you see here? <cell>",
            "Below is a single-cell transcriptome. <cell> Give a brief description of the cell.",
            "<cell> Caption this cell.",
            "<cell> What can be said about this cell and its origin?",
        ),
        "annotate": (
            *_ANNOTATE,
            "<cell> What type of cell is this?",
            "<cell> Assign a cell type.",
            "Identify this cell: <cell>",
            "<cell> Which label from the Cell Ontology fits this cell?",
            "Below is a single-cell transcriptome. <cell> Name the cell type.",
            "<cell> What cell am I looking at?",
        ),
    },
    openings=(
        *PLAIN.openings,
        "Here we see {type}{context}.",
        "What is shown is {type}{context}.",
        "You are looking at {type}{context}.",
        "It is {type}{context}.",
        "The cell shown is {type}{context}.",
    ),
    genes=(
        *PLAIN.genes,
        "Its most characteristic genes are {genes}.",
        "Genes such as {genes} are expressed far above average.",
        "Transcripts of {genes} are enriched.",
        "Compared with other cells, the genes {genes} stand out.",
        "It expresses the genes {genes} more than most cells do.",
    ),
    requests=(
        "Generate {cell}.",
        "Simulate {cell}.",
        "Draw the expression profile of {cell}.",
        "Give me {cell}.",
        "What does {cell} express?",
        "Show the transcriptome of {cell}.",
        "Imagine {cell}.",
        "The gene counts of {cell} are wanted.",
        "Sample {cell}.",
    ),
    synonyms=True,
)
WORDINGS = {"plain": PLAIN, "varied": VARIED}

# For detailed descriptions. `{cells}` is the plural of the type, `{a_cell}` the singular behind its article.
ALSO_KNOWN = (
    "Another name for it is {name}.",
    "It is also called {a_name}.",
    "Such a cell is also known as {a_name}.",
    "{cells} are also known as {names}.",
)
KINDS = (
    "It is a kind of {kind}.",
    "{cells} are a kind of {kind}.",
    "It belongs to the {kinds}.",
    "{cells} belong to the {kinds}.",
)
# What is said of markers has been looked up in the cell's own counts. [`named_genes`] reads the positive statements
# and not the negative ones, which must not say "genes" or "transcripts".
MARKERS = (
    "Its type shows in transcripts of {genes}, known to mark {cells}.",
    "It holds transcripts of {genes}, as is typical of {cells}.",
    "In line with its type, transcripts of {genes} are detected, known to mark {cells}.",
    "Marker genes of {cells} that it expresses include {genes}.",
    "Among the genes that mark {cells}, it expresses {genes}.",
)
# An unseen gene is not detected, whatever the cell may hold. "Lack" is said of the type, and hedged.
ABSENT = (
    "As expected of {cells}, {genes} {are} not detected.",
    "There is no trace of {genes}, as is usual in {cells}.",
    "{genes}, which {cells} usually lack, {are} not detected here.",
)
CONTRASTED = (
    "In contrast, {genes}, known to mark {cells}, {are} not detected.",
    "On the other hand, {genes}, known to mark {cells}, {are} not detected.",
    "It shows no trace of {genes}, known to mark {cells}.",
)
DEFINED_TERM = "Definition of {name}: {definition}"


def pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    """Returns one of `choices`, each as likely as another."""
    return choices[int(rng.integers(len(choices)))]


def prompts(task: str, rng: np.random.Generator | None = None) -> str:
    """
    An instruction with one `<cell>` placeholder.

    Args:
        task (`str`): "describe", "annotate" or "elaborate".
        rng (`np.random.Generator`, *optional*): Chooses the wording; the canonical one without it.

    Returns:
        `str`: The instruction.
    """
    choices = {name: texts for name, texts in PROMPTS.items() if "{" not in texts[0]}
    if task not in choices:
        raise ValueError(f"`task` is {task!r}, expected one of {sorted(choices)}; pass one of these.")
    return choices[task][0] if rng is None else pick(rng, choices[task])
