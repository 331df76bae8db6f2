"""What the sweep and the full grid would take on so many workers: `tli plan --cluster`, said before anything is queued.

    seconds of training an arm  = adapters x (seconds of one, measured) x layer of the arm's loss / layer measured
    seconds of measuring it     = adapters x (seconds of one, measured)

A cell takes a worker for the sum over its adapters and for its start. Training and measuring of an arm follow one
another, arms do not wait for one another: the longest goes first, to the worker that is free first. The seconds of one
adapter are of the last sweep here (docs/costs/<model>/costs.json); else, at Llama-3.1-8B's shape, of the benchmarks of
docs/performance.md, with measuring at the rate at which scoring was measured; else they are not known. Feeds no table.
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
TRAINING, SCORING = ("gpu train", "training"), ("gpu score",)  # the benchmarks' names, the first that was measured


class Seconds(NamedTuple):
    """Of one adapter, None where nothing measured it; and where each figure is from."""

    train: float | None
    measure: float | None
    source: str


class Chain(NamedTuple):
    """Cells that follow one another: an arm on a base, or a rank of the sweep."""

    cells: int
    adapters: int
    layers: float  # of the loss, in units of the layer that was measured


def arms(params: Params) -> list[str]:
    """The full grid's arms that a profile can have: a part of a model none, a published model none in a BOS regime."""
    if not params.active.model.whole:
        return []
    own = params.sweep.bos_arms if isinstance(params.active.model, MicroworldModel) else ()
    return [*params.sweep.arms, *own]


def chains(params: Params, loaded: Mapping[str, Params]) -> dict[str, list[Chain]]:
    """The default sweep's chains and the full grid's. `loaded`: the parameters of each of `arms`."""
    seeds = len(params.sweep.seeds)
    bases = len(params.sweep.base_seeds) if isinstance(params.active.model, MicroworldModel) else 1
    grid = [
        Chain(2, len(params.arms[name].ranks) * seeds, own.train.layer / params.train.layer)
        for _ in range(bases)
        for name, own in loaded.items()
    ]
    found = {"sweep": [Chain(2, seeds, 1.0) for _ in params.sweep.ranks]}
    return found | ({f"full grid, {bases} bases" if bases > 1 else "every arm, 1 base": grid} if grid else {})


def seconds(params: Params, pairs: Path, results: Path, measured: Sequence[Path]) -> Seconds:
    """What one adapter of the default arm takes to train and to measure."""
    last = plan.minutes(results)
    if {"sweep-train", "sweep-score"} <= last.keys():
        known = read_json(results / "costs.json")
        per = len(params.sweep.seeds) * sum(name.startswith("sweep-train@") for name in known["stages"])
        return Seconds(60 * last["sweep-train"] / per, 60 * last["sweep-score"] / per, "the last sweep here")
    lines = {
        each["extra_info"]["name"]: each["extra_info"]
        for path in measured
        for each in read_json(path)["benchmarks"]
        if "name" in each["extra_info"]
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
    """Stage -> its planned cost."""
    sets = [pair.set for pair in lexicon.read_pairs(pairs)]
    return {one.stage: one for one in plan.costs(params, sets.count("trained"), sets.count("control"))}


def hours(found: Sequence[Chain], one: Seconds, workers: int) -> float:
    """Hours until the last chain is through, the longest begun first, each on the worker that is free first."""
    train, measure = one.train or 0.0, one.measure or 0.0
    lengths = [chain.cells * START + chain.adapters * (chain.layers * train + measure) for chain in found]
    free = [0.0] * workers
    for length in sorted(lengths, reverse=True):
        heapq.heapreplace(free, free[0] + length)
    return max(free) / 3600


def page(params: Params, loaded: Mapping[str, Params], pairs: Path, results: Path, measured: Sequence[Path]) -> str:
    """Cells, adapters and hours on 1, 8 and 64 workers, and what the figures rest on."""
    one, planned = seconds(params, pairs, results, measured), _planned(params, pairs)
    memory = [f"{what} {planned[stage].memory / 1e9:.1f} GB" for stage, what in STAGES.items()]
    lines = [*_table(chains(params, loaded), one), "", *_said(one), f"Memory by shape: {', '.join(memory)}."]
    return "\n".join([f"plan for a cluster, {params.model}", "", *lines])


def _table(found: Mapping[str, Sequence[Chain]], one: Seconds) -> Iterator[str]:
    header = ("", "cells", "adapters", *(f"{number} worker{'s' if number > 1 else ''}" for number in WORKERS))
    lines = [header]
    for name, own in found.items():
        known = one.train is not None and one.measure is not None
        times = [f"{hours(own, one, number):.2f} h" if known else "not measured" for number in WORKERS]
        lines.append((name, str(sum(each.cells for each in own)), str(sum(each.adapters for each in own)), *times))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()


def _said(one: Seconds) -> Iterator[str]:
    shown = ["not measured" if value is None else f"{value:.1f} s" for value in (one.train, one.measure)]
    source = one.source or "nothing: no sweep was run here, and no file of --measured has it"
    yield f"One adapter: training {shown[0]}, measuring {shown[1]}; from {source}."
    yield "Bases, their packing, rank 0 and the queue are not counted; formulas in src/tli/cluster/workers.py."
