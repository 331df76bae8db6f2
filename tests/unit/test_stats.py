"""Statistics: agreement with scipy on random data, laws, the published worked example, and defined degenerate cells."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from tli.stats import mcnemar, p_values, proportions, t_tests
from tli.stats.descriptive import correlation, mean, spread

NUMBERS = st.floats(-1, 1).map(lambda value: round(value, 6))
SAMPLES = st.lists(NUMBERS, min_size=3, max_size=40)


def varied(values: list[float]) -> bool:
    return bool(np.ptp(values) > 1e-3)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=3, max_size=40).filter(lambda x: varied([b - a for a, b in x])))
def test_paired_test_follows_its_formula(pairs: list[tuple[float, float]]) -> None:
    before, after = np.array(pairs).T
    found, d = t_tests.paired(before, after), after - before
    assert found.t == pytest.approx(d.mean() / (d.std(ddof=1) / math.sqrt(len(d))))
    assert found.p == pytest.approx(scipy_stats.ttest_rel(after, before).pvalue)
    assert found.d_z == pytest.approx(found.t / math.sqrt(len(d)))
    assert found.low <= found.gain <= found.high
    assert (found.low > 0 or found.high < 0) == (found.p < 0.05)
    assert found.decreased == sum(b < a for a, b in pairs)


@given(SAMPLES.filter(varied), SAMPLES.filter(varied))
def test_swapping_sides_flips_signs(x: list[float], y: list[float]) -> None:
    one, other = t_tests.welch(x, y), t_tests.welch(y, x)
    assert one.t == pytest.approx(-other.t)
    assert (one.low, one.high) == (pytest.approx(-other.high), pytest.approx(-other.low))
    assert one.p == pytest.approx(other.p)
    assert one.t == pytest.approx(scipy_stats.ttest_ind(x, y, equal_var=False).statistic)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=3, max_size=40))
def test_correlations_agree_with_numpy_and_ranks(pairs: list[tuple[float, float]]) -> None:
    x, y = np.array(pairs).T
    found = correlation(x, y)
    if not (varied(x) and varied(y)):
        return
    assert found.pearson == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)
    ranks = [scipy_stats.rankdata(side) for side in (x, y)]
    assert found.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-9)
    assert correlation(x, 2 * x + 1)[1:3] == pytest.approx((1, 1))


@given(SAMPLES.filter(varied), st.randoms())
def test_order_of_pairs_does_not_matter(x: list[float], random: object) -> None:
    pairs = [(a, a**3 + 0.01 * i) for i, a in enumerate(x)]
    mixed = sorted(pairs, key=lambda _: random.random())  # type: ignore[attr-defined]
    one, other = (t_tests.paired(*np.array(some).T) for some in (pairs, mixed))
    assert (one.t, one.gain, one.decreased) == (pytest.approx(other.t), pytest.approx(other.gain), other.decreased)


@given(st.floats(-38, 38), st.integers(1, 900))
def test_p_of_student_s_t_is_scipy_s(t: float, df: int) -> None:
    assert p_values.student(t, df) == pytest.approx(min(1.0, 2 * scipy_stats.t.sf(abs(t), df)), rel=1e-9)
    assert p_values.student_above(t, df) == pytest.approx(scipy_stats.t.sf(t, df), rel=1e-9)


@pytest.mark.parametrize("z", [-3.0, 0.0, 0.1, 1.959964, 8.0, 37.0])
def test_p_of_a_normal_z_is_scipy_s(z: float) -> None:
    assert p_values.normal(z) == pytest.approx(2 * scipy_stats.norm.sf(abs(z)), rel=1e-9)


def test_p_too_small_for_a_float_is_clipped_with_a_note() -> None:
    for p in (
        p_values.student(300, 622),
        p_values.student_above(300, 622),
        p_values.normal(100),
        mcnemar.p_value(0, 5010),
    ):
        assert p == p_values.SMALLEST == 1e-300
    values = np.random.default_rng(0).normal(size=623)
    test = t_tests.paired(values, values + 9 + 0.01 * values)
    assert (test.p, test.note) == (p_values.SMALLEST, p_values.CLIPPED)
    assert t_tests.paired(values, values + 0.2 * values**2).note == ""
    assert p_values.clip_note(None, 0.3) == ""


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_s_p_is_the_binomial_test_s(won: int, lost: int) -> None:
    p = mcnemar.p_value(won, lost)
    assert p == mcnemar.p_value(lost, won)
    if won + lost == 0:
        assert p is None
    else:
        assert p == pytest.approx(scipy_stats.binomtest(won, won + lost).pvalue, rel=1e-9)


def test_published_statistics_follow_from_their_summary() -> None:
    for n, gain, sd, t, p, d_z in (
        (623, 0.0901806, 0.0410119, 54.88416, 1.3320e-240, 2.20),
        (63, 0.0890174, 0.0382904, 18.45250, 7.1724e-27, 2.32),
    ):
        found = t_tests.paired_from_summary(n, gain, sd)
        assert found == (pytest.approx(t, rel=3e-6), pytest.approx(p, rel=1e-2), pytest.approx(d_z, abs=5e-3))


def test_wilson_is_the_published_formula() -> None:
    """Newcombe (1998), table I: 81 of 263 gives .2553 to .3662, 0 of 20 gives 0 to .1611."""
    assert proportions.wilson(81, 263) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
    assert proportions.wilson(0, 20) == (0.0, pytest.approx(0.1611, abs=5e-5))


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.6, 0.999))
def test_wilson_holds_the_share_and_mirrors(counted: tuple[int, int], confidence: float) -> None:
    k, n = counted
    low, high = proportions.wilson(k, n, confidence)
    assert 0 <= low <= k / n + 1e-12
    assert k / n - 1e-12 <= high <= 1
    assert proportions.wilson(n - k, n, confidence) == (pytest.approx(1 - high), pytest.approx(1 - low))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_the_binomial_test_of_the_flips(items: list[tuple[bool, bool]]) -> None:
    before, after = zip(*items, strict=True)
    found = mcnemar.exact(before, after)
    assert found.won - found.lost == sum(after) - sum(before)
    if found.won + found.lost:
        assert found.p == pytest.approx(scipy_stats.binomtest(found.won, found.won + found.lost).pvalue)
        assert found.p == mcnemar.exact(after, before).p
    else:
        assert found.p is None
        assert found.note


def test_degenerate_input_gives_defined_cells() -> None:
    alike = t_tests.paired([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    assert (alike.gain, alike.gain_sd, alike.t, alike.p, alike.d_z) == (0, 0, None, None, None)
    assert "undefined" in alike.note
    shifted = t_tests.paired([0.1, 0.2, 0.3], [0.2, 0.3, 0.4])
    assert (shifted.t, shifted.low) == (None, None)
    assert shifted.gain == pytest.approx(0.1)
    one, none = t_tests.paired([0.1], [0.3]), t_tests.paired([], [])
    assert (one.n, one.gain, one.gain_sd, one.t) == (1, pytest.approx(0.2), None, None)
    assert none.n == 0
    assert set(none[1:12]) == {None}
    assert t_tests.welch([0.1], [0.2, 0.3]).t is None
    assert t_tests.welch([], [0.2, 0.3]).difference is None
    assert t_tests.welch([0.1, 0.1], [0.2, 0.2]).t is None
    assert proportions.wilson(0, 0) is None
    assert correlation([1.0, 2.0], [1.0, 2.0])[1:3] == (None, None)
    assert correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])[1:3] == (None, None)
    assert spread([]) == (0, None, None, "no values")
    assert spread([2.0]).mean == 2.0
    for found in (alike, shifted, one, none):
        assert all(value is None or isinstance(value, str) or math.isfinite(value) for value in found)


def test_bad_input_is_refused() -> None:
    for call in (
        lambda: spread([1.0, math.nan]),
        lambda: mean([]),
        lambda: t_tests.paired([1.0], [1.0, 2.0]),
        lambda: mcnemar.exact([True], [True, False]),
        lambda: proportions.wilson(3, 2),
        lambda: t_tests.paired_from_summary(1, 0.1, 0.1),
        lambda: mcnemar.p_value(-1, 2),
    ):
        with pytest.raises(ValueError, match=r"expected|no values"):
            call()


def test_intervals_cover_at_their_rate() -> None:
    """1,000 samples with a known mean gain: 95 % intervals hold it 95 % of the time, within three standard errors."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        before = rng.normal(0.3, 0.08, 20)
        found = t_tests.paired(before, before + rng.normal(0.05, 0.04, 20))
        held += found.low <= 0.05 <= found.high
    assert abs(held / 1000 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 1000)


@given(SAMPLES.filter(varied), SAMPLES.filter(varied))
def test_welch_from_summaries_is_welch(first: list[float], second: list[float]) -> None:
    sides = [(len(x), float(np.mean(x)), float(np.std(x, ddof=1))) for x in (first, second)]
    found, expected = t_tests.welch_from_summary(*sides, 0.9), t_tests.welch(first, second, 0.9)
    assert found[:-1] == pytest.approx(expected[:-1], rel=1e-6, abs=1e-9)


def test_welch_from_summaries_has_scipy_s_t_and_p() -> None:
    found = t_tests.welch_from_summary((623, 0.0901806, 0.0410119), (63, 0.0890174, 0.0382904))
    sides = (0.0901806, 0.0410119, 623, 0.0890174, 0.0382904, 63)
    expected = scipy_stats.ttest_ind_from_stats(*sides, equal_var=False)
    assert (found.t, found.p) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))


def test_welch_from_summaries_refuses_what_has_no_spread() -> None:
    with pytest.raises(ValueError, match="SD > 0 on each side"):
        t_tests.welch_from_summary((5, 0.1, 0.0), (5, 0.1, 0.2))
