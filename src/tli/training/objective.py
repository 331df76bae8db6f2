"""The triplet objective of Targeted Lexical Injection (2506.15415, section 3.2).

For a batch of pairs (a_i, p_i), with e the pooled hidden_states[layer] of a word and s_ij = cos(e(a_i), e(p_j)):

    loss = mean_i max(0, margin + max_{j != i} s_ij - s_ii)

The anchor a_i is Swahili; its negatives are the other English words of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


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
