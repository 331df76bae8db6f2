"""Adapters trained side by side over one frozen model: LoRA of one shape, one adapter a seed, as many batches at once.

For adapter k, on its own batch x_k, with s and the draws of A and of dropout as PEFT has them for the seed k:
    h_k = W x_k + s B_k A_k dropout_k(x_k),    A: (adapter, r, d_in), B: (adapter, d_out, r).
W, attention and MLP see all batches as one; only A and B differ by adapter. A stack of one does what PEFT's layer for
4-bit weights does, operation by operation. Feeds every table with an adapter trained here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from tli.model import backbone, lora
from tli.params import Lora


class Step:
    """What a forward pass needs to know of its batches, and the masks drawn for it."""

    def __init__(self, rate: float, seeds: Sequence[int]) -> None:
        self.rate = rate
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.lengths: list[int] = []  # of the longest sequence in each adapter's batch

    def masks(self, sequences: int, width: int) -> list[Float[Tensor, "own pos d_in"]] | None:
        """What nn.Dropout would multiply each adapter's own batch by, 0 or 1 / (1 - p), from its own generator.

        Drawn on the processor, whatever the model's device: as nn.Dropout draws there.
        """
        if not self.rate:
            return None
        return [
            torch.empty(sequences, length, width).bernoulli_(1 - self.rate, generator=generator).div_(1 - self.rate)
            for length, generator in zip(self.lengths, self.generators, strict=True)
        ]


class Products(torch.autograd.Function):
    """s B_k A_k dropout_k(x_k) for every adapter k, in the dtype of x, with its gradients.

    Each product is taken over the adapter's own batch, without the padding that only others need: the sums have the
    terms, and the order, that they have alone. Operations and roundings are those of PEFT's layer for 4-bit weights;
    autograd would do as many, each with a view and a copy of the whole batch.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, scaling: float, lengths: list[int], masks: list[Tensor] | None
    ) -> Tensor:
        out = x.new_zeros(*x.shape[:-1], b.shape[1])
        masks = masks and [mask.to(x.device) for mask in masks]
        kept = []
        for k, (own, to) in enumerate(zip(x.chunk(len(a)), out.chunk(len(a)), strict=True)):
            seen = own[:, : lengths[k]].to(a.dtype, memory_format=torch.contiguous_format)
            seen = seen if masks is None else seen * masks[k]
            inner = nn.functional.linear(seen, a[k])
            to[:, : lengths[k]] = nn.functional.linear(inner, b[k]).mul_(scaling)
            kept += [seen.flatten(0, 1), inner.flatten(0, 1)]
        ctx.save_for_backward(a, b, *kept, *(masks or []))
        ctx.scaling, ctx.lengths, ctx.dropped = scaling, lengths, masks is not None
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        a, b, *kept = ctx.saved_tensors
        n = len(a)
        of_a, of_b = torch.empty_like(a), torch.empty_like(b)
        of_x = gradient.new_zeros(*gradient.shape[:-1], a.shape[-1]) if ctx.needs_input_grad[0] else None
        for k, own in enumerate(gradient.chunk(n)):
            seen, inner = kept[2 * k : 2 * k + 2]
            outer = own[:, : ctx.lengths[k]].to(a.dtype).flatten(0, 1) * ctx.scaling
            torch.mm(outer.t(), inner, out=of_b[k])
            outer = outer @ b[k]
            torch.mm(outer.t(), seen, out=of_a[k])
            if of_x is not None:
                back = (outer @ a[k]).unflatten(0, (len(own), -1))
                of_x.chunk(n)[k][:, : ctx.lengths[k]] = back * kept[2 * n + k] if ctx.dropped else back
        return of_x, of_a, of_b, None, None, None


class Stacked(nn.Module):
    """A frozen projection with the stack's matrices around it, in place of the projection itself."""

    def __init__(
        self,
        base: nn.Module,
        a: Float[Tensor, "adapter r d_in"],
        b: Float[Tensor, "adapter d_out r"],
        scaling: float,
        step: Step,
    ) -> None:
        super().__init__()
        self.base, self.a, self.b = base, nn.Parameter(a), nn.Parameter(b)
        self.scaling, self.step = scaling, step

    def forward(self, x: Float[Tensor, "batch pos d_in"]) -> Float[Tensor, "batch pos d_out"]:
        result: Tensor = self.base(x)
        masks = self.step.masks(len(x) // len(self.a), x.shape[-1])
        apply: Callable[..., Tensor] = Products.apply
        return result + apply(x, self.a, self.b, self.scaling, self.step.lengths, masks)


class Stack:
    """The adapters on a model: how a batch of each goes through it, and their tensors under PEFT's names."""

    def __init__(
        self, model: PreTrainedModel, layers: dict[str, Stacked], reached: int, seeds: Sequence[int], step: Step
    ) -> None:
        self.seeds, self.layers = list(seeds), layers
        self.rank = next(iter(layers.values())).a.shape[1]
        self.parameters = [parameter for layer in layers.values() for parameter in (layer.a, layer.b)]
        self._model, self._step = model, step
        self._beyond = [layer for name, layer in layers.items() if lora.place(f"{name}.lora_A.").block > reached]

    def states(self, ids: Int[Tensor, "batch pos"], lengths: Sequence[int]) -> Float[Tensor, "batch pos d_model"]:
        """hidden_states[reached] of every adapter's sequences, one adapter's after another's, padded on the right.

        `lengths` are those of each adapter's longest sequence. Blocks beyond are not run; PEFT would draw their
        dropout, so it is drawn.
        """
        self._step.lengths = list(lengths)
        body = backbone.body_of(self._model)
        result: Tensor = body(input_ids=ids.to(self._model.device), use_cache=False).last_hidden_state
        for layer in self._beyond:
            self._step.masks(len(ids) // len(self.seeds), layer.a.shape[-1])
        return result

    def gradient_norms(self) -> Float[Tensor, " adapter"]:
        """||gradient|| of each adapter over all its tensors that the loss reached."""
        reached = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norms = [torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in reached]
        result: Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        return result

    def tensors(self, adapter: int) -> dict[str, Tensor]:
        """One adapter, as PEFT saves it."""
        return {
            f"{name}.lora_{matrix}.weight": tensor[adapter].detach().cpu().clone()
            for name, layer in self.layers.items()
            for matrix, tensor in (("A", layer.a), ("B", layer.b))
        }

    @property
    def size(self) -> int:
        """Parameters of one adapter: the sum of r (d_in + d_out) over the adapted projections."""
        return sum(parameter[0].numel() for parameter in self.parameters)


@contextmanager
def stacked(model: PreTrainedModel, settings: Lora, blocks: int, seeds: Sequence[int], reached: int) -> Iterator[Stack]:
    """Fresh adapters, one a seed, on the first `blocks` blocks of `model`, which runs up to block `reached` only.

    On leaving, the model is as it was, and the stack's tensors stay readable.
    """
    found: dict[str, list[LoraLayer]] = {}
    for seed in seeds:
        adapted = lora.attach(model, settings, blocks, seed)
        for name, module in adapted.named_modules():
            if isinstance(module, LoraLayer):
                found.setdefault(name, []).append(module)
        lora.unload(adapted)
    step = Step(settings.dropout, seeds)
    layers: dict[str, Stacked] = {}
    for name, modules in found.items():
        a, b = (
            torch.stack([getattr(module, matrix)["default"].weight.detach() for module in modules])
            for matrix in ("lora_A", "lora_B")
        )
        layers[name] = Stacked(modules[0].get_base_layer(), a, b, modules[0].scaling["default"], step)
    body: Any = backbone.body_of(model)
    whole, norm = body.layers, body.norm
    try:
        for name, layer in layers.items():
            model.set_submodule(name.removeprefix("base_model.model."), layer)
        body.layers, body.norm = whole[:reached], nn.Identity()
        yield Stack(model, layers, reached, seeds, step)
    finally:
        body.layers, body.norm = whole, norm
        for name, layer in layers.items():
            model.set_submodule(name.removeprefix("base_model.model."), layer.base)
