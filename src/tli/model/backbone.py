"""Runs a span of Llama blocks over many short sequences: the whole model, or cut to its first blocks.

`hidden_states[i]` is the raw output of block i (i = 0: the embeddings); transformers keeps the raw output of the last
block to itself and returns it after the final norm, so both are taken by hooks here, the latter under the key `norm`.
Every lexical and transfer table comes through this module.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn.modules import Linear4bit
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from transformers.utils import logging

NORM = "norm"


def setup(threads: int) -> None:
    """One process's arithmetic: that many threads, deterministic algorithms, no progress bars of libraries."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # peft 0.21.2 asks transformers 5 for gradient checkpointing by its old name: nothing a user could mend
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


def load(folder: Path, blocks: int | None = None) -> LlamaForCausalLM:
    """The checkpoint in `folder`, frozen and in evaluation mode; with `blocks`, cut to that many first blocks.

    The cut model is still a LlamaForCausalLM, so that adapters keep PEFT's keys; its final norm is the identity, so
    that its last hidden state is the whole model's hidden_states[blocks], bit for bit.
    """
    config = LlamaConfig.from_pretrained(folder, local_files_only=True)
    whole = config.num_hidden_layers
    if blocks is not None:
        config.num_hidden_layers = blocks
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # the weights of the blocks cut off are reported as unexpected
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(
        folder, config=config, local_files_only=True, dtype=config.dtype
    )
    logging.set_verbosity(verbosity)
    if blocks is not None and blocks < whole:
        model.model.norm = nn.Identity()
    model.config.use_cache = False
    model.requires_grad_(False)
    keep_unpacked(model)
    model.eval()
    return model


def keep_unpacked(model: nn.Module) -> None:
    """Stops bitsandbytes from repacking 4-bit weights for AVX512_BF16 processors.

    It would do so at the first forward pass without gradients; from then on every gradient through the layer is None.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer; pad is EOS where none is set, as Llama's users do."""
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if loaded.pad_token is None:
        loaded.pad_token = loaded.eos_token
    return loaded


def pad(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Token ids padded on the right, and where they are real.

    Attention is causal, so what follows a token never reaches it: padded on the right, no attention mask is needed.
    """
    longest = max(map(len, sequences))
    ids = torch.tensor([[*sequence, *[pad_id] * (longest - len(sequence))] for sequence in sequences])
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    return ids, torch.arange(longest)[None, :] < lengths[:, None]


def batches(sequences: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Indices of `sequences` in batches of `size`, by length so that little is padded. A fixed function of both."""
    order = sorted(range(len(sequences)), key=lambda index: (len(sequences[index]), index))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def forward(
    model: nn.Module,
    ids: Int[Tensor, "batch pos"],
    visit: Callable[[str, Float[Tensor, "batch pos d_model"]], None],
) -> None:
    """Runs the blocks of `model` over `ids` and hands every layer's output to `visit` under its name: 0 … L, `norm`.

    The states are handed over one at a time, so that what the visitor does not keep is not held.
    """
    body = body_of(model)

    def hook(name: str) -> Callable[..., None]:
        def call(_module: nn.Module, _inputs: Any, output: Any) -> None:
            visit(name, output[0] if isinstance(output, tuple) else output)

        return call

    named = [("0", body.embed_tokens)]
    named += [(str(number), block) for number, block in enumerate(body.layers, start=1)]
    named += [] if isinstance(body.norm, nn.Identity) else [(NORM, body.norm)]
    handles = [module.register_forward_hook(hook(name)) for name, module in named]
    try:
        body(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()


def body_of(model: nn.Module) -> Any:
    """The LlamaModel inside a causal LM, with or without PEFT around it."""
    inner: Any = model
    get_base = getattr(inner, "get_base_model", None)
    if get_base is not None:
        inner = get_base()
    return inner.model


def head_of(model: nn.Module) -> Any:
    """The language-model head of a causal LM, with or without PEFT around it."""
    inner: Any = model
    get_base = getattr(inner, "get_base_model", None)
    return (inner if get_base is None else get_base()).lm_head
