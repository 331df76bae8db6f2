"""Measures of alignment between two sets of embeddings: one function, one definition, one source each.

Rows of X (Swahili) and Y (English) are embeddings; row i of one translates row i of the other. All in float64.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray


def unit(x: Float[ndarray, "n d"]) -> Float[ndarray, "n d"]:
    """Rows scaled to length 1: x / ||x||. A zero row stays zero."""
    x = np.asarray(x, dtype=np.float64)
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    scaled: Float[ndarray, "n d"] = np.divide(x, length, out=np.zeros_like(x), where=length > 0)
    return scaled


def cosine(x: Float[ndarray, "n d"], y: Float[ndarray, "n d"]) -> Float[ndarray, " n"]:
    """Row by row, cos(x_i, y_i) = x_i . y_i / (||x_i|| ||y_i||), in [-1, 1]; 0 where a row is zero."""
    value: Float[ndarray, " n"] = np.clip(np.sum(unit(x) * unit(y), axis=-1), -1.0, 1.0)
    return value


def similarities(x: Float[ndarray, "n d"], y: Float[ndarray, "m d"]) -> Float[ndarray, "n m"]:
    """Every cosine between a row of x and a row of y."""
    value: Float[ndarray, "n m"] = np.clip(unit(x) @ unit(y).T, -1.0, 1.0)
    return value


def derangement(n: int, seed: int) -> Int[ndarray, " n"]:
    """A random pairing without a fixed point: i -> its successor in a random cycle through 0 … n - 1.

    Uniform over the (n - 1)! cyclic permutations (Sattolo 1986). The random-pair control pairs x_i with y_{p(i)}.

    Raises:
        ValueError: n < 2, where every pairing has a fixed point.
    """
    if n < 2:
        raise ValueError(f"a pairing without a fixed point needs 2 pairs or more, got {n}")
    cycle = np.random.default_rng(seed).permutation(n)
    successor = np.empty(n, dtype=np.int64)
    successor[cycle] = np.roll(cycle, -1)
    return successor


def csls(similarity: Float[ndarray, "n m"], k: int = 10) -> Float[ndarray, "n m"]:
    """Cross-domain similarity local scaling, 2 cos(x, y) - r(x) - r(y) (1710.04087, equation 5).

    r(x) is the mean cosine of x to its k nearest y, r(y) that of y to its k nearest x; k is cut to what there is.
    """
    nearest_y = np.sort(similarity, axis=1)[:, -k:].mean(axis=1)
    nearest_x = np.sort(similarity, axis=0)[-k:, :].mean(axis=0)
    scaled: Float[ndarray, "n m"] = 2 * similarity - nearest_y[:, None] - nearest_x[None, :]
    return scaled


def ranks(similarity: Float[ndarray, "n m"], targets: Int[ndarray, " n"]) -> Int[ndarray, " n"]:
    """Rank of each query's translation among all candidates, from 1. Ties count against it."""
    true = similarity[np.arange(len(targets)), targets]
    ranked: Int[ndarray, " n"] = np.sum(similarity >= true[:, None], axis=1)
    return ranked


def precision_at(rank: Int[ndarray, " n"], k: int) -> float:
    """P@k: the share of queries whose translation is among the k nearest candidates, in [0, 1] (1309.4168)."""
    return float(np.mean(rank <= k))


def reciprocal_rank(rank: Int[ndarray, " n"]) -> float:
    """Mean reciprocal rank, mean of 1 / rank, in (0, 1]."""
    return float(np.mean(1.0 / rank))
