"""Runs a span of a decoder's blocks over many short sequences: a batch through all blocks, or all through one block.

`hidden_states[i]` is the raw output of block i (i = 0: the embeddings); transformers keeps the raw output of the last
block to itself and returns it after the final norm, so both are taken by hooks here, the latter under the key `norm`.
Every lexical and transfer table comes through this module.
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
SHARED = "shared"  # the name of `attend` among transformers' attention functions


def setup(threads: int, device: str = "cpu") -> None:
    """One process's arithmetic: threads, device of every model, deterministic algorithms, no libraries' progress bars.

    Raises:
        UserError: a CUDA device is asked for and there is none; nothing falls back to the processor unasked.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "params.yaml: compute.device of the profile: expected a CUDA device, found none; "
            "run it where there is one, or set cpu, which takes long for a large model"
        )
    checkpoint.place_on(torch.device(device))
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    deterministic: Any = torch.utils.deterministic
    deterministic.fill_uninitialized_memory = False  # nothing here reads what it has not written
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # peft 0.21.2 asks transformers 5 for gradient checkpointing by its old name: nothing a user could mend
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


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


class Shared(NamedTuple):
    """The tokens of a batch, each beginning that its sequences share once: a token's state hangs on what is before it.

    `place`: which of the tokens stands at each position, 0 (the first, as good as any) where there is padding; `first`:
    where in the flattened batch each token stands first.
    """

    place: Int[Tensor, "batch pos"]
    first: Int[Tensor, " token"]

    def laid_out(self, states: Float[Tensor, "*lead token d"]) -> Float[Tensor, "*lead batch pos d"]:
        """The batch's states, from its tokens'."""
        return torch.unflatten(states[..., self.place.flatten(), :], -2, self.place.shape)


def shared(ids: Int[Tensor, "batch pos"], real: Bool[Tensor, "batch pos"] | None = None) -> Shared:
    """Which tokens of a batch must be run, `real` being those that are no padding; all, if not given."""
    lengths = [ids.shape[1]] * len(ids) if real is None else real.sum(dim=1).tolist()
    tokens: dict[tuple[int, ...], int] = {}
    place, first = torch.zeros_like(ids), list[int]()
    for row, (sequence, length) in enumerate(zip(ids.tolist(), lengths, strict=True)):
        for position in range(length):
            start = tuple(sequence[: position + 1])
            if start not in tokens:
                tokens[start] = len(first)
                first.append(row * ids.shape[1] + position)
            place[row, position] = tokens[start]
    return Shared(place, torch.tensor(first, device=ids.device))


def attend(
    module: nn.Module,
    query: Float[Tensor, "1 head token d_head"],
    key: Float[Tensor, "1 kv_head token d_head"],
    value: Float[Tensor, "1 kv_head token d_head"],
    mask: Tensor | None,
    batch: Shared,
    **settings: Any,
) -> tuple[Float[Tensor, "1 token head d_head"], None]:
    """Causal attention in each sequence of the batch, by transformers' own, in the batch's own shape and `mask`."""
    q, k, v = (batch.laid_out(each[0]).transpose(0, 1) for each in (query, key, value))
    result = sdpa_attention_forward(module, q, k, v, mask, **settings)[0]
    return result.flatten(0, 1)[batch.first][None], None


@contextmanager
def attention(config: Any, name: str) -> Iterator[None]:
    """Meanwhile a model with this configuration attends by the function of that name."""
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


@torch.no_grad()
def run(
    model: nn.Module,
    batches: Sequence[Int[Tensor, "batch pos"]],
    real: Sequence[Bool[Tensor, "batch pos"]] | None = None,
) -> Iterator[tuple[str, list[Float[Tensor, "batch pos d_model"]]]]:
    """Runs all batches through one block, then through the next: each layer's name, and its states for every batch.

    They are what `forward` hands over, where they are `real`. Attention runs in each batch's own shape, all else on its
    `Shared` tokens: BOS is one for all words. A block that is read on demand (see `load`) is read once and not once a
    batch; what is held between two blocks is the states of all batches.
    """
    AttentionInterface.register(SHARED, attend)
    body = body_of(model)
    device = body.embed_tokens.weight.device
    no_padding: list[None] = [None] * len(batches)
    tokens = [shared(ids.to(device), own) for ids, own in zip(batches, real or no_padding, strict=True)]
    embedded: list[Tensor] = []
    states: list[Tensor] = []
    kept: list[list[dict[str, Any]]] = []
    for ids, batch in zip((ids.to(device) for ids in batches), tokens, strict=True):
        masks = [note.given.get("attention_mask") for note in noted(body, input_ids=ids)]
        given = {"input_ids": ids.flatten()[batch.first], "position_ids": batch.first % ids.shape[1]}
        handle = body.embed_tokens.register_forward_hook(lambda _module, _inputs, output: embedded.append(output))
        try:
            with attention(body.config, SHARED):
                notes = noted(body, **{name: each[None] for name, each in given.items()}, batch=batch)
        finally:
            handle.remove()
        states.append(notes[0].states)
        kept.append([note.given | {"attention_mask": mask} for note, mask in zip(notes, masks, strict=True)])

    def laid_out(states: Sequence[Float[Tensor, "1 token d_model"]]) -> list[Float[Tensor, "batch pos d_model"]]:
        return [batch.laid_out(each[0]) for batch, each in zip(tokens, states, strict=True)]

    yield "0", laid_out(embedded)
    embedded.clear()
    for place, block in enumerate(body.layers):
        with attention(body.config, SHARED):
            for number, each in enumerate(kept):
                output = block(states[number], **each[place])
                states[number] = output[0] if isinstance(output, tuple) else output
        yield str(place + 1), laid_out(states)
    if not isinstance(body.norm, nn.Identity):
        yield NORM, laid_out([body.norm(each) for each in states])


def noted(body: Any, **inputs: Any) -> list[Note]:
    """What the decoder hands to each of its blocks for these inputs; none is run."""
    blocks, notes = body.layers, [Note() for _ in body.layers]
    body.layers = nn.ModuleList(notes)
    try:
        body(**inputs, use_cache=False)
    finally:
        body.layers = blocks
    return notes


class Note(nn.Module):
    """Stands in for a block: notes what the body hands to it, and passes the states on as they are."""

    def forward(self, states: Float[Tensor, "batch pos d_model"], **given: Any) -> Float[Tensor, "batch pos d_model"]:
        self.states, self.given = states, given
        return states


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
