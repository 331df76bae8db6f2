"""Accuracy by class before and after training, and how often each class is chosen."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.results import Results
from tli.analysis.scores import CLASSES, SCORING, all_sets, cells, each, notes_on, set_columns
from tli.analysis.table import Cell, Column
from tli.analysis.views import MOMENTS
from tli.config.parameters import Params
from tli.stats.descriptive import mean

TITLE = "Accuracy by class"
CAPTION = (
    "Accuracy in percent by the item's right answer, and how often each answer is chosen, for the base (before) and "
    "the paper's configuration (after; rank {params.lora.rank}, seed {params.train.seed})."
)
SOURCE = ("base-rows", "score")
VIEW = SCORING


def columns(results: Results, params: Params) -> list[Column]:
    """Those of the sets, then of the class."""
    return [
        *set_columns(all_sets(results, params)),
        Column("class", "right answer", id=True),
        Column("n", "n", "count"),
        *(Column(f"{key}_{when}", f"{key} {when}", "percent") for when in MOMENTS for key in ("accuracy", "chosen")),
    ]


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """Per set and class."""
    scores, sets = results.of("score"), all_sets(results, params)
    for scored in sets:
        gold = each(scores, "base", scored.set, "label")
        for index, name in enumerate(CLASSES[scored.task]):
            items = [item for item, label in gold.items() if label == index]
            row: dict[str, Cell] = {**cells(scored, sets, params), "class": name, "n": len(items)}
            for when, run in MOMENTS.items():
                right = each(scores, run, scored.set, "correct")
                chosen = each(scores, run, scored.set, "pred")
                row[f"accuracy_{when}"] = 100 * mean([right[item] for item in items]) if items else None
                row[f"chosen_{when}"] = 100 * mean([float(value == index) for value in chosen.values()])
            yield row


def notes(results: Results, params: Params) -> list[str]:
    """Whose the items are, and what is not scored."""
    return notes_on(all_sets(results, params), results.metrics["benchmarks"], params)
