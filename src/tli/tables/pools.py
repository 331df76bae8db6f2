"""Retrieval by pool of candidates: the forms of all pairs, or of the query's own set."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.results import Results
from tli.analysis.table import Cell, Column
from tli.analysis.views import MOMENTS, PAIR_SETS, VIEW_COLUMNS, WAYS, at
from tli.config.parameters import Params
from tli.measure.views import POOLINGS, layers

TITLE = "Retrieval by pool of candidates"
CAPTION = (
    "At every layer, finding the translation of each set's words among the forms of all pairs, or of the set's own "
    "pairs. A small pool makes every score higher: compare scores over one pool only."
)
SOURCE = ("base-rows", "similarity")
SCORES = {"p1": ("P@1", "p_at_1"), "p5": ("P@5", "p_at_5"), "mrr": ("MRR", "mrr"), "csls": ("CSLS", "csls_at_1")}
POOLS = {"all": "", "own": "own_"}  # pool -> prefix of the measure
COLUMNS = (
    *VIEW_COLUMNS,
    Column("set", "queries", id=True),
    Column("pool", "candidates", id=True),
    Column("direction", "direction", id=True),
    *(Column(f"{key}_{when}", f"{title} {when}", "share") for key, (title, _) in SCORES.items() for when in MOMENTS),
)


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """One row per layer, pooling, set of queries, pool and direction."""
    similarity = results.of("similarity")
    for view in (f"{layer}.{pooling}.nf4" for layer in layers(params.active.model) for pooling in POOLINGS):
        for set_ in PAIR_SETS:
            for pool, prefix in POOLS.items():
                for way, arrow in WAYS.items():
                    yield {
                        **at(view, params),
                        "set": set_,
                        "pool": pool,
                        "direction": arrow,
                        **{
                            f"{key}_{when}": similarity.one(run, set_, view, f"{prefix}{measure}.{way}")
                            for key, (_, measure) in SCORES.items()
                            for when, run in MOMENTS.items()
                        },
                    }
