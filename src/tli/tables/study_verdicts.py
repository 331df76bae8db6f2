"""The study: the verdicts on the rank, outcome by outcome, with the scalings side by side.

A result that holds under one scaling only is a result on the scaling: alpha = 2r raises nothing but the rank, while
alpha = 32 and rsLoRA lower the factor of B A as the rank grows.
"""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.effects import COSINE, ITEMS, WORDS, is_borderline, items_of, processor_shift, verdict
from tli.analysis.outcomes import tidy
from tli.analysis.results import Results
from tli.analysis.robustness import OUTCOME_COLUMNS, VERDICTS, against_zero
from tli.analysis.study import study_of
from tli.analysis.table import Cell, Column
from tli.config.parameters import Params

TITLE = "Study: verdicts on the rank by scaling"
CAPTION = (
    "For each outcome and variant with several ranks, over bases: mean of the ranks minus rank 0 and where it lies, "
    "the fitted change from the lowest to the highest rank, and the verdict on the rank."
)
SOURCE = ("study",)
STABLE = {True: "borderline", False: "stable", None: "-"}
VIEW = "the view that the loss reads; scores under NF4"


def columns(results: Results, params: Params) -> list[Column]:
    """Five columns per variant."""
    return [
        *OUTCOME_COLUMNS,
        Column("unit", "unit"),
        Column("margin", "margin", "number"),
        *(
            column
            for name in study_of(results, params).effects
            for column in (
                Column(f"change_{name}", f"{name}: mean − rank 0", "number"),
                Column(f"place_{name}", "against rank 0"),
                Column(f"span_{name}", "lowest to highest rank, fitted", "number"),
                Column(f"rank_{name}", "the rank"),
                Column(f"stable_{name}", "other processors"),
            )
        ),
    ]


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """One row per outcome."""
    table: dict[str, dict[str, Cell]] = {}
    for name, effects in study_of(results, params).effects.items():
        words = sum(items_of(effect.outcome) for effect in effects if effect.outcome.key.startswith("cosine."))
        for effect in effects:
            outcome = effect.outcome
            unit = "points" if outcome.answers else "share" if outcome.key.startswith("p1") else "cosine"
            first: dict[str, Cell] = {
                "key": outcome.key,
                "outcome": outcome.name,
                "unit": unit,
                "margin": outcome.margin,
            }
            table.setdefault(outcome.key, first).update(
                {
                    f"change_{name}": tidy(effect.change),
                    f"place_{name}": against_zero(effect, params) or "undefined",
                    f"span_{name}": None if effect.span is None else tidy(effect.span.estimate),
                    f"rank_{name}": VERDICTS[verdict(effect, params.stats.alpha)],
                    f"stable_{name}": STABLE[
                        is_borderline(effect, processor_shift(outcome, words), params.stats.alpha)
                    ],
                }
            )
    yield from table.values()


def notes(results: Results, params: Params) -> list[str]:
    """How many bases there are, what is corrected together, how to compare."""
    study = study_of(results, params)
    return [
        *study.notes_on(study.effects),
        *study.untested,
        "other processors: borderline where the verdict changes if the fitted change moves by what another processor "
        f"may do to every adapter ({ITEMS} items of a set, {WORDS} words, {COSINE:g} of a cosine), else stable",
        "a verdict that differs between scalings is one on the scaling, which changes the factor of B A with the rank",
    ]
