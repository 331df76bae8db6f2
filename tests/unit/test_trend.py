"""The trend on log2(rank): a published analysis, the mixed model, its size and coverage, laws, and degenerate cells."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.regression.mixed_linear_model import MixedLM

from tli.stats import p_values
from tli.stats.trend import Key, Trend, slope_weights, trend

RANKS = (1, 2, 4, 8, 16, 32)
X = np.log2(RANKS)
NUMBERS = ("slope", "se", "low", "high", "t", "df", "p")

# Least-squares slopes of the 18 subjects of the sleep deprivation study over days 0 to 9 (Belenky et al. 2003; the data
# set sleepstudy of lme4), which stand for bases here, and days for doublings of the rank.
SLEEP = (
    *(21.764702, 2.261785, 6.114899, 3.008073, 5.266019, 9.566768, 9.142045, 12.253141, -2.881034),
    *(19.025974, 13.493933, 19.504017, 6.433498, 13.566549, 11.348109, 18.056151, 9.188445, 11.298073),
)


def simulate(rng: np.random.Generator, bases: int, seeds: int, slope: float, spread: float) -> dict[Key, float]:
    """Values with a mean slope, slopes and intercepts of bases and seeds around it, and noise."""
    values = {}
    for base in range(bases):
        level, tilt = rng.normal(0, 1), slope + rng.normal(0, spread)
        for seed in range(seeds):
            own, lean = rng.normal(0, 0.5), rng.normal(0, spread / 2)
            y = level + own + (tilt + lean) * X + rng.normal(0, 0.3, len(X))
            values |= {(base, seed, rank): float(value) for rank, value in zip(RANKS, y, strict=True)}
    return values


def numbers(found: Trend) -> Iterator[float]:
    return (getattr(found, name) for name in NUMBERS)


def test_the_published_analysis_of_the_sleep_study() -> None:
    """lmerTest's documentation (contest1D, Kuznetsova et al. 2017): 10.46729 ± 1.54579, df 17, t 6.771481."""
    values = {(subject, 0, 2**day): slope * day for subject, slope in enumerate(SLEEP) for day in range(10)}
    found = trend(values)
    expected = (10.46729, 1.54579, 7.205955, 13.72862, 6.771481, 17)
    assert [*numbers(found)][:6] == pytest.approx(expected, rel=2e-6)
    assert found.p == pytest.approx(3.263824e-06, rel=2e-5)
    assert (found.units, found.values, found.unit, found.method) == (18, 180, "base", "two-stage")


def test_slopes_are_least_squares() -> None:
    y = np.array([0.3, 0.5, 0.4, 0.9, 0.7, 1.4])
    assert slope_weights(RANKS) @ y == pytest.approx(scipy_stats.linregress(X, y).slope)
    with pytest.raises(ValueError, match="two different ranks"):
        slope_weights([4, 4])
    with pytest.raises(ValueError, match="at least 1"):
        slope_weights([0, 4])


def test_balanced_data_give_the_mixed_model_s_test() -> None:
    values = simulate(np.random.default_rng(3), bases=8, seeds=3, slope=0.2, spread=0.3)
    found = trend(values)
    x = np.log2([rank for _, _, rank in values])
    groups = [base for base, _, _ in values]
    design = np.column_stack([np.ones_like(x), x])
    fit = MixedLM(np.array([*values.values()]), design, groups, exog_re=design).fit(reml=True)
    assert (found.slope, found.se) == pytest.approx((fit.fe_params[1], fit.bse_fe[1]), rel=1e-4)
    own = [scipy_stats.linregress(np.tile(X, 3), [values[b, s, r] for s in range(3) for r in RANKS]) for b in range(8)]
    tested = scipy_stats.ttest_1samp([line.slope for line in own], 0)
    assert (found.t, found.df) == (pytest.approx(tested.statistic), 7)
    assert found.p == pytest.approx(tested.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(tested.confidence_interval(0.95)))


def test_one_base_is_tested_over_its_seeds() -> None:
    values = simulate(np.random.default_rng(4), bases=1, seeds=5, slope=0.2, spread=0.1)
    found = trend(values)
    slopes = [scipy_stats.linregress(X, [values[0, seed, rank] for rank in RANKS]).slope for seed in range(5)]
    assert (found.t, found.df) == (pytest.approx(scipy_stats.ttest_1samp(slopes, 0).statistic), 4)
    assert (found.unit, found.units) == ("seed", 5)
    assert "its seeds only" in found.note


def test_rank_0_is_left_out() -> None:
    values = simulate(np.random.default_rng(5), 3, 2, 0.1, 0.1)
    assert trend(values | {(base, 0, 0): 99.0 for base in range(3)}) == trend(values)


@pytest.mark.parametrize(("bases", "seeds"), [(1, 5), (2, 3), (5, 3)])
def test_under_the_null_the_trend_keeps_its_size_and_intervals_cover(bases: int, seeds: int) -> None:
    rng, runs = np.random.default_rng(6), 1500
    rejected = held = 0
    for _ in range(runs):
        found = trend(simulate(rng, bases, seeds, 0.0, 0.2))
        rejected += found.p < 0.05
        shifted = trend(simulate(rng, bases, seeds, 0.7, 0.2))
        # With one base its own slope is what the seeds scatter about, and it is not known: the null alone is checked.
        held += shifted.low <= 0.7 <= shifted.high
    within = 3 * math.sqrt(0.05 * 0.95 / runs)
    if bases > 1:
        assert abs(rejected / runs - 0.05) < within
        assert abs(held / runs - 0.95) < within
    else:
        assert rejected / runs > 0.05 + within, "seeds of one base must not pass for bases"


def test_seeds_of_one_base_cover_that_base_s_own_slope() -> None:
    rng, runs, held = np.random.default_rng(7), 1500, 0
    for _ in range(runs):
        values = {
            (0, seed, rank): 0.4 * x + lean * x + rng.normal(0, 0.3)
            for seed, lean in enumerate(rng.normal(0, 0.1, 5))
            for rank, x in zip(RANKS, X, strict=True)
        }
        found = trend(values)
        held += found.low <= 0.4 <= found.high
    assert abs(held / runs - 0.95) < 3 * math.sqrt(0.05 * 0.95 / runs)


def thinned(values: dict[Key, float], rng: np.random.Generator) -> dict[Key, float]:
    lost = {list(values)[index] for index in rng.choice(len(values), len(values) // 10, replace=False)}
    return {key: value for key, value in values.items() if key not in lost}


def test_missing_cells_go_to_the_mixed_model_which_keeps_its_size() -> None:
    rng, runs, methods = np.random.default_rng(8), 120, []
    rejected = 0
    for _ in range(runs):
        found = trend(thinned(simulate(rng, 5, 2, 0.0, 0.3), rng))
        methods.append(found.method)
        assert "unbalanced" in found.note
        assert found.p is not None
        rejected += found.p < 0.05
    assert methods.count("mixed model") > runs / 2
    assert rejected / runs < 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_a_few_missing_cells_change_little() -> None:
    rng = np.random.default_rng(9)
    values = simulate(rng, 6, 3, 0.2, 0.3)
    whole, part = trend(values), trend(thinned(values, rng))
    assert (whole.method, part.method) == ("two-stage", "mixed model")
    assert (part.slope, part.se) == (pytest.approx(whole.slope, abs=0.3 * whole.se), pytest.approx(whole.se, rel=0.2))


def test_a_singular_mixed_model_gives_the_slopes_test_and_says_so() -> None:
    # Slopes of 0.2 in every base, and noise in each seed that no slope sees: less spread than the noise would give.
    noise = (1, -1, 0, 0, -1, 1)
    values = {
        (b, s, r): 0.2 * x + 0.001 * b * x + (-1) ** s * 0.3 * e
        for b, s, (r, x, e) in product(range(4), range(4), zip(RANKS, X, noise, strict=True))
    }
    del values[0, 0, 4]
    found = trend(values)
    assert found.method == "two-stage"
    assert "the mixed model is singular: the slopes of each base are tested" in found.note
    assert found.slope == pytest.approx(0.2, abs=0.02)
    assert found.t is not None


STRUCTURES = st.tuples(st.integers(1, 4), st.integers(2, 4), st.integers(0, 2**32 - 1))


@given(STRUCTURES, st.randoms(), st.floats(-5, 5), st.floats(0.01, 100))
def test_order_shift_scale_and_sign(shape: tuple[int, int, int], mixer: random.Random, by: float, scale: float) -> None:
    bases, seeds, seed = shape
    values = simulate(np.random.default_rng(seed), bases, seeds, 0.3, 0.3)
    found = trend(values)
    order = [*values]
    mixer.shuffle(order)
    assert trend({key: values[key] for key in order}) == found
    renamed = {(7 - base, 3 * seed + 1, rank): value for (base, seed, rank), value in values.items()}
    assert [*numbers(trend(renamed))] == pytest.approx([*numbers(found)], rel=1e-9)
    shifted = trend({key: value + by for key, value in values.items()})
    assert [*numbers(shifted)] == pytest.approx([*numbers(found)], rel=1e-6)
    larger = trend({key: scale * value for key, value in values.items()})
    assert (larger.slope, larger.se, larger.t) == pytest.approx((scale * found.slope, scale * found.se, found.t))
    turned = trend({key: -value for key, value in values.items()})
    assert (turned.t, turned.low, turned.p) == pytest.approx((-found.t, -found.high, found.p))


def test_unbalanced_data_are_free_of_unit_and_order() -> None:
    rng = np.random.default_rng(11)
    values = thinned(simulate(rng, 5, 3, 0.2, 0.3), rng)
    found = trend(values)
    assert found.method == "mixed model"
    assert trend(dict(reversed(values.items()))) == found
    percent = trend({key: 100 * value + 7 for key, value in values.items()})
    assert (percent.slope, percent.t) == (pytest.approx(100 * found.slope, rel=1e-4), pytest.approx(found.t, rel=1e-4))


def test_degenerate_data_give_defined_cells() -> None:
    one_seed = {(0, 0, rank): 0.1 * rank for rank in RANKS}
    cases = {
        "no values": {},
        "no two ranks": {(0, seed, 4): 0.1 * seed for seed in range(3)},
        "one seed": one_seed,
        "same slope": dict.fromkeys(product(range(5), range(3), RANKS), 0.85),
        "no variance; one base": {(0, s, r): 0.3 + 0.1 * s + 0.02 * math.log2(r) for s, r in product(range(3), RANKS)},
        "one base has ranks": one_seed | {(1, 0, 4): 0.2},
    }
    for note, values in cases.items():
        found = trend(values)
        assert note in found.note
        assert set(found[1:7]) == {None}
        assert found.slope is None or math.isfinite(found.slope)
        assert found.method == "-"
    assert trend(one_seed).slope == pytest.approx(scipy_stats.linregress(X, [0.1 * rank for rank in RANKS]).slope)
    # Lines without any residual, unbalanced: nothing for a residual variance to be estimated from.
    exact = {
        (b, s, r): (0.1 + 0.02 * b) * math.log2(r) for b, s, r in product(range(4), range(2), RANKS) if b or r < 32
    }
    found = trend(exact)
    assert found.slope == pytest.approx(0.13, rel=1e-3)
    assert math.isfinite(found.t)
    tiny = trend({(b, 0, r): (1 + 1e-9 * b) * math.log2(r) for b, r in product(range(50), RANKS)})
    assert tiny.p == p_values.SMALLEST
    assert p_values.CLIPPED in tiny.note


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        trend({(0, 0, 1): math.nan, (0, 0, 2): 1.0})
    with pytest.raises(ValueError, match="at least 0"):
        trend({(0, 0, -1): 1.0})
