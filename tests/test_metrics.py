"""Metrics against hand-worked values, scikit-learn, scipy and closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse, stats
from scipy.spatial.distance import pdist
from sklearn import metrics
from sklearn.neighbors import KNeighborsClassifier

from scmmgpt.evaluation import LabelledCells
from scmmgpt.evaluation.cells import check_same_genes
from scmmgpt.evaluation.metrics import classification, distribution, moments, neighbours, spaces, text
from scmmgpt.evaluation.metrics.bootstrap import bootstrap_interval

LABELS = np.array(["T", "T", "T", "B", "B", "NK"])
PREDICTED = np.array(["T", "T", "B", "B", "cell", "T"])


def counts_of(rng, num_cells=30, num_genes=12):
    return sparse.csr_matrix(rng.poisson(0.8, size=(num_cells, num_genes)).astype(float))


# Cells


def test_cells_keep_counts_sparse_and_select_rows():
    cells = LabelledCells(np.array([[0, 2], [1, 0], [3, 1]]), ["a", "b", "a"], ["G1", "G2"])
    assert sparse.isspmatrix_csr(cells.counts)
    assert len(cells) == 3
    part = cells.select(cells.labels == "a")
    np.testing.assert_array_equal(part.counts.toarray(), [[0, 2], [3, 1]])
    assert part.labels.tolist() == ["a", "a"]


@pytest.mark.parametrize(
    ("counts", "labels", "genes", "message"),
    [
        ([[1, 2]], ["a", "b"], ["G1", "G2"], "one label per cell"),
        ([[1, 2]], ["a"], ["G1"], "one name per column"),
        ([[-1, 2]], ["a"], ["G1", "G2"], "raw counts"),
        ([[np.nan, 2]], ["a"], ["G1", "G2"], "raw counts"),
    ],
)
def test_bad_cells_are_refused(counts, labels, genes, message):
    with pytest.raises(ValueError, match=message):
        LabelledCells(np.array(counts, dtype=float), labels, genes)


def test_genes_in_another_order_are_refused():
    one = LabelledCells(np.ones((1, 2)), ["a"], ["G1", "G2"])
    two = LabelledCells(np.ones((1, 2)), ["a"], ["G2", "G1"])
    with pytest.raises(ValueError, match="generated has 2 genes and train has 2, 2 shared"):
        check_same_genes(train=one, generated=two)


# Annotation


def test_classification_metrics_by_hand():
    assert classification.accuracy(LABELS, PREDICTED) == pytest.approx(3 / 6)
    # recall: T 2/3, B 1/2, NK 0
    assert classification.balanced_accuracy(LABELS, PREDICTED) == pytest.approx((2 / 3 + 1 / 2) / 3)
    # F1: T precision 2/3 recall 2/3, B precision 1/2 recall 1/2, NK 0; "cell" is no true type and adds no term
    assert classification.macro_f1(LABELS, PREDICTED) == pytest.approx((2 / 3 + 1 / 2) / 3)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcde")), min_size=1, max_size=40))
def test_classification_metrics_agree_with_sklearn(pairs):
    labels, predicted = (np.array(each) for each in zip(*pairs, strict=True))
    types = np.unique(labels)
    assert classification.balanced_accuracy(labels, predicted) == pytest.approx(
        metrics.recall_score(labels, predicted, labels=types, average="macro")
    )
    assert classification.macro_f1(labels, predicted) == pytest.approx(
        metrics.f1_score(labels, predicted, labels=types, average="macro", zero_division=0)
    )


def test_calibration_error_by_hand():
    # two bins: (0, 0.5] holds 0.2 wrong, 0.4 right; (0.5, 1] holds 0.9 right, 0.9 wrong
    correct, confidence = np.array([0, 1, 1, 0]), np.array([0.2, 0.4, 0.9, 0.9])
    expected = 0.5 * abs(0.5 - 0.3) + 0.5 * abs(0.5 - 0.9)
    assert classification.expected_calibration_error(correct, confidence, num_bins=2) == pytest.approx(expected)


def test_calibration_error_takes_the_ends_of_the_range_and_refuses_logits():
    assert classification.expected_calibration_error(np.array([0, 1]), np.array([0.0, 1.0])) == 0
    with pytest.raises(ValueError, match="pass probabilities, not logits"):
        classification.expected_calibration_error(np.array([1]), np.array([3.2]))


def test_bootstrap_agrees_with_scipy_and_repeats():
    correct = np.random.default_rng(3).random(200) < 0.7
    low, high = bootstrap_interval(np.mean, correct, num_draws=4000, seed=1)
    reference = stats.bootstrap((correct,), np.mean, method="percentile", n_resamples=4000, rng=1).confidence_interval
    assert (low, high) == pytest.approx(tuple(reference), abs=0.01)
    assert bootstrap_interval(np.mean, correct, seed=5) == bootstrap_interval(np.mean, correct, seed=5)
    assert bootstrap_interval(np.mean, correct, seed=5) != bootstrap_interval(np.mean, correct, seed=6)


def test_bootstrap_over_groups_is_wider_when_groups_differ():
    correct = np.repeat([0.0, 1.0, 1.0, 1.0], 50)
    donors = np.repeat(["a", "b", "c", "d"], 50)
    low, high = bootstrap_interval(np.mean, correct, seed=0)
    group_low, group_high = bootstrap_interval(np.mean, correct, groups=donors, seed=0)
    assert group_low < low < high < group_high
    # four equal donors: the mean of any draw is a multiple of a quarter
    assert (group_low * 4) % 1 == 0
    # one donor says nothing of another
    assert np.isnan(bootstrap_interval(np.mean, correct, groups=np.full(200, "a"))).all()


def test_bootstrap_refuses_unequal_lengths_and_survives_nan():
    with pytest.raises(ValueError, match="equal, non-zero lengths"):
        bootstrap_interval(np.mean, np.ones(3), groups=np.ones(2))
    assert np.isnan(bootstrap_interval(lambda x: float("nan"), np.ones(3), num_draws=5)).all()


# Spaces


def test_log1p_cp10k_by_hand():
    scaled = spaces.log1p_cp10k(np.array([[1, 3, 0], [0, 0, 0]]), target=100).toarray()
    np.testing.assert_allclose(scaled, [[np.log(26), np.log(76), 0], [0, 0, 0]])


def test_log1p_cp10k_agrees_with_scanpy(rng):
    import anndata
    import scanpy

    counts = counts_of(rng)
    adata = anndata.AnnData(counts.copy())
    scanpy.pp.normalize_total(adata, target_sum=1e4)
    scanpy.pp.log1p(adata)
    np.testing.assert_allclose(spaces.log1p_cp10k(counts).toarray(), adata.X.toarray(), rtol=1e-6)


def test_pca_of_a_sparse_matrix_spans_what_the_dense_decomposition_spans(rng):
    cells = spaces.log1p_cp10k(counts_of(rng, 40, 15))
    pca = spaces.fit_pca50(cells)
    assert pca.n_components_ == 14  # min(50, 39, 14)
    dense = cells.toarray() - cells.toarray().mean(axis=0)
    singular = np.linalg.svd(dense, compute_uv=False)[:14]
    np.testing.assert_allclose(pca.singular_values_, singular, rtol=1e-8)
    np.testing.assert_allclose(pdist(pca.transform(cells)), pdist(dense), rtol=0.2)


def test_pca_needs_two_cells_and_two_genes():
    with pytest.raises(ValueError, match="2 cells and 2 genes"):
        spaces.fit_pca50(sparse.csr_matrix(np.ones((1, 5))))


# Generation


def test_mmd_by_hand():
    real, generated = np.array([[0.0], [1.0]]), np.array([[0.0], [2.0]])
    k = lambda d: np.exp(-(d**2) / 2)  # noqa: E731 - a formula
    cross = (k(0) + k(2) + k(1) + k(1)) / 4
    biased = (2 + 2 * k(1)) / 4 + (2 + 2 * k(2)) / 4 - 2 * cross
    assert distribution.mmd2(real, generated, bandwidth=1.0) == pytest.approx(biased)
    unbiased = k(1) + k(2) - 2 * cross
    assert distribution.mmd2(real, generated, bandwidth=1.0, biased=False) == pytest.approx(unbiased)
    assert distribution.mmd2(real, real, bandwidth=1.0) == pytest.approx(0, abs=1e-12)


def test_mmd_of_gaussians_meets_its_closed_form(rng):
    # E k(x, y) for x ~ N(0, 1), y ~ N(mu, 1), width s: s / sqrt(s^2 + 2) exp(-mu^2 / (2 (s^2 + 2)))
    mu, s, n = 1.0, 1.5, 1500
    expectation = lambda shift: s / np.sqrt(s**2 + 2) * np.exp(-(shift**2) / (2 * (s**2 + 2)))  # noqa: E731
    x, y = rng.normal(size=(n, 1)), rng.normal(mu, size=(n, 1))
    exact = 2 * expectation(0) - 2 * expectation(mu)
    assert distribution.mmd2(x, y, s, biased=False) == pytest.approx(exact, rel=0.1)


def test_mmd_sparse_equals_dense_and_refuses_one_cell(rng):
    x, y = counts_of(rng), counts_of(rng)
    assert distribution.mmd2(x, y, 2.0) == pytest.approx(distribution.mmd2(x.toarray(), y.toarray(), 2.0))
    with pytest.raises(ValueError, match="needs 2 cells"):
        distribution.mmd2(x[:1], y, 2.0, biased=False)


def test_median_bandwidth_agrees_with_scipy(rng):
    cells = rng.normal(size=(25, 4))
    assert distribution.median_bandwidth(cells) == pytest.approx(np.median(pdist(cells)))
    with pytest.raises(ValueError, match="at least 2 cells that differ"):
        distribution.median_bandwidth(np.ones((4, 2)))


@pytest.mark.parametrize("num_generated", [30, 17])
def test_wasserstein_agrees_with_scipy(rng, num_generated):
    real, generated = counts_of(rng, 30, 700), counts_of(rng, num_generated, 700)
    reference = [
        stats.wasserstein_distance(real[:, [gene]].toarray().ravel(), generated[:, [gene]].toarray().ravel())
        for gene in range(700)
    ]
    np.testing.assert_allclose(distribution.wasserstein1_per_gene(real, generated), reference, atol=1e-12)


def test_moments_agree_with_numpy(rng):
    real, generated = counts_of(rng), counts_of(rng, 20)
    mean, variance = moments.gene_moments(real)
    np.testing.assert_allclose(mean, real.toarray().mean(axis=0))
    np.testing.assert_allclose(variance, real.toarray().var(axis=0))
    ratio = generated.toarray().var(axis=0).sum() / real.toarray().var(axis=0).sum()
    assert moments.variance_ratio(real, generated) == pytest.approx(ratio)
    means, variances = moments.moment_correlations(real, generated)
    assert means == pytest.approx(stats.pearsonr(mean, generated.toarray().mean(axis=0)).statistic)
    assert variances == pytest.approx(stats.pearsonr(variance, generated.toarray().var(axis=0)).statistic)
    assert moments.zero_fraction(real) == pytest.approx((real.toarray() == 0).mean())


def test_stored_zeros_count_as_zeros_and_constant_genes_have_no_correlation():
    stored = sparse.csr_matrix((np.array([0.0, 1.0]), np.array([0, 1]), np.array([0, 2])), shape=(1, 2))
    assert moments.zero_fraction(stored) == 0.5
    flat = sparse.csr_matrix(np.ones((3, 2)))
    assert np.isnan(moments.moment_correlations(flat, flat)).all()


def test_knn_agrees_with_sklearn_and_refuses_too_many_neighbours(rng):
    train, cells = rng.normal(size=(40, 3)), rng.normal(size=(15, 3))
    train_labels, labels = rng.choice(["a", "b"], 40), rng.choice(["a", "b"], 15)
    reference = KNeighborsClassifier(5).fit(train, train_labels).score(cells, labels)
    assert neighbours.knn_correct(train, train_labels, cells, labels, k=5).mean() == pytest.approx(reference)
    with pytest.raises(ValueError, match="only 40 training cells"):
        neighbours.knn_correct(train, train_labels, cells, labels, k=41)


def test_memorisation_ratio_by_hand():
    train = np.array([[0.0], [10.0]])
    heldout, generated = np.array([[2.0], [12.0], [6.0]]), np.array([[1.0], [11.0], [0.0]])
    assert neighbours.memorisation_ratio(train, heldout, generated) == pytest.approx(1 / 2)
    assert neighbours.memorisation_ratio(train, heldout, train) == 0


# Text


def test_right_type_counts_silence_as_wrong():
    np.testing.assert_array_equal(text.right_type(np.array(["a", "b", "a"]), ["a", None, "b"]), [True, False, False])


def test_grounding_by_hand():
    counts = sparse.csr_matrix(np.array([[0.0, 5.0, 1.0], [2.0, 0.0, 0.0]]))
    split = text.split_by_expression([["G2", "G1", "unmeasured"], ["G1"]], counts, ["G1", "G2", "G3"])
    assert split == [(["G2"], ["G1", "unmeasured"]), (["G1"], [])]
    assert text.grounding_precision(np.array([3, 1]), np.array([1, 1])) == pytest.approx(2 / 4)
    assert np.isnan(text.grounding_precision(np.array([0]), np.array([0])))
