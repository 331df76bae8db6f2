"""The training step cut against whole; scoring against lm-evaluation-harness. `make bench` prints the ratios.

Nothing here fails for being slow: figures vary with the machine. What is asserted is that both sides did the same work.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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


def _items() -> list[Item]:
    """Forty XCOPA-formed and forty XNLI-formed items, no two alike: neither side can answer one from another."""
    found = []
    for number in range(40):
        (sw, en), (other_sw, other_en) = WORDS[number % 16], WORDS[(3 * number + number // 16 + 1) % 16]
        choices = (f" the {other_en} is {sw}.", f" the {en} is {other_sw}.")
        found.append(Item(f"c{number}", "xcopa", "en", "test", 0, f"the {en} {other_en} is here because", choices))
        options = tuple(f"the {en} is {other_sw}, right? {word}, the {other_en}" for word in ("Yes", "Also", "No"))
        found.append(Item(f"n{number}", "xnli", "en", "test", 0, "", options))
    assert len({(item.context, item.options) for item in found}) == 80
    return found


@pytest.mark.parametrize("name", ["lm-eval", "tli"])
def test_scoring(benchmark: BenchmarkFixture, cache: Path, medians: dict[str, float], tell: Tell, name: str) -> None:
    """Option log-likelihoods of eighty items in float32, batches of 64, by lm-eval's HFLM and by the transfer stage."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = backbone.load(cache.parent.parent / "base").float()
    tokenizer, items = backbone.tokenizer(cache), _items()
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=64, device="cpu")

    def by_harness() -> list[float]:
        asked = [
            Instance(request_type="loglikelihood", doc={}, arguments=(item.context, option), idx=0)
            for item in items
            for option in item.options
        ]
        return [value for value, _ in harness.loglikelihood(asked, disable_tqdm=True)]

    def by_us() -> list[float]:
        asked = [request for item in items for request in transfer.requests(tokenizer, item)]
        return transfer.log_likelihoods(model, asked, tokenizer.pad_token_id, 64)

    scores = benchmark.pedantic(by_us if name == "tli" else by_harness, rounds=5, warmup_rounds=1)
    medians[name] = benchmark.stats["median"]
    if name == "tli":
        assert scores == pytest.approx(by_harness(), abs=5e-4)
        tell("scoring", "lm-eval", "tli")
