"""Equivalence tests: whether an effect is smaller than a margin that was declared before the run."""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy import special

from tli.stats import p_values
from tli.stats.arrays import Floats, constant, finite

EQUIVALENT = "equivalent"
DIFFERENT = "different"
NEITHER = "neither"
BOTH = "both: different but within the margin"


class Equivalence(NamedTuple):
    """Two one-sided tests (TOST) against -margin and +margin, beside the two-sided test against 0."""

    estimate: float | None
    se: float | None
    df: float | None
    margin: float
    low: float | None  # interval at confidence 1 - 2 alpha
    high: float | None
    p_lower: float | None  # H0: effect <= -margin
    p_upper: float | None  # H0: effect >= +margin
    p: float | None  # of equivalence: the larger of the two
    p_zero: float | None  # two-sided, H0: effect = 0
    verdict: str | None
    note: str


def tost(differences: Floats, margin: float, alpha: float = 0.05) -> Equivalence:
    """TOST of the mean of paired differences, or of slopes over bases or seeds.

    `tost_estimate` with estimate = mean(D), se = SD(D) / sqrt(n), df = n - 1 (Schuirmann 1987; Lakens 2017, paired
    samples). With fewer than two differences, or none that differ, p and verdict are None and the note says why.
    """
    d = finite(differences)
    if not d.size:
        return _undefined(None, margin, alpha, "no differences")
    estimate = float(d.mean())
    if d.size < 2:
        return _undefined(estimate, margin, alpha, "one difference: its error is unknown")
    if constant(d):
        return _undefined(estimate, margin, alpha, "every difference is alike: the t-tests are undefined")
    return tost_estimate(estimate, float(d.std(ddof=1)) / math.sqrt(d.size), d.size - 1, margin, alpha)


def tost_estimate(estimate: float, se: float, df: float, margin: float, alpha: float = 0.05) -> Equivalence:
    """TOST of any estimate with a t distribution (a trend's slope: `tost_estimate(slope, se, df, margin)`).

    t_lower = (estimate + margin) / se, p_lower = P(T_df >= t_lower); t_upper = (estimate - margin) / se,
    p_upper = P(T_df <= t_upper); p = max(p_lower, p_upper) (Schuirmann 1987; Berger & Hsu 1996). The interval is
    estimate -+ t_{df, 1 - alpha} se; it lies inside (-margin, margin) if and only if p < alpha.

    Raises ValueError for a margin or se that is not positive, df < 1, or alpha outside (0, 0.5).
    """
    _check(margin, alpha)
    if not (math.isfinite(estimate) and 0 < se < math.inf and 1 <= df < math.inf):
        raise ValueError(f"expected a finite estimate, se > 0 and df >= 1, got {estimate}, {se}, {df}")
    reach = float(special.stdtrit(df, 1 - alpha)) * se
    p_lower = p_values.student_above((estimate + margin) / se, df)
    p_upper = p_values.student_above((margin - estimate) / se, df)
    p, p_zero = max(p_lower, p_upper), p_values.student(estimate / se, df)
    low, high, note = estimate - reach, estimate + reach, p_values.clip_note(p, p_zero)
    decided = verdict(p, p_zero, alpha)
    return Equivalence(estimate, se, df, margin, low, high, p_lower, p_upper, p, p_zero, decided, note)


def verdict(p: float, p_zero: float, alpha: float) -> str:
    """The verdict of an equivalence test with `p` and a two-sided test against 0 with `p_zero` (Lakens 2017).

    `equivalent`  p < alpha <= p_zero
    `different`   p_zero < alpha <= p
    `both: different but within the margin`  both below alpha
    `neither`     both at or above alpha: the data do not decide
    """
    if p < alpha:
        return BOTH if p_zero < alpha else EQUIVALENT
    return DIFFERENT if p_zero < alpha else NEITHER


def _check(margin: float, alpha: float) -> None:
    if not (0 < margin < math.inf and 0 < alpha < 0.5):
        raise ValueError(f"expected margin > 0 and alpha in (0, 0.5), got {margin} and {alpha}")


def _undefined(estimate: float | None, margin: float, alpha: float, note: str) -> Equivalence:
    _check(margin, alpha)
    return Equivalence(estimate, None, None, margin, None, None, None, None, None, None, None, note)
