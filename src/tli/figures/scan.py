"""Layer scan of the base model: cosines of translations and of random pairs above, retrieval below."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from tli.analysis import published
from tli.analysis.results import Results, Rows
from tli.analysis.table import shown
from tli.analysis.views import WAYS
from tli.config.parameters import Params
from tli.figures.drawing import BLUE, GREEN, GREY, ORANGE, panels
from tli.measure.views import POOLINGS, layers
from tli.stats.descriptive import mean

MOST_TICKS = 12


def figure(results: Results, params: Params) -> tuple[Canvas, str, str]:
    """Mean cosine (above) and P@1 (below) by layer; mask pooling left, content pooling right.

    The published pilot stands beside mask pooling, at the layers whose number means the same.
    """
    scan = results.of("scan")
    names = layers(params.active.model)
    pilot = published.pilot(results.published, params)
    places, ticks = range(len(names)), _ticks(len(names))
    findings = []
    with panels(2, len(POOLINGS), 6.6, 4.2) as (canvas, axes):
        for column, pooling in enumerate(POOLINGS):
            views = [f"{layer}.{pooling}.nf4" for layer in names]
            pairs = [scan.one("base", "all", view, "cosine_mean") for view in views]
            random = [mean([*scan.each("base", "all", view, "random_cosine_mean").values()]) for view in views]
            above, below = axes[column], axes[len(POOLINGS) + column]
            above.plot(places, pairs, color=BLUE, marker="o", label="translations")
            above.plot(places, random, color=ORANGE, marker="s", linestyle="--", label="random pairs")
            if pooling == "mask":
                at = {names.index(layer): value for layer, value in pilot.items() if layer in names}
                above.plot([*at], [*at.values()], color=GREY, marker="D", linestyle="", label="published")
                ratios = [_norm_ratio(scan, layer) for layer in names]
                _draw_ratios(above, ratios)
                top_layer = names[ratios.index(max(ratios))]
                findings.append(
                    f"the norm of BOS is at most {max(ratios):.3g} times that of content, at layer {top_layer}"
                )
            above.set_title(f"{pooling} pooling, NF4" + (" (BOS in)" if pooling == "mask" else " (BOS out)"))
            above.set_ylim(min(0.0, *random) - 0.02, 1.05)
            for (way, arrow), colour, marker in zip(WAYS.items(), (BLUE, GREEN), "ov", strict=True):
                hits = [scan.one("base", "all", view, f"p_at_1.{way}") for view in views]
                below.plot(places, hits, color=colour, marker=marker, label=arrow)
                findings.append(
                    f"P@1 {arrow} under {pooling} pooling is highest at layer {names[hits.index(max(hits))]}"
                )
            for panel in (above, below):
                panel.set_xticks(ticks, [names[place] for place in ticks])
            below.set_xlabel("layer")
            gap = max(pair - other for pair, other in zip(pairs, random, strict=True))
            findings.append(
                f"translations lie at most {shown(gap, 'cosine')} above random pairs under {pooling} pooling"
            )
        axes[0].set_ylabel("mean cosine")
        axes[len(POOLINGS)].set_ylabel("P@1, all pairs")
        top = max(axes[len(POOLINGS) + column].get_ylim()[1] for column in range(len(POOLINGS)))
        for column in range(len(POOLINGS)):
            axes[len(POOLINGS) + column].set_ylim(-0.02 * top, 1.2 * top)  # room for the legend
        axes[0].legend(loc="best")
        axes[len(POOLINGS)].legend(loc="upper right", ncol=2)
    caption = (
        "Layer scan of the base model under NF4, all pairs: cosine of translations and of random pairs, and P@1; "
        "dotted, on the right axis: the norm of the BOS state over that of the words' own states; "
        f"diamonds: the published pilot, trained pairs. {published.whose(params)}"
    ).rstrip()
    return canvas, caption, f"Four line plots by layer: {'; '.join(findings)}."


def _draw_ratios(above: Axes, ratios: list[float]) -> None:
    """How much of a mean that includes BOS is BOS, on a second axis."""
    above.plot([], [], color=GREEN, linestyle=":", label="BOS ÷ content")  # for the legend
    right = above.twinx()
    right.plot(range(len(ratios)), ratios, color=GREEN, linestyle=":")
    right.set_ylabel("norm of BOS ÷ content", color=GREEN)
    right.set_yscale("log")
    right.grid(visible=False)
    right.tick_params(axis="y", colors=GREEN)


def _norm_ratio(scan: Rows, layer: str) -> float:
    """||h_BOS|| / mean ||h|| of the words' own tokens at one layer; at the embeddings of a model it may be below 1."""
    bos, content = (scan.one("base", "all", f"{layer}.-.nf4", f"{part}_norm") for part in ("bos", "content"))
    return bos / content


def _ticks(count: int) -> list[int]:
    """At most a dozen of the places to label: the first, the last (norm), and others at equal distances."""
    step = math.ceil(count / MOST_TICKS)
    return [*(place for place in range(count - max(1, step - 1)) if place % step == 0), count - 1]
