"""Equivalence: agreement with statsmodels, error rate at the margin, power within it, verdicts, degenerate cells."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.weightstats import ttost_paired

from tli.stats import p_values
from tli.stats.equivalence import BOTH, DIFFERENT, EQUIVALENT, NEITHER, Equivalence, tost, tost_estimate
from tli.stats.trend import trend

SAMPLES = st.lists(st.floats(-3, 3).map(lambda x: round(x, 4)), min_size=3, max_size=40).filter(
    lambda values: np.ptp(values) > 1e-2
)
MARGINS = st.floats(0.05, 4)


@given(SAMPLES, MARGINS)
def test_agrees_with_statsmodels(values: list[float], margin: float) -> None:
    found = tost(values, margin)
    p, (_, lower, _), (_, upper, _) = ttost_paired(np.array(values), np.zeros(len(values)), -margin, margin)
    assert found.p == pytest.approx(p, rel=1e-7, abs=1e-300)
    assert found.p_lower == pytest.approx(lower, rel=1e-7, abs=1e-300)
    assert found.p_upper == pytest.approx(upper, rel=1e-7, abs=1e-300)
    assert found.p_zero == pytest.approx(scipy_stats.ttest_1samp(values, 0).pvalue, rel=1e-7)


@given(SAMPLES, MARGINS, st.floats(0.001, 0.2))
def test_the_verdict_is_what_the_intervals_say(values: list[float], margin: float, alpha: float) -> None:
    """p < alpha exactly where the 1 - 2 alpha interval lies within the margin; the 1 - alpha one holds 0 or not."""
    found = tost(values, margin, alpha)
    wide = scipy_stats.ttest_1samp(values, 0).confidence_interval(1 - alpha)
    assume(min(abs(found.low + margin), abs(found.high - margin), abs(wide.low), abs(wide.high)) > 1e-9)
    inside, differs = -margin < found.low and found.high < margin, wide.low > 0 or wide.high < 0
    expected = BOTH if inside and differs else EQUIVALENT if inside else DIFFERENT if differs else NEITHER
    assert found.verdict == expected


@given(SAMPLES, MARGINS, st.randoms(), st.floats(0.01, 100))
def test_order_sign_and_scale(values: list[float], margin: float, mixer: random.Random, scale: float) -> None:
    found = tost(values, margin)
    order = list(values)
    mixer.shuffle(order)
    assert tost(order, margin)[:-2] == pytest.approx(found[:-2], rel=1e-9, abs=1e-12)
    turned = tost([-value for value in values], margin)
    assert (turned.low, turned.p_lower) == pytest.approx((-found.high, found.p_upper))
    larger = tost([scale * value for value in values], scale * margin)
    assert (larger.p, larger.p_zero) == pytest.approx((found.p, found.p_zero), rel=1e-6, abs=1e-300)


def rates(mean: float, margin: float, runs: int) -> dict[str | None, float]:
    rng = np.random.default_rng(0)
    verdicts = [tost(rng.normal(mean, 1, 30), margin).verdict for _ in range(runs)]
    return {verdict: verdicts.count(verdict) / runs for verdict in (EQUIVALENT, DIFFERENT, BOTH, NEITHER)}


@pytest.mark.parametrize("mean", [-0.8, 0.8])
def test_at_the_margin_equivalence_is_concluded_at_rate_alpha(mean: float) -> None:
    found = rates(mean, 0.8, 3000)
    assert abs(found[EQUIVALENT] + found[BOTH] - 0.05) < 3 * math.sqrt(0.05 * 0.95 / 3000)


def test_no_effect_is_concluded_where_the_margin_allows() -> None:
    """Power at a true 0 is P(|mean| < margin - t se), here about 2 Phi((0.8 - 1.7 / sqrt 30) sqrt 30) - 1 = 0.99."""
    found = rates(0.0, 0.8, 1000)
    assert found[EQUIVALENT] + found[BOTH] > 0.97
    assert abs(found[DIFFERENT] + found[BOTH] - 0.05) < 3 * math.sqrt(0.05 * 0.95 / 1000)
    assert rates(0.0, 0.2, 500)[NEITHER] > 0.9, "a margin below the error of the mean can conclude nothing"
    assert rates(1.5, 0.8, 500)[DIFFERENT] > 0.99


def test_the_four_verdicts() -> None:
    assert tost_estimate(0.0, 0.1, 20, 0.5).verdict == EQUIVALENT
    assert tost_estimate(1.0, 0.1, 20, 0.5).verdict == DIFFERENT
    assert tost_estimate(0.3, 0.1, 20, 0.5).verdict == BOTH
    assert tost_estimate(0.1, 1.0, 20, 0.5).verdict == NEITHER
    assert BOTH == "both: different but within the margin"


def test_a_flat_trend_is_concluded() -> None:
    rng = np.random.default_rng(1)
    values = {(b, s, r): 0.8 + 0.01 * rng.normal() for b in range(5) for s in range(3) for r in (1, 2, 4, 8, 16, 32)}
    slope = trend(values)
    found = tost_estimate(slope.slope, slope.se, slope.df, margin=0.01)
    assert found.verdict == EQUIVALENT
    assert found.p_zero == slope.p


def test_degenerate_data_give_defined_cells() -> None:
    cases: dict[str, Equivalence] = {
        "no differences": tost([], 0.1),
        "one difference": tost([0.02], 0.1),
        "every difference is alike": tost([0.0, 0.0, 0.0], 0.1),
    }
    for note, found in cases.items():
        assert note in found.note
        assert found.verdict is None
        assert set(found[4:11]) == {None}
    assert cases["one difference"].estimate == 0.02
    tiny = tost_estimate(0.0, 1e-6, 600, 0.5)
    assert (tiny.p, tiny.note) == (p_values.SMALLEST, p_values.CLIPPED)
    for margin, alpha, se in ((0.0, 0.05, 1.0), (0.1, 0.5, 1.0), (0.1, 0.05, 0.0), (math.nan, 0.05, 1.0)):
        with pytest.raises(ValueError, match="expected"):
            tost_estimate(0.0, se, 5, margin, alpha)
    with pytest.raises(ValueError, match="margin"):
        tost([], -1)
