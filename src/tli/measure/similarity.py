"""Similarity measures between two sets of embeddings: one function, one definition and one source each.

The rows of X (Swahili) and Y (English) are embeddings; row i of X and row i of Y translate each other. All measures are
computed in float64 and have no unit.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

ROWS = 16  # rows multiplied at a time: with 4,096 numbers each, 0.5 MB, which fits in the cache


def unit(x: Float[ndarray, "n d"]) -> Float[ndarray, "n d"]:
    """Scales each row to length 1: x_i / ||x_i||, in float64. A zero row stays zero."""
    x = np.asarray(x, dtype=np.float64)
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    unit_rows: Float[ndarray, "n d"] = np.divide(x, length, out=np.zeros_like(x), where=length > 0)
    return unit_rows


def cosine(x: Float[ndarray, "n d"], y: Float[ndarray, "n d"]) -> Float[ndarray, " n"]:
    """cos(x_i, y_i) = x_i . y_i / (||x_i|| ||y_i||) for each row i, in [-1, 1]; 0 if a row is zero."""
    return dots(unit(x), unit(y))


def dots(
    u: Float[ndarray, "n d"],
    v: Float[ndarray, "n d"],
    pairs: tuple[Int[ndarray, " m"], Int[ndarray, " m"]] | None = None,
) -> Float[ndarray, " m"]:
    """u_i . v_i for each row i, or u_i . v_j for each of the `pairs` (i, j); clipped to [-1, 1].

    This is the cosine if the rows have length 1 (see `unit`). It works on ROWS rows at a time, so that the products
    stay in the processor's cache; each sum is the same to the last bit.
    """
    i, j = (np.arange(len(u)),) * 2 if pairs is None else pairs
    products = np.empty(len(i))
    for start in range(0, len(i), ROWS):
        chunk = slice(start, start + ROWS)
        products[chunk] = np.sum(u[i[chunk]] * v[j[chunk]], axis=-1)
    return np.clip(products, -1.0, 1.0, out=products)


def similarities(x: Float[ndarray, "n d"], y: Float[ndarray, "m d"]) -> Float[ndarray, "n m"]:
    """The matrix of cosines, s_ij = cos(x_i, y_j), in [-1, 1]."""
    cosines: Float[ndarray, "n m"] = np.clip(unit(x) @ unit(y).T, -1.0, 1.0)
    return cosines


def derangement(n: int, seed: int) -> Int[ndarray, " n"]:
    """A random permutation p of 0 … n - 1 without a fixed point: p(i) is the successor of i in a random cycle.

    Uniform over the (n - 1)! cyclic permutations (Sattolo 1986). The random-pair baseline pairs x_i with y_{p(i)}.

    Raises:
        ValueError: n < 2; every permutation then has a fixed point.
    """
    if n < 2:
        raise ValueError(f"a pairing without a fixed point needs 2 pairs or more, got {n}")
    cycle = np.random.default_rng(seed).permutation(n)
    successor = np.empty(n, dtype=np.int64)
    successor[cycle] = np.roll(cycle, -1)
    return successor


def csls(similarity: Float[ndarray, "n m"], k: int = 10) -> Float[ndarray, "n m"]:
    """Cross-domain similarity local scaling, 2 cos(x, y) - r(x) - r(y) (1710.04087, equation 5).

    r(x) is the mean cosine of x to its k nearest y, and r(y) the mean cosine of y to its k nearest x. k is at most the
    number of candidates. `similarity` is the matrix of cosines (see `similarities`).
    """
    k_y, k_x = min(k, similarity.shape[1]), min(k, similarity.shape[0])
    # in ascending order, as a full sort gives them, so that the sums are the same to the last bit
    tensor = torch.from_numpy(similarity)
    nearest_y = tensor.topk(k_y, dim=1).values.numpy()[:, ::-1].mean(axis=1)
    nearest_x = tensor.topk(k_x, dim=0).values.numpy()[::-1, :].mean(axis=0)
    scaled: Float[ndarray, "n m"] = 2 * similarity
    scaled -= nearest_y[:, None]
    scaled -= nearest_x[None, :]
    return scaled


def ranks(similarity: Float[ndarray, "n m"], targets: Int[ndarray, " n"]) -> Int[ndarray, " n"]:
    """Rank of each query's translation among all candidates: |{j: s_ij >= s_it}|, with t the target of query i.

    The best rank is 1. A candidate that ties with the translation counts as ranked before it.
    """
    target_similarity = similarity[np.arange(len(targets)), targets]
    rank_of_target: Int[ndarray, " n"] = np.sum(similarity >= target_similarity[:, None], axis=1)
    return rank_of_target


def precision_at(rank: Int[ndarray, " n"], k: int) -> float:
    """P@k = mean of [rank <= k]: the share of queries with their translation among the k nearest, in [0, 1].

    Source: 1309.4168.
    """
    return float(np.mean(rank <= k))


def reciprocal_rank(rank: Int[ndarray, " n"]) -> float:
    """Mean reciprocal rank, MRR = mean of 1 / rank, in (0, 1]."""
    return float(np.mean(1.0 / rank))


def centred(x: Float[ndarray, "n d"]) -> Float[ndarray, "n d"]:
    """x - mean over rows: removes the direction that all rows share (Mu & Viswanath 2018, 1702.01417, algorithm 1).

    The centred cosine is the cosine of centred rows, where each language is centred by its own mean.
    """
    x = np.asarray(x, dtype=np.float64)
    centred_rows: Float[ndarray, "n d"] = x - x.mean(axis=0)
    return centred_rows


def standardised(x: Float[ndarray, "n d"]) -> Float[ndarray, "n d"]:
    """(x - mean) / SD in each dimension, so that no dimension dominates the cosine.

    A dimension without variance becomes 0. Source: Timkey & van Schijndel 2021, 2109.04404.
    """
    centred_rows = centred(x)
    deviation = centred_rows.std(axis=0)
    standardised_rows: Float[ndarray, "n d"] = np.divide(
        centred_rows, deviation, out=np.zeros_like(centred_rows), where=deviation > 0
    )
    return standardised_rows


def cka(x: Float[ndarray, "n d"], y: Float[ndarray, "n e"]) -> float:
    """Linear centred kernel alignment, ||Y'X||^2 / (||X'X|| ||Y'Y||) in Frobenius norms of centred X and Y, in [0, 1].

    It does not change under rotation, scaling or translation of X or Y (Kornblith et al. 2019, 1905.00414, equation 4).
    With fewer rows than dimensions it is high for unrelated X and Y too, so compare it with the CKA of a random pairing
    of the same rows. It is 0 if all rows of X or of Y are equal.
    """
    a, b = centred(x), centred(y)
    return cka_from_products(a.T @ a, b.T @ b, b.T @ a)


def cka_from_products(xx: Float[ndarray, "d d"], yy: Float[ndarray, "e e"], yx: Float[ndarray, "e d"]) -> float:
    """CKA from the products X'X, Y'Y and Y'X of centred rows (see `cka`)."""
    norms = float(np.linalg.norm(xx) * np.linalg.norm(yy))
    return float(np.linalg.norm(yx) ** 2 / norms) if norms > 0 else 0.0


def participation_ratio(x: Float[ndarray, "n d"]) -> float:
    """(sum l)^2 / sum l^2 over the eigenvalues l of the covariance C of x: the effective number of dimensions.

    Computed as tr(C)^2 / tr(C^2), without eigenvalues. It ranges from 1 (all rows on one line) to min(n - 1, d) (equal
    variance in all directions); it is 0 if all rows are equal. Sources: Gao et al. 2017, doi:10.1101/214262; as a
    measure of anisotropy, Rudman et al. 2022, 2108.07344.
    """
    a = centred(x)
    return participation_ratio_from_product(a.T @ a)


def participation_ratio_from_product(xx: Float[ndarray, "d d"]) -> float:
    """The participation ratio from X'X of centred rows (see `participation_ratio`); the scale of C cancels."""
    squared = float(np.sum(xx**2))
    return float(np.trace(xx) ** 2 / squared) if squared > 0 else 0.0
