"""Splits: their sizes, what they keep apart, and their record."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmmgpt.data.splits import SplitManifest, assert_no_leakage, split_cells


def make_obs(num_cells=200, num_groups=10, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "cell_type": rng.choice(["B", "T", "NK"], num_cells, p=[0.6, 0.3, 0.1]),
            "donor_id": [f"d{i}" for i in rng.integers(num_groups, size=num_cells)],
        },
        index=[f"cell{i}" for i in range(num_cells)],
    )


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.sampled_from("ABCDEFG"), min_size=1, max_size=80),
    test_share=st.floats(0.05, 0.5),
    validation_share=st.floats(0.0, 0.4),
    seed=st.integers(0, 100),
)
def test_by_label_every_cell_is_in_one_part_and_every_label_is_trained_on(labels, test_share, validation_share, seed):
    obs = pd.DataFrame({"label": labels}, index=[f"c{i}" for i in range(len(labels))])
    parts = split_cells(obs, "label", None, test_share, validation_share, seed)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(labels)))
    for label, count in obs["label"].value_counts().items():
        of_label = {part: int((obs["label"].iloc[rows] == label).sum()) for part, rows in parts.items()}
        assert of_label["train"] >= 1
        assert of_label["test"] == (0 if count == 1 else min(count - 1, max(1, round(test_share * count))))
        assert abs(of_label["validation"] - validation_share * count) <= 0.5 or of_label["train"] == 1


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.integers(0, 8), min_size=3, max_size=80).filter(lambda g: len(set(g)) >= 3),
    test_share=st.floats(0.05, 0.5),
    seed=st.integers(0, 100),
)
def test_by_group_no_group_is_on_two_sides(groups, test_share, seed):
    obs = pd.DataFrame({"label": "x", "donor": groups}, index=[f"c{i}" for i in range(len(groups))])
    parts = split_cells(obs, "label", "donor", test_share, 0.2, seed)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(groups)))
    owned = {part: set(obs["donor"].iloc[rows]) for part, rows in parts.items()}
    assert all(owned.values())
    assert sum(map(len, owned.values())) == len(set(groups))


def test_by_group_comes_near_the_shares():
    obs = make_obs(2000, 50)
    parts = split_cells(obs, "cell_type", "donor_id", 0.2, 0.1)
    assert abs(len(parts["test"]) / 2000 - 0.2) < 0.02
    assert abs(len(parts["validation"]) / 2000 - 0.1) < 0.02


def test_the_seed_decides():
    obs = make_obs()
    first, same, other = (split_cells(obs, "cell_type", seed=seed) for seed in (1, 1, 2))
    assert all((first[part] == same[part]).all() for part in first)
    assert set(first["test"]) != set(other["test"])


def test_leakage_is_found():
    obs = make_obs(6, 3)
    obs["donor_id"] = ["a", "a", "b", "b", "c", "c"]
    clean = {"train": np.array([0, 1]), "test": np.array([2, 3])}
    assert_no_leakage(obs, clean, "donor_id")
    with pytest.raises(AssertionError, match="cell 'cell1' is in both 'train' and 'test'"):
        assert_no_leakage(obs, {"train": np.array([0, 1]), "test": np.array([1, 2])})
    with pytest.raises(AssertionError, match="group 'b' is in both 'train' and 'test'"):
        assert_no_leakage(obs, {"train": np.array([0, 2]), "test": np.array([3])}, "donor_id")


def test_manifest_tells_what_was_parted():
    obs = make_obs()
    for group_key, unit in ((None, "cell"), ("donor_id", "group")):
        parts = split_cells(obs, "cell_type", group_key, seed=3)
        manifest = SplitManifest.from_split(obs, parts, "cell_type", group_key, seed=3)
        assert (manifest.unit, manifest.seed, manifest.group_key) == (unit, 3, group_key)
        assert manifest.cells["test"] == [f"cell{i}" for i in parts["test"]]
        assert SplitManifest.from_json(manifest.to_json()) == manifest
        assert manifest.to_json() == SplitManifest.from_split(obs, parts, "cell_type", group_key, 3).to_json()


def test_a_changed_manifest_is_refused():
    obs = make_obs()
    record = json.loads(SplitManifest.from_split(obs, split_cells(obs, "cell_type"), "cell_type").to_json())
    record["cells"]["train"].append(record["cells"]["test"].pop())
    with pytest.raises(ValueError, match="changed"):
        SplitManifest.from_json(json.dumps(record))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_key": "type"}, "`label_key` is 'type'"),
        ({"group_key": "study"}, "`group_key` is 'study'"),
        ({"test_share": 0.0}, "`test_share` 0.0"),
        ({"test_share": 0.7, "validation_share": 0.3}, "leave nothing to train"),
        ({"validation_share": -0.1}, "`validation_share` -0.1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        split_cells(**{"obs": make_obs(), "label_key": "cell_type", **arguments})


def test_bad_tables():
    obs = make_obs(20, 2)
    with pytest.raises(ValueError, match=r"has 2 group\(s\), expected at least 3"):
        split_cells(obs, "cell_type", "donor_id")
    assert len(split_cells(obs, "cell_type", "donor_id", validation_share=0)["train"])
    obs.loc["cell3", "donor_id"] = None
    with pytest.raises(ValueError, match="missing for 1 cells"):
        split_cells(obs, "cell_type", "donor_id")
    obs.index = ["cell0", *obs.index[:-1]]
    with pytest.raises(ValueError, match=r"repeated cell names, such as 'cell0'"):
        split_cells(obs, "cell_type")
