"""Accuracy seen from three sides: by class, beside baselines and the ceiling, and the data that it is counted on."""

from __future__ import annotations

from tli.paper import stats
from tli.paper.by_rank import LANGUAGES, SCORING, TASKS, accuracy, item_name, languages, said_of_items
from tli.paper.render import Cell, Column, Made, Table
from tli.paper.rows import Measured, Rows
from tli.paper.similarity import MOMENTS
from tli.params import Params

CLASSES = {"xcopa": ("first choice", "second choice"), "xnli": ("entailment", "neutral", "contradiction")}


def per_class(transfer: Rows, params: Params) -> Made:
    """Accuracy by gold class for the base and the paper's cell, and how often each class is predicted."""
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    for task, classes in CLASSES.items():
        for language in languages(transfer, task):
            set_ = f"{task}.{language}"
            gold = transfer.each("base", set_, "-", "label")
            for index, name in enumerate(classes):
                items = [item for item, label in gold.items() if label == index]
                row: dict[str, Cell] = {"task": item_name(task, params), "language": LANGUAGES.get(language, language)}
                row |= {"class": name, "n": len(items)}
                for when, which in MOMENTS.items():
                    right = transfer.each(which, set_, "-", "correct")
                    chosen = transfer.each(which, set_, "-", "pred")
                    row[f"accuracy_{when}"] = 100 * stats.mean([right[item] for item in items]) if items else None
                    row[f"chosen_{when}"] = 100 * stats.mean([float(value == index) for value in chosen.values()])
                    measured[f"class.{set_}.{when}.{index}"] = row[f"accuracy_{when}"]
                rows.append(row)
    table = Table(
        "classes",
        "Accuracy by class",
        "Accuracy in percent by the item's right answer, and how often each answer is chosen, for the base model "
        f"(before) and the paper's cell (after; rank {params.lora.rank}, seed {params.train.seed}), test split. "
        f"{said_of_items(params)}".rstrip(),
        (
            Column("task", "task"),
            Column("language", "language"),
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
    )
    return Made(table, measured)


def baselines(transfer: Rows, baseline: Rows, ceiling: Measured, params: Params) -> Made:
    """The base model and the paper's cell between what needs no model and what the noise of the items allows.

    `ceiling` maps a set to the highest accuracy that its noise allows, a share in [0, 1].
    """
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    partial = "choice-only"
    for task in TASKS:
        for language in languages(transfer, task):
            set_ = f"{task}.{language}"
            options = 0
            while transfer.has("base", set_, "-", f"loglik.{options}"):
                options += 1
            right = transfer.each("base", set_, "-", "correct")
            interval = stats.wilson(int(sum(right.values())), len(right), params.stats.confidence)
            top = ceiling.get(set_)
            found: dict[str, Cell] = {
                "chance": 100 / options,
                "partial": accuracy(baseline, partial, set_),
                "ngram": accuracy(baseline, "ngram", set_),
                "untrained": accuracy(transfer, "untrained", set_),
                "base": accuracy(transfer, "base", set_),
                "main": accuracy(transfer, "main", set_),
                "ceiling": 100 * top if isinstance(top, int | float) else None,
            }
            low, high = (None, None) if interval is None else (100 * interval[0], 100 * interval[1])
            row: dict[str, Cell] = {"task": item_name(task, params), "language": LANGUAGES.get(language, language)}
            rows.append({**row, "n": len(right), **found, "low": low, "high": high})
            measured |= {f"baseline.{set_}.{key}": found[key] for key in ("partial", "ngram", "untrained", "ceiling")}
    percent = f"{100 * params.stats.confidence:.9g} %"
    table = Table(
        "baselines",
        "Baselines and ceiling",
        "Accuracy in percent on the test split: chance, the options alone (XNLI: the hypothesis alone), an n-gram "
        "model, an untrained model of the same shape, the base model with Wilson's interval, the paper's cell, and the "
        f"highest accuracy that the noise of the items allows. {said_of_items(params)}".rstrip(),
        (
            Column("task", "task"),
            Column("language", "language"),
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
        notes=["the untrained model is not quantised", "a ceiling of - is one that is not known"],
    )
    return Made(table, measured)
