"""What the base itself gives, before any adapter: similarity at every view, and the scores of the items.

An adapter's tables compare with these rows; no value of `lora` or `train` but the layer that the loss reads, which
chooses the views with a row for every pair, changes them. Stage: base-rows, so that another rank does not measure the
base again.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import nn

from tli.config.parameters import MicroworldModel, Params
from tli.data.benchmarks.prompts import Item
from tli.data.words.lexicon import read_pairs
from tli.io import progress, resume
from tli.io.files import atomic_dir
from tli.io.rows import join_rows, write_rows
from tli.measure import pair_rows, scoring
from tli.measure.views import BASE, Cell
from tli.model import checkpoint


def run(pairs_path: Path, items_path: Path, quantized: Path, out: Path, params: Params) -> None:
    """The `base-rows` stage: OUT/similarity.tsv, under NF4 and FP4, and OUT/score.tsv, under NF4.

    Scored beside the base, where it is our own: a model of its shape with random weights, as a baseline.

    Raises:
        UserError: there are items to score and the checkpoint has no head.
    """
    pairs, items = read_pairs(pairs_path), scoring.asked_items(items_path, params)
    if items:
        checkpoint.require_head(quantized / "nf4")

    def measure_similarity(quantization: str, path: Path) -> None:
        folder = quantized / quantization
        model, tokenizer = checkpoint.load(folder, head=False), checkpoint.tokenizer(folder)
        write_rows(path, pair_rows.measure(BASE, pairs, model, tokenizer, params, quantization))

    settings = {
        "measure": params.measure,
        "layer": params.train.layer,
        "compute": params.active.compute,
        "model": params.active.model,
    }
    with resume.checkpoints(out, (pairs_path, items_path, quantized), **settings) as finished:
        parts = [
            finished.get_or_make(f"align-{quantization}", partial(measure_similarity, quantization))
            for quantization in progress.track(("nf4", "fp4"), "base-rows")
        ]
        scores = finished.get_or_make("transfer", partial(_score, items, quantized / "nf4", params, finished))
        with atomic_dir(out) as folder:
            join_rows(folder / pair_rows.FILE, parts)
            join_rows(folder / scoring.FILE, [scores])


def _score(items: list[Item], folder: Path, params: Params, finished: resume.Checkpoints, path: Path) -> None:
    """The rows of the base, of the drift by padding, and of the untrained model; none without items."""
    if not items:
        return write_rows(path, [])
    tokenizer, size, model = checkpoint.tokenizer(folder), params.active.compute.batch_size, params.active.model
    base = checkpoint.load(folder)
    exam = scoring.prepare(items, tokenizer, size)
    rows = scoring.measure(BASE, exam, base, finished)
    rows.append(scoring.drift(items, base, tokenizer, size))
    if isinstance(model, MicroworldModel):
        random: nn.Module = scoring.untrained(folder, model.seed)
        rows += scoring.measure(Cell("untrained", "-", 0, str(model.seed)), exam, random.to(base.device), finished)
    write_rows(path, rows)
