"""Runs a span of a decoder's blocks over many short sequences: the whole model, or cut to its first blocks.

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
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from tli import store

NORM = "norm"
HEAD = "lm_head.weight"
_device = torch.device("cpu")


def setup(threads: int, device: str = "cpu") -> None:
    """One process's arithmetic: threads, device of every model, deterministic algorithms, no libraries' progress bars.

    Raises:
        UserError: a CUDA device is asked for and there is none; nothing falls back to the processor unasked.
    """
    global _device
    if device == "cuda" and not torch.cuda.is_available():
        raise store.UserError(
            "params.yaml: compute.device of the profile: expected a CUDA device, found none; "
            "run it where there is one, or set cpu, which takes long for a large model"
        )
    _device = torch.device(device)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # peft 0.21.2 asks transformers 5 for gradient checkpointing by its old name: nothing a user could mend
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


class NoHead(nn.Module):
    """Stands where a checkpoint has no language-model head, so that no score can come from random weights."""

    def forward(self, _states: Tensor) -> Tensor:
        raise store.UserError(f"transfer: the checkpoint holds no {HEAD}; {HEAD_ADVICE}")


class Rows(nn.Module):
    """The rows of an embedding matrix that belong to some tokens; to those tokens it is the whole matrix.

    `weight` is (n, d_model), `tokens` the n token ids, ascending.
    """

    tokens: Tensor

    def __init__(self, tokens: Sequence[int], weight: nn.Parameter) -> None:
        super().__init__()
        self.register_buffer("tokens", torch.tensor(tokens, device=weight.device), persistent=False)
        self.weight = weight

    def places(self, ids: Int[Tensor, "*batch pos"]) -> Int[Tensor, "*batch pos"]:
        """Which row each token has.

        Raises:
            CheckFailed: a token has none.
        """
        found = torch.searchsorted(self.tokens, ids).clamp(max=len(self.tokens) - 1)
        unknown = ids[self.tokens[found] != ids]
        if len(unknown):
            raise store.CheckFailed(
                f"embeddings: expected one of the {len(self.tokens)} tokens of the word list, of which alone the base "
                f"has embeddings, got {int(unknown[0])}; run `dvc repro base` with the list, or set model.span to null"
            )
        return found

    def forward(self, ids: Int[Tensor, "*batch pos"]) -> Float[Tensor, "*batch pos d_model"]:
        return nn.functional.embedding(self.places(ids), self.weight)


HEAD_ADVICE = (
    "set model.head_from of the profile to a sibling repository that has it (scan, train and align need no head)"
)


def load(folder: Path, blocks: int | None = None) -> PreTrainedModel:
    """The checkpoint in `folder`, frozen and in evaluation mode; with `blocks`, cut to that many first blocks.

    Any architecture with Llama's module names. The cut model is still a causal LM, so that adapters keep PEFT's keys;
    its final norm is the identity, so that its last hidden state is the whole model's hidden_states[blocks], bit for
    bit. Where the checkpoint has no head, `NoHead` takes its place. One that is a part of another (model/part.py) is a
    cut model too, and its embeddings are `Rows`.

    Raises:
        CheckFailed: the checkpoint lacks any other tensor, which transformers would draw at random.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    part = getattr(config, "part_of", None)
    whole = config.num_hidden_layers if part is None else part["num_hidden_layers"]
    if blocks is not None:
        config.num_hidden_layers = blocks
        if getattr(config, "layer_types", None):  # kept beside the number of blocks by some architectures
            config.layer_types = config.layer_types[:blocks]
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # the weights of the blocks cut off are reported as unexpected
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, config=config, local_files_only=True, dtype=config.dtype, output_loading_info=True,
        **({} if _device.type == "cpu" else {"device_map": {"": _device}}),
    )  # fmt: skip
    logging.set_verbosity(verbosity)
    model: PreTrainedModel = loaded[0]
    found: dict[str, Any] = loaded[1]
    missing = sorted(found["missing_keys"])
    if HEAD in missing:
        model.lm_head = NoHead()
        missing.remove(HEAD)
    if missing:
        raise store.CheckFailed(
            f"{folder}: expected every tensor of {type(model).__name__}, got no {missing[0]} "
            f"({len(missing)} missing); remove the folder and run `dvc repro`"
        )
    body: Any = model.model
    if len(body.layers) < whole:
        body.norm = nn.Identity()
    if part is not None:
        body.embed_tokens = Rows(config.token_rows, body.embed_tokens.weight)
    model.config.use_cache = False
    model.requires_grad_(False)
    keep_unpacked(model)
    model.eval()
    return model


def require_head(folder: Path) -> None:
    """Raises UserError unless the checkpoint's files hold a head, or its configuration ties it to the embeddings."""
    index = store.read_json(folder / "model.safetensors.index.json")["weight_map"]
    if HEAD not in index and not store.read_json(folder / "config.json").get("tie_word_embeddings", False):
        raise store.UserError(
            f"{folder}: transfer: expected {HEAD}, which no file of the checkpoint holds; {HEAD_ADVICE}"
        )


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
        body(input_ids=ids.to(body.embed_tokens.weight.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()


def body_of(model: nn.Module) -> Any:
    """The decoder inside a causal LM, with or without PEFT around it."""
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
