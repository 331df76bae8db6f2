"""The tests behind the robustness summaries: trend, equivalence, odds; and what their captions say alike.

Feeds the tables `trends`, `equivalence` and `odds`.
"""

from __future__ import annotations

from collections.abc import Sequence

from tli.analysis.effects import Effect, verdict
from tli.analysis.outcomes import scope
from tli.analysis.render import Cell, Column, Made, Table
from tli.analysis.results import Measured
from tli.analysis.scores import said_of_items
from tli.config.parameters import Params
from tli.stats.gee import Odds

SCORES = "scores, NF4"  # the view of an accuracy in a table of several views


def trends(effects: Sequence[Effect], params: Params) -> Made:
    """The slope per doubling of the rank with its test, and the smallest slope that would have been found."""
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    for one in effects:
        line, key = one.trend, one.outcome.key
        measured |= {f"rank.slope.{key}": line.slope, f"rank.slope_se.{key}": line.se}
        measured[f"rank.slope_p.{key}"] = line.p
        smallest = None if one.detectable is None else one.detectable / one.doublings
        found: dict[str, Cell] = {"slope": line.slope, "se": line.se, "low": line.low, "high": line.high, "t": line.t}
        found |= {"df": line.df, "p": line.p, "p_holm": one.p_holm["trend"], "detectable": smallest}
        rows.append({**_first(one), **found, "units": f"{line.units} {line.unit}s", "method": line.method})
    level = percent(params)
    table = Table(
        "trends",
        "Trend on the rank",
        f"Change of each outcome per doubling of the rank (accuracy in points), over ranks {ends(params)} without "
        f"rank 0: least-squares slope of each unit, t over {said_of_units(effects)}; items are as given. p as it is "
        "and corrected by Holm within the declared family; the smallest slope that would have been found with power "
        f"{params.stats.power:g}.",
        (
            Column("family", "family"),
            Column("outcome", "outcome"),
            Column("view", "view"),
            Column("slope", "slope", "number"),
            Column("se", "SE", "number"),
            Column("low", f"{level} low", "number"),
            Column("high", f"{level} high", "number"),
            Column("t", "t", "t"),
            Column("df", "df", "count"),
            Column("p", "p", "p"),
            Column("p_holm", "p, Holm", "p"),
            Column("detectable", "detectable", "number"),
            Column("units", "units"),
            Column("method", "method"),
        ),
        rows,
        notes=notes_of(effects),
    )
    return Made(table, measured)


def equivalences(effects: Sequence[Effect], params: Params) -> Made:
    """Two one-sided tests of the change from the lowest to the highest rank against the declared margin."""
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    for one in effects:
        span, key = one.span, one.outcome.key
        row: dict[str, Cell] = {**_first(one), "margin": one.outcome.margin, "p_holm": one.p_holm["equivalence"]}
        if span is not None:
            row |= {"span": span.estimate, "low": span.low, "high": span.high, "p": span.p}
        row |= {"drawn_low": one.span_drawn.low, "drawn_high": one.span_drawn.high}
        measured[f"rank.span.{key}"] = None if span is None else span.estimate
        rows.append(row | {"verdict": verdict(one, params.stats.alpha) or "undefined"})
    level = share(1 - 2 * params.stats.alpha)
    table = Table(
        "equivalence",
        "Equivalence of the ranks",
        f"Whether the fitted change from rank {ends(params)} lies within ± the margin (two one-sided tests, over "
        f"{said_of_units(effects)}), with its {level} interval, and beside it that of the cluster bootstrap, which "
        "resamples items too; neither is corrected. p as it is and corrected by Holm within the declared family. The "
        "verdict takes the corrected p of this test and of the trend. Margins were declared after "
        "the default run's results had been seen and before the full grid was run.",
        (
            Column("family", "family"),
            Column("outcome", "outcome"),
            Column("view", "view"),
            Column("span", f"{ends(params)}, fitted", "number"),
            Column("low", f"{level} low", "number"),
            Column("high", f"{level} high", "number"),
            Column("drawn_low", "items too, low", "number"),
            Column("drawn_high", "high", "number"),
            Column("margin", "margin", "number"),
            Column("p", "p", "p"),
            Column("p_holm", "p, Holm", "p"),
            Column("verdict", "verdict"),
        ),
        rows,
        notes=notes_of(effects),
    )
    return Made(table, measured)


def odds(effects: Sequence[Effect], params: Params) -> Made:
    """Odds of a right answer: any rank against rank 0, and per doubling of the rank; items as clusters."""
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    for one in effects:
        if one.odds is None:
            continue
        row: dict[str, Cell] = {"outcome": one.outcome.name, "n": one.odds.items}
        row |= {"clusters": one.odds.clusters, "cells": one.odds.cells}
        pairs: tuple[tuple[str, str, Odds], ...] = (
            ("any", "change", one.odds.adapter),
            ("doubling", "odds", one.odds.doubling),
        )
        for name, test, found in pairs:
            row |= {name: found.ratio, f"{name}_low": found.low, f"{name}_high": found.high}
            row[f"{name}_p_holm"] = one.p_holm[test]
            measured[f"rank.odds_{name}.{one.outcome.key}"] = found.ratio
        rows.append(row | {"correlation": one.odds.correlation})
    level = percent(params)
    bases = count_bases(effects)
    table = Table(
        "odds",
        "Odds of a right answer",
        "Odds ratios by generalised estimating equations with the items of a premise, in every model, as a cluster "
        "(exchangeable, small-sample covariance): any rank against rank 0, and per doubling of the rank; p corrected "
        "by Holm within the declared family. They hold for items like these and for "
        f"{'this base' if bases == 1 else f'these {bases} bases'} and these seeds. {said_of_items(params)}".rstrip(),
        (
            Column("outcome", "items"),
            Column("n", "n", "count"),
            Column("clusters", "premises", "count"),
            Column("cells", "models", "count"),
            *(
                column
                for name, first in (("any", "any rank"), ("doubling", "a doubling"))
                for column in (
                    Column(name, f"{first}, ratio", "score"),
                    Column(f"{name}_low", f"{level} low", "score"),
                    Column(f"{name}_high", f"{level} high", "score"),
                    Column(f"{name}_p_holm", "p, Holm", "p"),
                )
            ),
            Column("correlation", "correlation within premises", "score"),
        ),
        rows,
        view=effects[0].outcome.view if effects else "-",
        notes=[f"{one.outcome.name}: {one.odds.note}" for one in effects if one.odds is not None and one.odds.note],
    )
    return Made(table, measured)


def _first(one: Effect) -> dict[str, Cell]:
    return {
        "family": one.outcome.family,
        "outcome": one.outcome.name,
        "view": SCORES if one.outcome.answers else one.outcome.view,
    }


def count_bases(effects: Sequence[Effect]) -> int:
    return max((len(one.outcome.values.start) for one in effects), default=0)


def said_of_units(effects: Sequence[Effect]) -> str:
    """What the trend's t is over, in a caption's words."""
    bases = count_bases(effects)
    if bases > 1:
        return f"{bases} bases"
    return "the seeds of one base: it says nothing of other bases"


def ends(params: Params) -> str:
    low, high = min(params.sweep.ranks), max(params.sweep.ranks)
    return f"{low}" if low == high else f"{low} to {high}"


def percent(params: Params) -> str:
    return share(params.stats.confidence)


def share(confidence: float) -> str:
    return f"{100 * confidence:.9g} %"


def notes_of(effects: Sequence[Effect]) -> list[str]:
    """Each note once, with the outcomes that it is of where it is not of all."""
    of: dict[str, list[str]] = {}
    for one in effects:
        for note in filter(None, scope(one.note)):
            of.setdefault(note, []).append(one.outcome.name)
    return [note if len(names) == len(effects) else f"{'; '.join(names)}: {note}" for note, names in of.items()]
