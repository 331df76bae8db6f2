"""Similarity and retrieval by LoRA rank: mean and SD over seeds, rank 0 (the base model) first."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.lora_factor import factor
from tli.analysis.results import Results, Rows, run_name
from tli.analysis.table import Cell, Column
from tli.analysis.views import PAIR_SETS, VIEW_COLUMNS, WAYS, at, grid, points, trained_view
from tli.config.parameters import Params
from tli.stats.descriptive import mean, spread

TITLE = "LoRA rank and similarity"
CAPTION = (
    "Mean cosine of the word pairs, its gain over rank 0 and P@1 among all pairs, mean and SD over the seeds of a "
    "rank. Rank 0 is the base model. Scaling `{params.lora.scaling}`."
)
SOURCE = ("base-rows", "sweep-train", "sweep-score")


def columns(results: Results, params: Params) -> list[Column]:
    """One column `share_PROJECTION` for each projection that has LoRA."""
    return [
        *VIEW_COLUMNS,
        Column("rank", "rank", "count", id=True),
        Column("factor", "factor", "number"),
        Column("parameters", "trained parameters", "count"),
        *(Column(f"share_{target}", f"r ÷ min, {target}", "number") for target in params.lora.targets),
        Column("loss_last", "loss, last epoch", "cosine"),
        *(
            column
            for set_ in PAIR_SETS
            for column in (
                Column(set_, f"{set_} cosine", "cosine"),
                Column(f"gain_{set_}", f"{set_} gain", "cosine_change"),
                Column(f"gain_sd_{set_}", "SD", "cosine"),
            )
        ),
        *(
            column
            for way, arrow in WAYS.items()
            for column in (Column(f"p1_{way}", f"P@1 {arrow}", "share"), Column(f"p1_{way}_sd", "SD", "share"))
        ),
    ]


def rows(results: Results, params: Params) -> Iterator[dict[str, object]]:
    """One row per rank at each named view, and at layer 2 without BOS."""
    similarity = results.of("similarity")
    wanted = [*points(params).values(), "2.content.nf4"]
    for view in (view for view in grid(params, "nf4") if view in wanted):
        start = {set_: similarity.one("base", set_, view, "cosine_mean") for set_ in PAIR_SETS}
        hits = {f"p1_{way}": similarity.one("base", "all", view, f"p_at_1.{way}") for way in WAYS}
        yield {**at(view, params), "rank": 0, **start, **hits}
        for rank in params.sweep.ranks:
            row: dict[str, object] = {**at(view, params), **_adapters(results.of("train"), rank, params)}
            notes = []
            for set_ in PAIR_SETS:
                cosines = _over_seeds(similarity, rank, set_, view, "cosine_mean", params)
                after, gain = spread(cosines), spread([cosine - start[set_] for cosine in cosines])
                row |= {set_: after.mean, f"gain_{set_}": gain.mean, f"gain_sd_{set_}": gain.sd}
                notes.append(after.note)
            for way in WAYS:
                hit = spread(_over_seeds(similarity, rank, "all", view, f"p_at_1.{way}", params))
                row |= {f"p1_{way}": hit.mean, f"p1_{way}_sd": hit.sd}
            yield {**row, "note": notes}


def _over_seeds(rows: Rows, rank: int, set_: str, view: str, measure: str, params: Params) -> list[float]:
    return [rows.one(run_name(rank, seed), set_, view, measure) for seed in params.sweep.seeds]


def _adapters(train: Rows, rank: int, params: Params) -> dict[str, Cell]:
    """The adapters of a rank: factor, trained parameters, loss of the last epoch, share of each projection's width."""
    view, first = trained_view(params), run_name(rank, params.sweep.seeds[0])
    return {
        "rank": rank,
        "factor": factor(rank, params),
        "parameters": int(train.one(first, "trained", view, "trainable_parameters")),
        "loss_last": mean(_over_seeds(train, rank, "trained", view, "loss_last", params)),
        **{f"share_{target}": rank / min(params.widths(target)) for target in params.lora.targets},
    }


def notes(results: Results, params: Params) -> list[str]:
    """What the columns of the adapters are."""
    return [
        f"{len(params.sweep.seeds)} seeds a rank. Factor: α ÷ r, which B A is multiplied by.",
        "r ÷ min: the rank over the smaller width, d_in or d_out, of that projection.",
    ]
