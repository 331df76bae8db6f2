"""BOS in front: added where a tokenizer has it and does not put it there, in new files, and nothing else changes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, GPTNeoXTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tiny import WORDS, write_model
from tli.io.errors import CheckFailed, UserError
from tli.io.structured import write_json
from tli.measure import embeddings
from tli.model.tokenizer import NO_BOS, OWN, PREPENDED, prepend_bos, put_bos_first

BOS, EOS = "<|im_start|>", "<|im_end|>"
TEXTS = ["mbwa", " dog", "The 12 dogs, right?", "habari  ya\nasubuhi", ""]


def core(post_processor: Callable[[Tokenizer], processors.PostProcessor | None]) -> Tokenizer:
    """A byte-level BPE as SmolLM2's, with a post-processor."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f"{sw} {en}. Right? Yes, No" for sw, en in WORDS], trainer)
    chosen = post_processor(tokenizer)
    if chosen is not None:
        tokenizer.post_processor = chosen
    return tokenizer


def with_eos(tokenizer: Tokenizer) -> processors.PostProcessor:
    return processors.TemplateProcessing(
        single=["$A", EOS], pair=["$A", EOS, "$B:1", f"{EOS}:1"], special_tokens=[(EOS, tokenizer.token_to_id(EOS))]
    )


POST_PROCESSORS: dict[str, Callable[[Tokenizer], processors.PostProcessor | None]] = {
    "none": lambda _: None,
    "byte level": lambda _: processors.ByteLevel(trim_offsets=False),
    "EOS behind": with_eos,
    "a sequence": lambda it: processors.Sequence([processors.ByteLevel(), with_eos(it)]),
}


def load(folder: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer


def ids(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    found: list[list[int]] = tokenizer(TEXTS)["input_ids"]
    return found


@pytest.mark.parametrize("post_processor", POST_PROCESSORS.values(), ids=POST_PROCESSORS)
def test_bos_stands_first_and_the_rest_is_as_it_was(
    tmp_path: Path, post_processor: Callable[[Tokenizer], processors.PostProcessor | None]
) -> None:
    PreTrainedTokenizerFast(tokenizer_object=core(post_processor), bos_token=BOS, eos_token=EOS).save_pretrained(
        tmp_path
    )
    before = load(tmp_path)
    assert prepend_bos(tmp_path)
    after = load(tmp_path)
    bos = after.bos_token_id
    assert ids(after) == [[bos, *sequence] for sequence in ids(before)]
    assert after("mbwa", add_special_tokens=False) == before("mbwa", add_special_tokens=False)
    assert after.decode(after("The 12 dogs").input_ids, skip_special_tokens=True) == "The 12 dogs"
    assert after("mbwa", "dog").input_ids.count(bos) == 2
    assert after.special_tokens_map == before.special_tokens_map
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    content = (tmp_path / "tokenizer.json").read_bytes()
    assert not prepend_bos(tmp_path), "a second time there is nothing to do"
    assert (tmp_path / "tokenizer.json").read_bytes() == content


def test_a_hard_link_into_the_cache_stays_as_it_is(tmp_path: Path) -> None:
    cache, folder = tmp_path / "cache", tmp_path / "folder"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core(lambda _: None), bos_token=BOS, eos_token=EOS)
    tokenizer.save_pretrained(cache)
    folder.mkdir()
    before = {path.name: path.read_bytes() for path in cache.iterdir()}
    for name in before:
        os.link(cache / name, folder / name)
    assert put_bos_first(folder) == PREPENDED
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == before
    assert put_bos_first(folder) == OWN


def test_a_class_with_a_post_processor_of_its_own_gives_way(tmp_path: Path) -> None:
    """Pythia's and OLMo's class puts no BOS first, whatever tokenizer.json says."""
    core(lambda _: None).save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": "GPTNeoXTokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    write_json(tmp_path / "tokenizer_config.json", settings)
    write_config(tmp_path, "gpt_neox")
    before = load(tmp_path)
    assert isinstance(before, GPTNeoXTokenizer)
    assert put_bos_first(tmp_path) == PREPENDED
    after = load(tmp_path)
    assert ids(after) == [[after.bos_token_id, *sequence] for sequence in ids(before)]
    assert (after.bos_token, after.eos_token) == ("<|endoftext|>", "<|endoftext|>")


def write_config(folder: Path, model_type: str) -> None:
    write_json(folder / "config.json", {"model_type": model_type})


def test_without_a_tokenizer_json_one_is_written(tmp_path: Path) -> None:
    """As older checkpoints: vocab.json and merges.txt alone."""
    learnt = json.loads(core(lambda _: None).to_str())["model"]
    write_json(tmp_path / "vocab.json", learnt["vocab"])
    lines = ["#version: 0.2", *(" ".join(pair) for pair in learnt["merges"])]
    (tmp_path / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "GPT2Tokenizer", "bos_token": BOS, "eos_token": EOS, "unk_token": "<|endoftext|>"}
    write_json(tmp_path / "tokenizer_config.json", settings)
    write_config(tmp_path, "llama")
    before = load(tmp_path)
    assert put_bos_first(tmp_path) == PREPENDED
    assert ids(load(tmp_path)) == [[before.bos_token_id, *sequence] for sequence in ids(before)]


def test_eos_stands_in_where_there_is_no_bos(tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core(lambda _: None), bos_token=None, eos_token=EOS)
    tokenizer.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert put_bos_first(tmp_path) == NO_BOS
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert not prepend_bos(tmp_path)


def test_a_tokenizer_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core(lambda _: None), bos_token=None, eos_token=None)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"^models/a: tokenizer_config\.json: expected a bos_token or an eos_token"):
        put_bos_first(tmp_path, "models/a")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"^models/a: expected a tokenizer, got: .*; choose a model with one$"):
        put_bos_first(tmp_path, "models/a")


def test_words_are_measured_and_the_harness_scores_with_bos_in_front(tmp_path: Path) -> None:
    """`add_bos_token` of lm-evaluation-harness does what it says, and the scan no longer refuses the tokenizer."""
    model = write_model(tmp_path, "llama", vocab_size=400)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core(lambda _: processors.ByteLevel()), bos_token=BOS, eos_token=EOS, pad_token=EOS
    )
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(CheckFailed, match="expected BOS"):
        embeddings.tokens(load(tmp_path), ["mbwa"])
    prepend_bos(tmp_path)
    changed = load(tmp_path)
    assert embeddings.tokens(changed, ["mbwa"])[0][0] == changed.bos_token_id
    harness = HFLM(pretrained=model, tokenizer=changed, add_bos_token=True, batch_size=1, device="cpu")
    assert harness.tok_encode("mbwa") == changed("mbwa").input_ids
    assert harness.tok_encode("mbwa")[0] == changed.bos_token_id
