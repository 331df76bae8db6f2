"""The paired t-test and Welch's t-test, from the values or from their published summary.

A statistic that the input leaves undefined (n < 2, no variance) is None, and the note says why; nothing returns NaN or
infinity.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy import special

from tli.stats import p_values
from tli.stats.arrays import Floats, constant, finite
from tli.stats.descriptive import spread


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
    p: float | None  # two-sided
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
    p: float | None  # two-sided
    note: str


def paired(before: Floats, after: Floats, confidence: float = 0.95) -> Paired:
    """The paired t-test of after - before (scipy.stats.ttest_rel), two-sided, and Cohen's d_z.

    With D = after - before: t = mean(D) sqrt(n) / SD(D), df = n - 1; d_z = mean(D) / SD(D) (Cohen 1988, 2.3.5;
    Lakens 2013); interval = mean(D) -+ t_{df, (1 + confidence) / 2} SD(D) / sqrt(n). Raises ValueError where the two
    differ in length.
    """
    from scipy import stats as scipy_stats  # imported here, because it is slow and `verify` does not need it

    x, y = finite(before), finite(after)
    if x.shape != y.shape:
        raise ValueError(f"expected as many values before as after, got {x.size} and {y.size}")
    d = y - x
    start, end, gain = spread(x), spread(y), spread(d)
    decreased = int((d < 0).sum())
    low = high = t = p = d_z = None
    note = gain.note
    if gain.n >= 2 and constant(d):
        note = "every pair changes alike: t, p, d_z and the interval are undefined"
    elif gain.n >= 2 and gain.mean is not None and gain.sd is not None:
        test = scipy_stats.ttest_rel(y, x)
        interval = test.confidence_interval(confidence)
        t, low, high = float(test.statistic), float(interval.low), float(interval.high)
        p, d_z = p_values.clipped(test.pvalue), gain.mean / gain.sd
        note = p_values.clip_note(p)
    means = (start.mean, start.sd, end.mean, end.sd, gain.mean, gain.sd)
    return Paired(gain.n, *means, low, high, t, p, d_z, decreased, note)


def paired_from_summary(n: int, gain: float, gain_sd: float) -> tuple[float, float, float]:
    """(t, p, d_z) of a paired t-test from its summary: t = gain sqrt(n) / SD, df = n - 1, d_z = gain / SD.

    It recomputes published statistics from the published n, mean and SD. Raises ValueError for n < 2 or SD = 0.
    """
    if n < 2 or gain_sd <= 0:
        raise ValueError(f"expected n >= 2 and SD > 0, got n {n}, SD {gain_sd}")
    t = gain * math.sqrt(n) / gain_sd
    return t, p_values.student(t, n - 1), gain / gain_sd


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
    test = scipy_stats.ttest_ind(x, y, equal_var=False)
    interval, p = test.confidence_interval(confidence), p_values.clipped(test.pvalue)
    low, high = float(interval.low), float(interval.high)
    return Welch(difference, low, high, float(test.statistic), float(test.df), p, p_values.clip_note(p))


def welch_from_summary(
    first: tuple[int, float, float], second: tuple[int, float, float], confidence: float = 0.95
) -> Welch:
    """Welch's t-test from (n, mean, SD) of each side, for published summaries; each n >= 2 and SD > 0.

    With v_i = s_i^2 / n_i: t = (m1 - m2) / sqrt(v1 + v2), df = (v1 + v2)^2 / (v1^2 / (n1 - 1) + v2^2 / (n2 - 1)),
    interval = m1 - m2 -+ t_{df, (1 + confidence) / 2} sqrt(v1 + v2). scipy.stats.ttest_ind_from_stats gives the same t
    and p, but neither df nor the interval.
    """
    if min(first[0], second[0]) < 2 or min(first[2], second[2]) <= 0:
        raise ValueError(f"expected n >= 2 and SD > 0 on each side, got {first} and {second}")
    v = [sd**2 / n for n, _, sd in (first, second)]
    error, difference = math.sqrt(sum(v)), first[1] - second[1]
    df = sum(v) ** 2 / (v[0] ** 2 / (first[0] - 1) + v[1] ** 2 / (second[0] - 1))
    half = float(special.stdtrit(df, (1 + confidence) / 2)) * error
    t = difference / error
    p = p_values.student(t, df)
    return Welch(difference, difference - half, difference + half, t, df, p, p_values.clip_note(p))
