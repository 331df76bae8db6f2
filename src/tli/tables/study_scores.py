"""The study: benchmark scores by variant and rank, and their difference from the reference variant."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.results import Results
from tli.analysis.scores import CHANCE_NOTE, SCORING, marked, said_of_items, set_name
from tli.analysis.study import BASE, VARIANT, Study, correct, over_bases, study_of
from tli.analysis.table import Cell, Column
from tli.config.parameters import Params
from tli.stats.equivalence import tost

TITLE = "Study: scores by variant and rank"
CAPTION = (
    "Change of accuracy in points against rank 0 of the same base, over bases, with its {params.stats.confidence:.0%} "
    "interval; its difference from that of the reference variant at the same rank, tested against 0 and for "
    "equivalence within {params.stats.margins.accuracy:g} points."
)
SOURCE = ("study",)
VIEW = SCORING
P_VALUES = ("p_holm", "against_p_holm", "alike_p_holm")
COLUMNS = (
    VARIANT,
    Column("rank", "rank", "count", id=True),
    Column("set", "set", id=True),
    Column("items", "items"),
    Column("base", "base"),
    Column("bases", "bases", "count"),
    Column("change", "change", "points"),
    Column("sd", "SD", "percent"),
    Column("low", "CI low", "points"),
    Column("high", "CI high", "points"),
    Column("p_holm", "p, Holm", "p"),
    Column("against", "minus the reference", "points"),
    Column("against_low", "CI low", "points"),
    Column("against_high", "CI high", "points"),
    Column("against_p_holm", "p, Holm", "p"),
    Column("alike_p_holm", "p of equivalence, Holm", "p"),
)


def rows(results: Results, params: Params) -> Iterator[dict[str, object]]:
    """One row per variant, rank, task and language; p-values are corrected within a task.

    A set at chance has no p-values, and the correction does not count it.
    """
    study = study_of(results, params)
    by_task: dict[str, list[dict[str, Cell]]] = {}
    notes: list[list[str]] = []
    table = []
    for variant, of_variant in study.params.items():
        for rank in of_variant.sweep.ranks:
            for set_ in study.sets(variant):
                if rank not in study.ranks(variant, set_):
                    continue
                row, row_notes = _row(study, variant, rank, set_, params)
                by_task.setdefault(set_.partition(".")[0], []).append(row)
                table.append(row)
                notes.append(row_notes)
    for of_task in by_task.values():
        correct(of_task, P_VALUES, params)
    for row, row_notes in zip(table, notes, strict=True):
        yield {**row, "note": row_notes}


def _row(study: Study, variant: str, rank: int, set_: str, params: Params) -> tuple[dict[str, Cell], list[str]]:
    """One row with uncorrected p-values, and the notes on it."""
    test = over_bases(study.change(variant, rank, set_, "-", "accuracy").values, params)
    is_at_chance = study.at_chance(variant, set_)
    items = marked(set_name(set_, params), is_at_chance)
    row: dict[str, Cell] = {"variant": variant, "rank": rank, "set": set_, "items": items}
    row |= {"base": BASE[study.sink(variant)], "bases": test.n, "change": test.gain, "sd": test.gain_sd}
    row |= {"low": test.low, "high": test.high} | ({} if is_at_chance else {"p_holm": test.p})
    notes = [test.note, CHANCE_NOTE if is_at_chance else ""]
    apart = study.against_reference(variant, rank, set_, "-", "accuracy")
    if not apart:
        return row, notes
    against = over_bases(apart, params)
    alike = tost(apart, params.stats.margins.accuracy, params.stats.alpha)
    row |= {"against": against.gain, "against_low": alike.low, "against_high": alike.high}
    row |= {} if is_at_chance else {"against_p_holm": against.p, "alike_p_holm": alike.p}
    return row, [*notes, against.note, alike.note]


def notes(results: Results, params: Params) -> list[str]:
    """The reference, the tests and their correction, what the items are."""
    study = study_of(results, params)
    return [
        f"reference: the variant {study.reference}, on the same bases",
        "t-tests over bases; equivalence by two one-sided tests, with the interval at "
        f"{1 - 2 * params.stats.alpha:.0%}. Every p is corrected by Holm over those of its task in this table; "
        "intervals are not",
        said_of_items(params),
    ]
