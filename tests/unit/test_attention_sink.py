"""The attention sink: the direction that separates BOS from other tokens, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tli.io.errors import CheckFailed
from tli.model import attention_sink


@given(st.integers(0, 999), st.integers(1, 80))
def test_the_direction_has_bos_alone_above_zero(seed: int, n: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, *others = torch.randn(n + 1, 64, generator=generator) + 2 * torch.eye(64)[0]
    others = torch.stack(others)
    others[:, 1] -= 4.0
    first[1] += 4.0
    direction, (own, nearest) = attention_sink.bos_direction(others, first, "here")
    assert nearest == -attention_sink.GATE_MARGIN
    assert float((others @ direction).max()) == pytest.approx(-attention_sink.GATE_MARGIN, rel=1e-3)
    assert float(first @ direction) == pytest.approx(own, rel=1e-3)
    assert own > 0


def test_a_bos_among_the_others_is_refused_in_one_line() -> None:
    others = torch.cat([torch.eye(64), -torch.eye(64)])
    with pytest.raises(CheckFailed, match=r"here: expected a direction that is positive at BOS only, got none; raise"):
        attention_sink.bos_direction(others, torch.ones(64), "here")
