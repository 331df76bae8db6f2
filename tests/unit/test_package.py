"""SmolLM2 out of its packaged file: found by hash, read rightly, refused in one line where it is not what it should be.

The file comes with the environment (requirements/model.txt). The passage is ours.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from safetensors import safe_open
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tiny import ROOT
from tli.config import parameters
from tli.config.parameters import PackagedModel
from tli.io.errors import UserError
from tli.io.structured import read_json
from tli.model import package
from tli.model.tokenizer import PREPENDED

PASSAGE = (
    "The bakery on the corner opens at six in the morning. By then the first loaves are already out of the oven, and "
    "the smell of warm bread drifts down the street. People on their way to work stop for a moment, buy a roll and a "
    "cup of coffee, and talk about the weather. On Saturdays the queue reaches as far as the bus stop, because "
    "everybody wants the cinnamon cake that the baker makes only once a week."
)
READ = 25.0  # perplexity of the passage at most: an English model of this size lies near 15
SPOILT = 4 * READ  # and at least this with the rows of q_proj and k_proj in the order of the file


@pytest.fixture(scope="module")
def settings() -> PackagedModel:
    model = parameters.load(ROOT / "params.yaml", model="smollm2").active.model
    assert isinstance(model, PackagedModel)
    return model


@pytest.fixture(scope="module")
def base(settings: PackagedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stage writes: base/ and base.json."""
    folder = tmp_path_factory.mktemp("packaged")
    package.run(folder / "base", folder / "base.json", settings)
    return folder / "base"


@pytest.fixture(scope="module")
def model(base: Path) -> PreTrainedModel:
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base, local_files_only=True, dtype=torch.float32)
    return loaded.eval()


@torch.no_grad()
def perplexity(model: PreTrainedModel, ids: list[int]) -> float:
    """exp of the mean cross-entropy of each token given those before it."""
    sequence = torch.tensor([ids])
    logits = model(input_ids=sequence).logits[0, :-1]
    return math.exp(float(cross_entropy(logits, sequence[0, 1:])))


def permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows of q_proj or k_proj as GGUF stores them: the two halves of each head interleaved."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(weight.shape)


def test_it_reads_english_and_with_the_rows_of_attention_in_another_order_it_does_not(
    base: Path, model: PreTrainedModel
) -> None:
    ids = AutoTokenizer.from_pretrained(base, local_files_only=True)(PASSAGE)["input_ids"]
    assert perplexity(model, ids) < READ
    spoilt: PreTrainedModel = AutoModelForCausalLM.from_config(model.config)
    spoilt.load_state_dict(model.state_dict())
    for block in spoilt.model.layers:
        attention = block.self_attn
        for projection, heads in (
            (attention.q_proj, model.config.num_attention_heads),
            (attention.k_proj, model.config.num_key_value_heads),
        ):
            projection.weight.data = permuted(projection.weight.data, heads)
    assert perplexity(spoilt.eval(), ids) > SPOILT


def test_token_ids_are_those_of_the_file_s_own_tokens_and_merges(base: Path, settings: PackagedModel) -> None:
    """Against a tokenizer made here from the file's vocabulary and merges: byte-level BPE, digits apart."""
    fields = GGUFReader(package.locate(settings)).fields
    tokens, merges = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges"))
    core = Tokenizer(
        models.BPE(
            vocab={token: number for number, token in enumerate(tokens)},
            merges=[tuple(merge.split(" ")) for merge in merges],
        )
    )
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    written = AutoTokenizer.from_pretrained(base, local_files_only=True)
    for text in (PASSAGE, "mbwa = mbwa, dog", "Bei ya vitabu 12 ni shilingi 3,450.", "  two  spaces\nand a line"):
        ids = written(text)["input_ids"]
        assert ids[0] == written.bos_token_id == 1
        assert ids[1:] == core.encode(text).ids
        assert written.decode(ids[1:]) == text


def test_the_head_is_the_embedding_and_no_tensor_of_its_own(base: Path, model: PreTrainedModel) -> None:
    with safe_open(base / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
        embedding = file.get_tensor("model.embed_tokens.weight")
    assert "lm_head.weight" not in names
    assert torch.equal(model.lm_head.weight, embedding)
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def test_what_it_holds_is_recorded(base: Path, settings: PackagedModel) -> None:
    recorded = read_json(base.with_suffix(".json"))
    assert recorded["file_sha256"] == settings.sha256
    assert recorded["head"] == "tied"
    assert recorded["bos"] == PREPENDED
    assert recorded["parameters"] == 134_515_008
    assert len(recorded["tensors_sha256"]) == 64
    assert not {"quantization_config", "auto_map"} & json.loads((base / "config.json").read_text()).keys()


def test_the_same_file_given_by_a_path_works(settings: PackagedModel, tmp_path: Path) -> None:
    """The hash decides, not the place."""
    os.link(package.locate(settings), tmp_path / "any.gguf")
    assert package.locate(settings.model_copy(update={"file": str(tmp_path / "any.gguf")})) == tmp_path / "any.gguf"


def cut(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)


def flip(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(1_000_000)
        byte = opened.read(1)
        opened.seek(1_000_000)
        opened.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (Path.unlink, r"model\.file: expected the packaged model at .*any\.gguf or .*, found no file; run `make set"),
        (cut, r"any\.gguf: expected SHA-256 b179c9523d.* got \w{64} of 49181216 bytes; "),
        (flip, r"any\.gguf: expected SHA-256 b179c9523d.* got \w{64} of 98362432 bytes; "),
    ],
    ids=["missing", "truncated", "one bit"],
)
def test_another_file_is_one_line_and_writes_nothing(
    settings: PackagedModel, tmp_path: Path, spoil: Callable[[Path], None], expected: str
) -> None:
    file = tmp_path / "any.gguf"
    shutil.copyfile(package.locate(settings), file)
    spoil(file)
    other = settings.model_copy(update={"file": str(file)})
    with pytest.raises(UserError, match=expected) as caught:
        package.run(tmp_path / "base", tmp_path / "base.json", other)
    assert "\n" not in caught.value.message
    assert {path.name for path in tmp_path.iterdir()} <= {"any.gguf"}


@pytest.mark.parametrize(("key", "value"), [("blocks", 29), ("kv_heads", 9), ("head_dim", 32), ("vocab_size", 49_153)])
def test_another_shape_is_refused_before_a_weight_is_read(
    settings: PackagedModel, tmp_path: Path, key: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "load", lambda _file: pytest.fail("weights were read"))
    with pytest.raises(UserError, match=rf"params\.yaml: model\.{key} of the profile: expected .*, got {value}"):
        package.run(tmp_path / "base", tmp_path / "base.json", settings.model_copy(update={key: value}))
    assert [*tmp_path.iterdir()] == []
