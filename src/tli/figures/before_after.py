"""Cosine of every word pair before and after training, one panel per named view."""

from __future__ import annotations

import math

from matplotlib.figure import Figure as Canvas

from tli.analysis.results import Results
from tli.analysis.table import shown
from tli.analysis.views import PAIR_SETS, comparison, grid, label, points
from tli.config.parameters import Params
from tli.figures.drawing import BLUE, GREY, ORANGE, panels

CAPTION = (
    "Cosine of every pair before and after training (the paper's configuration) at each named view; above the grey "
    "line a pair's cosine has grown. Scales differ from panel to panel."
)


def figure(results: Results, params: Params) -> tuple[Canvas, str, str]:
    """Cosine before (x) and after (y), trained and control pairs."""
    similarity = results.of("similarity")
    views = [view for view in grid(params, "nf4", "fp4") if view in points(params).values()]
    findings = []
    with panels(math.ceil(len(views) / 2), 2, 6.6, 3.2 * math.ceil(len(views) / 2)) as (canvas, axes):
        for panel, view in zip(axes, views, strict=False):
            ends = []
            for set_, colour, marker, size, alpha in zip(
                PAIR_SETS, (BLUE, ORANGE), "o^", (7, 14), (0.4, 0.95), strict=True
            ):
                before, after = similarity.matched(("base", "main"), set_, view, "cosine")
                panel.scatter(before, after, s=size, c=colour, marker=marker, alpha=alpha, linewidths=0, label=set_)
                ends += [*before, *after]
                test = comparison(similarity, set_, view, params)
                findings.append(
                    f"at {view} {set_} pairs move from {shown(test.before, 'cosine')} "
                    f"to {shown(test.after, 'cosine')} on average"
                )
            low, high = min(ends), max(ends)
            pad = 0.04 * (high - low) or 0.01
            panel.plot([low - pad, high + pad], [low - pad, high + pad], color=GREY, linewidth=0.8, zorder=0)
            panel.set_xlim(low - pad, high + pad)
            panel.set_ylim(low - pad, high + pad)
            panel.set_aspect("equal")
            panel.locator_params(nbins=5)
            panel.set_title(f"{view} ({label(view, params).replace('_', ' ')})")
            panel.set_xlabel("cosine before")
            panel.set_ylabel("cosine after")
        for panel in axes[len(views) :]:
            panel.set_visible(False)
        axes[0].legend(loc="upper left", markerscale=1.6)
    return canvas, CAPTION, f"Scatter plots, one for each view: {'; '.join(findings)}."
