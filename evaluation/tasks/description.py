"""Description: does the text name the right type, and genes that this very cell expresses?

Every row's texts, ours and the baselines', are read by the same functions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...data.captions import CaptionWriter, named_genes
from ..baselines import logistic_regression, lookup
from ..cells import LabelledCells, check_same_genes
from ..metrics.bootstrap import bootstrap_interval
from ..metrics.text import grounding_precision, right_type, split_by_expression
from . import OURS

LOOKED_UP = "classify, then look up"
SHUFFLED = "shuffled sentences"


@dataclass(frozen=True)
class ReadDescription:
    """
    What one description says of its cell.

    Args:
        text (`str`): The description.
        true_label (`str`): The cell's type.
        named_label (`str` or `None`): The type that the text names first.
        expressed (`list[str]`): Genes that it names and the cell expresses.
        not_expressed (`list[str]`): Genes that it names and the cell does not express.
    """

    text: str
    true_label: str
    named_label: str | None
    expressed: list[str]
    not_expressed: list[str]

    @property
    def right(self) -> bool:
        """Whether the text names the right type."""
        return self.named_label == self.true_label


def read_descriptions(
    cells: LabelledCells, descriptions: Sequence[str], writer: CaptionWriter, labels: Sequence[str]
) -> list[ReadDescription]:
    """
    Finds the type that each description names and the genes that it says are expressed, and looks the genes up in
    the cell.

    Args:
        cells ([`LabelledCells`]):
            The `n` cells described.
        descriptions (`n` strings):
            One text per cell.
        writer ([`~scmmgpt.data.CaptionWriter`]):
            Knows by which names texts call a label.
        labels (`list[str]`):
            All types that a text may name, not only those of `cells`.
    """
    vocabulary = set(cells.gene_names)
    genes = [named_genes(text, vocabulary) for text in descriptions]
    split = split_by_expression(genes, cells.counts, cells.gene_names)
    return [
        ReadDescription(text, str(label), writer.mentioned_type(text, labels), expressed, not_expressed)
        for text, label, (expressed, not_expressed) in zip(descriptions, cells.labels, split, strict=True)
    ]


def evaluate(
    train: LabelledCells,
    test: LabelledCells,
    descriptions: Sequence[str],
    sentences: Mapping[str, str],
    writer: CaptionWriter,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> list[dict]:
    """
    The description table.

    Args:
        train ([`LabelledCells`]):
            The cells on which the classifier of the look-up row is fitted.
        test ([`LabelledCells`]):
            The held-out cells that were described.
        descriptions (`n` strings):
            The model's text for each held-out cell; an empty one stays in and counts as wrong.
        sentences (`dict[str, str]`):
            One reference sentence per label, for the look-up row and the shuffled row, in which each cell gets
            another cell's sentence.
        writer ([`~scmmgpt.data.CaptionWriter`]):
            Reads every row's texts; see [`read_descriptions`].
        groups (`(n,)`, *optional*):
            Donor or study of each cell, the unit of the bootstrap; without it, cells.
        seed (`int`, *optional*, defaults to 0):
            Decides folds, shuffling and intervals.

    Returns:
        `list[dict]`: rows with `row`, `num_cells`; `right_type` and `grounding_precision`, each with `_low` and
        `_high` (bootstrap, 95 %; the second is `None` when no gene is named); `no_type`, the share of texts
        that name no type; and `genes_named`, the mean number per text.
    """
    check_same_genes(train=train, test=test)
    if len(descriptions) != len(test):
        raise ValueError(
            f"descriptions has {len(descriptions)} texts for {len(test)} held-out cells: pass one text per cell"
        )
    labels = np.unique(np.concatenate([train.labels, test.labels])).tolist()
    classified, _ = logistic_regression.predict(train, test.counts, seed)
    shuffled = np.random.default_rng(seed).permutation(test.labels)
    texts = {
        OURS: list(descriptions),
        LOOKED_UP: lookup.describe(classified, sentences),
        SHUFFLED: lookup.describe(shuffled, sentences),
    }
    return [
        _row(name, test.labels, read_descriptions(test, each, writer, labels), groups, seed)
        for name, each in texts.items()
    ]


def _row(
    name: str, true_labels: np.ndarray, read: list[ReadDescription], groups: np.ndarray | None, seed: int
) -> dict:
    right = right_type(true_labels, [each.named_label for each in read])
    expressed = np.array([len(each.expressed) for each in read])
    named = expressed + np.array([len(each.not_expressed) for each in read])
    low, high = bootstrap_interval(np.mean, right, groups=groups, seed=seed)
    row = {
        "row": name,
        "num_cells": len(read),
        "right_type": float(right.mean()),
        "right_type_low": low,
        "right_type_high": high,
        "no_type": float(np.mean([each.named_label is None for each in read])),
        "genes_named": float(named.mean()),
        "grounding_precision": None,
        "grounding_precision_low": None,
        "grounding_precision_high": None,
    }
    if named.sum():
        row["grounding_precision"] = grounding_precision(named, expressed)
        row["grounding_precision_low"], row["grounding_precision_high"] = bootstrap_interval(
            grounding_precision, named, expressed, groups=groups, seed=seed
        )
    return row
