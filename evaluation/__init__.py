"""How scMMGPT is measured: metrics on arrays, baselines, tasks, figures, the report, the model card.

Nothing here imports the model or the training code: an evaluation sees labels, texts and counts only.
"""

from .cells import LabelledCells

__all__ = ["LabelledCells"]
