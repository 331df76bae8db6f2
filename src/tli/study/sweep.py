"""The rank sweep: training, alignment and transfer over ranks and seeds (stages: sweep-train@rank, sweep-eval@rank).

A cell of the DAG is one rank with all seeds of params.yaml, in one process. Rank 0 is the base model, whose rows the
`align` and `transfer` stages write. Feeds the rank-sweep and transfer-by-rank tables.
"""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from tli import store
from tli.data.items import read_items
from tli.data.lexicon import read_pairs
from tli.model import backbone, lora
from tli.params import Params
from tli.store import Row
from tli.study import align, train, transfer
from tli.study.views import Cell


def cell(params: Params, rank: int, seed: int) -> Cell:
    """The name under which a rank and a seed stand in every row: `r8-s3`."""
    return Cell(f"r{rank}-s{seed}", params.lora.scaling, rank, str(seed))


def run_train(pairs_path: Path, quantized: Path, rank: int, out: Path, rows: Path, params: Params) -> None:
    """The `sweep-train` stage: OUT/sSEED, an adapter a seed, and what their training was like as rows."""
    pairs = train.trained_pairs(pairs_path)
    folder = quantized / "nf4"
    model: PreTrainedModel
    model, tokenizer = backbone.load(folder, blocks=params.train.layer), backbone.tokenizer(folder)
    settings = params.lora.model_copy(update={"rank": rank})
    found: list[Row] = []
    with store.atomic_dir(out) as temporary:
        for seed in params.sweep.seeds:
            adapted = lora.attach(model, settings, params.train.layer, seed)
            trained = train.train(adapted, tokenizer, pairs, params.train, seed)
            lora.save(adapted, temporary / f"s{seed}", base=folder.as_posix())
            model = lora.unload(adapted)
            found += train.rows(cell(params, rank, seed), trained, params.train)
    store.write_rows(rows, found)


def run_eval(
    pairs_path: Path, items_path: Path, quantized: Path, adapters: Path, rank: int, out: Path, params: Params
) -> None:
    """The `sweep-eval` stage: OUT/align.tsv and OUT/transfer.tsv, the rows of every seed's adapter under NF4."""
    pairs, items = read_pairs(pairs_path), read_items(items_path)
    folder = quantized / "nf4"
    model: PreTrainedModel
    model, tokenizer = backbone.load(folder), backbone.tokenizer(folder)
    aligned: list[Row] = []
    scored: list[Row] = []
    for seed in store.progress(params.sweep.seeds, f"sweep-eval r={rank}"):
        adapted, name = lora.load(model, adapters / f"s{seed}"), cell(params, rank, seed)
        aligned += align.measure(name, pairs, adapted, tokenizer, params, "nf4")
        scored += transfer.measure(name, items, adapted, tokenizer, params.active.compute.batch_size)
        model = lora.unload(adapted)
    store.write_rows(out / "align.tsv", aligned)
    store.write_rows(out / "transfer.tsv", scored)
