"""The study: whether LoRA changes the zero-shot scores and whether the rank matters, over bases, for each scaling."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.results import Results
from tli.analysis.robustness import OUTCOME_COLUMNS, summary_columns, summary_rows
from tli.analysis.scores import SCORING, said_of_items
from tli.analysis.study import VARIANT, study_of
from tli.analysis.table import Cell
from tli.config.parameters import Params

TITLE = "Study: robustness of the scores"
CAPTION = (
    "As the table robustness, over bases, for each variant with several ranks: accuracy at rank 0, the change to the "
    "mean over ranks in points with its {params.stats.confidence:.0%} interval, the fitted change, the verdict on the "
    "rank."
)
SOURCE = ("study",)
VIEW = SCORING
COLUMNS = (VARIANT, *OUTCOME_COLUMNS, *summary_columns("percent", "points"))


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """One row per variant, task and language."""
    for variant, effects in study_of(results, params).effects_on(answers=True).items():
        for row in summary_rows(effects, params):
            yield {"variant": variant, **row}


def notes(results: Results, params: Params) -> list[str]:
    """How many bases there are, what is corrected together, which sets have no verdict, what the items are."""
    study = study_of(results, params)
    return [*study.notes_on(study.effects_on(answers=True)), *study.untested, said_of_items(params)]
