"""Stage `study`: runs one key of the study, `s1-2r`: a variant of the training on a further base of the micro-world.

It runs the pipeline's own stages under the key's parameters, in one process: microworld, base, benchmarks, quantize,
base-rows, and sweep-train and sweep-score for each rank of the variant with all seeds. For a variant with an attention
sink, the sink is added to the base before it is quantised (model/attention_sink.py). The equations are in those stages.

Inputs: the key's file of the plan (check.py), word pairs, the vocabulary, the versioned weights of the base.
Outputs, in a folder:
- similarity.tsv and score.tsv: rows of the base (run `base`) and of each rank and seed (run `r8-s3`), at every layer.
- train.tsv: training rows of each rank and seed.
- items.jsonl: the benchmark items. sink.tsv: what the attention sink changed, if there is one.
- microworld.json, base.json, benchmarks.json: counts, as the stages of these names write them.

Finished parts are kept if the stage is interrupted: the base, its rows, and each rank's adapters and rows. They are
removed at the end, with the weights and adapters. Used by: the tables `study_...`.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from tli.config.parameters import Key, MicroworldModel, Params
from tli.config.study import settings
from tli.io import progress, resume
from tli.io.errors import UserError
from tli.io.files import atomic_dir
from tli.io.rows import join_rows
from tli.io.structured import read_json, rounded
from tli.measure import pair_rows, scoring
from tli.model import attention_sink
from tli.stages import base, base_rows, benchmarks, microworld, quantize, sweep_score, sweep_train

METRICS = ("microworld.json", "base.json", "benchmarks.json")
SINK, TRAIN, ITEMS = "sink.tsv", "train.tsv", "items.jsonl"


def run(key: Key, plan: Path, pairs_path: Path, vocabulary: Path, out: Path, params: Params) -> None:
    """Measures one key.

    Args:
        key: the key; `params` are its parameters (`Params.of_key`).
        plan: the key's file of the plan.
        pairs_path: the checked word pairs.
        vocabulary: the micro-world's vocabulary.
        out: the folder to write.

    Raises:
        UserError: the plan has other parameters than params.yaml; or an error of one of the stages.
    """
    planned = settings(key, params)
    if read_json(plan, "a file of the study's plan") != rounded(planned):
        raise UserError(f"{plan}: expected the parameters of params.yaml, got others; run `dvc repro check`")
    sink, model = params.variants[key.variant].sink, params.active.model
    versioned = [Path(model.weights)] if isinstance(model, MicroworldModel) and model.source == "versioned" else []
    ranks = params.sweep.ranks
    with resume.checkpoints(out, (pairs_path, vocabulary, *versioned), plan=planned) as finished:
        made = finished.get_or_make("base", partial(make_base, sink, pairs_path, vocabulary, params))
        quantized, items = made / "quantized", made / "benchmarks" / ITEMS
        folders = [
            finished.get_or_make("base-rows", lambda path: base_rows.run(pairs_path, items, quantized, path, params)),
            *(
                finished.get_or_make(f"r{rank}", partial(run_rank, key.variant, rank, pairs_path, made, params))
                for rank in progress.track(ranks, f"study {key}")
            ),
        ]
        with atomic_dir(out) as folder:
            for file in (pair_rows.FILE, scoring.FILE):
                join_rows(folder / file, [rows / file for rows in folders])
            join_rows(folder / TRAIN, [rows / TRAIN for rows in folders[1:]])
            for path in (items, *(made / name for name in (*METRICS, *([SINK] if sink else [])))):
                shutil.copyfile(path, folder / path.name)


def make_base(sink: bool, pairs_path: Path, vocabulary: Path, params: Params, folder: Path) -> None:
    """Writes the micro-world, its base, the base in 4 bits and the items to `folder`; with a sink, the base has it."""
    world, items, quantized, weights = (folder / name for name in ("microworld", "benchmarks", "quantized", "weights"))
    compute = params.active.compute.dtype
    microworld.run(pairs_path, vocabulary, world, folder / METRICS[0], params.active.benchmarks)
    base.run(world, None, weights, folder / METRICS[1], params)
    benchmarks.run(world, items, folder / METRICS[2], params)
    quantize.run(weights, quantized, folder / "quantize.tsv", params.quantize, compute)
    if sink:
        with_sink = folder / "sink"
        attention_sink.run(weights, quantized, pairs_path, items / ITEMS, with_sink, folder / SINK, params)
        quantize.run(with_sink, quantized, folder / "quantize.tsv", params.quantize, compute)


def run_rank(variant: str, rank: int, pairs_path: Path, made: Path, params: Params, folder: Path) -> None:
    """Trains the adapters of one rank with every seed, and writes their rows and training rows to `folder`."""
    ranks, quantized, adapters = {rank: "."}, made / "quantized", folder / "adapters"
    rows = folder / TRAIN
    sweep_train.run(pairs_path, quantized, ranks, adapters, rows, params, variant)
    sweep_score.run(pairs_path, made / "benchmarks" / ITEMS, quantized, adapters, ranks, folder, params, variant)
