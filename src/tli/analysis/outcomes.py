"""Outcomes of the rank study, item by item for each base, seed and rank (the robustness tables).

An outcome is a number of every adapter: an accuracy, a cosine, a share of words found. Rank 0 is the base model.

One `Results` holds one base. A study passes a sequence of them, each with the rows of one base (column `base` of its
frame) and the runs of params.sweep under their usual names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tli.analysis.premises import of_items
from tli.analysis.results import Results, Rows, run_name
from tli.analysis.scores import (
    SCORING,
    TASKS,
    Bases,
    at_chance,
    bases_of,
    each,
    languages,
    marked,
    scored_at,
    scores_of,
    set_name,
    swept_runs,
)
from tli.analysis.views import PAIR_SETS, WAYS, trained_view
from tli.config.parameters import Params
from tli.io.errors import UserError
from tli.io.structured import nine_digits
from tli.stats.bootstrap import Groups
from tli.stats.trend import Key

Array = NDArray[np.float64]
T = TypeVar("T")


class Values(NamedTuple):
    """A measure of every item, in one order: of each base, and of each of its adapters."""

    start: Mapping[int, Array]  # base -> (items,)
    tuned: Mapping[Key, Array]  # (base, seed, rank > 0) -> (items,)
    groups: Groups | None = None  # of answers: each item's premise; every base has items of its own

    def changes(self, *ranks: int) -> dict[tuple[int, int], Array]:
        """(base, seed) -> change of each item against rank 0, the mean over `ranks`, by default all."""
        changes: dict[tuple[int, int], list[Array]] = {}
        for (base, seed, rank), after in self.tuned.items():
            if not ranks or rank in ranks:
                changes.setdefault((base, seed), []).append(after - self.start[base])
        return {key: np.mean(of_ranks, axis=0) for key, of_ranks in changes.items()}

    def of_rank(self, rank: int) -> float:
        """The mean over bases of the mean over seeds, at a rank above 0."""
        return _over_bases({key[:2]: float(x.mean()) for key, x in self.tuned.items() if key[2] == rank})

    @property
    def at_zero(self) -> float:
        """The mean over bases at rank 0."""
        return float(np.mean([x.mean() for x in self.start.values()]))

    @property
    def ranks(self) -> list[int]:
        """Ranks above 0, ascending."""
        return sorted({rank for _, _, rank in self.tuned})


class Outcome(NamedTuple):
    """What a row of the robustness tables is about."""

    key: str  # as the tables' keys have it: xcopa.sw, cosine.trained
    family: str  # whose tests are corrected together
    name: str
    view: str
    margin: float  # what counts as no difference, in the unit of the values
    values: Values  # accuracies in percent of one item: 0 or 100
    answers: bool  # right or wrong, by item
    at_chance: bool = False  # a benchmark's set at chance: it is described, not tested


def base_number(results: Results) -> int:
    """The number of the base whose rows these are. Raises ValueError where they are of several."""
    (number,) = results.frame["base"].unique()
    return int(number)


def by_item(results: Bases, set_: str, measure: str, params: Params) -> Values:
    """A measure of every item of a benchmark's set in the runs that were scored on it, with the items' premises as
    groups.

    Raises:
        UserError: a run was scored on other items than its base.
    """
    start, tuned, groups = {}, {}, {}
    for base in bases_of(results):
        number, score = base_number(base), base.of("score")
        before = each(score, "base", set_, measure)
        start[number] = np.array([*before.values()])
        groups[number] = of_items(base.premises, set_, before)
        for rank, seed in swept_runs(score, set_, params):
            after = each(score, run_name(rank, seed), set_, measure)
            tuned[number, seed, rank] = _in_order(before, after, score)
    return Values(start, tuned, groups)


def by_pair(results: Bases, set_: str, view: str, measure: str, params: Params) -> Values:
    """A measure of every word pair at a view, or of a whole set where the rows hold one value.

    Raises:
        UserError: a run was measured on other pairs than its base.
    """
    start, tuned = {}, {}
    for base in bases_of(results):
        number, similarity = base_number(base), base.of("similarity")
        before = similarity.each("base", set_, view, measure)
        start[number] = np.array([*before.values()])
        for rank, seed in _runs(params):
            after = similarity.each(run_name(rank, seed), set_, view, measure)
            tuned[number, seed, rank] = _in_order(before, after, similarity)
    return Values(start, tuned)


def _runs(params: Params) -> Iterator[tuple[int, int]]:
    return ((rank, seed) for rank in params.sweep.ranks for seed in params.sweep.seeds)


def _in_order(before: Mapping[str, float], after: Mapping[str, float], rows: Rows) -> Array:
    """The values of `after` in the order of `before`."""
    if before.keys() != after.keys():
        odd = sorted(before.keys() ^ after.keys())
        raise UserError(
            f"{rows.path}: expected the base's items, {len(odd)} differ ({odd[0]} first); run `dvc repro`, which "
            "measures both on one list"
        )
    return np.array([after[item] for item in before])


def outcomes(results: Bases, params: Params) -> list[Outcome]:
    """Every outcome of the rank study: similarity at the view of the loss, then accuracy by task and language."""
    return [*similarities(results, params), *accuracies(results, params)]


def similarities(results: Bases, params: Params) -> Iterator[Outcome]:
    """Cosine of translations, its excess over random pairs, and P@1 among all pairs."""
    view, margins = trained_view(params), params.stats.margins
    for set_ in PAIR_SETS:
        values = by_pair(results, set_, view, "cosine", params)
        name = f"cosine, {set_} pairs"
        yield _outcome("cosine", f"cosine.{set_}", name, view, margins.cosine, values, params)
    for set_ in PAIR_SETS:
        pairs, random = (by_pair(results, set_, view, measure, params) for measure in ("cosine", "random_cosine"))
        values = Values(
            {base: x - random.start[base] for base, x in pairs.start.items()},
            {key: x - random.tuned[key] for key, x in pairs.tuned.items()},
        )
        name = f"cosine − random, {set_} pairs"
        yield _outcome("excess", f"excess.{set_}", name, view, margins.cosine, values, params)
    for way, arrow in WAYS.items():
        values = by_pair(results, "all", view, f"p_at_1.{way}", params)
        yield _outcome("p1", f"p1.{way}", f"P@1 {arrow}, all pairs", view, margins.retrieval, values, params)


def accuracies(results: Bases, params: Params) -> Iterator[Outcome]:
    """Accuracy in percent by task and language, with each item's `question` as released; of sets scored at every rank.

    A set at chance is among them, so that its numbers are shown; its outcome says that it is not tested.
    """
    bases, margin = scores_of(results), params.stats.margins.accuracy
    for set_ in _released_sets(bases):
        if not scored_at(bases, set_, params):
            right, chance = by_item(results, set_, "correct", params), at_chance(bases, set_, params)
            values = Values(_percent(right.start), _percent(right.tuned), right.groups)
            name = marked(set_name(set_, params), chance)
            outcome = _outcome(set_.partition(".")[0], set_, name, SCORING, margin, values, params)
            yield outcome._replace(at_chance=chance)


def not_at_every_rank(results: Bases, params: Params) -> str:
    """A note on the sets that `accuracies` leaves out: at which ranks they were scored. Empty where there are none."""
    bases = scores_of(results)
    at_ranks = {set_: scored_at(bases, set_, params) for set_ in _released_sets(bases)}
    left_out = [f"{set_name(set_, params)} ({ranks})" for set_, ranks in at_ranks.items() if ranks]
    return f"no verdict over the ranks: {'; '.join(left_out)}" if left_out else ""


def _released_sets(bases: Sequence[Rows]) -> list[str]:
    return [f"{task}.{language}" for task in TASKS for language in languages(bases[0], task)]


def _percent(values: Mapping[T, Array]) -> dict[T, Array]:
    return {key: 100 * x for key, x in values.items()}


def _outcome(kind: str, key: str, name: str, view: str, margin: float, values: Values, params: Params) -> Outcome:
    """An outcome of the family that params.stats.families puts its `kind` into."""
    (family,) = (family for family, kinds in params.stats.families.items() if kind in kinds)
    return Outcome(key, family, name, view, margin, values, kind in TASKS)


ONE_BASE = "one base: what is inferred holds for it and seeds like these, not for other bases"


def scope(note: str) -> list[str]:
    """The parts of a statistic's note; what several of them say of a single base becomes one sentence."""
    parts = [ONE_BASE if part.startswith("one base") else part for part in note.split("; ") if part]
    return [*dict.fromkeys(parts)]


def tidy(value: float | None) -> float | None:
    """Nine significant digits, as files keep them: sums of the same flips in another order are shown alike."""
    return None if value is None else float(nine_digits(value))


def _over_bases(values: Mapping[tuple[int, int], float]) -> float:
    bases = sorted({base for base, _ in values})
    return float(np.mean([np.mean([value for key, value in values.items() if key[0] == base]) for base in bases]))
