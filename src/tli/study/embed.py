"""Embeddings of words: the hidden states of a word's tokens, averaged, at any layer under either pooling.

Feeds every lexical table: scan, align and the sweep's alignment all read what `embed` returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from tli import store
from tli.model import backbone


class Embedded(NamedTuple):
    """What a set of words looks like inside a model, per layer.

    `pooled[layer, pooling]` is (word, d_model) in float32, not normalised; `bos_norm[layer]` and `content_norm[layer]`
    are mean L2 norms: of the BOS state, and of the states of the words' own tokens (the mean over words of their mean).
    """

    pooled: dict[tuple[str, str], Float[ndarray, "word d_model"]]
    bos_norm: dict[str, float]
    content_norm: dict[str, float]


def tokens(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[list[int]]:
    """Token ids of each word on its own, BOS first.

    Raises:
        CheckFailed: the tokenizer puts no BOS first, or makes nothing of a word; no pooling would mean what it says.
    """
    ids: list[list[int]] = tokenizer(list(words), add_special_tokens=True)["input_ids"]
    for word, sequence in zip(words, ids, strict=True):
        if sequence[0] != tokenizer.bos_token_id or len(sequence) < 2:
            raise store.CheckFailed(
                f"tokenizer: expected BOS ({tokenizer.bos_token_id}) and at least one token for {word!r}, "
                f"got {sequence}; the tokenizer needs a post-processor that adds BOS"
            )
    return ids


def content(
    ids: Int[Tensor, "batch pos"], real: Bool[Tensor, "batch pos"], tokenizer: PreTrainedTokenizerBase
) -> Bool[Tensor, "batch pos"]:
    """Where a token is the word's own: neither padding nor BOS, EOS or pad."""
    special = torch.tensor(tokenizer.all_special_ids)
    return real & ~torch.isin(ids, special)


def pool(
    states: Float[Tensor, "batch pos d_model"], chosen: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "batch d_model"]:
    """Mean over the chosen positions, e_b = sum_t m_bt h_bt / sum_t m_bt, in float32 whatever the states' dtype."""
    weights = chosen.unsqueeze(-1).float()
    return (states.float() * weights).sum(dim=1) / weights.sum(dim=1)


@torch.no_grad()
def embed(model: nn.Module, tokenizer: PreTrainedTokenizerBase, words: Sequence[str], batch_size: int) -> Embedded:
    """Embeddings of `words` at every layer that `model` has, pooled by `mask` (BOS in) and by `content` (BOS out)."""
    sequences = tokens(tokenizer, words)
    pooled: dict[tuple[str, str], Float[ndarray, "word d_model"]] = {}
    norms: dict[tuple[str, str], Float[ndarray, " word"]] = {}
    for indices in backbone.batches(sequences, batch_size):
        ids, real = backbone.pad([sequences[index] for index in indices], tokenizer.pad_token_id)
        own = content(ids, real, tokenizer)

        def visit(
            layer: str,
            states: Float[Tensor, "batch pos d_model"],
            indices: list[int] = indices,
            real: Tensor = real,
            own: Tensor = own,
        ) -> None:
            for pooling, chosen in (("mask", real), ("content", own)):
                target = pooled.setdefault((layer, pooling), np.zeros((len(words), states.shape[-1]), dtype=np.float32))
                target[indices] = pool(states, chosen).numpy()
            length = states.float().norm(dim=-1, keepdim=True)
            for what, value in (("bos", length[:, 0, 0]), ("content", pool(length, own)[:, 0])):
                norms.setdefault((layer, what), np.zeros(len(words)))[indices] = value.numpy()

        backbone.forward(model, ids, visit)
    return Embedded(
        pooled,
        {layer: float(value.mean()) for (layer, what), value in norms.items() if what == "bos"},
        {layer: float(value.mean()) for (layer, what), value in norms.items() if what == "content"},
    )
