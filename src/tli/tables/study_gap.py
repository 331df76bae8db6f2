"""The study: forgetting of English and transfer gap by rank, over all bases, for the reference variant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tli.analysis.results import Results
from tli.analysis.scores import SCORING
from tli.analysis.study import VARIANT, study_of
from tli.config.parameters import Params
from tli.tables import gap

TITLE = "Study: forgetting and transfer gap by rank"
CAPTION = (
    "As the table gap, over the models of all bases, for the reference variant: change of accuracy against rank 0 in "
    "points in English, in the mean target language and in the worst one, and the transfer gap."
)
SOURCE = ("study",)
VIEW = SCORING
COLUMNS = (VARIANT, *gap.COLUMNS)


def rows(results: Results, params: Params) -> Iterator[dict[str, Any]]:
    """The rows of the table gap for the reference variant."""
    return study_of(results, params).reference_rows(gap.rows)


def notes(results: Results, params: Params) -> list[str]:
    """Those of the table gap."""
    return study_of(results, params).reference_notes(gap.notes)
