"""Odds of a right answer by generalised estimating equations: any rank against rank 0, and per doubling of the rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tli.analysis.effects import Effect
from tli.analysis.outcomes import not_at_every_rank
from tli.analysis.results import Results
from tli.analysis.robustness import OUTCOME_COLUMNS, chance_notes, count_bases, of_scores
from tli.analysis.scores import SCORING, said_of_items
from tli.analysis.table import Cell, Column
from tli.config.parameters import Params

TITLE = "Odds of a right answer"
CAPTION = (
    "Odds ratios of a right answer by generalised estimating equations: any rank against rank 0, and per doubling of "
    "the rank, with {params.stats.confidence:.0%} intervals and p corrected by Holm within the declared family."
)
SOURCE = ("base-rows", "sweep-score")
VIEW = SCORING
RATIOS = {"any": ("any rank", "change"), "doubling": ("a doubling", "odds")}  # column -> its title, its test
COLUMNS = (
    *OUTCOME_COLUMNS,
    Column("n", "n", "count"),
    Column("clusters", "premises", "count"),
    Column("cells", "models", "count"),
    *(
        column
        for name, (title, _) in RATIOS.items()
        for column in (
            Column(name, f"{title}, ratio", "ratio"),
            Column(f"{name}_low", "CI low", "ratio"),
            Column(f"{name}_high", "CI high", "ratio"),
            Column(f"{name}_p_holm", "p, Holm", "p"),
        )
    ),
    Column("correlation", "correlation within premises", "ratio"),
)


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """One row per task and language."""
    return rows_of(of_scores(results, params))


def rows_of(measured: Sequence[Effect]) -> Iterator[dict[str, Cell]]:
    """The rows of these effects, of one base or of several."""
    for effect in measured:
        if (odds := effect.odds) is None:
            continue
        row: dict[str, Cell] = {"key": effect.outcome.key, "outcome": effect.outcome.name}
        row |= {"n": odds.items, "clusters": odds.clusters, "cells": odds.cells, "correlation": odds.correlation}
        for name, ratio in (("any", odds.adapter), ("doubling", odds.doubling)):
            row |= {name: ratio.ratio, f"{name}_low": ratio.low, f"{name}_high": ratio.high}
            row[f"{name}_p_holm"] = effect.p_holm[RATIOS[name][1]]
        yield row


def notes(results: Results, params: Params) -> list[str]:
    """What a cluster is, for what the odds hold, what is undefined, and which sets have no odds."""
    return [*notes_on(of_scores(results, params), params), not_at_every_rank(results, params)]


def notes_on(measured: Sequence[Effect], params: Params) -> list[str]:
    """The notes of these effects, of one base or of several."""
    bases = count_bases(measured)
    return [
        "A cluster holds the items of a premise, in every model; exchangeable correlation, small-sample covariance.",
        f"The odds hold for items like these, for {'this base' if bases == 1 else f'these {bases} bases'} and these "
        "seeds.",
        said_of_items(params),
        *(f"{effect.outcome.name}: {effect.odds.note}" for effect in measured if effect.odds and effect.odds.note),
        *chance_notes(measured),
    ]
