"""Calibration of the probabilities of the choices of every set by rank: expected calibration error and Brier score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tli.analysis.changes import set_cells, set_notes, swept_sets
from tli.analysis.outcomes import by_item
from tli.analysis.scores import CLASSES, SCORING, SET_COLUMNS, Bases
from tli.analysis.table import Cell, Column
from tli.config.parameters import Params
from tli.stats.calibration import Calibration
from tli.stats.calibration import calibration as calibrated
from tli.stats.descriptive import spread

TITLE = "Calibration by rank"
CAPTION = (
    "Softmax over the log-likelihoods of an item's choices as probabilities: mean probability of the predicted choice, "
    "accuracy, expected calibration error (15 equal bins) and Brier score (summed over choices, 0 to 2)."
)
SOURCE = ("base-rows", "sweep-score")
VIEW = SCORING
COLUMNS = (
    *SET_COLUMNS,
    Column("rank", "rank", "count", id=True),
    Column("models", "models", "count"),
    Column("confidence", "confidence", "probability"),
    Column("accuracy", "accuracy", "share"),
    Column("ece", "ECE", "probability"),
    Column("ece_sd", "SD", "probability"),
    Column("brier", "Brier", "probability"),
    Column("brier_sd", "SD", "probability"),
)


def rows(results: Bases, params: Params) -> Iterator[dict[str, Cell]]:
    """Per set and rank; rank 0 is the base."""
    for scored in swept_sets(results, params):
        measures = ["label", *(f"loglik.{choice}" for choice in range(len(CLASSES[scored.task])))]
        label, *choices = (by_item(results, scored.set, measure, params) for measure in measures)
        runs = {0: [([x.start[base] for x in choices], label.start[base]) for base in label.start]}
        for rank in label.ranks:
            keys = [key for key in label.tuned if key[2] == rank]
            runs[rank] = [([x.tuned[key] for x in choices], label.tuned[key]) for key in keys]
        for rank, models in runs.items():
            of_models = [calibrated(np.column_stack(scores), gold.astype(np.int64)) for scores, gold in models]
            yield {**set_cells(scored, params), "rank": rank, "models": len(models), **_over_models(of_models)}


def _over_models(models: Sequence[Calibration]) -> dict[str, Cell]:
    cells: dict[str, Cell] = {}
    for name in ("confidence", "accuracy", "ece", "brier"):
        over = spread([value for model in models if (value := getattr(model, name)) is not None])
        cells |= {name: over.mean} | ({f"{name}_sd": over.sd} if name in ("ece", "brier") else {})
    return cells


def notes(results: Bases, params: Params) -> list[str]:
    """How to read the scores."""
    return ["ECE and Brier: 0 is best; mean and SD over the models of a rank", *set_notes(results, params)]
