"""Accuracy by class and rank: whether an adapter moves every class, or trades one for another.

An adapter that only shifts its answers towards one class can keep the accuracy of a set while that of each class
changes.
"""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.changes import bootstrap, flipped, set_cells, set_notes, swept_sets
from tli.analysis.outcomes import Values, by_item, scope, tidy
from tli.analysis.scores import CLASSES, SCORING, SET_COLUMNS, Bases
from tli.analysis.table import Column
from tli.config.parameters import Params
from tli.stats.descriptive import mean, spread

TITLE = "Accuracy by class and rank"
CAPTION = (
    "Accuracy in percent on the items of each right answer, mean and SD over the models of a rank, and the change "
    "against rank 0 in points with the {params.stats.confidence:.0%} interval of the cluster bootstrap."
)
SOURCE = ("base-rows", "sweep-score")
VIEW = SCORING
COLUMNS = (
    *SET_COLUMNS,
    Column("class", "right answer", id=True),
    Column("n", "n", "count"),
    Column("rank", "rank", "count", id=True),
    Column("accuracy", "accuracy", "percent"),
    Column("sd", "SD", "percent"),
    Column("change", "change", "points"),
    Column("low", "CI low", "points"),
    Column("high", "CI high", "points"),
    Column("won", "won", "percent"),
    Column("lost", "lost", "percent"),
    Column("chosen", "chosen", "percent"),
)


def rows(results: Bases, params: Params) -> Iterator[dict[str, object]]:
    """Per set, class and rank; rank 0 is the base."""
    for scored in swept_sets(results, params):
        right, label, chosen = (
            by_item(results, scored.set, measure, params) for measure in ("correct", "label", "pred")
        )
        for index, name in enumerate(CLASSES[scored.task]):
            values = of_class(right, label, index)
            picked = {0: [100 * float((x == index).mean()) for x in chosen.start.values()]}
            for key, x in chosen.tuned.items():
                picked.setdefault(key[2], []).append(100 * float((x == index).mean()))
            n = sum(x.size for x in values.start.values())
            start = [100 * mean(x) for x in values.start.values() if x.size]
            at_zero = {"accuracy": tidy(mean(start)) if start else None}
            for rank in (0, *right.ranks):
                cells = _at(values, rank, params) if rank else at_zero
                yield {
                    **set_cells(scored, params),
                    "class": name,
                    "n": n,
                    "rank": rank,
                    **cells,
                    "chosen": mean(picked[rank]),
                }


def of_class(values: Values, label: Values, index: int) -> Values:
    """The items whose right answer is `index`; every base has its own."""
    selected = {base: x == index for base, x in label.start.items()}
    groups = values.groups and {
        base: [name for name, is_selected in zip(names, selected[base], strict=True) if is_selected]
        for base, names in values.groups.items()
    }
    start = {base: x[selected[base]] for base, x in values.start.items()}
    return Values(start, {key: x[selected[key[0]]] for key, x in values.tuned.items()}, groups)


def _at(values: Values, rank: int, params: Params) -> dict[str, object]:
    """Accuracy and change at a rank above 0; none where a base has no items of the class."""
    changes = values.changes(rank)
    if not all(x.size for x in changes.values()):
        return {}
    interval = bootstrap(values, rank, 100.0, params)
    over = spread([100 * mean(x) for key, x in values.tuned.items() if key[2] == rank])
    return {
        "accuracy": tidy(100 * values.of_rank(rank)),
        "sd": tidy(over.sd),
        "change": tidy(interval.estimate),
        "low": tidy(interval.low),
        "high": tidy(interval.high),
        "won": tidy(flipped(changes, 1)),
        "lost": tidy(flipped(changes, -1)),
        "note": scope(interval.note),
    }


def notes(results: Bases, params: Params) -> list[str]:
    """How intervals are made; what won, lost and chosen are."""
    return [
        "intervals: over bases, seeds and the items' premises, not corrected for their number",
        "won, lost: percent of a model's items that turn right, that turn wrong; chosen: how often the answer is "
        "chosen among all items of the set",
        *set_notes(results, params),
    ]
