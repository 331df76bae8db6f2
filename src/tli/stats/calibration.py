"""Expected calibration error and Brier score over the choices of multiple-choice items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special


class Calibration(NamedTuple):
    """How well the probabilities of the choices match the accuracy."""

    n: int
    ece: float | None  # in [0, 1], 0 is best
    brier: float | None  # in [0, 2], 0 is best
    confidence: float | None  # mean probability of the predicted choice
    accuracy: float | None
    note: str


def calibration(
    log_likelihoods: Sequence[Sequence[float]] | NDArray[np.float64],  # (items, choices)
    labels: Sequence[int] | NDArray[np.int64],  # (items,)
    bins: int = 15,
) -> Calibration:
    """Expected calibration error and Brier score of p = softmax of the log-likelihoods of an item's choices.

    The prediction is the choice with the largest p, the first of equals; conf is its p.
    ECE = sum_m |B_m| / n |accuracy(B_m) - mean conf(B_m)| over `bins` bins ((m - 1) / bins, m / bins] of conf
    (Guo et al. 2017, eq. 5). Brier = mean over items of sum_k (p_k - [k is right])^2 (Brier 1950); with two choices
    this is twice the score of a single event. Raises ValueError for shapes or labels that do not fit each other and
    for values that are not finite.
    """
    scores, right = np.asarray(log_likelihoods, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if not scores.size and not right.size:
        return Calibration(0, None, None, None, None, "no items")
    if scores.ndim != 2 or right.shape != scores.shape[:1] or bins < 1 or not np.isfinite(scores).all():
        raise ValueError(f"expected finite (items, choices) and a label each, got {scores.shape} and {right.shape}")
    if right.min() < 0 or right.max() >= scores.shape[1]:
        raise ValueError(f"expected labels from 0 to {scores.shape[1] - 1}, got {right.min()} to {right.max()}")
    p = special.softmax(scores, axis=1)
    hit = scores.argmax(axis=1) == right
    conf = p.max(axis=1)
    bin_ = np.clip(np.ceil(conf * bins).astype(np.int64) - 1, 0, bins - 1)
    ece = np.abs(np.bincount(bin_, hit - conf, bins)).sum() / len(right)
    brier = ((p - np.eye(scores.shape[1])[right]) ** 2).sum(axis=1).mean()
    return Calibration(len(right), float(ece), float(brier), float(conf.mean()), float(hit.mean()), "")
