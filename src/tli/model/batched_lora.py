"""Adapters trained side by side over one frozen model: LoRA of one shape, one adapter a seed, as many batches at once.

For adapter k, on its own batch x_k, with s and the draws of A and of dropout as PEFT has them for the seed k:
    h_k = W x_k + s B_k A_k dropout_k(x_k),    A: (adapter, r, d_in), B: (adapter, d_out, r).
The batches lie one after another in one row of tokens, without their padding: W, norms and MLP see it whole, attention
and A and B each batch by itself, in the padded shape that it has alone. So every adapter is what PEFT's layers for
4-bit weights would make of it, operation by operation: nothing reads what they make of padding, whose gradient is zero.
Feeds every table with an adapter trained here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tli.config.parameters import Lora
from tli.model import backbone, lora

ATTENTION = "stacked"  # the name of `attend` among transformers' attention functions


class Batch(NamedTuple):
    """One adapter's words: token ids padded on the right, and the places of the real ones in the flattened batch."""

    ids: Int[Tensor, "sequence pos"]
    real: Int[Tensor, " token"]


class Dropout:
    """What nn.Dropout draws for one adapter: 0 or 1 for each number that comes in, layer after layer, step after step.

    Drawn on the processor, whatever the model's device, from a generator of the adapter's own, one number at a time,
    padding's too. That takes longer than all else that a GPU does in a step, so for a GPU another thread draws, a step
    ahead; on the processor it would only take the cores from the model.
    """

    def __init__(self, rate: float, seed: int) -> None:
        self.rate, self.generator = rate, torch.Generator().manual_seed(seed)
        self.thread = ThreadPoolExecutor(1)  # its tasks keep their order, so that the draws do

    def draw(self, batch: Batch, width: int) -> Float[Tensor, "padded d_in"]:
        return torch.empty(batch.ids.numel(), width).bernoulli_(1 - self.rate, generator=self.generator)

    def ahead(self, batch: Batch, widths: Sequence[int]) -> Future[list[Tensor]]:
        return self.thread.submit(lambda: [self.draw(batch, width) for width in widths])


class Step:
    """What a forward pass must know of its batches: their shapes, where they are real, and their dropout."""

    def __init__(self, rate: float, seeds: Sequence[int]) -> None:
        self.rate = rate
        self.batches: list[Batch] = []
        self.real = torch.empty(0, dtype=torch.int64)  # of all batches, one after another, on the model's device
        self._dropouts = [Dropout(rate, seed) for seed in seeds]
        self._widths: list[int] = []  # of the layers that asked, in the first pass, as they asked
        self._asked = 0
        self._drawn: list[Future[list[Tensor]]] = []  # of this pass, an adapter each; none before widths are known
        self._next: list[Future[list[Tensor]]] = []

    @property
    def tokens(self) -> list[int]:
        """Tokens in each adapter's batch, padding in."""
        return [batch.ids.numel() for batch in self.batches]

    def begin(
        self, batches: Sequence[Batch], following: Sequence[Batch] | None = None, *, device: torch.device
    ) -> None:
        """These batches come now, and those in the step after, if there is one."""
        self.batches, self._asked = [*batches], 0
        starts = [0, *accumulate(self.tokens)]
        self.real = torch.cat([batch.real + start for batch, start in zip(batches, starts, strict=False)]).to(device)
        if self.rate and self._widths and device.type != "cpu":
            self._drawn = self._next or self._ahead(batches)
            self._next = self._ahead(following) if following else []

    def _ahead(self, batches: Sequence[Batch]) -> list[Future[list[Tensor]]]:
        return [own.ahead(batch, self._widths) for own, batch in zip(self._dropouts, batches, strict=True)]

    def masks(self, width: int, device: torch.device) -> list[Float[Tensor, "padded d_in"]] | None:
        """What nn.Dropout would multiply each adapter's own batch by, padding in: 0 or 1 / (1 - p)."""
        if not self.rate:
            return None
        if self._asked == len(self._widths):
            self._widths.append(width)
        if self._drawn:
            drawn = [own.result()[self._asked] for own in self._drawn]
        else:
            drawn = [own.draw(batch, width) for own, batch in zip(self._dropouts, self.batches, strict=True)]
        self._asked += 1
        return [own.to(device).div_(1 - self.rate) for own in drawn]

    def pad(self, states: Float[Tensor, "*lead token d"]) -> Float[Tensor, "*lead padded d"]:
        """The batches' tokens where they stand among their padding, which is zero."""
        whole = states.new_zeros(*states.shape[:-2], sum(self.tokens), states.shape[-1])
        return whole.index_copy(-2, self.real, states)

    def close(self) -> None:
        for own in self._dropouts:
            own.thread.shutdown(cancel_futures=True)


def attend(
    module: nn.Module,
    query: Float[Tensor, "1 head token d_head"],
    key: Float[Tensor, "1 kv_head token d_head"],
    value: Float[Tensor, "1 kv_head token d_head"],
    _mask: None,
    step: Step,
    **settings: Any,
) -> tuple[Float[Tensor, "1 token head d_head"], None]:
    """Causal attention in each sequence of each batch; transformers' own, one call a batch.

    A block that attends to a window (Gemma 3, some Qwen2) is given the mask that transformers gives it.
    """
    result, padded = [], [step.pad(each[0]).split(step.tokens, dim=1) for each in (query, key, value)]
    for batch, *own in zip(step.batches, *padded, strict=True):
        q, k, v = (states.unflatten(1, batch.ids.shape).transpose(0, 1) for states in own)
        mask = window_mask(batch.ids.shape[1], settings.get("sliding_window"), query.device)
        result.append(sdpa_attention_forward(module, q, k, v, mask, **settings)[0].flatten(0, 1))
    return torch.cat(result)[step.real][None], None


def window_mask(length: int, window: int | None, device: torch.device) -> Bool[Tensor, "1 1 query key"] | None:
    """Where query q attends to key k, q - window < k <= q; none where the window is longer than the sequence."""
    if window is None or length < window:
        return None
    position = torch.arange(length, device=device)
    distance = position[:, None] - position
    return ((distance >= 0) & (distance < window))[None, None]


class Products(torch.autograd.Function):
    """s B_k A_k dropout_k(x_k) for every adapter k, in the dtype of x, with its gradients.

    Operations and roundings are those of PEFT's layer for 4-bit weights and of its gradients: A and B are float32, x
    is cast to float32 for them, the product to the dtype of x. Autograd would do the same with some ten nodes a batch.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, scaling: float, tokens: list[int], masks: list[Tensor] | None
    ) -> Tensor:
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
        step, whole = self.step, self.step.pad(x)
        added = apply(whole, self.a, self.b, self.scaling, step.tokens, step.masks(x.shape[-1], x.device))
        return result + added[:, step.real]


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

    def states(
        self, batches: Sequence[Batch], following: Sequence[Batch] | None = None
    ) -> list[Float[Tensor, "sequence pos d_model"]]:
        """hidden_states[reached] of each adapter's own batch, zero where there is padding.

        Blocks beyond are not run; but PEFT would draw their dropout, so it is drawn. `following` are the next call's
        batches, where they are known: their dropout is drawn meanwhile.
        """
        step, device = self._step, self._model.device
        step.begin(batches, following, device=device)
        ids = torch.cat([batch.ids.flatten() for batch in batches]).to(device)
        positions = torch.cat([torch.arange(batch.ids.shape[1]).repeat(len(batch.ids)) for batch in batches]).to(device)
        run: Any = backbone.body_of(self._model)
        given = {"input_ids": ids[step.real][None], "position_ids": positions[step.real][None]}
        states: Tensor = run(**given, use_cache=False, step=step).last_hidden_state
        for layer in self._beyond:
            step.masks(layer.a.shape[-1], device)
        own = step.pad(states[0]).split(step.tokens)
        return [rows.unflatten(0, batch.ids.shape) for rows, batch in zip(own, batches, strict=True)]

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
        step.close()
        model.config._attn_implementation = attention
        body.layers, body.norm = whole, norm
        for name, layer in layers.items():
            model.set_submodule(name.removeprefix("base_model.model."), layer.base)
