"""The study: whether LoRA changes the similarity of translations and whether the rank matters, over bases."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.results import Results
from tli.analysis.robustness import OUTCOME_COLUMNS, summary_columns, summary_rows
from tli.analysis.study import VARIANT, study_of
from tli.analysis.table import Cell, Column
from tli.config.parameters import Params

TITLE = "Study: robustness of the similarity"
CAPTION = (
    "As the table robustness_alignment, over bases, for each variant with several ranks: cosines and P@1 at rank 0, "
    "the change to the mean over ranks with its {params.stats.confidence:.0%} interval, the fitted change, the verdict "
    "on the rank."
)
SOURCE = ("study",)
COLUMNS = (VARIANT, *OUTCOME_COLUMNS, Column("view", "view"), *summary_columns("cosine", "cosine_change"))


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """One row per variant and outcome: cosine and excess of each set, P@1 in each direction."""
    for variant, effects in study_of(results, params).effects_on(answers=False).items():
        for effect, row in zip(effects, summary_rows(effects, params), strict=True):
            yield {"variant": variant, **row, "view": effect.outcome.view}


def notes(results: Results, params: Params) -> list[str]:
    """How many bases there are, and what is corrected together."""
    study = study_of(results, params)
    return study.notes_on(study.effects_on(answers=False))
