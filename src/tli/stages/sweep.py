"""The rank sweep: training, alignment and transfer over ranks, seeds and arms (stages: sweep-train@…, sweep-eval@…).

A cell of the default pipeline is one rank with all seeds of params.yaml, in one process; a cell of the full grid one
arm with all its ranks and seeds, on one further base. Rank 0 is the base model, whose rows the stage base-rows writes.
Feeds the rank-sweep, transfer-by-rank and controls tables.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from tli.config.parameters import Params
from tli.data.words.lexicon import read_pairs
from tli.io import progress, resume
from tli.io.errors import UserError
from tli.io.files import atomic_dir
from tli.io.rows import Row, join_rows, write_rows
from tli.measure.views import Cell
from tli.model import card, checkpoint, lora
from tli.model.batched_lora import stacked
from tli.stages import score, similarity, train
from tli.stages.base_rows import ALIGN, TRANSFER


def cell(params: Params, rank: int, seed: int, arm: str | None = None) -> Cell:
    """The name under which a rank and a seed stand in every row: `r8-s3`; without an arm, the arm is the scaling."""
    return Cell(f"r{rank}-s{seed}", arm or params.lora.scaling, rank, str(seed))


def run_train(
    pairs_path: Path,
    quantized: Path,
    ranks: Mapping[int, str],
    out: Path,
    rows: Path,
    params: Params,
    arm: str | None = None,
) -> None:
    """The `sweep-train` stage: OUT/sSEED, an adapter a seed, and what their training was like as rows.

    `ranks` gives each rank its folder inside OUT (see `folders`); `params` are those of the arm. The seeds of a rank
    are trained together.
    """
    pairs = train.trained_pairs(pairs_path)
    folder, blocks, seeds = quantized / "nf4", params.adapted_blocks, params.sweep.seeds
    model, tokenizer = train.frozen(folder, params, pairs), checkpoint.tokenizer(folder)

    def write(rank: int, piece: Path) -> None:
        settings = params.lora.model_copy(update={"rank": rank})
        with stacked(model, settings, blocks, seeds, params.train.layer) as stack:
            trained = train.train(stack, tokenizer, pairs, params.train)
        found: list[Row] = []
        for adapter, seed in enumerate(seeds):
            target = piece / "adapters" / f"s{seed}"
            said = card.page(params.model_copy(update={"lora": settings}), seed, pairs_path, quantized)
            lora.save(stack.tensors(adapter), settings, blocks, target, folder.as_posix(), said)
            found += train.rows(cell(params, rank, seed, arm), trained[adapter], params.train)
        write_rows(piece / "train.tsv", found)

    choices = {"arm": arm, "lora": params.lora, "train": params.train, "seeds": seeds, "compute": params.active.compute}
    with resume.pieces(out, (pairs_path, quantized), **choices) as finished:
        made = {rank: finished.piece(f"r{rank}", partial(write, rank)) for rank in ranks}
        with atomic_dir(out) as temporary:
            for rank, place in ranks.items():
                shutil.copytree(made[rank] / "adapters", temporary / place, dirs_exist_ok=True)
        join_rows(rows, [piece / "train.tsv" for piece in made.values()])


def run_eval(
    pairs_path: Path,
    items_path: Path,
    quantized: Path,
    adapters: Path,
    ranks: Mapping[int, str],
    out: Path,
    params: Params,
    arm: str | None = None,
) -> None:
    """The `sweep-eval` stage: OUT/align.tsv and OUT/transfer.tsv, the rows of every adapter under NF4."""
    cells = {
        cell(params, rank, seed, arm): adapters / place / f"s{seed}"
        for rank, place in ranks.items()
        for seed in params.sweep.seeds
    }
    _measure(cells, pairs_path, items_path, quantized, out, params, every_layer=arm is not None)


def folders(params: Params, rank: int | None, arm: str | None) -> dict[int, str]:
    """Rank -> folder of its adapters inside the stage's output: the output itself for one rank, rR for an arm's.

    Raises:
        UserError: neither or both of a rank and an arm are given.
    """
    if (rank is None) == (arm is None):
        raise UserError(f"expected --rank or --arm, got {'neither' if rank is None else 'both'}; give one")
    return {rank: "."} if rank is not None else {each: f"r{each}" for each in params.arms[str(arm)].ranks}


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
    pairs, items = read_pairs(pairs_path), score.asked_items(items_path, params)
    folder, compute = quantized / "nf4", params.active.compute
    model: PreTrainedModel
    model, tokenizer = checkpoint.load(folder), checkpoint.tokenizer(folder)
    for adapter in cells.values():
        lora.hold(adapter, model)  # before anything is measured
    exam = score.prepare(items, tokenizer, compute.batch_size)

    def write(name: Cell, adapter: Path, piece: Path) -> None:
        measured = lora.load(model, adapter)
        rows = similarity.measure(name, pairs, measured, tokenizer, params, "nf4", every_layer=every_layer)
        write_rows(piece / ALIGN, rows)
        write_rows(piece / TRANSFER, score.measure(name, exam, measured))
        lora.unload(measured)

    inputs = (pairs_path, items_path, quantized, *cells.values())
    choices = {"cells": [*cells], "measure": params.measure, "layer": params.train.layer, "compute": compute}
    choices["every_layer"] = every_layer
    ranks = ",".join(dict.fromkeys(str(name.rank) for name in cells))
    with resume.pieces(out, inputs, **choices) as finished:
        told = progress.progress(cells.items(), f"sweep-eval r={ranks}", len(cells))
        made = [finished.piece(name.cell, partial(write, name, adapter)) for name, adapter in told]
        for file in (ALIGN, TRANSFER):
            join_rows(out / file, [piece / file for piece in made])
