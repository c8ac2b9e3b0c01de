"""What a description says: the type it names, the genes it names, and whether the cell expresses them.

BLEU and its kin belong here too, through a kept library with its tokenisation named; they reward wording.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import sparse

GENE_TOKEN = re.compile(r"(?<![\w-])[A-Za-z][\w.-]*\w(?![\w+-])")


def find_label(text: str, names: Mapping[str, Sequence[str]]) -> str | None:
    """
    The label that a text names, or `None`.

    The first mention counts, as a reader would take it, and the longest of the names that begin there ("CD4 T cell"
    before "CD4"). Whole words, any case, plural accepted. Every row of a table goes through this same function.

    Args:
        text (`str`):
            A description.
        names (`dict[str, list[str]]`):
            For each label the phrases that name it: the label itself, its ontology name, its synonyms.
    """
    best: tuple[int, int, str] | None = None
    for label, phrases in names.items():
        for phrase in phrases:
            match = re.search(rf"(?<!\w){re.escape(phrase)}s?(?!\w)", text, flags=re.IGNORECASE)
            if match and (best is None or (match.start(), -len(phrase)) < best[:2]):
                best = (match.start(), -len(phrase), label)
    return best[2] if best else None


def find_genes(text: str, gene_names: Iterable[str], ignore: Iterable[str] = ()) -> list[str]:
    """
    The genes that a text names, in order, each once.

    Case counts ("set" is a word, SET a gene). Phrases in `ignore`, usually the names of the cell types, are cut out
    first, and a symbol followed by "+" is a surface marker: the CD4 of "CD4+ T cell" is not a claim about that gene's
    transcripts.
    """
    for phrase in sorted(ignore, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(phrase)}s?(?!\w)", " ", text, flags=re.IGNORECASE)
    known = set(gene_names)
    return list(dict.fromkeys(word for word in GENE_TOKEN.findall(text) if word in known))


def right_type(labels: np.ndarray, named: Sequence[str | None]) -> np.ndarray:
    """
    Whether each description names the right type, `(n,)` bool; the mean is the share that does.

    A description that names no type is wrong, not missing: dropping it would reward silence.
    """
    return np.array([label == name for label, name in zip(labels, named, strict=True)], dtype=bool)


def split_by_expression(
    named_genes: Sequence[Sequence[str]], counts: sparse.csr_matrix, gene_names: Sequence[str]
) -> list[tuple[list[str], list[str]]]:
    """
    Of the genes that each description names, those that its own cell expresses (count above 0), and the others.

    Args:
        named_genes (`n` lists of `str`):
            The genes named for each cell. One that is not in `gene_names` counts as not expressed.
        counts (`(n, m)`), gene_names (`m` strings):
            The cells described, in raw counts.
    """
    counts = sparse.csr_matrix(counts)
    split = []
    for row, genes in enumerate(named_genes):
        start, end = counts.indptr[row : row + 2]
        columns = counts.indices[start:end][counts.data[start:end] > 0]
        present = {gene_names[column] for column in columns}
        split.append(([gene for gene in genes if gene in present], [gene for gene in genes if gene not in present]))
    return split


def grounding_precision(named: np.ndarray, expressed: np.ndarray) -> float:
    """
    Share of the named genes that are expressed in the very cell described, over all cells (micro average).

    A fluent sentence about the type is not yet about the cell; this finds genes that were made up. Read it with the
    number of genes named: naming only ubiquitous genes scores high. NaN when no description names a gene.

    Args:
        named (`(n,)`), expressed (`(n,)`):
            How many genes each description names, and how many of those its cell expresses.
    """
    total = np.sum(named)
    return float(np.sum(expressed) / total) if total else float("nan")
