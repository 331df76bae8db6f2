"""What the base itself gives, before any adapter: similarity at every view, and the scores of the items.

An adapter's tables compare with these rows; no value of `lora` or `train` but the layer that the loss reads, which
chooses the views with a row for every pair, changes them. Stage: base-rows, so that another rank does not measure the
base again.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import nn

from tli import kept, store, terminal
from tli.data.lexicon import read_pairs
from tli.data.prompts import Item
from tli.model import backbone
from tli.params import MicroworldModel, Params
from tli.study import align, transfer
from tli.study.views import BASE, Cell

ALIGN, TRANSFER = "align.tsv", "transfer.tsv"


def run(pairs_path: Path, items_path: Path, quantized: Path, out: Path, params: Params) -> None:
    """The `base-rows` stage: OUT/align.tsv, under NF4 and FP4, and OUT/transfer.tsv, under NF4.

    Scored beside the base, where it is our own: a model of its shape with random weights, as a baseline.

    Raises:
        UserError: there are items to score and the checkpoint has no head.
    """
    pairs, items = read_pairs(pairs_path), transfer.asked_items(items_path, params)
    if items:
        backbone.require_head(quantized / "nf4")

    def measure_similarity(quantization: str, path: Path) -> None:
        folder = quantized / quantization
        model, tokenizer = backbone.load(folder, head=False), backbone.tokenizer(folder)
        store.write_rows(path, align.measure(BASE, pairs, model, tokenizer, params, quantization))

    settings = {
        "measure": params.measure,
        "layer": params.train.layer,
        "compute": params.active.compute,
        "model": params.active.model,
    }
    with kept.pieces(out, (pairs_path, items_path, quantized), **settings) as finished:
        parts = [
            finished.piece(f"align-{quantization}", partial(measure_similarity, quantization))
            for quantization in terminal.progress(("nf4", "fp4"), "base-rows")
        ]
        scores = finished.piece("transfer", partial(_score, items, quantized / "nf4", params, finished))
        with store.atomic_dir(out) as folder:
            store.join_rows(folder / ALIGN, parts)
            store.join_rows(folder / TRANSFER, [scores])


def _score(items: list[Item], folder: Path, params: Params, finished: kept.Kept, path: Path) -> None:
    """The rows of the base, of the drift by padding, and of the untrained model; none without items."""
    if not items:
        return store.write_rows(path, [])
    tokenizer, size, model = backbone.tokenizer(folder), params.active.compute.batch_size, params.active.model
    base = backbone.load(folder)
    exam = transfer.prepare(items, tokenizer, size)
    rows = transfer.measure(BASE, exam, base, finished)
    rows.append(transfer.drift(items, base, tokenizer, size))
    if isinstance(model, MicroworldModel):
        random: nn.Module = transfer.untrained(folder, model.seed)
        rows += transfer.measure(Cell("untrained", "-", 0, str(model.seed)), exam, random.to(base.device), finished)
    store.write_rows(path, rows)
