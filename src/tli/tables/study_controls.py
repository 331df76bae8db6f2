"""The study: the gain in cosine under each control, over bases.

A control removes one reason for which cosines could grow although no word comes closer to its translation: that the
pair was trained on, that any two words come closer, that BOS is pooled, that the pairs are translations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tli.analysis.results import Results
from tli.analysis.study import Study, correct, over_bases, study_of
from tli.analysis.table import Cell, Column
from tli.analysis.views import INTERVAL, WAYS, trained_view
from tli.config.parameters import Params
from tli.measure.views import View
from tli.stats.descriptive import mean

TITLE = "Study: controls"
CAPTION = (
    "The gain of translations under each control at one rank, over bases; excess = gain − gain of random pairs, with "
    "Student's {params.stats.confidence:.0%} interval and p corrected by Holm over the table. P@1: its change among "
    "all pairs."
)
SOURCE = ("study",)
COLUMNS = (
    Column("control", "control", id=True),
    Column("view", "view", id=True),
    Column("set", "pairs", id=True),
    Column("measure", "measure", id=True),
    Column("bases", "bases", "count"),
    Column("gain", "gain", "cosine_change"),
    Column("random", "random", "cosine_change"),
    Column("excess", "excess", "cosine_change"),
    *INTERVAL,
    Column("p_holm", "p, Holm", "p"),
    Column("share", "share of the first row's excess, %", "number"),
    *(Column(f"p1_{way}", f"P@1 {arrow}", "share_change") for way, arrow in WAYS.items()),
)


class Control(NamedTuple):
    """A row: what differs from the row `as trained`, and where to read it."""

    name: str
    variant: str
    set: str
    view: str
    measure: str = "cosine"


def controls(study: Study, rank: int) -> list[Control]:
    """The controls that the variants of this run allow; the reference variant as trained comes first."""
    if (first := study.reference) is None:
        return []
    view = trained_view(study.params[first])
    without_bos = str(View(view.partition(".")[0], "content", "nf4"))
    rows = [
        Control("as trained", first, "trained", view),
        Control("unseen pairs", first, "control", view),
        Control("centred", first, "trained", view, "centred"),
        Control("standardised", first, "trained", view, "standardised"),
        Control("linear CKA", first, "trained", view, "cka"),
        Control("BOS out of the pool", first, "trained", without_bos),
        Control("BOS out of the pool, unseen pairs", first, "control", without_bos),
    ]
    for name in study.bases:
        if name != first and (name in ("shuffled", "content") or study.sink(name)):
            rows += [Control(f"variant {name}", name, "trained", at) for at in dict.fromkeys([view, without_bos])]
    return rows


def rows(results: Results, params: Params) -> Iterator[dict[str, object]]:
    """One row per control, at the rank that the variants share."""
    study = study_of(results, params)
    if (rank := study.common_rank) is None:
        return
    table: list[dict[str, Cell]] = []
    notes = []
    for name, variant, set_, view, measure in controls(study, rank):
        where = (variant, rank, set_, view, measure)
        excess = over_bases(study.excess(*where), params)
        row: dict[str, Cell] = {"control": name, "view": view, "set": set_, "measure": measure, "bases": excess.n}
        row |= {"gain": mean(study.gain(*where)), "random": mean(study.random(*where)), "excess": excess.gain}
        row |= {"low": excess.low, "high": excess.high, "p_holm": excess.p}
        whole = table[0]["excess"] if table else excess.gain
        if measure == "cosine" and isinstance(whole, float) and whole and excess.gain is not None:
            row["share"] = 100 * excess.gain / whole
        for way in WAYS:
            row[f"p1_{way}"] = mean(study.change(variant, rank, "all", view, f"p_at_1.{way}").values)
        table.append(row)
        notes.append(excess.note)
    correct(table, ("p_holm",), params)
    for row, note in zip(table, notes, strict=True):
        yield {**row, "note": note}


def notes(results: Results, params: Params) -> list[str]:
    """The rank, and what CKA's random value is."""
    study = study_of(results, params)
    return [
        f"rank {study.common_rank}, against rank 0 of the same base; as trained: the variant {study.reference}",
        "linear CKA has no pairs: its random value is that of permuted rows",
        "none of these controls is published",
    ]
