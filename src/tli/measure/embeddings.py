"""Embeddings of words: the hidden states of a word's tokens, averaged, at any layer under either pooling.

Feeds every lexical table: scan, align and the sweep's alignment all read what `embed` returns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from tli.io.errors import CheckFailed
from tli.measure.views import POOLINGS
from tli.model import backbone


class Massive(NamedTuple):
    """The largest activation of the first token's state at one layer, max_d |h_d|, where it is, and what is usual.

    `median` is the middle of |activation| over every token and dimension of a word, the middle word's. Sun et al. 2024
    (2402.17762, section 2) call an activation massive that is above 100 and about 1,000 times that median or more.
    """

    magnitude: float
    dimension: int
    median: float


class Embedded(NamedTuple):
    """What a set of words looks like inside a model, per layer.

    `pooled[layer, pooling]` is (word, d_model) in float32, not normalised; `bos_norm[layer]` and `content_norm[layer]`
    are mean L2 norms: of the first token's state, and of the states of the words' own tokens (the mean over words of
    their mean). The first token, BOS, follows from nothing before it: its state is one for all words, but for rounding.
    """

    pooled: dict[tuple[str, str], Float[ndarray, "word d_model"]]
    bos_norm: dict[str, float]
    content_norm: dict[str, float]
    massive: dict[str, Massive]


def first_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token in front of every word: BOS, or EOS where the tokenizer has no BOS (as Qwen2.5's), as in the harness.

    Raises:
        CheckFailed: the tokenizer has neither.
    """
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if first is None:
        raise CheckFailed("tokenizer: expected a BOS or an EOS token, got neither; set one in the checkpoint")
    return int(first)


def tokens(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[list[int]]:
    """Token ids of each word on its own, the first token (BOS, see `first_token`) in front.

    Raises:
        CheckFailed: the tokenizer has a BOS and puts it not first, or makes nothing of a word; no pooling would mean
            what it says.
    """
    ids: list[list[int]] = tokenizer(list(words), add_special_tokens=True)["input_ids"]
    first = first_token(tokenizer)
    if tokenizer.bos_token_id is None:
        ids = [[first, *sequence] for sequence in ids]
    for word, sequence in zip(words, ids, strict=True):
        if sequence[0] != first or len(sequence) < 2:
            raise CheckFailed(
                f"tokenizer: expected BOS ({first}) and at least one token for {word!r}, "
                f"got {sequence}; the tokenizer needs a post-processor that adds BOS"
            )
    return ids


def content(
    ids: Int[Tensor, "batch pos"], real: Bool[Tensor, "batch pos"], tokenizer: PreTrainedTokenizerBase
) -> Bool[Tensor, "batch pos"]:
    """Where a token is the word's own: neither padding nor BOS, EOS or pad."""
    special = torch.tensor(tokenizer.all_special_ids, device=ids.device)
    return real & ~torch.isin(ids, special)


def pool(
    states: Float[Tensor, "batch pos d_model"], chosen: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "batch d_model"]:
    """Mean over the chosen positions, e_b = sum_t m_bt h_bt / sum_t m_bt, in float32 whatever the states' dtype."""
    weights = chosen.unsqueeze(-1).float()
    return (states.float() * weights).sum(dim=1) / weights.sum(dim=1)


def medians(size: Float[ndarray, "batch pos d_model"], lengths: Int[ndarray, " batch"]) -> Float[ndarray, " batch"]:
    """Each word's median over its tokens and their dimensions; of an even number, the lower of the middle two."""
    middle = np.empty(len(size), dtype=size.dtype)
    for length in np.unique(lengths):
        rows = lengths == length
        flat = size[rows, :length].reshape(int(rows.sum()), -1)
        place = (flat.shape[1] - 1) // 2
        middle[rows] = np.partition(flat, place, axis=1)[:, place]
    return middle


def vocabulary(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> set[int]:
    """Every token id that `embed` asks the model for with these words: theirs, and that of padding."""
    return {tokenizer.pad_token_id, *chain.from_iterable(tokens(tokenizer, words))}


class Batch(NamedTuple):
    """Words that go through the model together: which list they are of, their places in it, and their tokens."""

    part: int
    indices: list[int]
    ids: Int[Tensor, "batch pos"]
    real: Bool[Tensor, "batch pos"]
    own: Bool[Tensor, "batch pos"]
    lengths: Int[ndarray, " batch"]


def embed(model: nn.Module, tokenizer: PreTrainedTokenizerBase, words: Sequence[str], batch_size: int) -> Embedded:
    """Embeddings of `words` at every layer that `model` has, pooled by `mask` (BOS in) and by `content` (BOS out)."""
    found = Embedded({}, {}, {}, {})
    for _, (one,) in by_layer(model, tokenizer, [words], batch_size):
        found.pooled.update(one.pooled)
        found.bos_norm.update(one.bos_norm)
        found.content_norm.update(one.content_norm)
        found.massive.update(one.massive)
    return found


def by_layer(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, lists: Sequence[Sequence[str]], batch_size: int
) -> Iterator[tuple[str, list[Embedded]]]:
    """Layer after layer, what `embed` gives there for each list of words: no layer is held beside another."""
    device = next(model.parameters()).device
    batches: list[Batch] = []
    for part, words in enumerate(lists):
        sequences = tokens(tokenizer, words)
        for indices in backbone.batches(sequences, batch_size):
            ids, real = backbone.pad([sequences[index] for index in indices], tokenizer.pad_token_id)
            lengths = np.array([len(sequences[index]) for index in indices])
            own = content(ids, real, tokenizer)
            batches.append(Batch(part, indices, ids.to(device), real.to(device), own.to(device), lengths))
    for layer, states in backbone.run(model, [batch.ids for batch in batches], [batch.real for batch in batches]):
        found = []
        for part, words in enumerate(lists):
            own_batches = [(batch, each) for batch, each in zip(batches, states, strict=True) if batch.part == part]
            found.append(_pooled(layer, len(words), own_batches))
        yield layer, found


def _pooled(layer: str, n: int, batches: Sequence[tuple[Batch, Float[Tensor, "batch pos d_model"]]]) -> Embedded:
    """`n` words at one layer, from their batches."""
    means = {pooling: np.zeros((n, batches[0][1].shape[-1]), dtype=np.float32) for pooling in POOLINGS}
    kept = {name: np.zeros(n) for name in ("bos", "content", "magnitude", "dimension", "median")}
    for batch, own in batches:
        states = own.float()
        for pooling, chosen in zip(POOLINGS, (batch.real, batch.own), strict=True):
            means[pooling][batch.indices] = pool(states, chosen).cpu().numpy()
        length, size = states.norm(dim=-1, keepdim=True), states.abs()
        largest = size[:, 0].max(dim=-1)
        kept["bos"][batch.indices] = length[:, 0, 0].cpu().numpy()
        kept["content"][batch.indices] = pool(length, batch.own)[:, 0].cpu().numpy()
        kept["magnitude"][batch.indices] = largest.values.cpu().numpy()
        kept["dimension"][batch.indices] = largest.indices.cpu().numpy()
        kept["median"][batch.indices] = medians(size.cpu().numpy(), batch.lengths)
    return Embedded(
        {(layer, pooling): mean for pooling, mean in means.items()},
        {layer: float(kept["bos"].mean())},
        {layer: float(kept["content"].mean())},
        {layer: _massive(kept)},
    )


def _massive(kept: dict[str, Float[ndarray, " word"]]) -> Massive:
    """Over words: the largest magnitude, its dimension, the median of the medians."""
    top = int(kept["magnitude"].argmax())
    return Massive(float(kept["magnitude"][top]), int(kept["dimension"][top]), float(np.median(kept["median"])))
