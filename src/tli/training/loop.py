"""The training loop: batches, optimiser, schedule, and the log of each step. The loss is in training/objective.py."""

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
from tli.measure.views import RunId, View
from tli.model import backbone, checkpoint
from tli.model.batched_lora import Batch, BatchedLora
from tli.training.objective import duplicate_mask, triplet_loss


class Step(NamedTuple):
    """The log of one step: means over its batch before the update, the learning rate and the gradient's norm."""

    loss: float
    positive_cosine: float
    negative_cosine: float
    lr: float
    gradient_norm: float
    bos_norm: float


class TrainingLog(NamedTuple):
    """The log of a run: its steps, steps per epoch, trainable parameters, and number of false negatives.

    A false negative is a negative with the same form as the positive.
    """

    steps: list[Step]
    epoch_steps: int
    parameters: int
    false_negatives: int


def load_frozen(folder: Path, params: Params, pairs: Sequence[Pair]) -> PreTrainedModel:
    """Loads the parts of the 4-bit checkpoint that training needs: the adapted blocks and the words' embeddings."""
    words = embeddings.vocabulary(checkpoint.tokenizer(folder), [form for pair in pairs for form in pair[:2]])
    return checkpoint.load(
        folder, blocks=params.adapted_blocks, vocabulary=words, head=False, weights=params.active.compute.weights
    )


def training_pairs(path: Path) -> list[Pair]:
    """The pairs of the training set, in the order of the list."""
    return [pair for pair in read_pairs(path) if pair.set == "trained"]


def shuffled_pairs(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """Pairs each Swahili form with the English form of another pair, by `similarity.derangement`: a control.

    What a model gains from these pairs comes from training on the words, not from the translations.
    """
    order = similarity.derangement(len(pairs), seed)
    return [pair._replace(english=pairs[other].english) for pair, other in zip(pairs, order, strict=True)]


def train(
    adapters: BatchedLora, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], settings: Train
) -> list[TrainingLog]:
    """Minimises each adapter's triplet loss over `settings.epochs` epochs, in place, by AdamW with a linear schedule.

    The adapters share only the frozen model and the step. Each has its own batches, dropout, loss and AdamW moments;
    the gradient of the sum of the losses is, for each adapter, the gradient of its own loss. An epoch is a new
    permutation of the pairs by the adapter's seed. With `pairs: shuffled` the translations are permuted first, by the
    same seed (see `shuffled_pairs`). The Swahili and English words of a batch go through the model in one forward pass.

    Raises:
        CheckFailed: a loss or gradient is not finite; the message names seed, step and words. The gradient is checked
            too because attention can hide a NaN from the loss.
    """
    pair_lists = [shuffled_pairs(pairs, seed) if settings.pairs == "shuffled" else [*pairs] for seed in adapters.seeds]
    form_rows = {form: row for row, form in enumerate(dict.fromkeys(form for pair in pairs for form in pair[:2]))}
    word_tokens = embeddings.tokens(tokenizer, [*form_rows])
    ids, real = backbone.pad(word_tokens, tokenizer.pad_token_id)
    pooled_tokens = real if settings.pooling == "mask" else embeddings.content(ids, real, tokenizer)
    optimizer = torch.optim.AdamW(adapters.parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    orders = [epoch_batches(len(pairs), settings.batch_size, settings.epochs, seed) for seed in adapters.seeds]
    batches = [*zip(*orders, strict=True)]
    schedule = get_linear_schedule_with_warmup(optimizer, settings.warmup_steps, len(batches))
    steps: list[list[Step]] = [[] for _ in adapters.seeds]
    false_negatives = [0 for _ in adapters.seeds]
    # nested by step and adapter: batch_pairs, form_indices, slices and inputs
    batch_pairs = [
        [[listed[index] for index in indices] for listed, indices in zip(pair_lists, batch, strict=True)]
        for batch in batches
    ]
    form_indices = [
        [[form_rows[pair[side]] for side in (0, 1) for pair in batch] for batch in step_batches]
        for step_batches in batch_pairs
    ]
    slices = [
        [(forms, slice(max(len(word_tokens[form]) for form in forms))) for forms in step_forms]
        for step_forms in form_indices
    ]
    inputs = [[Batch(ids[at], real[at].flatten().nonzero()[:, 0]) for at in step_slices] for step_slices in slices]
    for step in progress.track(range(len(batches)), f"train r={adapters.rank} seeds {adapters.seeds}"):
        states = adapters.states(inputs[step], *inputs[step + 1 : step + 2])
        pooled = [
            embeddings.pool(batch_states, pooled_tokens[at].to(batch_states.device))
            for batch_states, at in zip(states, slices[step], strict=True)
        ]
        anchors, positives = torch.stack(pooled).chunk(2, dim=1)
        duplicates = torch.stack([duplicate_mask([pair.english for pair in batch]) for batch in batch_pairs[step]])
        loss, positive, negative = triplet_loss(
            anchors, positives, settings.margin, duplicates if settings.mask_duplicates else None
        )
        optimizer.zero_grad()
        loss.sum().backward()
        bos_norms = torch.stack([batch_states.detach()[:, 0].float().norm(dim=-1).mean() for batch_states in states])
        values = torch.stack([loss.detach(), positive, negative, adapters.gradient_norms(), bos_norms], dim=1).tolist()
        for adapter, (loss_value, positive_cosine, negative_cosine, gradient_norm, bos_norm) in enumerate(values):
            if not math.isfinite(loss_value + gradient_norm):
                words = ", ".join(pair.swahili for pair in batch_pairs[step][adapter])
                raise CheckFailed(
                    f"train: expected a finite loss and gradient, got {loss_value:g} and {gradient_norm:g} "
                    f"at step {step + 1} of {len(batches)}, seed {adapters.seeds[adapter]} (words: {words}); "
                    "lower train.lr"
                )
            steps[adapter].append(
                Step(loss_value, positive_cosine, negative_cosine, schedule.get_last_lr()[0], gradient_norm, bos_norm)
            )
            false_negatives[adapter] += int(duplicates[adapter].sum())
        optimizer.step()
        schedule.step()
    epoch_steps = len(batches) // settings.epochs
    return [
        TrainingLog(adapter_steps, epoch_steps, adapters.size, count)
        for adapter_steps, count in zip(steps, false_negatives, strict=True)
    ]


def epoch_batches(n: int, size: int, count: int, seed: int) -> Iterator[list[int]]:
    """Batches of `size` indices from 0 … n - 1, permuted anew in each of `count` epochs; an epoch's last is smaller."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        order = torch.randperm(n, generator=generator).tolist()
        for start in range(0, n, size):
            yield order[start : start + size]


def summary_rows(run_id: RunId, log: TrainingLog, settings: Train) -> list[Row]:
    """Rows of a run: mean loss of its first and last epoch, number of trainable parameters, false negatives."""
    view = str(View(str(settings.layer), settings.pooling, "nf4"))
    losses = [step.loss for step in log.steps]
    values = {
        "loss_first": fmean(losses[: log.epoch_steps]),
        "loss_last": fmean(losses[-log.epoch_steps :]),
        "trainable_parameters": log.parameters,
        "false_negatives": log.false_negatives,
    }
    return [Row(*run_id, "trained", "-", view, name, value) for name, value in values.items()]
