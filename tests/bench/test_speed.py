"""A cell's training against PEFT's, scoring against lm-evaluation-harness. `make bench` prints the ratios.

Nothing here fails for being slow: figures vary with the machine. What is asserted is that both sides did the same work.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import peft_run
from tiny import WORDS
from tli.data.lexicon import Pair
from tli.data.prompts import Item
from tli.model import backbone
from tli.model.stack import stacked
from tli.params import Params
from tli.study import train, transfer

Tell = Callable[[str, str, str], None]


@pytest.mark.parametrize("name", ["PEFT, one after another", "stacked"])
def test_a_cell_of_five_seeds(
    benchmark: BenchmarkFixture, cache: Path, committed: Params, medians: dict[str, float], tell: Tell, name: str
) -> None:
    """Five adapters of the paper's cell, sixty steps each: PEFT on the whole 4-bit model, or one stack."""
    pairs = [Pair(sw, en, "noun", "any", "trained") for sw, en in WORDS]
    settings, seeds = committed.train.model_copy(update={"epochs": 30, "warmup_steps": 5}), [0, 1, 2, 3, 4]

    def by_peft() -> list[list[float]]:
        blocks = committed.adapted_blocks
        return [peft_run.run(cache, pairs, committed.lora, settings, blocks, seed).losses for seed in seeds]

    def by_us() -> list[list[float]]:
        model, blocks = train.frozen(cache, committed), committed.adapted_blocks
        with stacked(model, committed.lora, blocks, seeds, settings.layer) as stack:
            trained = train.train(stack, backbone.tokenizer(cache), pairs, settings)
        return [[step.loss for step in run.steps] for run in trained]

    losses = benchmark.pedantic(by_us if name == "stacked" else by_peft, rounds=3, warmup_rounds=1)
    medians[name] = benchmark.stats["median"]
    if name == "stacked":
        for ours, theirs in zip(losses, by_peft(), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-3)
        tell("a cell of five seeds", "PEFT, one after another", "stacked")


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
