"""Stage `sweep-train`: trains adapters of one rank with every seed, or of one variant with all its ranks and seeds.

    loss = mean_i max(0, margin + max_{j != i} s_ij - s_ii),    s_ij = cos(e(a_i), e(p_j))    (training/objective.py)
    h = W x + s B A dropout(x)                                                                   (model/lora.py)

Inputs: word pairs, the NF4 checkpoint.
Outputs: one adapter per rank and seed, in PEFT's format; rows of one run per rank and seed (`r8-s3`); set trained; the
view that the loss reads; measures loss_first, loss_last, trainable_parameters, false_negatives.

Used by: through the stage sweep-score by the tables of the rank sweep, and for variants by the full study's tables.
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
from tli.measure.views import sweep_run
from tli.model import card, checkpoint, lora
from tli.model.batched_lora import batched_lora
from tli.training import loop


def run(
    pairs_path: Path,
    quantized: Path,
    ranks: Mapping[int, str],
    out: Path,
    rows: Path,
    params: Params,
    variant: str | None = None,
) -> None:
    """Trains the adapters and writes them to OUT/FOLDER/sSEED, and their training rows to `rows`.

    The seeds of a rank are trained together (model/batched_lora.py).

    Args:
        ranks: rank -> its folder inside `out`.
        variant: the variant; `params` are those of the variant.
    """
    pairs = loop.training_pairs(pairs_path)
    folder, blocks, seeds = quantized / "nf4", params.adapted_blocks, params.sweep.seeds
    model, tokenizer = loop.load_frozen(folder, params, pairs), checkpoint.tokenizer(folder)

    def write(rank: int, target_folder: Path) -> None:
        settings = params.lora.model_copy(update={"rank": rank})
        with batched_lora(model, settings, blocks, seeds, params.train.layer) as adapters:
            trained = loop.train(adapters, tokenizer, pairs, params.train)
        rows_of_rank: list[Row] = []
        for index, seed in enumerate(seeds):
            adapter_folder = target_folder / "adapters" / f"s{seed}"
            model_card = card.page(params.model_copy(update={"lora": settings}), seed, pairs_path, quantized)
            lora.save(adapters.tensors(index), settings, blocks, adapter_folder, folder.as_posix(), model_card)
            rows_of_rank += loop.summary_rows(sweep_run(params, rank, seed, variant), trained[index], params.train)
        write_rows(target_folder / "train.tsv", rows_of_rank)

    resume_settings = {
        "variant": variant,
        "lora": params.lora,
        "train": params.train,
        "seeds": seeds,
        "compute": params.active.compute,
    }
    with resume.checkpoints(out, (pairs_path, quantized), **resume_settings) as finished:
        checkpoints = {rank: finished.get_or_make(f"r{rank}", partial(write, rank)) for rank in ranks}
        with atomic_dir(out) as temporary:
            for rank, subfolder in ranks.items():
                shutil.copytree(checkpoints[rank] / "adapters", temporary / subfolder, dirs_exist_ok=True)
        join_rows(rows, [target_folder / "train.tsv" for target_folder in checkpoints.values()])
