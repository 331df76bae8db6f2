"""Smallest detectable effects: agreement with statsmodels, published figures and enumeration; degenerate cells."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.power import TTestPower

from tli.stats import mcnemar
from tli.stats.power import detectable_flips, detectable_mean, power_mcnemar, power_mean


@given(st.integers(3, 2000), st.sampled_from([0.01, 0.05, 0.1]), st.sampled_from([0.5, 0.8, 0.9]))
def test_means_agree_with_statsmodels(n: int, alpha: float, power: float) -> None:
    found = detectable_mean(n, 2.5, alpha, power)
    assert found.effect == pytest.approx(2.5 * found.standardised)
    assert power_mean(n, found.standardised, alpha) == pytest.approx(power, abs=1e-9)
    other = TTestPower().power(found.standardised, n, alpha, alternative="two-sided")
    if math.isfinite(other):  # SciPy's noncentral t is NaN for some arguments
        assert other == pytest.approx(power, abs=1e-7)


def test_published_powers_of_the_t_test() -> None:
    """G*Power 3.1 (Faul et al. 2007): d_z = 0.5 needs n = 34 for power 0.8, which gives 0.8077775."""
    assert power_mean(34, 0.5) == pytest.approx(0.8077775, abs=1e-6)
    assert power_mean(33, 0.5) < 0.8
    assert detectable_mean(34, 1.0).effect < 0.5 < detectable_mean(33, 1.0).effect


@pytest.mark.parametrize(("units", "sd"), [(2, 0.01), (5, 0.02)])
def test_the_detectable_effect_is_detected_at_its_power(units: int, sd: float) -> None:
    rng, runs = np.random.default_rng(0), 20_000
    effect = detectable_mean(units, sd).effect
    p = scipy_stats.ttest_1samp(rng.normal(effect, sd, (runs, units)), 0, axis=1).pvalue
    assert abs((p < 0.05).mean() - 0.8) < 3 * math.sqrt(0.8 * 0.2 / runs)


def test_published_power_of_mcnemar_s_test() -> None:
    """O'Brien (2002), as in G*Power's manual: n 50, shares .08 and .32, one-sided .05: power .839, true alpha .0326."""
    assert power_mcnemar(50, 0.4, 0.8, alpha=0.1) == pytest.approx(0.839, abs=5e-4)
    assert power_mcnemar(50, 0.4, 0.5, alpha=0.1) / 2 == pytest.approx(0.0326, abs=5e-5)


@pytest.mark.parametrize(("n", "discordant", "share"), [(1, 0.5, 0.9), (12, 0.4, 0.85), (40, 0.9, 0.7), (30, 1.0, 1.0)])
def test_mcnemar_s_power_is_the_sum_over_every_outcome(n: int, discordant: float, share: float) -> None:
    total = 0.0
    for won in range(n + 1):
        for lost in range(n + 1 - won):
            p = mcnemar.p_value(won, lost)
            if p is not None and p < 0.05:
                split = (discordant * share, discordant * (1 - share), 1 - discordant)
                total += scipy_stats.multinomial.pmf((won, lost, n - won - lost), n, split)
    assert power_mcnemar(n, discordant, share) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize(("n", "discordant"), [(400, 0.2), (400, 0.05), (5010, 0.1)])
def test_detectable_flips(n: int, discordant: float) -> None:
    found = detectable_flips(n, discordant)
    assert power_mcnemar(n, discordant, found.standardised) == pytest.approx(0.8, abs=1e-9)
    assert found.effect == pytest.approx(discordant * (2 * found.standardised - 1))
    # Connor (1987): n = (1.96 sqrt(d) + 0.8416 sqrt(d - e^2))^2 / e^2 without the exact test's conservatism
    e, d = found.effect, discordant
    needed = (scipy_stats.norm.ppf(0.975) * math.sqrt(d) + scipy_stats.norm.ppf(0.8) * math.sqrt(d - e * e)) ** 2 / e**2
    assert 0.75 * n < needed < n


@given(st.integers(5, 3000), st.floats(1.01, 4))
def test_more_data_see_smaller_effects(n: int, factor: float) -> None:
    assert detectable_mean(int(n * factor) + 1, 1.0).effect < detectable_mean(n, 1.0).effect
    assert detectable_mean(n, factor).effect == pytest.approx(factor * detectable_mean(n, 1.0).effect)


def test_degenerate_cases_are_defined() -> None:
    for found, note in (
        (detectable_mean(1, 0.5), "two values"),
        (detectable_mean(5, 0.0), "no variance"),
        (detectable_flips(400, 0.0), "no item flips"),
        (detectable_flips(0, 0.2), "no item flips"),
        (detectable_flips(10, 0.1), "no effect reaches"),
    ):
        assert (found.effect, found.standardised) == (None, None)
        assert note in found.note
    for call in (
        lambda: detectable_mean(5, 1.0, power=1.0),
        lambda: detectable_flips(5, 0.5, alpha=0.9),
        lambda: power_mean(1, 0.5),
        lambda: power_mcnemar(5, 1.2, 0.5),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()
