"""Stage `score`: scores benchmark items (XCOPA and XNLI format) zero-shot, with the paper's adapter.

    log p(choice | context) = sum over the choice's tokens t of log p(t | context and the choice's tokens before t)
    prediction = argmax over choices;    margin = log p(correct choice) - max over other choices of log p(choice)

in nats, as in lm-evaluation-harness 0.4.13 (metric acc). Details: measure/scoring.py.

Inputs: items.jsonl, the NF4 checkpoint, the adapter.
Output: rows of run `main`; sets task.language; no view; measures loglik.N, label, pred, correct, margin. The base's
rows come from the stage base-rows.

Used by: the tables `xcopa`, `xnli`, `changes`, `gap`, `calibration`, `classes`, `class_changes`, `odds`, `equivalence`
and `baselines`.
"""

from __future__ import annotations

from pathlib import Path

from tli.config.parameters import Params
from tli.io import resume
from tli.io.rows import write_rows
from tli.measure.scoring import items_to_score, measure, prepare
from tli.measure.views import main_run
from tli.model import checkpoint, lora


def run(items_path: Path, quantized: Path, adapter: Path, out: Path, params: Params) -> None:
    """Writes the score rows of the paper's adapter; no rows if the model's profile has no benchmarks.

    Raises:
        UserError: the checkpoint has no head, or the adapter does not belong to this model.
    """
    items, folder = items_to_score(items_path, params), quantized / "nf4"
    if not items:
        return write_rows(out, [])
    checkpoint.require_head(folder)
    tokenizer = checkpoint.tokenizer(folder)
    size = params.active.compute.batch_size
    base = checkpoint.load(folder)
    lora.check_adapter(adapter, base)  # check before measuring anything
    run_id = main_run(*lora.scaling_and_rank(adapter), params.train.seed)
    prepared = prepare(items, tokenizer, size)
    inputs, model = (items_path, quantized, adapter), params.active.model
    with resume.checkpoints(out, inputs, batch_size=size, model=model, device=params.active.compute.device) as finished:
        write_rows(out, measure(run_id, prepared, lora.load(base, adapter), finished))
