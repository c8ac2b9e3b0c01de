"""Tables for people: which figures of a task's rows are shown, under which heads, and which value is best.

Knows nothing of HTML; `report` lays the tables out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .tasks import description, generation


@dataclass(frozen=True)
class Column:
    """
    One figure of a table.

    Args:
        key (`str`): Key in the rows; `{key}_low` and `{key}_high` are shown as its interval where present.
        title (`str`): Head of the column.
        best (`"high"`, `"low"`, `float` or `None`): Which value is marked: the highest, the lowest, the nearest to a
            number, or none.
        digits (`int`, *optional*, defaults to 3): Digits after the point.
    """

    key: str
    title: str
    best: str | float | None = "high"
    digits: int = 3


@dataclass(frozen=True)
class Table:
    """
    Rows of a task under a choice of columns.

    Args:
        rows (`list[dict]`): As a task returns them. Ours is marked.
        columns (`list[Column]`): The figures shown.
        caption (`str`): What the table says, with the protocol: cells, split, space.
        references (`list[str]`, *optional*): Rows that are shown to read the others by (real cells, floors), and are
            never marked as best.
    """

    rows: Sequence[Mapping]
    columns: Sequence[Column]
    caption: str
    references: Sequence[str] = ()

    def cells(self) -> list[tuple[Mapping, list[tuple[str, str, bool]]]]:
        """For each row the text, the interval's text and the best mark of every column."""
        pairs = [(column, self._best(column)) for column in self.columns]
        return [(row, [(*_texts(row, column), row["row"] in marked) for column, marked in pairs]) for row in self.rows]

    def _best(self, column: Column) -> set[str]:
        values = {
            row["row"]: row[column.key]
            for row in self.rows
            if row["row"] not in self.references and row.get(column.key) is not None
        }
        if column.best is None or len(values) < 2:
            return set()
        if column.best == "high":
            losses = {name: -value for name, value in values.items()}
        elif column.best == "low":
            losses = values
        else:
            losses = {name: abs(value - column.best) for name, value in values.items()}
        least = round(min(losses.values()), column.digits)
        return {name for name, loss in losses.items() if round(loss, column.digits) == least}


def _texts(row: Mapping, column: Column) -> tuple[str, str]:
    value = row.get(column.key)
    if value is None:
        return "–", ""
    low, high = row.get(f"{column.key}_low"), row.get(f"{column.key}_high")
    digits = column.digits
    interval = "" if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"
    return f"{value:.{digits}f}".replace("-", "−"), interval.replace("-", "−")


def annotation_table(rows: Sequence[Mapping], protocol: str) -> Table:
    """
    The table of `tasks.annotation.evaluate`.

    Args:
        rows (`list[dict]`):
            The task's rows.
        protocol (`str`):
            A sentence that says which cells were held out, and how they were chosen.
    """
    columns = (
        Column("accuracy", "accuracy"),
        Column("balanced_accuracy", "balanced accuracy"),
        Column("macro_f1", "macro F1"),
        Column("unnamed", "no type named", None),
        Column("expected_calibration_error", "calibration error", None),
    )
    caption = f"{protocol} Small print: 95 % bootstrap interval. Calibration error: 15 bins, 0 is best."
    return Table(rows, columns, caption)


def description_table(rows: Sequence[Mapping], protocol: str) -> Table:
    """The table of `tasks.description.evaluate`. Arguments as in [`annotation_table`]."""
    columns = (
        Column("right_type", "right type"),
        Column("no_type", "no type named", None),
        Column("genes_named", "genes named per text", None, digits=1),
        Column("grounding_precision", "of these expressed"),
    )
    caption = (
        f"{protocol} Small print: 95 % bootstrap interval. The last column is the share of the named genes that the"
        " very cell described expresses."
    )
    return Table(rows, columns, caption, references=(description.SHUFFLED,))


def generation_table(rows: Sequence[Mapping], protocol: str) -> Table:
    """The table of `tasks.generation.evaluate`. Arguments as in [`annotation_table`]."""
    columns = (
        Column("knn25_pca50_fit_on_train", "k-NN, k = 25"),
        Column("knn25_pca50_fit_on_train_ratio", "k-NN, to real", None),
        Column("variance_ratio", "variance, to real", 1.0),
        Column("zero_fraction_difference", "zeros, points from real", 0.0, digits=1),
        Column("wasserstein1", "W1 per gene", "low"),
        Column("mmd2_log1p_raw", "MMD²", "low", digits=4),
        Column("mmd2_log1p_raw_ratio", "MMD², to resampled", "low", digits=1),
        Column("memorisation_ratio", "nearest training cell", None, digits=2),
    )
    caption = (
        f"{protocol} k-NN accuracy: 50 principal components, both fitted on real training cells; small print: 95 %"
        " bootstrap interval. Variance, W1 and MMD² (RBF kernel, biased): log1p of counts per 10,000. Nearest training"
        " cell: median distance over that of held-out cells, 0 is a copy. Rows in grey are real cells, to read the"
        " others by."
    )
    references = (generation.HELD_OUT, generation.RESAMPLED, generation.SHUFFLED)
    return Table(rows, columns, caption, references)
