"""Scoring: equal to lm-evaluation-harness on the same model, blind to padding, rows that add up."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tli import store
from tli.data import items
from tli.data.prompts import Item
from tli.model import backbone
from tli.study import transfer
from tli.study.views import BASE

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
    return SimpleNamespace(model=backbone.load(tiny_base).float(), tokenizer=backbone.tokenizer(tiny_base))


def test_log_likelihoods_equal_the_harness(float32: SimpleNamespace) -> None:
    """lm-eval's own HFLM on the same model object, in float32: every option within 5e-4 nats."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=float32.model, tokenizer=float32.tokenizer, batch_size=4, device="cpu")
    instances, ours = [], []
    for item in ITEMS:
        asked = transfer.requests(float32.tokenizer, item)
        ours += transfer.log_likelihoods(float32.model, asked, float32.tokenizer.pad_token_id, 4)
        for number, option in enumerate(item.options):
            instances.append(
                Instance(request_type="loglikelihood", doc={}, arguments=(item.context, option), idx=number)
            )
    theirs = [value for value, _ in harness.loglikelihood(instances, disable_tqdm=True)]
    assert ours == pytest.approx(theirs, abs=5e-4)


def test_padding_never_changes_a_score(float32: SimpleNamespace) -> None:
    @settings(max_examples=25)
    @given(st.lists(st.lists(st.integers(4, 99), min_size=2, max_size=14), min_size=2, max_size=6))
    def same(sequences: list[list[int]]) -> None:
        asked = [transfer.Request([1, *ids], len(ids) - 1) for ids in sequences]
        together = transfer.log_likelihoods(float32.model, asked, 3, batch_size=len(asked))
        alone = transfer.log_likelihoods(float32.model, asked, 3, batch_size=1)
        assert together == pytest.approx(alone, abs=5e-4)

    same()


def test_a_distribution_sums_to_one(float32: SimpleNamespace) -> None:
    size = float32.model.config.vocab_size
    asked = [transfer.Request([1, 7, token], 1) for token in range(size)]
    scores = transfer.log_likelihoods(float32.model, asked, 3, 64)
    assert sum(map(math.exp, scores)) == pytest.approx(1.0, abs=1e-4)


def test_scores_add_up_over_tokens(float32: SimpleNamespace) -> None:
    """log p(a b | c) = log p(a | c) + log p(b | c a)."""
    both, first, second = transfer.log_likelihoods(
        float32.model,
        [transfer.Request([1, 9, 20, 30], 2), transfer.Request([1, 9, 20], 1), transfer.Request([1, 9, 20, 30], 1)],
        3,
        1,
    )
    assert both == pytest.approx(first + second, abs=1e-4)


def test_rows_of_an_item(float32: SimpleNamespace) -> None:
    rows = transfer.measure(BASE, ITEMS, float32.model, float32.tokenizer, 8)
    for item in ITEMS:
        values = {row.measure: float(row.value) for row in rows if row.item == item.id}
        scores = [values[f"loglik.{number}"] for number in range(len(item.options))]
        assert values["label"] == item.label
        assert values["pred"] == scores.index(max(scores))
        assert values["correct"] == (values["pred"] == item.label)
        assert (values["margin"] > 0) == bool(values["correct"])
    assert {row.set for row in rows} == {"xcopa.en", "xcopa.sw", "xnli.en"}


def test_drift_is_measured_and_small_in_float32(float32: SimpleNamespace) -> None:
    row = transfer.drift(ITEMS, float32.model, float32.tokenizer, 8)
    assert (row.set, row.measure) == ("drift", "padding_drift")
    assert 0 <= float(row.value) < 5e-4


def test_the_untrained_model_has_the_bases_shape_and_is_reproducible(tiny_quantized: Path, tiny_base: Path) -> None:
    first, second = (transfer._untrained(tiny_quantized / "nf4", seed=0) for _ in range(2))
    assert first.num_parameters() == backbone.load(tiny_base).num_parameters()
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_missing_items_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(store.UserError, match="no such file"):
        items.read_items(tmp_path / "none.jsonl")
