"""Laws of the alignment measures, and agreement with independent computations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist, cosine
from sklearn.metrics import label_ranking_average_precision_score

from tli.measure import similarity

matrices = st.integers(2, 12).flatmap(
    lambda n: arrays(np.float64, (n, 4), elements=st.floats(-10, 10).map(lambda x: round(x, 3)))
)


@given(matrices, st.floats(0.01, 100))
def test_cosine_is_bounded_symmetric_and_blind_to_scale(x: np.ndarray, scale: float) -> None:
    y = x[::-1]
    value = similarity.cosine(x, y)
    assert ((value >= -1) & (value <= 1)).all()
    np.testing.assert_allclose(value, similarity.cosine(y, x))
    np.testing.assert_allclose(value, similarity.cosine(scale * x, y), atol=1e-12)


def test_cosine_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 20, 8))
    expected = [1 - cosine(a, b) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(similarity.cosine(x, y), expected)
    np.testing.assert_allclose(similarity.similarities(x, y), 1 - cdist(x, y, "cosine"))


def test_a_zero_row_has_cosine_zero() -> None:
    assert similarity.cosine(np.zeros((1, 3)), np.ones((1, 3))).tolist() == [0.0]


@given(st.integers(2, 50), st.integers(0, 1000))
def test_a_derangement_is_a_permutation_without_a_fixed_point(n: int, seed: int) -> None:
    pairing = similarity.derangement(n, seed)
    assert sorted(pairing) == list(range(n))
    assert (pairing != np.arange(n)).all()
    assert (pairing == similarity.derangement(n, seed)).all()


def test_one_pair_has_no_derangement() -> None:
    with pytest.raises(ValueError, match="2 pairs or more"):
        similarity.derangement(1, 0)


def test_identical_spaces_are_retrieved_perfectly() -> None:
    x = np.random.default_rng(1).normal(size=(30, 8))
    for table in (similarity.similarities(x, x), similarity.csls(similarity.similarities(x, x))):
        ranked = similarity.ranks(table, np.arange(30))
        assert similarity.precision_at(ranked, 1) == 1.0
        assert similarity.reciprocal_rank(ranked) == 1.0


def test_ties_count_against_the_translation() -> None:
    x = np.ones((5, 3))
    ranked = similarity.ranks(similarity.similarities(x, x), np.arange(5))
    assert ranked.tolist() == [5] * 5
    assert similarity.precision_at(ranked, 1) == 0.0


@given(st.integers(1, 8).flatmap(lambda n: arrays(np.int64, n, elements=st.integers(1, 20))))
def test_precision_grows_with_k_and_bounds_reciprocal_rank(rank: np.ndarray) -> None:
    at = [similarity.precision_at(rank, k) for k in (1, 5, 20)]
    assert at == sorted(at)
    assert at[-1] == 1.0
    assert at[0] <= similarity.reciprocal_rank(rank) <= 1.0


def test_reciprocal_rank_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 25, 6))
    cosines = similarity.similarities(x, y)
    ours = similarity.reciprocal_rank(similarity.ranks(cosines, np.arange(25)))
    assert ours == pytest.approx(label_ranking_average_precision_score(np.eye(25), cosines))


def test_csls_on_a_worked_example() -> None:
    cosines = np.array([[0.9, 0.1], [0.8, 0.2]])
    expected = [[2 * 0.9 - 0.9 - 0.9, 2 * 0.1 - 0.9 - 0.2], [2 * 0.8 - 0.8 - 0.9, 2 * 0.2 - 0.8 - 0.2]]
    np.testing.assert_allclose(similarity.csls(cosines, k=1), expected)


def test_csls_demotes_a_hub() -> None:
    """A target close to everything wins by cosine and loses by CSLS."""
    cosines = np.array([[0.70, 0.71, 0.0], [0.1, 0.9, 0.0], [0.0, 0.9, 0.85]])
    assert cosines[0].argmax() == 1
    assert similarity.csls(cosines, k=2)[0].argmax() == 0


def test_csls_sorts_no_more_than_it_sums() -> None:
    """The k largest found by partition: the very bits of a full sort, also where the pool is smaller than k."""
    for n, m in ((40, 30), (7, 5), (2, 12)):
        cosines = np.random.default_rng(n).normal(size=(n, m))
        nearest_y = np.sort(cosines, axis=1)[:, -10:].mean(axis=1)
        nearest_x = np.sort(cosines, axis=0)[-10:, :].mean(axis=0)
        assert (similarity.csls(cosines) == 2 * cosines - nearest_y[:, None] - nearest_x[None, :]).all()


def test_centring_is_blind_to_what_all_rows_share_and_standardising_to_units() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 40, 6))
    shift, units = 300 * np.eye(6)[2], np.array([1, 5, 0.1, 2, 40, 1])
    assert similarity.cosine(x + shift, y + shift).min() > 0.99
    moved = similarity.cosine(similarity.centred(x + shift), similarity.centred(y - shift))
    np.testing.assert_allclose(moved, similarity.cosine(similarity.centred(x), similarity.centred(y)), atol=1e-9)
    scaled = similarity.standardised(units * x + shift)
    np.testing.assert_allclose(scaled, similarity.standardised(x), atol=1e-9)
    np.testing.assert_allclose(scaled.std(axis=0), 1.0)


def test_a_constant_dimension_and_one_row_alone_give_zeros() -> None:
    x = np.array([[1.0, 7.0], [3.0, 7.0]])
    np.testing.assert_array_equal(similarity.standardised(x), [[-1.0, 0.0], [1.0, 0.0]])
    assert similarity.cka(np.ones((4, 3)), np.eye(4)) == 0.0
    assert similarity.participation_ratio(np.ones((4, 3))) == 0.0


@given(matrices, st.floats(0.01, 100), st.integers(0, 99))
def test_cka_is_bounded_symmetric_and_blind_to_rotation_scale_and_shift(x: np.ndarray, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(len(x), 3))
    value = similarity.cka(x, y)
    assert -1e-12 <= value <= 1 + 1e-9
    assert similarity.cka(y, x) == pytest.approx(value, abs=1e-9)
    turned = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    assert similarity.cka(scale * x @ turned + 5, y) == pytest.approx(value, abs=1e-6)
    assert similarity.cka(y, 2 * y + 1) == pytest.approx(1.0)


def test_cka_is_the_alignment_of_centred_kernels() -> None:
    """By its other definition: HSIC of the n x n Gram matrices (1905.00414, equations 2 and 3)."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(15, 5)), rng.normal(size=(15, 3))
    centre = np.eye(15) - 1 / 15
    a, b = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    assert similarity.cka(x, y) == pytest.approx(np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b)))


def test_participation_ratio_counts_directions() -> None:
    line = np.outer(np.linspace(-1, 1, 9), [1.0, 2.0, 3.0]) + 8
    assert similarity.participation_ratio(line) == pytest.approx(1.0)
    cross = np.vstack([np.eye(5), -np.eye(5)])
    assert similarity.participation_ratio(cross) == pytest.approx(5.0)
    x = np.random.default_rng(5).normal(size=(30, 6)) * np.arange(1, 7)
    spectrum = np.linalg.eigvalsh(np.cov(x.T))
    assert similarity.participation_ratio(x) == pytest.approx(spectrum.sum() ** 2 / (spectrum**2).sum())
