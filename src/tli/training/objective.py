"""The triplet objective of Targeted Lexical Injection (2506.15415, section 3.2).

For a batch of word pairs (a_i, p_i), with e(w) the pooled hidden_states[layer] of word w and
s_ij = cos(e(a_i), e(p_j)):

    loss = mean_i max(0, margin + max_{j != i} s_ij - s_ii)

The anchor a_i is the Swahili word, the positive p_i its English translation, and the negatives are the other English
words of the batch; the hardest negative is the most similar one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


def triplet_loss(
    anchors: Float[Tensor, "*run n d_model"],
    positives: Float[Tensor, "*run n d_model"],
    margin: float,
    masked: Bool[Tensor, "*run n n"] | None = None,
) -> tuple[Float[Tensor, "*run"], Float[Tensor, "*run"], Float[Tensor, "*run"]]:
    """Per run: the loss mean_i max(0, margin + max_{j != i} s_ij - s_ii), the mean of s_ii and the mean hardest s_ij.

    Negatives j with `masked[i, j]` are excluded. An anchor without negatives has loss 0 and does not count in the mean
    of the hardest negatives; that mean is 0 if no anchor has a negative. Only the loss has a gradient.
    """
    cosines = nn.functional.cosine_similarity(anchors.unsqueeze(-2), positives.unsqueeze(-3), dim=-1)
    excluded = torch.eye(anchors.shape[-2], dtype=torch.bool, device=anchors.device)
    excluded = excluded if masked is None else excluded | masked.to(anchors.device)
    positive = cosines.diagonal(dim1=-2, dim2=-1)
    hardest = cosines.masked_fill(excluded, -math.inf).max(dim=-1).values
    losses = torch.relu(margin + hardest - positive)
    has_negative = ~excluded.all(dim=-1)
    negative_sum = torch.where(has_negative, hardest.detach(), 0).sum(dim=-1)
    return losses.mean(dim=-1), positive.detach().mean(dim=-1), negative_sum / has_negative.sum(dim=-1).clamp(min=1)


def duplicate_mask(forms: Sequence[str]) -> Bool[Tensor, "n n"]:
    """True where a negative has the same form as the positive: m_ij = (form_i = form_j) and i != j."""
    return torch.tensor([[i != j and a == b for j, b in enumerate(forms)] for i, a in enumerate(forms)])
