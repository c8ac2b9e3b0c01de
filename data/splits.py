"""Training, validation and test cells, with a manifest that says how they were parted and a check against leakage.

Works on `obs` alone; must not import torch or transformers.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

PARTS = ("train", "validation", "test")


def split_cells(
    obs: pd.DataFrame,
    label_key: str,
    group_key: str | None = None,
    test_share: float = 0.2,
    validation_share: float = 0.1,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """
    Parts cells into training, validation and test cells.

    With `group_key` whole studies or donors go to one part, as many as come closest to the shares, and at least one to
    each part that has a share. Without it cells are drawn within each label, which leaves cells of one donor on both
    sides: right only where there is one donor. Of a label with two cells or more at least one is tested; a single cell
    is trained on.

    Args:
        obs (`pd.DataFrame`): One row per cell, under unique names.
        label_key (`str`): The column with the cell types.
        group_key (`str`, *optional*): The column with the study or donor.
        test_share (`float`, *optional*, defaults to 0.2): Share of the cells to test on.
        validation_share (`float`, *optional*, defaults to 0.1): Share of the cells to tune on; may be 0.
        seed (`int`, *optional*, defaults to 0): Fixes the draw.

    Returns:
        `dict[str, np.ndarray]`: Row numbers (int64, ascending) under "train", "validation" and "test".

    Raises:
        ValueError: A column is missing, names repeat, shares are impossible, or there are too few groups.
    """
    _check_arguments(obs, label_key, group_key, test_share, validation_share)
    rng = np.random.default_rng(seed)
    shares = {"test": test_share, "validation": validation_share}
    if group_key is None:
        part_of_cell = _part_by_label(obs[label_key].astype(str).to_numpy(), shares, rng)
    else:
        part_of_cell = _part_by_group(obs[group_key].astype(str).to_numpy(), group_key, shares, rng)
    parts = {part: np.flatnonzero(part_of_cell == part) for part in PARTS}
    assert_no_leakage(obs, parts, group_key)
    return parts


def part_groups(sizes: Mapping[str, int], shares: Mapping[str, float], rng: np.random.Generator) -> dict[str, str]:
    """
    Draws which groups are trained on, tuned on and tested on.

    Args:
        sizes (`Mapping[str, int]`): Cells of each group; more groups than shares above 0.
        shares (`Mapping[str, float]`): Share of the cells of each part but "train", in the order they are filled.
        rng (`np.random.Generator`): The source of the draw.

    Returns:
        `dict[str, str]`: Part of each group: as many as come closest to the shares, at least one to each part.
    """
    names, total = list(sizes), sum(sizes.values())
    wanted = [part for part, share in shares.items() if share > 0]
    order = [names[i] for i in rng.permutation(len(names))]
    part_of_group = dict.fromkeys(names, "train")
    for position, part in enumerate(wanted):
        target, taken = shares[part] * total, 0
        # A group for each part still to fill, and for training, must remain.
        while len(order) > len(wanted) - position:
            size = sizes[order[0]]
            if taken and abs(taken + size - target) >= abs(taken - target):
                break
            part_of_group[order.pop(0)] = part
            taken += size
    return part_of_group


def assert_no_leakage(obs: pd.DataFrame, parts: dict[str, np.ndarray], group_key: str | None = None) -> None:
    """
    Checks that no cell, no cell name and no group is on two sides of a split.

    Args:
        obs (`pd.DataFrame`): One row per cell.
        parts (`dict[str, np.ndarray]`): Row numbers of each part.
        group_key (`str`, *optional*): The column with the study or donor.

    Raises:
        AssertionError: Something is on two sides; the message names it.
    """
    for kind, values in (("cell", obs.index), ("group", obs[group_key] if group_key else None)):
        if values is None:
            continue
        seen: dict[str, str] = {}
        for part, rows in parts.items():
            for value in set(values.take(rows).astype(str)):
                if value in seen:
                    raise AssertionError(f"{kind} {value!r} is in both {seen[value]!r} and {part!r}")
                seen[value] = part


@dataclass(frozen=True)
class SplitManifest:
    """
    The record of a split, to be kept beside every result that rests on it.

    Args:
        seed (`int`): The seed of the draw.
        unit (`str`): What was parted: "group" (no group on two sides) or "cell" (stratified by label).
        label_key (`str`): The column with the cell types.
        group_key (`str`, *optional*): The column with the groups.
        cells (`dict[str, list[str]]`): Names of the cells of each part; parts may be added to those of a split.
        sha256 (`str`): Hash of `cells`.
    """

    seed: int
    unit: str
    label_key: str
    group_key: str | None
    cells: dict[str, list[str]]
    sha256: str

    @classmethod
    def from_split(
        cls,
        obs: pd.DataFrame,
        parts: dict[str, np.ndarray],
        label_key: str,
        group_key: str | None = None,
        seed: int = 0,
    ) -> "SplitManifest":
        """Records what [`split_cells`] returned, or parts of it; the arguments are those it was called with."""
        cells = {part: obs.index.take(rows).astype(str).tolist() for part, rows in parts.items()}
        unit = "cell" if group_key is None else "group"
        return cls(seed, unit, label_key, group_key, cells, _hash(cells))

    @classmethod
    def from_json(cls, text: str) -> "SplitManifest":
        """Reads what `to_json` wrote, and raises a `ValueError` if the names no longer fit their hash."""
        manifest = cls(**json.loads(text))
        found = _hash(manifest.cells)
        if found != manifest.sha256:
            raise ValueError(
                f"`text` is a manifest of hash {manifest.sha256[:12]}, but its cells hash to {found[:12]}: it was "
                "changed after it was written; split again, or take the original."
            )
        return manifest

    def to_json(self) -> str:
        """Returns the manifest as JSON, the same text for the same split."""
        return json.dumps(asdict(self), indent=1)


def _hash(cells: dict[str, list[str]]) -> str:
    return hashlib.sha256(json.dumps(cells, sort_keys=True).encode()).hexdigest()


def _part_by_label(labels: np.ndarray, shares: dict[str, float], rng: np.random.Generator) -> np.ndarray:
    part_of_cell = np.full(len(labels), "train", dtype=object)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        num_test = min(len(rows) - 1, max(1, round(shares["test"] * len(rows))))
        num_validation = min(len(rows) - 1 - num_test, round(shares["validation"] * len(rows)))
        part_of_cell[rows[:num_test]] = "test"
        part_of_cell[rows[num_test : num_test + num_validation]] = "validation"
    return part_of_cell


def _part_by_group(
    groups: np.ndarray, group_key: str, shares: dict[str, float], rng: np.random.Generator
) -> np.ndarray:
    names, sizes = np.unique(groups, return_counts=True)
    wanted = [part for part, share in shares.items() if share > 0]
    if len(names) <= len(wanted):
        raise ValueError(
            f"`group_key` {group_key!r} has {len(names)} group(s), expected at least {len(wanted) + 1} to fill "
            f"train and {' and '.join(wanted)}; choose a finer column, set `validation_share` to 0, "
            "or leave `group_key` out to part by cell."
        )
    part_of_group = part_groups(dict(zip(names.tolist(), sizes.tolist(), strict=True)), shares, rng)
    return np.array(list(part_of_group.values()), dtype=object)[np.searchsorted(names, groups)]


def _check_arguments(
    obs: pd.DataFrame, label_key: str, group_key: str | None, test_share: float, validation_share: float
) -> None:
    for argument, key in (("label_key", label_key), ("group_key", group_key)):
        if key is not None and key not in obs:
            raise ValueError(f"`{argument}` is {key!r}, but `obs` has {list(obs.columns)}; pass one of these columns.")
    if group_key is not None and obs[group_key].isna().any():
        raise ValueError(
            f"`group_key` {group_key!r} is missing for {int(obs[group_key].isna().sum())} cells; fill it in, or leave "
            "these cells out."
        )
    if not obs.index.is_unique:
        repeated = obs.index[obs.index.duplicated()][0]
        raise ValueError(f"`obs` has repeated cell names, such as {repeated!r}; call `adata.obs_names_make_unique()`.")
    if not (0 < test_share < 1 and 0 <= validation_share < 1 and test_share + validation_share < 1):
        raise ValueError(
            f"`test_share` {test_share} and `validation_share` {validation_share} leave nothing to train or test on; "
            "pass shares whose sum is below 1, the first above 0."
        )
