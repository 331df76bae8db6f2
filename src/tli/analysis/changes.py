"""Sets, intervals and flips of the tables accuracy_by_rank, changes, gap, calibration and class_changes.

`results` are those of one base, or a sequence with those of several.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tli.analysis.outcomes import Array, Values
from tli.analysis.scores import (
    Bases,
    Shown,
    all_sets,
    bases_of,
    cells,
    notes_on,
    scored_at,
    scores_of,
    set_name,
    swept_runs,
)
from tli.analysis.table import Cell
from tli.config.parameters import Params
from tli.stats.bootstrap import Bootstrap, cluster_bootstrap


def swept_sets(results: Bases, params: Params) -> list[Shown]:
    """The sets that were scored at some rank of the sweep, each item with its `question` as released."""
    return [
        scored
        for scored in all_sets(results, params)
        if scored.version == "released" and any(swept_runs(rows, scored.set, params) for rows in scores_of(results))
    ]


def set_cells(scored: Shown, params: Params) -> dict[str, Cell]:
    """The first cells of a row: set, task, language."""
    return cells(scored, [scored], params)


def set_notes(results: Bases, params: Params) -> list[str]:
    """The notes of every table of these sets: those of `notes_on`, and which sets were scored at some ranks only."""
    sets, bases = swept_sets(results, params), scores_of(results)
    at_ranks = {set_name(scored.set, params): scored_at(bases, scored.set, params) for scored in sets}
    return [
        *notes_on(sets, bases_of(results)[0].metrics["benchmarks"], params),
        *(f"{name}: {ranks}" for name, ranks in at_ranks.items() if ranks),
    ]


def bootstrap(values: Values, rank: int, scale: float, params: Params) -> Bootstrap:
    """The cluster bootstrap of a rank's mean change, times `scale`: over bases, seeds and the items' premises."""
    settings = params.stats
    return cluster_bootstrap(
        {key: scale * change for key, change in values.changes(rank).items()},
        draws=settings.bootstrap.draws,
        seed=settings.bootstrap.seed,
        confidence=settings.confidence,
        groups=values.groups,
    )


def flipped(changes: Mapping[tuple[int, int], Array], way: int) -> float:
    """The percentage of a model's items that turn right (way = 1) or wrong (way = -1), the mean over models."""
    return 100 * float(np.mean([np.maximum(way * change, 0.0).mean() for change in changes.values()]))
