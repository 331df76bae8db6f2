"""The supported architectures, and the checks that a model can be loaded in part (model/checkpoint.py).

A loaded model may have only its first blocks and some rows of its embeddings, and its rotary frequencies are computed
again. For the types in MODEL_TYPES, the tests compare every hidden state, loss and score with those of transformers.
Any other type is an error before any weight is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PretrainedConfig

from tli.io.errors import UserError
from tli.io.structured import brief

MODEL_TYPES = ("llama", "qwen2", "qwen3", "gemma3_text")
SCALE = "embed_scale"  # the buffer that Gemma 3's embedding module multiplies its rows by
KNOWN_BUFFERS = (f"model.embed_tokens.{SCALE}", "model.rotary_emb.")  # buffers that checkpoint.py computes again
EMBEDDINGS = ("Embedding", "Gemma3TextScaledWordEmbedding")  # modules whose output checkpoint.EmbeddingRows reproduces
# Keys that change a hidden state or a score in a way that this project does not support, and their allowed values.
# Attention must be causal, because common prefixes run once; scores use the head's output unchanged.
PLAIN: dict[str, tuple[Any, ...]] = {
    "use_bidirectional_attention": (None, False),
    "final_logit_softcapping": (None,),
    "attn_logit_softcapping": (None,),
}
ADVICE = "choose a model whose hidden states this project is tested to read"


def check_configuration(config: Mapping[str, Any], path: Path | str) -> None:
    """Checks the content of a config.json at `path`; this needs no weights and runs no code of the checkpoint.

    Raises:
        UserError: the model_type is not supported, or a key has a value that is not supported.
    """
    if config.get("model_type") not in MODEL_TYPES:
        raise UserError(
            f"{path}: model_type: expected one of {', '.join(MODEL_TYPES)}, "
            f"got {brief(config.get('model_type'))}; {ADVICE}"
        )
    for key, values in PLAIN.items():
        if config.get(key) not in values:
            raise UserError(
                f"{path}: {key}: expected {' or '.join(map(str, values))}, got {brief(config[key])}; {ADVICE}"
            )


def check_modules(model: nn.Module, path: Path | str) -> None:
    """Checks the modules of a model without weights.

    Raises:
        UserError: the embedding module does more than look up rows and scale them, or the model has a buffer that
            is in no checkpoint file and that checkpoint.py does not compute.
    """
    kind = type(model.get_submodule("model.embed_tokens")).__name__
    if kind not in EMBEDDINGS:
        raise UserError(f"{path}: expected an embedding module of {' or '.join(EMBEDDINGS)}, got {kind}; {ADVICE}")
    for name, _ in model.named_buffers():
        if not name.startswith(KNOWN_BUFFERS):
            raise UserError(
                f"{path}: {name}: expected no buffer but rotary frequencies and the embeddings' scale; {ADVICE}"
            )


def shape(config: PretrainedConfig) -> dict[str, int | bool]:
    """The shape of a configuration's model, with the field names of `parameters.Shape`."""
    settings: Any = config
    return {
        "blocks": settings.num_hidden_layers,
        "hidden_size": settings.hidden_size,
        "intermediate_size": settings.intermediate_size,
        "heads": settings.num_attention_heads,
        "kv_heads": settings.num_key_value_heads,
        "head_dim": getattr(settings, "head_dim", None) or settings.hidden_size // settings.num_attention_heads,
        "vocab_size": settings.vocab_size,
        "tied_embeddings": settings.tie_word_embeddings,
    }
