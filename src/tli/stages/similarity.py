"""Stage `similarity`: measures the similarity of word pairs in the model with the paper's adapter.

    cos(x, y) = x . y / (||x|| ||y||)                  x, y the embeddings of a Swahili form and its translation
    P@1       = share of forms whose translation has the highest cosine among all candidates
    CSLS(x, y) = 2 cos(x, y) - r(x) - r(y)             r the mean cosine to the 10 nearest candidates

Details and further measures (MRR, CKA, participation ratio): measure/similarity.py.

Inputs: word pairs, the 4-bit checkpoints, the adapter. Under FP4 the adapter is merged into the weights.
Output: rows of run `main`; sets trained, control and all; every view under NF4, the named views under FP4; measures
cosine, random_cosine, cosine_mean, random_cosine_mean, p_at_1.sw_en and others of measure/pair_rows.py. The base's rows
come from the stage base-rows.

Used by: the tables `before_after`, `gains`, `lengths`, `controls`, `norms`, `retrieval`, `pools` and `geometry`, and
the figures `before_after` and `retrieval`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tli.config.parameters import Params
from tli.data.words.lexicon import read_pairs
from tli.io import progress, resume
from tli.io.rows import join_rows, write_rows
from tli.measure.pair_rows import measure
from tli.measure.views import main_run
from tli.model import checkpoint, lora


def run(pairs_path: Path, quantized: Path, adapter: Path, out: Path, params: Params) -> None:
    """Writes the similarity rows of the paper's adapter under NF4 and, merged into the weights, under FP4.

    Raises:
        UserError: the adapter does not belong to this model.
    """
    pairs = read_pairs(pairs_path)
    for quantization in ("nf4", "fp4"):  # check before measuring anything
        checkpoint.tokenizer(quantized / quantization)
        lora.check_adapter(adapter, checkpoint.empty_model(quantized / quantization))
    run_id = main_run(*lora.scaling_and_rank(adapter), params.train.seed)

    def write(quantization: str, path: Path) -> None:
        folder = quantized / quantization
        adapted = lora.load(checkpoint.load(folder, head=False), adapter, merge=quantization == "fp4")
        write_rows(path, measure(run_id, pairs, adapted, checkpoint.tokenizer(folder), params, quantization))

    settings = {
        "run": run_id,
        "measure": params.measure,
        "layer": params.train.layer,
        "compute": params.active.compute,
    }
    with resume.checkpoints(out, (pairs_path, quantized, adapter), **settings) as finished:
        checkpoints = [
            finished.get_or_make(quantization, partial(write, quantization))
            for quantization in progress.track(("nf4", "fp4"), "similarity")
        ]
        join_rows(out, checkpoints)
