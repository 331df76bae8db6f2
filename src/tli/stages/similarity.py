"""Before and after, pair by pair: what training does to the similarity of translations (stage: align).

Feeds the before/after table with its tests, the retrieval table, and the figure of every pair. The sweep measures its
adapters with the same functions.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tli.config.parameters import Params
from tli.data.words.lexicon import read_pairs
from tli.io import progress, resume
from tli.io.rows import join_rows, write_rows
from tli.measure.pair_rows import measure
from tli.measure.views import main_cell
from tli.model import checkpoint, lora


def run(pairs_path: Path, quantized: Path, adapter: Path, out: Path, params: Params) -> None:
    """The `similarity` stage: rows of the paper's cell, under NF4 and, merged, under FP4; base-rows has the base's."""
    pairs = read_pairs(pairs_path)
    for quantization in ("nf4", "fp4"):  # refused before anything is measured
        checkpoint.tokenizer(quantized / quantization)
        lora.hold(adapter, checkpoint.laid_out(quantized / quantization))
    main = main_cell(*lora.scaling_and_rank(adapter), params.train.seed)

    def write(quantization: str, path: Path) -> None:
        folder = quantized / quantization
        adapted = lora.load(checkpoint.load(folder, head=False), adapter, merge=quantization == "fp4")
        write_rows(path, measure(main, pairs, adapted, checkpoint.tokenizer(folder), params, quantization))

    settings = {"cell": main, "measure": params.measure, "layer": params.train.layer, "compute": params.active.compute}
    with resume.checkpoints(out, (pairs_path, quantized, adapter), **settings) as finished:
        made = [
            finished.get_or_make(quantization, partial(write, quantization))
            for quantization in progress.track(("nf4", "fp4"), "similarity")
        ]
        join_rows(out, made)
