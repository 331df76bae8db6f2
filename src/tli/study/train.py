"""Targeted Lexical Injection: early-layer LoRA trained on word pairs (stage: train).

For a batch of pairs (a_i, p_i), with e the pooled hidden_states[layer] of a word and s_ij = cos(e(a_i), e(p_j)):
    loss = mean_i max(0, margin + max_{j != i} s_ij - s_ii)
The anchor is Swahili; its negatives are the other English words of the batch (2506.15415, section 3.2). Feeds the
before/after, retrieval and transfer tables through the adapter, and the training curves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, get_linear_schedule_with_warmup

from tli import store
from tli.data.lexicon import SIDES, Pair, item_names, read_pairs
from tli.model import backbone, lora
from tli.params import Params, Train
from tli.store import Row
from tli.study import embed, metrics
from tli.study.views import BASE, Cell, View, main_cell


class Step(NamedTuple):
    """What one step saw: means over the batch, before its update."""

    loss: float
    positive_cosine: float
    negative_cosine: float
    lr: float
    gradient_norm: float
    bos_norm: float


class Trained(NamedTuple):
    """A run's log: its steps, the steps of one epoch, its parameters and how many negatives were really positives."""

    steps: list[Step]
    epoch_steps: int
    parameters: int
    false_negatives: int


def run(pairs_path: Path, quantized: Path, out: Path, rows_path: Path, log: Path, params: Params) -> None:
    """The `train` stage: the paper's cell, its adapter in PEFT's format, its curves through dvclive."""
    folder = quantized / "nf4"
    model, tokenizer = backbone.load(folder, blocks=params.adapted_blocks), backbone.tokenizer(folder)
    adapted = lora.attach(model, params.lora, params.adapted_blocks, params.train.seed)
    trained = train(adapted, tokenizer, trained_pairs(pairs_path), params.train, params.train.seed)
    lora.save(adapted, out, base=folder.as_posix())
    summary = rows(main_cell(params), trained, params.train)
    store.write_rows(rows_path, [*summary, *described(out, params), *lengths(tokenizer, read_pairs(pairs_path))])
    write_curves(log, trained.steps)


def write_curves(log: Path, steps: Sequence[Step]) -> None:
    """One curve a field of `Step`, through dvclive, in a new folder `log`; no steps, no curves."""
    from dvclive.live import Live

    with Live(str(log), save_dvc_exp=False, dvcyaml=None, monitor_system=False) as live:
        for step in steps:
            for name, value in step._asdict().items():
                live.log_metric(name, float(store.number(value)))
            live.next_step()


def trained_pairs(path: Path) -> list[Pair]:
    """The pairs of the training set, in the list's order."""
    return [pair for pair in read_pairs(path) if pair.set == "trained"]


def shuffled(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """The same words, no pair as it was: each Swahili form gets the English one of another, by `metrics.derangement`.

    What a model gains from these it gains from being trained on these words, not from knowing what translates what.
    """
    order = metrics.derangement(len(pairs), seed)
    return [pair._replace(english=pairs[other].english) for pair, other in zip(pairs, order, strict=True)]


def train(
    adapted: PeftModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], settings: Train, seed: int
) -> Trained:
    """Minimises the loss over `settings.epochs` epochs by AdamW with a linear schedule, in place.

    With `pairs: shuffled` the translations are permuted first, by `seed` too (see `shuffled`).
    Each epoch is a fresh permutation of the pairs from a generator of its own; dropout draws from torch's global one,
    seeded here. The batch's Swahili and English words go through the model in one forward pass.

    Raises:
        CheckFailed: loss or gradient is not finite; step and words are named. (Attention may hide a NaN from the loss.)
    """
    layer = str(settings.layer)
    pairs = shuffled(pairs, seed) if settings.pairs == "shuffled" else pairs
    words = embed.tokens(tokenizer, [pair.swahili for pair in pairs] + [pair.english for pair in pairs])
    trainable = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=settings.lr, weight_decay=settings.weight_decay)
    batches = [*epochs(len(pairs), settings.batch_size, settings.epochs, seed)]
    schedule = get_linear_schedule_with_warmup(optimizer, settings.warmup_steps, len(batches))
    adapted.train()
    torch.manual_seed(seed)
    rank = f"r={cast(Any, adapted.peft_config['default']).r}"
    steps, false_negatives = [], 0
    for number, batch in enumerate(store.progress(batches, f"train {rank} seed {seed}"), start=1):
        sequences = [words[index] for index in batch] + [words[len(pairs) + index] for index in batch]
        embedded, bos_norm = states(adapted, tokenizer, sequences, layer, settings.pooling)
        same = duplicates([pairs[index].english for index in batch])
        false_negatives += int(same.sum())
        anchors, positives = embedded.chunk(2)
        masked = same if settings.mask_duplicates else None
        loss, positive, negative = triplet(anchors, positives, settings.margin, masked)
        optimizer.zero_grad()
        loss.backward()
        gradient = torch.stack([parameter.grad.norm() for parameter in trainable if parameter.grad is not None]).norm()
        if not math.isfinite(loss.item() + gradient.item()):
            named = ", ".join(pairs[index].swahili for index in batch)
            raise store.CheckFailed(
                f"train: expected a finite loss and gradient, got {loss.item():g} and {gradient.item():g} "
                f"at step {number} of {len(batches)} (words: {named}); lower train.lr"
            )
        steps.append(
            Step(loss.item(), positive.item(), negative.item(), schedule.get_last_lr()[0], gradient.item(), bos_norm)
        )
        optimizer.step()
        schedule.step()
    adapted.eval()
    return Trained(steps, len(batches) // settings.epochs, lora.trainable_parameters(adapted), false_negatives)


def epochs(n: int, size: int, count: int, seed: int) -> Iterator[list[int]]:
    """Indices 0 … n - 1 in batches of `size`, the last of an epoch smaller, permuted anew in each of `count` epochs."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        order = torch.randperm(n, generator=generator).tolist()
        for start in range(0, n, size):
            yield order[start : start + size]


def states(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, sequences: Sequence[Sequence[int]], layer: str, pooling: str
) -> tuple[Float[Tensor, "word d_model"], float]:
    """Pooled hidden states of token sequences at one layer, with their gradient, and the mean norm of the BOS state."""
    ids, real = backbone.pad(sequences, tokenizer.pad_token_id)
    chosen = real if pooling == "mask" else embed.content(ids, real, tokenizer)
    device = next(model.parameters()).device
    kept: dict[str, Float[Tensor, "batch pos d_model"]] = {}

    def visit(name: str, state: Float[Tensor, "batch pos d_model"]) -> None:
        if name == layer:
            kept[name] = state

    backbone.forward(model, ids.to(device), visit)
    return embed.pool(kept[layer], chosen.to(device)), float(kept[layer].detach()[:, 0].float().norm(dim=-1).mean())


def triplet(
    anchors: Float[Tensor, "n d_model"],
    positives: Float[Tensor, "n d_model"],
    margin: float,
    masked: Bool[Tensor, "n n"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """mean_i max(0, margin + max_{j != i} s_ij - s_ii), and the means of s_ii and of the hardest s_ij.

    Candidates j with `masked[i, j]` are left out. An anchor without any candidate adds 0 to the loss and nothing to the
    second mean, which is 0 where no anchor has one.
    """
    similarity = nn.functional.cosine_similarity(anchors[:, None, :], positives[None, :, :], dim=-1)
    out = torch.eye(len(anchors), dtype=torch.bool, device=anchors.device)
    out = out if masked is None else out | masked.to(anchors.device)
    positive = similarity.diagonal()
    hardest = similarity.masked_fill(out, -math.inf).max(dim=1).values
    terms = torch.relu(margin + hardest - positive)
    seen = hardest.detach()[~out.all(dim=1)]
    return terms.mean(), positive.detach().mean(), seen.mean() if len(seen) else torch.zeros(())


def duplicates(forms: Sequence[str]) -> Bool[Tensor, "n n"]:
    """Where a candidate negative has the very form of the positive: m_ij = (form_i = form_j), i != j."""
    return torch.tensor([[i != j and a == b for j, b in enumerate(forms)] for i, a in enumerate(forms)])


def rows(cell: Cell, trained: Trained, settings: Train) -> list[Row]:
    """A run's summary: mean loss of its first and last epoch, parameters trained, negatives that were positives."""
    view = str(View(str(settings.layer), settings.pooling, "nf4"))
    loss = [step.loss for step in trained.steps]
    values = {
        "loss_first": fmean(loss[: trained.epoch_steps]),
        "loss_last": fmean(loss[-trained.epoch_steps :]),
        "trainable_parameters": trained.parameters,
        "false_negatives": trained.false_negatives,
    }
    return [Row(*cell, "trained", "-", view, name, value) for name, value in values.items()]


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
        for pair, item, form, ids in zip(pairs, items, forms, embed.tokens(tokenizer, forms), strict=True):
            own = sum(token not in special for token in ids)
            result.append(Row(*BASE, pair.set, item, "-", f"tokens.{side}", own))
            result.append(Row(*BASE, pair.set, item, "-", f"words.{side}", len(form.split())))
    return result
