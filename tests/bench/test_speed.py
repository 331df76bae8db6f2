"""A cell's training against PEFT's, scoring against lm-evaluation-harness. `make bench` prints the ratios.

Nothing here fails for being slow: figures vary with the machine. What is asserted is that both sides did the same work.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import peft_run
from tiny import WORDS
from tli.config.parameters import Params
from tli.data.benchmarks.prompts import Item
from tli.data.words.lexicon import Pair
from tli.measure import scoring
from tli.model import checkpoint
from tli.model.batched_lora import batched_lora
from tli.training import loop

Tell = Callable[[str, str, str], None]
Noted = Callable[..., None]
CELL = "A cell of five seeds at the embedded size, sixty steps each"
ONE_BY_ONE, STACKED = "transformers, PEFT and bitsandbytes, whole model, one seed after another", "stage `sweep-train`"
SHAPES = {"xnli": "Scoring 72 items of XNLI's shape, float32", "xcopa": "Scoring 100 items of XCOPA's shape, float32"}


@pytest.mark.parametrize("name", [ONE_BY_ONE, STACKED])
def test_a_cell_of_five_seeds(
    benchmark: BenchmarkFixture, cache: Path, committed: Params, noted: Noted, tell: Tell, name: str
) -> None:
    """Five adapters of the paper's configuration, sixty steps each: PEFT on the whole 4-bit model, or batched LoRA."""
    pairs = [Pair(sw, en, "noun", "any", "trained") for sw, en in WORDS]
    settings, seeds = committed.train.model_copy(update={"epochs": 30, "warmup_steps": 5}), [0, 1, 2, 3, 4]

    def by_peft() -> list[list[float]]:
        blocks = committed.adapted_blocks
        return [peft_run.run(cache, pairs, committed.lora, settings, blocks, seed).losses for seed in seeds]

    def by_us() -> list[list[float]]:
        model, blocks = loop.load_frozen(cache, committed, pairs), committed.adapted_blocks
        with batched_lora(model, committed.lora, blocks, seeds, settings.layer) as adapters:
            trained = loop.train(adapters, checkpoint.tokenizer(cache), pairs, settings)
        return [[step.loss for step in run.steps] for run in trained]

    losses = benchmark.pedantic(by_us if name == STACKED else by_peft, rounds=3, warmup_rounds=1)
    noted(CELL, name, **({"aims": {"times": {ONE_BY_ONE: 2}}} if name == STACKED else {}))
    if name == STACKED:
        for ours, theirs in zip(losses, by_peft(), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-3)
        tell("a cell of five seeds", ONE_BY_ONE, STACKED)


def _items(shape: str) -> list[Item]:
    """Items of the real lists' lengths, all different. XNLI: three hypotheses, so nine sequences, share a premise."""
    draw = random.Random(shape)

    def text(words: int) -> str:
        return " ".join(draw.choice(draw.choice(WORDS)) for _ in range(words))

    found = []
    for number in range(24):
        premise = text(20)
        for hypothesis in (text(10) for _ in range(3)):
            answers = tuple(f" {premise}, right? {word}, {hypothesis}" for word in ("Yes", "Also", "No"))
            found.append(Item(f"n{number}", "xnli", "en", "test", 0, "", answers))
    if shape == "xcopa":
        found = [
            Item(f"c{number}", "xcopa", "en", "test", 0, f"{text(7)} because", (f" {text(6)}", f" {text(6)}"))
            for number in range(100)
        ]
    assert len({(item.context, item.options) for item in found}) == len(found)
    return found


@pytest.mark.parametrize("shape", ["xnli", "xcopa"])
@pytest.mark.parametrize("name", ["lm-eval", "stage `score`"])
def test_scoring(benchmark: BenchmarkFixture, cache: Path, noted: Noted, tell: Tell, name: str, shape: str) -> None:
    """Option log-likelihoods in float32, batches of 64, by lm-eval's HFLM and by the transfer stage."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = checkpoint.load(cache.parent.parent / "base").float()
    tokenizer, items = checkpoint.tokenizer(cache), _items(shape)
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=64, device="cpu")

    def by_harness() -> list[float]:
        asked = [
            Instance(request_type="loglikelihood", doc={}, arguments=(item.context, option), idx=0)
            for item in items
            for option in item.options
        ]
        return [value for value, _ in harness.loglikelihood(asked, disable_tqdm=True)]

    def by_us() -> list[float]:
        return scoring.log_likelihoods(model, scoring.prepare(items, tokenizer, 64).batches)

    def predictions(scores: Sequence[float]) -> list[int]:
        table = np.reshape(scores, (len(items), -1))
        return list(table.argmax(axis=1))

    theirs_is = f"lm-eval, {shape}"
    scores = benchmark.pedantic(by_harness if name == "lm-eval" else by_us, rounds=5, warmup_rounds=1)
    plain = sum(len(request.ids) for item in items for request in scoring.requests(tokenizer, item))
    weights = sum(weight.numel() for weight in model.model.layers.parameters())
    aims = {} if name == "lm-eval" else {"aims": {"times": {theirs_is: 1.5 if shape == "xnli" else 1.0}}}
    noted(SHAPES[shape], f"{name}, {shape}", flop=2 * weights * plain, dtype="float32", **aims)
    if name != "lm-eval":
        theirs = by_harness()
        assert scores == pytest.approx(theirs, abs=5e-4)
        assert predictions(scores) == predictions(theirs)
        run = sum(batch.trees[0].numel() for batch in scoring.prepare(items, tokenizer, 64).batches)
        tell(f"scoring, {run} tokens run in place of {plain}", theirs_is, f"{name}, {shape}")
