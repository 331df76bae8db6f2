"""Stage `base-rows`: measures the base model, without an adapter: word similarity at every view, and item scores.

Equations: cosine, P@k, MRR, CSLS, CKA and participation ratio in measure/similarity.py;
log p(choice | context) in measure/scoring.py.

These are the "before" values of every table. Of `lora` and `train`, only the layer that the loss reads changes them
(it selects views with a row for each pair), so another rank does not measure the base again.

Inputs: word pairs, items.jsonl, the 4-bit checkpoints.
Outputs, run `base`:
- similarity.tsv: sets trained, control and all; every view under NF4 and the named views under FP4; measures cosine,
  random_cosine, cosine_mean, p_at_1.sw_en and others of measure/pair_rows.py.
- score.tsv: sets task.language, no view; measures loglik.N, label, pred, correct, margin. The same for the run
  `untrained` (the micro-world's model with random weights), and set `drift` with measure padding_drift.

Used by: all tables of similarities and scores, as the values before training: `before_after`, `gains`, `retrieval`,
`ranks`, `xcopa`, `xnli`, `changes`, `baselines` and others.
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
from tli.measure.views import BASE, RunId
from tli.model import checkpoint


def run(pairs_path: Path, items_path: Path, quantized: Path, out: Path, params: Params) -> None:
    """Writes OUT/similarity.tsv (NF4 and FP4) and OUT/score.tsv (NF4).

    For the micro-world's model, a model of the same shape with random weights is scored too, as a baseline.

    Raises:
        UserError: there are items to score, but the checkpoint has no head.
    """
    pairs, items = read_pairs(pairs_path), scoring.items_to_score(items_path, params)
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
        checkpoints = [
            finished.get_or_make(f"similarity-{quantization}", partial(measure_similarity, quantization))
            for quantization in progress.track(("nf4", "fp4"), "base-rows")
        ]
        score_rows = finished.get_or_make("score", partial(_score_base, items, quantized / "nf4", params, finished))
        with atomic_dir(out) as folder:
            join_rows(folder / pair_rows.FILE, checkpoints)
            join_rows(folder / scoring.FILE, [score_rows])


def _score_base(items: list[Item], folder: Path, params: Params, finished: resume.Checkpoints, path: Path) -> None:
    """Writes the score rows of the base, the padding drift, and the rows of the untrained model; none without items."""
    if not items:
        return write_rows(path, [])
    tokenizer, size, model = checkpoint.tokenizer(folder), params.active.compute.batch_size, params.active.model
    base = checkpoint.load(folder)
    prepared = scoring.prepare(items, tokenizer, size)
    rows = scoring.measure(BASE, prepared, base, finished)
    rows.append(scoring.padding_drift(items, base, tokenizer, size))
    if isinstance(model, MicroworldModel):
        untrained: nn.Module = scoring.untrained_model(folder, model.seed)
        rows += scoring.measure(
            RunId("untrained", "-", 0, str(model.seed)), prepared, untrained.to(base.device), finished
        )
    write_rows(path, rows)
