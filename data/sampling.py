"""How often each cell is to come: by study, type, tissue or source, evened out or as told."""

from collections.abc import Mapping
from numbers import Real

import numpy as np
import pandas as pd

from .sources import CellSource


def sampling_weights(source: CellSource, by: Mapping[str, float | Mapping[str, float]]) -> np.ndarray:
    """
    Weights of all cells of a source, with a mean of 1, so that an epoch keeps its length.

    Args:
        source (`CellSource`): the cells.
        by (`Mapping`): for each column of `obs` (such as `dataset_id`, `cell_type` or `tissue`; `source` in a
            [`MixedSource`]) either a temperature, by which n cells of a label come as n^temperature would: 1 leaves
            them as they are, 0 has all labels equally often; or the weight of a cell of each label. Several columns
            multiply.

    Returns:
        `np.ndarray` of shape `(C,)`, float32.

    Raises:
        ValueError: when a temperature is outside [0, 1], or the weights leave labels out, are negative or all 0.
    """
    weights = np.ones(int(source.unit_sizes.sum()))
    for column, rule in by.items():
        codes, labels = pd.factorize(source.labels(column), use_na_sentinel=False)
        weights *= _weight_of_label(column, rule, labels, np.bincount(codes))[codes]
    if not weights.any():
        raise ValueError(f"`by`={dict(by)} leaves no cell: give some label a weight above 0.")
    return (weights / weights.mean()).astype(np.float32)


def _weight_of_label(
    column: str, rule: float | Mapping[str, float], labels: np.ndarray, sizes: np.ndarray
) -> np.ndarray:
    if isinstance(rule, Real):
        if not 0.0 <= rule <= 1.0:
            raise ValueError(f"`by`: the temperature of {column} is {rule}; expected a number in [0, 1].")
        return sizes ** (rule - 1.0)
    missing = sorted({str(label) for label in labels} - set(rule))
    if missing or min(rule.values()) < 0:
        raise ValueError(
            f"`by`: the weights of {column} leave out {missing}, and the least is {min(rule.values(), default=None)}; "
            "expected a number, 0 or more, for each label of the cells (`None` for cells without one)."
        )
    return np.array([float(rule[str(label)]) for label in labels])


__all__ = ["sampling_weights"]
