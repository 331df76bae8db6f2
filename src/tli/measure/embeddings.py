"""Word embeddings: the mean of a word's hidden states, at any layer and under either pooling.

    e(w) = sum_t m_t h_t / sum_t m_t

with h_t the hidden state of token t at a layer and m_t = 1 for the tokens that the pooling includes. All similarity
tables use these embeddings (stages scan, base-rows, similarity, sweep-score, tsne and bfloat16).
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


class MassiveActivation(NamedTuple):
    """The largest activation of the first token's state at one layer, max_d |h_d|, its dimension d, and the median.

    `median` is the median over words of the median |activation| over a word's tokens and dimensions. Sun et al. 2024
    (2402.17762, section 2) call an activation massive if it exceeds 100 and is about 1,000 times the median or more.
    """

    magnitude: float
    dimension: int
    median: float


class Embedded(NamedTuple):
    """The embeddings of a list of words and the norms of their hidden states, for each layer.

    - `pooled[layer, pooling]`: the embeddings, (word, d_model) in float32, not normalised.
    - `bos_norm[layer]`: mean L2 norm of the first token's state. The first token (BOS) attends only to itself, so its
      state is the same for all words except for rounding.
    - `content_norm[layer]`: mean over words of the mean L2 norm of the word's content tokens.
    - `massive[layer]`: the largest activation of the first token's state.
    """

    pooled: dict[tuple[str, str], Float[ndarray, "word d_model"]]
    bos_norm: dict[str, float]
    content_norm: dict[str, float]
    massive: dict[str, MassiveActivation]


def first_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token before every word: BOS, or EOS if the tokenizer has no BOS (Qwen2.5), as in lm-evaluation-harness.

    Raises:
        CheckFailed: the tokenizer has neither.
    """
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if first is None:
        raise CheckFailed("tokenizer: expected a BOS or an EOS token, got neither; set one in the checkpoint")
    return int(first)


def tokens(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[list[int]]:
    """Token ids of each word by itself, with the first token (BOS, see `first_token`) in front.

    Raises:
        CheckFailed: the tokenizer has a BOS token but does not put it first, or gives no token for a word. The poolings
            would then not be what their names say.
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
    """True at the content tokens of a word: neither padding nor a special token (BOS, EOS, pad)."""
    special = torch.tensor(tokenizer.all_special_ids, device=ids.device)
    return real & ~torch.isin(ids, special)


def pool(
    states: Float[Tensor, "batch pos d_model"], selected: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "batch d_model"]:
    """Mean over the selected positions, e_b = sum_t m_bt h_bt / sum_t m_bt, computed in float32 for every dtype."""
    weights = selected.unsqueeze(-1).float()
    return (states.float() * weights).sum(dim=1) / weights.sum(dim=1)


def medians(
    magnitudes: Float[ndarray, "batch pos d_model"], lengths: Int[ndarray, " batch"]
) -> Float[ndarray, " batch"]:
    """Each word's median over its tokens and dimensions; for an even count, the lower of the two middle values."""
    medians_of_words = np.empty(len(magnitudes), dtype=magnitudes.dtype)
    for length in np.unique(lengths):
        rows = lengths == length
        flat = magnitudes[rows, :length].reshape(int(rows.sum()), -1)
        middle_index = (flat.shape[1] - 1) // 2
        medians_of_words[rows] = np.partition(flat, middle_index, axis=1)[:, middle_index]
    return medians_of_words


def vocabulary(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> set[int]:
    """Every token id that `embed` gives to the model for these words: their tokens and the padding token."""
    return {tokenizer.pad_token_id, *chain.from_iterable(tokens(tokenizer, words))}


class WordBatch(NamedTuple):
    """Words that go through the model together: the list they come from, their indices in it, and their tokens."""

    list_index: int
    indices: list[int]
    ids: Int[Tensor, "batch pos"]
    real: Bool[Tensor, "batch pos"]
    content: Bool[Tensor, "batch pos"]
    lengths: Int[ndarray, " batch"]


def embed(model: nn.Module, tokenizer: PreTrainedTokenizerBase, words: Sequence[str], batch_size: int) -> Embedded:
    """Embeddings of `words` at every layer of `model`, pooled by `mask` (with BOS) and by `content` (without BOS)."""
    embedded = Embedded({}, {}, {}, {})
    for _, (at_layer,) in by_layer(model, tokenizer, [words], batch_size):
        embedded.pooled.update(at_layer.pooled)
        embedded.bos_norm.update(at_layer.bos_norm)
        embedded.content_norm.update(at_layer.content_norm)
        embedded.massive.update(at_layer.massive)
    return embedded


def by_layer(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, lists: Sequence[Sequence[str]], batch_size: int
) -> Iterator[tuple[str, list[Embedded]]]:
    """Yields each layer's name and, for each list of words, what `embed` returns; one layer is in memory at a time."""
    device = next(model.parameters()).device
    batches: list[WordBatch] = []
    for list_index, words in enumerate(lists):
        sequences = tokens(tokenizer, words)
        for indices in backbone.batches(sequences, batch_size):
            ids, real = backbone.pad([sequences[index] for index in indices], tokenizer.pad_token_id)
            lengths = np.array([len(sequences[index]) for index in indices])
            content_tokens = content(ids, real, tokenizer)
            batches.append(
                WordBatch(list_index, indices, ids.to(device), real.to(device), content_tokens.to(device), lengths)
            )
    for layer, states in backbone.run_by_block(
        model, [batch.ids for batch in batches], [batch.real for batch in batches]
    ):
        embedded = []
        for list_index, words in enumerate(lists):
            batches_of_list = [
                (batch, batch_states)
                for batch, batch_states in zip(batches, states, strict=True)
                if batch.list_index == list_index
            ]
            embedded.append(_pooled(layer, len(words), batches_of_list))
        yield layer, embedded


def _pooled(layer: str, n: int, batches: Sequence[tuple[WordBatch, Float[Tensor, "batch pos d_model"]]]) -> Embedded:
    """The embeddings and norms of `n` words at one layer, from the hidden states of their batches."""
    means = {pooling: np.zeros((n, batches[0][1].shape[-1]), dtype=np.float32) for pooling in POOLINGS}
    per_word = {name: np.zeros(n) for name in ("bos", "content", "magnitude", "dimension", "median")}
    for batch, batch_states in batches:
        states = batch_states.float()
        for pooling, selected in zip(POOLINGS, (batch.real, batch.content), strict=True):
            means[pooling][batch.indices] = pool(states, selected).cpu().numpy()
        norms, magnitudes = states.norm(dim=-1, keepdim=True), states.abs()
        largest = magnitudes[:, 0].max(dim=-1)
        per_word["bos"][batch.indices] = norms[:, 0, 0].cpu().numpy()
        per_word["content"][batch.indices] = pool(norms, batch.content)[:, 0].cpu().numpy()
        per_word["magnitude"][batch.indices] = largest.values.cpu().numpy()
        per_word["dimension"][batch.indices] = largest.indices.cpu().numpy()
        per_word["median"][batch.indices] = medians(magnitudes.cpu().numpy(), batch.lengths)
    return Embedded(
        {(layer, pooling): mean for pooling, mean in means.items()},
        {layer: float(per_word["bos"].mean())},
        {layer: float(per_word["content"].mean())},
        {layer: _massive_activation(per_word)},
    )


def _massive_activation(per_word: dict[str, Float[ndarray, " word"]]) -> MassiveActivation:
    """Over all words: the largest magnitude, its dimension, and the median of the words' medians."""
    top = int(per_word["magnitude"].argmax())
    return MassiveActivation(
        float(per_word["magnitude"][top]), int(per_word["dimension"][top]), float(np.median(per_word["median"]))
    )
