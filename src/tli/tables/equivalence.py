"""Equivalence of the ranks: two one-sided tests of the fitted change from the lowest to the highest rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tli.analysis.effects import Effect, verdict
from tli.analysis.outcomes import not_at_every_rank
from tli.analysis.results import Results
from tli.analysis.robustness import OUTCOME_COLUMNS, effects_of, ends, notes_of, percent, tested_cells, units
from tli.analysis.table import Cell, Column
from tli.config.parameters import Params

TITLE = "Equivalence of the ranks"
CAPTION = (
    "Whether the fitted change from the lowest to the highest rank lies within ± the margin (two one-sided tests at "
    "{params.stats.alpha:.2g}); p uncorrected, and corrected by Holm within the declared family."
)
SOURCE = ("base-rows", "sweep-score")
COLUMNS = (
    *OUTCOME_COLUMNS,
    Column("family", "family"),
    Column("view", "view"),
    Column("span", "lowest to highest rank, fitted", "number"),
    Column("low", "CI low", "number"),
    Column("high", "CI high", "number"),
    Column("drawn_low", "CI low, items resampled", "number"),
    Column("drawn_high", "CI high, items resampled", "number"),
    Column("margin", "margin", "number"),
    Column("p", "p", "p"),
    Column("p_holm", "p, Holm", "p"),
    Column("verdict", "verdict"),
)


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """One row per outcome."""
    return rows_of(effects_of(results, params), params)


def rows_of(measured: Sequence[Effect], params: Params) -> Iterator[dict[str, Cell]]:
    """The rows of these effects, of one base or of several."""
    for effect in measured:
        row: dict[str, Cell] = {**tested_cells(effect), "margin": effect.outcome.margin}
        if (span := effect.span) is not None:
            row |= {"span": span.estimate, "low": span.low, "high": span.high}
        yield {
            **row,
            "drawn_low": effect.span_drawn.low,
            "drawn_high": effect.span_drawn.high,
            "p": effect.p["equivalence"],
            "p_holm": effect.p_holm["equivalence"],
            "verdict": verdict(effect, params.stats.alpha) or "undefined",
        }


def notes(results: Results, params: Params) -> list[str]:
    """What the intervals are, what the verdict rests on, when the margins were declared, which sets have no verdict."""
    return [*notes_on(effects_of(results, params), params), not_at_every_rank(results, params)]


def notes_on(measured: Sequence[Effect], params: Params) -> list[str]:
    """The notes of these effects, of one base or of several."""
    return [
        f"Fitted from rank {ends(params)}, tested over {units(measured)}. Intervals are at "
        f"{percent(1 - 2 * params.stats.alpha)} and not corrected; those with items resampled come from the cluster "
        "bootstrap.",
        "The verdict takes the corrected p of this test and of the trend.",
        "Margins were declared after the default run's results had been seen and before the full study was run.",
        *notes_of(measured),
    ]
