"""The full grid's figures: rank by scaling on alignment and on transfer, the arms at one rank, the BOS regime.

Drawn as the default's figures are (drawing.py): the same style, SVG without a date, shape and line saying what colour
says. Dots and lines are means over bases, bars Student's interval over bases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from tli.analysis.render import Figure, shown
from tli.analysis.results import Rows
from tli.analysis.scores import item_name, language_name, said_of_items
from tli.config.parameters import Params
from tli.figures.drawing import BLUE, GREEN, GREY, ORANGE, STYLE, panels, svg
from tli.io.files import atomic_dir, write_text
from tli.measure.views import POOLINGS, layers
from tli.paper.arms import Arm, common_rank
from tli.paper.regime import NAMES, means
from tli.stats import t_tests
from tli.stats.descriptive import mean

MARKS = ((BLUE, "o", "-"), (ORANGE, "s", "--"), (GREEN, "^", ":"))
Drawn = tuple[Canvas, str, str]


def write(folder: Path, arms: Sequence[Arm], scans: Mapping[str, Sequence[Rows]], params: Params) -> list[Figure]:
    """Draws every figure into a new folder; returns file names, captions and texts for who cannot see them."""
    scalings = [one for one in arms if len(one.ranks) > 1][: len(MARKS)]
    made: list[Figure] = []
    with atomic_dir(folder) as into, style.context(["default", STYLE]):
        drawn: dict[str, Drawn] = {"bos": bos_figure(scans, params)}
        if scalings:
            drawn = {
                "rank_alignment": alignment_figure(scalings, params),
                "rank_transfer": transfer_figure(scalings, params),
                **drawn,
            }
        drawn["arms"] = arms_figure(arms, params)
        for name, (canvas, caption, alt) in drawn.items():
            write_text(into / f"{name}.svg", svg(canvas))
            made.append(Figure(f"{name}.svg", caption, alt))
    return made


def _line(panel: Axes, arm: Arm, values: Mapping[int, Sequence[float]], number: int, params: Params) -> None:
    """Mean and interval over bases against rank, the arms side by side."""
    colour, marker, line = MARKS[number]
    tests = [t_tests.paired([0.0] * len(some), some, params.stats.confidence) for some in values.values()]
    middle = [test.gain or 0.0 for test in tests]
    below = [0.0 if test.low is None else centre - test.low for centre, test in zip(middle, tests, strict=True)]
    places = [place + 0.12 * (number - 1) for place in range(len(middle))]
    panel.errorbar(
        places,
        middle,
        yerr=below,
        color=colour,
        marker=marker,
        linestyle=line,
        capsize=2,
        elinewidth=0.7,
        label=arm.name,
    )
    panel.axhline(0, color=GREY, linewidth=0.8)
    panel.set_xticks(range(len(values)), [str(rank) for rank in values])
    panel.set_xlabel("LoRA rank")


def _level(params: Params) -> str:
    return f"{100 * params.stats.confidence:.9g} %"


def alignment_figure(arms: Sequence[Arm], params: Params) -> Drawn:
    """Gain left after random pairs, and change of P@1, against rank by scaling, BOS in and out."""
    layer = arms[0].view.partition(".")[0]
    said = []
    with panels(2, 2, 6.6, 4.6) as (canvas, axes):
        for column, pooling in enumerate(POOLINGS):
            view = f"{layer}.{pooling}.nf4"
            for number, arm in enumerate(arms):
                left = {rank: arm.left(rank, "trained", view, "cosine") for rank in arm.ranks}
                hits = {rank: arm.gain(rank, "all", view, "sw_en") for rank in arm.ranks}
                _line(axes[column], arm, left, number, params)
                _line(axes[2 + column], arm, hits, number, params)
                ends = [mean(left[rank]) for rank in (arm.ranks[0], arm.ranks[-1])]
                said.append(
                    f"{arm.name} at {view} leaves {shown(ends[0], 'change')} at rank {arm.ranks[0]} and "
                    f"{shown(ends[1], 'change')} at rank {arm.ranks[-1]}"
                )
            axes[column].set_title(f"{view} (BOS {'in' if pooling == 'mask' else 'out'})")
        axes[0].set_ylabel("gain − gain of random pairs")
        axes[2].set_ylabel("change of P@1 sw→en")
        canvas.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=len(arms))
    caption = (
        "Alignment against LoRA rank by scaling: the gain in cosine of trained pairs that random pairs do not share "
        f"(above) and the change of P@1 among all pairs (below), against rank 0 of the same base. Means over "
        f"{len(params.sweep.base_seeds)} bases, bars: {_level(params)} t interval over bases."
    )
    return canvas, caption, f"Four panels of change against rank, a line a scaling: {'; '.join(said)}."


def transfer_figure(arms: Sequence[Arm], params: Params) -> Drawn:
    """Change of accuracy against rank by scaling, a panel a task and language."""
    sets = list(dict.fromkeys(set_ for _, set_ in arms[0].transfer))
    said = []
    columns = 2 if len(sets) < 5 else 4
    rows = -(-len(sets) // columns)
    with panels(max(1, rows), columns, 3.3 * columns if columns < 3 else 2.4 * columns, 2.3 * max(1, rows)) as drawn:
        canvas, axes = drawn
        for panel, set_ in zip(axes, sets, strict=False):
            for number, arm in enumerate(arms):
                values = {rank: arm.transfer[rank, set_] for rank in arm.ranks}
                _line(panel, arm, values, number, params)
                worst = min(values, key=lambda rank: mean(values[rank]))
                said.append(f"{set_} with {arm.name} is lowest at rank {worst}, {shown(mean(values[worst]), 'points')}")
            margin = params.stats.margins.accuracy
            panel.axhspan(-margin, margin, color=GREY, alpha=0.12, linewidth=0)
            task = item_name(set_.partition(".")[0], params)
            panel.set_title(f"{task}, {language_name(set_, params)}")
            panel.set_ylabel("change, points")
        for panel in axes[len(sets) :]:
            panel.set_visible(False)
        if sets:
            canvas.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=len(arms))
    caption = (
        f"Change of accuracy against rank 0 of the same base by LoRA rank and scaling. Means over "
        f"{len(params.sweep.base_seeds)} bases, bars: {_level(params)} t interval over bases, not corrected for their "
        f"number; grey: the declared margin. {said_of_items(params)}"
    ).rstrip()
    return canvas, caption, f"A panel a task and language, a line a scaling: {'; '.join(said)}."


def arms_figure(arms: Sequence[Arm], params: Params) -> Drawn:
    """Every arm at the paper's rank: gain left after random pairs at the view of its own loss, and change of P@1."""
    rank = common_rank(params)
    chosen = [one for one in arms if rank in one.ranks]
    places = range(len(chosen), 0, -1)
    said = []
    with panels(1, 2, 6.6, 0.9 + 0.24 * len(chosen)) as (canvas, axes):
        for place, one in zip(places, chosen, strict=True):
            for panel, values in (
                (axes[0], one.left(rank, "trained", one.view, "cosine")),
                (axes[1], one.gain(rank, "all", one.view, "sw_en")),
            ):
                test = t_tests.paired([0.0] * len(values), values, params.stats.confidence)
                centre = test.gain or 0.0
                half = 0.0 if test.low is None else centre - test.low
                panel.plot(values, [place] * len(values), color=ORANGE, marker=".", linestyle="", alpha=0.6)
                panel.errorbar(centre, place, xerr=half, color=BLUE, marker="o", capsize=2)
            left = mean(one.left(rank, "trained", one.view, "cosine"))
            said.append(f"{one.name} leaves {shown(left, 'change')}")
        for panel in axes:
            panel.axvline(0, color=GREY, linewidth=0.8)
            panel.set_ylim(0.4, len(chosen) + 0.6)
        axes[0].set_yticks(places, [f"{one.name} ({one.view.rpartition('.')[0]})" for one in chosen])
        axes[1].set_yticks(places, [""] * len(chosen))
        axes[0].set_xlabel("gain − gain of random pairs, trained pairs")
        axes[1].set_xlabel("change of P@1 sw→en, all pairs")
    caption = (
        f"Every arm at rank {rank}, at the layer and pooling that its loss reads (in brackets), against rank 0 of the "
        f"same base and regime. Orange: a base, the mean over its seeds; blue: the mean over "
        f"{len(params.sweep.base_seeds)} bases with its {_level(params)} t interval."
    )
    return canvas, caption, f"Two dot plots, a line an arm: {'; '.join(said)}."


def bos_figure(scans: Mapping[str, Sequence[Rows]], params: Params) -> Drawn:
    """Cosine of translations and of random pairs by layer, in both regimes, BOS in; beside it BOS out."""
    names = layers(params.active.model)
    places = range(len(names))
    said = []
    with panels(1, 2, 6.6, 2.8) as (canvas, axes):
        for panel, pooling in zip(axes, POOLINGS, strict=True):
            for (where, some), (colour, marker, _) in zip(scans.items(), MARKS, strict=False):
                for measure, line, what in (
                    ("cosine_mean", "-", "translations"),
                    ("random_cosine_mean", ":", "random"),
                ):
                    means_ = [mean(means(some, f"{layer}.{pooling}.nf4", measure)) for layer in names]
                    panel.plot(
                        places, means_, color=colour, marker=marker, linestyle=line, label=f"{what}, {NAMES[where]}"
                    )
                    low = min(means_)
                    said.append(
                        f"{what}, base {NAMES[where]}, {pooling} pooling: lowest {shown(low, 'similarity')} at layer "
                        f"{names[means_.index(low)]}"
                    )
            panel.set_title(f"{pooling} pooling, NF4 (BOS {'in' if pooling == 'mask' else 'out'})")
            step = -(-len(names) // 12)
            panel.set_xticks([*places][::step], names[::step])
            panel.set_xlabel("layer")
            panel.set_ylim(-0.05, 1.05)
        axes[0].set_ylabel("mean cosine, all pairs")
        canvas.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=2)
    caption = (
        "Mean cosine by layer before any training, bases as they are and with a massive BOS state from layer "
        f"{params.bos.layer} on, mean over {len(params.sweep.base_seeds)} bases. Left: BOS in the pool; right: out."
    )
    return canvas, caption, f"Two line plots by layer: {'; '.join(said)}."
