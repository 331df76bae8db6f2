"""Benchmark accuracy against LoRA rank, one panel per task and language."""

from __future__ import annotations

import math

from matplotlib.figure import Figure as Canvas

from tli.analysis.results import Results, run_name
from tli.analysis.scores import CORRECTED, TASKS, accuracy, item_name, language_name, languages, said_of_items
from tli.analysis.table import Table, shown
from tli.config.parameters import Params
from tli.figures.drawing import BLUE, GREY, ORANGE, panels
from tli.stats.descriptive import mean


def figure(results: Results, params: Params) -> tuple[Canvas, str, str] | None:
    """Accuracy of every seed, their mean, and the interval of its change; None for a model without benchmarks.

    The bars are the intervals of the table `changes`, moved up by the accuracy at rank 0.
    """
    scores = results.of("score")
    sets = [f"{task}.{language}" for task in TASKS for language in languages(scores, task)]
    if not sets:
        return None
    columns = min(4, max(2, math.ceil(len(sets) / 2)))
    rows = math.ceil(len(sets) / columns)
    ranks = sorted(params.sweep.ranks)
    places = range(len(ranks))
    findings = []
    with panels(rows, columns, 3.3 * columns if columns < 3 else 2.4 * columns, 2.3 * rows) as (canvas, axes):
        for panel, set_ in zip(axes, sets, strict=False):
            by_rank = [[accuracy(scores, run_name(rank, seed), set_) for seed in params.sweep.seeds] for rank in ranks]
            means = [mean(seeds) for seeds in by_rank]
            base = accuracy(scores, "base", set_)
            bars = [_bar(results.tables["changes"], set_, rank) for rank in ranks]
            panel.axhline(base, color=GREY, linestyle="--", label="rank 0")
            beside = [place + 0.15 for place in places for _ in by_rank[place]]
            seeds = [score for scores_of_rank in by_rank for score in scores_of_rank]
            panel.plot(beside, seeds, color=ORANGE, marker=".", linestyle="", alpha=0.6, label="a seed")
            panel.errorbar(
                places,
                means,
                yerr=[[below for below, _ in bars], [above for _, above in bars]],
                color=BLUE,
                marker="o",
                capsize=2,
                label="mean, interval",
            )
            name = f"{item_name(set_.partition('.')[0], params)}, {language_name(set_, params)}"
            panel.set_xticks(places, [str(rank) for rank in ranks])
            panel.set_title(name)
            panel.set_xlabel("LoRA rank")
            panel.set_ylabel("accuracy, %")
            low, high = min(places, key=means.__getitem__), max(places, key=means.__getitem__)
            findings.append(
                f"{name}: {shown(base, 'percent')} % at rank 0, between {shown(means[low], 'percent')} % (rank "
                f"{ranks[low]}) and {shown(means[high], 'percent')} % (rank {ranks[high]}) after training"
            )
        for panel in axes[len(sets) :]:
            panel.set_visible(False)
        canvas.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=3)
    caption = (
        f"Accuracy against LoRA rank, {len(params.sweep.seeds)} seeds. Bars: {params.stats.confidence:.0%} "
        "cluster-bootstrap interval, over seeds and items, of the change against rank 0, which is the dashed line; not "
        f"corrected for their number. {said_of_items(params)}"
    ).rstrip()
    if any(CORRECTED in set_ for set_ in scores.sets("correct")):
        caption += " XCOPA's questions are those released."
    return canvas, caption, f"Accuracy by rank, a panel for each task and language. {'; '.join(findings)}."


def _bar(changes: Table, set_: str, rank: int) -> tuple[float, float]:
    """How far the interval of the mean change reaches below and above it; 0 where it has no end."""
    change, low, high = (changes.number(key, set=set_, rank=rank) for key in ("change", "low", "high"))
    if change is None:
        return 0.0, 0.0
    below = 0.0 if low is None else max(0.0, change - low)
    return below, 0.0 if high is None else max(0.0, high - change)
