"""Finding a word's translation by cosine, before and after training."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis import published
from tli.analysis.results import Results
from tli.analysis.table import Cell, Column
from tli.analysis.views import MOMENTS, VIEW_COLUMNS, WAYS, at, grid, left_out
from tli.config.parameters import Params

TITLE = "Retrieval"
CAPTION = (
    "Finding a word's translation by cosine among the forms of all pairs, before and after training: precision at 1 "
    "and at 5, mean reciprocal rank, and precision at 1 under CSLS. Queries: all pairs or the control pairs."
)
SOURCE = ("base-rows", "similarity")
SCORES = {"p1": ("P@1", "p_at_1"), "p5": ("P@5", "p_at_5"), "mrr": ("MRR", "mrr"), "csls": ("CSLS", "csls_at_1")}
COLUMNS = (
    *VIEW_COLUMNS,
    Column("set", "queries", id=True),
    Column("direction", "direction", id=True),
    *(Column(f"{key}_{when}", f"{title} {when}", "share") for key, (title, _) in SCORES.items() for when in MOMENTS),
)


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """At each named view and its neighbours: one row per set of queries and direction."""
    similarity = results.of("similarity")
    for view in grid(params, "nf4", "fp4"):
        for set_ in ("all", "control"):
            for way, arrow in WAYS.items():
                yield {
                    **at(view, params),
                    "set": set_,
                    "direction": arrow,
                    **{
                        f"{key}_{when}": similarity.one(run, set_, view, f"{measure}.{way}")
                        for key, (_, measure) in SCORES.items()
                        for when, run in MOMENTS.items()
                    },
                }


def notes(results: Results, params: Params) -> list[str]:
    """What is published, how FP4 was made, what a cut model lacks."""
    return ["no retrieval score is published", published.said_of_fp4(params), left_out(params)]
