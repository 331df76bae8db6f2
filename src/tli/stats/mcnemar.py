"""McNemar's exact test of two models on the same items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tli.stats import p_values


class McNemar(NamedTuple):
    """The items whose answer turns right or wrong between two models, and the exact two-sided p."""

    won: int  # wrong before, right after
    lost: int  # right before, wrong after
    p: float | None
    note: str


def exact(before: Sequence[bool] | NDArray[np.bool_], after: Sequence[bool] | NDArray[np.bool_]) -> McNemar:
    """Exact McNemar test on the same items, two-sided (McNemar 1947); items are taken as independent.

    The p is that of `p_value` for the numbers of items won and lost. It is undefined where no item changes.
    Raises ValueError where the two do not have the same number of items.
    """
    x, y = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    if x.shape != y.shape:
        raise ValueError(f"expected as many items before as after, got {x.size} and {y.size}")
    won, lost = int((~x & y).sum()), int((x & ~y).sum())
    p = p_value(won, lost)
    return McNemar(won, lost, p, "no item flips: McNemar's p is undefined" if p is None else p_values.clip_note(p))


def p_value(won: int, lost: int) -> float | None:
    """min(1, 2 P(X <= min(won, lost))), X ~ Binomial(won + lost, 1/2) (statsmodels mcnemar); None if both are 0.

    Raises ValueError for negative counts.
    """
    from statsmodels.stats.contingency_tables import mcnemar  # slow to import, and `verify` does not need it

    if won < 0 or lost < 0:
        raise ValueError(f"expected counts of flips, got {won} and {lost}")
    if won + lost == 0:
        return None
    return p_values.clipped(mcnemar([[0, lost], [won, 0]], exact=True).pvalue)
