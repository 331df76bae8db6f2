"""Counts of the benchmarks' items by set and split: labels, duplicates, and what would make a score unfair."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.results import Results
from tli.analysis.scores import SET_COLUMNS, TASKS, item_name, language_name, not_scored, released_items, said_of_items
from tli.analysis.table import Cell, Column
from tli.config.parameters import Params

TITLE = "Items"
CAPTION = (
    "The items of each task, language and split: how many, how many with each right answer, choices that are the same "
    "text, prompts that occur twice, test prompts that also stand in the other split."
)
SOURCE = ("benchmarks",)
VIEW = "none (counts, no similarity)"


def columns(results: Results, params: Params) -> list[Column]:
    """A column per count of the stage `benchmarks`."""
    groups = _groups(results).values()
    names = dict.fromkeys(name for counts in groups for name in counts)
    text = {name for counts in groups for name, value in counts.items() if isinstance(value, str)}
    return [
        *SET_COLUMNS,
        Column("split", "split", id=True),
        *(
            Column(name, name.replace(".", ": ").replace("_", " "), "text" if name in text else "count")
            for name in names
        ),
    ]


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """Per set and split."""
    for (task, language, split), counts in _groups(results).items():
        set_ = f"{task}.{language}"
        names = {"set": set_, "task": item_name(task, params), "language": language_name(set_, params), "split": split}
        yield {**names, **counts}


def _groups(results: Results) -> dict[tuple[str, str, str], dict[str, Cell]]:
    """(task, language, split) -> counts, from flat keys task.language.split.NAME. `baselines` shows the accuracies."""
    groups: dict[tuple[str, str, str], dict[str, Cell]] = {}
    for key, value in results.metrics["benchmarks"].items():
        parts = key.split(".", 3)
        if len(parts) == 4 and parts[0] in TASKS and parts[3].partition(".")[0] not in ("accuracy", "label_share"):
            task, language, split, name = parts
            groups.setdefault((task, language, split), {})[name] = value
    return groups


def notes(results: Results, params: Params) -> list[str]:
    """Whose the items are, what XCOPA's questions are compared with, what is not scored."""
    compared = (
        "XCOPA's `question` is compared with English COPA's, item by item, except where the labels show that the lists "
        "hold different items"
    )
    return [
        said_of_items(params),
        compared if released_items(params) else "",
        *not_scored(results.metrics["benchmarks"], params),
    ]
