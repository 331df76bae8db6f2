"""Runs a span of a decoder's blocks over many short sequences: a batch through all blocks, or all through one block.

`hidden_states[i]` is the raw output of block i (i = 0: the embeddings); transformers keeps the raw output of the last
block to itself and returns it after the final norm, so both are taken by hooks here, the latter under the key `norm`.
Every lexical and transfer table comes through this module.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.utils import logging

from tli import store
from tli.model import checkpoint
from tli.model.checkpoint import Dequantized as Dequantized
from tli.model.checkpoint import NoHead as NoHead
from tli.model.checkpoint import config as config
from tli.model.checkpoint import dequantized as dequantized
from tli.model.checkpoint import keep_unpacked as keep_unpacked
from tli.model.checkpoint import laid_out as laid_out
from tli.model.checkpoint import load as load
from tli.model.checkpoint import require_head as require_head
from tli.model.checkpoint import rows as rows
from tli.model.checkpoint import tokenizer as tokenizer

NORM = "norm"


def setup(threads: int, device: str = "cpu") -> None:
    """One process's arithmetic: threads, device of every model, deterministic algorithms, no libraries' progress bars.

    Raises:
        UserError: a CUDA device is asked for and there is none; nothing falls back to the processor unasked.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise store.UserError(
            "params.yaml: compute.device of the profile: expected a CUDA device, found none; "
            "run it where there is one, or set cpu, which takes long for a large model"
        )
    checkpoint.place_on(torch.device(device))
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads what it has not written
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


@torch.no_grad()
def run(
    model: nn.Module, batches: Sequence[Int[Tensor, "batch pos"]]
) -> Iterator[tuple[str, list[Float[Tensor, "batch pos d_model"]]]]:
    """Runs all batches through one block, then through the next: each layer's name, and its states for every batch.

    They are what `forward` hands over, bit for bit. A block that is read on demand (see `load`) is read once and not
    once a batch; what is held between two blocks is the states of all batches.
    """
    body = body_of(model)
    blocks, embedded = body.layers, []
    notes = [[Note() for _ in blocks] for _ in batches]
    handle = body.embed_tokens.register_forward_hook(lambda _module, _inputs, output: embedded.append(output))
    try:
        for own, ids in zip(notes, batches, strict=True):
            body.layers = nn.ModuleList(own)
            body(input_ids=ids.to(body.embed_tokens.weight.device), use_cache=False)
    finally:
        body.layers = blocks
        handle.remove()
    states, given = [own[0].states for own in notes], [[note.given for note in own] for own in notes]
    del notes
    yield "0", embedded
    embedded = []
    for place, block in enumerate(blocks):
        for number, kept in enumerate(given):
            output = block(states[number], **kept[place])
            states[number] = output[0] if isinstance(output, tuple) else output
        yield str(place + 1), [*states]
    if not isinstance(body.norm, nn.Identity):
        yield NORM, [body.norm(each) for each in states]


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
