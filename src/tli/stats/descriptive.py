"""Mean, standard deviation and correlation."""

from __future__ import annotations

from typing import NamedTuple

from tli.stats.arrays import Floats, constant, finite


class Spread(NamedTuple):
    """The number of values, their mean and their SD (ddof = 1)."""

    n: int
    mean: float | None
    sd: float | None
    note: str


class Correlation(NamedTuple):
    """Linear and rank correlation of two paired samples, each in [-1, 1]."""

    n: int
    pearson: float | None
    spearman: float | None
    note: str


def mean(values: Floats) -> float:
    """sum x / n. Raises ValueError for no values."""
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
