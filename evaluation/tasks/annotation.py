"""Annotation: the right type for each held-out cell, beside majority class, k-NN and logistic regression."""

from collections.abc import Sequence

import numpy as np

from ..baselines import knn_pca, logistic_regression, majority
from ..cells import LabelledCells, check_same_genes
from ..metrics.bootstrap import bootstrap_interval
from ..metrics.classification import accuracy, balanced_accuracy, expected_calibration_error, macro_f1
from . import OURS

METRICS = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "macro_f1": macro_f1}
BASELINES = {
    "logistic regression": logistic_regression.predict,
    "k-NN on 50 PCs": knn_pca.predict,
    "majority class": majority.predict,
}


def evaluate(
    train: LabelledCells,
    test: LabelledCells,
    predicted_labels: Sequence[str | None],
    confidence: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> list[dict]:
    """
    The annotation table.

    Args:
        train ([`LabelledCells`]):
            The cells on which the baselines are fitted: the very cells that the model was trained on.
        test ([`LabelledCells`]):
            Held-out cells over the same genes.
        predicted_labels (`n` strings):
            What the model said of each held-out cell. `None` (it named no type) counts as wrong.
        confidence (`(n,)` in [0, 1], *optional*):
            The model's probability of its own prediction.
        groups (`(n,)`, *optional*):
            Donor or study of each held-out cell, the unit of the bootstrap; without it, cells.
        seed (`int`, *optional*, defaults to 0):
            Decides folds and intervals.

    Returns:
        `list[dict]`: rows with `row`, `num_cells`; `accuracy`, `balanced_accuracy`, `macro_f1`, each with `_low` and
        `_high` (bootstrap, 95 %); `unnamed`, the share of cells without any prediction; and
        `expected_calibration_error` (15 bins; `None` without a confidence).
    """
    check_same_genes(train=train, test=test)
    if len(predicted_labels) != len(test):
        raise ValueError(
            f"predicted_labels has {len(predicted_labels)} entries for {len(test)} held-out cells: keep an entry,"
            " `None` if need be, for every cell"
        )
    unnamed = float(np.mean([label is None for label in predicted_labels]))
    ours = np.array(["" if label is None else label for label in predicted_labels], dtype=str)
    rows = [_row(OURS, test.labels, ours, confidence, groups, seed) | {"unnamed": unnamed}]
    for name, predict in BASELINES.items():
        predicted, certainty = predict(train, test.counts, seed)
        rows.append(_row(name, test.labels, predicted, certainty, groups, seed) | {"unnamed": 0.0})
    return rows


def _row(
    name: str,
    labels: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray | None,
    groups: np.ndarray | None,
    seed: int,
) -> dict:
    row: dict = {"row": name, "num_cells": len(labels)}
    # Integers: the bootstrap compares labels a thousand times.
    _, codes = np.unique(np.concatenate([labels, predicted]), return_inverse=True)
    true_codes, predicted_codes = np.split(codes, 2)
    for metric, function in METRICS.items():
        row[metric] = function(true_codes, predicted_codes)
        row[f"{metric}_low"], row[f"{metric}_high"] = bootstrap_interval(
            function, true_codes, predicted_codes, groups=groups, seed=seed
        )
    row["expected_calibration_error"] = (
        None if confidence is None else expected_calibration_error(labels == predicted, confidence)
    )
    return row
