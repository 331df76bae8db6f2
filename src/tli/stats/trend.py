"""The trend of a measure on log2(rank), with the base as the random effect."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tli.stats import p_values
from tli.stats.arrays import finite

Key = tuple[int, int, int]  # base, seed, rank


class Trend(NamedTuple):
    """The mean change of a measure per doubling of the rank, without rank 0."""

    slope: float | None
    se: float | None
    low: float | None
    high: float | None
    t: float | None
    df: int | None
    p: float | None
    units: int  # bases, or seeds where there is one base: the inference is over these
    values: int
    unit: str  # "base" | "seed"
    method: str  # "two-stage" | "mixed model" | "-"
    note: str


def slope_weights(ranks: Sequence[int]) -> NDArray[np.float64]:
    """Weights w that make sum w y the least-squares slope of y on x = log2(rank): (x_i - mean x) / sum (x - mean x)^2.

    A slope is linear in the values, so `bootstrap.cluster_bootstrap` of each item's sum_r w_r y_r bootstraps the slope.
    Raises ValueError for a rank below 1 or fewer than two different ranks.
    """
    if min(ranks, default=0) < 1 or len(set(ranks)) < 2:
        raise ValueError(f"expected two different ranks of at least 1, got {list(ranks)}")
    x = np.log2(np.asarray(ranks, dtype=np.float64))
    x -= x.mean()
    return np.asarray(x / (x @ x))


def trend(values: Mapping[Key, float], confidence: float = 0.95) -> Trend:
    """The trend on x = log2(rank) over {(base, seed, rank): value}. Rank 0 is left out, because it has no logarithm.

    Two or more bases: y = (a + a_b) + (s + s_b) x + e with random a_b, s_b of base b. Where every base has the same
    number of seeds and every seed the same ranks, the two-stage analysis is exact: the least-squares slope of each base
    over its seed x rank values, then t = mean(slopes) sqrt(k) / SD(slopes), df = k - 1 over the k bases (Matthews et
    al. 1990; Lorch & Myers 1990; equal to the mixed model's test when balanced: Murtaugh 2007). One base: the same over
    the slopes of its seeds; the result does not extend to other bases. Unbalanced: the mixed model by REML (statsmodels
    MixedLM; Laird & Ware 1982) with random s_b, and a fixed intercept for each seed of each base, so that missing
    ranks do not look like a trend; its t has df = k - 1. Where that fit is singular or does not converge: the two-stage
    analysis of the slopes that exist. `method` and `note` say which of the three it was.

    interval = slope -+ t_{df, (1 + confidence) / 2} se. Raises ValueError for negative ranks or values not finite.
    """
    if any(rank < 0 for _, _, rank in values):
        raise ValueError("expected ranks of at least 0")
    keys = sorted(key for key in values if key[2] > 0)
    y = finite([values[key] for key in keys])
    bases = {base for base, _, _ in keys}
    unit, position, scope = ("base", 0, "") if len(bases) > 1 else ("seed", 1, "one base: holds for its seeds only")
    unit_of_key = np.array([key[position] for key in keys])
    units = [np.flatnonzero(unit_of_key == name) for name in sorted(set(unit_of_key.tolist()))]
    ranks = [key[2] for key in keys]
    slopes = np.array(
        [
            slope_weights([ranks[i] for i in member]) @ (y[member] - y[member].mean())
            for member in units
            if len({ranks[i] for i in member}) > 1
        ]
    )

    def undefined(note: str, slope: float | None = None) -> Trend:
        return Trend(slope, None, None, None, None, None, None, len(slopes), len(keys), unit, "-", note)

    if not slopes.size:
        return undefined("no two ranks above 0 to draw a line through" if keys else "no values")
    mean = float(slopes.mean())
    if slopes.size < 2:
        return undefined(
            f"one {unit}: the slope has no error estimate" if len(units) == 1 else f"one {unit} has ranks", mean
        )
    method, notes = "two-stage", [scope]
    se = float(slopes.std(ddof=1)) / math.sqrt(slopes.size)
    count = slopes.size
    # The rounding error of a slope depends on the size of y, however small the slopes are.
    if np.ptp(slopes) <= 1e-12 * max(float(np.abs(slopes).max()), float(np.abs(y).max())):
        return undefined(
            "; ".join(note for note in (f"every {unit} has the same slope: no variance", scope) if note), mean
        )
    if not _balanced(keys):
        fitted = _mixed(keys, y, position)
        if isinstance(fitted, str):
            notes.append(f"unbalanced, and {fitted}: the slopes of each {unit} are tested")
            notes += [f"{len(units) - count} without a slope left out"] if count < len(units) else []
        else:
            (mean, se), method, count = fitted, "mixed model", len(units)
            notes.append("unbalanced: a mixed model by REML")
    df, t = count - 1, mean / se
    reach = float(special.stdtrit(df, (1 + confidence) / 2)) * se
    p = p_values.student(t, df)
    note = "; ".join(note for note in [*notes, p_values.clip_note(p)] if note)
    return Trend(mean, se, mean - reach, mean + reach, t, df, p, count, len(keys), unit, method, note)


def _balanced(keys: Sequence[Key]) -> bool:
    """Whether every base has the same number of seeds and every seed the same ranks."""
    ranks: dict[tuple[int, int], set[int]] = {}
    for base, seed, rank in keys:
        ranks.setdefault((base, seed), set()).add(rank)
    bases = [base for base, _ in ranks]
    return len({frozenset(some) for some in ranks.values()}) == 1 and len({bases.count(base) for base in bases}) == 1


def _mixed(keys: Sequence[Key], y: NDArray[np.float64], position: int) -> tuple[float, float] | str:
    """(slope, se) of the mixed model by REML over the units at `position` of the keys, or the reason why it fails.

    The fit uses standardised values, so that the unit of measurement does not matter.
    """
    from statsmodels.regression.mixed_linear_model import MixedLM

    x = np.log2([rank for _, _, rank in keys])
    x -= x.mean()
    adapters = sorted({key[:2] for key in keys})
    design = np.column_stack([x, *([key[:2] == adapter for key in keys] for adapter in adapters)]).astype(np.float64)
    scale = float(y.std())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # convergence and singularity are checked below
            fit = MixedLM((y - y.mean()) / scale, design, [key[position] for key in keys], exog_re=x[:, None]).fit(
                reml=True
            )
            slope, se, spread = float(fit.fe_params[0]), float(fit.bse_fe[0]), float(fit.cov_re[0, 0])
    except np.linalg.LinAlgError:
        return "the mixed model is singular"
    if not fit.converged:
        return "the mixed model does not converge"
    if not (math.isfinite(slope) and 0 < se < math.inf) or spread <= 1e-6 * fit.scale:
        return "the mixed model is singular"
    return slope * scale, se * scale
