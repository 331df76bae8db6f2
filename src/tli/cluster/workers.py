"""`tli plan --cluster`: predicts how long the sweep and the full grid take on a number of workers.

    seconds to train a variant    = adapters x (measured seconds of one) x layer of its loss / layer of the measured one
    seconds to measure a variant  = adapters x (measured seconds of one)

A stage occupies a worker for the sum over its adapters and for its start. A variant is trained before it is measured;
variants do not wait for each other. The longest begins first, on the worker that is free first.

The seconds of one adapter come from the last sweep on this machine (docs/costs/<model>/costs.json), or else, for the
shape of Llama-3.1-8B, from the benchmarks of docs/performance.md; the measuring then runs at the measured rate of
scoring. If neither exists, the time is unknown.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tli.commands import plan
from tli.config.parameters import MicroworldModel, Params
from tli.data.words import lexicon
from tli.io.structured import read_json

WORKERS = (1, 8, 64)
# Seconds of a process before its receipt begins: 20 minutes for the 190 of the full grid (docs/decisions/pipeline.md).
START = 6.0
STAGES = {"sweep-train": "training", "sweep-score": "measuring"}
TRAINING, SCORING = ("gpu train", "training"), ("gpu score",)  # names of benchmarks; the first one measured counts


class Seconds(NamedTuple):
    """Seconds to train and to measure one adapter, None if not measured, and where the figures come from."""

    train: float | None
    measure: float | None
    source: str


class Chain(NamedTuple):
    """Stages that run one after another: a variant on a base, or a rank of the sweep.

    Attributes:
        cells: the number of stages.
        adapters: the number of adapters that each stage handles.
        layers: the layer of the loss, divided by the layer of the measured training.
    """

    cells: int
    adapters: int
    layers: float


def arms(params: Params) -> list[str]:
    """Returns the names of the full grid's variants that the model can run.

    A partial model can run none; only the micro-world model has those of an attention sink (`sweep.bos_arms`).
    """
    if not params.active.model.whole:
        return []
    with_sink = params.sweep.bos_arms if isinstance(params.active.model, MicroworldModel) else ()
    return [*params.sweep.arms, *with_sink]


def chains(params: Params, loaded: Mapping[str, Params]) -> dict[str, list[Chain]]:
    """Returns the chains of the default sweep and of the full grid, by title.

    Args:
        params: the default parameters.
        loaded: the parameters of each variant in `arms(params)`.
    """
    seeds = len(params.sweep.seeds)
    bases = len(params.sweep.base_seeds) if isinstance(params.active.model, MicroworldModel) else 1
    grid = [
        Chain(2, len(params.arms[name].ranks) * seeds, changed.train.layer / params.train.layer)
        for _ in range(bases)
        for name, changed in loaded.items()
    ]
    sweep = {"sweep": [Chain(2, seeds, 1.0) for _ in params.sweep.ranks]}
    return sweep | ({f"full grid, {bases} bases" if bases > 1 else "every variant, 1 base": grid} if grid else {})


def seconds(params: Params, pairs: Path, results: Path, measured: Sequence[Path]) -> Seconds:
    """Returns the seconds to train and to measure one adapter of the default variant.

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
        return Seconds(60 * last["sweep-train"] / adapters, 60 * last["sweep-score"] / adapters, source)
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
    lengths = [chain.cells * START + chain.adapters * (chain.layers * train + measure) for chain in chains]
    free = [0.0] * workers
    for length in sorted(lengths, reverse=True):
        heapq.heapreplace(free, free[0] + length)
    return max(free) / 3600


def page(params: Params, loaded: Mapping[str, Params], pairs: Path, results: Path, measured: Sequence[Path]) -> str:
    """Returns the page that `tli plan --cluster` prints: stages, adapters, hours on 1, 8 and 64 workers, and sources.

    Args: as of `chains` and `seconds`.
    """
    adapter, planned = seconds(params, pairs, results, measured), _planned(params, pairs)
    memory = [f"{task} {planned[stage].memory / 1e9:.1f} GB" for stage, task in STAGES.items()]
    notes = [*_notes(adapter), f"Memory, computed from the model's shape: {', '.join(memory)}."]
    lines = [*_table(chains(params, loaded), adapter), "", *notes]
    return "\n".join([f"plan for a cluster, {params.model}", "", *lines])


def _table(rows: Mapping[str, Sequence[Chain]], adapter: Seconds) -> Iterator[str]:
    header = ("", "stages", "adapters", *(f"{number} worker{'s' if number > 1 else ''}" for number in WORKERS))
    lines = [header]
    known = adapter.train is not None and adapter.measure is not None
    for name, row in rows.items():
        times = [f"{hours(row, adapter, number):.2f} h" if known else "not measured" for number in WORKERS]
        lines.append((name, str(sum(chain.cells for chain in row)), str(sum(c.adapters for c in row)), *times))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()


def _notes(adapter: Seconds) -> Iterator[str]:
    train, measure = (
        "not measured" if value is None else f"{value:.1f} s" for value in (adapter.train, adapter.measure)
    )
    source = adapter.source or "none: this machine has no sweep yet, and no file of --measured contains the times"
    yield f"One adapter: training {train}, measuring {measure}; source: {source}."
    yield "Not counted: base models, their quantization, rank 0 and the queue. Formulas: src/tli/cluster/workers.py."
