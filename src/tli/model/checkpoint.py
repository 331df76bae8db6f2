"""Loads a checkpoint, or only the parts that are needed: the first blocks, some embedding rows, with or without a head.

The model is created without weights (on torch's meta device) and filled from the safetensors files, tensor by tensor.
Parts that are not needed are never read. 4-bit weights stay in the memory-mapped file until they are used. Every stage
that runs a model loads it here.
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
    "set model.head_from of the profile to a sibling repository that has it (only the stages that score need a head)"
)
MOST_BLOCKS = 1000  # no model has more; a configuration with more is broken
OTHER_WORDS = "run `dvc repro base` with the list, or set model.span to null"
Weights = Literal["packed", "dequantized"]

_device = torch.device("cpu")


def set_device(device: torch.device) -> None:
    """Sets the device of every model loaded from now on.

    On a GPU bitsandbytes multiplies small batches by packed weights in a special kernel, which sums in another order
    than a product with unpacked weights. The kernel is switched off, so that both give the same bits.
    """
    global _device
    _device = device
    if device.type == "cuda":
        from bitsandbytes.backends.cuda import ops

        ops._gemm_4bit_custom_max_m = 0  # the batch size up to which that kernel is used


class NoHead(nn.Module):
    """Replaces a missing language-model head and raises an error if it is called: no score uses random weights."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason

    def forward(self, _states: Tensor) -> Tensor:
        raise UserError(f"scoring: {self.reason}")


class EmbeddingRows(nn.Module):
    """An embedding module with the rows of some tokens only; for those tokens it gives the same output.

    `weight` is (n, d_model), and `tokens` holds the n token ids in ascending order. If the original module scales its
    output, as Gemma 3's does by sqrt(d_model), this module does too.
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

    def row_indices(self, ids: Int[Tensor, "*batch pos"]) -> Int[Tensor, "*batch pos"]:
        """The index of each token's row.

        Raises:
            CheckFailed: a token has no row.
        """
        indices = torch.searchsorted(self.tokens, ids).clamp(max=len(self.tokens) - 1)
        unknown = ids[self.tokens[indices] != ids]
        if len(unknown):
            raise CheckFailed(
                f"embeddings: expected one of the {len(self.tokens)} tokens that were loaded, got {int(unknown[0])}; "
                f"{self.advice}"
            )
        return indices

    def forward(self, ids: Int[Tensor, "*batch pos"]) -> Float[Tensor, "*batch pos d_model"]:
        return _scaled(self, nn.functional.embedding(self.row_indices(ids), self.weight))


def embedding_rows(embeddings: nn.Module, ids: Int[Tensor, "*batch pos"]) -> Float[Tensor, "*batch pos d_model"]:
    """The embedding rows of these tokens, read from the weight and multiplied by the module's scale, if any."""
    weight: Tensor = cast(Any, embeddings).weight
    return _scaled(embeddings, weight[embeddings.row_indices(ids) if isinstance(embeddings, EmbeddingRows) else ids])


def _scaled(embeddings: nn.Module, states: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
    scale: Tensor | None = getattr(embeddings, supported.SCALE, None)
    return states if scale is None else states * scale.to(states.dtype)


class Dequantized(nn.Linear):
    """A frozen 4-bit projection, dequantised once. Like bitsandbytes' it computes in its dtype and returns x's."""

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return nn.functional.linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)


def dequantized_weight(weight: Params4bit, dtype: torch.dtype) -> nn.Parameter:
    """A 4-bit weight dequantised to `dtype`: the numbers that bitsandbytes computes at every call."""
    state: Any = copy.copy(weight.quant_state)
    state.dtype = dtype  # dequantise to dtype directly: through half precision it would be rounded twice
    return nn.Parameter(dequantize_4bit(weight.data, state), requires_grad=False)


def dequantize(model: nn.Module) -> None:
    """Replaces each 4-bit projection of `model` by a dense one with the numbers that bitsandbytes would compute.

    On the CPU, outputs and gradients equal those of the packed model, bit for bit; the memory is four times as large.
    Attach a PEFT adapter before this call, not after it: around a 4-bit layer PEFT rounds its product to bfloat16
    before adding it, and around a dense layer it adds it in float32.
    """
    for parent in [*model.modules()]:
        for name, child in [*parent.named_children()]:
            if isinstance(child, Linear4bit):
                dense = _dense(child)
                dense.weight = dequantized_weight(cast(Params4bit, child.weight), child.compute_dtype)
                if child.bias is not None:
                    dense.bias = nn.Parameter(child.bias.detach().to(child.compute_dtype), requires_grad=False)
                setattr(parent, name, dense)


def _dense(linear: Linear4bit) -> Dequantized:
    """The dense layer that replaces `linear`, without weights yet."""
    bias, dtype = linear.bias is not None, linear.compute_dtype
    dense = Dequantized(linear.in_features, linear.out_features, bias=bias, device="meta", dtype=dtype)
    return dense.requires_grad_(False).train(linear.training)


class TensorSlot(NamedTuple):
    """Where the tensor `name` goes: `attribute` of `module`; `empty` is the placeholder while it is not loaded."""

    module: nn.Module
    attribute: str
    name: str
    empty: nn.Parameter

    @property
    def packed(self) -> bool:
        """Whether this is a projection that the checkpoint stores in 4 bits."""
        return isinstance(self.module, (Linear4bit, Dequantized)) and self.attribute == "weight"


class CheckpointFiles:
    """The tensors of a checkpoint by name, as listed in the headers of its files; the index file is not used.

    `rows` is for a part of a checkpoint (model/part.py): the token id of each embedding row that it has.
    """

    def __init__(self, folder: Path, rows: Sequence[int] | None = None) -> None:
        self.folder, self.rows = folder, None if rows is None else torch.tensor(rows)
        self.file_of: dict[str, Path] = {}
        for file in sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(file, framework="pt") as tensors:
                    self.file_of |= dict.fromkeys(tensors.keys(), file)
            except (SafetensorError, OSError) as error:
                reason = " ".join(str(error).split())
                raise UserError(
                    f"{file}: expected a safetensors file, got: {reason}; remove the folder and run `dvc repro`"
                ) from None
        if not self.file_of:
            raise UserError(f"{folder}: expected a checkpoint in safetensors files, found none; run `dvc repro`")
        self.quantization_states: dict[str, list[str]] = {}  # 4-bit weight -> the tensors of its quantisation state
        for name in self.file_of:
            layer, packed, _ = name.partition(".weight.")
            if packed:
                self.quantization_states.setdefault(f"{layer}.weight", []).append(name)

    def tensor(self, name: str) -> Tensor:
        """A view of the memory-mapped file: its pages are read on access, and freed with the last view."""
        with safe_open(self.file_of[name], framework="pt") as tensors:
            tensor: Tensor = tensors.get_tensor(name)
        return tensor

    def require(self, slots: Iterable[TensorSlot], what: str) -> None:
        """Raises UserError unless each slot has a tensor; no tensor is ever left at random values."""
        missing = [
            slot.name for slot in slots if slot.name not in (self.quantization_states if slot.packed else self.file_of)
        ]
        if missing:
            raise UserError(
                f"{self.folder}: expected every tensor of {what}, got no {min(missing)} ({len(missing)} missing); "
                "remove the folder and run `dvc repro`"
            )

    def fill(self, slots: Iterable[TensorSlot]) -> None:
        """Loads the tensors of `slots`, in the dtype of the model; 4-bit weights are views of the file.

        Raises:
            UserError: a tensor does not have the shape of the configuration.
        """
        for slot in slots:
            module: Any = slot.module
            tensor, parameter = self.tensor(slot.name), slot.empty
            if slot.packed:
                state = {name: self.tensor(name) for name in self.quantization_states[slot.name]}
                try:
                    weight: Any = Params4bit.from_prequantized(tensor, state, device=_device)
                except Exception as error:  # bitsandbytes raises many types for tensors that it did not write
                    reason = " ".join(str(error).split())[:120] or type(error).__name__
                    raise UserError(
                        f"{self.folder}: {slot.name}: expected a 4-bit weight and its state, got: {reason}; "
                        "remove the folder and run `dvc repro`"
                    ) from None
                got, expected = weight.quant_state.shape, torch.Size((module.out_features, module.in_features))
                parameter = weight if isinstance(module, Linear4bit) else dequantized_weight(weight, slot.empty.dtype)
            else:
                tensor = self._rows_of(module.tokens.cpu(), tensor) if isinstance(module, EmbeddingRows) else tensor
                got, expected = tensor.shape, slot.empty.shape
                parameter = nn.Parameter(tensor.to(_device, slot.empty.dtype, copy=True), requires_grad=False)
            if got != expected:
                raise UserError(
                    f"{self.folder}: {slot.name}: expected the shape {list(expected)} of config.json, "
                    f"got {list(got)}; remove the folder and run `dvc repro`"
                )
            setattr(module, slot.attribute, parameter)

    def _rows_of(self, tokens: Int[Tensor, " n"], matrix: Float[Tensor, "vocabulary d_model"]) -> Tensor:
        """The rows of these tokens; only their pages of the memory-mapped file are read."""
        if self.rows is not None:
            row_indices = torch.searchsorted(self.rows, tokens).clamp(max=len(self.rows) - 1)
            unknown = tokens[self.rows[row_indices] != tokens]
            if len(unknown):
                raise CheckFailed(
                    f"{self.folder}: {EMBEDDINGS}: expected one of the {len(self.rows)} tokens of the word "
                    f"list, the only ones that the base has embeddings of, got {int(unknown[0])}; {OTHER_WORDS}"
                )
            return matrix[row_indices]
        if int(tokens.max()) >= len(matrix):
            raise CheckFailed(
                f"{self.folder}: {EMBEDDINGS}: expected tokens below {len(matrix)}, got {int(tokens.max())}; "
                "the tokenizer is not this checkpoint's"
            )
        return matrix[tokens]


class BlocksOnDemand:
    """Keeps one block in memory at a time: a block is loaded when it is called, and the previous one is freed."""

    def __init__(self, files: CheckpointFiles, blocks: dict[nn.Module, list[TensorSlot]]) -> None:
        self.files, self.blocks = files, blocks
        self.loaded: list[TensorSlot] = []
        for block in blocks:
            block.register_forward_pre_hook(self)

    def __call__(self, block: nn.Module, _arguments: Any) -> None:
        if self.blocks[block] is not self.loaded:
            for slot in self.loaded:
                setattr(slot.module, slot.attribute, slot.empty)
            self.loaded = self.blocks[block]
            self.files.fill(self.loaded)


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
    """Loads the checkpoint in `folder`, frozen and in evaluation mode.

    The architecture is one of model/supported.py. A cut model is still a causal LM, so adapters have PEFT's keys. Its
    final norm is the identity, so its last hidden state is the full model's hidden_states[blocks], bit for bit. A part
    of a checkpoint (model/part.py) is a cut model too. Except `dtype`, the arguments change memory and time but no bit
    of a hidden state.

    Args:
        folder: a transformers checkpoint in one or several safetensors files.
        blocks: the number of blocks to load, from the first; default all.
        vocabulary: the token ids that the model will get; only their embeddings are read, other tokens are an error.
        head: whether to load the language-model head; without it, or if the checkpoint has none, it is a `NoHead`.
        weights: `packed` keeps 4-bit weights and dequantises them at every call; `dequantized` does so once, on loading
            (see `dequantize`).
        resident: the number of blocks, from the first, that stay in memory; of the others one at a time is loaded, each
            time it is called (see `backbone.run_by_block`). Default all.
        dtype: the dtype of all products and of unpacked tensors; default the checkpoint's.

    Raises:
        UserError: there is no such checkpoint, a tensor is missing, or its shape is not that of the configuration.
    """
    model = _empty_cut_model(folder, blocks, dtype)
    body: Any = model.model
    token_rows = getattr(model.config, "token_rows", None)
    files = CheckpointFiles(folder, token_rows)
    if weights == "dequantized":
        for name, module in [*model.named_modules()]:
            if isinstance(module, Linear4bit):
                model.set_submodule(name, _dense(module))
    tokens = token_rows if vocabulary is None else vocabulary
    if tokens is not None:
        advice = "name every token in the vocabulary given to checkpoint.load" if token_rows is None else OTHER_WORDS
        body.embed_tokens = EmbeddingRows(tokens, body.embed_tokens, advice)
    tied = model.config.tie_word_embeddings
    if not head:
        model.lm_head = NoHead("the model was loaded without its head; ask checkpoint.load for it")
    elif not tied and HEAD not in files.file_of:
        model.lm_head = NoHead(f"the checkpoint holds no {HEAD}; {HEAD_ADVICE}")
    slots = [
        TensorSlot(module, attribute, f"{prefix}.{attribute}", parameter)
        for prefix, module in model.named_modules()
        for attribute, parameter in module.named_parameters(recurse=False)
    ]
    if tied and vocabulary is None:
        slots = [slot for slot in slots if slot.name != HEAD]
    elif tied:
        slots = [slot._replace(name=EMBEDDINGS) if slot.name == HEAD else slot for slot in slots]
    files.require(slots, type(model).__name__)
    blocks_on_demand = [*body.layers][len(body.layers) if resident is None else resident :]
    block_of = {module: block for block in blocks_on_demand for module in block.modules()}
    files.fill(slot for slot in slots if slot.module not in block_of)
    if tied and head and vocabulary is None:
        model.lm_head.weight = body.embed_tokens.weight
    if blocks_on_demand:
        BlocksOnDemand(
            files, {block: [slot for slot in slots if block_of.get(slot.module) is block] for block in blocks_on_demand}
        )
    model.requires_grad_(False)
    disable_repacking(model)
    model.eval()
    return model


def _empty_cut_model(folder: Path, blocks: int | None, dtype: str | None = None) -> PreTrainedModel:
    """The model of the configuration in `folder`, cut to `blocks`, with its parameters on the meta device."""
    settings: Any = config(folder)
    part_of = getattr(settings, "part_of", None)
    all_blocks = settings.num_hidden_layers if part_of is None else part_of["num_hidden_layers"]
    if blocks is not None:
        settings.num_hidden_layers = blocks
        if getattr(settings, "layer_types", None):  # some architectures list the type of each block
            settings.layer_types = settings.layer_types[:blocks]
    quantization = getattr(settings, "quantization_config", None)
    if dtype is not None:
        settings.dtype = getattr(torch, dtype)
        if quantization is not None:
            quantization["bnb_4bit_compute_dtype"] = dtype
    model = empty_model(folder, settings)
    if quantization is not None:
        try:
            quantizer: Any = AutoHfQuantizer.from_config(quantization, pre_quantized=True)
            quantizer.preprocess_model(model, dtype=settings.dtype, device_map={"": _device})
        except Exception as error:  # any type, if the configuration is broken
            raise _unfit(folder / "config.json", error) from None
        model.hf_quantizer = quantizer
        quantizer.postprocess_model(model)
        for module in model.modules():
            if isinstance(module, Linear4bit) and module.bias is not None:
                module.bias.data = module.bias.to(settings.dtype)  # created in float32 for every dtype of the model
    body: Any = model.model
    body.rotary_emb = type(body.rotary_emb)(config=settings).to(_device)  # its buffers are in no checkpoint
    scale = getattr(body.embed_tokens, supported.SCALE, None)
    if scale is not None:  # this buffer is in no checkpoint either
        value = body.embed_tokens.scalar_embed_scale
        body.embed_tokens.embed_scale = nn.Buffer(torch.full_like(scale, value, device=_device), persistent=False)
    if len(body.layers) < all_blocks:
        body.norm = nn.Identity()
    model.config.use_cache = False
    model.name_or_path = settings.name_or_path = str(folder)
    return model


def config(folder: Path) -> PretrainedConfig:
    """The configuration of the checkpoint in `folder`. Code in the folder is never run.

    Raises:
        UserError: there is no configuration, or its architecture is not supported (model/supported.py).
    """
    path = folder / "config.json"
    given = read_json(path, "a model's configuration")
    supported.check_configuration(given, path)
    try:
        settings: PretrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        plausible = 0 < cast(Any, settings).num_hidden_layers <= MOST_BLOCKS
    except Exception as error:  # any type, if the values are broken
        raise _unfit(path, error) from None
    quantization = given.get("quantization_config", {})
    if not isinstance(quantization, dict) or quantization.get("quant_method", "bitsandbytes") != "bitsandbytes":
        raise UserError(
            f"{path}: quantization_config: expected that of bitsandbytes or none, got {brief(quantization)}; "
            "restore the file"
        )
    if not plausible:
        got = brief(given.get("num_hidden_layers"))
        raise UserError(f"{path}: num_hidden_layers: expected 1 to {MOST_BLOCKS}, got {got}; restore the file")
    return settings


def empty_model(folder: Path, settings: PretrainedConfig | None = None) -> PreTrainedModel:
    """The model of the configuration in `folder`, or of `settings`, with tensors on the meta device (no values).

    Raises:
        UserError: this is not the configuration of a causal language model.
    """
    settings = config(folder) if settings is None else settings
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(settings, dtype=settings.dtype)
    except Exception as error:  # any type, if the values are broken
        raise _unfit(folder / "config.json", error) from None
    supported.check_modules(model, folder / "config.json")
    return model


def _unfit(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(
        f"{path}: expected a causal language model with Llama's module names, got: {reason or type(error).__name__}; "
        "restore the file, or choose such a model"
    )


def require_head(folder: Path) -> None:
    """Raises UserError unless the checkpoint has a head, either as a tensor or tied to the embeddings."""
    if HEAD not in CheckpointFiles(folder).file_of and not read_json(folder / "config.json").get(
        "tie_word_embeddings", False
    ):
        raise UserError(f"{folder}: scoring: expected {HEAD}, which no file of the checkpoint holds; {HEAD_ADVICE}")


def disable_repacking(model: nn.Module) -> None:
    """Stops bitsandbytes from repacking 4-bit weights for processors with AVX512_BF16.

    It would do so in the first forward pass without gradients; after that, every gradient through the layer is None.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer. If it has no padding token, EOS is used, as is usual for Llama."""
    config(folder)  # transformers reads it first; this gives the clearer message
    read_json(folder / "tokenizer_config.json", "a tokenizer's settings")
    loaded = load_tokenizer(folder, str(folder), "remove the folder and run `dvc repro`")
    if loaded.pad_token is None:
        loaded.pad_token = loaded.eos_token
    return loaded
