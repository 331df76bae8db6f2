"""Whether LoRA changes the similarity of translations, and whether the rank matters: cosines and retrieval."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.results import Results
from tli.analysis.robustness import OUTCOME_COLUMNS, of_similarity, summary_columns, summary_notes, summary_rows
from tli.analysis.table import Cell, Column
from tli.analysis.views import trained_view
from tli.config.parameters import Params

TITLE = "Robustness of the similarity"
CAPTION = (
    "Cosines, and P@1 as a share, at rank 0, the mean over ranks and seeds minus rank 0 with its "
    "{params.stats.confidence:.0%} interval, the fitted change from lowest to highest rank, "
    "and the verdict on the rank."
)
SOURCE = ("base-rows", "sweep-score")
COLUMNS = (
    *OUTCOME_COLUMNS,
    Column("view", "view"),
    *summary_columns("cosine", "cosine_change"),
)


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """One row per outcome: cosine and excess of each set, P@1 in each direction."""
    for row in summary_rows(of_similarity(results, params), params):
        yield {**row, "view": trained_view(params)}


def notes(results: Results, params: Params) -> list[str]:
    """The verdicts in words, then how the numbers are computed."""
    return summary_notes(of_similarity(results, params), params)
