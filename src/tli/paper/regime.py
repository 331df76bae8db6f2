"""The BOS regime beside the base as it is: what a dominant BOS state does to every layer's cosine, and to training.

In the regime the state of BOS is scaled up from one layer on and every other weight is left as it is
(model/attention_sink.py).
Feeds the full grid's tables `bos` (before any training) and `bos_trained`, and the figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tli.analysis.outcomes import Source
from tli.analysis.render import Cell, Column, Made, Table, shown
from tli.analysis.results import Measured, Rows, cell
from tli.analysis.views import interval
from tli.config.parameters import Params
from tli.measure.views import POOLINGS, layers
from tli.stats import t_tests
from tli.stats.descriptive import mean, spread

NAMES = {"plain": "as it is", "bos": "BOS massive"}


def means(scans: Sequence[Rows], view: str, measure: str) -> list[float]:
    """One value a base, over all pairs; of several random pairings their mean."""
    return [mean([*one.each("base", "all", view, measure).values()]) for one in scans]


def table(scans: Mapping[str, Sequence[Rows]], params: Params) -> Made:
    """Layer by layer in both regimes, before any training: norm ratio, cosines, P@1; mean and SD over bases."""
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    for where, some in scans.items():
        for layer in layers(params.active.model):
            bos, content = (means(some, f"{layer}.-.nf4", key) for key in ("bos_norm", "content_norm"))
            ratio = spread([a / b for a, b in zip(bos, content, strict=True)])
            for pooling in POOLINGS:
                view = f"{layer}.{pooling}.nf4"
                pairs, random = (means(some, view, key) for key in ("cosine_mean", "random_cosine_mean"))
                left = spread([a - b for a, b in zip(pairs, random, strict=True)])
                row: dict[str, Cell] = {"base": NAMES[where], "view": view, "ratio": ratio.mean}
                row |= {
                    "cosine": mean(pairs),
                    "random": mean(random),
                    "left": left.mean,
                    "sd": left.sd,
                }
                row["p1"] = mean(means(some, view, "p_at_1.sw_en"))
                rows.append(row)
                measured |= {f"bos.{where}.cosine.{view}": row["cosine"], f"bos.{where}.random.{view}": row["random"]}
            measured[f"bos.{where}.ratio.{layer}"] = ratio.mean
    made = Table(
        "bos",
        "A dominant BOS state, before any training",
        "Mean cosine of translations and of random pairs, all pairs, at every layer of the bases as they are and with "
        f"the BOS state scaled from layer {params.bos.layer} on to {params.bos.ratio:g} times the mean norm of the "
        "others, every other weight and every content token's state as before; left: translations − random, with its "
        f"SD over {len(params.sweep.base_seeds)} bases. No adapter: what differs between the regimes is BOS alone.",
        (
            Column("base", "base"),
            Column("view", "view"),
            Column("ratio", "BOS ÷ content", "number"),
            Column("cosine", "translation cosine", "similarity"),
            Column("random", "random cosine", "similarity"),
            Column("left", "left", "change"),
            Column("sd", "SD", "similarity"),
            Column("p1", "P@1 sw→en", "score"),
        ),
        rows,
    )
    return Made(made, measured)


MEASURES = {"cosine": "cosine_mean", "random": "random_cosine_mean", "p1": "p_at_1.sw_en"}


class Trained(NamedTuple):
    """An arm at one rank, layer by layer, all pairs: (before, after) of each base, the latter a mean over seeds."""

    arm: str
    regime: str
    values: Mapping[tuple[str, str], Sequence[tuple[float, float]]]  # (view, one of MEASURES or `ratio`)

    def change(self, view: str, measure: str) -> list[float]:
        """One value a base."""
        return [after - before for before, after in self.values[view, measure]]


def trained(found: Sequence[Source], arm: str, regime: str, rank: int, params: Params) -> Trained:
    """Reads what an arm's adapters of one rank do at every layer."""
    names = [cell(rank, seed) for seed in params.sweep.seeds]

    def both(source: Source, view: str, measure: str) -> tuple[float, float]:
        before = mean([*source.align.each("base", "all", view, measure).values()])
        rows = source.sweep.align[rank]
        return before, mean([mean([*rows.each(name, "all", view, measure).values()]) for name in names])

    values: dict[tuple[str, str], Sequence[tuple[float, float]]] = {}
    for layer in layers(params.active.model):
        ratios = []
        for source in found:
            bos, content = (both(source, f"{layer}.-.nf4", key) for key in ("bos_norm", "content_norm"))
            ratios.append((bos[0] / content[0], bos[1] / content[1]))
        for pooling in POOLINGS:
            view = f"{layer}.{pooling}.nf4"
            values[view, "ratio"] = ratios
            for key, measure in MEASURES.items():
                values[view, key] = [both(source, view, measure) for source in found]
    return Trained(arm, regime, values)


def trained_table(found: Sequence[Trained], rank: int, params: Params) -> Made:
    """Layer by layer, each arm in the regime beside the same arm on the base as it is: before and after training."""
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    notes: list[str] = []
    for one in found:
        for view in dict.fromkeys(view for view, _ in one.values):
            pairs, random = (one.change(view, key) for key in ("cosine", "random"))
            test = t_tests.paired(random, pairs, params.stats.confidence)
            row: dict[str, Cell] = {"base": NAMES[one.regime], "arm": one.arm, "view": view}
            for key in ("ratio", "cosine", "random", "p1"):
                for place, when in enumerate(("before", "after")):
                    row[f"{key}_{when}"] = mean([value[place] for value in one.values[view, key]])
            row |= {"left": test.gain, "low": test.low, "high": test.high}
            rows.append(row)
            notes.append(test.note)
            measured |= {f"bos.trained.{one.arm}.{key}.{view}": row[key] for key in ("left", "random_after")}
    count = len(params.sweep.base_seeds)
    made = Table(
        "bos_trained",
        "A dominant BOS state, after training",
        f"All pairs at rank {rank}, at every layer, each arm of the regime beside the arm of the same loss on the "
        f"bases as they are: mean over {count} bases of the mean over {len(params.sweep.seeds)} seeds. Left: gain of "
        f"translations less that of random pairs, with Student's interval over bases, uncorrected. What mask pooling "
        "shows and content pooling does not is BOS.",
        (
            Column("base", "base"),
            Column("arm", "arm"),
            Column("view", "view"),
            Column("ratio_before", "BOS ÷ content before", "number"),
            Column("ratio_after", "after", "number"),
            Column("cosine_before", "translation cosine before", "similarity"),
            Column("cosine_after", "after", "similarity"),
            Column("random_before", "random cosine before", "similarity"),
            Column("random_after", "after", "similarity"),
            Column("p1_before", "P@1 sw→en before", "score"),
            Column("p1_after", "after", "score"),
            Column("left", "left", "change"),
            *interval(params),
        ),
        rows,
        notes=[_said(found, params), *notes],
    )
    return Made(made, measured)


def _said(found: Sequence[Trained], params: Params) -> str:
    """What training does to translations and to random pairs at the layer that the loss reads, in one sentence."""
    parts = []
    for one in found:
        for pooling in POOLINGS:
            view = f"{params.train.layer}.{pooling}.nf4"
            if (view, "cosine") in one.values:
                gain, random = (shown(mean(one.change(view, key)), "change") for key in ("cosine", "random"))
                parts.append(f"{one.arm} at {view}: translations {gain}, random pairs {random}")
    return f"change of the cosine at the layer that the loss reads: {'; '.join(parts)}".replace("-", "−")
