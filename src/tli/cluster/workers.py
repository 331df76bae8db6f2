"""`tli plan --cluster`: predicts how long the sweep and the study take on a number of workers.

    seconds to train a variant    = adapters x (measured seconds of one) x layer of its loss / layer of the measured one
    seconds to measure a variant  = adapters x (measured seconds of one)
    seconds of a key of the study = its base (measured seconds of its stages), its training and its measuring

A stage occupies a worker for the sum over its adapters and for its start. A rank of the sweep is trained before it is
measured; neither ranks nor keys of the study wait for each other. The longest begins first, on the worker that is free
first.

The seconds of a base and of one adapter come from the last run on this machine (docs/costs/<model>/costs.json). If it
had no sweep, those of an adapter come from the benchmarks of docs/performance.md, for the shape of Llama-3.1-8B; the
measuring then runs at the measured rate of scoring. If neither exists, the time is unknown.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tli.commands import plan
from tli.config import study
from tli.config.parameters import STUDIED, Params
from tli.data.words import lexicon
from tli.io.structured import read_json

WORKERS = (1, 8, 64)
# Seconds of a process before its receipt begins: 20 minutes for 190 of them (docs/decisions/pipeline.md).
START = 6.0
STAGES = {"sweep-train": "training", "sweep-score": "measuring"}
OF_BASE = ("microworld", "base", "benchmarks", "quantize", "base-rows")  # stages that every key of the study runs
TRAINING, SCORING = ("gpu train", "training"), ("gpu score",)  # names of benchmarks; the first one measured counts


class Seconds(NamedTuple):
    """Seconds to train and to measure one adapter, None if not measured; where they come from; seconds of a base."""

    train: float | None
    measure: float | None
    source: str
    base: float = 0.0


class Chain(NamedTuple):
    """Stages that run one after another: a key of the study, or a rank of the sweep.

    Attributes:
        tasks: the number of stages.
        adapters: the number of adapters that each stage handles.
        layers: the layer of the loss, divided by the layer of the measured training.
        bases: the number of bases that they make and measure.
    """

    tasks: int
    adapters: int
    layers: float
    bases: int = 0


def chains(params: Params) -> dict[str, list[Chain]]:
    """Returns the chains of the sweep and, for the micro-world's model, of every key of the study, by title."""
    seeds = len(params.sweep.seeds)
    sweep = {"sweep": [Chain(2, seeds, 1.0) for _ in params.sweep.ranks]}
    if params.model != STUDIED:
        return sweep
    variants = {name: params.of_variant(name) for name in params.variants}
    keys = [
        Chain(1, len(changed.sweep.ranks) * seeds, changed.train.layer / params.train.layer, bases=1)
        for changed in (variants[key.variant] for key in study.keys(params))
    ]
    return sweep | {f"study, all {len(keys)} keys": keys}


def seconds(params: Params, pairs: Path, results: Path, measured: Sequence[Path]) -> Seconds:
    """Returns the seconds to train and to measure one adapter of the paper's configuration, and those of a base.

    Args:
        params: the default parameters.
        pairs: the word list.
        results: the folder docs/costs/<model>.
        measured: JSON files of pytest-benchmark.
    """
    last = plan.minutes(results)
    if {"sweep-train", "sweep-score"} <= last.keys():
        costs = read_json(results / "costs.json")
        adapters = len(params.sweep.seeds) * sum(name.startswith("sweep-train@") for name in costs["stages"])
        source = "the last sweep on this machine"
        base = 60 * sum(last.get(stage, 0.0) for stage in OF_BASE)
        return Seconds(60 * last["sweep-train"] / adapters, 60 * last["sweep-score"] / adapters, source, base)
    lines = {
        benchmark["extra_info"]["name"]: benchmark["extra_info"]
        for path in measured
        for benchmark in read_json(path)["benchmarks"]
        if "name" in benchmark["extra_info"]
    }
    train = next((lines[name] for name in TRAINING if name in lines), None)
    score = next((lines[name] for name in SCORING if name in lines), None)
    runs = len(params.sweep.ranks) * len(params.sweep.seeds)
    return Seconds(
        train["seconds"] if train else None,
        _planned(params, pairs)["sweep-score"].flop / runs / (score["flop"] / score["seconds"]) if score else None,
        "; ".join(f"{line['table']}: {line['line']}" for line in (train, score) if line),
    )


def _planned(params: Params, pairs: Path) -> dict[str, plan.Cost]:
    """Stage -> its planned cost (commands/plan.py)."""
    sets = [pair.set for pair in lexicon.read_pairs(pairs)]
    return {cost.stage: cost for cost in plan.costs(params, sets.count("trained"), sets.count("control"))}


def hours(chains: Sequence[Chain], adapter: Seconds, workers: int) -> float:
    """Returns the hours until the last chain ends. The longest begins first, each on the worker that is free first.

    Args:
        chains: what to run.
        adapter: the seconds of one adapter; an unknown time counts as 0.
        workers: how many chains run at a time.
    """
    train, measure = adapter.train or 0.0, adapter.measure or 0.0
    lengths = [
        chain.tasks * START + chain.bases * adapter.base + chain.adapters * (chain.layers * train + measure)
        for chain in chains
    ]
    free = [0.0] * workers
    for length in sorted(lengths, reverse=True):
        heapq.heapreplace(free, free[0] + length)
    return max(free) / 3600


def page(params: Params, pairs: Path, results: Path, measured: Sequence[Path]) -> str:
    """Returns the page that `tli plan --cluster` prints: stages, adapters, hours on 1, 8 and 64 workers, and sources.

    Args: as of `seconds`.
    """
    adapter, planned = seconds(params, pairs, results, measured), _planned(params, pairs)
    memory = [f"{task} {planned[stage].memory / 1e9:.1f} GB" for stage, task in STAGES.items()]
    notes = [*_notes(adapter), f"Memory, computed from the model's shape: {', '.join(memory)}."]
    lines = [*_table(chains(params), adapter), "", *notes]
    return "\n".join([f"plan for a cluster, {params.model}", "", *lines])


def _table(rows: Mapping[str, Sequence[Chain]], adapter: Seconds) -> Iterator[str]:
    header = ("", "stages", "adapters", *(f"{number} worker{'s' if number > 1 else ''}" for number in WORKERS))
    lines = [header]
    known = adapter.train is not None and adapter.measure is not None
    for name, row in rows.items():
        times = [f"{hours(row, adapter, number):.2f} h" if known else "not measured" for number in WORKERS]
        lines.append((name, str(sum(chain.tasks for chain in row)), str(sum(c.adapters for c in row)), *times))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()


def _notes(adapter: Seconds) -> Iterator[str]:
    train, measure = (
        "not measured" if value is None else f"{value:.1f} s" for value in (adapter.train, adapter.measure)
    )
    source = adapter.source or "none: this machine has no sweep yet, and no file of --measured contains the times"
    yield f"One adapter: training {train}, measuring {measure}; source: {source}."
    yield "Not counted: the sweep's base model and rank 0, and the queue. Formulas: src/tli/cluster/workers.py."
