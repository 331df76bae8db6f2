"""Targeted Lexical Injection: the objective to the letter, its schedule, its failures."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

from tli.analysis.results import Rows
from tli.config.parameters import Params
from tli.data.words.lexicon import Pair
from tli.io.errors import CheckFailed
from tli.io.rows import read_rows
from tli.io.structured import write_tsv
from tli.measure import embeddings
from tli.model import checkpoint, lora
from tli.model.batched_lora import BatchedLora, batched_lora
from tli.stages import train
from tli.training import loop, objective


def _by_hand(anchors: torch.Tensor, positives: torch.Tensor, margin: float, masked: torch.Tensor) -> float:
    """The loss by its definition, one anchor at a time."""
    terms = []
    for i, anchor in enumerate(anchors):
        similar = [float(torch.dot(anchor, p) / (anchor.norm() * p.norm())) for p in positives]
        negatives = [s for j, s in enumerate(similar) if j != i and not masked[i, j]]
        terms.append(max(0.0, margin + max(negatives) - similar[i]) if negatives else 0.0)
    return sum(terms) / len(terms)


@given(st.integers(1, 6), st.floats(0, 1), st.integers(0, 999), st.booleans())
def test_loss_is_its_definition(n: int, margin: float, seed: int, mask: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    anchors, positives = torch.randn(2, n, 5, generator=generator)
    masked = torch.rand(n, n, generator=generator) < 0.3
    loss = objective.triplet_loss(anchors, positives, margin, masked if mask else None)[0]
    expected = _by_hand(anchors, positives, margin, masked if mask else torch.zeros(n, n, dtype=torch.bool))
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_a_positive_beyond_the_margin_costs_nothing() -> None:
    points = torch.eye(4)
    loss, positive, negative = objective.triplet_loss(points, points, margin=0.4)
    assert (loss.item(), positive.item(), negative.item()) == (0.0, 1.0, 0.0)


def test_duplicates_are_candidates_with_the_positives_form() -> None:
    expected = [[False, False, True], [False, False, False], [True, False, False]]
    assert objective.duplicate_mask(["dog", "cat", "dog"]).tolist() == expected


def test_duplicates_are_counted_always_and_masked_only_when_asked(
    tiny: SimpleNamespace, pairs: list[Pair], params: Params
) -> None:
    twice = [pair._replace(english="dog") if i < 2 else pair for i, pair in enumerate(pairs[:8])]
    runs = []
    for mask in (False, True):
        settings = params.train.model_copy(update={"mask_duplicates": mask, "epochs": 1, "batch_size": 8})
        with batched_lora(tiny.model, params.lora, 2, [0], last_block=2) as adapters:
            runs += loop.train(adapters, tiny.tokenizer, twice, settings)
    assert [run.false_negatives for run in runs] == [2, 2]
    same = objective.duplicate_mask([pair.english for pair in twice])
    points = torch.eye(8)
    points[1] = points[0]
    plain, masked = (objective.triplet_loss(points, points, 0.4, out)[0].item() for out in (None, same))
    assert (plain, masked) == pytest.approx((2 * 0.4 / 8, 0.0))  # each twin costs the margin unless it is masked


@given(st.integers(1, 40), st.integers(2, 9), st.integers(1, 3), st.integers(0, 99))
def test_every_epoch_holds_every_pair_once(n: int, size: int, count: int, seed: int) -> None:
    batches = list(loop.epoch_batches(n, size, count, seed))
    assert len(batches) == count * math.ceil(n / size)
    for epoch in range(count):
        part = batches[epoch * math.ceil(n / size) : (epoch + 1) * math.ceil(n / size)]
        assert sorted(index for batch in part for index in batch) == list(range(n))


def test_the_papers_batches_are_390() -> None:
    assert len(list(loop.epoch_batches(623, 8, 5, 0))) == 390


def _train(
    tiny: SimpleNamespace, pairs: list[Pair], params: Params, seed: int = 0, **changes: object
) -> tuple[BatchedLora, loop.TrainingLog]:
    settings = params.train.model_copy(update=changes)
    with batched_lora(tiny.model, params.lora, settings.layer, [seed], settings.layer) as adapters:
        (trained,) = loop.train(adapters, tiny.tokenizer, pairs, settings)
    return adapters, trained


def test_training_brings_translations_together(tiny: SimpleNamespace, pairs: list[Pair], params: Params) -> None:
    _, trained = _train(tiny, pairs, params, lr=2e-2, warmup_steps=2, epochs=20, pooling="content")
    assert trained.steps[-1].loss < 0.7 * trained.steps[0].loss
    gap = [step.positive_cosine - step.negative_cosine for step in trained.steps]
    assert gap[-1] > gap[0]


def test_learning_rate_zero_changes_nothing_anywhere(
    tiny: SimpleNamespace, pairs: list[Pair], params: Params, tmp_path: Path
) -> None:
    """lr = 0: the adapter stays as it was drawn, and every embedding at every layer stays the base's, bit for bit."""
    adapters, _ = _train(tiny, pairs, params, lr=0.0)
    fresh = lora.attach(checkpoint.load(tiny.folder, blocks=2), params.lora, 2, seed=0)
    drawn = get_peft_model_state_dict(fresh)
    assert all(torch.equal(tensor, drawn[name]) for name, tensor in adapters.tensors(0).items())
    lora.save(adapters.tensors(0), params.lora, 2, tmp_path / "a", base="base")
    adapted = lora.load(tiny.model, tmp_path / "a")
    words = [pair.swahili for pair in pairs]
    before = embeddings.embed(checkpoint.load(tiny.folder), tiny.tokenizer, words, 4)
    after = embeddings.embed(adapted, tiny.tokenizer, words, 4)
    assert all((before.pooled[view] == after.pooled[view]).all() for view in before.pooled)


def test_same_seed_same_run_other_seed_another(tiny: SimpleNamespace, pairs: list[Pair], params: Params) -> None:
    runs = [_train(tiny, pairs, params, seed=seed)[1] for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert runs[0].steps != runs[2].steps


def test_schedule_warms_up_then_falls_linearly(tiny: SimpleNamespace, pairs: list[Pair], params: Params) -> None:
    _, trained = _train(tiny, pairs, params, lr=1e-3, warmup_steps=2, epochs=3, batch_size=4)
    rates = [step.lr for step in trained.steps]
    n = len(rates)
    expected = [1e-3 * (i / 2 if i < 2 else (n - i) / (n - 2)) for i in range(n)]
    assert rates == pytest.approx(expected)


def test_a_loss_that_is_not_finite_stops_with_step_and_words(
    tiny: SimpleNamespace, pairs: list[Pair], params: Params
) -> None:
    with batched_lora(tiny.model, params.lora, 2, [0, 7], last_block=2) as adapters:
        with torch.no_grad():
            adapters.parameters[1][1].fill_(math.nan)
        with pytest.raises(CheckFailed, match=r"and nan at step 1 of \d+, seed 7 \(words: .*m"):
            loop.train(adapters, tiny.tokenizer, pairs, params.train)


@pytest.mark.parametrize(("scaling", "rank", "factor"), [("2r", 4, 2.0), ("fixed32", 4, 8.0), ("rslora", 4, 4.0)])
def test_scalings(tiny: SimpleNamespace, params: Params, scaling: str, rank: int, factor: float) -> None:
    settings = params.lora.model_copy(update={"scaling": scaling, "rank": rank})
    adapted = lora.attach(tiny.model, settings, 2, seed=0)
    found = {m.scaling["default"] for m in adapted.modules() if isinstance(m, LoraLayer)}
    assert found == {factor}
    sixteen = lora.config(settings.model_copy(update={"rank": 16}), 2)
    assert sixteen.lora_alpha / (4 if sixteen.use_rslora else 16) == 2.0


def test_adapters_load_with_pefts_own_class_on_the_whole_model(
    tiny: SimpleNamespace, pairs: list[Pair], params: Params, tmp_path: Path
) -> None:
    adapters, _ = _train(tiny, pairs, params, lr=5e-3)
    lora.save(adapters.tensors(0), params.lora, 2, tmp_path / "a", base="base")
    whole = PeftModel.from_pretrained(tiny.model, str(tmp_path / "a"))
    loaded = {name.replace(".default", ""): p for name, p in whole.named_parameters() if "lora_" in name}
    saved = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name].detach(), saved[name]) for name in saved)
    assert len(saved) == 2 * 2 * 2
    cut = lora.load(checkpoint.load(tiny.folder, blocks=2), tmp_path / "a")
    words = [pair.english for pair in pairs]
    found = [embeddings.embed(model.eval(), tiny.tokenizer, words, 4).pooled["2", "mask"] for model in (whole, cut)]
    assert (found[0] == found[1]).all()


def test_rows_sum_a_run_up(params: Params) -> None:
    steps = [loop.Step(loss, 0.0, 0.0, 0.0, 0.0, 0.0) for loss in (4.0, 2.0, 1.0, 0.0)]
    rows = loop.summary_rows(("r8-s3", "2r", 8, "3"), loop.TrainingLog(steps, 2, 512, 5), params.train)  # type: ignore[arg-type]
    assert {row.measure: row.value for row in rows} == {
        "loss_first": 3.0,
        "loss_last": 0.5,
        "trainable_parameters": 512,
        "false_negatives": 5,
    }
    assert {row.view for row in rows} == {"2.mask.nf4"}


def test_the_stage_describes_the_adapter_and_the_lengths(
    tiny_quantized: Path, pairs: list[Pair], params: Params, tmp_path: Path
) -> None:
    write_tsv(tmp_path / "pairs.tsv", Pair._fields, pairs)
    made = {name: tmp_path / name for name in ("adapter", "train.tsv", "log")}
    more = params.model_copy(update={"train": params.train.model_copy(update={"epochs": 3})})  # the first step has lr 0
    train.run(tmp_path / "pairs.tsv", tiny_quantized, *made.values(), more)
    rows = Rows(read_rows(made["train.tsv"]), "train")
    assert rows.each("main", "adapter", "-", "b_is_zero") == {
        f"{b}.{p}": 0.0 for b in (1, 2) for p in ("q_proj", "v_proj")
    }
    assert rows.one("main", "adapter", "-", "blocks") == 2
    trained = rows.one("main", "trained", "2.mask.nf4", "trainable_parameters")
    assert rows.one("main", "adapter", "-", "nominal_parameters") == 2 * trained
    assert [*rows.each("base", "control", "-", "words.english").values()] == [1.0] * 4
    curves = {path.stem for path in made["log"].rglob("*.tsv")}
    assert curves == set(loop.Step._fields)


def test_shuffled_pairs_are_the_same_words_and_no_pair_as_it_was(pairs: list[Pair]) -> None:
    moved = loop.shuffled_pairs(pairs, seed=3)
    assert [pair.swahili for pair in moved] == [pair.swahili for pair in pairs]
    assert sorted(pair.english for pair in moved) == sorted(pair.english for pair in pairs)
    assert not any(new.english == old.english for new, old in zip(moved, pairs, strict=True))
    assert moved == loop.shuffled_pairs(pairs, seed=3) != loop.shuffled_pairs(pairs, seed=4)


def test_shuffled_training_is_training_on_shuffled_pairs(
    tiny: SimpleNamespace, pairs: list[Pair], params: Params
) -> None:
    arm = params.model_copy(update={"train": params.train.model_copy(update={"pairs": "shuffled"})})
    _, asked = _train(tiny, pairs[:12], arm, epochs=1)
    _, given = _train(tiny, loop.shuffled_pairs(pairs[:12], 0), params, epochs=1)
    _, plain = _train(tiny, pairs[:12], params, epochs=1)
    assert asked.steps == given.steps
    assert asked.steps[0].loss != plain.steps[0].loss
