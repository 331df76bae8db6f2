"""The figure `projection`: word pairs in two dimensions before and after training, by t-SNE and by PCA.

The table `projection` has the distances in the embedding space and in both layouts.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from tli.analysis.results import Results, Rows
from tli.analysis.table import shown
from tli.analysis.views import MOMENTS
from tli.config.parameters import Params
from tli.figures.drawing import BLUE, GREY, ORANGE, panels
from tli.tables.projection import SPACES, ratio, views

LAYOUTS = ("tsne", "pca")
CAPTION = (
    "{params.tsne.pairs} trained pairs at the layer of the loss, by t-SNE (perplexity "
    "{params.tsne.perplexity:g}) and PCA; lines join translations; scales differ. In t-SNE, sizes, directions and "
    "distances between clusters mean nothing (van der Maaten & Hinton 2008; Wattenberg et al. 2016)."
)


def figure(results: Results, params: Params) -> tuple[Canvas, str, str]:
    """One row of panels per pooling: t-SNE before and after training, PCA before and after.

    Returns the drawing, its caption, and a description with the distance ratios.
    """
    tsne = results.of("tsne")
    rows, places = views(params), [(layout, when) for layout in LAYOUTS for when in MOMENTS]
    ratios = []
    with panels(len(rows), len(places), 6.6, 1.85 * len(rows)) as (canvas, axes):
        for number, view in enumerate(rows):
            row = axes[number * len(places) : (number + 1) * len(places)]
            for panel, (layout, when) in zip(row, places, strict=True):
                draw(panel, tsne, MOMENTS[when], view, layout)
                panel.set_title(f"{SPACES[layout]}, {when}")
            row[0].set_ylabel(view)
            for space, title in SPACES.items():
                before, after = (shown(ratio(tsne, run, view, space), "ratio") for run in MOMENTS.values())
                ratios.append(f"{title} at {view} {before} before and {after} after")
        canvas.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=2)
    alt = (
        f"Scatter plots of {2 * params.tsne.pairs} words with a line from each Swahili word to its translation. "
        f"Mean distance of translations over that of other pairs: {'; '.join(ratios)}."
    )
    return canvas, CAPTION.format(params=params), alt


def draw(panel: Axes, tsne: Rows, run: str, view: str, layout: str) -> None:
    """One layout: Swahili words, English words, a line between translations. The axes have no unit."""
    (x_sw, y_sw), (x_en, y_en) = (
        [[*tsne.each(run, "trained", view, f"{layout}.{axis}.{side}").values()] for axis in "xy"]
        for side in ("sw", "en")
    )
    for x1, x2, y1, y2 in zip(x_sw, x_en, y_sw, y_en, strict=True):
        panel.plot((x1, x2), (y1, y2), color=GREY, linewidth=0.5, zorder=1)
    for x, y, colour, marker, name in ((x_sw, y_sw, BLUE, "o", "Swahili"), (x_en, y_en, ORANGE, "^", "English")):
        panel.scatter(x, y, s=9, c=colour, marker=marker, linewidths=0, zorder=2, label=name)
    panel.set_aspect("equal", adjustable="datalim")
    panel.set_xticks([])
    panel.set_yticks([])
