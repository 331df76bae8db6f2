"""Holm's correction: a published example, its definition, laws, tests without a p, the family-wise error."""

from __future__ import annotations

import gc
import math
import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tli.stats.holm import holm

FAMILIES = st.lists(st.floats(-12, 0).map(lambda log10: 10**log10), min_size=1, max_size=30)


def test_a_published_example() -> None:
    """The documentation of pingouin (Vallat 2018), `holm`."""
    found = holm([0.50, 0.003, 0.32, 0.054, 0.0003])
    assert found.adjusted == pytest.approx([0.64, 0.012, 0.64, 0.162, 0.0015])
    assert found.rejected == (False, True, False, False, True)


@pytest.fixture(autouse=True)
def _few_objects_to_collect() -> Iterator[None]:
    """statsmodels collects garbage in each call of multipletests, which takes long in a large process."""
    gc.freeze()
    yield
    gc.unfreeze()


@given(FAMILIES, st.floats(0.001, 0.2))
def test_the_adjusted_p_follow_their_definition(p: list[float], alpha: float) -> None:
    found, ordered = holm(p, alpha), sorted(p)
    for value, adjusted, rejected in zip(p, found.adjusted, found.rejected, strict=True):
        last = max(place for place, other in enumerate(ordered) if other == value)
        assert adjusted == pytest.approx(min(1.0, max((len(p) - j) * ordered[j] for j in range(last + 1))))
        assert rejected == (adjusted < alpha)


@given(FAMILIES, st.randoms())
def test_order_does_not_matter_and_no_p_gets_smaller(p: list[float], mixer: random.Random) -> None:
    found = holm(p)
    order = list(range(len(p)))
    mixer.shuffle(order)
    mixed = holm([p[index] for index in order])
    assert mixed.adjusted == tuple(found.adjusted[index] for index in order)
    assert all(value >= plain for value, plain in zip(found.adjusted, p, strict=True))
    assert holm([p[0]]).adjusted == (p[0],)


def test_a_test_without_p_counts_and_is_not_rejected() -> None:
    found = holm([0.001, None, 0.1])
    assert found.size == 3
    assert found.adjusted == (pytest.approx(0.003), None, pytest.approx(0.2))
    assert found.rejected == (True, False, False)
    assert "1 of the family's 3 tests have no p" in found.note
    assert holm([]) == (0, (), (), "the family has no tests")
    assert holm([None]).rejected == (False,)
    for value in (1.1, math.nan, 0.0):
        with pytest.raises(ValueError, match="expected p"):
            holm([value])


def test_the_family_wise_error_stays_below_alpha() -> None:
    """Ten null tests, five of them one and the same: any false rejection in at most 5 % of families."""
    rng, runs = np.random.default_rng(0), 4000
    wrong = 0
    for _ in range(runs):
        p = rng.random(6)
        wrong += any(holm([*p[:5].tolist(), *[float(p[5])] * 5]).rejected)
    assert wrong / runs < 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
