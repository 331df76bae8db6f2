"""Statistics: agreement with scipy on random data, laws, the published worked example, and defined degenerate cells."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar as exact_test

from tli.paper import stats

NUMBERS = st.floats(-1, 1).map(lambda value: round(value, 6))
SAMPLES = st.lists(NUMBERS, min_size=3, max_size=40)


def varied(values: list[float]) -> bool:
    return bool(np.ptp(values) > 1e-3)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=3, max_size=40).filter(lambda x: varied([b - a for a, b in x])))
def test_paired_test_follows_its_formula(pairs: list[tuple[float, float]]) -> None:
    before, after = np.array(pairs).T
    found, d = stats.paired(before, after), after - before
    assert found.t == pytest.approx(d.mean() / (d.std(ddof=1) / math.sqrt(len(d))))
    assert 10**found.log10_p == pytest.approx(scipy_stats.ttest_rel(after, before).pvalue)
    assert found.d_z == pytest.approx(found.t / math.sqrt(len(d)))
    assert found.low <= found.gain <= found.high
    assert (found.low > 0 or found.high < 0) == (10**found.log10_p < 0.05)
    assert found.decreased == sum(b < a for a, b in pairs)


@given(SAMPLES.filter(varied), SAMPLES.filter(varied))
def test_swapping_sides_flips_signs(x: list[float], y: list[float]) -> None:
    one, other = stats.welch(x, y), stats.welch(y, x)
    assert one.t == pytest.approx(-other.t)
    assert (one.low, one.high) == (pytest.approx(-other.high), pytest.approx(-other.low))
    assert one.log10_p == pytest.approx(other.log10_p)
    assert one.t == pytest.approx(scipy_stats.ttest_ind(x, y, equal_var=False).statistic)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=3, max_size=40))
def test_correlations_agree_with_numpy_and_ranks(pairs: list[tuple[float, float]]) -> None:
    x, y = np.array(pairs).T
    found = stats.correlation(x, y)
    if not (varied(x) and varied(y)):
        return
    assert found.pearson == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)
    ranks = [scipy_stats.rankdata(side) for side in (x, y)]
    assert found.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-9)
    assert stats.correlation(x, 2 * x + 1)[1:3] == pytest.approx((1, 1))


@given(SAMPLES.filter(varied), st.randoms())
def test_order_of_pairs_does_not_matter(x: list[float], random: object) -> None:
    pairs = [(a, a**3 + 0.01 * i) for i, a in enumerate(x)]
    mixed = sorted(pairs, key=lambda _: random.random())  # type: ignore[attr-defined]
    one, other = (stats.paired(*np.array(some).T) for some in (pairs, mixed))
    assert (one.t, one.gain, one.decreased) == (pytest.approx(other.t), pytest.approx(other.gain), other.decreased)


@given(st.floats(0.5, 38), st.integers(1, 900))
def test_log_p_equals_the_plain_p_where_that_exists(t: float, df: int) -> None:
    p = 2 * scipy_stats.t.sf(t, df)
    assert stats.log10_p(t, df) == pytest.approx(math.log10(p), rel=1e-9, abs=1e-12)


def test_log_p_goes_on_where_p_underflows() -> None:
    values = [stats.log10_p(t, 622) for t in (60, 68, 69, 70, 71, 300, 1e4)]
    assert all(np.diff(values) < 0)
    assert values[5] == pytest.approx(
        -674.3244921693755
    )  # the incomplete beta function at 60 digits (mpmath) gives this
    steps = np.diff([stats.log10_p(t, 622) for t in np.arange(60, 72, 0.25)])
    assert np.abs(np.diff(steps)).max() < 0.02, "no jump where the second formula takes over"


@given(st.floats(-30, 30), st.integers(1, 900))
def test_one_sided_log_p_is_the_upper_tail(t: float, df: int) -> None:
    assert 10 ** stats.log10_p_above(t, df) == pytest.approx(scipy_stats.t.sf(t, df), rel=1e-9)


def test_normal_log_p_goes_on_where_p_underflows() -> None:
    for z in (-3.0, 0.0, 0.1, 1.959964, 8.0, 37.0):
        assert 10 ** stats.log10_p_normal(z) == pytest.approx(2 * scipy_stats.norm.sf(abs(z)), rel=1e-9)
    # Mills' ratio: P(Z > z) = phi(z) / z (1 - 1 / z^2 + ...), here for z = 100
    expected = (math.log(2) - 100**2 / 2 - math.log(100 * math.sqrt(2 * math.pi)) + math.log1p(-1e-4)) / math.log(10)
    assert stats.log10_p_normal(100) == pytest.approx(expected, abs=1e-7)


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_log_p_is_that_of_the_exact_test(won: int, lost: int) -> None:
    found = stats.log10_p_mcnemar(won, lost)
    if won + lost == 0:
        assert found is None
        return
    assert found is not None
    plain = exact_test([[0, lost], [won, 0]], exact=True).pvalue
    assert 10**found == pytest.approx(min(1.0, plain), rel=1e-9)
    assert found == stats.log10_p_mcnemar(lost, won)


def test_mcnemar_log_p_goes_on_where_p_underflows() -> None:
    assert stats.log10_p_mcnemar(0, 5010) == pytest.approx(-5009 * math.log10(2))
    assert stats.log10_p_mcnemar(1, 5009) == pytest.approx(math.log10(2 * 5011) - 5010 * math.log10(2))


def test_published_statistics_follow_from_their_summary() -> None:
    for n, gain, sd, t, p, d_z in (
        (623, 0.0901806, 0.0410119, 54.88416, math.log10(1.3320) - 240, 2.20),
        (63, 0.0890174, 0.0382904, 18.45250, math.log10(7.1724) - 27, 2.32),
    ):
        found = stats.from_summary(n, gain, sd)
        assert found == (pytest.approx(t, rel=3e-6), pytest.approx(p, abs=1e-3), pytest.approx(d_z, abs=5e-3))


def test_wilson_is_the_published_formula() -> None:
    """Newcombe (1998), table I: 81 of 263 gives .2553 to .3662, 0 of 20 gives 0 to .1611."""
    assert stats.wilson(81, 263) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
    assert stats.wilson(0, 20) == (0.0, pytest.approx(0.1611, abs=5e-5))


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.6, 0.999))
def test_wilson_holds_the_share_and_mirrors(counted: tuple[int, int], confidence: float) -> None:
    k, n = counted
    low, high = stats.wilson(k, n, confidence)
    assert 0 <= low <= k / n + 1e-12
    assert k / n - 1e-12 <= high <= 1
    assert stats.wilson(n - k, n, confidence) == (pytest.approx(1 - high), pytest.approx(1 - low))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_the_binomial_test_of_the_flips(items: list[tuple[bool, bool]]) -> None:
    before, after = zip(*items, strict=True)
    found = stats.mcnemar(before, after)
    assert found.won - found.lost == sum(after) - sum(before)
    if found.won + found.lost:
        assert 10**found.log10_p == pytest.approx(scipy_stats.binomtest(found.won, found.won + found.lost).pvalue)
        assert found.log10_p == pytest.approx(stats.mcnemar(after, before).log10_p)
    else:
        assert found.log10_p is None
        assert found.note


def test_degenerate_input_gives_defined_cells() -> None:
    alike = stats.paired([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    assert (alike.gain, alike.gain_sd, alike.t, alike.log10_p, alike.d_z) == (0, 0, None, None, None)
    assert "undefined" in alike.note
    shifted = stats.paired([0.1, 0.2, 0.3], [0.2, 0.3, 0.4])
    assert (shifted.t, shifted.low) == (None, None)
    assert shifted.gain == pytest.approx(0.1)
    one, none = stats.paired([0.1], [0.3]), stats.paired([], [])
    assert (one.n, one.gain, one.gain_sd, one.t) == (1, pytest.approx(0.2), None, None)
    assert none.n == 0
    assert set(none[1:12]) == {None}
    assert stats.welch([0.1], [0.2, 0.3]).t is None
    assert stats.welch([], [0.2, 0.3]).difference is None
    assert stats.welch([0.1, 0.1], [0.2, 0.2]).t is None
    assert stats.wilson(0, 0) is None
    assert stats.correlation([1.0, 2.0], [1.0, 2.0])[1:3] == (None, None)
    assert stats.correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])[1:3] == (None, None)
    assert stats.spread([]) == (0, None, None, "no values")
    assert stats.spread([2.0]).mean == 2.0
    for found in (alike, shifted, one, none):
        assert all(value is None or isinstance(value, str) or math.isfinite(value) for value in found)


def test_bad_input_is_refused() -> None:
    for call in (
        lambda: stats.spread([1.0, math.nan]),
        lambda: stats.mean([]),
        lambda: stats.paired([1.0], [1.0, 2.0]),
        lambda: stats.mcnemar([True], [True, False]),
        lambda: stats.wilson(3, 2),
        lambda: stats.from_summary(1, 0.1, 0.1),
        lambda: stats.log10_p_mcnemar(-1, 2),
    ):
        with pytest.raises(ValueError, match=r"expected|no values"):
            call()


def test_intervals_cover_at_their_rate() -> None:
    """1,000 samples with a known mean gain: 95 % intervals hold it 95 % of the time, within three standard errors."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        before = rng.normal(0.3, 0.08, 20)
        found = stats.paired(before, before + rng.normal(0.05, 0.04, 20))
        held += found.low <= 0.05 <= found.high
    assert abs(held / 1000 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 1000)


@given(SAMPLES.filter(varied), SAMPLES.filter(varied))
def test_welch_from_summaries_is_welch(first: list[float], second: list[float]) -> None:
    sides = [(len(x), float(np.mean(x)), float(np.std(x, ddof=1))) for x in (first, second)]
    found, expected = stats.welch_from_summary(*sides, 0.9), stats.welch(first, second, 0.9)
    assert found[:-1] == pytest.approx(expected[:-1], rel=1e-6, abs=1e-9)


def test_welch_from_summaries_refuses_what_has_no_spread() -> None:
    with pytest.raises(ValueError, match="SD > 0 on each side"):
        stats.welch_from_summary((5, 0.1, 0.0), (5, 0.1, 0.2))
