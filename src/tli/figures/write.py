"""The figures, as SVG: layer scan, before and after per pair, retrieval against cosine, accuracy against rank.

Drawn with paper/drawing.py; the pairs in two dimensions have a module of their own, paper/projection.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure as Canvas

from tli.analysis import published
from tli.analysis.render import Figure, shown
from tli.analysis.results import Rows, Sweep, cell
from tli.analysis.scores import CORRECTED, TASKS, accuracy, item_name, language_name, languages, said_of_items
from tli.analysis.views import PAIR_SETS, WAYS, comparison, grid, label, points
from tli.config.parameters import Params
from tli.figures.drawing import BLUE, GREEN, GREY, ORANGE, STYLE, panels, svg
from tli.io.files import atomic_dir, write_text
from tli.measure.views import POOLINGS, layers
from tli.paper import projection
from tli.paper.changes import Drawn
from tli.stats.descriptive import mean

COSINE_AND_HITS = ("cosine_mean", "p_at_1.sw_en")


def write(
    folder: Path,
    found: Mapping[str, Rows],
    sweep: Sweep,
    intervals: Drawn,
    reported: Mapping[str, Any],
    params: Params,
) -> list[Figure]:
    """Draws every figure into a new folder; returns file names, captions and texts for who cannot see them.

    `found` holds the rows `scan`, `align`, `transfer` and `project`; `intervals` the bootstrap of each rank's change of
    accuracy.
    """
    made: list[Figure] = []
    with atomic_dir(folder) as into, style.context(["default", STYLE]):
        drawn = {
            "scan": scan_figure(found["scan"], reported, params),
            "before_after": pairs_figure(found["align"], params),
            "retrieval": retrieval_figure(found["align"], params),
            "projection": projection.figure(found["project"], params),
        }
        if found["transfer"].sets("correct"):
            drawn["ranks"] = ranks_figure(found["transfer"], sweep, intervals, params)
        for name, (canvas, caption, alt) in drawn.items():
            write_text(into / f"{name}.svg", svg(canvas))
            made.append(Figure(f"{name}.svg", caption, alt))
    return made


def scan_figure(scan: Rows, reported: Mapping[str, Any], params: Params) -> tuple[Canvas, str, str]:
    """Cosine of translations and of random pairs above, P@1 below, by layer; mask pooling left, content right.

    The published pilot stands beside mask pooling, at the layers whose number means the same.
    """
    names = layers(params.active.model)
    given = published.pilot(reported, params)
    pilot = {names.index(layer): value for layer, value in given.items() if layer in names}
    places = range(len(names))
    said = []
    with panels(2, len(POOLINGS), 6.6, 4.2) as (canvas, axes):
        for column, pooling in enumerate(POOLINGS):
            views = [f"{layer}.{pooling}.nf4" for layer in names]
            pairs = [scan.one("base", "all", view, "cosine_mean") for view in views]
            random = [mean([*scan.each("base", "all", view, "random_cosine_mean").values()]) for view in views]
            above, below = axes[column], axes[len(POOLINGS) + column]
            above.plot(places, pairs, color=BLUE, marker="o", label="translations")
            above.plot(places, random, color=ORANGE, marker="s", linestyle="--", label="random pairs")
            if pooling == "mask":
                above.plot([*pilot], [*pilot.values()], color=GREY, marker="D", linestyle="", label="published")
                ratios = [_bos_ratio(scan, layer) for layer in names]
                sink = above.twinx()  # how much of a mean that includes BOS is BOS
                above.plot([], [], color=GREEN, linestyle=":", label="BOS ÷ content")  # of `sink`, for the legend
                sink.plot(places, ratios, color=GREEN, linestyle=":")
                sink.set_ylabel("norm of BOS ÷ content", color=GREEN)
                sink.set_yscale("log")
                sink.grid(visible=False)
                sink.tick_params(axis="y", colors=GREEN)
                top_layer = names[ratios.index(max(ratios))]
                said.append(f"the norm of BOS is at most {max(ratios):.3g} times that of content, at layer {top_layer}")
            above.set_title(f"{pooling} pooling, NF4" + (" (BOS in)" if pooling == "mask" else " (BOS out)"))
            above.set_ylim(min(0.0, *random) - 0.02, 1.05)
            for (way, arrow), colour, marker in zip(WAYS.items(), (BLUE, GREEN), "ov", strict=True):
                hits = [scan.one("base", "all", view, f"p_at_1.{way}") for view in views]
                below.plot(places, hits, color=colour, marker=marker, label=arrow)
                said.append(f"P@1 {arrow} under {pooling} pooling is highest at layer {names[hits.index(max(hits))]}")
            for panel in (above, below):
                panel.set_xticks(_some(places), [names[place] for place in _some(places)])
            below.set_xlabel("layer")
            gap = max(a - b for a, b in zip(pairs, random, strict=True))
            said.append(
                f"translations lie at most {shown(gap, 'similarity')} above random pairs under {pooling} pooling"
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
    return canvas, caption, f"Four line plots by layer: {'; '.join(said)}."


def _bos_ratio(scan: Rows, layer: str) -> float:
    """||h_BOS|| / mean ||h|| of the words' own tokens at one layer; at the embeddings of a model it may be below 1."""
    bos, content = (scan.one("base", "all", f"{layer}.-.nf4", f"{part}_norm") for part in ("bos", "content"))
    return bos / content


def _some(places: range) -> list[int]:
    """At most a dozen of the layers to write under an axis, apart from each other, the first and norm among them."""
    step = math.ceil(len(places) / 12)
    return [*(place for place in places[: -max(1, step - 1)] if place % step == 0), places[-1]]


def pairs_figure(align: Rows, params: Params) -> tuple[Canvas, str, str]:
    """Cosine of every pair before (x) and after (y) training, trained and control, at each named view."""
    views = [view for view in grid(params, "nf4", "fp4") if view in points(params).values()]
    said = []
    with panels(math.ceil(len(views) / 2), 2, 6.6, 3.2 * math.ceil(len(views) / 2)) as (canvas, axes):
        for panel, view in zip(axes, views, strict=False):
            ends = []
            for set_, colour, marker, size, alpha in zip(
                PAIR_SETS, (BLUE, ORANGE), "o^", (7, 14), (0.4, 0.95), strict=True
            ):
                before, after = align.matched(("base", "main"), set_, view, "cosine")
                panel.scatter(before, after, s=size, c=colour, marker=marker, alpha=alpha, linewidths=0, label=set_)
                ends += [*before, *after]
                test = comparison(align, set_, view, params)
                said.append(
                    f"at {view} {set_} pairs move from {shown(test.before, 'similarity')} "
                    f"to {shown(test.after, 'similarity')} on average"
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
    caption = (
        "Cosine of every pair before and after training (the paper's cell) at each named view; above the grey line a "
        "pair's cosine has grown. Scales differ from panel to panel."
    )
    return canvas, caption, f"Scatter plots, one a view: {'; '.join(said)}."


def retrieval_figure(align: Rows, params: Params) -> tuple[Canvas, str, str]:
    """P@1 against the mean cosine, a line from before to after a layer; mask pooling left, content right."""
    names = layers(params.active.model)
    said = []
    with panels(1, len(POOLINGS), 6.6, 3.2) as (canvas, axes):
        for panel, pooling in zip(axes, POOLINGS, strict=True):
            moved: list[int] = []
            for place, layer in enumerate(names):
                view = f"{layer}.{pooling}.nf4"
                x, y = ([align.one(cell, "all", view, key) for cell in ("base", "main")] for key in COSINE_AND_HITS)
                label = ("before", "after") if not place else (None, None)
                panel.plot(x, y, color=GREY, linewidth=0.8, zorder=1)
                panel.plot(x[:1], y[:1], color=BLUE, marker="o", markerfacecolor="white", linestyle="", label=label[0])
                panel.plot(x[1:], y[1:], color=ORANGE, marker="o", linestyle="", label=label[1])
                panel.annotate(layer, (x[1], y[1]), xytext=(3, 3), textcoords="offset points", fontsize=6)
                moved.append((x[1] < x[0]) and (y[1] > y[0]))
            said.append(
                f"under {pooling} pooling {sum(moved)} of {len(names)} layers lose mean cosine and gain P@1 in training"
            )
            panel.set_title(f"{pooling} pooling, NF4" + (" (BOS in)" if pooling == "mask" else " (BOS out)"))
            panel.set_xlabel("mean cosine of translations")
        low, high = min(panel.get_ylim()[0] for panel in axes), max(panel.get_ylim()[1] for panel in axes)
        for panel in axes:
            panel.set_ylim(low, high)
        axes[0].set_ylabel(f"P@1 {WAYS['sw_en']}, all pairs")
        axes[0].legend(loc="best")
    caption = (
        f"Retrieval against cosine, all pairs, at every layer (numbers): P@1 {WAYS['sw_en']} and mean cosine of "
        "translations in the base (open) and in the paper's cell (filled). Were the mean cosine a measure of how well "
        "translations are found, points would lie the higher the further they are to the right."
    )
    return canvas, caption, f"Scatter plots of P@1 against mean cosine by layer: {'; '.join(said)}."


def ranks_figure(transfer: Rows, sweep: Sweep, intervals: Drawn, params: Params) -> tuple[Canvas, str, str]:
    """Accuracy against rank, one panel a task and language: every seed, their mean, the interval of the change."""
    sets = [(task, language) for task in TASKS for language in languages(transfer, task)]
    columns = min(4, max(2, math.ceil(len(sets) / 2)))
    rows = math.ceil(len(sets) / columns)
    ranks = sorted(params.sweep.ranks)
    said = []
    with panels(rows, columns, 3.3 * columns if columns < 3 else 2.4 * columns, 2.3 * rows) as (canvas, axes):
        for panel, (task, language) in zip(axes, sets, strict=False):
            set_ = f"{task}.{language}"
            scores = {
                rank: [accuracy(sweep.transfer[rank], cell(rank, seed), set_) for seed in params.sweep.seeds]
                for rank in ranks
            }
            means = [mean(scores[rank]) for rank in ranks]
            base = accuracy(transfer, "base", set_)
            # the bars are the change's interval, moved up by rank 0's accuracy
            drawn = [intervals[set_, rank] for rank in ranks]
            below = [0.0 if one.low is None else max(0.0, (one.estimate or 0.0) - one.low) for one in drawn]
            above = [0.0 if one.high is None else max(0.0, one.high - (one.estimate or 0.0)) for one in drawn]
            panel.axhline(base, color=GREY, linestyle="--", label="rank 0")
            places = [place + 0.15 for place, rank in enumerate(ranks) for _ in scores[rank]]  # beside the bar
            every = [score for rank in ranks for score in scores[rank]]
            panel.plot(places, every, color=ORANGE, marker=".", linestyle="", alpha=0.6, label="a seed")
            panel.errorbar(
                range(len(ranks)), means, yerr=[below, above], color=BLUE, marker="o", capsize=2, label="mean, interval"
            )
            panel.set_xticks(range(len(ranks)), [str(rank) for rank in ranks])
            panel.set_title(f"{item_name(task, params)}, {language_name(set_, params)}")
            panel.set_xlabel("LoRA rank")
            panel.set_ylabel("accuracy, %")
            low, high = min(range(len(ranks)), key=means.__getitem__), max(range(len(ranks)), key=means.__getitem__)
            said.append(
                f"{item_name(task, params)} {language_name(set_, params)}: {shown(base, 'percent')} % at rank 0, "
                f"between {shown(means[low], 'percent')} % (rank {ranks[low]}) and {shown(means[high], 'percent')} % "
                f"(rank {ranks[high]}) after training"
            )
        for panel in axes[len(sets) :]:
            panel.set_visible(False)
        canvas.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=3)
    percent = f"{100 * params.stats.confidence:.9g} %"
    caption = (
        f"Accuracy against LoRA rank, {len(params.sweep.seeds)} seeds. Bars: {percent} cluster-bootstrap interval, "
        "over seeds and items, of the change against rank 0, which is the dashed line; not corrected for their "
        f"number. {said_of_items(params)}"
    ).rstrip()
    if any(CORRECTED in set_ for set_ in transfer.sets("correct")):
        caption += " XCOPA's questions are those released."
    return canvas, caption, f"Accuracy by rank, a panel a task and language. {'; '.join(said)}."
