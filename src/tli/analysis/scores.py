"""Benchmark scores: the scored sets and their names, accuracy, McNemar's test (every table and figure of scores)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tli.analysis.results import Measured, Results, Rows
from tli.analysis.table import Cell, Column
from tli.config.benchmarks import FileBenchmarks, HubBenchmarks
from tli.config.parameters import Params
from tli.data.benchmarks import prompts
from tli.stats import mcnemar, proportions
from tli.stats.descriptive import mean

SCORING = "summed log-likelihood of each choice under NF4; no layer, no pooling"
TASKS = {"xcopa": "XCOPA", prompts.COPA_TEST: "COPA", "xnli": "XNLI"}
_CHOICES = ("first choice", "second choice")
CLASSES = {"xcopa": _CHOICES, prompts.COPA_TEST: _CHOICES, "xnli": ("entailment", "neutral", "contradiction")}
STYLES = {"xcopa": "COPA-style", "xnli": "NLI-style"}  # items that were written for this artifact
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
CORRECTED = prompts.CORRECTED  # ends the task of XCOPA items that are asked again with English COPA's `question`
SET_COLUMNS = (Column("set", "set", id=True), Column("task", "task"), Column("language", "language"))


def item_name(task: str, params: Params) -> str:
    """The name of a task's items. Items that are not a benchmark's never have its bare name."""
    name = TASKS.get(task, task)
    if written_here(params):
        return STYLES.get(task, task)
    return f"{name}-form" if params.active.benchmarks.source == "microworld" else name


def released_items(params: Params) -> bool:
    """Whether the items are those of the released benchmarks."""
    benchmarks = params.active.benchmarks
    return benchmarks.source == "hub" or (isinstance(benchmarks, FileBenchmarks) and benchmarks.items_of == "released")


def written_here(params: Params) -> bool:
    """Whether the items are sentences that were written for this artifact."""
    benchmarks = params.active.benchmarks
    return isinstance(benchmarks, FileBenchmarks) and benchmarks.items_of == "project"


def said_of_items(params: Params) -> str:
    """A note for every table of scores: whose the items are, and whether only some are scored."""
    benchmarks = params.active.benchmarks
    if benchmarks.source == "microworld":
        return "The items are the micro-world's, in XCOPA's and XNLI's form: they are not XCOPA and XNLI scores."
    if written_here(params):
        return (
            "The items were written for this artifact, in COPA's and NLI's form: they are not XCOPA and XNLI scores. "
            "The Swahili ones were translated and reviewed twice, not by a native speaker."
        )
    if isinstance(benchmarks, HubBenchmarks | FileBenchmarks) and benchmarks.limit is not None:
        return (
            f"At most {benchmarks.limit.items} items of each set are scored, whole premises drawn with seed "
            f"{benchmarks.limit.seed}: larger sets have no full scores."
        )
    return ""


def language_name(set_: str, params: Params) -> str:
    """The language of a set in words. XCOPA has no English: there it is COPA's."""
    task, _, language = set_.partition(".")
    name = LANGUAGES.get(language, language)
    is_copa = (task, language) == ("xcopa", "en") and released_items(params)
    return f"{name} (COPA)" if is_copa else name


def languages(rows: Rows, task: str) -> list[str]:
    """The languages of a task, in the order of the rows."""
    return [set_.removeprefix(f"{task}.") for set_ in rows.sets("correct") if set_.startswith(f"{task}.")]


class Shown(NamedTuple):
    """A scored set: its task, its language in words, whether `question` is released or corrected, its split."""

    set: str
    task: str
    language: str
    version: str
    split: str


def shown(rows: Rows, counts: Measured, params: Params, *tasks: str) -> list[Shown]:
    """The scored sets of `tasks`: each language as released, followed by its corrected items if there are any.

    Args:
        counts: the metrics of the stage `benchmarks`, which name the split that is scored.
    """
    measured = set(rows.sets("correct"))
    scored: list[Shown] = []
    for task in tasks:
        for language in languages(rows, task):
            set_, again = f"{task}.{language}", f"{task}{CORRECTED}.{language}"
            scored.append(Shown(set_, task, language_name(set_, params), "released", str(counts[f"{set_}.scored"])))
            if again in measured:
                scored.append(scored[-1]._replace(set=again, version="corrected"))
    return scored


def all_sets(results: Results, params: Params) -> list[Shown]:
    """The scored sets of every task."""
    return shown(results.of("score"), results.metrics["benchmarks"], params, *TASKS)


def set_columns(scored: Sequence[Shown]) -> list[Column]:
    """The columns that identify a set; the version of the question and the split where they differ between sets."""
    varying = (Column("version", "question"), Column("split", "split"))
    return [*SET_COLUMNS, *(column for column in varying if len(_values(scored, column)) > 1)]


def cells(of: Shown, scored: Sequence[Shown], params: Params) -> dict[str, Cell]:
    """The cells of `set_columns` for a set."""
    names: dict[str, Cell] = {**of._asdict(), "task": item_name(of.task, params)}
    return {column.key: names[column.key] for column in set_columns(scored)}


def _values(scored: Sequence[Shown], column: Column) -> set[str]:
    return {getattr(of, column.key) for of in scored}


CORRECTION = (
    "corrected: the items whose `question` differs from English COPA's are asked with English COPA's, the others count "
    "as released"
)


def notes_on(scored: Sequence[Shown], counts: Measured, params: Params) -> list[str]:
    """The notes of a table of scores: whose the items are, the split, what corrected means, what is not scored.

    Args:
        scored: the sets of the table. counts: the metrics of the stage `benchmarks`.
    """
    splits = {of.split for of in scored}
    return [
        said_of_items(params),
        f"split: {splits.pop()}" if len(splits) == 1 else "",
        CORRECTION if any(of.version == "corrected" for of in scored) else "",
        *not_scored(counts, params),
    ]


def not_scored(counts: Measured, params: Params) -> list[str]:
    """Each set without scores, with the reason that the stage `benchmarks` gives."""
    left_out = [(key.removesuffix(".left_out"), why) for key, why in counts.items() if key.endswith(".left_out")]
    return [
        f"{item_name(set_.partition('.')[0], params)}, {language_name(set_, params)}: not scored, {why}"
        for set_, why in left_out
    ]


def each(rows: Rows, run: str, set_: str, measure: str) -> dict[str, float]:
    """Item -> value. A corrected set is the released one in which the items that were asked again replace theirs."""
    task, _, language = set_.partition(".")
    if not task.endswith(CORRECTED):
        return rows.each(run, set_, "-", measure)
    released = rows.each(run, f"{task.removesuffix(CORRECTED)}.{language}", "-", measure)
    return released | rows.each(run, set_, "-", measure)


def correct(rows: Rows, run: str, set_: str) -> list[bool]:
    """Whether each item is answered rightly, in the order of the rows."""
    return [value == 1 for value in each(rows, run, set_, "correct").values()]


def accuracy(rows: Rows, run: str, set_: str) -> float:
    """The share of items answered rightly, in percent."""
    return 100 * mean([float(right) for right in correct(rows, run, set_)])


def single(rows: Rows, run: str, set_: str, params: Params) -> dict[str, Cell]:
    """The accuracy of a single model with Wilson's interval, in percent."""
    right = correct(rows, run, set_)
    interval = proportions.wilson(sum(right), len(right), params.stats.confidence)
    low, high = (None, None) if interval is None else (100 * interval[0], 100 * interval[1])
    return {"accuracy": accuracy(rows, run, set_), "low": low, "high": high}


def flips(rows: Rows, run: str, set_: str) -> mcnemar.McNemar:
    """The exact McNemar test of a run against the base on the same items. Raises UserError where the items differ."""
    task, _, language = set_.partition(".")
    for part in dict.fromkeys((f"{task.removesuffix(CORRECTED)}.{language}", set_)):
        rows.matched(("base", run), part, "-", "correct")
    before, after = each(rows, "base", set_, "correct"), each(rows, run, set_, "correct")
    return mcnemar.exact([value == 1 for value in before.values()], [after[item] == 1 for item in before])
