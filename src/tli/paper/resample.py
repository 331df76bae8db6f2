"""Bootstrap intervals of a mean change: over items, and over bases, seeds and items at once (transfer tables)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tli.paper.stats import Floats, finite

CELLS = 4_000_000  # numbers held at once: 32 MB


class Bootstrap(NamedTuple):
    """A mean change with a percentile interval."""

    estimate: float | None
    low: float | None
    high: float | None
    se: float | None  # SD of the draws
    bases: int
    seeds: int  # adapters over all bases
    items: int
    draws: int
    note: str


def paired_bootstrap(
    before: Floats,
    after: Floats,
    *,
    draws: int,
    seed: int,
    confidence: float = 0.95,
    groups: Sequence[str] | None = None,
) -> Bootstrap:
    """The mean of after - before over items, resampled item by item (Efron & Tibshirani 1993, ch. 13; Koehn 2004).

    Correctness as 0 and 1 gives the change of accuracy; log-likelihood margins give their change. The
    `cluster_bootstrap` of one base and one seed. Raises ValueError where the two do not pair.
    """
    x, y = finite(before), finite(after)
    if x.shape != y.shape:
        raise ValueError(f"expected as many items before as after, got {x.size} and {y.size}")
    found = cluster_bootstrap({(0, 0): y - x}, draws=draws, seed=seed, confidence=confidence, groups=groups)
    return found._replace(note="; ".join(note for note in found.note.split("; ") if not note.startswith("one base")))


def cluster_bootstrap(
    changes: Mapping[tuple[int, int], Floats],
    *,
    draws: int,
    seed: int,
    confidence: float = 0.95,
    groups: Sequence[str] | None = None,
) -> Bootstrap:
    """The mean over bases of the mean over seeds of the mean over items, from {(base, seed): change of each item}.

    Each draw takes, with replacement, as many bases as there are, within each drawn base as many of its seeds as it has
    (Davison & Hinkley 1997, 3.8), and one sample of the items for all of them, since every adapter answers the same
    items (the pigeonhole bootstrap, Owen 2007: on the safe side, as it counts what neither side shares three times).
    With `groups` (a premise of XNLI shared by three items) whole groups are drawn, and the mean is their sum over their
    size. The interval is the percentile one: quantiles (1 -+ confidence) / 2 of the draws (Efron & Tibshirani 1993,
    13.3). A level of one unit is not resampled, and where k bases dominate the variance the interval covers about
    P(|t_{k-1}| < z sqrt((k - 1) / k)), less than its name (Cameron, Gelbach & Miller 2008).

    Units are put in an order of their values first, so that the order and the names they come with change nothing (two
    seeds of one base that have the same values in another order keep the order of their names).
    Raises ValueError where rows differ in length or hold what is not finite.
    """
    rows = {key: finite(values) for key, values in changes.items()}
    sizes = {row.size for row in rows.values()}
    if len(sizes) > 1 or (groups is not None and {len(groups)} != sizes) or draws < 1:
        raise ValueError(f"expected as many items in each row, and a draw at least, got {sorted(sizes)}, {draws}")
    items = sizes.pop() if sizes else 0
    if not items:
        return Bootstrap(None, None, None, None, 0, 0, 0, draws, "no items")
    values, starts = _ordered(rows)
    sums, weight = _grouped(values, groups)
    adapters = np.diff(starts)
    share = np.repeat(1 / (len(adapters) * adapters), adapters)
    estimate = float(share @ values.mean(axis=1))
    note = _note(adapters)
    alike = np.ptp(values) <= 1e-12 * np.abs(values).max()
    if alike or sums.shape[1] < 2:
        reason = "no change varies" if alike and items > 1 else f"one {'item' if groups is None else 'group'}: no error"
        return Bootstrap(estimate, None, None, None, len(adapters), len(values), items, draws, reason)
    rng = np.random.default_rng(seed)
    found = np.empty(draws)
    step = max(1, CELLS // max(sums.shape))
    for first in range(0, draws, step):
        some = min(step, draws - first)
        of_rows, of_items = _row_weights(rng, starts, some), _counts(rng, sums.shape[1], some)
        found[first : first + some] = ((of_rows @ sums) * of_items).sum(axis=1) / (of_items @ weight)
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    se = float(found.std(ddof=1)) if draws > 1 else None
    return Bootstrap(estimate, float(low), float(high), se, len(adapters), len(values), items, draws, note)


def _note(adapters: NDArray[np.int64]) -> str:
    """What the interval does not cover, or covers too little."""
    bases = len(adapters)
    base = "one base: holds for it only" if bases == 1 else ""
    few = f"{bases} bases: a percentile interval over so few is too narrow" if 1 < bases < 10 else ""
    seed = "one seed: holds for it only" if adapters.max() == 1 else ""
    return "; ".join(note for note in (base, few, seed) if note)


def _ordered(rows: Mapping[tuple[int, int], NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The rows (seeds by base, items in columns) in an order that their values decide, and where each base starts."""
    bases: dict[int, list[tuple[list[float], int]]] = {}
    for (base, seed), row in rows.items():
        bases.setdefault(base, []).append((np.sort(row).tolist(), seed))
    for members in bases.values():
        members.sort()
    names = sorted(bases, key=lambda base: ([values for values, _ in bases[base]], base))
    values = np.array([rows[base, seed] for base in names for _, seed in bases[base]])
    return values, np.cumsum([0, *(len(bases[base]) for base in names)])


def _grouped(
    values: NDArray[np.float64], groups: Sequence[str] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of each group of items (rows, groups) and the groups' sizes, in an order that the sums decide."""
    names = np.arange(values.shape[1]) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    weight = np.bincount(names).astype(np.float64)
    sums = np.zeros((len(values), weight.size))
    for row, into in zip(values, sums, strict=True):
        np.add.at(into, names, row)
    order = np.lexsort([weight, *sums])
    return sums[:, order], weight[order]


def _row_weights(rng: np.random.Generator, starts: NDArray[np.int64], draws: int) -> NDArray[np.float64]:
    """(draws, rows): the weight of each base's each seed in the mean of each draw."""
    adapters = np.diff(starts)
    count, most = len(adapters), int(adapters.max())
    bases = rng.integers(count, size=(draws, count))
    size = adapters[bases][:, :, None]
    seeds = (rng.random((draws, count, most)) * size).astype(np.int64)
    used = np.arange(most) < size
    flat = starts[bases][:, :, None] + seeds + (np.arange(draws) * starts[-1])[:, None, None]
    weights = np.broadcast_to(1 / (count * size), used.shape)
    return np.bincount(flat[used], weights[used], draws * starts[-1]).astype(np.float64).reshape(draws, -1)


def _counts(rng: np.random.Generator, n: int, draws: int) -> NDArray[np.float64]:
    """(draws, n): how often each of n items is drawn in n draws with replacement."""
    drawn = rng.integers(n, size=(draws, n)) + (np.arange(draws) * n)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * n).reshape(draws, n).astype(np.float64)
