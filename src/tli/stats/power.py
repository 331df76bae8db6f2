"""Power of the t-test and of McNemar's test, and the smallest effect that each detects."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import optimize, special


class Detectable(NamedTuple):
    """The smallest effect that a two-sided test at alpha rejects with the given power."""

    n: int
    effect: float | None  # in the unit of the input; for McNemar a difference of accuracies
    standardised: float | None  # effect / SD; for McNemar the share of the flips in one direction
    note: str


def power_mean(n: int, d: float, alpha: float = 0.05) -> float:
    """Power of the two-sided one-sample t-test at a standardised mean d (Cohen 1988, 2.3.5).

    P(|T| > t_{df, 1 - alpha / 2}), T noncentral t with df = n - 1 and noncentrality d sqrt(n). T^2 is noncentral F with
    1 and df degrees of freedom and noncentrality d^2 n; this function evaluates F (scipy.special.ncfdtr), because the
    noncentral t of SciPy, which statsmodels' TTestPower calls, gives NaN for some moderate d. Raises ValueError for
    n < 2 or alpha outside (0, 1).
    """
    if n < 2 or not 0 < alpha < 1:
        raise ValueError(f"expected n >= 2 and alpha in (0, 1), got {n} and {alpha}")
    bound = float(special.stdtrit(n - 1, 1 - alpha / 2))
    below = float(special.ncfdtr(1, n - 1, d * d * n, bound * bound))
    return 1.0 - below if math.isfinite(below) else 1.0  # ncfdtr is NaN only where it underflows


def detectable_mean(n: int, sd: float, alpha: float = 0.05, power: float = 0.8) -> Detectable:
    """The smallest |mean| that a two-sided one-sample t-test of n values with this SD detects with this power.

    Solves power_mean(n, d, alpha) = power for d to 1e-12; effect = d SD. The values are paired differences (n items),
    changes over seeds, or slopes over bases or seeds: for `trend`, n = units and SD = se sqrt(units). With fewer than
    two values or no variance the effect is None, and the note says why.
    """
    _check(alpha, power)
    if n < 2:
        return Detectable(n, None, None, "a t-test needs two values")
    if not 0 < sd < math.inf:
        return Detectable(n, None, None, "no variance: the smallest detectable effect is undefined")
    top = 1.0
    while power_mean(n, top, alpha) < power:
        top *= 2
    d = _solve(lambda d: power_mean(n, d, alpha) - power, 0.0, top)
    return Detectable(n, d * sd, d, "")


def power_mcnemar(n: int, discordant: float, share: float, alpha: float = 0.05) -> float:
    """Power of the exact two-sided McNemar test over n items, not conditional on the number of flips (Duffy 1984).

    M ~ Binomial(n, discordant) items flip, W ~ Binomial(M, share) of them in one direction; power = sum_m P(M = m)
    P(p(W, m) < alpha | m) with p(w, m) = min(1, 2 P(Binomial(m, 1/2) <= min(w, m - w))). Raises ValueError for shares
    outside [0, 1].
    """
    from scipy import stats as scipy_stats

    if n < 0 or not (0 <= discordant <= 1 and 0 <= share <= 1):
        raise ValueError(f"expected n >= 0 and shares in [0, 1], got {n}, {discordant}, {share}")
    m = np.arange(n + 1)
    weight = scipy_stats.binom.pmf(m, n, discordant)
    m, weight = m[weight > 1e-15], weight[weight > 1e-15]
    # k: the largest number with 2 P(X <= k) < alpha, or -1. The test rejects for w <= k and for w >= m - k.
    k = scipy_stats.binom.ppf(alpha / 2, m, 0.5).astype(int)
    k -= 2 * scipy_stats.binom.cdf(k, m, 0.5) >= alpha
    tails = scipy_stats.binom.cdf(k, m, share) + scipy_stats.binom.sf(m - k - 1, m, share)
    return float((weight * np.where(k >= 0, tails, 0.0)).sum())


def detectable_flips(n: int, discordant: float, alpha: float = 0.05, power: float = 0.8) -> Detectable:
    """The smallest difference of two accuracies on n items that the exact McNemar test detects with this power.

    `discordant` is the share of items that flip in either direction. Solves power_mcnemar(n, discordant, s) = power for
    s in [1/2, 1], the share of the flips in one direction; effect = discordant (2 s - 1).
    """
    _check(alpha, power)
    if n < 1 or discordant == 0:
        return Detectable(n, None, None, "no item flips: the smallest detectable effect is undefined")
    if power_mcnemar(n, discordant, 1.0, alpha) < power:
        return Detectable(n, None, None, "so few flips that no effect reaches this power")
    share = _solve(lambda s: power_mcnemar(n, discordant, s, alpha) - power, 0.5, 1.0)
    return Detectable(n, discordant * (2 * share - 1), share, "")


def _solve(function: Callable[[float], float], low: float, high: float) -> float:
    return float(optimize.brentq(function, low, high, xtol=1e-12, rtol=1e-12))


def _check(alpha: float, power: float) -> None:
    if not 0 < alpha < power < 1:
        raise ValueError(f"expected 0 < alpha < power < 1, got {alpha} and {power}")
