"""Benchmark accuracy against LoRA rank, one panel per task and language."""

from __future__ import annotations

import math

from matplotlib.figure import Figure as Canvas

from tli.analysis.changes import swept_sets
from tli.analysis.results import Results, run_name
from tli.analysis.scores import AT_CHANCE, CORRECTED, accuracy, marked, said_of_items, set_name, swept_runs
from tli.analysis.table import Table, shown
from tli.config.parameters import Params
from tli.figures.drawing import BLUE, GREY, ORANGE, panels
from tli.stats.descriptive import mean


def figure(results: Results, params: Params) -> tuple[Canvas, str, str] | None:
    """Accuracy of every seed, their mean, and the interval of its change; None where the sweep was not scored.

    A panel shows the ranks at which its set was scored.
    The bars are the intervals of the table `changes`, moved up by the accuracy at rank 0.
    """
    scores, sets = results.of("score"), swept_sets(results, params)
    if not sets:
        return None
    columns = min(4, max(2, math.ceil(len(sets) / 2)))
    rows = math.ceil(len(sets) / columns)
    place_of = {rank: place for place, rank in enumerate(sorted(params.sweep.ranks))}
    findings, numbers = [], set()
    with panels(rows, columns, 3.3 * columns if columns < 3 else 2.4 * columns, 2.3 * rows) as (canvas, axes):
        for panel, scored in zip(axes, sets, strict=False):
            set_, by_rank = scored.set, dict[int, list[float]]()
            for rank, seed in swept_runs(scores, set_, params):
                by_rank.setdefault(rank, []).append(accuracy(scores, run_name(rank, seed), set_))
            ranks = sorted(by_rank)
            places = [place_of[rank] for rank in ranks]
            means = {rank: mean(by_rank[rank]) for rank in ranks}
            numbers |= {len(seeds) for seeds in by_rank.values()}
            base = accuracy(scores, "base", set_)
            bars = [_bar(results.tables["changes"], set_, rank) for rank in ranks]
            panel.axhline(base, color=GREY, linestyle="--", label="rank 0")
            beside = [place_of[rank] + 0.15 for rank in ranks for _ in by_rank[rank]]
            seeds = [score for rank in ranks for score in by_rank[rank]]
            panel.plot(beside, seeds, color=ORANGE, marker=".", linestyle="", alpha=0.6, label="a seed")
            panel.errorbar(
                places,
                [*means.values()],
                yerr=[[below for below, _ in bars], [above for _, above in bars]],
                color=BLUE,
                marker="o",
                capsize=2,
                label="mean, interval",
            )
            name = marked(set_name(set_, params), scored.at_chance)
            panel.set_xticks([*place_of.values()], [str(rank) for rank in place_of])
            panel.set_title(name)
            panel.set_xlabel("LoRA rank")
            panel.set_ylabel("accuracy, %")
            low, high = min(ranks, key=means.__getitem__), max(ranks, key=means.__getitem__)
            findings.append(
                f"{name}: {shown(base, 'percent')} % at rank 0, between {shown(means[low], 'percent')} % (rank "
                f"{low}) and {shown(means[high], 'percent')} % (rank {high}) after training"
            )
        for panel in axes[len(sets) :]:
            panel.set_visible(False)
        canvas.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=3)
    number = " to ".join(str(end) for end in sorted({min(numbers), max(numbers)}))
    caption = (
        f"Accuracy against LoRA rank, {number} seeds. Bars: {params.stats.confidence:.0%} "
        "cluster-bootstrap interval, over seeds and items, of the change against rank 0, which is the dashed line; not "
        f"corrected for their number. {said_of_items(params)}"
    ).rstrip()
    if any(CORRECTED in set_ for set_ in scores.sets("correct")):
        caption += " XCOPA's questions are those released."
    if any(scored.at_chance for scored in sets):
        caption += f" {AT_CHANCE.capitalize()}: no loss could show."
    return canvas, caption, f"Accuracy by rank, a panel for each task and language. {'; '.join(findings)}."


def _bar(changes: Table, set_: str, rank: int) -> tuple[float, float]:
    """How far the interval of the mean change reaches below and above it; 0 where it has no end."""
    change, low, high = (changes.number(key, set=set_, rank=rank) for key in ("change", "low", "high"))
    if change is None:
        return 0.0, 0.0
    below = 0.0 if low is None else max(0.0, change - low)
    return below, 0.0 if high is None else max(0.0, high - change)
