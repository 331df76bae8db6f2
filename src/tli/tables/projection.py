"""Distances of translations in the embedding space and in its two-dimensional layouts (the figure `projection`).

t-SNE keeps neighbours, not distances. The table shows how far the figure's impression is true of the embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.results import Results, Rows
from tli.analysis.table import Cell, Column
from tli.analysis.views import MOMENTS, VIEW_COLUMNS, at, trained_view
from tli.config.parameters import Params
from tli.measure.views import POOLINGS

TITLE = "Pairs in two dimensions"
CAPTION = (
    "Distances of {params.tsne.pairs} trained pairs (seed {params.tsne.seed}) in the base and in the paper's "
    "configuration: in the embedding space, with embeddings of length 1, and in their PCA and t-SNE layouts."
)
SOURCE = ("tsne",)
SPACES = {"original": "embeddings", "pca": "PCA", "tsne": "t-SNE"}
COLUMNS = (
    *VIEW_COLUMNS,
    Column("space", "space", id=True),
    Column("ratio_before", "distance ratio before", "ratio"),
    Column("ratio_after", "distance ratio after", "ratio"),
    Column("p1_before", "P@1 before", "share"),
    Column("p1_after", "P@1 after", "share"),
)


def views(params: Params) -> list[str]:
    """The view that the loss reads, then the same layer under the other pooling."""
    trained = trained_view(params)
    layer, pooling, quantization = trained.split(".")
    return [trained, *(f"{layer}.{other}.{quantization}" for other in POOLINGS if other != pooling)]


def ratio(tsne: Rows, run: str, view: str, space: str) -> float:
    """Mean distance of translations over that of the other Swahili-English pairs; 1: no closer than any two words."""
    distance, random_distance = (
        tsne.one(run, "trained", view, f"{measure}.{space}") for measure in ("distance", "random_distance")
    )
    return distance / random_distance


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """One row per view and space. The t-SNE rows differ between processors: rounding changes the whole layout."""
    tsne = results.of("tsne")
    for view in views(params):
        for space, title in SPACES.items():
            yield {
                **at(view, params),
                "space": title,
                **{f"ratio_{when}": ratio(tsne, run, view, space) for when, run in MOMENTS.items()},
                **{f"p1_{when}": tsne.one(run, "trained", view, f"p_at_1.{space}") for when, run in MOMENTS.items()},
            }


def notes(results: Results, params: Params) -> list[str]:
    """Definitions, and what the table cannot show."""
    pairs = params.tsne.pairs
    return [
        "distance ratio: mean Euclidean distance of translations over that of every other Swahili–English pair; 1 "
        "where translations are no closer than any two words",
        f"P@1: the nearest of the {pairs} English words is the translation; {1 / pairs:.3g} by chance",
        "few pairs, all of them trained on: the table describes the figure and is no result",
        "PCA keeps distances, in two directions of the embeddings; t-SNE keeps neighbours, its layout differs between "
        "processors, and two of its layouts cannot be laid over each other",
    ]
