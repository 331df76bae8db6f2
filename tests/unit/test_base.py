"""The base stage on a small corpus and a few steps: determinism, the saved checkpoint, the tokenizer's promises."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from tli.config import parameters
from tli.io.errors import CheckFailed
from tli.io.files import manifest_of
from tli.io.structured import read_json
from tli.model import pretrain
from tli.stages import microworld

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = SimpleNamespace(
    seed=0,
    blocks=2,
    hidden_size=64,
    intermediate_size=64,
    heads=2,
    kv_heads=2,
    head_dim=32,
    vocab_size=1024,
    tied_embeddings=False,
    pretraining=SimpleNamespace(steps=12, batch_tokens=512, lr=3e-3, warmup_steps=4, weight_decay=0.1),
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """world/, and the same base twice: first/, second/."""
    folder = tmp_path_factory.mktemp("base")
    committed = parameters.load(ROOT / "params.yaml", model="microworld").active.benchmarks
    settings = committed.model_copy(update={"documents": 3000})
    microworld.run(ROOT / "data/pairs.tsv", ROOT / "data/world", folder / "world", folder / "world.json", settings)
    for name in ("first", "second"):
        pretrain.run(folder / "world", folder / name, folder / f"{name}.json", SETTINGS)
    return folder


@pytest.fixture(scope="module")
def tokenizer(built: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(built / "first", local_files_only=True)


def test_two_runs_give_the_same_bytes(built: Path) -> None:
    names = sorted(file.name for file in (built / "first").iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(names)
    for name in names:
        assert (built / "first" / name).read_bytes() == (built / "second" / name).read_bytes(), name
    assert (built / "first.json").read_bytes() == (built / "second.json").read_bytes()


def test_the_checkpoint_loads_with_the_announced_shape(built: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(built / "first", local_files_only=True)
    record = read_json(built / "first.json")
    assert record["parameters"] == sum(parameter.numel() for parameter in model.parameters()) == 188_736
    assert record["steps"] == 12
    assert record["log"][-1]["loss"] < record["log"][0]["loss"]
    assert model.config.num_hidden_layers == 2
    assert all(layer.out_features % 32 == 0 for layer in model.modules() if isinstance(layer, torch.nn.Linear))
    assert not model.config.tie_word_embeddings


def test_bos_comes_first_and_a_word_is_the_same_alone_and_inside_a_sentence(tokenizer: PreTrainedTokenizerBase) -> None:
    for word, sentence in (
        ("mwalimu", "Mwalimu alinunua embe."),
        ("embe", "Mwalimu alinunua embe."),
        ("teacher", "The teacher bought the mango."),
        ("mango", "The teacher bought the mango., right? Yes, A person bought a fruit."),
        ("kitabu", "Teacher, kitabu = book"),
    ):
        alone, inside = (tokenizer(text)["input_ids"] for text in (word, sentence))
        assert alone[0] == inside[0] == tokenizer.bos_token_id
        wanted = alone[1:]
        places = range(len(inside) - len(wanted) + 1)
        assert any(inside[place : place + len(wanted)] == wanted for place in places), word
    assert tokenizer("Embe")["input_ids"] == tokenizer("embe")["input_ids"]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", "<pad>")
    assert tokenizer.pad_token_id not in tokenizer("The teacher bought the mango.")["input_ids"]


def test_the_context_of_an_item_is_a_prefix_of_its_whole(tokenizer: PreTrainedTokenizerBase) -> None:
    """So that an option's tokens are those that follow the context's."""
    for context, option in (
        ("The cup fell therefore", " the cup broke."),
        ("Embe lilianguka kwa sababu", " mtu alilia."),
    ):
        start, whole = (tokenizer(text)["input_ids"] for text in (context, context + option))
        assert whole[: len(start)] == start


def test_a_verb_is_cut_after_its_prefix_and_a_noun_like_one_is_not(tokenizer: PreTrainedTokenizerBase) -> None:
    def first(word: str) -> str:
        return str(tokenizer.convert_ids_to_tokens(tokenizer(word)["input_ids"])[1])

    for word, prefix in (("alinunua", "ali"), ("hakununua", "haku"), ("alikunywa", "aliku"), ("kilianguka", "kili")):
        assert f"▁{prefix}".startswith(first(word))
    text = "".join(tokenizer.convert_ids_to_tokens(tokenizer("hakununua")["input_ids"])[1:])
    assert text == "▁hakununua"


def test_batches_hold_equally_long_documents_each_once_a_pass() -> None:
    documents = [[number] * (3 + number % 4) for number in range(50)]
    stream = pretrain.batches(documents, batch_tokens=12, rng=random.Random(0))
    seen: list[int] = []
    while len(seen) < len(documents):
        batch = next(stream)
        assert batch.ndim == 2
        assert batch.numel() <= 12
        seen += batch[:, 0].tolist()
    assert sorted(seen) == list(range(50))
    first, again = (
        [b.tolist() for b in islice(pretrain.batches(documents, 12, random.Random(1)), 40)] for _ in range(2)
    )
    assert first == again


def test_the_rate_warms_up_and_falls_to_a_tenth() -> None:
    rates = [pretrain.rate(step, 100, 10) for step in range(101)]
    assert rates[9] == max(rates) == 1
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0.1)


def test_a_loss_that_is_not_finite_stops_with_its_step() -> None:
    model = pretrain.make_model(SETTINGS, SETTINGS.vocab_size)
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(CheckFailed, match="step 1: the loss is nan"):
        next(pretrain.pretrain(model, [[0, 5, 6, 1]] * 8, SETTINGS))


@pytest.mark.parametrize("after", [0, 1, 4, 5, 8, 11, 12])
def test_training_that_is_cut_off_goes_on_to_the_same_bytes(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """The state is kept at steps 4 and 8; the run is cut off behind step `after`, and then once more at step 10."""
    monkeypatch.setattr(pretrain, "STEPS_PER_CHECKPOINT", 4)
    original, trained = pretrain.pretrain, list[int]()
    ends = [after, max(after, 10), 99]

    def cut(model: LlamaForCausalLM, *arguments: object) -> Iterator[tuple[int, int, float]]:
        end, forward = ends.pop(0), model.forward
        if end == 0:
            raise KeyboardInterrupt
        model.forward = lambda **given: (trained.append(1), forward(**given))[1]
        for step, *values in original(model, *arguments):
            yield step, *values
            if step >= end:
                raise KeyboardInterrupt
        if end < 99:
            raise KeyboardInterrupt

    monkeypatch.setattr(pretrain, "pretrain", cut)
    out, metrics = tmp_path / "out", tmp_path / "out.json"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pretrain.run(built / "world", out, metrics, SETTINGS)
        assert not out.exists()
    pretrain.run(built / "world", out, metrics, SETTINGS)
    second = max(after, 10)
    assert len(trained) == after + (second - after // 4 * 4 if after < 12 else 4) + 4
    assert manifest_of(out) == manifest_of(built / "first")
    assert metrics.read_bytes() == (built / "first.json").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.json"}
