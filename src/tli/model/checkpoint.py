"""Reads of a checkpoint only what is needed: a span of blocks, the embedding rows in use, the head or none.

The model is laid out without weights (on torch's meta device) and filled from the safetensors files, tensor by tensor;
what is not asked for is never read. 4-bit weights stay in the mapped file until they are used. Every table that looks
into a model comes through here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.quantizers.auto import AutoHfQuantizer

from tli.io.errors import CheckFailed, UserError
from tli.io.structured import brief, read_json
from tli.model import supported
from tli.model.tokenizer import load as load_tokenizer

HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"
HEAD_ADVICE = (
    "set model.head_from of the profile to a sibling repository that has it (only transfer and probe need a head)"
)
MOST_BLOCKS = 1000  # of any model that there is; a configuration that says more is broken
OTHER_WORDS = "run `dvc repro base` with the list, or set model.span to null"
Weights = Literal["packed", "dequantized"]


_device = torch.device("cpu")


def place_on(device: torch.device) -> None:
    """The device of every model that is loaded from here on.

    On a GPU bitsandbytes multiplies small batches by packed weights in a kernel of its own, which adds in another order
    than a product with the weights unpacked; it is told to unpack here too, so that both give the same bits.
    """
    global _device
    _device = device
    if device.type == "cuda":
        from bitsandbytes.backends.cuda import ops

        ops._gemm_4bit_custom_max_m = 0  # rows of a batch up to which it takes that kernel


class NoHead(nn.Module):
    """Stands where a model has no language-model head, so that no score can come from random weights."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason

    def forward(self, _states: Tensor) -> Tensor:
        raise UserError(f"scoring: {self.reason}")


class Rows(nn.Module):
    """The rows of an embedding matrix that belong to some tokens; for those tokens it is the whole embedding module.

    `weight` is (n, d_model), `tokens` the n token ids, ascending. Where the module scales its output, as Gemma 3's does
    by sqrt(d_model), so does this one.
    """

    weight: nn.Parameter

    def __init__(self, tokens: Iterable[int], embeddings: nn.Module, advice: str) -> None:
        super().__init__()
        self.advice = advice
        self.tokens = nn.Buffer(torch.tensor(sorted(set(tokens)), device=_device), persistent=False)
        weight = cast(nn.Parameter, embeddings.weight)
        self.weight = nn.Parameter(weight.new_empty(len(self.tokens), weight.shape[1]), requires_grad=False)
        scale = getattr(embeddings, supported.SCALE, None)
        if scale is not None:
            self.embed_scale = nn.Buffer(scale.detach().clone(), persistent=False)

    def places(self, ids: Int[Tensor, "*batch pos"]) -> Int[Tensor, "*batch pos"]:
        """Which row each token has.

        Raises:
            CheckFailed: a token has none.
        """
        found = torch.searchsorted(self.tokens, ids).clamp(max=len(self.tokens) - 1)
        unknown = ids[self.tokens[found] != ids]
        if len(unknown):
            raise CheckFailed(
                f"embeddings: expected one of the {len(self.tokens)} tokens that were loaded, got {int(unknown[0])}; "
                f"{self.advice}"
            )
        return found

    def forward(self, ids: Int[Tensor, "*batch pos"]) -> Float[Tensor, "*batch pos d_model"]:
        return _scaled(self, nn.functional.embedding(self.places(ids), self.weight))


def rows(embeddings: nn.Module, ids: Int[Tensor, "*batch pos"]) -> Float[Tensor, "*batch pos d_model"]:
    """The rows of the embedding matrix of these tokens, straight from its weight, times the module's scale, if any."""
    weight: Tensor = cast(Any, embeddings).weight
    return _scaled(embeddings, weight[embeddings.places(ids) if isinstance(embeddings, Rows) else ids])


def _scaled(embeddings: nn.Module, states: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
    scale: Tensor | None = getattr(embeddings, supported.SCALE, None)
    return states if scale is None else states * scale.to(states.dtype)


class Dequantized(nn.Linear):
    """A frozen 4-bit projection unpacked once: like bitsandbytes', it computes in one dtype and returns the input's."""

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return nn.functional.linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)


def unpacked(weight: Params4bit, dtype: torch.dtype) -> nn.Parameter:
    """The numbers that bitsandbytes unpacks a 4-bit weight to at every call in `dtype`."""
    state: Any = copy.copy(weight.quant_state)
    state.dtype = dtype  # straight to it: half precision in between would round twice
    return nn.Parameter(dequantize_4bit(weight.data, state), requires_grad=False)


def dequantized(model: nn.Module) -> None:
    """Replaces each 4-bit weight of `model` by the numbers that bitsandbytes would unpack at every call.

    Outputs and gradients on the processor are the packed model's, bit for bit, for four times the memory. Around a
    dense layer, though, PEFT adds its product in float32 where around a 4-bit one it rounds it to bfloat16 first: an
    adapter in PEFT's layers goes on before this, not after.
    """
    for parent in [*model.modules()]:
        for name, child in [*parent.named_children()]:
            if isinstance(child, Linear4bit):
                dense = _dense(child)
                dense.weight = unpacked(cast(Params4bit, child.weight), child.compute_dtype)
                if child.bias is not None:
                    dense.bias = nn.Parameter(child.bias.detach().to(child.compute_dtype), requires_grad=False)
                setattr(parent, name, dense)


def _dense(packed: Linear4bit) -> Dequantized:
    """The layer that takes the place of `packed`, still without weights."""
    bias, dtype = packed.bias is not None, packed.compute_dtype
    dense = Dequantized(packed.in_features, packed.out_features, bias=bias, device="meta", dtype=dtype)
    return dense.requires_grad_(False).train(packed.training)


class Place(NamedTuple):
    """Where a tensor of the checkpoint goes: `attribute` of `module`, which holds `empty` while it is not there."""

    module: nn.Module
    attribute: str
    name: str
    empty: nn.Parameter

    @property
    def packed(self) -> bool:
        """Is it a projection that the checkpoint holds in 4 bits?"""
        return isinstance(self.module, (Linear4bit, Dequantized)) and self.attribute == "weight"


class Files:
    """The tensors of a checkpoint by name. What stands in the files' own headers counts, whatever an index says.

    Of a part of a checkpoint (model/part.py), `rows` names the token of each embedding that it has.
    """

    def __init__(self, folder: Path, rows: Sequence[int] | None = None) -> None:
        self.folder, self.rows = folder, None if rows is None else torch.tensor(rows)
        self.where: dict[str, Path] = {}
        for file in sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(file, framework="pt") as tensors:
                    self.where |= dict.fromkeys(tensors.keys(), file)
            except (SafetensorError, OSError) as error:
                said = " ".join(str(error).split())
                raise UserError(
                    f"{file}: expected a safetensors file, got: {said}; remove the folder and run `dvc repro`"
                ) from None
        if not self.where:
            raise UserError(f"{folder}: expected a checkpoint in safetensors files, found none; run `dvc repro`")
        self.states: dict[str, list[str]] = {}  # of a 4-bit weight: what its quantisation state is made of
        for name in self.where:
            layer, packed, _ = name.partition(".weight.")
            if packed:
                self.states.setdefault(f"{layer}.weight", []).append(name)

    def tensor(self, name: str) -> Tensor:
        """A view of the mapped file: read where it is looked at, let go of with the last view."""
        with safe_open(self.where[name], framework="pt") as tensors:
            found: Tensor = tensors.get_tensor(name)
        return found

    def require(self, places: Iterable[Place], what: str) -> None:
        """Raises UserError unless there is a tensor for each place: none is ever drawn at random."""
        missing = [place.name for place in places if place.name not in (self.states if place.packed else self.where)]
        if missing:
            raise UserError(
                f"{self.folder}: expected every tensor of {what}, got no {min(missing)} ({len(missing)} missing); "
                "remove the folder and run `dvc repro`"
            )

    def fill(self, places: Iterable[Place]) -> None:
        """Puts the tensors in their places, in the dtype that the model has there; 4-bit weights as views of the file.

        Raises:
            UserError: a tensor has not the shape that the configuration says.
        """
        for place in places:
            module: Any = place.module
            tensor, parameter = self.tensor(place.name), place.empty
            if place.packed:
                state = {name: self.tensor(name) for name in self.states[place.name]}
                try:
                    weight: Any = Params4bit.from_prequantized(tensor, state, device=_device)
                except Exception as error:  # whatever bitsandbytes makes of tensors that are none of its own
                    said = " ".join(str(error).split())[:120] or type(error).__name__
                    raise UserError(
                        f"{self.folder}: {place.name}: expected a 4-bit weight and its state, got: {said}; "
                        "remove the folder and run `dvc repro`"
                    ) from None
                got, expected = weight.quant_state.shape, torch.Size((module.out_features, module.in_features))
                parameter = weight if isinstance(module, Linear4bit) else unpacked(weight, place.empty.dtype)
            else:
                tensor = self._of(module.tokens.cpu(), tensor) if isinstance(module, Rows) else tensor
                got, expected = tensor.shape, place.empty.shape
                parameter = nn.Parameter(tensor.to(_device, place.empty.dtype, copy=True), requires_grad=False)
            if got != expected:
                raise UserError(
                    f"{self.folder}: {place.name}: expected the shape {list(expected)} of config.json, "
                    f"got {list(got)}; remove the folder and run `dvc repro`"
                )
            setattr(module, place.attribute, parameter)

    def _of(self, tokens: Int[Tensor, " n"], matrix: Float[Tensor, "vocabulary d_model"]) -> Tensor:
        """The rows of these tokens; of a mapped file, only their pages are read."""
        if self.rows is not None:
            places = torch.searchsorted(self.rows, tokens).clamp(max=len(self.rows) - 1)
            unknown = tokens[self.rows[places] != tokens]
            if len(unknown):
                raise CheckFailed(
                    f"{self.folder}: {EMBEDDINGS}: expected one of the {len(self.rows)} tokens of the word list, of "
                    f"which alone the base has embeddings, got {int(unknown[0])}; {OTHER_WORDS}"
                )
            return matrix[places]
        if int(tokens.max()) >= len(matrix):
            raise CheckFailed(
                f"{self.folder}: {EMBEDDINGS}: expected tokens below {len(matrix)}, got {int(tokens.max())}; "
                "the tokenizer is not this checkpoint's"
            )
        return matrix[tokens]


class OnDemand:
    """One block in memory at a time: a block is read when it is called, and the one before it is let go of."""

    def __init__(self, files: Files, blocks: dict[nn.Module, list[Place]]) -> None:
        self.files, self.blocks = files, blocks
        self.held: list[Place] = []
        for block in blocks:
            block.register_forward_pre_hook(self)

    def __call__(self, block: nn.Module, _arguments: Any) -> None:
        if self.blocks[block] is not self.held:
            for place in self.held:
                setattr(place.module, place.attribute, place.empty)
            self.held = self.blocks[block]
            self.files.fill(self.held)


def load(
    folder: Path,
    blocks: int | None = None,
    *,
    vocabulary: Iterable[int] | None = None,
    head: bool = True,
    weights: Weights = "packed",
    resident: int | None = None,
    dtype: str | None = None,
) -> PreTrainedModel:
    """The checkpoint in `folder`, frozen and in evaluation mode; what is not asked for is not read.

    Of the architectures of model/supported.py. A cut model is still a causal LM, so that adapters keep PEFT's keys; its
    final norm is the identity, so that its last hidden state is the whole model's hidden_states[blocks], bit for bit.
    A part of a checkpoint (model/part.py) is a cut model too.
    What follows changes memory and time, not one bit of a hidden state:

    Args:
        folder: a transformers checkpoint in safetensors files, one or several.
        blocks: how many of the first blocks there are to be; all, if not given.
        vocabulary: the token ids that will come in, of which alone the embeddings are read; any other is refused.
        head: with the language-model head? Where the checkpoint has none, or none is asked for, `NoHead` stands there.
        weights: 4-bit weights `packed`, unpacked at every call, or `dequantized` as they are read (see `dequantized`).
        resident: how many of the first blocks stay in memory; one of the others at a time, read whenever it is called
            after another (see `backbone.run`). All, if not given.
        dtype: of every product and of what is not packed; the checkpoint's own, if not given. This one changes bits.

    Raises:
        UserError: there is no such checkpoint, it lacks a tensor, or one has another shape than its configuration says.
    """
    model = _empty(folder, blocks, dtype)
    body: Any = model.model
    kept = getattr(model.config, "token_rows", None)
    files = Files(folder, kept)
    if weights == "dequantized":
        for name, module in [*model.named_modules()]:
            if isinstance(module, Linear4bit):
                model.set_submodule(name, _dense(module))
    tokens = kept if vocabulary is None else vocabulary
    if tokens is not None:
        advice = "name every token in the vocabulary given to checkpoint.load" if kept is None else OTHER_WORDS
        body.embed_tokens = Rows(tokens, body.embed_tokens, advice)
    tied = model.config.tie_word_embeddings
    if not head:
        model.lm_head = NoHead("the model was loaded without its head; ask checkpoint.load for it")
    elif not tied and HEAD not in files.where:
        model.lm_head = NoHead(f"the checkpoint holds no {HEAD}; {HEAD_ADVICE}")
    places = [
        Place(module, attribute, f"{prefix}.{attribute}", parameter)
        for prefix, module in model.named_modules()
        for attribute, parameter in module.named_parameters(recurse=False)
    ]
    if tied and vocabulary is None:
        places = [place for place in places if place.name != HEAD]
    elif tied:
        places = [place._replace(name=EMBEDDINGS) if place.name == HEAD else place for place in places]
    files.require(places, type(model).__name__)
    later = [*body.layers][len(body.layers) if resident is None else resident :]
    block_of = {module: block for block in later for module in block.modules()}
    files.fill(place for place in places if place.module not in block_of)
    if tied and head and vocabulary is None:
        model.lm_head.weight = body.embed_tokens.weight
    if later:
        OnDemand(files, {block: [place for place in places if block_of.get(place.module) is block] for block in later})
    model.requires_grad_(False)
    keep_unpacked(model)
    model.eval()
    return model


def _empty(folder: Path, blocks: int | None, dtype: str | None = None) -> PreTrainedModel:
    """The model of the configuration in `folder`, cut to `blocks`, its parameters without memory on the meta device."""
    own: Any = config(folder)
    part = getattr(own, "part_of", None)
    whole = own.num_hidden_layers if part is None else part["num_hidden_layers"]
    if blocks is not None:
        own.num_hidden_layers = blocks
        if getattr(own, "layer_types", None):  # kept beside the number of blocks by some architectures
            own.layer_types = own.layer_types[:blocks]
    quantization = getattr(own, "quantization_config", None)
    if dtype is not None:
        own.dtype = getattr(torch, dtype)
        if quantization is not None:
            quantization["bnb_4bit_compute_dtype"] = dtype
    model = laid_out(folder, own)
    if quantization is not None:
        try:
            quantizer: Any = AutoHfQuantizer.from_config(quantization, pre_quantized=True)
            quantizer.preprocess_model(model, dtype=own.dtype, device_map={"": _device})
        except Exception as error:  # likewise
            raise _unfit(folder / "config.json", error) from None
        model.hf_quantizer = quantizer
        quantizer.postprocess_model(model)
        for module in model.modules():
            if isinstance(module, Linear4bit) and module.bias is not None:
                module.bias.data = module.bias.to(own.dtype)  # made in float32, whatever the model's dtype
    body: Any = model.model
    body.rotary_emb = type(body.rotary_emb)(config=own).to(_device)  # no checkpoint holds its buffers
    scale = getattr(body.embed_tokens, supported.SCALE, None)
    if scale is not None:  # likewise
        value = body.embed_tokens.scalar_embed_scale
        body.embed_tokens.embed_scale = nn.Buffer(torch.full_like(scale, value, device=_device), persistent=False)
    if len(body.layers) < whole:
        body.norm = nn.Identity()
    model.config.use_cache = False
    model.name_or_path = own.name_or_path = str(folder)
    return model


def config(folder: Path) -> PretrainedConfig:
    """The configuration of the checkpoint in `folder`; code that may lie beside it is never run.

    Raises:
        UserError: there is none, or none of a supported architecture (model/supported.py).
    """
    path = folder / "config.json"
    given = read_json(path, "a model's configuration")
    supported.check_configuration(given, path)
    try:
        found: PretrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        known = 0 < cast(Any, found).num_hidden_layers <= MOST_BLOCKS
    except Exception as error:  # whatever transformers makes of values that are none
        raise _unfit(path, error) from None
    packing = given.get("quantization_config", {})
    if not isinstance(packing, dict) or packing.get("quant_method", "bitsandbytes") != "bitsandbytes":
        raise UserError(
            f"{path}: quantization_config: expected that of bitsandbytes or none, got {brief(packing)}; "
            "restore the file"
        )
    if not known:
        got = brief(given.get("num_hidden_layers"))
        raise UserError(f"{path}: num_hidden_layers: expected 1 to {MOST_BLOCKS}, got {got}; restore the file")
    return found


def laid_out(folder: Path, settings: PretrainedConfig | None = None) -> PreTrainedModel:
    """The model of the configuration in `folder`, or of `settings` out of it, its tensors without memory or values.

    Raises:
        UserError: it is not the configuration of a causal language model.
    """
    settings = config(folder) if settings is None else settings
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(settings, dtype=settings.dtype)
    except Exception as error:  # likewise
        raise _unfit(folder / "config.json", error) from None
    supported.check_modules(model, folder / "config.json")
    return model


def _unfit(path: Path, error: Exception) -> UserError:
    said = " ".join(str(error).split())[:200]
    return UserError(
        f"{path}: expected a causal language model with Llama's module names, got: {said or type(error).__name__}; "
        "restore the file, or choose such a model"
    )


def require_head(folder: Path) -> None:
    """Raises UserError unless the checkpoint's files hold a head, or its configuration ties it to the embeddings."""
    if HEAD not in Files(folder).where and not read_json(folder / "config.json").get("tie_word_embeddings", False):
        raise UserError(f"{folder}: scoring: expected {HEAD}, which no file of the checkpoint holds; {HEAD_ADVICE}")


def keep_unpacked(model: nn.Module) -> None:
    """Stops bitsandbytes from repacking 4-bit weights for AVX512_BF16 processors.

    It would do so at the first forward pass without gradients; from then on every gradient through the layer is None.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer; pad is EOS where none is set, as Llama's users do."""
    config(folder)  # which transformers looks into first
    read_json(folder / "tokenizer_config.json", "a tokenizer's settings")
    loaded = load_tokenizer(folder, str(folder), "remove the folder and run `dvc repro`")
    if loaded.pad_token is None:
        loaded.pad_token = loaded.eos_token
    return loaded
