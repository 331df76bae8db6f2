"""Trained pairs in two dimensions, before and after: the figure by t-SNE and by PCA, and the table of its distances.

t-SNE keeps neighbours, not distances: the table says what of the picture's impression holds in the embeddings' own
space. Feeds the figure and the table `projection`.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from tli.analysis.render import Cell, Column, Made, Table, shown
from tli.analysis.results import Measured, Rows
from tli.analysis.views import MOMENTS, VIEW, at, trained_view
from tli.config.parameters import Params
from tli.figures.drawing import BLUE, GREY, ORANGE, panels
from tli.measure.views import POOLINGS

SPACES = {"original": "embeddings", "pca": "PCA", "tsne": "t-SNE"}
PICTURES = ("tsne", "pca")


def views(params: Params) -> list[str]:
    """The view that the loss reads, then the same layer under the other pooling."""
    own = trained_view(params)
    layer, pooling, quantization = own.split(".")
    return [own, *(f"{layer}.{other}.{quantization}" for other in POOLINGS if other != pooling)]


def ratio(project: Rows, which: str, view: str, space: str) -> float:
    """Mean distance of translations over that of the other Swahili-English pairs: 1 is no closer than any two words."""
    return project.one(which, "trained", view, f"distance.{space}") / project.one(
        which, "trained", view, f"random_distance.{space}"
    )


def table(project: Rows, params: Params) -> Made:
    """Distances of translations and of other pairs, and P@1, in the embeddings' space and in either picture.

    `verify` reads no value of t-SNE: another processor's rounding begins another layout.
    """
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    for view in views(params):
        for space, title in SPACES.items():
            row = at(view, params) | {"space": title}
            for when, which in MOMENTS.items():
                found = {
                    "ratio": ratio(project, which, view, space),
                    "p1": project.one(which, "trained", view, f"p_at_1.{space}"),
                }
                row |= {f"{key}_{when}": value for key, value in found.items()}
                if space != "tsne":
                    measured |= {f"projection.{when}.{key}_{space}.{view}": value for key, value in found.items()}
            rows.append(row)
    made = Table(
        "projection",
        "Pairs in two dimensions",
        f"{params.project.pairs} trained pairs (seed {params.project.seed}) in the base and in the paper's cell: the "
        "embeddings at length 1, and their layouts by PCA and by t-SNE (the figure). Distance ratio: mean Euclidean "
        "distance of translations over that of every other Swahili–English pair, 1 where translations are no closer "
        f"than any two words. P@1: the nearest of the {params.project.pairs} English words is the translation, "
        f"{1 / params.project.pairs:.3g} by chance. Few and trained pairs: what the figure shows, no result.",
        (
            *VIEW,
            Column("space", "space"),
            Column("ratio_before", "distance ratio before", "score"),
            Column("ratio_after", "distance ratio after", "score"),
            Column("p1_before", "P@1 before", "score"),
            Column("p1_after", "P@1 after", "score"),
        ),
        rows,
    )
    return Made(made, measured)


def figure(project: Rows, params: Params) -> tuple[Canvas, str, str]:
    """A row a pooling; t-SNE before and after, PCA before and after."""
    said = []
    chosen = views(params)
    with panels(len(chosen), len(PICTURES) * len(MOMENTS), 6.6, 1.85 * len(chosen)) as (canvas, axes):
        for number, view in enumerate(chosen):
            row = axes[number * 4 : number * 4 + 4]
            places = [(picture, when) for picture in PICTURES for when in MOMENTS]
            for panel, (picture, when) in zip(row, places, strict=True):
                draw(panel, project, MOMENTS[when], view, picture)
                panel.set_title(f"{SPACES[picture]}, {when}")
            row[0].set_ylabel(view)
            for space, title in SPACES.items():
                ends = [shown(ratio(project, which, view, space), "score") for which in MOMENTS.values()]
                said.append(f"{title} at {view} {ends[0]} before and {ends[1]} after")
        canvas.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=2)
    caption = (
        f"{params.project.pairs} trained pairs at the layer that the loss reads, under both poolings: t-SNE "
        f"(perplexity {params.project.perplexity:g}, seed {params.project.seed}) and PCA, a layout a panel; grey lines "
        "join translations. t-SNE shows who is near whom: sizes of clusters, distances between them, directions and "
        "empty space mean nothing, and two panels cannot be laid one upon the other (van der Maaten & Hinton 2008; "
        "Wattenberg et al. 2016). PCA shows distances, in two of the embeddings' directions; scales differ "
        "from panel to panel. The table `projection` gives the distances in the embeddings' own space."
    )
    alt = (
        f"Scatter plots of {2 * params.project.pairs} words with a line from each Swahili word to its translation. "
        f"Mean distance of translations over that of other pairs: {'; '.join(said)}."
    )
    return canvas, caption, alt


def draw(panel: Axes, project: Rows, which: str, view: str, picture: str) -> None:
    """One layout: Swahili words, English words, a line between translations. The axes have no unit."""
    (x, y), (u, v) = (
        [[*project.each(which, "trained", view, f"{picture}.{axis}.{side}").values()] for axis in "xy"]
        for side in ("sw", "en")
    )
    for ends in zip(x, u, y, v, strict=True):
        panel.plot(ends[:2], ends[2:], color=GREY, linewidth=0.5, zorder=1)
    for across, up, colour, marker, name in ((x, y, BLUE, "o", "Swahili"), (u, v, ORANGE, "^", "English")):
        panel.scatter(across, up, s=9, c=colour, marker=marker, linewidths=0, zorder=2, label=name)
    panel.set_aspect("equal", adjustable="datalim")
    panel.set_xticks([])
    panel.set_yticks([])
