"""Parity with lm-evaluation-harness: its own tasks on the same model object, in float32, give our scores.

Here a sample of each task and language, in seconds. Every item, with what is printed about each set:

    TLI_PARITY=all python -m pytest tests/unit/test_parity.py -s

In float32 each option's log-likelihood is within TOLERANCE of the harness's and every prediction is the same; an item
whose margin is below TOLERANCE is listed, since there the last digits decide. In bfloat16 nothing is held: the drift is
printed.
"""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

import harness
from tiny import ROOT
from tli.config.benchmarks import MicroworldBenchmarks
from tli.config.parameters import Params
from tli.data.benchmarks import prompts
from tli.data.benchmarks.prompts import ANSWERS, CONNECTORS, Item
from tli.data.microworld import world
from tli.data.microworld.sampler import World
from tli.data.microworld.vocabulary import read_vocabulary
from tli.measure import scoring
from tli.model import checkpoint
from tli.stages import quantize

ALL = os.environ.get("TLI_PARITY") == "all"
SAMPLE = 8  # items a task and language, spread over the list
TOLERANCE = 5e-4  # nats
BATCH = 32

TEXTS = ["The man turned on the faucet.", "Mbwa alikula mkate.", "L'uomo aprì il rubinetto.", "男子打开了水龙头。"]


def texts() -> list[str]:
    """What the tokenizers are made from: the real items where they are here, so that words are a few tokens long.

    Thousands of nats in one sum would leave float32 no digit below TOLERANCE.
    """
    found = [*TEXTS]
    for task, language in harness.REAL:
        for record in (harness.real(task, language) or [])[:400]:
            found += [record[name] for name in prompts.TEXTS[task] if name != "question"]
    return found


def tokenizer(kind: str, sentences: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE: `llama` puts a BOS first, as Llama 3's tokenizer does; `qwen` has no BOS, as Qwen 2.5's."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|begin_of_text|>"]
    core.train_from_iterator(
        sentences,
        trainers.BpeTrainer(
            vocab_size=2048,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bos = {}
    if kind == "llama":
        core.post_processor = processors.TemplateProcessing(
            single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 1)]
        )
        bos = {"bos_token": "<|begin_of_text|>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>", pad_token="<|endoftext|>", **bos)


def write_checkpoint(kind: str, folder: Path) -> None:
    """A model of `kind` with random weights in float32, and its tokenizer."""
    made = tokenizer(kind, texts())
    made.save_pretrained(folder)
    make: Callable[..., Any] = {"llama": LlamaConfig, "qwen": Qwen2Config}[kind]
    config = make(
        vocab_size=-(-len(made) // 32) * 32,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.05,
        bos_token_id=made.bos_token_id,
        eos_token_id=0,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


@pytest.fixture(scope="module", params=["llama", "qwen", "llama, nf4"])
def asked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, params: Params) -> SimpleNamespace:
    """A model in float32 compute, its tokenizer, and the same model in bfloat16 where that is another one."""
    kind, _, quantised = request.param.partition(", ")
    folder = tmp_path_factory.mktemp(kind)
    write_checkpoint(kind, folder)
    if quantised:
        quantize.run(folder, folder / "quantized", folder / "rows.tsv", params.quantize, params.active.compute.dtype)
        folder = folder / "quantized" / "nf4"
    loaded = {"llama": checkpoint.load, "qwen": AutoModelForCausalLM.from_pretrained}[kind](folder).eval()
    rough = copy.deepcopy(loaded).to(torch.bfloat16) if not quantised else None
    harness.in_float32(loaded)
    assert {p.dtype for p in loaded.parameters()} <= {torch.float32, torch.uint8}
    return SimpleNamespace(name=request.param, model=loaded, rough=rough, tokenizer=checkpoint.tokenizer(folder))


def ours(model: Any, asked: SimpleNamespace, items: Sequence[Item]) -> list[list[float]]:
    """Each item's log-likelihoods, as the stage `score` computes them."""
    requests = [scoring.requests(asked.tokenizer, item) for item in items]
    flat = [request for options in requests for request in options]
    scores = iter(scoring.log_likelihoods(model, scoring.plan(flat, asked.tokenizer.pad_token_id, BATCH)))
    return [[next(scores) for _ in options] for options in requests]


def wrapped(model: Any, asked: SimpleNamespace, softmax: str | None = None) -> HFLM:
    return HFLM(pretrained=model, tokenizer=asked.tokenizer, batch_size=BATCH, device="cpu", softmax_dtype=softmax)


def by_task(lm: HFLM, task: Any) -> list[list[float]]:
    """Each item's log-likelihoods, as the harness reports them for its own task."""
    (samples,) = harness.evaluate(lm, task)["samples"].values()
    return [
        [likelihood for ((likelihood, _),) in sample["resps"]] for sample in sorted(samples, key=lambda s: s["doc_id"])
    ]


def by_pairs(lm: HFLM, items: Sequence[Item]) -> list[list[float]]:
    """The same for items that no task of the harness asks, by its `loglikelihood`."""
    instances = [
        Instance(request_type="loglikelihood", doc={}, arguments=(item.context, option), idx=number)
        for item in items
        for number, option in enumerate(item.options)
    ]
    scores = iter(lm.loglikelihood(instances, disable_tqdm=True))
    return [[next(scores)[0] for _ in item.options] for item in items]


def best(scores: Sequence[float]) -> int:
    return max(range(len(scores)), key=scores.__getitem__)


def margin(scores: Sequence[float]) -> float:
    first, second = sorted(scores, reverse=True)[:2]
    return first - second


def largest(one: list[list[float]], other: list[list[float]]) -> float:
    return max(abs(a - b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def hold(name: str, asked: SimpleNamespace, items: Sequence[Item], theirs: Callable[[HFLM], list[list[float]]]) -> None:
    """Holds our scores to the harness's and prints a line: n, largest difference, equal predictions, close items."""
    mine, harness_s = ours(asked.model, asked, items), theirs(wrapped(asked.model, asked))
    assert [len(scores) for scores in mine] == [len(scores) for scores in harness_s]
    pairs = zip(items, mine, harness_s, strict=True)
    close = [item.id for item, x, y in pairs if min(margin(x), margin(y)) < TOLERANCE]
    other = [item.id for item, x, y in zip(items, mine, harness_s, strict=True) if best(x) != best(y)]
    difference = largest(mine, harness_s)
    line = f"{asked.name} {name}: n {len(items)}, largest difference {difference:.1e} nats, "
    line += f"equal predictions {len(items) - len(other)}, margin below {TOLERANCE}: {', '.join(close) or 'none'}"
    if asked.rough is not None:
        rough, said = ours(asked.rough, asked, items), []
        for name, scores in (
            ("the harness's", theirs(wrapped(asked.rough, asked))),
            ("the harness's with its softmax in float32, as ours", theirs(wrapped(asked.rough, asked, "float32"))),
            ("float32", mine),
        ):
            flipped = sum(best(x) != best(y) for x, y in zip(rough, scores, strict=True))
            said.append(f"{largest(rough, scores):.3f} nats from {name} ({flipped} other predictions)")
        line += f"; in bfloat16 {', '.join(said)}"
    print(line)
    assert difference < TOLERANCE
    assert set(other) <= set(close)


def chosen(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return records if ALL else records[:: max(1, len(records) // SAMPLE)][:SAMPLE]


@pytest.mark.parametrize(("task", "language"), harness.REAL)
def test_real_items(task: str, language: str, asked: SimpleNamespace, tmp_path: Path) -> None:
    records = harness.real(task, language)
    if records is None:
        pytest.skip(f"no real items of {task} {language} here; TLI_SHARED names a folder that holds them")
    records = chosen(records)
    items = [prompts.render(source, released=True) for source in harness.sources(task, language, records)]
    path = harness.write(tmp_path / "records.jsonl", records)
    own = harness.task_of(task, language, path, tmp_path / "cache")
    hold(f"{task} {language}", asked, items, lambda lm: by_task(lm, own))


def test_every_language(asked: SimpleNamespace) -> None:
    """Made-up items with every language's words, as one list."""
    text = {"premise": "Mbwa 男子 fell.", "choice1": "It ran.", "choice2": "È lui.", "hypothesis": "It ran."}
    items = [
        item
        for task, languages in (("xcopa", CONNECTORS), ("xnli", ANSWERS))
        for language in languages
        for source in harness.sources(task, language, [text | {"label": 0, "question": "effect"}])
        for item in [prompts.render(source, released=True)]
    ]
    hold("every language", asked, items, lambda lm: by_pairs(lm, items))


def test_the_micro_world_s_items(asked: SimpleNamespace, params: Params) -> None:
    settings = params.active.benchmarks
    assert isinstance(settings, MicroworldBenchmarks)
    held_out = World(read_vocabulary(ROOT / "data" / "world"), settings.held_out, random.Random("0:held-out"))
    records = [record for record in world.items(held_out, settings) if record["split"] == "test"]
    for task in ("xcopa", "xnli"):
        for language in ("en", "sw"):
            own = chosen([r for r in records if (r["task"], r["language"]) == (task, language)])
            items = [prompts.render(source, released=False) for source in harness.sources(task, language, own)]
            hold(f"micro-world {task} {language}", asked, items, lambda lm, items=items: by_pairs(lm, items))


def test_what_stands_for_no_context() -> None:
    """BOS where there is one, else EOS: what the harness takes for its prefix."""
    item = Item("n", "xnli", "en", "test", 0, "", (" A, right? Yes, B",))
    for kind, start in (("llama", "<|begin_of_text|>"), ("qwen", "<|endoftext|>")):
        made = tokenizer(kind, TEXTS)
        (request,) = scoring.requests(made, item)
        assert made.convert_ids_to_tokens(request.ids[0]) == start
        assert request.scored == len(request.ids) - 1
        (xcopa,) = scoring.requests(made, item._replace(context="A because", options=(" b.",)))
        assert (made.convert_ids_to_tokens(xcopa.ids[0]) == start) == (kind == "llama"), "only a BOS stands before text"
