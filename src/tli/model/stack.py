"""Adapters trained side by side over one frozen model: LoRA of one shape, one adapter a seed, as many batches at once.

For adapter k, on its own batch x_k, with s and the draws of A and of dropout as PEFT has them for the seed k:
    h_k = W x_k + s B_k A_k dropout_k(x_k),    A: (adapter, r, d_in), B: (adapter, d_out, r).
The batches lie one after another in one row of tokens: W, norms and MLP see it whole, attention and A and B each batch
by itself, in the shape that it has alone. So every adapter is what PEFT's layers for 4-bit weights would make of it,
operation by operation. Feeds every table with an adapter trained here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tli.model import backbone, lora
from tli.params import Lora

ATTENTION = "stacked"  # the name of `attend` among transformers' attention functions


class Step:
    """What a forward pass must know of its batches: their shapes, and the generators of their dropout."""

    def __init__(self, rate: float, seeds: Sequence[int]) -> None:
        self.rate = rate
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.shapes: list[tuple[int, int]] = []  # (sequences, positions) of each adapter's batch

    @property
    def tokens(self) -> list[int]:
        """Tokens in each adapter's batch, padding in."""
        return [sequences * positions for sequences, positions in self.shapes]

    def masks(self, width: int) -> list[Float[Tensor, "tokens d_in"]] | None:
        """What nn.Dropout would multiply each adapter's own batch by, 0 or 1 / (1 - p), from its own generator.

        Drawn on the processor, whatever the model's device: as nn.Dropout draws there.
        """
        if not self.rate:
            return None
        return [
            torch.empty(tokens, width).bernoulli_(1 - self.rate, generator=generator).div_(1 - self.rate)
            for tokens, generator in zip(self.tokens, self.generators, strict=True)
        ]


def attend(
    module: nn.Module,
    query: Float[Tensor, "1 head token d_head"],
    key: Float[Tensor, "1 kv_head token d_head"],
    value: Float[Tensor, "1 kv_head token d_head"],
    _mask: None,
    step: Step,
    **settings: Any,
) -> tuple[Float[Tensor, "1 token head d_head"], None]:
    """Causal attention in each sequence of each batch; transformers' own, one call a batch."""
    result = []
    for shape, *own in zip(
        step.shapes, *(each[0].split(step.tokens, dim=1) for each in (query, key, value)), strict=True
    ):
        q, k, v = (states.unflatten(1, shape).transpose(0, 1) for states in own)
        result.append(sdpa_attention_forward(module, q, k, v, None, **settings)[0].flatten(0, 1))
    return torch.cat(result)[None], None


class Products(torch.autograd.Function):
    """s B_k A_k dropout_k(x_k) for every adapter k, in the dtype of x, with its gradients.

    Operations and roundings are those of PEFT's layer for 4-bit weights and of its gradients: A and B are float32, x
    is cast to float32 for them, the product to the dtype of x. Autograd would do the same with some ten nodes a batch.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, scaling: float, tokens: list[int], masks: list[Tensor] | None
    ) -> Tensor:
        masks = masks and [mask.to(x.device) for mask in masks]
        result, kept = [], []
        for k, own in enumerate(x[0].split(tokens)):
            seen = own.to(a.dtype) if masks is None else own.to(a.dtype) * masks[k]
            inner = nn.functional.linear(seen, a[k])
            result.append((nn.functional.linear(inner, b[k]) * scaling).to(x.dtype))
            kept += [seen, inner]
        ctx.save_for_backward(a, b, *kept, *(masks or []))
        ctx.scaling, ctx.tokens, ctx.dropped = scaling, tokens, masks is not None
        return torch.cat(result)[None]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        a, b, *kept = ctx.saved_tensors
        of_x, of_a, of_b = [], torch.empty_like(a), torch.empty_like(b)
        for k, own in enumerate(gradient[0].split(ctx.tokens)):
            seen, inner = kept[2 * k : 2 * k + 2]
            outer = own.to(a.dtype) * ctx.scaling
            torch.mm(outer.t(), inner, out=of_b[k])
            outer = outer @ b[k]
            torch.mm(outer.t(), seen, out=of_a[k])
            if ctx.needs_input_grad[0]:
                back = outer @ a[k]
                of_x.append((back * kept[2 * len(a) + k] if ctx.dropped else back).to(gradient.dtype))
        return torch.cat(of_x)[None] if of_x else None, of_a, of_b, None, None, None


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

    def forward(self, x: Float[Tensor, "1 token d_in"]) -> Float[Tensor, "1 token d_out"]:
        result: Tensor = self.base(x)
        apply: Callable[..., Tensor] = Products.apply
        return result + apply(x, self.a, self.b, self.scaling, self.step.tokens, self.step.masks(x.shape[-1]))


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

    def states(self, batches: Sequence[Int[Tensor, "sequence pos"]]) -> list[Float[Tensor, "sequence pos d_model"]]:
        """hidden_states[reached] of each adapter's own batch of token ids, padded on the right to its longest sequence.

        Blocks beyond are not run; but PEFT would draw their dropout, so it is drawn.
        """
        self._step.shapes = [(len(ids), ids.shape[1]) for ids in batches]
        ids = torch.cat([own.flatten() for own in batches])[None].to(self._model.device)
        positions = torch.cat([torch.arange(own.shape[1]).repeat(len(own)) for own in batches])[None].to(ids.device)
        run: Any = backbone.body_of(self._model)
        states: Tensor = run(input_ids=ids, position_ids=positions, use_cache=False, step=self._step).last_hidden_state
        for layer in self._beyond:
            self._step.masks(layer.a.shape[-1])
        own = states[0].split(self._step.tokens)
        return [rows.unflatten(0, shape) for rows, shape in zip(own, self._step.shapes, strict=True)]

    def gradient_norms(self) -> Float[Tensor, " adapter"]:
        """||gradient|| of each adapter, over those of its tensors that the loss reached."""
        reached = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norms = [torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in reached]
        result: Tensor = torch.linalg.vector_norm(torch.stack(norms, dim=1), dim=1)
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
    AttentionInterface.register(ATTENTION, attend)
    body: Any = backbone.body_of(model)
    whole, norm, attention = body.layers, body.norm, model.config._attn_implementation
    try:
        model.config._attn_implementation = ATTENTION
        for name, layer in layers.items():
            model.set_submodule(name.removeprefix("base_model.model."), layer)
        body.layers, body.norm = whole[:reached], nn.Identity()
        yield Stack(model, layers, reached, seeds, step)
    finally:
        model.config._attn_implementation = attention
        body.layers, body.norm = whole, norm
        for name, layer in layers.items():
            model.set_submodule(name.removeprefix("base_model.model."), layer.base)
