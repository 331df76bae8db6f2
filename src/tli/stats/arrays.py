"""Input checks that every statistic shares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = Sequence[float] | NDArray[np.float64]


def finite(values: Floats) -> NDArray[np.float64]:
    """The values as an array. Raises ValueError unless they are a flat sequence of finite numbers."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"expected a flat sequence of finite numbers, got shape {array.shape}")
    return array


def constant(values: NDArray[np.float64]) -> bool:
    """Whether the values differ by rounding alone: by at most 1e-12 of the largest magnitude."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())
