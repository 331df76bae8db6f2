"""Trend of each outcome on the LoRA rank: the slope per doubling of the rank, and its test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tli.analysis.effects import Effect
from tli.analysis.outcomes import not_at_every_rank
from tli.analysis.results import Results
from tli.analysis.robustness import OUTCOME_COLUMNS, effects_of, ends, notes_of, tested_cells, units
from tli.analysis.table import Cell, Column
from tli.config.parameters import Params

TITLE = "Trend on the rank"
CAPTION = (
    "Least-squares slope of each outcome per doubling of the rank (accuracy in points), over the ranks above 0, with "
    "its {params.stats.confidence:.0%} interval; p uncorrected, and corrected by Holm within the declared family."
)
SOURCE = ("base-rows", "sweep-score")
COLUMNS = (
    *OUTCOME_COLUMNS,
    Column("family", "family"),
    Column("view", "view"),
    Column("slope", "slope", "number"),
    Column("se", "SE", "number"),
    Column("low", "CI low", "number"),
    Column("high", "CI high", "number"),
    Column("t", "t", "t"),
    Column("df", "df", "count"),
    Column("p", "p", "p"),
    Column("p_holm", "p, Holm", "p"),
    Column("detectable", "detectable", "number"),
    Column("units", "units"),
    Column("method", "method"),
)


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """One row per outcome."""
    return rows_of(effects_of(results, params))


def rows_of(measured: Sequence[Effect]) -> Iterator[dict[str, Cell]]:
    """The rows of these effects, of one base or of several."""
    for effect in measured:
        line = effect.trend
        yield {
            **tested_cells(effect),
            **{key: getattr(line, key) for key in ("slope", "se", "low", "high", "t", "df", "method")},
            "p": effect.p["trend"],
            "p_holm": effect.p_holm["trend"],
            "detectable": None if effect.detectable is None else effect.detectable / effect.doublings,
            "units": f"{line.units} {line.unit}s",
        }


def notes(results: Results, params: Params) -> list[str]:
    """Over what the slope is computed and tested, and which sets have none."""
    return [*notes_on(effects_of(results, params), params), not_at_every_rank(results, params)]


def notes_on(measured: Sequence[Effect], params: Params) -> list[str]:
    """The notes of these effects, of one base or of several."""
    return [
        f"Over ranks {ends(params)}; t over {units(measured)}. Items are taken as given.",
        "Detectable: the smallest slope that an uncorrected test at "
        f"{params.stats.alpha:.2g} finds with power {params.stats.power:g}.",
        *notes_of(measured),
    ]
