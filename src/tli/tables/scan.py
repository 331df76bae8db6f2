"""Every layer of the base model: cosine of translations and of random pairs, P@1, and the published pilot."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis import published
from tli.analysis.massive import massive_activation, ratio
from tli.analysis.results import Results
from tli.analysis.table import Cell, Column
from tli.analysis.views import PAIR_SETS, VIEW_COLUMNS, WAYS, left_out, points
from tli.config.parameters import Params
from tli.measure.views import POOLINGS, layers
from tli.stats.descriptive import mean

TITLE = "Layer scan"
CAPTION = (
    "Mean cosine of translations and of random pairs at every layer of the base model, and P@1 of retrieval, over all "
    "pairs; beside them the trained pairs, the control pairs and the published pilot, which used trained pairs."
)
SOURCE = ("scan",)
COLUMNS = (
    *VIEW_COLUMNS,
    Column("cosine", "translation cosine", "cosine"),
    Column("random", "random cosine", "cosine"),
    Column("difference", "difference", "cosine_change"),
    *(Column(f"p1_{way}", f"P@1 {arrow}", "share") for way, arrow in WAYS.items()),
    Column("trained", "trained pairs", "cosine"),
    Column("published", "published", "cosine"),
    Column("control", "control pairs", "cosine"),
    Column("norm_ratio", "BOS ÷ content", "magnitude"),
)


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """One row per layer and pooling. The pilot is published under mask pooling only."""
    scan = results.of("scan")
    pilot = published.pilot(results.published, params)
    for layer in layers(params.active.model):
        bos, content = (scan.one("base", "all", f"{layer}.-.nf4", f"{state}_norm") for state in ("bos", "content"))
        for pooling in POOLINGS:
            view = f"{layer}.{pooling}.nf4"
            cosine = {set_: scan.one("base", set_, view, "cosine_mean") for set_ in ("all", *PAIR_SETS)}
            random = mean([*scan.each("base", "all", view, "random_cosine_mean").values()])
            yield {
                "view": view,
                "name": ", ".join(_names(layer, pooling, params)),
                "cosine": cosine["all"],
                "random": random,
                "difference": cosine["all"] - random,
                **{f"p1_{way}": scan.one("base", "all", view, f"p_at_1.{way}") for way in WAYS},
                "trained": cosine["trained"],
                "published": pilot.get(layer) if pooling == "mask" else None,
                "control": cosine["control"],
                "norm_ratio": ratio(bos, content),
            }


def _names(layer: str, pooling: str, params: Params) -> list[str]:
    """The names of a view; each numbered layer under mask pooling is one of the pilot's."""
    named = [name for name, view in points(params).items() if view == f"{layer}.{pooling}.nf4"]
    return ["pilot", *named] if pooling == "mask" and layer != "norm" else named


def notes(results: Results, params: Params) -> list[str]:
    """What the columns are, whether the BOS activation is massive, whose the published values are."""
    return [
        f"random cosine: mean over {len(params.measure.random_seeds)} seeded derangements of the English side",
        "BOS ÷ content: mean L2 norm of the BOS state over that of the words' own token states; it does not depend on "
        "the pooling",
        massive_activation(results.of("scan"), "base", params).note,
        published.whose(params),
        left_out(params),
    ]
