"""Transfer: the log-likelihood of each option of XCOPA- and XNLI-formed items, before and after (stage: transfer).

log p(option | context) = sum over the option's tokens of log p(token | all before it); the option with the highest sum
is the prediction (lm-evaluation-harness 0.4.13, metric acc). Feeds the transfer, baseline and sweep tables.
"""

from __future__ import annotations

from pathlib import Path

from tli.config.parameters import Params
from tli.io import resume
from tli.io.rows import write_rows
from tli.measure.scoring import asked_items, measure, prepare
from tli.measure.views import main_cell
from tli.model import checkpoint, lora


def run(items_path: Path, quantized: Path, adapter: Path, out: Path, params: Params) -> None:
    """The `score` stage: per-item rows of the paper's cell; base-rows has the base's."""
    items, folder = asked_items(items_path, params), quantized / "nf4"
    if not items:
        return write_rows(out, [])
    checkpoint.require_head(folder)
    tokenizer = checkpoint.tokenizer(folder)
    size = params.active.compute.batch_size
    base = checkpoint.load(folder)
    lora.hold(adapter, base)  # before anything is measured
    main = main_cell(*lora.scaling_and_rank(adapter), params.train.seed)
    exam = prepare(items, tokenizer, size)
    inputs, model = (items_path, quantized, adapter), params.active.model
    with resume.checkpoints(out, inputs, batch_size=size, model=model, device=params.active.compute.device) as finished:
        write_rows(out, measure(main, exam, lora.load(base, adapter), finished))
