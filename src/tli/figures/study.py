"""The study: change of similarity and of the scores by LoRA rank and scaling, over bases."""

from __future__ import annotations

import math
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from tli.analysis.results import Results
from tli.analysis.scores import AT_CHANCE, marked, said_of_items, set_name
from tli.analysis.study import over_bases, study_of
from tli.analysis.table import Kind, shown
from tli.analysis.views import trained_view
from tli.config.parameters import Params
from tli.figures.drawing import BLUE, GREEN, GREY, ORANGE, panels
from tli.stats.t_tests import Paired

MARKS = ((BLUE, "o", "-"), (ORANGE, "s", "--"), (GREEN, "^", ":"))
Lines = Mapping[str, Mapping[int, Paired]]  # variant -> rank -> mean change over bases with its interval


def figure(results: Results, params: Params) -> tuple[Canvas, str, str] | None:
    """Mean over bases and its interval against the rank, a line for each variant; None without several ranks."""
    study = study_of(results, params)
    ranks = {name: study.params[name].sweep.ranks for name in [*study.effects][: len(MARKS)]}
    if not ranks:
        return None
    first = next(iter(ranks))
    sets, margins, findings = study.sets(first), params.stats.margins, []
    count = 1 + len(sets)
    with panels(math.ceil(count / 2), 2, 6.6, 2.3 * math.ceil(count / 2)) as (canvas, axes):
        similarity = {
            name: {
                rank: over_bases(study.excess(name, rank, "trained", trained_view(study.params[name])), params)
                for rank in of
            }
            for name, of in ranks.items()
        }
        findings.append(
            _draw(axes[0], similarity, "excess cosine, trained pairs", "change", margins.cosine, "cosine_change")
        )
        for panel, set_ in zip(axes[1:], sets, strict=False):
            accuracy = {
                name: {
                    rank: over_bases(study.change(name, rank, set_, "-", "accuracy").values, params)
                    for rank in study.ranks(name, set_)
                }
                for name in ranks
            }
            title = marked(set_name(set_, params), study.at_chance(first, set_))
            findings.append(_draw(panel, accuracy, title, "change, points", margins.accuracy, "points"))
        for panel in axes[count:]:
            panel.set_visible(False)
        canvas.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=len(ranks))
    caption = (
        "Change against rank 0 of the same base by LoRA rank and scaling: excess of the trained pairs' cosine over "
        f"random pairs, and accuracy. Means over bases; bars: {params.stats.confidence:.0%} t interval over bases, not "
        f"corrected for their number; grey: the declared margin. {said_of_items(params)}"
    ).rstrip()
    if any(study.at_chance(first, set_) for set_ in sets):
        caption += f" {AT_CHANCE.capitalize()}: no loss could show."
    return canvas, caption, f"Change by rank, a line for each scaling. {'; '.join(findings)}."


def _draw(panel: Axes, lines: Lines, title: str, label: str, margin: float, kind: Kind) -> str:
    """Draws a panel; returns in words at which rank each line is lowest."""
    lowest = []
    for number, ((name, by_rank), (colour, marker, line)) in enumerate(zip(lines.items(), MARKS, strict=False)):
        if not by_rank:
            continue
        means = [test.gain or 0.0 for test in by_rank.values()]
        below = [
            0.0 if test.low is None else mean - test.low for mean, test in zip(means, by_rank.values(), strict=True)
        ]
        places = [math.log2(rank) + 0.12 * (number - 1) for rank in by_rank]
        panel.errorbar(places, means, yerr=below, color=colour, marker=marker, linestyle=line, capsize=2, label=name)
        worst = min(by_rank, key=lambda rank: (by_rank[rank].gain or 0.0, rank))
        lowest.append(f"{name} is lowest at rank {worst} ({shown(by_rank[worst].gain, kind)})")
    ranks = sorted({rank for by_rank in lines.values() for rank in by_rank})
    panel.axhline(0, color=GREY, linewidth=0.8)
    panel.axhspan(-margin, margin, color=GREY, alpha=0.12, linewidth=0)
    panel.set_xticks([math.log2(rank) for rank in ranks], [str(rank) for rank in ranks])
    panel.set_xlabel("LoRA rank")
    panel.set_title(title)
    panel.set_ylabel(label)
    return f"{title}: {', '.join(lowest)}"
