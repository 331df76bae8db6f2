"""The study: odds of a right answer, any rank against rank 0 and per doubling of the rank, over bases."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.results import Results
from tli.analysis.scores import SCORING
from tli.analysis.study import VARIANT, study_of
from tli.analysis.table import Cell
from tli.config.parameters import Params
from tli.tables import odds

TITLE = "Study: odds of a right answer"
CAPTION = (
    "As the table odds, over bases, for each variant with several ranks: odds ratios of a right answer, any rank "
    "against rank 0 and per doubling of the rank, with {params.stats.confidence:.0%} intervals."
)
SOURCE = ("study",)
VIEW = SCORING
COLUMNS = (VARIANT, *odds.COLUMNS)


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """One row per variant and outcome."""
    for variant, effects in study_of(results, params).effects_on(answers=True).items():
        for row in odds.rows_of(effects):
            yield {"variant": variant, **row}


def notes(results: Results, params: Params) -> list[str]:
    """The notes of the table odds, for each variant."""
    study = study_of(results, params)
    notes = [
        note
        for variant, effects in study.effects_on(answers=True).items()
        for note in odds.notes_on(effects, study.params[variant])
    ]
    return [*notes, *study.untested]
