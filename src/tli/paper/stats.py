"""Tests, intervals and effect sizes over plain arrays: every statistic of every table comes from here.

Each function gives its formula and where it is taken from. Input that leaves a statistic undefined (n < 2, no variance,
no discordant pair) gives None there and a note that says why; None is shown as `-`. Nothing returns NaN or infinity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = Sequence[float] | NDArray[np.float64]


class Paired(NamedTuple):
    """A paired comparison; means and SDs in the unit of the input, SDs with ddof = 1."""

    n: int
    before: float | None
    before_sd: float | None
    after: float | None
    after_sd: float | None
    gain: float | None  # mean of after - before
    gain_sd: float | None
    low: float | None  # interval of the mean gain
    high: float | None
    t: float | None
    log10_p: float | None
    d_z: float | None
    decreased: int  # pairs with after < before
    note: str


class Welch(NamedTuple):
    """Difference of two independent means, first minus second."""

    difference: float | None
    low: float | None
    high: float | None
    t: float | None
    df: float | None
    log10_p: float | None
    note: str


class McNemar(NamedTuple):
    """Flips of correctness between two models on the same items, and the exact two-sided p."""

    won: int  # wrong before, right after
    lost: int  # right before, wrong after
    log10_p: float | None
    note: str


class Correlation(NamedTuple):
    """Linear and rank correlation of two paired samples, each in [-1, 1]."""

    n: int
    pearson: float | None
    spearman: float | None
    note: str


class Spread(NamedTuple):
    """Mean and SD (ddof = 1) over seeds."""

    n: int
    mean: float | None
    sd: float | None
    note: str


def finite(values: Floats) -> NDArray[np.float64]:
    """The values as an array; raises ValueError where they are not a flat sequence of finite numbers."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"expected a flat sequence of finite numbers, got shape {array.shape}")
    return array


def constant(values: NDArray[np.float64]) -> bool:
    """No variation beyond rounding: a range below 1e-12 of the largest magnitude."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def mean(values: Floats) -> float:
    """sum x / n; raises ValueError where there is nothing to average."""
    x = finite(values)
    if not x.size:
        raise ValueError("the mean of no values")
    return float(x.mean())


def spread(values: Floats) -> Spread:
    """Mean = sum x / n; SD = sqrt(sum (x - mean)^2 / (n - 1)), undefined for n < 2."""
    x = finite(values)
    if not x.size:
        return Spread(0, None, None, "no values")
    if x.size < 2:
        return Spread(1, float(x[0]), None, "SD needs two values")
    return Spread(x.size, float(x.mean()), float(x.std(ddof=1)), "")


def log10_p(t: float, df: float) -> float:
    """log10 of the two-sided p of Student's t, finite where p itself underflows.

    p = I_x(df / 2, 1 / 2) with x = df / (df + t^2), the regularised incomplete beta function (DLMF 8.17). Where
    p < 1e-290 its logarithm is taken from I_x(a, b) = x^a (1 - x)^b F(a + b, 1; a + 1; x) / (a B(a, b)) (DLMF 8.17.8).
    """
    p = 2.0 * float(special.stdtr(df, -abs(t)))
    if p > 1e-290:
        return math.log10(p)
    x, a, b = df / (df + t * t), df / 2, 0.5
    log = a * math.log(x) + b * math.log1p(-x) - math.log(a) - float(special.betaln(a, b))
    return (log + math.log(float(special.hyp2f1(a + b, 1.0, a + 1, x)))) / math.log(10)


def log10_p_above(t: float, df: float) -> float:
    """log10 of the one-sided p of Student's t, P(T >= t), finite where p itself underflows.

    Half the two-sided p for t >= 0, one minus that for t < 0.
    """
    half = log10_p(t, df) - math.log10(2)
    return half if t >= 0 else math.log1p(-(10**half)) / math.log(10)


def log10_p_normal(z: float) -> float:
    """log10 of the two-sided p of a standard normal z, log p = log 2 + log Phi(-|z|) (scipy.special.log_ndtr)."""
    return min(0.0, (math.log(2) + float(special.log_ndtr(-abs(z)))) / math.log(10))


def from_summary(n: int, gain: float, gain_sd: float) -> tuple[float, float, float]:
    """(t, log10 p, d_z) of a paired t-test from its summary: t = gain sqrt(n) / SD, df = n - 1, d_z = gain / SD.

    For holding published statistics against the published n, mean and SD. Raises ValueError for n < 2 or SD = 0.
    """
    if n < 2 or gain_sd <= 0:
        raise ValueError(f"expected n >= 2 and SD > 0, got n {n}, SD {gain_sd}")
    t = gain * math.sqrt(n) / gain_sd
    return t, log10_p(t, n - 1), gain / gain_sd


def paired(before: Floats, after: Floats, confidence: float = 0.95) -> Paired:
    """The paired t-test of after - before (scipy.stats.ttest_rel), two-sided, and Cohen's d_z.

    With D = after - before: t = mean(D) sqrt(n) / SD(D), df = n - 1; d_z = mean(D) / SD(D) (Cohen 1988, 2.3.5;
    Lakens 2013); interval = mean(D) -+ t_{df, (1 + confidence) / 2} SD(D) / sqrt(n).
    """
    from scipy import stats as scipy_stats  # here, since it takes most of a second that `verify` need not wait

    x, y = finite(before), finite(after)
    if x.shape != y.shape:
        raise ValueError(f"expected as many values before as after, got {x.size} and {y.size}")
    d = y - x
    b, a, g = spread(x), spread(y), spread(d)
    decreased = int((d < 0).sum())
    low = high = t = log_p = d_z = None
    note = g.note
    if g.n >= 2 and constant(d):
        note = "every pair changes alike: t, p, d_z and the interval are undefined"
    elif g.n >= 2 and g.mean is not None and g.sd is not None:
        result = scipy_stats.ttest_rel(y, x)
        interval = result.confidence_interval(confidence)
        t, low, high = float(result.statistic), float(interval.low), float(interval.high)
        log_p, d_z = log10_p(t, g.n - 1), g.mean / g.sd
    return Paired(g.n, b.mean, b.sd, a.mean, a.sd, g.mean, g.sd, low, high, t, log_p, d_z, decreased, note)


def welch(first: Floats, second: Floats, confidence: float = 0.95) -> Welch:
    """Welch's t-test of mean(first) - mean(second) (scipy.stats.ttest_ind, equal_var=False; Welch 1947).

    t = (m1 - m2) / sqrt(s1^2 / n1 + s2^2 / n2), df by Welch-Satterthwaite, two-sided p.
    """
    from scipy import stats as scipy_stats

    x, y = finite(first), finite(second)
    if x.size < 1 or y.size < 1:
        return Welch(None, None, None, None, None, None, "one side has no values")
    difference = float(x.mean() - y.mean())
    if x.size < 2 or y.size < 2:
        return Welch(difference, None, None, None, None, None, "each side needs two values")
    if constant(x) or constant(y):
        return Welch(difference, None, None, None, None, None, "one side does not vary")
    result = scipy_stats.ttest_ind(x, y, equal_var=False)
    interval = result.confidence_interval(confidence)
    t, df = float(result.statistic), float(result.df)
    return Welch(difference, float(interval.low), float(interval.high), t, df, log10_p(t, df), "")


def correlation(first: Floats, second: Floats) -> Correlation:
    """Pearson's r and Spearman's rho (scipy.stats.pearsonr, spearmanr); undefined for n < 3 or a constant side.

    r = sum (x - mx)(y - my) / sqrt(sum (x - mx)^2 sum (y - my)^2); rho is r of the ranks, ties at their mean rank.
    """
    from scipy import stats as scipy_stats

    x, y = finite(first), finite(second)
    if x.shape != y.shape:
        raise ValueError(f"expected as many values on either side, got {x.size} and {y.size}")
    if x.size < 3:
        return Correlation(x.size, None, None, "a correlation needs three pairs")
    if constant(x) or constant(y):
        return Correlation(x.size, None, None, "one side does not vary: no correlation")
    r, rho = scipy_stats.pearsonr(x, y).statistic, scipy_stats.spearmanr(x, y).statistic
    return Correlation(x.size, float(r), float(rho), "")


def welch_from_summary(
    first: tuple[int, float, float], second: tuple[int, float, float], confidence: float = 0.95
) -> Welch:
    """Welch's t-test from (n, mean, SD) of each side, for published summaries; each n >= 2 and SD > 0.

    With v_i = s_i^2 / n_i: t = (m1 - m2) / sqrt(v1 + v2), df = (v1 + v2)^2 / (v1^2 / (n1 - 1) + v2^2 / (n2 - 1)),
    interval = m1 - m2 -+ t_{df, (1 + confidence) / 2} sqrt(v1 + v2).
    """
    if min(first[0], second[0]) < 2 or min(first[2], second[2]) <= 0:
        raise ValueError(f"expected n >= 2 and SD > 0 on each side, got {first} and {second}")
    v = [sd**2 / n for n, _, sd in (first, second)]
    error, difference = math.sqrt(sum(v)), first[1] - second[1]
    df = sum(v) ** 2 / (v[0] ** 2 / (first[0] - 1) + v[1] ** 2 / (second[0] - 1))
    half = float(special.stdtrit(df, (1 + confidence) / 2)) * error
    t = difference / error
    return Welch(difference, difference - half, difference + half, t, df, log10_p(t, df), "")


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float] | None:
    """Wilson's score interval of a proportion (statsmodels proportion_confint; Wilson 1927); None for n = 0.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), inside [0, 1].
    """
    from statsmodels.stats.proportion import proportion_confint

    if not 0 <= successes <= n:
        raise ValueError(f"expected 0 to {n} successes, got {successes}")
    if n == 0:
        return None
    low, high = proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    return max(0.0, float(low)), min(1.0, float(high))


def mcnemar(before: Sequence[bool] | NDArray[np.bool_], after: Sequence[bool] | NDArray[np.bool_]) -> McNemar:
    """Exact McNemar test on the same items, two-sided (McNemar 1947; statsmodels mcnemar, exact=True, in logarithms).

    With b lost and c won, p = min(1, 2 P(X <= min(b, c))), X ~ Binomial(b + c, 1/2); items that keep do not count.
    Items are taken as independent of one another.
    """
    x, y = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    if x.shape != y.shape:
        raise ValueError(f"expected as many items before as after, got {x.size} and {y.size}")
    won, lost = int((~x & y).sum()), int((x & ~y).sum())
    note = "" if won + lost else "no item flips: McNemar's p is undefined"
    return McNemar(won, lost, log10_p_mcnemar(won, lost), note)


def log10_p_mcnemar(won: int, lost: int) -> float | None:
    """log10 of the exact p of `mcnemar` from the flips, finite where p itself underflows; None where no item flips.

    log p = log 2 + log sum_{k <= min(won, lost)} exp(log C(n, k) - n log 2), n = won + lost, and p is at most 1.
    """
    if won < 0 or lost < 0:
        raise ValueError(f"expected counts of flips, got {won} and {lost}")
    n, k = won + lost, np.arange(min(won, lost) + 1)
    if n == 0:
        return None
    terms = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1) - n * math.log(2)
    return min(0.0, (math.log(2) + float(special.logsumexp(terms))) / math.log(10))
