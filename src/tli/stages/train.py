"""Targeted Lexical Injection: early-layer LoRA trained on word pairs (stage: train).

For a batch of pairs (a_i, p_i), with e the pooled hidden_states[layer] of a word and s_ij = cos(e(a_i), e(p_j)):
    loss = mean_i max(0, margin + max_{j != i} s_ij - s_ii)
The anchor is Swahili; its negatives are the other English words of the batch (2506.15415, section 3.2). Feeds the
before/after, retrieval and transfer tables through the adapter, and the training curves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from tli.config.parameters import Params
from tli.data.words.lexicon import SIDES, Pair, item_names, read_pairs
from tli.io.files import atomic_dir
from tli.io.rows import Row, write_rows
from tli.io.structured import nine_digits
from tli.measure import embeddings
from tli.measure.views import BASE, main_cell
from tli.model import card, checkpoint, lora
from tli.model.batched_lora import stacked
from tli.training.loop import Step, frozen, rows, train, trained_pairs


def run(pairs_path: Path, quantized: Path, out: Path, rows_path: Path, log: Path, params: Params) -> None:
    """The `train` stage: the paper's cell, its adapter in PEFT's format, its curves through dvclive."""
    folder = quantized / "nf4"
    pairs, tokenizer = trained_pairs(pairs_path), checkpoint.tokenizer(folder)
    model = frozen(folder, params, pairs)
    with stacked(model, params.lora, params.adapted_blocks, [params.train.seed], params.train.layer) as stack:
        (trained,) = train(stack, tokenizer, pairs, params.train)
        said = card.page(params, params.train.seed, pairs_path, quantized)
        lora.save(stack.tensors(0), params.lora, params.adapted_blocks, out, folder.as_posix(), said)
    del model, stack  # what follows imports much, and needs neither
    summary = rows(main_cell(params), trained, params.train)
    write_rows(rows_path, [*summary, *described(out, params), *lengths(tokenizer, read_pairs(pairs_path))])
    write_curves(log, trained.steps)


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
    cell, found = main_cell(params), lora.norms(adapter)
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
