"""Baselines and tasks on cells whose right answers are known by construction."""

import numpy as np
import pytest
from scipy import sparse

from scmmgpt.data import CaptionWriter, Ontology
from scmmgpt.evaluation import LabelledCells
from scmmgpt.evaluation.baselines import (
    class_mean,
    knn_pca,
    logistic_regression,
    lookup,
    majority,
    resampled_cells,
    shuffled_labels,
)
from scmmgpt.evaluation.goals import check_annotation, check_generation
from scmmgpt.evaluation.tasks import OURS, annotation, description, generation

TYPES = ("T cell", "B cell", "NK cell")
GENES = [f"GENE{number}" for number in range(60)]


def draw_cells(seed: int, sizes=(45, 30, 15)) -> LabelledCells:
    """Three types, each with ten marker genes raised eightfold, multinomial counts, libraries that differ."""
    rng = np.random.default_rng(seed)
    base = np.random.default_rng(7).gamma(1.0, size=60)
    counts, labels = [], []
    for number, (label, size) in enumerate(zip(TYPES, sizes, strict=True)):
        profile = base.copy()
        profile[10 * number : 10 * number + 10] *= 8
        for library in rng.integers(150, 400, size):
            counts.append(rng.multinomial(library, rng.dirichlet(20 * profile / profile.mean())))
            labels.append(label)
    order = rng.permutation(len(labels))
    return LabelledCells(np.array(counts)[order], np.array(labels)[order], GENES)


@pytest.fixture(scope="module")
def train():
    return draw_cells(1)


@pytest.fixture(scope="module")
def test_cells():
    return draw_cells(2, (24, 16, 8))


@pytest.fixture(scope="module")
def generation_rows(train, test_cells):
    generated = draw_cells(3, (24, 16, 8))
    return {row["row"]: row for row in generation.evaluate(train, test_cells, generated, seed=0)}


# Annotation


def test_majority_takes_the_commonest_type(train, test_cells):
    labels, confidence = majority.predict(train, test_cells.counts)
    assert set(labels) == {"T cell"}
    np.testing.assert_allclose(confidence, 0.5)


@pytest.mark.parametrize("baseline", [logistic_regression, knn_pca])
def test_classifiers_find_separable_types_and_repeat(baseline, train, test_cells):
    labels, confidence = baseline.predict(train, test_cells.counts, seed=0)
    assert (labels == test_cells.labels).mean() > 0.95
    assert confidence.min() >= 1 / 3
    assert confidence.max() <= 1
    np.testing.assert_array_equal(baseline.predict(train, test_cells.counts, seed=0)[1], confidence)


def test_logistic_regression_needs_two_types_and_takes_a_single_cell_of_one(train, test_cells):
    with pytest.raises(ValueError, match="at least two types"):
        logistic_regression.predict(train.select(train.labels == "T cell"), test_cells.counts)
    rare = np.flatnonzero(train.labels == "NK cell")[1:]
    labels, _ = logistic_regression.predict(train.select(np.delete(np.arange(90), rare)), test_cells.counts)
    assert set(labels) <= set(TYPES)


def test_annotation_rows(train, test_cells):
    said = list(test_cells.labels)
    said[0] = None
    rows = annotation.evaluate(train, test_cells, said, confidence=np.full(48, 1.0), seed=0)
    assert [row["row"] for row in rows] == [OURS, "logistic regression", "k-NN on 50 PCs", "majority class"]
    ours = rows[0]
    assert ours["accuracy"] == pytest.approx(47 / 48)
    assert ours["unnamed"] == pytest.approx(1 / 48)
    assert ours["expected_calibration_error"] == pytest.approx(1 / 48)
    assert ours["accuracy_low"] <= ours["accuracy"] <= ours["accuracy_high"]
    assert rows[-1]["balanced_accuracy"] == pytest.approx(1 / 3)
    assert len({frozenset(row) for row in rows}) == 1
    with pytest.raises(ValueError, match="keep an entry"):
        annotation.evaluate(train, test_cells, said[:-1])


# Generation


def test_resampled_cells_are_training_cells_of_the_asked_type(train, test_cells):
    cells = resampled_cells.generate(train, test_cells.labels, seed=0)
    np.testing.assert_array_equal(cells.labels, test_cells.labels)
    known = {(label, row.tobytes()) for label, row in zip(train.labels, train.counts.toarray(), strict=True)}
    drawn = [(label, row.tobytes()) for label, row in zip(cells.labels, cells.counts.toarray(), strict=True)]
    assert set(drawn) <= known
    assert len(set(drawn)) == len(drawn)  # enough cells of each type: none twice


def test_resampling_repeats_cells_only_where_a_type_has_too_few(train):
    cells = resampled_cells.generate(train, np.array(["NK cell"] * 40), seed=0)
    assert len(np.unique(cells.counts.toarray(), axis=0)) <= 15


def test_shuffled_labels_keep_cells_and_labels_but_not_their_pairs(train, test_cells):
    cells = shuffled_labels.generate(train, test_cells.labels, seed=0)
    same = resampled_cells.generate(train, test_cells.labels, seed=0)
    np.testing.assert_array_equal(cells.labels, same.labels)
    sorted_rows = [each.counts.toarray()[np.lexsort(each.counts.toarray().T)] for each in (cells, same)]
    np.testing.assert_array_equal(*sorted_rows)
    assert (cells.counts != same.counts).nnz > 0


def test_class_mean_by_hand():
    train = LabelledCells([[1, 0], [3, 0], [0, 5]], ["a", "a", "b"], ["G1", "G2"])
    cells = class_mean.generate(train, np.array(["b", "a", "a"]))
    np.testing.assert_array_equal(cells.counts.toarray(), [[0, 5], [2, 0], [2, 0]])


@pytest.mark.parametrize("baseline", [class_mean, resampled_cells, shuffled_labels])
def test_generation_of_an_unknown_type_is_refused(baseline, train):
    with pytest.raises(ValueError, match="no training cell has"):
        baseline.generate(train, np.array(["T cell", "platelet"]))


def test_generation_rows_read_as_the_docstrings_claim(generation_rows):
    rows = generation_rows
    assert list(rows) == [
        OURS,
        generation.HELD_OUT,
        generation.RESAMPLED,
        generation.CLASS_MEAN,
        generation.SHUFFLED,
    ]
    assert len({frozenset(row) for row in rows.values()}) == 1
    knn = "knn25_pca50_fit_on_train"
    # ours are new draws of the true distribution: everything near real
    ours = rows[OURS]
    assert ours[knn] > 0.95
    assert ours["variance_ratio"] == pytest.approx(1, abs=0.1)
    assert ours["mmd2_log1p_raw_ratio"] < 2
    assert abs(ours["mmd2_log1p_raw_unbiased"]) < 0.01
    assert ours["memorisation_ratio"] == pytest.approx(1, abs=0.1)
    # the mean profile wins k-NN and loses everything else
    mean = rows[generation.CLASS_MEAN]
    assert mean[knn] == 1
    assert mean["variance_ratio"] < 0.6
    assert mean["zero_fraction_difference"] < -10
    assert mean["mmd2_log1p_raw_ratio"] > 5
    # shuffled cells are realistic and mislabelled
    shuffled = rows[generation.SHUFFLED]
    assert shuffled[knn] < 0.6
    assert shuffled["mmd2_log1p_raw"] == pytest.approx(rows[generation.RESAMPLED]["mmd2_log1p_raw"], rel=1e-9)
    # copies are found out
    assert rows[generation.RESAMPLED]["memorisation_ratio"] == 0
    assert rows[generation.RESAMPLED]["mmd2_log1p_raw_ratio"] == pytest.approx(1)
    held_out = rows[generation.HELD_OUT]
    assert held_out[f"{knn}_ratio"] == 1
    assert held_out["variance_ratio"] == 1
    assert held_out["mmd2_log1p_raw"] is None


def test_generation_has_every_neighbour_number_in_both_spaces(generation_rows):
    for k in (3, 5, 10, 25):
        for space in ("log1p_raw", "pca50_fit_on_train"):
            name = f"knn{k}_{space}"
            for row in generation_rows.values():
                assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
                assert row[f"{name}_ratio"] == pytest.approx(row[name] / generation_rows[generation.HELD_OUT][name])


def test_generation_does_not_depend_on_the_order_of_the_generated_cells(train, test_cells):
    generated = draw_cells(3, (24, 16, 8))
    order = np.random.default_rng(0).permutation(48)
    one = generation.evaluate(train, test_cells, generated, ks=(5,))[0]
    two = generation.evaluate(train, test_cells, generated.select(order), ks=(5,))[0]
    for metric, value in one.items():
        if not metric.endswith(("_low", "_high")):
            assert two[metric] == pytest.approx(value), metric


def test_generation_refuses_another_composition_and_too_many_neighbours(train, test_cells):
    with pytest.raises(ValueError, match=r"'NK cell': '15 of 8'"):
        generation.evaluate(train, test_cells, train)
    with pytest.raises(ValueError, match="only 90 training cells"):
        generation.evaluate(train, test_cells, test_cells, ks=(91,))


# Description


@pytest.fixture(scope="module")
def writer():
    return CaptionWriter(Ontology())


def test_lookup_gives_each_label_its_sentence():
    assert lookup.describe(["a", "b", "a"], {"a": "An A.", "b": "A B."}) == ["An A.", "A B.", "An A."]
    with pytest.raises(ValueError, match=r"no sentence for \['c'\]"):
        lookup.describe(["c"], {"a": "An A."})


def test_description_rows(train, test_cells, writer):
    sentences = {label: f"A {label}. Genes: GENE{10 * number}." for number, label in enumerate(TYPES)}
    texts = [sentences[label] for label in test_cells.labels]
    texts[0] = ""
    rows = description.evaluate(train, test_cells, texts, sentences, writer, seed=0)
    assert [row["row"] for row in rows] == [OURS, description.LOOKED_UP, description.SHUFFLED]
    assert rows[0]["right_type"] == pytest.approx(47 / 48)
    assert rows[0]["no_type"] == pytest.approx(1 / 48)
    assert rows[0]["genes_named"] == pytest.approx(47 / 48)
    assert rows[1]["right_type"] > 0.95
    assert rows[2]["right_type"] < 0.6
    column = [10 * TYPES.index(label) for label in test_cells.labels]
    expressed = test_cells.counts.toarray()[np.arange(48), column] > 0
    assert rows[0]["grounding_precision"] == pytest.approx(expressed[1:].mean())
    assert rows[0]["grounding_precision"] > rows[2]["grounding_precision"]


def test_descriptions_that_claim_no_gene_have_no_grounding(train, test_cells, writer):
    sentences = {label: f"A {label}, negative for GENE1." for label in TYPES}
    row = description.evaluate(train, test_cells, ["A T cell."] * 48, sentences, writer)[0]
    assert row["grounding_precision"] is None
    with pytest.raises(ValueError, match="one text per cell"):
        description.evaluate(train, test_cells, ["A T cell."], sentences, writer)


def test_read_descriptions_tell_expressed_genes_from_others(writer):
    cells = LabelledCells(sparse.csr_matrix([[3, 0, 1], [3, 0, 1]]), ["CD19+ B", "NK"], ["LYZ", "NKG7", "CD3E"])
    texts = ["A CD19+ B cell, not an NK cell. Its genes are NKG7, LYZ and ACTB.", "A B cell. It lacks CD3E."]
    right, wrong = description.read_descriptions(cells, texts, writer, ["CD19+ B", "B cell", "NK"])
    assert right.right
    assert (right.expressed, right.not_expressed) == (["LYZ"], ["NKG7"])
    assert (wrong.named_label, wrong.right) == ("B cell", False)
    assert (wrong.expressed, wrong.not_expressed) == ([], [])


# Goals


def test_goals_are_reached_by_new_draws_and_missed_by_mean_profiles(generation_rows, train, test_cells):
    assert all(check.reached for check in check_generation(list(generation_rows.values())))
    mean = {**generation_rows[generation.CLASS_MEAN], "row": OURS}
    reached = [check.reached for check in check_generation([mean])]
    assert reached == [True, False, False, False]
    ours = generation_rows[OURS] | {"knn25_log1p_raw_ratio": None, "variance_ratio": None}
    checks = check_generation([ours])
    assert [check.measured.startswith("not measured") for check in checks] == [True, True, False, False]
    assert [check.reached for check in checks] == [False, False, True, True]


def test_annotation_goal_counts_points_below_logistic_regression():
    def check(ours):
        rows = [{"row": OURS, "accuracy": ours}, {"row": "logistic regression", "accuracy": 0.9}]
        return check_annotation(rows)[0]

    assert check(0.86).reached
    assert check(0.95).measured == "0.950, 5.0 points above"
    assert not check(0.84).reached
    with pytest.raises(ValueError, match="no row 'logistic regression'"):
        check_annotation([{"row": OURS, "accuracy": 0.5}])
