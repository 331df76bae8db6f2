"""Measures of alignment between two sets of embeddings: one function, one definition, one source each.

Rows of X (Swahili) and Y (English) are embeddings; row i of one translates row i of the other. All in float64.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

ROWS = 16  # of 4,096 numbers: 0.5 MB


def unit(x: Float[ndarray, "n d"]) -> Float[ndarray, "n d"]:
    """Rows scaled to length 1: x / ||x||. A zero row stays zero."""
    x = np.asarray(x, dtype=np.float64)
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    scaled: Float[ndarray, "n d"] = np.divide(x, length, out=np.zeros_like(x), where=length > 0)
    return scaled


def cosine(x: Float[ndarray, "n d"], y: Float[ndarray, "n d"]) -> Float[ndarray, " n"]:
    """Row by row, cos(x_i, y_i) = x_i . y_i / (||x_i|| ||y_i||), in [-1, 1]; 0 where a row is zero."""
    return dots(unit(x), unit(y))


def dots(
    u: Float[ndarray, "n d"],
    v: Float[ndarray, "n d"],
    pairs: tuple[Int[ndarray, " m"], Int[ndarray, " m"]] | None = None,
) -> Float[ndarray, " m"]:
    """u_i . v_i, row by row, or u_i . v_j of the `pairs` (i, j): the cosine where rows have length 1 (see `unit`).

    A few rows at a time, which a processor's cache holds with their products; a row's sum is the same to the last bit.
    """
    i, j = (np.arange(len(u)),) * 2 if pairs is None else pairs
    value = np.empty(len(i))
    for start in range(0, len(i), ROWS):
        own = slice(start, start + ROWS)
        value[own] = np.sum(u[i[own]] * v[j[own]], axis=-1)
    return np.clip(value, -1.0, 1.0, out=value)


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
    k_y, k_x = min(k, similarity.shape[1]), min(k, similarity.shape[0])
    # summed from the smallest up, as a full sort would have them: the same to the last bit
    table = torch.from_numpy(similarity)
    nearest_y = table.topk(k_y, dim=1).values.numpy()[:, ::-1].mean(axis=1)
    nearest_x = table.topk(k_x, dim=0).values.numpy()[::-1, :].mean(axis=0)
    scaled: Float[ndarray, "n m"] = 2 * similarity
    scaled -= nearest_y[:, None]
    scaled -= nearest_x[None, :]
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


def centred(x: Float[ndarray, "n d"]) -> Float[ndarray, "n d"]:
    """x - mean over rows: without the direction that all rows share (Mu & Viswanath 2018, 1702.01417, algorithm 1).

    The cosine of centred rows of two sides, each less its own mean, is the centred cosine.
    """
    x = np.asarray(x, dtype=np.float64)
    moved: Float[ndarray, "n d"] = x - x.mean(axis=0)
    return moved


def standardised(x: Float[ndarray, "n d"]) -> Float[ndarray, "n d"]:
    """(x - mean) / SD, dimension by dimension: no dimension rules the cosine (Timkey & van Schijndel 2021, 2109.04404).

    A dimension without variance becomes 0.
    """
    moved = centred(x)
    spread = moved.std(axis=0)
    scaled: Float[ndarray, "n d"] = np.divide(moved, spread, out=np.zeros_like(moved), where=spread > 0)
    return scaled


def cka(x: Float[ndarray, "n d"], y: Float[ndarray, "n e"]) -> float:
    """Linear centred kernel alignment, ||Y'X||^2 / (||X'X|| ||Y'Y||), Frobenius, of centred X and Y, in [0, 1].

    Blind to rotation, to scale, to what all rows share (Kornblith et al. 2019, 1905.00414, equation 4). With fewer rows
    than dimensions it is high for unrelated X and Y too: compare it with that of a random pairing of the same rows. 0
    where all rows of a side are one.
    """
    a, b = centred(x), centred(y)
    return alignment(a.T @ a, b.T @ b, b.T @ a)


def alignment(xx: Float[ndarray, "d d"], yy: Float[ndarray, "e e"], yx: Float[ndarray, "e d"]) -> float:
    """CKA of X'X, Y'Y and Y'X of centred rows, where these are there already."""
    own = float(np.linalg.norm(xx) * np.linalg.norm(yy))
    return float(np.linalg.norm(yx) ** 2 / own) if own > 0 else 0.0


def participation_ratio(x: Float[ndarray, "n d"]) -> float:
    """(sum l)^2 / sum l^2 over the eigenvalues l of x's covariance C: over how many dimensions it spreads.

    From 1, all along one line, to min(n - 1, d), equal in all (Gao et al. 2017, doi:10.1101/214262; as a measure of
    anisotropy, Rudman et al. 2022, 2108.07344). tr(C)^2 / tr(C^2), without eigenvalues; 0 where all rows are one.
    """
    a = centred(x)
    return spread(a.T @ a)


def spread(xx: Float[ndarray, "d d"]) -> float:
    """The participation ratio of X'X of centred rows, where that is there already: C's scale cancels."""
    squared = float(np.sum(xx**2))
    return float(np.trace(xx) ** 2 / squared) if squared > 0 else 0.0
