"""Bootstrap intervals: agreement with SciPy, plain loops and full enumeration, coverage, laws and degenerate cells."""

from __future__ import annotations

import math
import random
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from tli.stats.bootstrap import Bootstrap, cluster_bootstrap, paired_bootstrap
from tli.stats.trend import slope_weights

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(2, 12), st.integers(0, 2**32 - 1))
RESULTS = ("estimate", "low", "high", "se")


def simulate(
    rng: np.random.Generator, bases: int, seeds: int, items: int, spreads: tuple[float, float, float, float]
) -> dict[tuple[int, int], np.ndarray]:
    """Changes with mean 0 and these SDs of bases, of seeds, of items and of the rest."""
    of_base, of_seed, of_item, rest = spreads
    hard = rng.normal(0, of_item, items)
    found = {}
    for base in range(bases):
        level = rng.normal(0, of_base)
        for seed in range(seeds):
            found[base, seed] = level + rng.normal(0, of_seed) + hard + rng.normal(0, rest, items)
    return found


def numbers(found: Bootstrap) -> tuple[float, ...]:
    return tuple(getattr(found, name) for name in RESULTS)


def test_items_alone_are_scipy_s_percentile_bootstrap() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random(300) < 0.6, rng.random(300) < 0.65
    found = paired_bootstrap(before, after, draws=20_000, seed=1)
    d = after.astype(float) - before
    other = scipy_stats.bootstrap((d,), np.mean, n_resamples=20_000, method="percentile", rng=rng)
    assert found.estimate == pytest.approx(d.mean())
    assert (found.low, found.high) == pytest.approx(tuple(other.confidence_interval), abs=0.15 * other.standard_error)
    assert found.se == pytest.approx(d.std() / math.sqrt(300), rel=0.03)
    assert found.note == "one seed: holds for it only"


def test_every_level_agrees_with_full_enumeration() -> None:
    """Two bases of two seeds and one, three items: every draw there is, each base and seed drawn by its own chance."""
    rows = {(0, 0): [1.0, 0.0, 2.0], (0, 1): [0.5, 3.0, -1.0], (1, 0): [-2.0, 1.0, 0.0]}
    values: list[float] = []
    weights: list[float] = []
    for bases in product((0, 1), repeat=2):
        seeds = [list(product((0, 1), repeat=2)) if base == 0 else [(0,)] for base in bases]
        for chosen in product(*seeds):
            for items in product(range(3), repeat=3):
                means = [
                    np.mean([rows[base, seed][item] for seed in some for item in items])
                    for base, some in zip(bases, chosen, strict=True)
                ]
                values.append(float(np.mean(means)))
                weights.append(1 / (4 * len(seeds[0]) * len(seeds[1]) * 27))
    assert sum(weights) == pytest.approx(1)
    middle = np.average(values, weights=weights)
    spread = math.sqrt(np.average((np.array(values) - middle) ** 2, weights=weights))
    order = np.argsort(values)
    reached = np.cumsum(np.array(weights)[order])
    low, high = (np.array(values)[order][np.searchsorted(reached, q)] for q in (0.1, 0.9))
    found = cluster_bootstrap(rows, draws=200_000, seed=2, confidence=0.8)
    assert found.estimate == pytest.approx(middle)
    assert found.se == pytest.approx(spread, rel=0.01)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)
    assert (found.bases, found.seeds, found.items) == (2, 3, 3)


def test_agrees_with_plain_loops() -> None:
    rng = np.random.default_rng(3)
    rows = simulate(rng, 3, 4, 25, (0.2, 0.3, 0.5, 1.0))
    means = []
    for _ in range(8000):
        items = rng.integers(25, size=25)
        means.append(
            np.mean([np.mean([rows[b, s][items] for s in rng.integers(4, size=4)]) for b in rng.integers(3, size=3)])
        )
    found = cluster_bootstrap(rows, draws=8000, seed=4)
    assert found.se == pytest.approx(np.std(means), rel=0.04)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.12 * found.se)


def coverage(shape: tuple[int, int, int], spreads: tuple[float, float, float, float], runs: int) -> float:
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(runs):
        found = cluster_bootstrap(simulate(rng, *shape, spreads), draws=800, seed=6)
        held += found.low <= 0 <= found.high
    return held / runs


def test_intervals_over_items_cover_at_their_rate() -> None:
    assert abs(coverage((1, 1, 120), (0, 0, 0, 1), 500) - 0.95) < 3 * math.sqrt(0.05 * 0.95 / 500)


def test_intervals_over_many_bases_seeds_and_items_cover_at_their_rate() -> None:
    assert abs(coverage((25, 3, 60), (0.3, 0.2, 0.6, 0.5), 400) - 0.95) < 3 * math.sqrt(0.05 * 0.95 / 400)


def test_intervals_over_five_bases_cover_as_little_as_the_docstring_says() -> None:
    """Items alone resampled would hold the truth hardly ever; five bases give P(|t_4| < 1.96 sqrt(4 / 5))."""
    promised = 1 - 2 * scipy_stats.t.sf(1.959964 * math.sqrt(4 / 5), 4)
    assert promised == pytest.approx(0.846, abs=1e-3)
    found = coverage((5, 2, 60), (1.0, 0, 0, 0.1), 500)
    assert abs(found - promised) < 3 * math.sqrt(promised * (1 - promised) / 500) + 0.01
    assert "too narrow" in cluster_bootstrap({(b, 0): [0.1 * b, 1.0] for b in range(5)}, draws=10, seed=0).note


def test_shared_items_are_drawn_once_for_all_seeds() -> None:
    """Seeds that all move with the items do not shrink the error; what they do not share counts thrice (Owen 2007)."""
    rng = np.random.default_rng(7)
    item = rng.normal(0, 1, 200)
    together = cluster_bootstrap({(0, s): item for s in range(10)}, draws=4000, seed=8)
    apart = cluster_bootstrap({(0, s): rng.normal(0, 1, 200) for s in range(10)}, draws=4000, seed=8)
    assert together.se == pytest.approx(item.std() / math.sqrt(200), rel=0.05)
    assert apart.se == pytest.approx(math.sqrt(3 / 2000), rel=0.15)


def test_groups_are_drawn_whole() -> None:
    rng = np.random.default_rng(9)
    d = rng.normal(0, 1, 100)
    alone = cluster_bootstrap({(0, 0): d}, draws=4000, seed=10)
    thrice = {0: [str(i // 3) for i in range(300)]}
    copies = cluster_bootstrap({(0, 0): np.repeat(d, 3)}, draws=4000, seed=10, groups=thrice)
    assert numbers(copies) == pytest.approx(numbers(alone))
    assert copies.items == 300
    # Groups of different sizes: the mean over items, not over groups
    uneven = cluster_bootstrap({(0, 0): [3.0, 0.0, 0.0]}, draws=2000, seed=10, groups={0: ["a", "b", "b"]})
    assert (uneven.estimate, uneven.low, uneven.high) == (1.0, 0.0, 3.0)


def test_bases_with_items_of_their_own_agree_with_plain_loops() -> None:
    """Unlike numbers of items and of seeds; a base drawn twice has its items drawn twice."""
    rng = np.random.default_rng(13)
    shape = {0: (2, 12), 1: (3, 20), 2: (1, 8)}
    rows = {(b, s): rng.normal(b, 1, n) for b, (seeds, n) in shape.items() for s in range(seeds)}
    groups = {b: [str(i // 2) for i in range(n)] for b, (_, n) in shape.items()}
    means = []
    for _ in range(8000):
        parts = []
        for base in rng.integers(3, size=3):
            seeds, n = shape[base]
            items = np.concatenate([(2 * g, 2 * g + 1) for g in rng.integers(n // 2, size=n // 2)])
            parts.append(np.mean([rows[base, s][items] for s in rng.integers(seeds, size=seeds)]))
        means.append(np.mean(parts))
    found = cluster_bootstrap(rows, draws=8000, seed=14, groups=groups)
    assert found.estimate == pytest.approx(
        np.mean([np.mean([rows[b, s].mean() for s in range(seeds)]) for b, (seeds, _) in shape.items()])
    )
    assert found.se == pytest.approx(np.std(means), rel=0.04)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.12 * found.se)
    assert (found.bases, found.seeds, found.items) == (3, 6, 40)


def test_intervals_over_items_of_each_base_cover_at_their_rate() -> None:
    """Items in pairs of one premise, other items in every base; as if independent they would cover far less."""
    rng, runs, held, naive = np.random.default_rng(15), 300, 0, 0
    groups = {base: [str(i // 2) for i in range(40)] for base in range(20)}
    for _ in range(runs):
        rows = {(b, s): np.zeros(40) for b in range(20) for s in range(2)}
        for base in range(20):
            item = np.repeat(rng.normal(0, 1, 20), 2)
            for seed in range(2):
                rows[base, seed] = item + rng.normal(0, 0.3, 40)
        for which in (groups, None):
            found = cluster_bootstrap({(0, 0): rows[0, 0]} if which is None else rows, draws=500, seed=16, groups=which)
            inside = found.low <= 0 <= found.high
            held, naive = (held + inside, naive) if which is groups else (held, naive + inside)
    # The bootstrap counts twice what differs between bases by its items alone: on the safe side
    assert held / runs > 0.95 - 3 * math.sqrt(0.05 * 0.95 / runs)
    assert naive / runs < 0.9


def test_a_slope_is_bootstrapped_through_its_weights() -> None:
    rng, ranks = np.random.default_rng(11), (1, 2, 4, 8)
    y = {(b, s): rng.normal(0.1, 1, (4, 50)) + 0.2 * np.log2(ranks)[:, None] for b in range(3) for s in range(2)}
    found = cluster_bootstrap({key: slope_weights(ranks) @ rows for key, rows in y.items()}, draws=500, seed=0)
    means = np.mean([*y.values()], axis=(0, 2))
    assert found.estimate == pytest.approx(scipy_stats.linregress(np.log2(ranks), means).slope)


@settings(max_examples=40)
@given(SHAPES, st.randoms(), st.floats(-5, 5), st.floats(0.1, 10))
def test_order_names_shift_scale_and_sign(
    shape: tuple[int, int, int, int], mixer: random.Random, by: float, scale: float
) -> None:
    bases, seeds, items, seed = shape
    rows = simulate(np.random.default_rng(seed), bases, seeds, items, (0.3, 0.3, 0.5, 1.0))

    def again(changes: dict[tuple[int, int], np.ndarray]) -> tuple[float, ...]:
        return numbers(cluster_bootstrap(changes, draws=200, seed=1))

    estimate, low, high, se = found = again(rows)
    order, keys = list(range(items)), list(rows)
    mixer.shuffle(order)
    mixer.shuffle(keys)
    assert again({key: rows[key][order] for key in keys}) == pytest.approx(found, abs=1e-12)
    assert again({(3 - b, 7 * s % 5): row for (b, s), row in rows.items()}) == pytest.approx(found, abs=1e-12)
    assert again({key: scale * row + by for key, row in rows.items()}) == pytest.approx(
        (scale * estimate + by, scale * low + by, scale * high + by, scale * se)
    )
    assert low <= high
    mirrored = cluster_bootstrap({key: -row for key, row in rows.items()}, draws=4000, seed=1)
    more = cluster_bootstrap(rows, draws=4000, seed=1)
    assert (mirrored.estimate, mirrored.se) == (pytest.approx(-estimate), pytest.approx(more.se, rel=0.15))


def test_the_chunks_of_a_long_run_follow_one_another() -> None:
    rng = np.random.default_rng(12)
    rows = simulate(rng, 2, 2, 5000, (0.1, 0.1, 0.5, 1.0))
    found = cluster_bootstrap(rows, draws=2500, seed=0)  # more than fit at once
    assert found == cluster_bootstrap(rows, draws=2500, seed=0)
    assert found != cluster_bootstrap(rows, draws=2500, seed=1)
    assert found.low < found.estimate < found.high


def test_degenerate_changes_give_defined_cells() -> None:
    cases = {
        "no items": cluster_bootstrap({}, draws=10, seed=0),
        "one item": cluster_bootstrap({(0, 0): [0.5]}, draws=10, seed=0),
        "one group": cluster_bootstrap({(0, 0): [0.5, 0.1]}, draws=10, seed=0, groups={0: ["a", "a"]}),
        "no change varies": cluster_bootstrap({(b, s): [0.0, 0.0] for b in (0, 1) for s in (0, 1)}, draws=10, seed=0),
    }
    for note, found in cases.items():
        assert note in found.note
        assert (found.low, found.high, found.se) == (None, None, None)
    assert cases["no items"].estimate is None
    assert cases["one item"].estimate == 0.5
    assert cluster_bootstrap({(0, 0): [0.0, 1.0]}, draws=1, seed=0).se is None
    for changes, groups, draws in (
        ({(0, 0): [1.0], (0, 1): [1.0, 2.0]}, None, 10),
        ({(0, 0): [1.0, 2.0]}, {0: ["a"]}, 10),
        ({(0, 0): [1.0, 2.0]}, None, 0),
        ({(0, 0): [1.0, math.nan]}, None, 10),
    ):
        with pytest.raises(ValueError, match="expected"):
            cluster_bootstrap(changes, draws=draws, seed=0, groups=groups)
    with pytest.raises(ValueError, match="before"):
        paired_bootstrap([1.0], [1.0, 0.0], draws=10, seed=0)
