"""Runs the blocks of a decoder over many short sequences, and gives the hidden states of every layer.

Layer i is the output of block i (0: the embeddings), and `norm` the output of the final norm. transformers does not
return the output of the last block before the final norm, so hooks read both here. `forward` runs one batch through all
blocks; `run_by_block` runs all batches through one block, then through the next. All similarity tables use this module.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.utils import logging

from tli.io.errors import UserError
from tli.model import checkpoint

NORM = "norm"
ATTENTION = "distinct_tokens"  # the name of `attend` in transformers' register of attention functions


def setup(threads: int, device: str = "cpu") -> None:
    """Sets up the process: threads, the device of every model, deterministic algorithms, no libraries' progress bars.

    Raises:
        UserError: the device is `cuda` and there is none; the CPU is not used instead.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "params.yaml: compute.device of the profile: expected a CUDA device, found none; "
            "run it where there is one, or set cpu, which takes long for a large model"
        )
    checkpoint.set_device(torch.device(device))
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    deterministic: Any = torch.utils.deterministic
    deterministic.fill_uninitialized_memory = False  # no code here reads memory that it has not written
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # peft 0.21.2 uses transformers 5's old name for gradient checkpointing; a user cannot change that
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


def pad(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Token ids padded on the right, and a mask that is True at real tokens.

    Attention is causal, so padding on the right never reaches a real token and no attention mask is needed.
    """
    longest = max(map(len, sequences))
    ids = torch.tensor([[*sequence, *[pad_id] * (longest - len(sequence))] for sequence in sequences])
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    return ids, torch.arange(longest)[None, :] < lengths[:, None]


def batches(sequences: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Indices of `sequences` in batches of `size`, sorted by length to reduce padding; depends on nothing else."""
    order = sorted(range(len(sequences)), key=lambda index: (len(sequences[index]), index))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def forward(
    model: nn.Module,
    ids: Int[Tensor, "batch pos"],
    visit: Callable[[str, Float[Tensor, "batch pos d_model"]], None],
) -> None:
    """Runs `model` over `ids` and calls `visit(name, states)` for each layer: 0 … L and `norm`.

    States that `visit` does not keep are freed after the call.
    """
    body = body_of(model)

    def hook(name: str) -> Callable[..., None]:
        def call(_module: nn.Module, _inputs: Any, output: Any) -> None:
            visit(name, output[0] if isinstance(output, tuple) else output)

        return call

    modules = [("0", body.embed_tokens)]
    modules += [(str(number), block) for number, block in enumerate(body.layers, start=1)]
    modules += [] if isinstance(body.norm, nn.Identity) else [(NORM, body.norm)]
    handles = [module.register_forward_hook(hook(name)) for name, module in modules]
    try:
        body(input_ids=ids.to(body.embed_tokens.weight.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()


class DistinctTokens(NamedTuple):
    """The distinct tokens of a batch: each prefix that several sequences share runs only once.

    A token's hidden state depends only on the tokens before it, so it is the same in all sequences with that prefix.
    `token_at[b, t]` is the distinct token at position t of sequence b, and 0 at padding. `first` gives, for each
    distinct token, its first position in the flattened batch.
    """

    token_at: Int[Tensor, "batch pos"]
    first: Int[Tensor, " token"]

    def expand(self, states: Float[Tensor, "*lead token d"]) -> Float[Tensor, "*lead batch pos d"]:
        """The states of the whole batch, from those of its distinct tokens."""
        return torch.unflatten(states[..., self.token_at.flatten(), :], -2, self.token_at.shape)


def distinct_tokens(ids: Int[Tensor, "batch pos"], real: Bool[Tensor, "batch pos"] | None = None) -> DistinctTokens:
    """The distinct tokens of a batch. `real` is True at tokens that are not padding; default all."""
    lengths = [ids.shape[1]] * len(ids) if real is None else real.sum(dim=1).tolist()
    token_of_prefix: dict[tuple[int, ...], int] = {}
    token_at, first = torch.zeros_like(ids), list[int]()
    for row, (sequence, length) in enumerate(zip(ids.tolist(), lengths, strict=True)):
        for position in range(length):
            prefix = tuple(sequence[: position + 1])
            if prefix not in token_of_prefix:
                token_of_prefix[prefix] = len(first)
                first.append(row * ids.shape[1] + position)
            token_at[row, position] = token_of_prefix[prefix]
    return DistinctTokens(token_at, torch.tensor(first, device=ids.device))


def attend(
    module: nn.Module,
    query: Float[Tensor, "1 head token d_head"],
    key: Float[Tensor, "1 kv_head token d_head"],
    value: Float[Tensor, "1 kv_head token d_head"],
    mask: Tensor | None,
    batch: DistinctTokens,
    **settings: Any,
) -> tuple[Float[Tensor, "1 token head d_head"], None]:
    """Causal attention in each sequence, by transformers' own function, with the shape and `mask` of the full batch."""
    q, k, v = (batch.expand(states[0]).transpose(0, 1) for states in (query, key, value))
    result = sdpa_attention_forward(module, q, k, v, mask, **settings)[0]
    return result.flatten(0, 1)[batch.first][None], None


@contextmanager
def attention_function(config: Any, name: str) -> Iterator[None]:
    """Within the context, models with this configuration use the attention function registered as `name`."""
    previous = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = previous


@torch.no_grad()
def run_by_block(
    model: nn.Module,
    batches: Sequence[Int[Tensor, "batch pos"]],
    real: Sequence[Bool[Tensor, "batch pos"]] | None = None,
) -> Iterator[tuple[str, list[Float[Tensor, "batch pos d_model"]]]]:
    """Runs all batches through one block, then through the next; yields each layer's name and its states per batch.

    At `real` tokens the states equal those of `forward`. Attention runs in the shape of each full batch, everything
    else on its distinct tokens; BOS, for example, runs once for all words of a batch. A block that is loaded on demand
    (see `checkpoint.load`) is loaded once, not once per batch. The states of all batches stay in memory.
    """
    AttentionInterface.register(ATTENTION, attend)
    body = body_of(model)
    device = body.embed_tokens.weight.device
    no_padding: list[None] = [None] * len(batches)
    tokens = [
        distinct_tokens(ids.to(device), real_of_batch)
        for ids, real_of_batch in zip(batches, real or no_padding, strict=True)
    ]
    embeddings: list[Tensor] = []
    states: list[Tensor] = []
    block_arguments: list[list[dict[str, Any]]] = []
    for ids, batch in zip((ids.to(device) for ids in batches), tokens, strict=True):
        masks = [recorder.arguments.get("attention_mask") for recorder in block_inputs(body, input_ids=ids)]
        inputs = {"input_ids": ids.flatten()[batch.first], "position_ids": batch.first % ids.shape[1]}
        handle = body.embed_tokens.register_forward_hook(lambda _module, _inputs, output: embeddings.append(output))
        try:
            with attention_function(body.config, ATTENTION):
                recorders = block_inputs(body, **{name: values[None] for name, values in inputs.items()}, batch=batch)
        finally:
            handle.remove()
        states.append(recorders[0].states)
        block_arguments.append(
            [recorder.arguments | {"attention_mask": mask} for recorder, mask in zip(recorders, masks, strict=True)]
        )

    def expanded(states: Sequence[Float[Tensor, "1 token d_model"]]) -> list[Float[Tensor, "batch pos d_model"]]:
        return [batch.expand(values[0]) for batch, values in zip(tokens, states, strict=True)]

    yield "0", expanded(embeddings)
    embeddings.clear()
    for block_index, block in enumerate(body.layers):
        with attention_function(body.config, ATTENTION):
            for batch_index, values in enumerate(block_arguments):
                output = block(states[batch_index], **values[block_index])
                states[batch_index] = output[0] if isinstance(output, tuple) else output
        yield str(block_index + 1), expanded(states)
    if not isinstance(body.norm, nn.Identity):
        yield NORM, expanded([body.norm(values) for values in states])


def block_inputs(body: Any, **inputs: Any) -> list[InputRecorder]:
    """Records the arguments that the decoder passes to each of its blocks for `inputs`, without running the blocks."""
    blocks, recorders = body.layers, [InputRecorder() for _ in body.layers]
    body.layers = nn.ModuleList(recorders)
    try:
        body(**inputs, use_cache=False)
    finally:
        body.layers = blocks
    return recorders


class InputRecorder(nn.Module):
    """Replaces a block: records its arguments and returns the states unchanged."""

    def forward(
        self, states: Float[Tensor, "batch pos d_model"], **arguments: Any
    ) -> Float[Tensor, "batch pos d_model"]:
        self.states, self.arguments = states, arguments
        return states


def body_of(model: nn.Module) -> Any:
    """The decoder of a causal LM, with or without a PEFT wrapper."""
    inner: Any = model
    get_base = getattr(inner, "get_base_model", None)
    if get_base is not None:
        inner = get_base()
    return inner.model


def head_of(model: nn.Module) -> Any:
    """The language-model head of a causal LM, with or without a PEFT wrapper."""
    inner: Any = model
    get_base = getattr(inner, "get_base_model", None)
    return (inner if get_base is None else get_base()).lm_head
