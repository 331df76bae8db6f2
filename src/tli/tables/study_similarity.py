"""The study: similarity by variant and rank, at the view that the variant's loss reads and at layer 2."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.results import Results
from tli.analysis.study import BASE, VARIANT, study_of
from tli.analysis.table import Cell, Column
from tli.analysis.views import PAIR_SETS, WAYS, trained_view
from tli.config.parameters import Params
from tli.stats.descriptive import mean, spread

TITLE = "Study: similarity by variant and rank"
CAPTION = (
    "Change of the mean cosine of translations against rank 0 of the same base (gain), the same minus that of random "
    "pairs (excess), and change of P@1 among all pairs; mean and SD over bases of the mean over seeds."
)
SOURCE = ("study",)
COLUMNS = (
    VARIANT,
    Column("rank", "rank", "count", id=True),
    Column("view", "view", id=True),
    Column("base", "base"),
    Column("bases", "bases", "count"),
    *(
        column
        for set_ in PAIR_SETS
        for column in (
            Column(f"gain_{set_}", f"{set_} gain", "cosine_change"),
            Column(f"excess_{set_}", f"{set_} excess", "cosine_change"),
            Column(f"sd_{set_}", "SD of excess", "cosine"),
        )
    ),
    *(
        column
        for way, arrow in WAYS.items()
        for column in (Column(f"p1_{way}", f"P@1 {arrow}", "share_change"), Column(f"p1_{way}_sd", "SD", "share"))
    ),
)


def rows(results: Results, params: Params) -> Iterator[dict[str, object]]:
    """One row per variant, rank and view."""
    study = study_of(results, params)
    for variant, of_variant in study.params.items():
        for rank in of_variant.sweep.ranks:
            for view in dict.fromkeys([trained_view(of_variant), "2.mask.nf4", "2.content.nf4"]):
                row: dict[str, Cell] = {"variant": variant, "rank": rank, "view": view}
                row |= {"base": BASE[study.sink(variant)], "bases": len(study.bases[variant])}
                notes = []
                for set_ in PAIR_SETS:
                    excess = spread(study.excess(variant, rank, set_, view))
                    row[f"gain_{set_}"] = mean(study.gain(variant, rank, set_, view))
                    row |= {f"excess_{set_}": excess.mean, f"sd_{set_}": excess.sd}
                    notes.append(excess.note)
                for way in WAYS:
                    hits = spread(study.change(variant, rank, "all", view, f"p_at_1.{way}").values)
                    row |= {f"p1_{way}": hits.mean, f"p1_{way}_sd": hits.sd}
                yield {**row, "note": notes}


def notes(results: Results, params: Params) -> list[str]:
    """What each variant changes."""
    variants = {name: params.variants[name].changes for name in study_of(results, params).bases}
    return [
        f"{name}: " + (", ".join(f"{key} {value}" for key, value in changes.items()) or "as in params.yaml")
        for name, changes in variants.items()
    ]
