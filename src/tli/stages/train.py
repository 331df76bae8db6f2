"""Stage `train`: Targeted Lexical Injection (2506.15415, section 3.2), early-layer LoRA trained on word pairs.

    loss = mean_i max(0, margin + max_{j != i} s_ij - s_ii),    s_ij = cos(e(a_i), e(p_j))    (training/objective.py)
    h = W x + s B A dropout(x),    s = alpha / r                                                 (model/lora.py)

with a_i a Swahili word, p_i its translation and e(w) the pooled hidden state of the layer `train.layer`. With
`adapter.source: author` the author's adapter is fetched instead.

Inputs: word pairs, the NF4 checkpoint.
Outputs: the adapter in PEFT's format; training curves (dvclive); rows of run `main`:
- set trained, the view that the loss reads: loss_first, loss_last, trainable_parameters, false_negatives.
- set adapter, no view: norm_a, norm_b, norm_ba and b_is_zero (item BLOCK.PROJECTION), nominal_parameters, blocks.
and rows of run `base`: tokens.SIDE and words.SIDE of each pair.

Used by: the tables `adapter`, `lengths`, `audit` and `setup`, the training curves, and through the adapter by the
stages similarity, score, translate and tsne.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from tli.config.parameters import Params
from tli.data.hub.fetch import fetch_url
from tli.data.words.lexicon import SIDES, Pair, item_names, read_pairs
from tli.io.files import atomic_dir
from tli.io.rows import Row, write_rows
from tli.io.structured import nine_digits
from tli.measure import embeddings
from tli.measure.views import BASE, RunId, View, main_run
from tli.model import card, checkpoint, lora
from tli.model.batched_lora import batched_lora
from tli.training.loop import Step, load_frozen, summary_rows, train, training_pairs


def run(pairs_path: Path, quantized: Path, out: Path, rows_path: Path, log: Path, params: Params) -> None:
    """Trains the adapter of the paper's configuration, or fetches the author's (`adapter.source: author`)."""
    make_adapter = fetch_author if params.adapter.source == "author" else train_here
    make_adapter(pairs_path, quantized, out, rows_path, log, params)


def fetch_author(pairs_path: Path, quantized: Path, out: Path, rows_path: Path, log: Path, params: Params) -> None:
    """Fetches the author's adapter by its git blob id, checks it and writes it to `out`.

    Its training had no seed, so only these weights can reproduce the published means after training. There are no
    losses, so `log` has no curves.
    """
    folder, weights, training = quantized / "nf4", params.author.adapter, params.train
    with tempfile.TemporaryDirectory() as temporary:
        file = fetch_url(
            f"{params.author.url}/{weights.path}", Path(temporary) / lora.WEIGHTS, git_blob=weights.git_blob
        )
        parameters = lora.import_adapter(file, folder, params.lora, out, card.page(params, None, pairs_path, quantized))
    view = str(View(str(training.layer), training.pooling, "nf4"))
    all_rows = [Row(*_run_id(out, params), "trained", "-", view, "trainable_parameters", parameters)]
    all_rows += adapter_rows(out, params)
    all_rows += length_rows(checkpoint.tokenizer(folder), read_pairs(pairs_path))
    write_rows(rows_path, all_rows)
    write_curves(log, [])


def train_here(pairs_path: Path, quantized: Path, out: Path, rows_path: Path, log: Path, params: Params) -> None:
    """Trains the adapter of the paper's configuration, and writes adapter, rows and curves."""
    folder = quantized / "nf4"
    pairs, tokenizer = training_pairs(pairs_path), checkpoint.tokenizer(folder)
    model = load_frozen(folder, params, pairs)
    with batched_lora(model, params.lora, params.adapted_blocks, [params.train.seed], params.train.layer) as adapters:
        (training_log,) = train(adapters, tokenizer, pairs, params.train)
        model_card = card.page(params, params.train.seed, pairs_path, quantized)
        lora.save(adapters.tensors(0), params.lora, params.adapted_blocks, out, folder.as_posix(), model_card)
    del model, adapters  # free their memory before the imports below
    summary = summary_rows(_run_id(out, params), training_log, params.train)
    write_rows(rows_path, [*summary, *adapter_rows(out, params), *length_rows(tokenizer, read_pairs(pairs_path))])
    write_curves(log, training_log.steps)


def _run_id(adapter: Path, params: Params) -> RunId:
    return main_run(*lora.scaling_and_rank(adapter), params.train.seed)


def write_curves(log: Path, steps: Sequence[Step]) -> None:
    """Writes one curve per field of `Step` with dvclive, to a new folder `log`; without steps there are no curves."""
    from dvclive.live import Live

    with (
        atomic_dir(log) as folder,
        Live(str(folder), save_dvc_exp=False, dvcyaml=None, monitor_system=False) as live,
    ):
        for step in steps:
            for name, value in step._asdict().items():
                live.log_metric(name, float(nine_digits(value)))
            live.next_step()


def adapter_rows(adapter: Path, params: Params) -> list[Row]:
    """Rows of an adapter: norms per block and projection (item `BLOCK.PROJECTION`), and sizes.

    `nominal_parameters` is the number of parameters of LoRA on every block of the model; `blocks` is the number of
    blocks that this adapter is on.
    """
    run_id, norms = _run_id(adapter, params), lora.norms(adapter)
    rows = [
        Row(*run_id, "adapter", f"{block}.{projection}", "-", f"norm_{name}", value)
        for (block, projection), norm in norms.items()
        for name, value in (("a", norm.a), ("b", norm.b), ("ba", norm.ba))
    ]
    for (block, projection), norm in norms.items():
        rows.append(Row(*run_id, "adapter", f"{block}.{projection}", "-", "b_is_zero", int(norm.b_is_zero)))
    sizes = {
        "nominal_parameters": lora.parameter_count(params, params.active.model.blocks),
        "blocks": len({block for block, _ in norms}),
    }
    return rows + [Row(*run_id, "adapter", "-", "-", name, value) for name, value in sizes.items()]


def length_rows(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> list[Row]:
    """Per pair and side: the number of tokens (without BOS and EOS) and of words, for the audit and length tables."""
    items, special, rows = item_names(pairs), set(tokenizer.all_special_ids), []
    for side in SIDES:
        forms: list[str] = [getattr(pair, side) for pair in pairs]
        for pair, item, form, ids in zip(pairs, items, forms, embeddings.tokens(tokenizer, forms), strict=True):
            count = sum(token not in special for token in ids)
            rows.append(Row(*BASE, pair.set, item, "-", f"tokens.{side}", count))
            rows.append(Row(*BASE, pair.set, item, "-", f"words.{side}", len(form.split())))
    return rows
