"""Bootstrap intervals of a mean change: over items, and over bases, seeds and items at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tli.stats.arrays import Floats, finite

CELLS = 4_000_000  # size of the largest array: 32 MB
Groups = Mapping[int, Sequence[str]]  # base -> the group of each of its items


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

    Correctness as 0 and 1 gives the change of accuracy; log-likelihood margins give their mean change. It is the
    `cluster_bootstrap` of one base and one seed. Raises ValueError where the two differ in length.
    """
    x, y = finite(before), finite(after)
    if x.shape != y.shape:
        raise ValueError(f"expected as many items before as after, got {x.size} and {y.size}")
    of_base = None if groups is None else {0: groups}
    result = cluster_bootstrap({(0, 0): y - x}, draws=draws, seed=seed, confidence=confidence, groups=of_base)
    notes = [note for note in result.note.split("; ") if not note.startswith("one base")]
    return result._replace(note="; ".join(notes))


def cluster_bootstrap(
    changes: Mapping[tuple[int, int], Floats],
    *,
    draws: int,
    seed: int,
    confidence: float = 0.95,
    groups: Groups | None = None,
) -> Bootstrap:
    """The mean over bases of the mean over seeds of the mean over items, from {(base, seed): change of each item}.

    Each draw takes, with replacement, as many bases as there are, within each drawn base as many of its seeds as it has
    (Davison & Hinkley 1997, 3.8), and items. Without `groups` every base answers the same items (word pairs): all bases
    share one sample of items (the pigeonhole bootstrap, Owen 2007; it is conservative, because it counts the variance
    that neither side shares three times). With `groups` every base has items of its own, which may differ in number:
    each drawn base gets a sample of its items, which all its seeds share. Whole groups are drawn (the items of one
    premise), and the mean is the sum of their items over their size. The interval is the percentile interval: quantiles
    (1 -+ confidence) / 2 of the draws (Efron & Tibshirani 1993, 13.3). A level with one unit is not resampled. Where k
    bases dominate the variance, the interval covers about P(|t_{k-1}| < z sqrt((k - 1) / k)), less than its nominal
    confidence (Cameron, Gelbach & Miller 2008).

    Units are sorted by their values first, so that the order and the names of the input do not matter (two seeds of one
    base that have the same values in another order keep the order of their names). Raises ValueError where rows that
    share items differ in length, or hold values that are not finite.
    """
    rows = {key: finite(values) for key, values in changes.items()}
    if draws < 1:
        raise ValueError(f"expected a draw at least, got {draws}")
    tables = _ordered(rows, groups)
    if not tables or not all(table.values.size for table in tables):
        return Bootstrap(None, None, None, None, 0, 0, 0, draws, "no items")
    adapters = [count for table in tables for count in table.adapters]
    count = len(adapters)
    share = np.repeat(1 / (count * np.array(adapters)), adapters)
    estimate = float(share @ np.concatenate([table.values.mean(axis=1) for table in tables]))
    items = sum(table.values.shape[1] for table in tables)
    flat = np.concatenate([table.values.ravel() for table in tables])
    alike = np.ptp(flat) <= 1e-12 * np.abs(flat).max()
    if alike or all(table.weight.size < 2 for table in tables):
        reason = "no change varies" if alike and items > 1 else f"one {'item' if groups is None else 'group'}: no error"
        return Bootstrap(estimate, None, None, None, count, sum(adapters), items, draws, reason)
    means = _shared(tables[0], draws, seed) if len(tables) == 1 else _nested(tables, draws, seed)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    se = float(means.std(ddof=1)) if draws > 1 else None
    return Bootstrap(estimate, float(low), float(high), se, count, sum(adapters), items, draws, _note(adapters))


def _note(adapters: Sequence[int]) -> str:
    """The limits of the interval, in words."""
    bases = len(adapters)
    base = "one base: holds for it only" if bases == 1 else ""
    few = f"{bases} bases: a percentile interval over so few is too narrow" if 1 < bases < 10 else ""
    seed = "one seed: holds for it only" if max(adapters) == 1 else ""
    return "; ".join(note for note in (base, few, seed) if note)


class _Items(NamedTuple):
    """Rows over one list of items, and the sums and sizes of the groups that are drawn."""

    values: NDArray[np.float64]  # (rows, items)
    adapters: tuple[int, ...]  # the rows of each base
    sums: NDArray[np.float64]  # (rows, groups)
    weight: NDArray[np.float64]  # items of each group


def _ordered(rows: Mapping[tuple[int, int], NDArray[np.float64]], groups: Groups | None) -> list[_Items]:
    """The rows by list of items, sorted by their values: one list for all bases, or with `groups` one for each."""
    bases: dict[int, list[tuple[list[float], int]]] = {}
    for (base, seed), row in rows.items():
        bases.setdefault(base, []).append((np.sort(row).tolist(), seed))
    for members in bases.values():
        members.sort()
    names = sorted(bases, key=lambda base: ([values for values, _ in bases[base]], base))
    tables = []
    for together in [names] if groups is None else [[base] for base in names]:
        some = [rows[base, seed] for base in together for _, seed in bases[base]]
        sizes = {row.size for row in some}
        of_items = None if groups is None else groups[together[0]]
        if len(sizes) > 1 or (of_items is not None and {len(of_items)} != sizes):
            raise ValueError(f"expected as many items in each row, and as many groups, got {sorted(sizes)}")
        if not some:
            continue
        values = np.array(some)
        tables.append(_Items(values, tuple(len(bases[base]) for base in together), *_grouped(values, of_items)))
    return tables


def _grouped(
    values: NDArray[np.float64], groups: Sequence[str] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of each group of items (rows, groups) and the groups' sizes, sorted by the sums."""
    names = np.arange(values.shape[1]) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    weight = np.bincount(names).astype(np.float64)
    sums = np.zeros((len(values), weight.size))
    for row, into in zip(values, sums, strict=True):
        np.add.at(into, names, row)
    order = np.lexsort([weight, *sums])
    return sums[:, order], weight[order]


def _shared(table: _Items, draws: int, seed: int) -> NDArray[np.float64]:
    """The mean of each draw; all rows share the items."""
    groups = table.weight.size
    step = max(1, CELLS // max(table.sums.shape))
    if draws <= step:
        parts: Iterable[_Weights] = [_cached_weights(table.adapters, groups, draws, seed)]
    else:
        rng = np.random.default_rng(seed)
        parts = (_weights(rng, table.adapters, groups, min(step, draws - first)) for first in range(0, draws, step))
    return np.concatenate([((rows @ table.sums) * items).sum(axis=1) / (items @ table.weight) for rows, items in parts])


def _nested(tables: Sequence[_Items], draws: int, seed: int) -> NDArray[np.float64]:
    """The mean of each draw; every base has items of its own, sampled anew each time that the base is drawn."""
    rng = np.random.default_rng(seed)
    count = len(tables)
    means = np.zeros(draws)
    step = max(1, CELLS // max(max(table.sums.shape) for table in tables))
    for first in range(0, draws, step):
        chosen = rng.integers(count, size=(min(step, draws - first), count))
        for place in range(count):
            for base, table in enumerate(tables):
                where = first + np.flatnonzero(chosen[:, place] == base)
                rows, items = _weights(rng, (len(table.sums),), table.weight.size, where.size)
                means[where] += ((rows @ table.sums) * items).sum(axis=1) / (items @ table.weight) / count
    return means


_Weights = tuple[NDArray[np.float64], NDArray[np.float64]]


def _weights(rng: np.random.Generator, adapters: tuple[int, ...], groups: int, draws: int) -> _Weights:
    """(draws, rows): the weight of each base's each seed in the mean; (draws, groups): how often each is drawn."""
    return _row_weights(rng, np.cumsum([0, *adapters]), draws), _counts(rng, groups, draws)


@lru_cache(maxsize=2)  # all ranks have the same shape, and the same seed gives the same draws
def _cached_weights(adapters: tuple[int, ...], groups: int, draws: int, seed: int) -> _Weights:
    return _weights(np.random.default_rng(seed), adapters, groups, draws)


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
