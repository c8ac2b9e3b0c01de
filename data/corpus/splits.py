"""Which studies or donors are trained on, tuned on and tested on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..splits import assert_no_leakage, part_groups
from .layout import SPLITS
from .settings import BuildSettings
from .survey import GROUP

_DRAWS = 64  # of which the one that comes closest to the shares is taken


def split_descriptions(descriptions: pd.DataFrame, settings: BuildSettings) -> tuple[np.ndarray, dict[str, Any]]:
    """
    Gives every description, and so every cell, to a split; a study or donor is never parted.

    Args:
        descriptions (`pd.DataFrame`): columns of `obs`, `cells` (how many), `source` (name) and the value to split by.
        settings ([`BuildSettings`]): key, shares or explicit mapping, seed.

    Returns:
        `tuple[np.ndarray, dict]`: split of each description (words) and the record for the manifest.

    Raises:
        ValueError: too few studies and donors for the shares, or the mapping names a value that is not there.
        AssertionError: a study or donor came to be on two sides.
    """
    study = descriptions["study"].fillna(descriptions["dataset_id"]).fillna(descriptions["source"])
    donor = study + " / " + descriptions["donor_id"].fillna("unknown donor")
    shares = {"test": settings.test_share, "validation": settings.validation_share}
    shares = {split: share for split, share in shares.items() if share}
    if settings.split_key is not None:
        key, group = settings.split_key, descriptions[GROUP].fillna(descriptions["source"])
    elif study.nunique() > len(shares) or donor.nunique() <= len(shares):
        key, group = "study", study
    else:
        key, group = "donor_id", donor
    sizes = descriptions["cells"].groupby(group).sum().sort_index()
    chosen = _given(sizes, settings) if settings.split_of is not None else _drawn(sizes, shares, key, settings)
    split = group.map(chosen)
    rows = {name: np.flatnonzero(split == name) for name in SPLITS}
    assert_no_leakage(descriptions.assign(group=group), rows, "group")
    sides = split.groupby(donor).nunique()
    record = {
        "key": key,
        "shares": None if settings.split_of is not None else shares,
        # Only a key of the user's own can part a donor.
        "donors_on_several_sides": sides.index[sides > 1].tolist(),
        "groups": {
            name: {str(value): int(sizes[value]) for value in sizes.index if chosen[value] == name} for name in SPLITS
        },
    }
    return split.to_numpy(dtype=object), record


def _given(sizes: pd.Series, settings: BuildSettings) -> dict[str, str]:
    mapping: Mapping[str, str] = settings.split_of or {}
    unknown = sorted(set(mapping) - set(sizes.index))
    if unknown:
        raise ValueError(
            f"`split_of` names {unknown[:5]}, which no cell has in {settings.split_key!r}. The values are: "
            f"{', '.join(map(repr, sizes.index[:20]))}."
        )
    return {value: mapping.get(value, "train") for value in sizes.index}


def _drawn(sizes: pd.Series, shares: Mapping[str, float], key: str, settings: BuildSettings) -> dict[str, str]:
    if len(sizes) <= len(shares):
        raise ValueError(
            f"`split_key`: the cells have {len(sizes)} value(s) of {key!r} ({', '.join(map(repr, sizes.index))}); "
            f"expected at least {len(shares) + 1} to fill train and {' and '.join(shares)}. Name a finer column as "
            "`split_key`, or set `validation_share` and `test_share` to 0 to train on all cells."
        )
    rng = np.random.default_rng(settings.seed)
    draws = [part_groups(sizes.to_dict(), shares, rng) for _ in range(_DRAWS if shares else 1)]

    def distance(chosen: Mapping[str, str]) -> float:
        found = sizes.groupby(chosen).sum() / sizes.sum()
        return sum(abs(found.get(split, 0.0) - share) for split, share in shares.items())

    return min(draws, key=distance)
