"""Retrieval against mean cosine at every layer, before and after training."""

from __future__ import annotations

from matplotlib.figure import Figure as Canvas

from tli.analysis.results import Results
from tli.analysis.views import MOMENTS, WAYS
from tli.config.parameters import Params
from tli.figures.drawing import BLUE, GREY, ORANGE, panels
from tli.measure.views import POOLINGS, layers

MEASURES = ("cosine_mean", "p_at_1.sw_en")
CAPTION = (
    f"Retrieval against cosine, all pairs, at every layer (numbers): P@1 {WAYS['sw_en']} and mean cosine of "
    "translations in the base (open) and in the paper's configuration (filled). If the mean cosine measured how well "
    "translations are found, points further to the right would lie higher."
)


def figure(results: Results, params: Params) -> tuple[Canvas, str, str]:
    """P@1 (y) against the mean cosine (x), a line from before to after for each layer; mask pooling left."""
    similarity = results.of("similarity")
    names = layers(params.active.model)
    findings = []
    with panels(1, len(POOLINGS), 6.6, 3.2) as (canvas, axes):
        for panel, pooling in zip(axes, POOLINGS, strict=True):
            opposite = 0
            for place, layer in enumerate(names):
                view = f"{layer}.{pooling}.nf4"
                x, y = ([similarity.one(run, "all", view, key) for run in MOMENTS.values()] for key in MEASURES)
                before, after = MOMENTS if not place else (None, None)  # each label once in the legend
                panel.plot(x, y, color=GREY, linewidth=0.8, zorder=1)
                panel.plot(x[:1], y[:1], color=BLUE, marker="o", markerfacecolor="white", linestyle="", label=before)
                panel.plot(x[1:], y[1:], color=ORANGE, marker="o", linestyle="", label=after)
                panel.annotate(layer, (x[1], y[1]), xytext=(3, 3), textcoords="offset points", fontsize=6)
                opposite += (x[1] < x[0]) and (y[1] > y[0])
            findings.append(
                f"under {pooling} pooling {opposite} of {len(names)} layers lose mean cosine and gain P@1 in training"
            )
            panel.set_title(f"{pooling} pooling, NF4" + (" (BOS in)" if pooling == "mask" else " (BOS out)"))
            panel.set_xlabel("mean cosine of translations")
        low, high = min(panel.get_ylim()[0] for panel in axes), max(panel.get_ylim()[1] for panel in axes)
        for panel in axes:
            panel.set_ylim(low, high)
        axes[0].set_ylabel(f"P@1 {WAYS['sw_en']}, all pairs")
        axes[0].legend(loc="best")
    return canvas, CAPTION, f"Scatter plots of P@1 against mean cosine by layer: {'; '.join(findings)}."
