"""Classify, then look the sentence up: bounds the claim "the model describes the cell".

A classifier and a table of one sentence per type write fluent, correct text about the type. It is the honest
ceiling of templated text; what it cannot do is speak of the cell at hand.
"""

from collections.abc import Mapping, Sequence


def describe(predicted_labels: Sequence[str], lookup: Mapping[str, str]) -> list[str]:
    """
    The sentence of each predicted label.

    Args:
        predicted_labels (`n` strings):
            What a classifier said of each cell, usually logistic regression.
        lookup (`dict[str, str]`):
            One sentence for every label.

    Returns:
        `list[str]` of length `n`.
    """
    missing = sorted({str(label) for label in predicted_labels} - set(lookup))
    if missing:
        raise ValueError(f"lookup has no sentence for {missing}: give one for every label of the training cells")
    return [lookup[str(label)] for label in predicted_labels]
