"""The training step cut against whole; scoring against lm-evaluation-harness. `make bench` prints the ratios.

Nothing here fails for being slow: figures vary with the machine. What is asserted is that both sides did the same work.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from tiny import WORDS
from tli.data.prompts import Item
from tli.model import backbone, lora
from tli.params import Params
from tli.study import embed, train, transfer

Tell = Callable[[str, str, str], None]


@pytest.mark.parametrize("name", ["whole model", "cut model"])
def test_training_step(
    benchmark: BenchmarkFixture, cache: Path, committed: Params, medians: dict[str, float], tell: Tell, name: str
) -> None:
    """Forward, loss and backward of one batch of eight pairs at the paper's layer, on the NF4 cache."""
    layer = committed.train.layer
    model = backbone.load(cache, blocks=None if name == "whole model" else layer)
    tokenizer = backbone.tokenizer(cache)
    adapted = lora.attach(model, committed.lora, layer, seed=0).train()
    words = embed.tokens(tokenizer, [sw for sw, _ in WORDS[:8]] + [en for _, en in WORDS[:8]])

    def step() -> float:
        torch.manual_seed(0)
        adapted.zero_grad()
        anchors, positives = train.states(adapted, tokenizer, words, str(layer), "mask")[0].chunk(2)
        loss = train.triplet(anchors, positives, committed.train.margin)[0]
        loss.backward()
        return loss.item()

    loss = benchmark.pedantic(step, rounds=30, warmup_rounds=3)
    medians[name] = benchmark.stats["median"]
    assert medians.setdefault("loss", loss) == loss, "whole and cut model gave different losses"
    if name == "cut model":
        tell("training step", "whole model", "cut model")


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
@pytest.mark.parametrize("name", ["lm-eval", "tli"])
def test_scoring(
    benchmark: BenchmarkFixture, cache: Path, medians: dict[str, float], tell: Tell, name: str, shape: str
) -> None:
    """Option log-likelihoods in float32, batches of 64, by lm-eval's HFLM and by the transfer stage."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = backbone.load(cache.parent.parent / "base").float()
    tokenizer, items = backbone.tokenizer(cache), _items(shape)
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=64, device="cpu")

    def by_harness() -> list[float]:
        asked = [
            Instance(request_type="loglikelihood", doc={}, arguments=(item.context, option), idx=0)
            for item in items
            for option in item.options
        ]
        return [value for value, _ in harness.loglikelihood(asked, disable_tqdm=True)]

    def by_us() -> list[float]:
        return transfer.log_likelihoods(model, transfer.prepare(items, tokenizer, 64).batches)

    def predictions(scores: Sequence[float]) -> list[int]:
        table = np.reshape(scores, (len(items), -1))
        return list(table.argmax(axis=1))

    scores = benchmark.pedantic(by_us if name == "tli" else by_harness, rounds=5, warmup_rounds=1)
    medians[f"{name} {shape}"] = benchmark.stats["median"]
    if name == "tli":
        theirs = by_harness()
        assert scores == pytest.approx(theirs, abs=5e-4)
        assert predictions(scores) == predictions(theirs)
        plain = sum(len(request.ids) for item in items for request in transfer.requests(tokenizer, item))
        run = sum(batch.trees[0].numel() for batch in transfer.prepare(items, tokenizer, 64).batches)
        tell(f"scoring, {run} tokens run in place of {plain}", f"lm-eval {shape}", f"tli {shape}")
