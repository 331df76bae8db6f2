"""The study: accuracy on the items of each right answer by rank, over bases, for the reference variant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tli.analysis.results import Results
from tli.analysis.scores import SCORING
from tli.analysis.study import VARIANT, study_of
from tli.config.parameters import Params
from tli.tables import class_changes

TITLE = "Study: accuracy by class and rank"
CAPTION = (
    "As the table class_changes, over bases, for the reference variant: accuracy on the items of each right answer, "
    "and its change against rank 0 in points with the {params.stats.confidence:.0%} interval of the cluster bootstrap."
)
SOURCE = ("study",)
VIEW = SCORING
COLUMNS = (VARIANT, *class_changes.COLUMNS)


def rows(results: Results, params: Params) -> Iterator[dict[str, Any]]:
    """The rows of the table class_changes for the reference variant."""
    return study_of(results, params).reference_rows(class_changes.rows)


def notes(results: Results, params: Params) -> list[str]:
    """Those of the table class_changes."""
    return study_of(results, params).reference_notes(class_changes.notes)
