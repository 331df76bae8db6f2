"""Accuracy seen from three sides: by class, beside baselines and the ceiling, and the data that it is counted on."""

from __future__ import annotations

from tli.analysis.render import Cell, Column, Made, Table
from tli.analysis.results import Measured, Rows
from tli.analysis.scores import (
    CORRECTED,
    SCORING,
    TASKS,
    accuracy,
    cells,
    columns,
    each,
    item_name,
    notes,
    said_of_items,
    shown,
    split,
)
from tli.analysis.views import MOMENTS
from tli.config.parameters import Params
from tli.stats import proportions
from tli.stats.descriptive import mean

CLASSES = {"xcopa": ("first choice", "second choice"), "xnli": ("entailment", "neutral", "contradiction")}


def per_class(transfer: Rows, counts: Measured, params: Params) -> Made:
    """Accuracy by gold class for the base and the paper's cell, and how often each class is predicted.

    `counts` are the metrics of the stage `benchmarks`, which say what split is scored.
    """
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    tabled = shown(transfer, counts, params, *TASKS)
    for one in tabled:
        gold = each(transfer, "base", one.set, "label")
        for index, name in enumerate(CLASSES[one.task]):
            items = [item for item, label in gold.items() if label == index]
            row: dict[str, Cell] = {"task": item_name(one.task, params), **cells(one, tabled)}
            row |= {"class": name, "n": len(items)}
            for when, which in MOMENTS.items():
                right = each(transfer, which, one.set, "correct")
                chosen = each(transfer, which, one.set, "pred")
                row[f"accuracy_{when}"] = 100 * mean([right[item] for item in items]) if items else None
                row[f"chosen_{when}"] = 100 * mean([float(value == index) for value in chosen.values()])
                measured[f"class.{one.set}.{when}.{index}"] = row[f"accuracy_{when}"]
            rows.append(row)
    table = Table(
        "classes",
        "Accuracy by class",
        "Accuracy in percent by the item's right answer, and how often each answer is chosen, for the base model "
        f"(before) and the paper's cell (after; rank {params.lora.rank}, seed {params.train.seed}), "
        f"{split(tabled)}. "
        f"{said_of_items(params)}".rstrip(),
        (
            Column("task", "task"),
            *columns(tabled),
            Column("class", "right answer"),
            Column("n", "n", "count"),
            *(
                column
                for when in MOMENTS
                for column in (
                    Column(f"accuracy_{when}", f"accuracy {when}", "percent"),
                    Column(f"chosen_{when}", f"chosen {when}", "percent"),
                )
            ),
        ),
        rows,
        view=SCORING,
        notes=notes(tabled, counts, params, *TASKS),
    )
    return Made(table, measured)


def baselines(transfer: Rows, baseline: Rows, ceiling: Measured, counts: Measured, params: Params) -> Made:
    """The base model and the paper's cell between what needs no model and what the noise of the items allows.

    `ceiling` maps a set to the highest accuracy that its noise allows, a share in [0, 1]. A baseline that has no rows
    is not given: it could not be fitted, or there is none of the profile.
    """
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    tabled = shown(transfer, counts, params, *TASKS)
    for one in tabled:
        right = each(transfer, "base", one.set, "correct")
        interval = proportions.wilson(int(sum(right.values())), len(right), params.stats.confidence)
        plain = one.set.replace(CORRECTED, "")  # what never sees the question is the same in both versions
        top = ceiling.get(plain)
        found: dict[str, Cell] = {
            "chance": 100 / len(CLASSES[one.task]),
            "partial": _accuracy(baseline, "choice-only", plain),
            "ngram": _accuracy(baseline, "ngram", one.set),
            "untrained": _accuracy(transfer, "untrained", one.set),
            "base": accuracy(transfer, "base", one.set),
            "main": accuracy(transfer, "main", one.set),
            "ceiling": 100 * top if isinstance(top, int | float) else None,
        }
        low, high = (None, None) if interval is None else (100 * interval[0], 100 * interval[1])
        row: dict[str, Cell] = {"task": item_name(one.task, params), **cells(one, tabled)}
        rows.append({**row, "n": len(right), **found, "low": low, "high": high})
        measured |= {f"baseline.{one.set}.{key}": found[key] for key in ("partial", "ngram", "untrained", "ceiling")}
    percent = f"{100 * params.stats.confidence:.9g} %"
    table = Table(
        "baselines",
        "Baselines and ceiling",
        f"Accuracy in percent on the {split(tabled)}: chance, the options alone (XNLI: the hypothesis alone), an "
        "n-gram model, an untrained model of the same shape, the base model with Wilson's interval, the paper's cell, "
        f"and the highest accuracy that the noise of the items allows. {said_of_items(params)}".rstrip(),
        (
            Column("task", "task"),
            *columns(tabled),
            Column("n", "n", "count"),
            Column("chance", "chance", "percent"),
            Column("partial", "options or hypothesis only", "percent"),
            Column("ngram", "n-gram", "percent"),
            Column("untrained", "untrained", "percent"),
            Column("base", "base", "percent"),
            Column("low", f"{percent} low", "percent"),
            Column("high", f"{percent} high", "percent"),
            Column("main", "paper's cell", "percent"),
            Column("ceiling", "ceiling", "percent"),
        ),
        rows,
        view=SCORING,
        notes=[
            "the untrained model is not quantised" if any(row["untrained"] is not None for row in rows) else "",
            "a ceiling of - is one that is not known",
            *notes(tabled, counts, params, *TASKS),
        ],
    )
    return Made(table, measured)


def _accuracy(rows: Rows, which: str, set_: str) -> float | None:
    """Accuracy of a baseline in percent, None where it has no rows of the set."""
    return accuracy(rows, which, set_) if rows.has(which, set_, "-", "correct") else None
