"""p of a test statistic."""

from __future__ import annotations

import math

from scipy import special


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
