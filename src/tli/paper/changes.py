"""Transfer rank by rank against rank 0: changes with intervals, margins, calibration, gap and forgetting.

Feeds the tables `changes`, `calibration` and `gap`, and the figure of accuracy against rank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tli.analysis.outcomes import Array, Source, Values, by_item, scope, tidy
from tli.analysis.render import Cell, Column, Made, Table
from tli.analysis.results import Measured
from tli.analysis.scores import SCORING, TASKS, item_name, language_name, languages, said_of_items
from tli.config.parameters import Params
from tli.stats.bootstrap import Bootstrap, cluster_bootstrap
from tli.stats.calibration import Calibration
from tli.stats.calibration import calibration as calibrated
from tli.stats.descriptive import spread
from tli.stats.power import detectable_flips
from tli.stats.transfer_change import TransferChange, transfer_change
from tli.stats.trend import Key

PIECES = {"english": "source_change", "targets": "target_change", "worst": "worst_change", "gap": "gap_after"}


class Task(NamedTuple):
    """A task's sets, as released, with what every item of each gave in every model."""

    task: str
    right: Mapping[str, Values]  # language -> 0 or 1
    margin: Mapping[str, Values]  # nats
    label: Mapping[str, Values]
    scores: Mapping[str, Sequence[Values]]  # one an option, nats


def tasks(sources: Sequence[Source], params: Params) -> list[Task]:
    """The tasks that were scored."""
    found = []
    for task in TASKS:
        names = languages(sources[0].transfer, task)
        sets = {name: f"{task}.{name}" for name in names}
        right, margin, label = (
            {name: by_item(sources, set_, measure, params) for name, set_ in sets.items()}
            for measure in ("correct", "margin", "label")
        )
        options = {"xcopa": 2, "xnli": 3}[task]
        scores = {
            name: [by_item(sources, set_, f"loglik.{option}", params) for option in range(options)]
            for name, set_ in sets.items()
        }
        found += [Task(task, right, margin, label, scores)] if names else []
    return found


Drawn = dict[tuple[str, int], Bootstrap]  # (set, rank) -> the change of accuracy in points


def drawn(found: Sequence[Task], params: Params) -> Drawn:
    """The cluster bootstrap of every rank's change of accuracy, for the table and the figure."""
    return {
        (f"{one.task}.{language}", rank): bootstrap(values, rank, 100.0, params)
        for one in found
        for language, values in one.right.items()
        for rank in values.ranks
    }


def bootstrap(values: Values, rank: int, scale: float, params: Params) -> Bootstrap:
    """The cluster bootstrap of a rank's mean change, times `scale`: over bases, seeds and the items' premises."""
    chosen = params.stats
    return cluster_bootstrap(
        {key: scale * x for key, x in values.changes(rank).items()},
        draws=chosen.bootstrap.draws,
        seed=chosen.bootstrap.seed,
        confidence=chosen.confidence,
        groups=values.groups,
    )


def flipped(changes: Mapping[tuple[int, int], Array], way: int) -> float:
    """Percent of the items of a model that flip to right (1) or to wrong (-1), the mean over models."""
    return 100 * float(np.mean([np.maximum(way * x, 0.0).mean() for x in changes.values()]))


def changes(found: Sequence[Task], intervals: Drawn, params: Params) -> Made:
    """Change of accuracy and of the margin at each rank, and the smallest that McNemar's test would have found."""
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    notes = []
    for one in found:
        for language, right in one.right.items():
            set_ = f"{one.task}.{language}"
            for rank in right.ranks:
                accuracy, margin = intervals[set_, rank], bootstrap(one.margin[language], rank, 1.0, params)
                won, lost = (flipped(right.changes(rank), way) for way in (1, -1))
                each = next(iter(right.start.values())).size
                smallest = detectable_flips(each, (won + lost) / 100, params.stats.alpha, params.stats.power)
                seen = None if smallest.effect is None else 100 * smallest.effect
                row: dict[str, Cell] = {"task": item_name(one.task, params), "language": language_name(set_, params)}
                row |= {
                    "rank": rank,
                    "change": tidy(accuracy.estimate),
                    "low": tidy(accuracy.low),
                    "high": tidy(accuracy.high),
                }
                row |= {"won": won, "lost": lost, "detectable": seen, "margin": margin.estimate}
                rows.append(row | {"margin_low": margin.low, "margin_high": margin.high})
                notes += [*scope(accuracy.note), *scope(margin.note), smallest.note]
                measured[f"sweep.r{rank}.margin_change.{set_}"] = margin.estimate
    percent = f"{100 * params.stats.confidence:.9g} %"
    over = "bases, seeds" if found and len(next(iter(found[0].right.values())).start) > 1 else "seeds"
    table = Table(
        "changes",
        "Transfer by language and rank, with intervals",
        f"Change against rank 0, the mean over {over}, with the {percent} interval of the cluster bootstrap over "
        f"{over} and items: of the accuracy in points, and of the margin, log p(right option) − highest log p of the "
        "others, in nats. Items that share a premise are drawn together. Won, lost: percent of items that turn right, "
        "that turn wrong, a model; detectable: the smallest change that the exact McNemar test of one model, which "
        "takes items as independent, would have found with as many flips, power "
        f"{params.stats.power:g}. Intervals are not corrected for their number. {said_of_items(params)}".rstrip(),
        (
            Column("task", "task"),
            Column("language", "language"),
            Column("rank", "rank", "count"),
            Column("change", "change", "points"),
            Column("low", f"{percent} low", "points"),
            Column("high", f"{percent} high", "points"),
            Column("won", "won", "percent"),
            Column("lost", "lost", "percent"),
            Column("detectable", "detectable", "percent"),
            Column("margin", "margin change", "change"),
            Column("margin_low", f"{percent} low", "change"),
            Column("margin_high", f"{percent} high", "change"),
        ),
        rows,
        view=SCORING,
        notes=notes,
    )
    return Made(table, measured)


def calibration(found: Sequence[Task], params: Params) -> Made:
    """ECE and Brier score over the options, rank 0 and each rank."""
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    for one in found:
        for language, options in one.scores.items():
            set_, label = f"{one.task}.{language}", one.label[language]
            first: dict[str, Cell] = {"task": item_name(one.task, params), "language": language_name(set_, params)}
            at_zero = [_calibrated([x.start[b] for x in options], label.start[b]) for b in label.start]
            rows.append({**first, "rank": 0, "models": len(at_zero), **_calibration(at_zero)})
            for name in ("ece", "brier"):
                measured[f"transfer.{set_}.base.{name}"] = rows[-1][name]
            for rank in label.ranks:
                models = [key for key in label.tuned if key[2] == rank]
                some = [_calibrated([x.tuned[key] for x in options], label.tuned[key]) for key in models]
                rows.append({**first, "rank": rank, "models": len(some), **_calibration(some)})
                for name in ("ece", "brier"):
                    measured[f"sweep.r{rank}.{name}.{set_}"] = rows[-1][name]
    table = Table(
        "calibration",
        "Calibration by language and rank",
        "Softmax over the log-likelihoods of an item's options as probabilities: confidence, the mean probability of "
        "the chosen option; accuracy; expected calibration error over 15 equal bins (0 is best); Brier score, summed "
        f"over options (0 to 2, 0 is best). Mean and SD over the models of a rank. {said_of_items(params)}".rstrip(),
        (
            Column("task", "task"),
            Column("language", "language"),
            Column("rank", "rank", "count"),
            Column("models", "models", "count"),
            Column("confidence", "confidence", "score"),
            Column("accuracy", "accuracy", "score"),
            Column("ece", "ECE", "score"),
            Column("ece_sd", "SD", "score"),
            Column("brier", "Brier", "score"),
            Column("brier_sd", "SD", "score"),
        ),
        rows,
        view=SCORING,
    )
    return Made(table, measured)


def _calibrated(options: Sequence[Array], label: Array) -> Calibration:
    return calibrated(np.column_stack(options), label.astype(np.int64))


def _calibration(some: Sequence[Calibration]) -> dict[str, Cell]:
    cells: dict[str, Cell] = {}
    for name in ("confidence", "accuracy", "ece", "brier"):
        over = spread([value for one in some if (value := getattr(one, name)) is not None])
        cells |= {name: over.mean} | ({f"{name}_sd": over.sd} if name in ("ece", "brier") else {})
    return cells


def gap(found: Sequence[Task], params: Params) -> Made:
    """Forgetting, change of the targets, worst target language, transfer gap and margin, rank by rank."""
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    notes = []
    for one in found:
        first: dict[str, Cell] = {"task": item_name(one.task, params)}
        ranks = next(iter(one.right.values())).ranks
        for rank in ranks:
            models = [key for key in next(iter(one.right.values())).tuned if key[2] == rank]
            some = [_transfer_change(one, key) for key in models]
            notes += [x.note for x in some]
            notes += ["one target language: the worst is the mean"] if len(one.right) == 2 else []
            row: dict[str, Cell] = {**first, "rank": rank, "models": len(some)}
            for name, field in PIECES.items():
                over = spread([100 * value for x in some if (value := getattr(x, field)) is not None])
                row |= {name: tidy(over.mean), f"{name}_sd": over.sd}
                measured[f"sweep.r{rank}.{field}.{one.task}"] = over.mean
            margins = spread([x.margin_change for x in some if x.margin_change is not None])
            named = Counter(x.worst_language for x in some if x.worst_language is not None)
            before = spread([100 * x.gap_before for x in some if x.gap_before is not None]).mean
            row |= {"gap_before": tidy(before), "margin": margins.mean, "margin_sd": margins.sd}
            most = min(named, key=lambda name: (-named[name], name)) if named else None
            rows.append(row | {"language": None if most is None else language_name(f"{one.task}.{most}", params)})
    table = Table(
        "gap",
        "Forgetting and transfer gap by rank",
        "Against rank 0, in points of accuracy, mean and SD over the models of a rank: the change in English (below "
        "0: forgetting), the mean change of the target languages, the lowest change among them, model by model, "
        "and the language that has it most often; the transfer gap (English − mean of the targets) of rank 0 and of "
        f"the rank; the mean change of the targets' margin in nats. {said_of_items(params)}".rstrip(),
        (
            Column("task", "task"),
            Column("rank", "rank", "count"),
            Column("models", "models", "count"),
            Column("english", "English", "points"),
            Column("english_sd", "SD", "percent"),
            Column("targets", "targets", "points"),
            Column("targets_sd", "SD", "percent"),
            Column("worst", "worst target", "points"),
            Column("worst_sd", "SD", "percent"),
            Column("language", "worst language"),
            Column("gap_before", "gap, rank 0", "points"),
            Column("gap", "gap", "points"),
            Column("gap_sd", "SD", "percent"),
            Column("margin", "margin change", "change"),
            Column("margin_sd", "SD", "similarity"),
        ),
        rows,
        view=SCORING,
        notes=notes,
    )
    return Made(table, measured)


def _transfer_change(one: Task, key: Key) -> TransferChange:
    """One adapter against its own base, over the task's languages."""
    before = {name: values.start[key[0]] for name, values in one.right.items()}
    after = {name: values.tuned[key] for name, values in one.right.items()}
    margins = (
        {name: values.start[key[0]] for name, values in one.margin.items()},
        {name: values.tuned[key] for name, values in one.margin.items()},
    )
    return transfer_change(_right(before), _right(after), *margins)


def _right(values: Mapping[str, Array]) -> dict[str, NDArray[np.bool_]]:
    return {name: value == 1 for name, value in values.items()}
