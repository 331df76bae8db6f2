"""Accuracy by class and rank: whether an adapter moves every class, or trades one for another (table class_changes).

An adapter that only shifts its answers towards one class can keep the accuracy of a set while each class's changes.
"""

from __future__ import annotations

from collections.abc import Sequence

from tli.analysis.outcomes import Source, Values, by_item, scope, tidy
from tli.analysis.render import Cell, Column, Made, Table
from tli.analysis.results import Measured
from tli.analysis.scores import SCORING, item_name, language_name, said_of_items
from tli.config.parameters import Params
from tli.paper.accuracy import CLASSES
from tli.paper.changes import Task, bootstrap, flipped
from tli.stats.descriptive import mean, spread


def table(found: Sequence[Task], sources: Sequence[Source], params: Params) -> Made:
    """Each class of each set at rank 0 and at every rank: accuracy, change with an interval, flips, share chosen."""
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    notes: list[str] = []
    for one in found:
        for language, right in one.right.items():
            set_ = f"{one.task}.{language}"
            chosen = by_item(sources, set_, "pred", params)
            for index, name in enumerate(CLASSES[one.task]):
                values = of_class(right, one.label[language], index)
                first: dict[str, Cell] = {"task": item_name(one.task, params), "language": language_name(set_, params)}
                first |= {"class": name, "n": sum(x.size for x in values.start.values())}
                start = [100 * mean(x) for x in values.start.values() if x.size]
                picked = [100 * float((x == index).mean()) for x in chosen.start.values()]
                row: dict[str, Cell] = {"accuracy": tidy(mean(start)) if start else None}
                rows.append({**first, "rank": 0, **row, "chosen": mean(picked)})
                for rank in right.ranks:
                    rows.append({**first, "rank": rank, **_at(values, rank, params, notes)})
                    picked = [100 * float((x == index).mean()) for key, x in chosen.tuned.items() if key[2] == rank]
                    rows[-1]["chosen"] = mean(picked)
                    measured[f"sweep.r{rank}.class_change.{set_}.{index}"] = rows[-1]["change"]
    percent = f"{100 * params.stats.confidence:.9g} %"
    over = "bases, seeds" if len(sources) > 1 else "seeds"
    made = Table(
        "class_changes",
        "Accuracy by class and rank",
        f"Accuracy in percent on the items of each right answer, mean over {over} with the SD over models; the change "
        f"against rank 0 in points with the {percent} interval of the cluster bootstrap over {over} and the items' "
        "premises, uncorrected; percent of the items won and lost, a model; and how often the answer is chosen among "
        f"all items of the language. {said_of_items(params)}".rstrip(),
        (
            Column("task", "task"),
            Column("language", "language"),
            Column("class", "right answer"),
            Column("n", "n", "count"),
            Column("rank", "rank", "count"),
            Column("accuracy", "accuracy", "percent"),
            Column("sd", "SD", "percent"),
            Column("change", "change", "points"),
            Column("low", f"{percent} low", "points"),
            Column("high", f"{percent} high", "points"),
            Column("won", "won", "percent"),
            Column("lost", "lost", "percent"),
            Column("chosen", "chosen", "percent"),
        ),
        rows,
        view=SCORING,
        notes=notes,
    )
    return Made(made, measured)


def of_class(values: Values, label: Values, index: int) -> Values:
    """The items whose right answer is `index`; every base keeps its own."""
    held = {base: x == index for base, x in label.start.items()}
    groups = values.groups and {
        base: [name for name, keep in zip(names, held[base], strict=True) if keep]
        for base, names in values.groups.items()
    }
    start = {base: x[held[base]] for base, x in values.start.items()}
    return Values(start, {key: x[held[key[0]]] for key, x in values.tuned.items()}, groups)


def _at(values: Values, rank: int, params: Params, notes: list[str]) -> dict[str, Cell]:
    """A rank's cells but the share chosen; a class without items in a base has none."""
    changes = values.changes(rank)
    if not all(x.size for x in changes.values()):
        return {"change": None}
    drawn = bootstrap(values, rank, 100.0, params)
    notes += scope(drawn.note)
    over = spread([100 * mean(x) for key, x in values.tuned.items() if key[2] == rank])
    found: dict[str, Cell] = {"accuracy": tidy(100 * values.of_rank(rank)), "sd": tidy(over.sd)}
    found |= {"change": tidy(drawn.estimate), "low": tidy(drawn.low), "high": tidy(drawn.high)}
    return found | {"won": tidy(flipped(changes, 1)), "lost": tidy(flipped(changes, -1))}
