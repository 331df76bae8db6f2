"""Targeted Lexical Injection: early-layer LoRA trained on word pairs (stage: train).

The objective stands in training/objective.py, the loop in training/loop.py. Feeds the before/after, retrieval and
transfer tables through the adapter, and the training curves.
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
from tli.measure.views import BASE, Cell, View, main_cell
from tli.model import card, checkpoint, lora
from tli.model.batched_lora import stacked
from tli.training.loop import Step, frozen, rows, train, trained_pairs


def run(pairs_path: Path, quantized: Path, out: Path, rows_path: Path, log: Path, params: Params) -> None:
    """The `train` stage: the paper's cell, its adapter in PEFT's format, its curves through dvclive.

    Where `adapter.source` is `author`, the author's adapter is taken instead of one trained here.
    """
    make = fetch_author if params.adapter.source == "author" else train_here
    make(pairs_path, quantized, out, rows_path, log, params)


def fetch_author(pairs_path: Path, quantized: Path, out: Path, rows_path: Path, log: Path, params: Params) -> None:
    """Fetches the author's adapter by its git blob id, checks it, writes it to `out`.

    Its training had no seed, so that only these weights can give the published means after training. There are no
    losses, so `log` stays without curves.
    """
    folder, blob, train_ = quantized / "nf4", params.author.adapter, params.train
    with tempfile.TemporaryDirectory() as temporary:
        file = fetch_url(f"{params.author.url}/{blob.path}", Path(temporary) / lora.WEIGHTS, git_blob=blob.git_blob)
        parameters = lora.adopt(file, folder, params.lora, out, card.page(params, None, pairs_path, quantized))
    view = str(View(str(train_.layer), train_.pooling, "nf4"))
    found = [Row(*_cell(out, params), "trained", "-", view, "trainable_parameters", parameters)]
    found += described(out, params)
    found += lengths(checkpoint.tokenizer(folder), read_pairs(pairs_path))
    write_rows(rows_path, found)
    write_curves(log, [])


def train_here(pairs_path: Path, quantized: Path, out: Path, rows_path: Path, log: Path, params: Params) -> None:
    """Trains the paper's cell and writes its adapter, rows and curves."""
    folder = quantized / "nf4"
    pairs, tokenizer = trained_pairs(pairs_path), checkpoint.tokenizer(folder)
    model = frozen(folder, params, pairs)
    with stacked(model, params.lora, params.adapted_blocks, [params.train.seed], params.train.layer) as stack:
        (trained,) = train(stack, tokenizer, pairs, params.train)
        said = card.page(params, params.train.seed, pairs_path, quantized)
        lora.save(stack.tensors(0), params.lora, params.adapted_blocks, out, folder.as_posix(), said)
    del model, stack  # what follows imports much, and needs neither
    summary = rows(_cell(out, params), trained, params.train)
    write_rows(rows_path, [*summary, *described(out, params), *lengths(tokenizer, read_pairs(pairs_path))])
    write_curves(log, trained.steps)


def _cell(adapter: Path, params: Params) -> Cell:
    return main_cell(*lora.scaling_and_rank(adapter), params.train.seed)


def write_curves(log: Path, steps: Sequence[Step]) -> None:
    """One curve a field of `Step`, through dvclive, in a new folder `log`; no steps, no curves."""
    from dvclive.live import Live

    with (
        atomic_dir(log) as folder,
        Live(str(folder), save_dvc_exp=False, dvcyaml=None, monitor_system=False) as live,
    ):
        for step in steps:
            for name, value in step._asdict().items():
                live.log_metric(name, float(nine_digits(value)))
            live.next_step()


def described(adapter: Path, params: Params) -> list[Row]:
    """The adapter in a folder, whoever trained it: norms a block and projection (item `BLOCK.PROJECTION`), and sizes.

    `nominal_parameters` counts what LoRA on every block of the model would have, `blocks` those that this one is on.
    """
    cell, found = _cell(adapter, params), lora.norms(adapter)
    result = [
        Row(*cell, "adapter", f"{block}.{projection}", "-", f"norm_{name}", value)
        for (block, projection), norm in found.items()
        for name, value in (("a", norm.a), ("b", norm.b), ("ba", norm.ba))
    ]
    for (block, projection), norm in found.items():
        result.append(Row(*cell, "adapter", f"{block}.{projection}", "-", "b_is_zero", int(norm.b_is_zero)))
    sizes = {
        "nominal_parameters": lora.size(params, params.active.model.blocks),
        "blocks": len({block for block, _ in found}),
    }
    return result + [Row(*cell, "adapter", "-", "-", name, value) for name, value in sizes.items()]


def lengths(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> list[Row]:
    """Per pair and side: tokens of its own (without BOS and EOS) and words, for the audit and the length tables."""
    items, special, result = item_names(pairs), set(tokenizer.all_special_ids), []
    for side in SIDES:
        forms: list[str] = [getattr(pair, side) for pair in pairs]
        for pair, item, form, ids in zip(pairs, items, forms, embeddings.tokens(tokenizer, forms), strict=True):
            own = sum(token not in special for token in ids)
            result.append(Row(*BASE, pair.set, item, "-", f"tokens.{side}", own))
            result.append(Row(*BASE, pair.set, item, "-", f"words.{side}", len(form.split())))
    return result
