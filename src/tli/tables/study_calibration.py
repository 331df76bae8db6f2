"""The study: calibration of the scores by rank, over bases, for the reference variant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tli.analysis.results import Results
from tli.analysis.scores import SCORING
from tli.analysis.study import VARIANT, study_of
from tli.config.parameters import Params
from tli.tables import calibration

TITLE = "Study: calibration by rank"
CAPTION = (
    "As the table calibration, over the models of all bases, for the reference variant: expected calibration error and "
    "Brier score by rank."
)
SOURCE = ("study",)
VIEW = SCORING
COLUMNS = (VARIANT, *calibration.COLUMNS)


def rows(results: Results, params: Params) -> Iterator[dict[str, Any]]:
    """The rows of the table calibration for the reference variant."""
    return study_of(results, params).reference_rows(calibration.rows)


def notes(results: Results, params: Params) -> list[str]:
    """Those of the table calibration."""
    return study_of(results, params).reference_notes(calibration.notes)
