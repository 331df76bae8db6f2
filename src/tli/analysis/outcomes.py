"""Values of an outcome by base, seed and rank: what the statistics of the rank study take (the robustness tables).

An outcome is a number of every adapter: an accuracy, a cosine, a share of words found. Rank 0 is the base model itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tli.analysis.premises import Premises, of_items
from tli.analysis.results import Rows, Sweep, cell
from tli.analysis.scores import SCORING, TASKS, each, item_name, language_name, languages
from tli.analysis.views import PAIR_SETS, WAYS, trained_view
from tli.config.parameters import MicroworldModel, Params
from tli.io.errors import UserError
from tli.io.structured import nine_digits
from tli.stats.bootstrap import Groups
from tli.stats.trend import Key

Array = NDArray[np.float64]
T = TypeVar("T")


class Source(NamedTuple):
    """One pre-trained base: its own rows, and those of its sweep."""

    base: int
    align: Rows
    transfer: Rows
    sweep: Sweep
    premises: Premises


class Values(NamedTuple):
    """An outcome item by item, in one order: of each base, and of each of its adapters."""

    start: Mapping[int, Array]  # base -> (items,)
    tuned: Mapping[Key, Array]  # (base, seed, rank > 0) -> (items,)
    groups: Groups | None = None  # of answers: each item's premise; every base has items of its own

    def changes(self, *ranks: int) -> dict[tuple[int, int], Array]:
        """(base, seed) -> change of each item against rank 0, the mean over `ranks`, by default all."""
        found: dict[tuple[int, int], list[Array]] = {}
        for (base, seed, rank), after in self.tuned.items():
            if not ranks or rank in ranks:
                found.setdefault((base, seed), []).append(after - self.start[base])
        return {key: np.mean(some, axis=0) for key, some in found.items()}

    def of_rank(self, rank: int) -> float:
        """The mean over bases, of the mean over seeds at a rank above 0."""
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

    key: str  # as in measured.json: xcopa.sw, cosine.trained.2.mask.nf4
    family: str
    name: str
    view: str
    margin: float  # what counts as no difference, in the unit of the values
    values: Values  # accuracies in percent of one item: 0 or 100
    answers: bool  # right or wrong, by item


def main_base(params: Params) -> int:
    """The number that stands for the profile's own base: its seed; 0 for a model that was fetched."""
    model = params.active.model
    return model.seed if isinstance(model, MicroworldModel) else 0


def by_item(sources: Sequence[Source], set_: str, measure: str, params: Params) -> Values:
    """A measure of every item of a benchmark's set. Raises UserError where a cell has other items than its base."""
    start, tuned, groups = {}, {}, {}
    for source in sources:
        before = each(source.transfer, "base", set_, measure)
        groups[source.base] = of_items(source.premises, set_, before)
        start[source.base] = np.array([*before.values()])
        for rank, rows in source.sweep.transfer.items():
            for seed in params.sweep.seeds:
                tuned[source.base, seed, rank] = _aligned(before, each(rows, cell(rank, seed), set_, measure), rows)
    return Values(start, tuned, groups)


def by_pair(sources: Sequence[Source], set_: str, view: str, measure: str, params: Params) -> Values:
    """A measure of every word pair at a view, or of a whole set where the rows hold one value."""
    start, tuned = {}, {}
    for source in sources:
        before = source.align.each("base", set_, view, measure)
        start[source.base] = np.array([*before.values()])
        for rank, rows in source.sweep.align.items():
            for seed in params.sweep.seeds:
                tuned[source.base, seed, rank] = _aligned(
                    before, rows.each(cell(rank, seed), set_, view, measure), rows
                )
    return Values(start, tuned)


def _aligned(before: Mapping[str, float], after: Mapping[str, float], rows: Rows) -> Array:
    if before.keys() != after.keys():
        odd = sorted(before.keys() ^ after.keys())
        raise UserError(
            f"{rows.path}: expected the base's items, {len(odd)} differ ({odd[0]} first); run `dvc repro`, which "
            "measures both on one list"
        )
    return np.array([after[item] for item in before])


def outcomes(sources: Sequence[Source], params: Params) -> list[Outcome]:
    """Every outcome of the rank study: alignment at the trained view, then accuracy by task and language."""
    return [*alignment(sources, params), *accuracies(sources, params)]


def alignment(sources: Sequence[Source], params: Params) -> Iterator[Outcome]:
    """Cosine of translations, what it exceeds random pairs by, and P@1 among all pairs."""
    view, margins = trained_view(params), params.stats.margins
    for set_ in PAIR_SETS:
        values = by_pair(sources, set_, view, "cosine", params)
        yield _outcome("cosine", f"cosine.{set_}.{view}", f"cosine, {set_} pairs", view, margins.cosine, values, params)
    for set_ in PAIR_SETS:
        pairs, random = (by_pair(sources, set_, view, measure, params) for measure in ("cosine", "random_cosine"))
        values = Values(
            {base: x - random.start[base] for base, x in pairs.start.items()},
            {key: x - random.tuned[key] for key, x in pairs.tuned.items()},
        )
        name = f"cosine − random, {set_} pairs"
        yield _outcome("left", f"left.{set_}.{view}", name, view, margins.cosine, values, params)
    for way, arrow in WAYS.items():
        values = by_pair(sources, "all", view, f"p_at_1.{way}", params)
        yield _outcome("p1", f"p1.{way}.{view}", f"P@1 {arrow}, all pairs", view, margins.retrieval, values, params)


def accuracies(sources: Sequence[Source], params: Params) -> Iterator[Outcome]:
    """Accuracy in percent by task and language, with each item's `question` as released."""
    for task in TASKS:
        for language in languages(sources[0].transfer, task):
            set_ = f"{task}.{language}"
            right = by_item(sources, set_, "correct", params)
            values = Values(_percent(right.start), _percent(right.tuned), right.groups)
            name = f"{item_name(task, params)}, {language_name(set_, params)}"
            yield _outcome(task, set_, name, SCORING, params.stats.margins.accuracy, values, params)


ONE_BASE = "one base: what is inferred holds for it and seeds like these, not for other bases"


def scope(note: str) -> list[str]:
    """The parts of a statistic's note, with what several say of a single base said once."""
    parts = [ONE_BASE if part.startswith("one base") else part for part in note.split("; ") if part]
    return [*dict.fromkeys(parts)]


def tidy(value: float | None) -> float | None:
    """Nine significant digits, as files keep them: sums of the same flips in another order are shown alike."""
    return None if value is None else float(nine_digits(value))


def _percent(values: Mapping[T, Array]) -> dict[T, Array]:
    return {key: 100 * x for key, x in values.items()}


def _outcome(kind: str, key: str, name: str, view: str, margin: float, values: Values, params: Params) -> Outcome:
    (family,) = (family for family, kinds in params.stats.families.items() if kind in kinds)
    return Outcome(key, family, name, view, margin, values, kind in TASKS)


def _over_bases(values: Mapping[tuple[int, int], float]) -> float:
    bases = sorted({base for base, _ in values})
    return float(np.mean([np.mean([value for key, value in values.items() if key[0] == base]) for base in bases]))
