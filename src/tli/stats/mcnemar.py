"""McNemar's exact test of two models on the same items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special


class McNemar(NamedTuple):
    """Flips of correctness between two models on the same items, and the exact two-sided p."""

    won: int  # wrong before, right after
    lost: int  # right before, wrong after
    log10_p: float | None
    note: str


def exact(before: Sequence[bool] | NDArray[np.bool_], after: Sequence[bool] | NDArray[np.bool_]) -> McNemar:
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
