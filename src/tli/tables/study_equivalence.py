"""The study: two one-sided tests of the fitted change over the ranks, over bases, for each scaling."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.results import Results
from tli.analysis.study import VARIANT, study_of
from tli.analysis.table import Cell
from tli.config.parameters import Params
from tli.tables import equivalence

TITLE = "Study: equivalence of the ranks"
CAPTION = (
    "As the table equivalence, over bases, for each variant with several ranks: whether the fitted change from the "
    "lowest to the highest rank lies within ± the margin; p uncorrected, and corrected by Holm within the family and "
    "variant."
)
SOURCE = ("study",)
COLUMNS = (VARIANT, *equivalence.COLUMNS)


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """One row per variant and outcome."""
    for variant, effects in study_of(results, params).effects.items():
        for row in equivalence.rows_of(effects, params):
            yield {"variant": variant, **row}


def notes(results: Results, params: Params) -> list[str]:
    """The notes of the table equivalence, for each variant."""
    study = study_of(results, params)
    notes = [
        note
        for variant, effects in study.effects.items()
        for note in equivalence.notes_on(effects, study.params[variant])
    ]
    return [*notes, *study.untested]
