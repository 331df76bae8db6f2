"""Change of accuracy and of the log-likelihood margin of every set by rank, with intervals."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.changes import bootstrap, flipped, set_cells, set_notes, swept_sets
from tli.analysis.outcomes import by_item, scope, tidy
from tli.analysis.scores import SCORING, SET_COLUMNS, Bases
from tli.analysis.table import Column
from tli.config.parameters import Params
from tli.stats.power import detectable_flips

TITLE = "Change of accuracy and margin by rank"
CAPTION = (
    "Mean change against rank 0 over the models of a rank, with the {params.stats.confidence:.0%} interval of the "
    "cluster bootstrap: accuracy in points; margin, log p(right choice) − highest log p of the others, in nats."
)
SOURCE = ("base-rows", "sweep-score", "benchmarks")
VIEW = SCORING
COLUMNS = (
    *SET_COLUMNS,
    Column("rank", "rank", "count", id=True),
    Column("change", "change", "points"),
    Column("low", "CI low", "points"),
    Column("high", "CI high", "points"),
    Column("won", "won", "percent"),
    Column("lost", "lost", "percent"),
    Column("detectable", "detectable", "percent"),
    Column("margin", "margin change", "nats"),
    Column("margin_low", "CI low", "nats"),
    Column("margin_high", "CI high", "nats"),
)


def rows(results: Bases, params: Params) -> Iterator[dict[str, object]]:
    """Per set and rank above 0."""
    for scored in swept_sets(results, params):
        right, margins = (by_item(results, scored.set, measure, params) for measure in ("correct", "margin"))
        items = next(iter(right.start.values())).size
        for rank in right.ranks:
            accuracy = bootstrap(right, rank, 100.0, params)
            margin = bootstrap(margins, rank, 1.0, params)
            won, lost = (flipped(right.changes(rank), way) for way in (1, -1))
            smallest = detectable_flips(items, (won + lost) / 100, params.stats.alpha, params.stats.power)
            yield {
                **set_cells(scored, params),
                "rank": rank,
                "change": tidy(accuracy.estimate),
                "low": tidy(accuracy.low),
                "high": tidy(accuracy.high),
                "won": won,
                "lost": lost,
                "detectable": None if smallest.effect is None or scored.at_chance else 100 * smallest.effect,
                "margin": margin.estimate,
                "margin_low": margin.low,
                "margin_high": margin.high,
                "note": [*scope(accuracy.note), *scope(margin.note), smallest.note],
            }


def notes(results: Bases, params: Params) -> list[str]:
    """How intervals are made; what won, lost and detectable are."""
    return [
        "intervals: over bases, seeds and premises (items that share a premise are drawn together), not corrected for "
        "their number",
        "won, lost: percent of a model's items that turn right, that turn wrong",
        "detectable: the smallest change that the exact McNemar test of a single model detects with power "
        f"{params.stats.power:g}, given as many flips; the test takes items as independent",
        *set_notes(results, params),
    ]
