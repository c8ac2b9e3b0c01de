"""How often labels are right, per cell and per type, and whether the stated confidence can be believed."""

import numpy as np


def accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """
    Share of cells with the right label: what a user experiences. Dominated by the common types, so never alone.

    Args:
        labels (`(n,)`):
            The true labels.
        predicted (`(n,)`):
            The predicted labels. A prediction that is no known type counts as wrong and is never dropped.
    """
    return float(np.mean(np.asarray(labels) == np.asarray(predicted)))


def balanced_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """
    Mean over the true types of the share of their cells that were found: a rare type counts like a common one.
    The majority class scores 1 / number of types, whatever the mix of cells. Arguments as in [`accuracy`].
    """
    hits, true_sizes, _ = _type_counts(labels, predicted)
    return float(np.mean(hits / true_sizes))


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """
    Mean over the true types of F1, the harmonic mean of precision and recall: unlike balanced accuracy it also
    punishes a type that is named too often.

    The mean runs over the types that occur in `labels`. A free-text model can invent any number of names; each
    already costs the recall of the true type, and must not change the number of terms of the mean as well.
    Arguments as in [`accuracy`].
    """
    hits, true_sizes, predicted_sizes = _type_counts(labels, predicted)
    return float(np.mean(2 * hits / (true_sizes + predicted_sizes)))


def _type_counts(labels: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells of each true type that were found, that exist, that were named: one pass, as the bootstrap asks often."""
    types, codes = np.unique(np.concatenate([labels, predicted]), return_inverse=True)
    true_codes, predicted_codes = np.split(codes, 2)
    hits, true_sizes, predicted_sizes = (
        np.bincount(each, minlength=len(types))
        for each in (true_codes[true_codes == predicted_codes], true_codes, predicted_codes)
    )
    occurring = true_sizes > 0
    return hits[occurring], true_sizes[occurring], predicted_sizes[occurring]


def expected_calibration_error(correct: np.ndarray, confidence: np.ndarray, num_bins: int = 15) -> float:
    """
    Mean gap between stated confidence and observed accuracy: 0 when "90 % sure" is right in 90 % of the cells.

    Equal-width bins on [0, 1], weighted by their number of cells (Guo et al. 2017, equation 3). The value grows with
    the number of bins when cells are few: compare only values with equal `num_bins` and on the same cells.

    Args:
        correct (`(n,)` bool):
            Whether each prediction was right.
        confidence (`(n,)` in [0, 1]):
            The probability that the model gave to its own prediction.
        num_bins (`int`, *optional*, defaults to 15):
            Number of bins; a confidence on an edge belongs to the lower bin.
    """
    correct = np.asarray(correct, dtype=np.float64)
    confidence = np.asarray(confidence, dtype=np.float64)
    if confidence.size and not (confidence.min() >= 0 and confidence.max() <= 1):
        raise ValueError(
            f"confidence runs from {confidence.min():.3g} to {confidence.max():.3g}, expected [0, 1]:"
            " pass probabilities, not logits"
        )
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(correct))
