"""One rank of the sweep with every seed, or one arm of the full grid: similarity and scores (stage: sweep-score).

Rank 0 is the base model, whose rows the stage base-rows writes. Feeds the rank-sweep, transfer-by-rank and controls
tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from tli.config.parameters import Params
from tli.data.words.lexicon import read_pairs
from tli.io import progress, resume
from tli.io.errors import UserError
from tli.io.rows import join_rows, write_rows
from tli.measure import pair_rows, scoring
from tli.measure.views import Cell, sweep_cell
from tli.model import checkpoint, lora


def run(
    pairs_path: Path,
    items_path: Path,
    quantized: Path,
    adapters: Path,
    ranks: Mapping[int, str],
    out: Path,
    params: Params,
    arm: str | None = None,
) -> None:
    """The `sweep-score` stage: OUT/similarity.tsv and OUT/score.tsv, the rows of every adapter under NF4."""
    cells = {}
    for rank, place in ranks.items():
        for seed in params.sweep.seeds:
            adapter = adapters / place / f"s{seed}"
            if (found := lora.scaling_and_rank(adapter)[1]) != rank:
                raise UserError(
                    f"{adapter / lora.SETTINGS}: r: expected {rank}, got {found}; run `dvc repro`, which trains it"
                )
            cells[sweep_cell(params, rank, seed, arm)] = adapter
    _measure(cells, pairs_path, items_path, quantized, out, params, every_layer=arm is not None)


def _measure(
    cells: Mapping[Cell, Path],
    pairs_path: Path,
    items_path: Path,
    quantized: Path,
    out: Path,
    params: Params,
    *,
    every_layer: bool,
) -> None:
    """Alignment and transfer rows of the model with each cell's adapter; an arm's at every layer (paper/regime.py)."""
    pairs, items = read_pairs(pairs_path), scoring.asked_items(items_path, params)
    folder, compute = quantized / "nf4", params.active.compute
    model: PreTrainedModel
    model, tokenizer = checkpoint.load(folder), checkpoint.tokenizer(folder)
    for adapter in cells.values():
        lora.hold(adapter, model)  # before anything is measured
    exam = scoring.prepare(items, tokenizer, compute.batch_size)

    def write(name: Cell, adapter: Path, piece: Path) -> None:
        measured = lora.load(model, adapter)
        rows = pair_rows.measure(name, pairs, measured, tokenizer, params, "nf4", every_layer=every_layer)
        write_rows(piece / pair_rows.FILE, rows)
        write_rows(piece / scoring.FILE, scoring.measure(name, exam, measured))
        lora.unload(measured)

    inputs = (pairs_path, items_path, quantized, *cells.values())
    choices = {"cells": [*cells], "measure": params.measure, "layer": params.train.layer, "compute": compute}
    choices["every_layer"] = every_layer
    ranks = ",".join(dict.fromkeys(str(name.rank) for name in cells))
    with resume.pieces(out, inputs, **choices) as finished:
        told = progress.progress(cells.items(), f"sweep-score r={ranks}", len(cells))
        made = [finished.piece(name.cell, partial(write, name, adapter)) for name, adapter in told]
        for file in (pair_rows.FILE, scoring.FILE):
            join_rows(out / file, [piece / file for piece in made])
