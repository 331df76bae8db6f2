"""Named views, the sets of word pairs, and what the lexical tables share.

A similarity is read at a view, `layer.pooling.quantisation` (measure/views.py).
"""

from __future__ import annotations

from tli.analysis.results import Rows
from tli.analysis.table import Cell, Column
from tli.config.parameters import Params
from tli.measure.views import POOLINGS, View, layers, named, names, per_pair
from tli.stats import t_tests

PAIR_SETS = ("trained", "control")
WAYS = {"sw_en": "sw→en", "en_sw": "en→sw"}
MOMENTS = {"before": "base", "after": "main"}  # the run of each
VIEW_COLUMNS = (Column("view", "view", id=True), Column("name", "name"))


def trained_view(params: Params) -> str:
    """The view that the loss reads."""
    return str(View(str(params.train.layer), params.train.pooling, "nf4"))


def points(params: Params) -> dict[str, str]:
    """Every view that has a name, where it has its layer, but `pilot`, each layer under mask pooling and NF4."""
    views = named(params.active.model)
    return {"trained_on": trained_view(params)} | {key: str(view) for key, view in views.items()}


def left_out(params: Params) -> str:
    """What a run of a cut model does not measure; nothing to say of a whole one."""
    model = params.active.model
    if model.whole:
        return ""
    lost = " and ".join(f"`{name}`" for name in names(model.blocks) if name not in named(model))
    return (
        f"left out: this run has the first {model.held} of {model.blocks} blocks, so that layers {model.held + 1} to "
        f"{model.blocks} and norm, the views {lost}, and transfer, which needs the head, are not measured"
    )


def label(view: str, params: Params) -> str:
    """The names of a view; `neighbour` where it has none and stands beside one that has."""
    return ", ".join(key for key, value in points(params).items() if value == view) or "neighbour"


def at(view: str, params: Params) -> dict[str, Cell]:
    """The first cells of a row: the view and its names."""
    return {"view": view, "name": label(view, params)}


def grid(params: Params, *quantizations: str) -> list[str]:
    """The named views and their neighbours, by layer."""
    model, layer = params.active.model, params.train.layer
    views = [view for quantization in quantizations for view in per_pair(model, layer, quantization)]
    order = {name: index for index, name in enumerate(layers(model))}
    return [str(view) for view in sorted(views, key=lambda view: (order[view.layer], POOLINGS.index(view.pooling)))]


INTERVAL = (Column("low", "CI low", "cosine_change"), Column("high", "CI high", "cosine_change"))


def comparison(similarity: Rows, set_: str, view: str, params: Params, measure: str = "cosine") -> t_tests.Paired:
    """The paired t-test of the paper's configuration against the base at one view."""
    before, after = similarity.matched(("base", "main"), set_, view, measure)
    return t_tests.paired(before, after, params.stats.confidence)
