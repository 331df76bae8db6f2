"""Batched LoRA: adapters of the same shape trained side by side over one frozen model, one adapter per seed.

Adapter k with its batch x_k computes (2106.09685, section 4.1)

    h_k = W x_k + s B_k A_k dropout_k(x_k),    A: (adapter, r, d_in), B: (adapter, d_out, r)

with s = alpha / r (or alpha / sqrt(r) for rsLoRA), and A and the dropout masks drawn as PEFT draws them from seed k.
The batches are concatenated in one row of tokens without padding. W, the norms and the MLP process the whole row;
attention, A and B process each batch separately, in the padded shape that it has alone. Each adapter is therefore
trained as by PEFT's layers for 4-bit weights, operation by operation. Padding positions are never read and receive no
gradient. All adapters that this project trains are trained here.
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

ATTENTION = "batched_lora"  # the name of `attend` in transformers' register of attention functions


class Batch(NamedTuple):
    """One adapter's words: token ids padded on the right, and the positions of real tokens in the flattened batch."""

    ids: Int[Tensor, "sequence pos"]
    positions: Int[Tensor, " token"]


class DropoutMasks:
    """The dropout masks of one adapter, as nn.Dropout draws them: 0 or 1 per input number, for each layer and step.

    Each adapter has its own generator. The masks are drawn on the CPU for every device, one number at a time and for
    padding too. For a GPU this takes longer than the rest of a step, so a thread draws them one step ahead; for the CPU
    a thread would only take cores from the model.
    """

    def __init__(self, rate: float, seed: int) -> None:
        self.rate, self.generator = rate, torch.Generator().manual_seed(seed)
        self.thread = ThreadPoolExecutor(1)  # one worker runs the tasks, and so draws the numbers, in order

    def draw(self, batch: Batch, width: int) -> Float[Tensor, "padded d_in"]:
        return torch.empty(batch.ids.numel(), width).bernoulli_(1 - self.rate, generator=self.generator)

    def draw_ahead(self, batch: Batch, widths: Sequence[int]) -> Future[list[Tensor]]:
        return self.thread.submit(lambda: [self.draw(batch, width) for width in widths])


class StepInputs:
    """The batches of one forward pass: their shapes, the positions of their real tokens and their dropout masks."""

    def __init__(self, rate: float, seeds: Sequence[int]) -> None:
        self.rate = rate
        self.batches: list[Batch] = []
        self.positions = torch.empty(0, dtype=torch.int64)  # in the concatenated padded batches; on the model's device
        self._dropouts = [DropoutMasks(rate, seed) for seed in seeds]
        self._widths: list[int] = []  # input widths of the layers, in the order of the first pass
        self._layer = 0
        self._drawn: list[Future[list[Tensor]]] = []  # of this step, one per adapter; empty until widths are known
        self._drawn_ahead: list[Future[list[Tensor]]] = []

    @property
    def tokens(self) -> list[int]:
        """The number of tokens in each adapter's batch, including padding."""
        return [batch.ids.numel() for batch in self.batches]

    def begin(
        self, batches: Sequence[Batch], next_batches: Sequence[Batch] | None = None, *, device: torch.device
    ) -> None:
        """Sets the batches of this step, and starts to draw the masks of `next_batches`, those of the next step."""
        self.batches, self._layer = [*batches], 0
        starts = [0, *accumulate(self.tokens)]
        self.positions = torch.cat([batch.positions + start for batch, start in zip(batches, starts, strict=False)]).to(
            device
        )
        if self.rate and self._widths and device.type != "cpu":
            self._drawn = self._drawn_ahead or self._draw_ahead(batches)
            self._drawn_ahead = self._draw_ahead(next_batches) if next_batches else []

    def _draw_ahead(self, batches: Sequence[Batch]) -> list[Future[list[Tensor]]]:
        return [dropout.draw_ahead(batch, self._widths) for dropout, batch in zip(self._dropouts, batches, strict=True)]

    def masks(self, width: int, device: torch.device) -> list[Float[Tensor, "padded d_in"]] | None:
        """The next layer's factor for each adapter's batch, including padding: 0 or 1 / (1 - p), as in nn.Dropout."""
        if not self.rate:
            return None
        if self._layer == len(self._widths):
            self._widths.append(width)
        if self._drawn:
            masks = [future.result()[self._layer] for future in self._drawn]
        else:
            masks = [dropout.draw(batch, width) for dropout, batch in zip(self._dropouts, self.batches, strict=True)]
        self._layer += 1
        return [mask.to(device).div_(1 - self.rate) for mask in masks]

    def pad(self, states: Float[Tensor, "*lead token d"]) -> Float[Tensor, "*lead padded d"]:
        """Puts the tokens' states at their positions in the padded batches; padding is zero."""
        padded = states.new_zeros(*states.shape[:-2], sum(self.tokens), states.shape[-1])
        return padded.index_copy(-2, self.positions, states)

    def close(self) -> None:
        for dropout in self._dropouts:
            dropout.thread.shutdown(cancel_futures=True)


def attend(
    module: nn.Module,
    query: Float[Tensor, "1 head token d_head"],
    key: Float[Tensor, "1 kv_head token d_head"],
    value: Float[Tensor, "1 kv_head token d_head"],
    _mask: None,
    step: StepInputs,
    **settings: Any,
) -> tuple[Float[Tensor, "1 token head d_head"], None]:
    """Causal attention within each sequence, by transformers' own function, with one call per batch.

    A block with sliding-window attention (Gemma 3, some Qwen2) gets the mask that transformers gives it.
    """
    outputs, padded = [], [step.pad(states[0]).split(step.tokens, dim=1) for states in (query, key, value)]
    for batch, *states_of_batch in zip(step.batches, *padded, strict=True):
        q, k, v = (states.unflatten(1, batch.ids.shape).transpose(0, 1) for states in states_of_batch)
        mask = window_mask(batch.ids.shape[1], settings.get("sliding_window"), query.device)
        outputs.append(sdpa_attention_forward(module, q, k, v, mask, **settings)[0].flatten(0, 1))
    return torch.cat(outputs)[step.positions][None], None


def window_mask(length: int, window: int | None, device: torch.device) -> Bool[Tensor, "1 1 query key"] | None:
    """True where query q attends to key k: q - window < k <= q. None if the window is longer than the sequence."""
    if window is None or length < window:
        return None
    position = torch.arange(length, device=device)
    distance = position[:, None] - position
    return ((distance >= 0) & (distance < window))[None, None]


class LoraProducts(torch.autograd.Function):
    """s B_k A_k dropout_k(x_k) for every adapter k, in the dtype of x, and its gradients.

    Operations and rounding are those of PEFT's layer for 4-bit weights: A and B are float32, x is cast to float32, and
    the product is cast to the dtype of x. Autograd computes the same values, but with about ten nodes per batch.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, scaling: float, tokens: list[int], masks: list[Tensor] | None
    ) -> Tensor:
        products, saved = [], []
        for k, batch in enumerate(x[0].split(tokens)):
            dropped = batch.to(a.dtype) if masks is None else batch.to(a.dtype) * masks[k]
            inner = nn.functional.linear(dropped, a[k])
            products.append((nn.functional.linear(inner, b[k]) * scaling).to(x.dtype))
            saved += [dropped, inner]
        ctx.save_for_backward(a, b, *saved, *(masks or []))
        ctx.scaling, ctx.tokens, ctx.has_dropout = scaling, tokens, masks is not None
        return torch.cat(products)[None]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        a, b, *saved = ctx.saved_tensors
        x_gradients, a_gradient, b_gradient = [], torch.empty_like(a), torch.empty_like(b)
        for k, batch in enumerate(gradient[0].split(ctx.tokens)):
            dropped, inner = saved[2 * k : 2 * k + 2]
            outer = batch.to(a.dtype) * ctx.scaling
            torch.mm(outer.t(), inner, out=b_gradient[k])
            outer = outer @ b[k]
            torch.mm(outer.t(), dropped, out=a_gradient[k])
            if ctx.needs_input_grad[0]:
                x_gradient = outer @ a[k]
                x_gradients.append(
                    (x_gradient * saved[2 * len(a) + k] if ctx.has_dropout else x_gradient).to(gradient.dtype)
                )
        return torch.cat(x_gradients)[None] if x_gradients else None, a_gradient, b_gradient, None, None, None


class BatchedLoraLayer(nn.Module):
    """Replaces a frozen projection W by W x + s B_k A_k dropout_k(x), with the matrices of all adapters."""

    def __init__(
        self,
        base: nn.Module,
        a: Float[Tensor, "adapter r d_in"],
        b: Float[Tensor, "adapter d_out r"],
        scaling: float,
        step: StepInputs,
    ) -> None:
        super().__init__()
        self.base, self.a, self.b = base, nn.Parameter(a), nn.Parameter(b)
        self.scaling, self.step = scaling, step

    def forward(self, x: Float[Tensor, "1 token d_in"]) -> Float[Tensor, "1 token d_out"]:
        result: Tensor = self.base(x)
        lora_products: Callable[..., Tensor] = LoraProducts.apply
        step, padded = self.step, self.step.pad(x)
        products = lora_products(padded, self.a, self.b, self.scaling, step.tokens, step.masks(x.shape[-1], x.device))
        return result + products[:, step.positions]


class BatchedLora:
    """The adapters on a model: runs one batch per adapter, and returns an adapter's tensors under PEFT's names."""

    def __init__(
        self,
        model: PreTrainedModel,
        layers: dict[str, BatchedLoraLayer],
        last_block: int,
        seeds: Sequence[int],
        step: StepInputs,
    ) -> None:
        self.seeds, self.layers = list(seeds), layers
        self.rank = next(iter(layers.values())).a.shape[1]
        self.parameters = [parameter for layer in layers.values() for parameter in (layer.a, layer.b)]
        self._model, self._step = model, step
        self._layers_above = [
            layer for name, layer in layers.items() if lora.place(f"{name}.lora_A.").block > last_block
        ]

    def states(
        self, batches: Sequence[Batch], next_batches: Sequence[Batch] | None = None
    ) -> list[Float[Tensor, "sequence pos d_model"]]:
        """hidden_states[last_block] of each adapter's batch; zero at padding.

        Blocks above `last_block` are not run. PEFT would draw dropout masks for their adapters, so these are drawn too.
        `next_batches` are the batches of the next call, if known: their masks are drawn in the meantime.
        """
        step, device = self._step, self._model.device
        step.begin(batches, next_batches, device=device)
        ids = torch.cat([batch.ids.flatten() for batch in batches]).to(device)
        positions = [torch.arange(batch.ids.shape[1]).repeat(len(batch.ids)) for batch in batches]
        position_ids = torch.cat(positions).to(device)
        body: Any = backbone.body_of(self._model)
        inputs = {"input_ids": ids[step.positions][None], "position_ids": position_ids[step.positions][None]}
        states: Tensor = body(**inputs, use_cache=False, step=step).last_hidden_state
        for layer in self._layers_above:
            step.masks(layer.a.shape[-1], device)
        states_of_batches = step.pad(states[0]).split(step.tokens)
        return [rows.unflatten(0, batch.ids.shape) for rows, batch in zip(states_of_batches, batches, strict=True)]

    def gradient_norms(self) -> Float[Tensor, " adapter"]:
        """The L2 norm of each adapter's gradient, over its tensors that have a gradient."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norms = [torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients]
        result: Tensor = torch.linalg.vector_norm(torch.stack(norms, dim=1), dim=1)
        return result

    def tensors(self, adapter: int) -> dict[str, Tensor]:
        """The tensors of one adapter under the names that PEFT saves."""
        return {
            f"{name}.lora_{matrix}.weight": tensor[adapter].detach().cpu().clone()
            for name, layer in self.layers.items()
            for matrix, tensor in (("A", layer.a), ("B", layer.b))
        }

    @property
    def size(self) -> int:
        """The number of parameters of one adapter: the sum of r (d_in + d_out) over the adapted projections."""
        return sum(parameter[0].numel() for parameter in self.parameters)


@contextmanager
def batched_lora(
    model: PreTrainedModel, settings: Lora, blocks: int, seeds: Sequence[int], last_block: int
) -> Iterator[BatchedLora]:
    """New adapters, one per seed, on the first `blocks` blocks of `model`, which runs only up to `last_block`.

    When the context ends, the model is as before; the adapters' tensors can still be read.
    """
    peft_layers: dict[str, list[LoraLayer]] = {}
    for seed in seeds:
        peft_model = lora.attach(model, settings, blocks, seed)
        for name, module in peft_model.named_modules():
            if isinstance(module, LoraLayer):
                peft_layers.setdefault(name, []).append(module)
        lora.unload(peft_model)
    step = StepInputs(settings.dropout, seeds)
    layers: dict[str, BatchedLoraLayer] = {}
    for name, modules in peft_layers.items():
        a, b = (
            torch.stack([getattr(module, matrix)["default"].weight.detach() for module in modules])
            for matrix in ("lora_A", "lora_B")
        )
        layers[name] = BatchedLoraLayer(modules[0].get_base_layer(), a, b, modules[0].scaling["default"], step)
    AttentionInterface.register(ATTENTION, attend)
    body: Any = backbone.body_of(model)
    all_blocks, norm, attention = body.layers, body.norm, model.config._attn_implementation
    try:
        model.config._attn_implementation = ATTENTION
        for name, layer in layers.items():
            model.set_submodule(name.removeprefix("base_model.model."), layer)
        body.layers, body.norm = all_blocks[:last_block], nn.Identity()
        yield BatchedLora(model, layers, last_block, seeds, step)
    finally:
        step.close()
        model.config._attn_implementation = attention
        body.layers, body.norm = all_blocks, norm
        for name, layer in layers.items():
            model.set_submodule(name.removeprefix("base_model.model."), layer.base)
