"""Holm's correction within a declared family of tests, on log10 p (the robustness summary and every table of tests)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Holm(NamedTuple):
    """A family's tests after Holm's correction, in the order they came in."""

    size: int  # tests declared, those without a p included
    adjusted: tuple[float | None, ...]  # log10 of the adjusted p
    rejected: tuple[bool, ...]
    note: str


def holm(log10_p: Sequence[float | None], alpha: float = 0.05) -> Holm:
    """Holm's step-down procedure (Holm 1979), which keeps P(any false rejection) at or below alpha.

    With p_(1) <= ... <= p_(m): adjusted p_(i) = min(1, max_{j <= i} (m - j + 1) p_(j)), here as logarithms, so that a p
    too small for a float stays what it is; rejected where adjusted p < alpha. A test without a p (None) counts in m,
    as the family was declared before the run, and is never rejected. Raises ValueError for a log10 p above 0 or not
    finite.
    """
    for value in log10_p:
        if value is not None and not -math.inf < value <= 0:
            raise ValueError(f"expected log10 p at or below 0, got {value}")
    m, missing = len(log10_p), sum(value is None for value in log10_p)
    adjusted: list[float | None] = [None] * m
    highest = -math.inf
    defined = sorted((value, index) for index, value in enumerate(log10_p) if value is not None)
    for done, (value, index) in enumerate(defined):
        highest = max(highest, min(0.0, value + math.log10(m - done)))
        adjusted[index] = highest
    rejected = tuple(value is not None and value < math.log10(alpha) for value in adjusted)
    note = f"{missing} of the family's {m} tests have no p; they count and are not rejected" if missing else ""
    return Holm(m, tuple(adjusted), rejected, "the family has no tests" if m == 0 else note)
