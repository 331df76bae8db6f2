"""One rank of the sweep with every seed, or one arm of the full grid with all its ranks: training (stage: sweep-train).

Feeds the rank-sweep and controls tables through its adapters.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from tli.config.parameters import Params
from tli.io import resume
from tli.io.files import atomic_dir
from tli.io.rows import Row, join_rows, write_rows
from tli.measure.views import sweep_cell
from tli.model import card, checkpoint, lora
from tli.model.batched_lora import stacked
from tli.training import loop


def run(
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
    pairs = loop.trained_pairs(pairs_path)
    folder, blocks, seeds = quantized / "nf4", params.adapted_blocks, params.sweep.seeds
    model, tokenizer = loop.frozen(folder, params, pairs), checkpoint.tokenizer(folder)

    def write(rank: int, piece: Path) -> None:
        settings = params.lora.model_copy(update={"rank": rank})
        with stacked(model, settings, blocks, seeds, params.train.layer) as stack:
            trained = loop.train(stack, tokenizer, pairs, params.train)
        found: list[Row] = []
        for adapter, seed in enumerate(seeds):
            target = piece / "adapters" / f"s{seed}"
            said = card.page(params.model_copy(update={"lora": settings}), seed, pairs_path, quantized)
            lora.save(stack.tensors(adapter), settings, blocks, target, folder.as_posix(), said)
            found += loop.rows(sweep_cell(params, rank, seed, arm), trained[adapter], params.train)
        write_rows(piece / "train.tsv", found)

    choices = {"arm": arm, "lora": params.lora, "train": params.train, "seeds": seeds, "compute": params.active.compute}
    with resume.checkpoints(out, (pairs_path, quantized), **choices) as finished:
        made = {rank: finished.get_or_make(f"r{rank}", partial(write, rank)) for rank in ranks}
        with atomic_dir(out) as temporary:
            for rank, place in ranks.items():
                shutil.copytree(made[rank] / "adapters", temporary / place, dirs_exist_ok=True)
        join_rows(rows, [piece / "train.tsv" for piece in made.values()])
