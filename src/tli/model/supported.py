"""Which architectures this project reads, and what of a model the cut one (model/checkpoint.py) would lose.

A model is cut to its first blocks, reads some rows of its embeddings, and computes its rotary frequencies anew. The
tests compare every hidden state, loss and score with transformers' own for the types of `MODEL_TYPES`. Any other type
is refused, before a weight is fetched. Feeds every table of a model that is not pre-trained here.
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
SCALE = "embed_scale"  # the buffer by which Gemma 3's embedding module multiplies its rows
KNOWN_BUFFERS = (f"model.embed_tokens.{SCALE}", "model.rotary_emb.")  # which checkpoint.py makes anew
EMBEDDINGS = ("Embedding", "Gemma3TextScaledWordEmbedding")  # modules whose output checkpoint.Rows reproduces
# Keys of a configuration that change a hidden state or a score in a way that is not followed, and what they must be.
# Causality lets words share what they begin with; scores come from the head's output as it is.
PLAIN: dict[str, tuple[Any, ...]] = {
    "use_bidirectional_attention": (None, False),
    "final_logit_softcapping": (None,),
    "attn_logit_softcapping": (None,),
}
ADVICE = "choose a model whose hidden states this project is tested to read"


def check_configuration(given: Mapping[str, Any], path: Path | str) -> None:
    """Compares config.json, as it stands in `path`, with what is supported; no weight and no code is needed for it.

    Raises:
        UserError: another model_type, or a key whose value the cut model would not follow.
    """
    if given.get("model_type") not in MODEL_TYPES:
        raise UserError(
            f"{path}: model_type: expected one of {', '.join(MODEL_TYPES)}, "
            f"got {brief(given.get('model_type'))}; {ADVICE}"
        )
    for key, values in PLAIN.items():
        if given.get(key) not in values:
            raise UserError(
                f"{path}: {key}: expected {' or '.join(map(str, values))}, got {brief(given[key])}; {ADVICE}"
            )


def check_modules(model: nn.Module, path: Path | str) -> None:
    """Compares the modules of a model, laid out without weights, with what the cut model keeps.

    Raises:
        UserError: an embedding module that does more than look rows up and scale them, or a buffer that no file of the
            checkpoint holds and that is not made anew.
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
    """The shape that a configuration says, under the names of params.Shape."""
    given: Any = config
    return {
        "blocks": given.num_hidden_layers,
        "hidden_size": given.hidden_size,
        "intermediate_size": given.intermediate_size,
        "heads": given.num_attention_heads,
        "kv_heads": given.num_key_value_heads,
        "head_dim": getattr(given, "head_dim", None) or given.hidden_size // given.num_attention_heads,
        "vocab_size": given.vocab_size,
        "tied_embeddings": given.tie_word_embeddings,
    }
