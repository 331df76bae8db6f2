"""Accuracy of the base and the paper's configuration beside baselines and the ceiling that the items' noise sets."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.results import Results, Rows
from tli.analysis.scores import (
    CLASSES,
    CORRECTED,
    SCORING,
    Shown,
    accuracy,
    all_sets,
    cells,
    correct,
    notes_on,
    set_columns,
    single,
)
from tli.analysis.table import Cell, Column
from tli.config.parameters import Params

TITLE = "Baselines and ceiling"
CAPTION = (
    "Accuracy in percent: chance, baselines, the base with Wilson's {params.stats.confidence:.0%} interval, the "
    "paper's configuration, and the highest accuracy that the noise of the items allows."
)
SOURCE = ("benchmarks", "microworld", "base-rows", "score")
VIEW = SCORING


def columns(results: Results, params: Params) -> list[Column]:
    """Those of the sets, then of the models."""
    return [
        *set_columns(all_sets(results, params)),
        Column("n", "n", "count"),
        Column("chance", "chance", "percent"),
        Column("partial", "choices or hypothesis only", "percent"),
        Column("ngram", "n-gram", "percent"),
        Column("untrained", "untrained", "percent"),
        Column("base", "base", "percent"),
        Column("low", "CI low", "percent"),
        Column("high", "CI high", "percent"),
        Column("main", "paper's configuration", "percent"),
        Column("ceiling", "ceiling", "percent"),
    ]


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """Per set. A baseline without rows has no cell: it could not be fitted, or the model has none."""
    scores, baselines, sets = results.of("score"), results.of("benchmarks"), all_sets(results, params)
    for scored in sets:
        base = single(scores, "base", scored.set, params)
        released = scored.set.replace(CORRECTED, "")  # choice-only never sees the question, and the ceiling is the same
        yield {
            **cells(scored, sets, params),
            "n": len(correct(scores, "base", scored.set)),
            "chance": 100 / len(CLASSES[scored.task]),
            "partial": _accuracy(baselines, "choice-only", released),
            "ngram": _accuracy(baselines, "ngram", scored.set),
            "untrained": _accuracy(scores, "untrained", scored.set),
            "base": base["accuracy"],
            "low": base["low"],
            "high": base["high"],
            "main": accuracy(scores, "main", scored.set),
            "ceiling": _ceiling(results, scored, released),
        }


def _accuracy(answers: Rows, run: str, set_: str) -> float | None:
    return accuracy(answers, run, set_) if answers.has(run, set_, "-", "correct") else None


def _ceiling(results: Results, scored: Shown, released: str) -> float | None:
    """The highest accuracy that the noise of a set's items allows, as the stage `microworld` computed it."""
    share = results.metrics["microworld"].get(f"items.{released}.{scored.split}.ceiling")
    return 100 * share if isinstance(share, int | float) else None


def notes(results: Results, params: Params) -> list[str]:
    """What the baselines are."""
    return [
        "choices or hypothesis only: a logistic regression that sees XCOPA's two choices or XNLI's hypothesis, not the "
        "premise; n-gram: word trigrams of the corpus that the base was trained on; untrained: a model of the same "
        "shape with random weights, not quantised",
        "a ceiling of `-` is not known",
        *notes_on(all_sets(results, params), results.metrics["benchmarks"], params),
    ]
