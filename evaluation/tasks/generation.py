"""Text -> cell generation: do generated cells look like their type, like cells at all, and differ from one another?

All rows hold as many cells of each type as the held-out cells, or their distances could not be compared.
"""

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.decomposition import PCA

from ..baselines import class_mean, resampled_cells, shuffled_labels
from ..cells import LabelledCells, check_same_genes
from ..metrics.bootstrap import bootstrap_interval
from ..metrics.distribution import median_bandwidth, mmd2, wasserstein1_per_gene
from ..metrics.moments import moment_correlations, variance_ratio, zero_fraction
from ..metrics.neighbours import knn_correct, memorisation_ratio
from ..metrics.spaces import SPACES, fit_pca50, log1p_cp10k
from . import OURS

HELD_OUT = "held-out real cells"
RESAMPLED = "resampled training cells"
CLASS_MEAN = "class-mean profile"
SHUFFLED = "label-shuffled training cells"
NEIGHBOURS = (3, 5, 10, 25)
# Draws over which the rows that draw at random are averaged, so that ratios to them hold still.
NUM_DRAWS = 5


class _Judge:
    """Holds what every row is compared with: training and held-out cells in both spaces, the bandwidth."""

    def __init__(self, train: LabelledCells, test: LabelledCells, ks: Sequence[int], seed: int) -> None:
        self.train_labels, self.ks, self.seed = train.labels, tuple(ks), seed
        train_log1p = log1p_cp10k(train.counts)
        self.pca: PCA = fit_pca50(train_log1p, seed)
        self.train = {"log1p_raw": train_log1p, "pca50_fit_on_train": self.pca.transform(train_log1p)}
        self.test = self._spaces(test)
        self.test_zeros = zero_fraction(test.counts)
        self.bandwidth = {space: median_bandwidth(cells) for space, cells in self.test.items()}

    def _spaces(self, cells: LabelledCells) -> dict:
        log1p = log1p_cp10k(cells.counts)
        return {"log1p_raw": log1p, "pca50_fit_on_train": self.pca.transform(log1p)}

    def score(self, cells: LabelledCells) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """All figures of one set of cells, and for the k-NN figures whether each cell was recognised."""
        spaces = self._spaces(cells)
        correct = {
            f"knn{k}_{space}": knn_correct(self.train[space], self.train_labels, spaces[space], cells.labels, k)
            for space in spaces
            for k in self.ks
        }
        real, made = self.test["log1p_raw"], spaces["log1p_raw"]
        real_pcs, made_pcs = self.test["pca50_fit_on_train"], spaces["pca50_fit_on_train"]
        means, variances = moment_correlations(real, made)
        zeros = zero_fraction(cells.counts)
        figures = {
            "variance_ratio": variance_ratio(real, made),
            "zero_fraction": zeros,
            "zero_fraction_difference": 100 * (zeros - self.test_zeros),
            "wasserstein1": float(wasserstein1_per_gene(real, made).mean()),
            "gene_mean_correlation": means,
            "gene_variance_correlation": variances,
            "memorisation_ratio": memorisation_ratio(self.train["pca50_fit_on_train"], real_pcs, made_pcs),
        }
        for space, made in spaces.items():
            pair = self.test[space], made, self.bandwidth[space]
            figures[f"mmd2_{space}"] = mmd2(*pair)
            figures[f"mmd2_{space}_unbiased"] = mmd2(*pair, biased=False)
        return figures, correct

    def row(self, name: str, draws: Sequence[LabelledCells]) -> dict:
        """The mean of each figure over draws of equal labels; k-NN intervals by bootstrap over cells."""
        scores = [self.score(cells) for cells in draws]
        row: dict = {"row": name, "num_cells": len(draws[0]), "num_draws": len(draws)}
        for metric in scores[0][1]:
            per_cell = np.mean([correct[metric] for _, correct in scores], axis=0)
            row[metric] = float(per_cell.mean())
            row[f"{metric}_low"], row[f"{metric}_high"] = bootstrap_interval(np.mean, per_cell, seed=self.seed)
        for metric in scores[0][0]:
            row[metric] = float(np.mean([figures[metric] for figures, _ in scores]))
        return row


def evaluate(
    train: LabelledCells,
    test: LabelledCells,
    generated: LabelledCells,
    seed: int = 0,
    ks: Sequence[int] = NEIGHBOURS,
) -> list[dict]:
    """
    The generation table.

    Args:
        train ([`LabelledCells`]):
            Real training cells: they fit the k-NN classifier, the principal components and the baselines.
        test ([`LabelledCells`]):
            Real held-out cells over the same genes, the target of every distance.
        generated ([`LabelledCells`]):
            The model's cells, for each type as many as `test` has; the label is the type that was asked for.
        seed (`int`, *optional*, defaults to 0):
            Decides the baselines' draws, the intervals and the start of the principal components.
        ks (`tuple[int]`, *optional*, defaults to `(3, 5, 10, 25)`):
            Numbers of neighbours, each at most the number of training cells.

    Returns:
        `list[dict]`: rows with `row`, `num_cells`, `num_draws` and

        - `knn{k}_{space}` (space: `log1p_raw` or `pca50_fit_on_train`) with `_low`, `_high` (bootstrap over cells,
          95 %) and `_ratio` (to the held-out cells' own). A training cell is its own nearest neighbour, so the row of
          resampled training cells comes out high for small `k`;
        - `mmd2_{space}` (biased, median-heuristic bandwidth) with `_unbiased` and `_ratio` (biased, to the row of
          resampled training cells). The ratio in `log1p_raw` is the strict one: see [`~metrics.spaces.fit_pca50`];
        - in `log1p_raw`: `variance_ratio`, `wasserstein1` (mean over genes), `gene_mean_correlation`,
          `gene_variance_correlation`; in `pca50_fit_on_train`: `memorisation_ratio`;
        - on counts: `zero_fraction`, and `zero_fraction_difference` to real in percentage points.

        Distances of the held-out cells to themselves are `None`.
    """
    check_same_genes(train=train, test=test, generated=generated)
    _check_composition(test.labels, generated.labels)
    judge = _Judge(train, test, ks, seed)

    def draws(generate: Callable[..., LabelledCells], number: int) -> list[LabelledCells]:
        return [generate(train, test.labels, seed + draw) for draw in range(number)]

    rows = [
        judge.row(OURS, [generated]),
        judge.row(HELD_OUT, [test]),
        judge.row(RESAMPLED, draws(resampled_cells.generate, NUM_DRAWS)),
        judge.row(CLASS_MEAN, draws(class_mean.generate, 1)),
        judge.row(SHUFFLED, draws(shuffled_labels.generate, NUM_DRAWS)),
    ]
    _add_ratios(rows)
    return rows


def _check_composition(test_labels: np.ndarray, generated_labels: np.ndarray) -> None:
    wanted, found = (
        dict(zip(*np.unique(labels, return_counts=True), strict=True)) for labels in (test_labels, generated_labels)
    )
    wrong = {
        str(label): f"{found.get(label, 0)} of {wanted.get(label, 0)}"
        for label in sorted({*wanted, *found})
        if found.get(label, 0) != wanted.get(label, 0)
    }
    if wrong:
        raise ValueError(
            f"generated has other numbers of cells per type than test (found of wanted): {wrong}."
            " Generate for each type as many cells as test has"
        )


def _add_ratios(rows: list[dict]) -> None:
    by_name = {row["row"]: row for row in rows}
    held_out, unit = dict(by_name[HELD_OUT]), dict(by_name[RESAMPLED])
    for row in rows:
        for metric in [name for name in row if name.endswith(SPACES)]:
            reference = (held_out if metric.startswith("knn") else unit)[metric]
            row[f"{metric}_ratio"] = row[metric] / reference if reference else None
    # The held-out cells compared with themselves are not a measurement.
    for metric in [name for name in by_name[HELD_OUT] if name.startswith(("mmd2", "wasserstein1"))]:
        by_name[HELD_OUT][metric] = None
