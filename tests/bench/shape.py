"""A checkpoint of Llama-3.1-8B's shape with random weights, as the stage `quantize` writes it, and word pairs for it.

All 32 blocks hold the same numbers, drawn and packed once: what is timed does not look at them. Of the embeddings the
tokens in use have random rows, the rest of them and the head are zeros in a sparse file. On disk: 4 GB.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import torch
from bitsandbytes.functional import quantize_4bit
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import BitsAndBytesConfig, LlamaConfig, PreTrainedTokenizerFast

from tiny import ROOT
from tli.data.words.lexicon import read_pairs
from tli.io.files import write_manifest
from tli.io.structured import write_json

BLOCKS, HIDDEN, MLP, HEADS, KV_HEADS, VOCABULARY = 32, 4096, 14336, 32, 8, 128256
TOKENS = 64  # so that a word of data/pairs.tsv is five or six tokens with BOS, as under Llama's tokenizer
WIDTHS = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN // HEADS * KV_HEADS, HIDDEN),
    "self_attn.v_proj": (HIDDEN // HEADS * KV_HEADS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (MLP, HIDDEN),
    "mlp.up_proj": (MLP, HIDDEN),
    "mlp.down_proj": (HIDDEN, MLP),
}
BLOCK_PARAMETERS = sum(rows * columns for rows, columns in WIDTHS.values())


def write(folder: Path) -> Path:
    """Writes `folder`/nf4; returns `folder`, which stands for the output of `quantize`."""
    out = folder / "nf4"
    out.mkdir(parents=True)
    tokenizer().save_pretrained(out)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=MLP,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
        tie_word_embeddings=False,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )
    config.quantization_config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    ).to_dict()
    config.save_pretrained(out)
    torch.manual_seed(0)
    block = {
        f"{name}.weight": torch.ones(HIDDEN, dtype=torch.bfloat16)
        for name in ("input_layernorm", "post_attention_layernorm")
    }
    for name, shape in WIDTHS.items():
        packed, state = quantize_4bit(torch.randn(shape, dtype=torch.bfloat16).mul_(0.02), quant_type="nf4")
        block[f"{name}.weight"] = packed
        block |= {f"{name}.weight.{key}": value for key, value in state.as_dict(packed=True).items()}
    where: dict[str, str] = {}
    for number in range(BLOCKS):
        tensors = {f"model.layers.{number}.{name}": tensor for name, tensor in block.items()}
        save_file(tensors, out / f"block-{number:03d}.safetensors", metadata={"format": "pt"})
        where |= dict.fromkeys(tensors, f"block-{number:03d}.safetensors")
    rows = torch.randn(TOKENS, HIDDEN).mul_(0.02).bfloat16()
    _sparse(out / "embeddings.safetensors", "model.embed_tokens.weight", rows)
    _sparse(out / "head.safetensors", "lm_head.weight", rows[:0])
    save_file(
        {"model.norm.weight": torch.ones(HIDDEN, dtype=torch.bfloat16)},
        out / "norm.safetensors",
        metadata={"format": "pt"},
    )
    where |= {"model.embed_tokens.weight": "embeddings.safetensors", "lm_head.weight": "head.safetensors"}
    where |= {"model.norm.weight": "norm.safetensors"}
    write_json(out / "model.safetensors.index.json", {"metadata": {}, "weight_map": where})
    write_manifest(folder)
    return folder


def _sparse(path: Path, name: str, rows: torch.Tensor) -> None:
    """A safetensors file with one bfloat16 matrix, VOCABULARY x HIDDEN: `rows`, and holes that read as zeros."""
    size = VOCABULARY * HIDDEN * 2
    entry = {name: {"dtype": "BF16", "shape": [VOCABULARY, HIDDEN], "data_offsets": [0, size]}}
    header = json.dumps(entry | {"__metadata__": {"format": "pt"}}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.write(rows.view(torch.uint8).numpy().tobytes())
        file.truncate(8 + len(header) + size)


def tokenizer() -> PreTrainedTokenizerFast:
    words = [form for pair in read_pairs(ROOT / "data" / "pairs.tsv") for form in (pair.swahili, pair.english)]
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    core.train_from_iterator(words, trainers.BpeTrainer(vocab_size=TOKENS, special_tokens=special, show_progress=False))
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
