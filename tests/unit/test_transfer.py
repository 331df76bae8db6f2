"""Scoring: equal to lm-evaluation-harness on the same model, blind to trees and padding, rows that add up."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from tli.data.benchmarks import items
from tli.data.benchmarks.prompts import Item
from tli.io.errors import CheckFailed, UserError
from tli.measure import scoring, token_tree
from tli.measure.views import BASE
from tli.model import checkpoint

ITEMS = [
    Item("c1", "xcopa", "en", "test", 0, "the dog is here because", (" the cat is here.", " the bread is water.")),
    Item("c2", "xcopa", "sw", "test", 1, "mbwa ni mtoto kwa hiyo", (" paka ni maji.", " mti.")),
    Item(
        "n1",
        "xnli",
        "en",
        "test",
        2,
        "",
        tuple(f"the dog is here, right? {word}, a cat" for word in ("Yes", "Also", "No")),
    ),
]


@pytest.fixture(scope="module")
def float32(tiny_base: Path) -> SimpleNamespace:
    return SimpleNamespace(model=checkpoint.load(tiny_base).float(), tokenizer=checkpoint.tokenizer(tiny_base))


def scored(model: LlamaForCausalLM, asked: list[scoring.Request], size: int) -> list[float]:
    return scoring.log_likelihoods(model, scoring.plan(asked, 3, size))


@torch.no_grad()
def plainly(model: LlamaForCausalLM, request: scoring.Request) -> float:
    """The sum by transformers' own forward pass: one sequence, no mask, no batch."""
    ids = torch.tensor(request.ids)
    told = model(input_ids=ids[None], use_cache=False).logits[0, :-1].log_softmax(dim=-1)
    return float(told.gather(1, ids[1:, None])[-request.scored :].double().sum())


def test_log_likelihoods_equal_the_harness(float32: SimpleNamespace) -> None:
    """lm-eval's own HFLM on the same model object, in float32: every option within 5e-4 nats."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=float32.model, tokenizer=float32.tokenizer, batch_size=4, device="cpu")
    instances, ours = [], []
    for item in ITEMS:
        asked = scoring.requests(float32.tokenizer, item)
        ours += scored(float32.model, asked, 4)
        for number, option in enumerate(item.options):
            instances.append(
                Instance(request_type="loglikelihood", doc={}, arguments=(item.context, option), idx=number)
            )
    theirs = [value for value, _ in harness.loglikelihood(instances, disable_tqdm=True)]
    assert ours == pytest.approx(theirs, abs=5e-4)


def test_trees_score_as_single_sequences_do(float32: SimpleNamespace) -> None:
    """Of few tokens, so that sequences share beginnings, begin one another and are the same; batches of any size."""

    @settings(max_examples=60)
    @given(
        st.lists(
            st.lists(st.integers(4, 6), min_size=1, max_size=12).flatmap(
                lambda ids: st.builds(scoring.Request, st.just([1, *ids]), st.integers(1, len(ids)))
            ),
            min_size=1,
            max_size=12,
        ),
        st.integers(1, 12),
        st.sampled_from(["eager", "sdpa"]),
    )
    @example([scoring.Request([1, *ids], 1) for ids in ([4, 5], [4, 5], [4], [5, 4])], 4, "sdpa")
    def same(asked: list[scoring.Request], size: int, attention: str) -> None:
        float32.model.set_attn_implementation(attention)
        expected = [plainly(float32.model, request) for request in asked]
        assert scored(float32.model, asked, size) == pytest.approx(expected, rel=1e-5, abs=1e-5)

    implementation = float32.model.config._attn_implementation
    same()
    float32.model.set_attn_implementation(implementation)


def test_nothing_runs_or_is_scored_twice() -> None:
    @given(st.lists(st.lists(st.integers(4, 6), min_size=1, max_size=12), min_size=1, max_size=20), st.integers(1, 20))
    def once(sequences: list[list[int]], size: int) -> None:
        asked = [scoring.Request([1, *ids], len(ids)) for ids in sequences]
        nodes, owners = 0, []
        for batch in scoring.plan(asked, 3, size):
            ids, depth, end = batch.trees.tolist()
            real = [row.index(3) if 3 in row else len(row) for row in ids]
            nodes += sum(real)
            assert len(batch.token) == sum(real) - sum(row.count(1) for row in ids), "each token once, but for BOS"
            assert len(set(batch.states.tolist())) == len(batch.states)
            assert all(
                place < at <= length
                for row, length in zip(end, real, strict=True)
                for place, at in enumerate(row[:length])
            )
            assert all(row[:1] == [0] for row in depth)
            assert batch.requests <= size
            owners += batch.request.tolist()
        assert nodes <= sum(len(request.ids) for request in asked)
        assert sorted(owners) == [index for index, ids in enumerate(sequences) for _ in ids]
        prefixes = {(1, *ids[:length]) for ids in sequences for length in range(len(ids) + 1)}
        if len(sequences) <= size and len(prefixes) ** 2 <= token_tree.BREAK_EVEN_NODES:
            assert nodes == len(prefixes), "one tree holds every prefix once"

    once()


def test_a_tree_is_cut_where_least_is_shared_and_where_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = [[1, 4, 4, 4, 4, number] for number in range(7, 10)] + [[1, 5, 5, 5, number] for number in range(7, 10)]

    def found(size: int) -> list[list[int]]:
        return [sorted(tree.paths) for tree in token_tree.trees(sequences, size)]

    halves = [[0, 1, 2], [3, 4, 5]]
    assert found(6) == [[0, 1, 2, 3, 4, 5]]
    assert found(5) == halves
    assert found(1) == [[index] for index in range(6)]
    monkeypatch.setattr(token_tree, "BREAK_EVEN_NODES", 14**2 - 8**2 - 7**2 - 1)  # of 14 nodes, BOS would run once more
    assert found(6) == halves
    monkeypatch.setattr(token_tree, "BREAK_EVEN_NODES", 14**2 - 8**2 - 7**2)
    assert found(6) == [[0, 1, 2, 3, 4, 5]]


def test_a_window_shorter_than_a_sequence_is_refused(float32: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float32.model.config, "sliding_window", 3, raising=False)
    assert scored(float32.model, [scoring.Request([1, 7, 8], 2)], 1)
    with pytest.raises(CheckFailed, match="window of 3 tokens, got one of 4"):
        scored(float32.model, [scoring.Request([1, 7, 8, 9], 2)], 1)


def test_a_distribution_sums_to_one(float32: SimpleNamespace) -> None:
    size = float32.model.config.vocab_size
    scores = scored(float32.model, [scoring.Request([1, 7, token], 1) for token in range(size)], 64)
    assert sum(map(math.exp, scores)) == pytest.approx(1.0, abs=1e-4)


def test_scores_add_up_over_tokens(float32: SimpleNamespace) -> None:
    """log p(a b | c) = log p(a | c) + log p(b | c a)."""
    both, first, second = scored(
        float32.model,
        [scoring.Request([1, 9, 20, 30], 2), scoring.Request([1, 9, 20], 1), scoring.Request([1, 9, 20, 30], 1)],
        1,
    )
    assert both == pytest.approx(first + second, abs=1e-4)


def test_rows_of_an_item(float32: SimpleNamespace) -> None:
    rows = scoring.measure(BASE, scoring.prepare(ITEMS, float32.tokenizer, 8), float32.model)
    for item in ITEMS:
        values = {row.measure: float(row.value) for row in rows if row.item == item.id}
        scores = [values[f"loglik.{number}"] for number in range(len(item.options))]
        assert values["label"] == item.label
        assert values["pred"] == scores.index(max(scores))
        assert values["correct"] == (values["pred"] == item.label)
        assert (values["margin"] > 0) == bool(values["correct"])
    assert {row.set for row in rows} == {"xcopa.en", "xcopa.sw", "xnli.en"}


def test_drift_is_measured_and_small_in_float32(float32: SimpleNamespace) -> None:
    row = scoring.padding_drift(ITEMS, float32.model, float32.tokenizer, 8)
    assert (row.set, row.measure) == ("drift", "padding_drift")
    assert 0 <= float(row.value) < 5e-4


def test_the_untrained_model_has_the_bases_shape_and_is_reproducible(tiny_quantized: Path, tiny_base: Path) -> None:
    first, second = (scoring.untrained_model(tiny_quantized / "nf4", seed=0) for _ in range(2))
    assert first.num_parameters() == checkpoint.load(tiny_base).num_parameters()
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_missing_items_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        items.read_items(tmp_path / "none.jsonl")
