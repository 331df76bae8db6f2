"""What tests and benchmarks import: where the project is, a few words, and how a tiny checkpoint is written.

`TLI_SHARED` names a folder with the real benchmarks' files, for the tests that compare with them.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("TLI_SHARED", ROOT.parent / "shared")) / "data"

WORDS = [
    ("mbwa", "dog"),
    ("paka", "cat"),
    ("kitabu", "book"),
    ("maji", "water"),
    ("mkate", "bread"),
    ("nyumba", "house"),
    ("mwalimu", "teacher"),
    ("mtoto", "child"),
    ("kusoma", "read"),
    ("kula", "eat"),
    ("jua", "sun"),
    ("mti", "tree"),
    ("samaki", "fish"),
    ("hospitali", "hospital"),
    ("barua", "letter"),
    ("nyota", "star"),
]


def write_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Writes a tokenizer that adds BOS; returns it."""
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
    return tokenizer


def write_base(
    folder: Path, blocks: int, hidden_size: int, intermediate_size: int, kv_heads: int, seed: int = 0
) -> LlamaForCausalLM:
    """Writes a Llama with random weights and a tokenizer that adds BOS, as a checkpoint; returns the model."""
    tokenizer = write_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return model


MODEL_TYPES = ("llama", "qwen2", "qwen3", "gemma3_text")


def configuration(model_type: str, **changes: object) -> PretrainedConfig:
    """A model of four blocks; Qwen3 and Gemma 3 with heads wider than hidden_size / heads, Gemma 3 with both kinds of
    attention, each with rotary frequencies of its own.
    """
    common: dict[str, object] = {
        "vocab_size": 160,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
        "initializer_range": 0.2,
    }
    layers = ["sliding_attention", "full_attention"] * 2
    of_type: dict[str, tuple[type[PretrainedConfig], dict[str, object]]] = {
        "llama": (LlamaConfig, {"tie_word_embeddings": False}),
        "qwen2": (
            Qwen2Config,
            {"tie_word_embeddings": True, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 2},
        ),
        "qwen3": (Qwen3Config, {"tie_word_embeddings": True, "head_dim": 32}),
        "gemma3_text": (Gemma3TextConfig, {"head_dim": 32, "sliding_window": 3, "layer_types": layers}),
    }
    kind, own = of_type[model_type]
    return kind(**(common | own | changes))  # type: ignore[arg-type]


def write_model(folder: Path, model_type: str, **changes: object) -> PreTrainedModel:
    """Writes a model of that type with random weights, norms and biases too, and a tokenizer that adds BOS."""
    tokenizer = write_tokenizer(folder)
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        configuration(model_type, **({"vocab_size": len(tokenizer)} | changes)), dtype=torch.float32
    )
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.3)
    model.save_pretrained(folder)
    return model.eval()


def changed_files(folder: Path) -> str:
    """What coreutils' sha256sum says of the files that are not as the folder's SHA256SUMS has them."""
    call = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    return subprocess.run(call, cwd=folder, capture_output=True, text=True).stdout
