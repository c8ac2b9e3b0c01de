"""One file per task: `evaluate(...)` returns the rows of its table, ours first, then the baselines.

A task sees predictions as plain labels, texts and counts, so any model can be put on the first row.
"""

from ...model_card import OURS

__all__ = ["OURS"]
