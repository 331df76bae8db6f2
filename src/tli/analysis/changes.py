"""Sets, intervals and flips of the tables accuracy_by_rank, changes, gap, calibration and class_changes.

`results` are those of one base, or a sequence with those of several.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tli.analysis.outcomes import Array, Bases, Values
from tli.analysis.results import Results
from tli.analysis.scores import Shown, all_sets, cells, notes_on
from tli.analysis.table import Cell
from tli.config.parameters import Params
from tli.stats.bootstrap import Bootstrap, cluster_bootstrap


def first_base(results: Bases) -> Results:
    """The results that name the sets; all bases are scored on the same ones."""
    return results if isinstance(results, Results) else results[0]


def released(results: Bases, params: Params) -> list[Shown]:
    """The scored sets, each item with its `question` as released."""
    return [scored for scored in all_sets(first_base(results), params) if scored.version == "released"]


def set_cells(scored: Shown, params: Params) -> dict[str, Cell]:
    """The first cells of a row: set, task, language."""
    return cells(scored, [scored], params)


def set_notes(results: Bases, params: Params) -> list[str]:
    """The notes of every table of released sets."""
    return notes_on(released(results, params), first_base(results).metrics["benchmarks"], params)


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
