"""What the tests share: a tiny Llama with random weights in the real formats, a short word list, real parameters.

The tiny model stands in for a checkpoint where only shapes and code paths matter; its parameter count is asserted.
`TLI_SHARED` names a folder with the real benchmarks' files, for the tests that compare with them.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tli import params as parameters
from tli.data.lexicon import Pair
from tli.model import backbone, nf4

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("TLI_SHARED", ROOT.parent / "shared")) / "data"

WORDS = [
    ("mbwa", "dog"), ("paka", "cat"), ("kitabu", "book"), ("maji", "water"), ("mkate", "bread"), ("nyumba", "house"),
    ("mwalimu", "teacher"), ("mtoto", "child"), ("kusoma", "read"), ("kula", "eat"), ("jua", "sun"), ("mti", "tree"),
    ("samaki", "fish"), ("hospitali", "hospital"), ("barua", "letter"), ("nyota", "star"),
]  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _process() -> None:
    """One thread and deterministic algorithms, as every stage sets them."""
    backbone.setup(threads=1)


@pytest.fixture(scope="session")
def pairs() -> list[Pair]:
    """Sixteen word pairs, the last four a control set."""
    return [Pair(sw, en, "noun", "any", "control" if i >= 12 else "trained") for i, (sw, en) in enumerate(WORDS)]


def write_base(folder: Path, blocks: int, hidden_size: int, intermediate_size: int, kv_heads: int) -> LlamaForCausalLM:
    """Writes a Llama with random weights and a tokenizer that adds BOS, as a checkpoint; returns the model."""
    texts = [f"{sw} {en} . the {en} is here , right ? Yes , No" for sw, en in WORDS]
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    core.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=160, special_tokens=special, show_progress=False))
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden_size, intermediate_size=intermediate_size,
        num_hidden_layers=blocks, num_attention_heads=4, num_key_value_heads=kv_heads, max_position_embeddings=128,
        bos_token_id=1, eos_token_id=2, pad_token_id=3, tie_word_embeddings=False, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of a four-block Llama with random weights."""
    folder = tmp_path_factory.mktemp("base")
    model = write_base(folder, blocks=4, hidden_size=64, intermediate_size=96, kv_heads=2)
    assert model.num_parameters() < 200_000, "the tiny model is not tiny"
    return folder


@pytest.fixture(scope="session")
def params() -> parameters.Params:
    """The smoke parameters, with the tiny model's shape in the profile."""
    loaded = parameters.load(ROOT / "tests" / "smoke" / "params.yaml")
    profile = loaded.active
    model = profile.model.model_copy(
        update={"blocks": 4, "hidden_size": 64, "intermediate_size": 96, "heads": 4, "kv_heads": 2}
    )
    return loaded.model_copy(update={"profiles": {loaded.profile: profile.model_copy(update={"model": model})}})


@pytest.fixture(scope="session")
def tiny_quantized(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory, params: parameters.Params) -> Path:
    """The tiny checkpoint's 4-bit cache, as the stage writes it: nf4, fp4, manifest; evidence in rows.tsv beside."""
    folder = tmp_path_factory.mktemp("cache")
    nf4.run(tiny_base, folder / "quantized", folder / "rows.tsv", params.quantize)
    return folder / "quantized"


@pytest.fixture
def tiny(tiny_quantized: Path) -> SimpleNamespace:
    """The tiny NF4 model and its tokenizer, freshly loaded."""
    folder = tiny_quantized / "nf4"
    return SimpleNamespace(model=backbone.load(folder), tokenizer=backbone.tokenizer(folder), folder=folder)
