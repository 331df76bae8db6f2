"""Scores as the tables read them: names of tasks and languages, released and corrected questions, accuracy, flips.

Feeds every table and figure of accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tli.analysis.render import Cell, Column
from tli.analysis.results import Measured, Rows
from tli.config.parameters import Params
from tli.stats import mcnemar
from tli.stats.descriptive import mean

SCORING = "summed log-likelihood of each option under NF4; no layer, no pooling"
TASKS = {"xcopa": "XCOPA", "xnli": "XNLI"}
LANGUAGES = {
    "ar": "Arabic",
    "bg": "Bulgarian",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "et": "Estonian",
    "fr": "French",
    "hi": "Hindi",
    "ht": "Haitian Creole",
    "id": "Indonesian",
    "it": "Italian",
    "qu": "Quechua",
    "ru": "Russian",
    "sw": "Swahili",
    "ta": "Tamil",
    "th": "Thai",
    "tr": "Turkish",
    "ur": "Urdu",
    "vi": "Vietnamese",
    "zh": "Chinese",
}
CORRECTED = "-corrected"  # ends the task of rows of XCOPA items asked again, with English COPA's `question`


def item_name(task: str, params: Params) -> str:
    """What the items are: the micro-world's are in a benchmark's form and are never called that benchmark."""
    return f"{TASKS.get(task, task)}-form" if params.active.benchmarks.source == "microworld" else TASKS.get(task, task)


def said_of_items(params: Params) -> str:
    """The sentence that every table of scores carries."""
    benchmarks = params.active.benchmarks
    if benchmarks.source == "microworld":
        return "The items are the micro-world's, in XCOPA's and XNLI's form: they are not XCOPA and XNLI scores."
    if benchmarks.source == "hub" and benchmarks.limit is not None:
        return f"Only the first {benchmarks.limit} items of each language are scored: these are not full scores."
    return ""


def language_name(set_: str, params: Params) -> str:
    """A set's language in words. XCOPA has no English: there it is COPA's, a list of its own."""
    task, _, language = set_.partition(".")
    name = LANGUAGES.get(language, language)
    own = params.active.benchmarks.source == "hub" and (task, language) == ("xcopa", "en")
    return f"{name} (COPA)" if own else name


def languages(transfer: Rows, task: str) -> list[str]:
    """The languages of a task's rows, in the file's order."""
    return [set_.removeprefix(f"{task}.") for set_ in transfer.sets("correct") if set_.startswith(f"{task}.")]


class Shown(NamedTuple):
    """A set that a table shows: its language in words, whether `question` is released or corrected, the split."""

    set: str
    task: str
    language: str
    version: str
    split: str


def shown(transfer: Rows, counts: Measured, params: Params, *tasks: str) -> list[Shown]:
    """What is tabled of `tasks`: each language as released, then, where items were asked again, corrected.

    `counts` are the metrics of the stage `benchmarks`, which say what split is scored.
    """
    sets = set(transfer.sets("correct"))
    found: list[Shown] = []
    for task in tasks:
        for language in languages(transfer, task):
            set_, again = f"{task}.{language}", f"{task}{CORRECTED}.{language}"
            one = Shown(set_, task, language_name(set_, params), "released", str(counts[f"{set_}.scored"]))
            found += [one, one._replace(set=again, version="corrected")] if again in sets else [one]
    return found


def columns(tabled: Sequence[Shown]) -> list[Column]:
    """What tells the sets of a table apart: the language, and the version and the split where these differ."""
    varying = [("version", "question"), ("split", "split")]
    return [
        Column("language", "language"),
        *(Column(key, title) for key, title in varying if len({getattr(one, key) for one in tabled}) > 1),
    ]


def cells(one: Shown, tabled: Sequence[Shown]) -> dict[str, Cell]:
    """The cells of `columns`."""
    return {column.key: getattr(one, column.key) for column in columns(tabled)}


def split(tabled: Sequence[Shown]) -> str:
    """The split in a caption's words."""
    splits = {one.split for one in tabled}
    return f"{splits.pop()} split" if len(splits) == 1 else "split given"


CORRECTION = (
    "corrected: the items whose `question` differs from English COPA's are asked with English COPA's, the others count "
    "as released"
)


def each(rows: Rows, which: str, set_: str, measure: str) -> dict[str, float]:
    """Item -> value. A corrected set is the released one with the items that were asked again in place."""
    task, _, language = set_.partition(".")
    if not task.endswith(CORRECTED):
        return rows.each(which, set_, "-", measure)
    released = rows.each(which, f"{task.removesuffix(CORRECTED)}.{language}", "-", measure)
    return released | rows.each(which, set_, "-", measure)


def correct(rows: Rows, which: str, set_: str) -> list[bool]:
    """Whether each item is answered rightly, in the file's order."""
    return [value == 1 for value in each(rows, which, set_, "correct").values()]


def accuracy(rows: Rows, which: str, set_: str) -> float:
    """Share of items answered rightly, in percent."""
    return 100 * mean([float(right) for right in correct(rows, which, set_)])


def flips(base: Rows, other: Rows, which: str, set_: str) -> mcnemar.McNemar:
    """The exact McNemar test of a cell against rank 0 on the same items."""
    task, _, language = set_.partition(".")
    for part in dict.fromkeys((f"{task.removesuffix(CORRECTED)}.{language}", set_)):
        base.matched(("base", which), part, "-", "correct", other)  # refuses unequal items
    before, after = each(base, "base", set_, "correct"), each(other, which, set_, "correct")
    return mcnemar.exact([value == 1 for value in before.values()], [after[item] == 1 for item in before])


def notes(tabled: Sequence[Shown], counts: Measured, params: Params, *tasks: str) -> list[str]:
    """What a table of scores must add: what corrected means, and each language that is not scored, with the reason."""
    found = [CORRECTION] if any(one.version == "corrected" for one in tabled) else []
    for key, why in counts.items():
        set_, _, name = key.rpartition(".")
        task = set_.partition(".")[0]
        if name == "left_out" and task in tasks:
            found.append(f"{item_name(task, params)}, {language_name(set_, params)}: not scored, {why}")
    return found
