"""Laws of the alignment measures, and agreement with independent computations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist, cosine
from sklearn.metrics import label_ranking_average_precision_score

from tli.study import metrics

matrices = st.integers(2, 12).flatmap(
    lambda n: arrays(np.float64, (n, 4), elements=st.floats(-10, 10).map(lambda x: round(x, 3)))
)


@given(matrices, st.floats(0.01, 100))
def test_cosine_is_bounded_symmetric_and_blind_to_scale(x: np.ndarray, scale: float) -> None:
    y = x[::-1]
    value = metrics.cosine(x, y)
    assert ((value >= -1) & (value <= 1)).all()
    np.testing.assert_allclose(value, metrics.cosine(y, x))
    np.testing.assert_allclose(value, metrics.cosine(scale * x, y), atol=1e-12)


def test_cosine_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 20, 8))
    expected = [1 - cosine(a, b) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(metrics.cosine(x, y), expected)
    np.testing.assert_allclose(metrics.similarities(x, y), 1 - cdist(x, y, "cosine"))


def test_a_zero_row_has_cosine_zero() -> None:
    assert metrics.cosine(np.zeros((1, 3)), np.ones((1, 3))).tolist() == [0.0]


@given(st.integers(2, 50), st.integers(0, 1000))
def test_a_derangement_is_a_permutation_without_a_fixed_point(n: int, seed: int) -> None:
    pairing = metrics.derangement(n, seed)
    assert sorted(pairing) == list(range(n))
    assert (pairing != np.arange(n)).all()
    assert (pairing == metrics.derangement(n, seed)).all()


def test_one_pair_has_no_derangement() -> None:
    with pytest.raises(ValueError, match="2 pairs or more"):
        metrics.derangement(1, 0)


def test_identical_spaces_are_retrieved_perfectly() -> None:
    x = np.random.default_rng(1).normal(size=(30, 8))
    for table in (metrics.similarities(x, x), metrics.csls(metrics.similarities(x, x))):
        ranked = metrics.ranks(table, np.arange(30))
        assert metrics.precision_at(ranked, 1) == 1.0
        assert metrics.reciprocal_rank(ranked) == 1.0


def test_ties_count_against_the_translation() -> None:
    x = np.ones((5, 3))
    ranked = metrics.ranks(metrics.similarities(x, x), np.arange(5))
    assert ranked.tolist() == [5] * 5
    assert metrics.precision_at(ranked, 1) == 0.0


@given(st.integers(1, 8).flatmap(lambda n: arrays(np.int64, n, elements=st.integers(1, 20))))
def test_precision_grows_with_k_and_bounds_reciprocal_rank(rank: np.ndarray) -> None:
    at = [metrics.precision_at(rank, k) for k in (1, 5, 20)]
    assert at == sorted(at)
    assert at[-1] == 1.0
    assert at[0] <= metrics.reciprocal_rank(rank) <= 1.0


def test_reciprocal_rank_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 25, 6))
    similarity = metrics.similarities(x, y)
    ours = metrics.reciprocal_rank(metrics.ranks(similarity, np.arange(25)))
    assert ours == pytest.approx(label_ranking_average_precision_score(np.eye(25), similarity))


def test_csls_on_a_worked_example() -> None:
    similarity = np.array([[0.9, 0.1], [0.8, 0.2]])
    expected = [[2 * 0.9 - 0.9 - 0.9, 2 * 0.1 - 0.9 - 0.2], [2 * 0.8 - 0.8 - 0.9, 2 * 0.2 - 0.8 - 0.2]]
    np.testing.assert_allclose(metrics.csls(similarity, k=1), expected)


def test_csls_demotes_a_hub() -> None:
    """A target close to everything wins by cosine and loses by CSLS."""
    similarity = np.array([[0.70, 0.71, 0.0], [0.1, 0.9, 0.0], [0.0, 0.9, 0.85]])
    assert similarity[0].argmax() == 1
    assert metrics.csls(similarity, k=2)[0].argmax() == 0
