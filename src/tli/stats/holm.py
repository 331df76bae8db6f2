"""Holm's correction of the p-values of a declared family of tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Holm(NamedTuple):
    """A family's tests after Holm's correction, in the order of the input."""

    size: int  # tests declared, those without a p included
    adjusted: tuple[float | None, ...]  # adjusted p
    rejected: tuple[bool, ...]
    note: str


def holm(p: Sequence[float | None], alpha: float = 0.05) -> Holm:
    """Holm's step-down procedure (Holm 1979; statsmodels multipletests), which keeps P(any false rejection) <= alpha.

    With p_(1) <= ... <= p_(m): adjusted p_(i) = min(1, max_{j <= i} (m - j + 1) p_(j)); a test is rejected where its
    adjusted p < alpha. A test without a p (None) counts in m, because the family was declared before the run; it is
    never rejected. Of a p clipped at 1e-300 the adjusted p is an upper bound. Raises ValueError for a p outside (0, 1].
    """
    from statsmodels.stats.multitest import multipletests

    for value in p:
        if value is not None and not 0 < value <= 1:
            raise ValueError(f"expected p above 0 and at most 1, got {value}")
    if not p:
        return Holm(0, (), (), "the family has no tests")
    # A missing p counts as 1: it sorts last, so that every p is multiplied as if the test had been made.
    corrected = multipletests([1.0 if value is None else value for value in p], alpha, method="holm")[1]
    adjusted = tuple(None if value is None else float(new) for value, new in zip(p, corrected, strict=True))
    rejected = tuple(value is not None and value < alpha for value in adjusted)
    missing = sum(value is None for value in p)
    note = f"{missing} of the family's {len(p)} tests have no p; they count and are not rejected" if missing else ""
    return Holm(len(p), adjusted, rejected, note)
