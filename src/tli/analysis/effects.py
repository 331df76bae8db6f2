"""What the LoRA rank does to each outcome: change, trend, equivalence, odds, and their verdict (the robustness tables).

Everything here is over `outcomes.Values`, with one base or several; what is undefined is None with a note.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tli.analysis.outcomes import Array, Outcome, Values
from tli.analysis.scores import AT_CHANCE
from tli.config.parameters import Params
from tli.stats import equivalence, p_values, t_tests
from tli.stats.bootstrap import Bootstrap, cluster_bootstrap
from tli.stats.equivalence import Equivalence
from tli.stats.gee import Gee, gee
from tli.stats.holm import holm
from tli.stats.power import detectable_mean
from tli.stats.trend import Key, Trend, slope_weights, trend

TESTS = ("change", "trend", "equivalence", "odds")  # what is corrected together, outcome by outcome


class Effect(NamedTuple):
    """One outcome against rank 0 and along the ranks, in the outcome's unit."""

    outcome: Outcome
    change: float  # any rank - rank 0: the mean over ranks, seeds, bases
    low: float | None
    high: float | None
    by_rank: Mapping[int, float]  # rank -> mean change against rank 0
    trend: Trend
    doublings: float  # from the lowest to the highest rank
    span: Equivalence | None  # the fitted change from the lowest to the highest rank, against the margin
    span_drawn: Bootstrap  # the same with items resampled too, interval at 1 - 2 alpha
    detectable: float | None  # the smallest such change that would have been found
    odds: Gee | None
    p: Mapping[str, float | None]  # of TESTS, uncorrected
    p_holm: Mapping[str, float | None]  # corrected by Holm within the family
    note: str

    @property
    def worst(self) -> int:
        """The rank with the lowest mean change, the first of equals."""
        return min(self.by_rank, key=lambda rank: (self.by_rank[rank], rank))

    @property
    def range(self) -> float:
        """Highest minus lowest mean among the ranks: sees a hump, which a linear trend does not."""
        return max(self.by_rank.values()) - min(self.by_rank.values())


def effects(outcomes: Sequence[Outcome], params: Params) -> list[Effect]:
    """Every outcome's effect, the tests corrected within the families of params.stats.

    An outcome at chance has no tests, and the families do not count it.
    """
    uncorrected = [_effect(outcome, params) for outcome in outcomes]
    return [effect for family in params.stats.families for effect in _corrected(uncorrected, family, params)]


def _corrected(uncorrected: Sequence[Effect], family: str, params: Params) -> list[Effect]:
    members = [effect for effect in uncorrected if effect.outcome.family == family]
    tests = [
        (index, test)
        for index, effect in enumerate(members)
        for test in TESTS
        if test in effect.p and not effect.outcome.at_chance
    ]
    adjusted = holm([members[index].p[test] for index, test in tests], params.stats.alpha).adjusted
    return [
        effect._replace(
            p_holm=dict.fromkeys(effect.p)
            | {test: p for (at, test), p in zip(tests, adjusted, strict=True) if at == index}
        )
        for index, effect in enumerate(members)
    ]


def _effect(outcome: Outcome, params: Params) -> Effect:
    """change: the mean over adapters, with the interval of `cluster_bootstrap` over bases, seeds and items, and as its
    test the odds of any rank in `gee` (answers), the paired t-test over word pairs, or, of P@1, which has one value an
    adapter, the t-test and its interval over the units of the trend.

    span: slope x log2(highest / lowest rank) with its error, against the margin. Its test takes the items as given;
    `span_drawn` resamples them as well.
    """
    chosen, values, notes = params.stats, outcome.values, []
    of_seed = values.changes()
    means = {key: float(x.mean()) for (key, x) in values.tuned.items()}
    line = trend(means, chosen.confidence)
    ranks = values.ranks
    doublings = math.log2(ranks[-1] / ranks[0])
    drawn = cluster_bootstrap(
        of_seed,
        draws=chosen.bootstrap.draws,
        seed=chosen.bootstrap.seed,
        confidence=chosen.confidence,
        groups=values.groups,
    )
    change, low, high = drawn.estimate or 0.0, drawn.low, drawn.high
    odds: Gee | None = None
    tests: dict[str, float | None] = {}
    if outcome.answers:
        right = {(base, 0, 0): x > 0 for base, x in values.start.items()}
        odds = gee({**right, **{key: x > 0 for key, x in values.tuned.items()}}, values.groups, chosen.confidence)
        tests["change"] = odds.adapter.p
        notes += [drawn.note, odds.note]
    elif drawn.items > 1:
        by_base = {base: [x for key, x in of_seed.items() if key[0] == base] for base in values.start}
        item = np.mean([np.mean(seeds, axis=0) for seeds in by_base.values()], axis=0)
        test = t_tests.paired(np.zeros_like(item), item, chosen.confidence)
        tests["change"] = test.p
        notes += [drawn.note, p_values.clip_note(test.p)]
    else:
        units = _units(of_seed)
        test = t_tests.paired([0.0] * len(units), units, chosen.confidence)
        low, high, tests["change"] = test.low, test.high, test.p
        notes.append(test.note)
    span, detectable = None, None
    if line.slope is not None and line.se is not None and line.df is not None:
        span = equivalence.tost_estimate(
            line.slope * doublings, line.se * doublings, line.df, outcome.margin, chosen.alpha
        )
        sd = line.se * math.sqrt(line.units) * doublings
        detectable = detectable_mean(line.units, sd, chosen.alpha, chosen.power).effect
    tests |= {"trend": line.p, "equivalence": None if span is None else span.p}
    if odds is not None:
        tests["odds"] = odds.doubling.p
    if outcome.at_chance:
        tests, detectable = dict.fromkeys(tests), None
    span_drawn = cluster_bootstrap(
        _spans(values, doublings),
        draws=chosen.bootstrap.draws,
        seed=chosen.bootstrap.seed,
        confidence=1 - 2 * chosen.alpha,
        groups=values.groups,
    )
    by_rank = {rank: values.of_rank(rank) - values.at_zero for rank in ranks}
    note = "; ".join(dict.fromkeys(part for text in [*notes, line.note] for part in text.split("; ") if part))
    return Effect(
        outcome=outcome,
        change=change,
        low=low,
        high=high,
        by_rank=by_rank,
        trend=line,
        doublings=doublings,
        span=span,
        span_drawn=span_drawn,
        detectable=detectable,
        odds=odds,
        p=tests,
        p_holm={},
        note=note,
    )


def _spans(values: Values, doublings: float) -> dict[tuple[int, int], Array]:
    """(base, seed) -> fitted change of each item from the lowest to the highest rank; those with two ranks or more."""
    members: dict[tuple[int, int], list[Key]] = {}
    for key in sorted(values.tuned):
        members.setdefault(key[:2], []).append(key)
    return {
        name: doublings * np.tensordot(slope_weights([key[2] for key in keys]), [values.tuned[key] for key in keys], 1)
        for name, keys in members.items()
        if len(keys) > 1
    }


def _units(changes: Mapping[tuple[int, int], Array]) -> list[float]:
    """What the trend is over: the mean of each base, or of each seed where there is one base."""
    bases = sorted({base for base, _ in changes})
    if len(bases) == 1:
        return [float(changes[key].mean()) for key in sorted(changes)]
    return [float(np.mean([x.mean() for key, x in changes.items() if key[0] == base])) for base in bases]


# How far an outcome may lie from its value on another processor: the floors of paper/tolerances.yaml.
ITEMS, WORDS, COSINE = 2, 2, 1e-4


def processor_shift(outcome: Outcome, words: int) -> float:
    """How far another processor may move an outcome, in its unit: two items of a set, two words, or 1e-4 of a cosine.

    Args:
        words: the number of word pairs.
    """
    if outcome.answers:
        return 100 * ITEMS / items_of(outcome)
    return WORDS / words if outcome.key.startswith("p1") else COSINE


def items_of(outcome: Outcome) -> int:
    """The number of items or word pairs of an outcome, in the smallest base."""
    return min(x.size for x in outcome.values.start.values())


def is_borderline(effect: Effect, shift: float, alpha: float) -> bool | None:
    """Whether the verdict changes if the fitted change from the lowest to the highest rank moves by up to `shift`.

    Each p is computed anew for the moved change, with the same standard error, and multiplied as Holm's method
    multiplied it. Both p change with the size of the change alone, so that the ends, and 0 if it lies between them,
    decide. None where there is no verdict.
    """
    span, stated = effect.span, verdict(effect, alpha)
    if span is None or span.estimate is None or span.se is None or span.df is None or stated in (None, AT_CHANCE):
        return None
    low, high = span.estimate - shift, span.estimate + shift
    for moved in (low, high, *([0.0] if low < 0 < high else [])):
        again = equivalence.tost_estimate(moved, span.se, span.df, effect.outcome.margin, alpha)
        p = (_as_holm(effect, "equivalence", again.p), _as_holm(effect, "trend", again.p_zero))
        if equivalence.verdict(*p, alpha) != stated:
            return True
    return False


def _as_holm(effect: Effect, test: str, p: float | None) -> float:
    """p times the factor by which Holm's method raised the p of a test."""
    before, after = effect.p[test], effect.p_holm[test]
    return min(1.0, (p or 0.0) * (after / before if before and after else 1.0))


def verdict(effect: Effect, alpha: float) -> str | None:
    """What the rank does, from the corrected p of trend and equivalence; None where either is undefined.

    AT_CHANCE where no loss could show.
    """
    if effect.outcome.at_chance:
        return AT_CHANCE
    p_trend, p_equivalence = effect.p_holm["trend"], effect.p_holm["equivalence"]
    if p_trend is None or p_equivalence is None:
        return None
    return equivalence.verdict(p_equivalence, p_trend, alpha)
