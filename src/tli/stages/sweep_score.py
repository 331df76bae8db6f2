"""Stage `sweep-score`: measures similarity and item scores for the adapters of one rank, or of one variant.

Equations: cosine, P@1, CSLS and others in measure/similarity.py; log p(choice | context) in measure/scoring.py.

Inputs: word pairs, items.jsonl, the NF4 checkpoint, the adapters of `sweep-train` (all seeds).
Outputs, one run per rank and seed (`r8-s3`):
- similarity.tsv: sets trained, control and all; NF4 views (the named views; for a variant every view); measures of
  measure/pair_rows.py.
- score.tsv: sets task.language, no view; measures loglik.N, label, pred, correct, margin. Which sets are scored at
  which rank and with which seeds says `benchmarks.sweep`.

Rank 0 is the base model; its rows come from the stage base-rows. Used by: the tables `ranks`, `xcopa`, `xnli`,
`changes`, `gap`, `calibration`, `class_changes`, `odds`, `equivalence` and `trends`; for variants by the full study's
tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path

from transformers import PreTrainedModel

from tli.config.parameters import Params
from tli.data.benchmarks.prompts import CORRECTED
from tli.data.words.lexicon import read_pairs
from tli.io import progress, resume
from tli.io.errors import UserError
from tli.io.rows import join_rows, write_rows
from tli.measure import pair_rows, scoring
from tli.measure.views import RunId, sweep_run
from tli.model import checkpoint, lora


def run(
    pairs_path: Path,
    items_path: Path,
    quantized: Path,
    adapters: Path,
    ranks: Mapping[int, str],
    out: Path,
    params: Params,
    variant: str | None = None,
) -> None:
    """Writes OUT/similarity.tsv and OUT/score.tsv, the rows of every adapter under NF4.

    Args:
        ranks: rank -> the folder of its adapters inside `adapters`.
        variant: the variant; `params` are those of the variant.

    Raises:
        UserError: an adapter has another rank than its folder, or does not belong to this model.
    """
    adapter_of_run = {}
    for rank, subfolder in ranks.items():
        for seed in params.sweep.seeds:
            adapter = adapters / subfolder / f"s{seed}"
            if (actual := lora.scaling_and_rank(adapter)[1]) != rank:
                raise UserError(
                    f"{adapter / lora.SETTINGS}: r: expected {rank}, got {actual}; run `dvc repro`, which trains it"
                )
            adapter_of_run[sweep_run(params, rank, seed, variant)] = adapter
    _measure_adapters(adapter_of_run, pairs_path, items_path, quantized, out, params, every_layer=variant is not None)


def _measure_adapters(
    adapter_of_run: Mapping[RunId, Path],
    pairs_path: Path,
    items_path: Path,
    quantized: Path,
    out: Path,
    params: Params,
    *,
    every_layer: bool,
) -> None:
    """Measures each run's adapter; with `every_layer` (of a study) the similarity at every layer."""
    pairs, items = read_pairs(pairs_path), scoring.items_to_score(items_path, params)
    folder, compute = quantized / "nf4", params.active.compute
    model: PreTrainedModel
    model, tokenizer = checkpoint.load(folder), checkpoint.tokenizer(folder)
    for adapter in adapter_of_run.values():
        lora.check_adapter(adapter, model)  # check before measuring anything

    @cache
    def prepared(*sets: str) -> scoring.PreparedItems:
        return scoring.prepare([item for item in items if item.set in sets], tokenizer, compute.batch_size)

    def write(run_id: RunId, adapter: Path, run_folder: Path) -> None:
        sets = dict.fromkeys(item.set for item in items)
        scored = [
            set_ for set_ in sets if params.sweep_scores(set_.replace(CORRECTED, ""), run_id.rank, int(run_id.seed))
        ]
        adapted = lora.load(model, adapter)
        rows = pair_rows.measure(run_id, pairs, adapted, tokenizer, params, "nf4", every_layer=every_layer)
        write_rows(run_folder / pair_rows.FILE, rows)
        write_rows(run_folder / scoring.FILE, scoring.measure(run_id, prepared(*scored), adapted))
        lora.unload(adapted)

    inputs = (pairs_path, items_path, quantized, *adapter_of_run.values())
    settings = {"runs": [*adapter_of_run], "measure": params.measure, "layer": params.train.layer, "compute": compute}
    settings |= {"every_layer": every_layer, "benchmarks": params.active.benchmarks}
    ranks = ",".join(dict.fromkeys(str(run_id.rank) for run_id in adapter_of_run))
    with resume.checkpoints(out, inputs, **settings) as finished:
        shown = progress.track(adapter_of_run.items(), f"sweep-score r={ranks}", len(adapter_of_run))
        checkpoints = [finished.get_or_make(run_id.run, partial(write, run_id, adapter)) for run_id, adapter in shown]
        for file in (pair_rows.FILE, scoring.FILE):
            join_rows(out / file, [folder / file for folder in checkpoints])
