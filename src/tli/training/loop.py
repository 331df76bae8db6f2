"""Trains adapters on word pairs: batches, optimiser and schedule, and what each step saw."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_linear_schedule_with_warmup

from tli.config.parameters import Params, Train
from tli.data.words.lexicon import Pair, read_pairs
from tli.io import progress
from tli.io.errors import CheckFailed
from tli.io.rows import Row
from tli.measure import embeddings, similarity
from tli.measure.views import Cell, View
from tli.model import backbone, checkpoint
from tli.model.batched_lora import Batch, Stack
from tli.training.objective import duplicates, triplet


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


def frozen(folder: Path, params: Params, pairs: Sequence[Pair]) -> PreTrainedModel:
    """What training needs of the 4-bit checkpoint in `folder`: the adapted blocks and the embeddings of these words."""
    words = embeddings.vocabulary(checkpoint.tokenizer(folder), [form for pair in pairs for form in pair[:2]])
    return checkpoint.load(
        folder, blocks=params.adapted_blocks, vocabulary=words, head=False, weights=params.active.compute.weights
    )


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
    for number in progress.track(range(len(batches)), f"train r={stack.rank} seeds {stack.seeds}"):
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
