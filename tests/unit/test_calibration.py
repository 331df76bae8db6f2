"""Calibration: the published example, agreement with an independent computation, laws and degenerate cells."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tli.stats.calibration import Calibration, calibration

SEEDS = st.integers(0, 2**32 - 1)


def sample(seed: int, options: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(-40, 2, (n, options)), rng.integers(options, size=n)


def test_brier_s_own_example() -> None:
    """Brier (1950), table 1: ten forecasts of rain, or not, score 0.19."""
    rain = np.array([0.7, 0.9, 0.8, 0.4, 0.2, 0.0, 0.0, 0.0, 0.0, 0.1])
    came = np.array([0, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    floor = 1e-300
    scores = np.log(np.maximum(np.stack([1 - rain, rain], axis=1), floor))
    assert calibration(scores, came).brier == pytest.approx(0.19)


@given(SEEDS, st.integers(2, 4), st.integers(1, 20))
def test_agrees_with_a_table_of_bins(seed: int, options: int, bins: int) -> None:
    scores, labels = sample(seed, options)
    found = calibration(scores, labels, bins)
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    table = pd.DataFrame({"conf": p.max(axis=1), "hit": p.argmax(axis=1) == labels})
    binned = table.groupby(pd.cut(table.conf, np.linspace(0, 1, bins + 1)), observed=True)
    expected = sum(len(part) / len(table) * abs(part.hit.mean() - part.conf.mean()) for _, part in binned)
    assert found.ece == pytest.approx(expected, abs=1e-12)
    assert (found.confidence, found.accuracy) == (pytest.approx(table.conf.mean()), table.hit.mean())
    truth = np.zeros_like(p)
    truth[np.arange(len(p)), labels] = 1
    assert found.brier == pytest.approx(((p - truth) ** 2).sum() / len(p))


@given(SEEDS, st.floats(-100, 100))
def test_order_and_a_shift_of_all_options_change_nothing(seed: int, shift: float) -> None:
    scores, labels = sample(seed, 3)
    found = calibration(scores, labels)
    order = np.random.default_rng(seed).permutation(len(labels))
    assert calibration(scores[order], labels[order])[:5] == pytest.approx(found[:5], abs=1e-12)
    assert calibration(scores + shift, labels)[:5] == pytest.approx(found[:5], abs=1e-9)
    turned = calibration(scores[:, ::-1], 2 - labels)
    assert turned[:5] == pytest.approx(found[:5], abs=1e-12)
    assert 0 <= found.ece <= 1
    assert 0 <= found.brier <= 2


def test_truthful_probabilities_are_calibrated_and_overconfident_ones_are_not() -> None:
    rng, n = np.random.default_rng(0), 40_000
    p = rng.uniform(0.5, 1, n)
    labels = (rng.random(n) > p).astype(int)
    scores = np.log(np.stack([p, 1 - p], axis=1))
    found = calibration(scores, labels)
    # E|accuracy - conf| of a bin of m items is about sqrt(2 / pi) SD / sqrt(m)
    assert found.ece < 3 * math.sqrt(15 / n)
    assert found.brier == pytest.approx(2 * np.mean(p * (1 - p)), abs=0.005)
    assert calibration(3 * scores, labels).ece > 0.1


def test_certain_options_and_ties() -> None:
    assert calibration([[0.0, -800.0], [-800.0, 0.0]], [0, 1])[:5] == (2, 0.0, 0.0, 1.0, 1.0)
    wrong = calibration([[0.0, -800.0]], [1])
    assert (wrong.ece, wrong.brier) == (1.0, 2.0)
    tie = calibration([[-3.0, -3.0]], [0])
    assert (tie.accuracy, tie.confidence, tie.brier) == (1.0, 0.5, 0.5)


def test_degenerate_and_bad_input() -> None:
    assert calibration([], []) == Calibration(0, None, None, None, None, "no items")
    for scores, labels in (
        ([[0.0, 1.0]], [2]),
        ([[0.0, 1.0]], [-1]),
        ([[0.0, 1.0]], [0, 1]),
        ([0.0, 1.0], [0, 1]),
        ([[0.0, math.nan]], [0]),
    ):
        with pytest.raises(ValueError, match="expected"):
            calibration(scores, labels)
