"""The goals that a trained model is held to on held-out cells, as checks on the rows of the task tables.

Where a goal leaves the space or the number of neighbours open, the worst of them decides.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from .metrics.spaces import SPACES
from .tasks import OURS

POINTS_BEHIND_LOGISTIC = 5.0
LEAST_KNN_RATIO = 0.95
VARIANCE_RANGE = (0.85, 1.15)
MOST_ZERO_DIFFERENCE = 3.0
MOST_MMD_RATIO = 5.0


@dataclass(frozen=True)
class Check:
    """
    One goal, what was measured, and whether it was reached.

    Args:
        goal (`str`): What was asked for, with its number.
        measured (`str`): What was found, with its number.
        reached (`bool`): Whether that is enough.
    """

    goal: str
    measured: str
    reached: bool

    def to_dict(self) -> dict:
        """For `results.json`."""
        return asdict(self)


def check_annotation(rows: Sequence[dict]) -> list[Check]:
    """Accuracy at most 5 points below logistic regression. `rows` are those of `tasks.annotation.evaluate`."""
    ours, linear = _row(rows, OURS)["accuracy"], _row(rows, "logistic regression")["accuracy"]
    behind = 100 * (linear - ours)
    return [
        Check(
            goal=f"accuracy within {POINTS_BEHIND_LOGISTIC:g} points of logistic regression ({linear:.3f})",
            measured=f"{ours:.3f}, {abs(behind):.1f} points {'below' if behind > 0 else 'above'}",
            reached=behind <= POINTS_BEHIND_LOGISTIC,
        )
    ]


def check_generation(rows: Sequence[dict]) -> list[Check]:
    """
    k-NN accuracy, total variance, zeros and MMD of generated cells. `rows` are those of `tasks.generation.evaluate`.
    """
    ours = _row(rows, OURS)
    knn = {name: value for name, value in ours.items() if name.startswith("knn") and name.endswith("_ratio")}
    mmd = {space: ours[f"mmd2_{space}_ratio"] for space in SPACES}
    low, high = VARIANCE_RANGE
    return [
        _check(
            f"k-NN accuracy at least {LEAST_KNN_RATIO:g} of the held-out cells' own, every k and space",
            {_space_of(name): value for name, value in knn.items()},
            "{:.3f}",
            lambda ratio: ratio - LEAST_KNN_RATIO,
        ),
        _check(
            f"total variance between {low:g} and {high:g} of real",
            {"": ours["variance_ratio"]},
            "{:.3f}",
            lambda ratio: min(ratio - low, high - ratio),
        ),
        _check(
            f"zero fraction within {MOST_ZERO_DIFFERENCE:g} points of real",
            {"": ours["zero_fraction_difference"]},
            "{:+.2f} points",
            lambda points: MOST_ZERO_DIFFERENCE - abs(points),
        ),
        _check(
            f"MMD² at most {MOST_MMD_RATIO:g} times that of resampled training cells, both spaces",
            mmd,
            "{:.2f} times",
            lambda ratio: MOST_MMD_RATIO - ratio,
        ),
    ]


def _check(goal: str, values: dict[str, float | None], form: str, margin: Callable[[float], float]) -> Check:
    """The value with the least margin decides, which is below 0 where the goal is missed; without a value, nothing."""
    if None in values.values():
        return Check(goal, "not measured: without a value", False)
    worst = min(values, key=lambda name: margin(values[name]))
    measured = form.format(values[worst]) + (f" at the worst ({worst})" if worst else "")
    return Check(goal, measured, margin(values[worst]) >= 0)


def _space_of(knn_ratio: str) -> str:
    k, _, space = knn_ratio.removeprefix("knn").removesuffix("_ratio").partition("_")
    return f"k = {k}, {space}"


def _row(rows: Sequence[dict], name: str) -> dict:
    for row in rows:
        if row["row"] == name:
            return row
    raise ValueError(f"rows has no row {name!r}, only {[row['row'] for row in rows]}: pass a task's rows whole")
