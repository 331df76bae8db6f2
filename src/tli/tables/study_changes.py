"""The study: change of accuracy and of the log-likelihood margin by rank, over bases, for the reference variant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tli.analysis.results import Results
from tli.analysis.scores import SCORING
from tli.analysis.study import VARIANT, study_of
from tli.config.parameters import Params
from tli.tables import changes

TITLE = "Study: change of accuracy and margin by rank"
CAPTION = (
    "As the table changes, over bases, for the reference variant: mean change against rank 0 with the "
    "{params.stats.confidence:.0%} interval of the cluster bootstrap over bases, seeds and items: accuracy in points, "
    "margin in nats."
)
SOURCE = ("study",)
VIEW = SCORING
COLUMNS = (VARIANT, *changes.COLUMNS)


def rows(results: Results, params: Params) -> Iterator[dict[str, Any]]:
    """The rows of the table changes for the reference variant."""
    return study_of(results, params).reference_rows(changes.rows)


def notes(results: Results, params: Params) -> list[str]:
    """Those of the table changes."""
    return study_of(results, params).reference_notes(changes.notes)
