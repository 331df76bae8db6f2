"""Benchmark scores: the scored sets and their names, accuracy, McNemar's test (every table and figure of scores)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tli.analysis.results import Measured, Results, Rows, run_name
from tli.analysis.table import Cell, Column
from tli.config.benchmarks import FileBenchmarks, GivenBenchmarks
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
AT_CHANCE = "at chance"  # ends the name of a set that `at_chance` finds
CHANCE_NOTE = (
    f"{AT_CHANCE}: no loss could show; the interval of the base's accuracy contains chance, so there is no test and no "
    "verdict"
)
Bases = Results | Sequence[Results]  # the results of one base, or of each of several


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
    if isinstance(benchmarks, GivenBenchmarks) and benchmarks.limit is not None:
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


def set_name(set_: str, params: Params) -> str:
    """The items and the language of a set in words: `XNLI, Swahili`."""
    return f"{item_name(set_.partition('.')[0], params)}, {language_name(set_, params)}"


def bases_of(results: Bases) -> Sequence[Results]:
    """The results of each base."""
    return [results] if isinstance(results, Results) else results


def scores_of(results: Bases) -> list[Rows]:
    """The rows of the scores of each base."""
    return [base.of("score") for base in bases_of(results)]


def at_chance(bases: Sequence[Rows], set_: str, params: Params) -> bool:
    """Whether the base does not differ from chance on a set, so that training could not show a loss.

    Wilson's interval of the base's accuracy, over the items of all bases pooled, contains 1 / number of choices. The
    adapters' answers are not looked at: the set is known before training, and leaving it out of a family of tests
    selects no result.

    Args:
        bases: the rows of the scores of each base.
    """
    right = [answer for rows in bases for answer in correct(rows, "base", set_)]
    interval = proportions.wilson(sum(right), len(right), params.stats.confidence)
    task = set_.partition(".")[0].removesuffix(CORRECTED)
    return interval is not None and interval[0] <= 1 / len(CLASSES[task]) <= interval[1]


def marked(name: str, is_at_chance: bool) -> str:
    """The name of a set, or of its language, as every table, figure and sentence shows it: `Swahili, at chance`."""
    return f"{name}, {AT_CHANCE}" if is_at_chance else name


def swept_runs(rows: Rows, set_: str, params: Params) -> list[tuple[int, int]]:
    """(rank, seed) of each run of the sweep that was scored on a set."""
    runs = [(rank, seed) for rank in params.sweep.ranks for seed in params.sweep.seeds]
    return [(rank, seed) for rank, seed in runs if rows.has(run_name(rank, seed), set_, "-", "correct")]


def swept_ranks(bases: Sequence[Rows], set_: str, params: Params) -> list[int]:
    """The ranks of the sweep at which an adapter of every base was scored on a set."""
    of_bases = [{rank for rank, _ in swept_runs(rows, set_, params)} for rows in bases]
    return [rank for rank in params.sweep.ranks if all(rank in ranks for ranks in of_bases)]


def scored_at(bases: Sequence[Rows], set_: str, params: Params) -> str:
    """At which ranks a set was scored, in words; empty where it was at every rank of the sweep."""
    ranks = [str(rank) for rank in swept_ranks(bases, set_, params)]
    if len(ranks) == len(params.sweep.ranks):
        return ""
    if not ranks:
        return "scored at no rank of the sweep"
    *first, last = ranks
    return f"scored at ranks {', '.join(first)} and {last} only" if first else f"scored at rank {last} only"


def languages(rows: Rows, task: str) -> list[str]:
    """The languages of a task, in the order of the rows."""
    return [set_.removeprefix(f"{task}.") for set_ in rows.sets("correct") if set_.startswith(f"{task}.")]


class Shown(NamedTuple):
    """A scored set: task, language in words, whether `question` is released or corrected, split, whether at chance."""

    set: str
    task: str
    language: str
    version: str
    split: str
    at_chance: bool = False


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


def all_sets(results: Bases, params: Params) -> list[Shown]:
    """The scored sets of every task, which all bases share; the language of a set at chance is marked."""
    bases = scores_of(results)
    return [
        scored._replace(language=marked(scored.language, is_at_chance), at_chance=is_at_chance)
        for scored in shown(bases[0], bases_of(results)[0].metrics["benchmarks"], params, *TASKS)
        for is_at_chance in [at_chance(bases, scored.set, params)]
    ]


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
    """The notes of a table of scores: whose the items are, the split, what `corrected` and `at chance` mean, what is
    not scored.

    Args:
        scored: the sets of the table. counts: the metrics of the stage `benchmarks`.
    """
    splits = {of.split for of in scored}
    return [
        said_of_items(params),
        f"split: {splits.pop()}" if len(splits) == 1 else "",
        CORRECTION if any(of.version == "corrected" for of in scored) else "",
        CHANCE_NOTE if any(of.at_chance for of in scored) else "",
        *not_scored(counts, params),
    ]


def not_scored(counts: Measured, params: Params) -> list[str]:
    """Each set without scores, with the reason that the stage `benchmarks` gives."""
    left_out = [(key.removesuffix(".left_out"), why) for key, why in counts.items() if key.endswith(".left_out")]
    return [f"{set_name(set_, params)}: not scored, {why}" for set_, why in left_out]


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
