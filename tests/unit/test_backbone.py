"""Spans of blocks: layers are what they are called, padding changes nothing, cut equals whole."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tli.io.errors import CheckFailed
from tli.measure import embeddings
from tli.model import backbone, checkpoint


def _float32(folder: Path) -> torch.nn.Module:
    model = checkpoint.load(folder)
    return model.float()


def test_layers_are_transformers_hidden_states(tiny: SimpleNamespace) -> None:
    ids = torch.randint(4, 100, (3, 7), generator=torch.Generator().manual_seed(0))
    seen: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        backbone.forward(tiny.model, ids, seen.__setitem__)
        expected = tiny.model(ids, output_hidden_states=True).hidden_states
    assert list(seen) == ["0", "1", "2", "3", "4", "norm"]
    for number in range(4):
        assert torch.equal(seen[str(number)], expected[number])
    assert torch.equal(seen["norm"], expected[4])
    assert torch.equal(tiny.model.model.norm(seen["4"]), seen["norm"])
    assert not torch.equal(seen["4"], seen["norm"])


def test_hooks_are_gone_after_a_forward_pass(tiny: SimpleNamespace) -> None:
    backbone.forward(tiny.model, torch.tensor([[1, 5]]), lambda _name, _state: None)
    assert not any(module._forward_hooks for module in tiny.model.modules())


@given(st.lists(st.lists(st.integers(4, 99), min_size=1, max_size=9), min_size=1, max_size=6))
def test_padding_marks_just_what_was_added(sequences: list[list[int]]) -> None:
    ids, real = backbone.pad(sequences, 3)
    assert [row[mask].tolist() for row, mask in zip(ids, real, strict=True)] == sequences
    assert (ids[~real] == 3).all()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 8))
def test_batches_are_a_partition_sorted_by_length(lengths: list[int], size: int) -> None:
    batches = list(backbone.batches([[0] * length for length in lengths], size))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) <= size for batch in batches)
    flat = [lengths[index] for batch in batches for index in batch]
    assert flat == sorted(flat)


def test_padding_and_batch_never_change_an_embedding(tiny_base: Path) -> None:
    """In float32: a word alone and the same word padded among longer ones have the same embedding."""
    model, tokenizer = _float32(tiny_base), checkpoint.tokenizer(tiny_base)

    @hypothesis_settings(max_examples=25)
    @given(st.lists(st.text(alphabet="abkmtuwi ", min_size=1, max_size=24).filter(str.strip), min_size=2, max_size=6))
    def same(words: list[str]) -> None:
        together = embeddings.embed(model, tokenizer, words, batch_size=len(words)).pooled
        for number, word in enumerate(words):
            alone = embeddings.embed(model, tokenizer, [word], batch_size=1).pooled
            for view, values in together.items():
                np.testing.assert_allclose(values[number], alone[view][0], rtol=2e-4, atol=2e-5)

    same()


@given(st.lists(st.lists(st.integers(4, 7), min_size=1, max_size=5), min_size=1, max_size=8))
def test_tokens_are_the_beginnings_and_stand_where_they_belong(sequences: list[list[int]]) -> None:
    """Each beginning once, and of every real position the token whose beginning ends there."""
    ids, real = backbone.pad(sequences, 3)
    found = backbone.distinct_tokens(ids, real)
    beginnings = {tuple(own[: end + 1]) for own in sequences for end in range(len(own))}
    assert len(found.first) == len(beginnings)
    for row, own in enumerate(sequences):
        for end in range(len(own)):
            first_row, first_end = divmod(int(found.first[found.token_at[row, end]]), ids.shape[1])
            assert ids[first_row, : first_end + 1].tolist() == own[: end + 1]
    laid = found.expand(torch.arange(len(found.first))[:, None].float())
    assert torch.equal(laid[..., 0][real].long(), found.token_at[real])


@pytest.mark.parametrize("kind", ["bfloat16, NF4", "float32, NF4", "float32"])
def test_what_words_share_is_run_once_and_no_state_is_another(tiny_quantized: Path, tiny_base: Path, kind: str) -> None:
    """`run_by_block` gives transformers' states of the whole padded batch: in bfloat16 bit for bit on the tiny model.

    In float32 the order of sums depends on the number of tokens. Allowed are eight roundings (2^-20) of the state's
    length in each of four blocks; transformers' own states are farther from those in float64.
    """
    dtype, _, packed = kind.partition(", ")
    model = checkpoint.load(tiny_quantized / "nf4", dtype=dtype) if packed else _float32(tiny_base)
    bound = 4 * 2**-20 if dtype == "float32" else 0.0

    @hypothesis_settings(max_examples=25)
    @given(st.lists(st.lists(st.integers(4, 12), min_size=1, max_size=6), min_size=1, max_size=9))
    def same(words: list[list[int]]) -> None:
        ids, real = backbone.pad([[1, *word] for word in words], 3)
        expected: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            backbone.forward(model, ids, expected.__setitem__)
        for layer, (states,) in backbone.run_by_block(model, [ids], [real]):
            difference = (states[real].float() - expected[layer][real].float()).norm(dim=-1)
            assert (difference <= bound * expected[layer][real].float().norm(dim=-1)).all(), layer

    same()


def test_in_bfloat16_no_batch_changes_an_embedding_by_more_than_rounding(tiny_quantized: Path) -> None:
    """Alone (so at its exact length), among words of its length, padded among longer ones: within bfloat16's 2^-8."""
    model, tokenizer = checkpoint.load(tiny_quantized / "nf4"), checkpoint.tokenizer(tiny_quantized / "nf4")
    words = ["mbwa", "kusoma", "jua", "hospitali", "mwalimu", "mbwa mwalimu", "a"]
    padded = embeddings.embed(model, tokenizer, words, batch_size=len(words)).pooled
    for size in (1, 2, 3):
        other = embeddings.embed(model, tokenizer, words, batch_size=size).pooled
        for view, values in padded.items():
            distance = np.linalg.norm(values - other[view], axis=1) / np.linalg.norm(values, axis=1)
            assert distance.max() < 2**-8, (size, view)


def test_mask_pooling_has_bos_in_and_content_pooling_has_it_out(tiny: SimpleNamespace) -> None:
    ids, real = backbone.pad([[1, 8, 9, 2], [1, 8]], 3)
    own = embeddings.content(ids, real, tiny.tokenizer)
    assert real.tolist() == [[True, True, True, True], [True, True, False, False]]
    assert own.tolist() == [[False, True, True, False], [False, True, False, False]]
    states = torch.arange(8.0).reshape(2, 4, 1)
    assert embeddings.pool(states, real)[:, 0].tolist() == [1.5, 4.5]
    assert embeddings.pool(states, own)[:, 0].tolist() == [1.5, 5.0]


def test_a_tokenizer_without_bos_is_refused(tiny: SimpleNamespace) -> None:
    tiny.tokenizer.backend_tokenizer.post_processor = None
    with pytest.raises(CheckFailed, match="expected BOS"):
        embeddings.tokens(tiny.tokenizer, ["mbwa"])
