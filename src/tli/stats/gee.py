"""Odds of a right answer by generalised estimating equations: with an adapter, and per doubling of its rank."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from tli.stats import p_values
from tli.stats.bootstrap import Groups
from tli.stats.trend import Key

Answers = Sequence[bool] | NDArray[np.bool_]


class Odds(NamedTuple):
    """A log-odds coefficient and its odds ratio with an interval."""

    log_odds: float | None
    se: float | None
    ratio: float | None
    low: float | None
    high: float | None
    p: float | None


class Gee(NamedTuple):
    """Population-averaged effects on the odds that an item is answered correctly."""

    items: int
    clusters: int
    cells: int
    adapter: Odds  # any rank compared with rank 0, at the mean log2(rank) of the adapters
    doubling: Odds  # per doubling of the rank, among ranks above 0
    correlation: float | None  # between two answers to one item, given the model
    note: str


NONE = Odds(None, None, None, None, None, None)


def gee(correct: Mapping[Key, Answers], groups: Groups | None = None, confidence: float = 0.95) -> Gee:
    """Generalised estimating equations over {(base, seed, rank): whether each item is right}.

    The items of a base are in the same order in all of its rows.

    logit P(right) = b_0 + b_base + b_a [rank > 0] + b_r [rank > 0] (log2 rank - mean), the mean over the adapters;
    binomial variance, exchangeable correlation within an item (Liang & Zeger 1986; statsmodels GEE), covariance with
    the small-sample correction of Mancl & DeRouen (2001), z = b / se, ratio = exp(b). Bases are fixed effects here: the
    inference is over items, for these bases and seeds; `trend` infers over bases. Without `groups` all bases answer the
    same items, and each item is a cluster. With `groups` every base has items of its own, and the items of a base that
    share a group (a premise of XNLI) are a cluster.

    The effects are None, and the note says why, where nothing varies or where the answers are separated, so that no
    maximum likelihood estimate exists (Albert & Anderson 1984; tested by linear programming as in Konis 2007). Raises
    ValueError for rows of different lengths or a negative rank.
    """
    keys = sorted(correct)
    sizes = {len(correct[key]) for key in keys}
    bases = sorted({base for base, _, _ in keys})
    of_base = {} if groups is None else {base: groups[base] for base in bases}
    if len(sizes) > 1 or any(rank < 0 for _, _, rank in keys) or {len(some) for some in of_base.values()} - sizes:
        raise ValueError(f"expected as many items in each cell and ranks of at least 0, got {sorted(sizes)}")
    if not sizes or sizes == {0}:
        return Gee(0, 0, len(keys), NONE, NONE, None, "no answers")
    right = np.array([np.asarray(correct[key], dtype=bool) for key in keys])
    whole = np.arange(len(keys))
    parts = [whole] if groups is None else [whole[[key[0] == base for key in keys]] for base in bases]
    names, clusters = [], 0
    for part, shared in zip(parts, [None] if groups is None else of_base.values(), strict=True):
        order = np.lexsort(right[part])  # the order of the items does not matter
        right[part] = right[np.ix_(part, order)]
        number: dict[object, int] = {}  # clusters by first appearance: their names do not matter either
        of_items = [number.setdefault(at if shared is None else shared[at], len(number)) for at in order]
        names.append(clusters + np.array(of_items))
        clusters += len(number)
    items = right.shape[1] * len(parts)
    design, at = _design(keys)

    def undefined(note: str) -> Gee:
        return Gee(items, clusters, len(keys), NONE, NONE, None, note)

    if not at:
        return undefined("one rank alone: nothing to compare")
    if right.all() or not right.any():
        return undefined("every answer is right" if right.all() else "every answer is wrong")
    if clusters < 2:
        return undefined("one cluster of items: its error is unknown")
    if all((right[part] == right[part[0]]).all() for part in parts):
        return undefined("no item's answer differs between cells: the odds ratios are 1 without error")
    if _separated(design, right):
        return undefined("the answers are separated: an odds ratio is 0 or infinite")
    fit = _fit(design, right, parts, names)
    if fit is None:
        return undefined("the estimating equations do not converge or are singular")
    params, errors, correlation = fit
    wide = float(special.ndtri((1 + confidence) / 2))
    odds = {name: _odds(float(params[column]), float(errors[column]), wide) for name, column in at.items()}
    missing = {"adapter": "no rank 0, or only rank 0", "doubling": "fewer than two ranks above 0"}
    notes = [reason for name, reason in missing.items() if name not in at]
    notes += filter(None, [p_values.clip_note(*(one.p for one in odds.values()))])
    adapter, doubling = (odds.get(name, NONE) for name in missing)
    return Gee(items, clusters, len(keys), adapter, doubling, correlation, "; ".join(notes))


def _design(keys: Sequence[Key]) -> tuple[NDArray[np.float64], dict[str, int]]:
    """(cells, columns): intercept, bases after the first, adapter, log2(rank); and the columns of the two effects."""
    bases = sorted({base for base, _, _ in keys})
    ranks = np.array([rank for _, _, rank in keys], dtype=np.float64)
    adapted = ranks > 0
    columns = [np.ones(len(keys)), *(np.array([float(key[0] == base) for key in keys]) for base in bases[1:])]
    at = {}
    if adapted.any() and not adapted.all():
        at["adapter"] = len(columns)
        columns.append(adapted.astype(np.float64))
    if len(set(ranks[adapted].tolist())) > 1:
        doublings = np.log2(np.where(adapted, ranks, 1.0))
        at["doubling"] = len(columns)
        columns.append(np.where(adapted, doublings - doublings[adapted].mean(), 0.0))
    return np.column_stack(columns), at


def _separated(design: NDArray[np.float64], right: NDArray[np.bool_]) -> bool:
    """Whether some b has x b >= 0 for every right answer and x b <= 0 for every wrong one, and is not 0 for all."""
    rows = np.concatenate([design[right.any(axis=1)], -design[~right.all(axis=1)]])
    best = optimize.linprog(-rows.sum(axis=0), A_ub=-rows, b_ub=np.zeros(len(rows)), bounds=(-1, 1))
    return bool(-best.fun > 1e-7)


def _fit(
    design: NDArray[np.float64],
    right: NDArray[np.bool_],
    parts: Sequence[NDArray[np.int64]],
    names: Sequence[NDArray[np.int64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64], float] | None:
    """Coefficients, their errors and the correlation; None if the fit does not converge or is singular.

    `parts` are the rows that answer one list of items, `names` the clusters of these items.
    """
    from statsmodels.genmod.cov_struct import Exchangeable
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_estimating_equations import GEE
    from statsmodels.tools.sm_exceptions import ModelWarning

    model = GEE(
        np.concatenate([right[part].T.ravel() for part in parts]).astype(np.float64),
        np.concatenate([np.tile(design[part], (right.shape[1], 1)) for part in parts]),
        np.concatenate([np.repeat(some, part.size) for part, some in zip(parts, names, strict=True)]),
        family=Binomial(),
        cov_struct=Exchangeable(),
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", ModelWarning)  # not converged, or singular
            fit = model.fit(cov_type="bias_reduced", maxiter=100, ctol=1e-8)
            params, errors = np.asarray(fit.params), np.asarray(fit.bse)
    except (np.linalg.LinAlgError, ModelWarning):
        return None
    if not (np.isfinite(params).all() and np.isfinite(errors).all() and (errors > 0).all()):
        return None
    return params, errors, float(model.cov_struct.dep_params)


def _odds(log_odds: float, se: float, wide: float) -> Odds:
    low, high = log_odds - wide * se, log_odds + wide * se
    inside = all(abs(value) < 700 for value in (low, high))  # exp overflows beyond
    ratio, low_ratio, high_ratio = (math.exp(value) if inside else None for value in (log_odds, low, high))
    return Odds(log_odds, se, ratio, low_ratio, high_ratio, p_values.normal(log_odds / se))
