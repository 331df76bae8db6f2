"""Whether LoRA changes the zero-shot scores, and whether the rank matters: one row per task and language."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.outcomes import not_at_every_rank
from tli.analysis.results import Results
from tli.analysis.robustness import OUTCOME_COLUMNS, of_scores, summary_columns, summary_notes, summary_rows
from tli.analysis.scores import SCORING, said_of_items
from tli.analysis.table import Cell
from tli.config.parameters import Params

TITLE = "Robustness of the scores"
CAPTION = (
    "Accuracy in percent at rank 0, the change to the mean over ranks and seeds in points with its "
    "{params.stats.confidence:.0%} interval, the fitted change from lowest to highest rank, "
    "and the verdict on the rank."
)
SOURCE = ("base-rows", "sweep-score")
VIEW = SCORING
COLUMNS = (
    *OUTCOME_COLUMNS,
    *summary_columns("percent", "points"),
)


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """One row per task and language."""
    return summary_rows(of_scores(results, params), params)


def notes(results: Results, params: Params) -> list[str]:
    """The verdicts in words, then how the numbers are computed, which sets have no verdict, what the items are."""
    notes = summary_notes(of_scores(results, params), params)
    return [*notes, not_at_every_rank(results, params), said_of_items(params)]
