"""The study: the slope of each outcome per doubling of the rank, over bases, for each scaling."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.results import Results
from tli.analysis.study import VARIANT, study_of
from tli.analysis.table import Cell
from tli.config.parameters import Params
from tli.tables import trends

TITLE = "Study: trend on the rank"
CAPTION = (
    "As the table trends, over bases, for each variant with several ranks: least-squares slope of each outcome per "
    "doubling of the rank with its {params.stats.confidence:.0%} interval; p uncorrected, and corrected by Holm within "
    "the family and variant."
)
SOURCE = ("study",)
COLUMNS = (VARIANT, *trends.COLUMNS)


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """One row per variant and outcome."""
    for variant, effects in study_of(results, params).effects.items():
        for row in trends.rows_of(effects):
            yield {"variant": variant, **row}


def notes(results: Results, params: Params) -> list[str]:
    """The notes of the table trends, for each variant."""
    study = study_of(results, params)
    notes = [
        note for variant, effects in study.effects.items() for note in trends.notes_on(effects, study.params[variant])
    ]
    return [*notes, *study.untested]
