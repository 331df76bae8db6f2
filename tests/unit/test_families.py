"""Holm's correction on log10 p: agreement with statsmodels and a published example, laws, p below any float."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from tli.paper.families import holm

FAMILIES = st.lists(st.floats(-12, 0), min_size=1, max_size=30)


def test_a_published_example() -> None:
    """The documentation of pingouin (Vallat 2018), `holm`."""
    found = holm([math.log10(value) for value in (0.50, 0.003, 0.32, 0.054, 0.0003)])
    assert [10**value for value in found.adjusted] == pytest.approx([0.64, 0.012, 0.64, 0.162, 0.0015])
    assert found.rejected == (False, True, False, False, True)


@settings(max_examples=8)  # statsmodels collects garbage in each call, which takes long in a large process
@given(FAMILIES, st.floats(0.001, 0.2))
def test_agrees_with_statsmodels(logs: list[float], alpha: float) -> None:
    found = holm(logs, alpha)
    rejected, adjusted, _, _ = multipletests(np.power(10.0, logs), alpha, method="holm")
    assert [10**value for value in found.adjusted] == pytest.approx(adjusted.tolist(), rel=1e-9)
    if np.abs(adjusted - alpha).min() > 1e-9:
        assert found.rejected == tuple(rejected.tolist())


@given(FAMILIES, st.randoms())
def test_order_does_not_matter_and_no_p_gets_smaller(logs: list[float], mixer: random.Random) -> None:
    found = holm(logs)
    order = list(range(len(logs)))
    mixer.shuffle(order)
    mixed = holm([logs[index] for index in order])
    assert mixed.adjusted == tuple(found.adjusted[index] for index in order)
    assert all(value >= plain for value, plain in zip(found.adjusted, logs, strict=True))
    assert holm([logs[0]]).adjusted == (logs[0],)


def test_p_below_any_float_stays_what_it_is() -> None:
    assert holm([-5000.0, -400.0, -0.1]).adjusted == pytest.approx((-5000 + math.log10(3), -400 + math.log10(2), -0.1))


def test_a_test_without_p_counts_and_is_not_rejected() -> None:
    found = holm([-3.0, None, -1.0])
    assert found.size == 3
    assert found.adjusted == (pytest.approx(-3 + math.log10(3)), None, pytest.approx(-1 + math.log10(2)))
    assert found.rejected == (True, False, False)
    assert "1 of the family's 3 tests have no p" in found.note
    assert holm([]) == (0, (), (), "the family has no tests")
    assert holm([None]).rejected == (False,)
    for value in (0.1, math.nan, -math.inf):
        with pytest.raises(ValueError, match="log10 p"):
            holm([value])


def test_the_family_wise_error_stays_below_alpha() -> None:
    """Ten null tests, five of them one and the same: any false rejection in at most 5 % of families."""
    rng, runs = np.random.default_rng(0), 4000
    wrong = 0
    for _ in range(runs):
        p = rng.random(6)
        wrong += any(holm(np.log10([*p[:5], *[p[5]] * 5]).tolist()).rejected)
    assert wrong / runs < 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
