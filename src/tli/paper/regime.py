"""The BOS regime beside the base as it is: what a dominant BOS state alone does to every layer's cosine.

In the regime the state of BOS is scaled up from one layer on and every other weight is left as it is (model/bos.py).
Feeds the full grid's table `bos` and its figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tli.paper import stats
from tli.paper.render import Cell, Column, Made, Table
from tli.paper.rows import Measured, Rows
from tli.params import Params
from tli.study.views import POOLINGS, layers

NAMES = {"plain": "as it is", "bos": "BOS massive"}


def means(scans: Sequence[Rows], view: str, measure: str) -> list[float]:
    """One value a base, over all pairs; of several random pairings their mean."""
    return [stats.mean([*one.each("base", "all", view, measure).values()]) for one in scans]


def table(scans: Mapping[str, Sequence[Rows]], params: Params) -> Made:
    """Layer by layer in both regimes, before any training: norm ratio, cosines, P@1; mean and SD over bases."""
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    for where, some in scans.items():
        for layer in layers(params.active.model):
            bos, content = (means(some, f"{layer}.-.nf4", key) for key in ("bos_norm", "content_norm"))
            ratio = stats.spread([a / b for a, b in zip(bos, content, strict=True)])
            for pooling in POOLINGS:
                view = f"{layer}.{pooling}.nf4"
                pairs, random = (means(some, view, key) for key in ("cosine_mean", "random_cosine_mean"))
                left = stats.spread([a - b for a, b in zip(pairs, random, strict=True)])
                row: dict[str, Cell] = {"base": NAMES[where], "view": view, "ratio": ratio.mean}
                row |= {"cosine": stats.mean(pairs), "random": stats.mean(random), "left": left.mean, "sd": left.sd}
                row["p1"] = stats.mean(means(some, view, "p_at_1.sw_en"))
                rows.append(row)
                measured |= {f"bos.{where}.cosine.{view}": row["cosine"], f"bos.{where}.random.{view}": row["random"]}
            measured[f"bos.{where}.ratio.{layer}"] = ratio.mean
    made = Table(
        "bos",
        "A dominant BOS state, before any training",
        "Mean cosine of translations and of random pairs, all pairs, at every layer of the bases as they are and with "
        f"the BOS state scaled from layer {params.bos.layer} on to {params.bos.ratio:g} times the mean norm of the "
        "others, every other weight and every content token's state as before; left: translations − random, with its "
        f"SD over {len(params.sweep.base_seeds)} bases. No adapter: what differs between the regimes is BOS alone.",
        (
            Column("base", "base"),
            Column("view", "view"),
            Column("ratio", "BOS ÷ content", "number"),
            Column("cosine", "translation cosine", "similarity"),
            Column("random", "random cosine", "similarity"),
            Column("left", "left", "change"),
            Column("sd", "SD", "similarity"),
            Column("p1", "P@1 sw→en", "score"),
        ),
        rows,
    )
    return Made(made, measured)
