"""GEE over items: agreement with the estimating equations and with closed forms, coverage, size, degenerate cells."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special

from tli.stats.gee import NONE, Gee, gee
from tli.stats.trend import Key

RANKS = (0, 1, 2, 4, 8)


def simulate(
    rng: np.random.Generator,
    items: int,
    adapter: float,
    doubling: float,
    bases: int = 1,
    seeds: int = 2,
    sd: float = 1.0,
) -> dict[Key, np.ndarray]:
    """Correct answers with these effects on the log-odds given the item, whose own log-odds has this SD."""
    hard = rng.normal(0.3, sd, items)
    found = {}
    for base in range(bases):
        for rank in RANKS:
            for seed in range(seeds if rank else 1):
                shift = adapter + doubling * (math.log2(rank) - 1.5) if rank else 0.0
                found[base, seed, rank] = rng.random(items) < special.expit(hard + shift + 0.2 * base)
    return found


def columns(keys: list[Key], bases: int) -> np.ndarray:
    """The design, written out cell by cell."""
    ranks = [rank for _, _, rank in keys if rank]
    middle = sum(math.log2(rank) for rank in ranks) / len(ranks)
    return np.array(
        [
            [1.0]
            + [float(base == other) for other in range(1, bases)]
            + [float(rank > 0), math.log2(rank) - middle if rank else 0.0]
            for base, _, rank in keys
        ]
    )


@pytest.mark.parametrize("bases", [1, 2])
def test_solves_the_estimating_equations_with_the_corrected_sandwich(bases: int) -> None:
    """Given the correlation: sum D' V^-1 (y - mu) = 0 (Liang & Zeger 1986), covariance as in Mancl & DeRouen (2001)."""
    correct = simulate(np.random.default_rng(0), 80, 0.5, 0.2, bases)
    found = gee(correct)
    keys = sorted(correct)
    x, y = columns(keys, bases), np.array([correct[key] for key in keys], dtype=float)
    corr = np.full((len(keys), len(keys)), found.correlation) + (1 - found.correlation) * np.eye(len(keys))

    def parts(beta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        mu = special.expit(x @ beta)
        sd = np.sqrt(mu * (1 - mu))
        return mu, (mu * (1 - mu))[:, None] * x, np.linalg.inv(sd[:, None] * corr * sd)

    def score(beta: np.ndarray) -> np.ndarray:
        mu, d, inverse = parts(beta)
        return d.T @ inverse @ (y - mu[:, None]).sum(axis=1)

    beta = optimize.root(score, np.zeros(x.shape[1]), tol=1e-12).x
    assert (found.adapter.log_odds, found.doubling.log_odds) == pytest.approx(tuple(beta[-2:]), abs=1e-6)
    mu, d, inverse = parts(beta)
    bread = np.linalg.inv(80 * d.T @ inverse @ d)
    free = np.linalg.inv(np.eye(len(keys)) - d @ bread @ d.T @ inverse)
    sums = d.T @ inverse @ free @ (y - mu[:, None])
    covariance = bread @ sums @ sums.T @ bread
    assert (found.adapter.se, found.doubling.se) == pytest.approx(tuple(np.sqrt(np.diag(covariance))[-2:]), rel=1e-5)
    assert found.adapter.ratio == pytest.approx(math.exp(beta[-2]), rel=1e-6)
    assert found.adapter.low == pytest.approx(found.adapter.ratio * math.exp(-1.959964 * found.adapter.se), rel=1e-6)


def test_one_adapter_gives_the_odds_ratio_of_the_two_accuracies() -> None:
    rng = np.random.default_rng(1)
    before = rng.random(200) < 0.6
    after = np.where(rng.random(200) < 0.8, before, rng.random(200) < 0.8)
    found = gee({(0, 0, 0): before, (0, 0, 4): after})
    p, q = before.mean(), after.mean()
    assert found.adapter.log_odds == pytest.approx(special.logit(q) - special.logit(p), abs=1e-6)
    # Paired delta method: var = [1 / p(1-p) + 1 / q(1-q) - 2 cov / (p(1-p) q(1-q))] / n, here n - 1 by the correction
    v, w = p * (1 - p), q * (1 - q)
    variance = (1 / v + 1 / w - 2 * (np.mean(before & after) - p * q) / (v * w)) / 200
    assert found.adapter.se == pytest.approx(math.sqrt(variance) * 200 / 199, rel=1e-6)
    assert found.doubling == NONE
    assert "fewer than two ranks" in found.note


def test_under_the_null_it_keeps_its_size_and_intervals_cover() -> None:
    """Without a spread of items, population-averaged effects are those of each item (Zeger, Liang & Albert 1988)."""
    rng, runs = np.random.default_rng(2), 200
    rejected, held = [0, 0], [0, 0]
    for _ in range(runs):
        null = gee(simulate(rng, 30, 0.0, 0.0, seeds=1))
        known = gee(simulate(rng, 30, 0.4, 0.15, seeds=1, sd=0.0))
        for i, (effect, truth, odds) in enumerate(
            ((null.adapter, 0.4, known.adapter), (null.doubling, 0.15, known.doubling))
        ):
            rejected[i] += effect.p < 0.05
            held[i] += odds.low <= math.exp(truth) <= odds.high
    within = 3 * math.sqrt(0.05 * 0.95 / runs)
    assert all(abs(count / runs - 0.05) < within for count in rejected), rejected
    assert all(abs(count / runs - 0.95) < within for count in held), held


def test_groups_of_items_are_clusters() -> None:
    rng = np.random.default_rng(3)
    single = simulate(rng, 60, 0.5, 0.1)
    thrice = {key: np.tile(right, 3) for key, right in single.items()}
    alone = gee(single)
    found = gee(thrice, groups={0: [f"premise {index}" for index in range(60)] * 3})
    assert (found.items, found.clusters) == (180, 60)
    assert found.adapter.log_odds == pytest.approx(alone.adapter.log_odds, abs=0.02)
    assert found.adapter.se == pytest.approx(alone.adapter.se, rel=0.05)
    assert gee(thrice).adapter.se < 0.7 * alone.adapter.se, "copies taken for items of their own"


def test_bases_with_items_of_their_own_are_clusters_of_their_own() -> None:
    """Each base answers other items: as many clusters as items, and none of the correlation is diluted."""
    rng = np.random.default_rng(4)
    correct = {
        (base, seed, rank): right
        for base in range(3)
        for (_, seed, rank), right in simulate(rng, 60, 0.5, 0.1, sd=2.0).items()
    }
    own = {base: [str(item) for item in range(60)] for base in range(3)}
    found, lumped = gee(correct, own), gee(correct)
    assert (found.items, found.clusters, lumped.clusters) == (180, 180, 60)
    assert found.correlation > 2 * lumped.correlation
    assert found.adapter.se == pytest.approx(lumped.adapter.se, rel=0.3)
    mixed = list(range(60))
    rng.shuffle(mixed)
    other = {key: right[mixed] if key[0] == 1 else right for key, right in correct.items()}
    assert gee(other, own) == found


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.randoms())
def test_order_and_names_do_not_matter(seed: int, mixer: random.Random) -> None:
    correct = simulate(np.random.default_rng(seed), 30, 0.3, 0.2, sd=0.5)
    found = gee(correct)
    items, keys = list(range(30)), list(correct)
    mixer.shuffle(items)
    mixer.shuffle(keys)
    assert gee({key: correct[key][items] for key in keys}) == found
    renamed = gee({(9, 5 - seed, rank): right for (_, seed, rank), right in correct.items()})
    turned = gee({key: ~right for key, right in correct.items()})
    for name in ("adapter", "doubling"):
        one, other, mirrored = (getattr(some, name) for some in (found, renamed, turned))
        assert other[:6] == pytest.approx(one[:6], rel=1e-6, abs=1e-9)
        if one.log_odds is not None:
            assert mirrored.log_odds == pytest.approx(-one.log_odds, abs=1e-6)
            assert mirrored.low == pytest.approx(1 / one.high, rel=1e-5)


def test_degenerate_answers_give_defined_cells() -> None:
    right, wrong = [True] * 6, [False] * 6
    mixed = [True, False, True, False, True, True]
    other = [True, True, True, False, False, True]
    cases: dict[str, Gee] = {
        "no answers": gee({}),
        "one rank alone": gee({(0, 0, 0): mixed}),
        "every answer is right": gee({(0, 0, 0): right, (0, 0, 1): right}),
        "every answer is wrong": gee({(0, 0, 0): wrong, (0, 0, 1): wrong}),
        "no item's answer differs": gee({(0, 0, 0): mixed, (0, 0, 1): mixed, (0, 0, 2): mixed}),
        "one cluster": gee({(0, 0, 0): [True], (0, 0, 1): [False]}),
        "separated": gee({(0, 0, 0): mixed, (0, 0, 1): right, (0, 0, 2): right}),
    }
    for note, found in cases.items():
        assert note in found.note
        assert (found.adapter, found.doubling, found.correlation) == (NONE, NONE, None)
    # Wrong below rank 4, mixed there, right above: a slope without end, whatever the other base does.
    steps = {(0, 0, 1): wrong, (0, 0, 2): wrong, (0, 0, 4): mixed, (0, 0, 8): right}
    assert "separated" in gee(steps).note
    assert gee(steps | {(1, 0, 1): mixed, (1, 0, 8): other}).note.startswith("no rank 0")
    assert "no answers" in gee({(0, 0, 0): [], (0, 0, 1): []}).note
    assert gee({(0, 0, 1): mixed, (0, 0, 8): other}).adapter == NONE
    found = gee({(0, 0, 0): mixed, (0, 0, 1): other, (0, 0, 8): mixed})
    assert all(math.isfinite(value) for value in (*found.adapter, *found.doubling))


@settings(max_examples=40)
@given(st.lists(st.lists(st.booleans(), min_size=2, max_size=2), min_size=2, max_size=5))
def test_separation_in_one_variable_is_a_threshold(answers: list[list[bool]]) -> None:
    """Without rank 0 and with one base: no wrong answer above a right one, or none below (Albert & Anderson 1984)."""
    found = gee({(0, 0, 2**at): pair for at, pair in enumerate(answers)})
    ones, zeros = ([at for at, pair in enumerate(answers) if value in pair] for value in (True, False))
    if ones and zeros:
        separated = max(zeros) <= min(ones) or max(ones) <= min(zeros)
        if "no item's answer differs" not in found.note:
            assert ("separated" in found.note) == separated


def test_bad_input_is_refused() -> None:
    for correct, groups in (
        ({(0, 0, 0): [True], (0, 0, 1): [True, False]}, None),
        ({(0, 0, -1): [True]}, None),
        ({(0, 0, 0): [True, False]}, {0: ["a"]}),
    ):
        with pytest.raises(ValueError, match="expected"):
            gee(correct, groups)
