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
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_linear_schedule_with_warmup

from tli.config.parameters import Params, Train
from tli.data.words.lexicon import SIDES, Pair, item_names, read_pairs
from tli.io import progress
from tli.io.errors import CheckFailed
from tli.io.files import atomic_dir
from tli.io.rows import Row, write_rows
from tli.io.structured import nine_digits
from tli.measure import embeddings, similarity
from tli.measure.views import BASE, Cell, View, main_cell
from tli.model import backbone, card, checkpoint, lora
from tli.model.batched_lora import Batch, Stack, stacked


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


def frozen(folder: Path, params: Params, pairs: Sequence[Pair]) -> PreTrainedModel:
    """What training needs of the 4-bit checkpoint in `folder`: the adapted blocks and the embeddings of these words."""
    words = embeddings.vocabulary(checkpoint.tokenizer(folder), [form for pair in pairs for form in pair[:2]])
    return checkpoint.load(
        folder, blocks=params.adapted_blocks, vocabulary=words, head=False, weights=params.active.compute.weights
    )


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


def trained_pairs(path: Path) -> list[Pair]:
    """The pairs of the training set, in the list's order."""
    return [pair for pair in read_pairs(path) if pair.set == "trained"]


def shuffled(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """The same words, no pair as it was: each Swahili form gets the English one of another, by `metrics.derangement`.

    What a model gains from these it gains from being trained on these words, not from knowing what translates what.
    """
    order = similarity.derangement(len(pairs), seed)
    return [pair._replace(english=pairs[other].english) for pair, other in zip(pairs, order, strict=True)]


def train(stack: Stack, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], settings: Train) -> list[Trained]:
    """Minimises each adapter's loss over `settings.epochs` epochs by AdamW with a linear schedule, in place.

    The adapters share the frozen model and the step, nothing else: each has its own batches, dropout, loss and moments,
    and the gradient of the sum of the losses is every one's own. An epoch is a fresh permutation of the pairs by the
    adapter's seed; with `pairs: shuffled` the translations are permuted first, by that seed too (see `shuffled`). A
    batch's Swahili and English words go through the model in one forward pass.

    Raises:
        CheckFailed: a loss or gradient is not finite; seed, step and words are named. (Attention may hide a NaN from
            the loss.)
    """
    lists = [shuffled(pairs, seed) if settings.pairs == "shuffled" else [*pairs] for seed in stack.seeds]
    forms = {form: row for row, form in enumerate(dict.fromkeys(form for pair in pairs for form in pair[:2]))}
    words = embeddings.tokens(tokenizer, [*forms])
    ids, real = backbone.pad(words, tokenizer.pad_token_id)
    chosen = real if settings.pooling == "mask" else embeddings.content(ids, real, tokenizer)
    optimizer = torch.optim.AdamW(stack.parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    orders = [epochs(len(pairs), settings.batch_size, settings.epochs, seed) for seed in stack.seeds]
    batches = [*zip(*orders, strict=True)]
    schedule = get_linear_schedule_with_warmup(optimizer, settings.warmup_steps, len(batches))
    steps: list[list[Step]] = [[] for _ in stack.seeds]
    false_negatives = [0 for _ in stack.seeds]
    seen = [[[own[index] for index in indices] for own, indices in zip(lists, batch, strict=True)] for batch in batches]
    rows = [[[forms[pair[side]] for side in (0, 1) for pair in own] for own in each] for each in seen]
    where = [[(own, slice(max(len(words[row]) for row in own))) for own in each] for each in rows]
    inputs = [[Batch(ids[own], real[own].flatten().nonzero()[:, 0]) for own in each] for each in where]
    for number in progress.progress(range(len(batches)), f"train r={stack.rank} seeds {stack.seeds}"):
        states = stack.states(inputs[number], *inputs[number + 1 : number + 2])
        pooled = [
            embeddings.pool(own, chosen[at].to(own.device)) for own, at in zip(states, where[number], strict=True)
        ]
        anchors, positives = torch.stack(pooled).chunk(2, dim=1)
        same = torch.stack([duplicates([pair.english for pair in own]) for own in seen[number]])
        loss, positive, negative = triplet(
            anchors, positives, settings.margin, same if settings.mask_duplicates else None
        )
        optimizer.zero_grad()
        loss.sum().backward()
        bos = torch.stack([own.detach()[:, 0].float().norm(dim=-1).mean() for own in states])
        measured = torch.stack([loss.detach(), positive, negative, stack.gradient_norms(), bos], dim=1).tolist()
        for adapter, (value, near, far, gradient, first) in enumerate(measured):
            if not math.isfinite(value + gradient):
                named = ", ".join(pair.swahili for pair in seen[number][adapter])
                raise CheckFailed(
                    f"train: expected a finite loss and gradient, got {value:g} and {gradient:g} at step {number + 1} "
                    f"of {len(batches)}, seed {stack.seeds[adapter]} (words: {named}); lower train.lr"
                )
            steps[adapter].append(Step(value, near, far, schedule.get_last_lr()[0], gradient, first))
            false_negatives[adapter] += int(same[adapter].sum())
        optimizer.step()
        schedule.step()
    epoch = len(batches) // settings.epochs
    return [Trained(own, epoch, stack.size, count) for own, count in zip(steps, false_negatives, strict=True)]


def epochs(n: int, size: int, count: int, seed: int) -> Iterator[list[int]]:
    """Indices 0 … n - 1 in batches of `size`, the last of an epoch smaller, permuted anew in each of `count` epochs."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        order = torch.randperm(n, generator=generator).tolist()
        for start in range(0, n, size):
            yield order[start : start + size]


def triplet(
    anchors: Float[Tensor, "*run n d_model"],
    positives: Float[Tensor, "*run n d_model"],
    margin: float,
    masked: Bool[Tensor, "*run n n"] | None = None,
) -> tuple[Float[Tensor, "*run"], Float[Tensor, "*run"], Float[Tensor, "*run"]]:
    """Per run: mean_i max(0, margin + max_{j != i} s_ij - s_ii), and the means of s_ii and of the hardest s_ij.

    Candidates j with `masked[i, j]` are left out. An anchor without any candidate adds 0 to the loss and nothing to the
    second mean, which is 0 where no anchor has one.
    """
    cosines = nn.functional.cosine_similarity(anchors.unsqueeze(-2), positives.unsqueeze(-3), dim=-1)
    out = torch.eye(anchors.shape[-2], dtype=torch.bool, device=anchors.device)
    out = out if masked is None else out | masked.to(anchors.device)
    positive = cosines.diagonal(dim1=-2, dim2=-1)
    hardest = cosines.masked_fill(out, -math.inf).max(dim=-1).values
    terms = torch.relu(margin + hardest - positive)
    seen = ~out.all(dim=-1)
    total = torch.where(seen, hardest.detach(), 0).sum(dim=-1)
    return terms.mean(dim=-1), positive.detach().mean(dim=-1), total / seen.sum(dim=-1).clamp(min=1)


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
        for pair, item, form, ids in zip(pairs, items, forms, embeddings.tokens(tokenizer, forms), strict=True):
            own = sum(token not in special for token in ids)
            result.append(Row(*BASE, pair.set, item, "-", f"tokens.{side}", own))
            result.append(Row(*BASE, pair.set, item, "-", f"words.{side}", len(form.split())))
    return result
