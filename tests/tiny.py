"""What tests and benchmarks import: where the project is, a few words, and how a tiny checkpoint is written.

`TLI_SHARED` names a folder with the real benchmarks' files, for the tests that compare with them.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("TLI_SHARED", ROOT.parent / "shared")) / "data"

WORDS = [
    ("mbwa", "dog"), ("paka", "cat"), ("kitabu", "book"), ("maji", "water"), ("mkate", "bread"), ("nyumba", "house"),
    ("mwalimu", "teacher"), ("mtoto", "child"), ("kusoma", "read"), ("kula", "eat"), ("jua", "sun"), ("mti", "tree"),
    ("samaki", "fish"), ("hospitali", "hospital"), ("barua", "letter"), ("nyota", "star"),
]  # fmt: skip


def write_base(
    folder: Path, blocks: int, hidden_size: int, intermediate_size: int, kv_heads: int, seed: int = 0
) -> LlamaForCausalLM:
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
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return model
