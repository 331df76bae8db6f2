"""The 4-bit cache: the base checkpoint quantised block by block with bitsandbytes (stage: quantize).

Writes transformers checkpoints, one safetensors shard a block, in NF4 (training and most views) and in FP4 (the view of
the public evaluation script), and the evidence of what they are, read off the loaded modules, a block at a time. Shards
that are written outlive a run that is cut off (io/resume.py). Feeds the setup table.
"""

from __future__ import annotations

import gc
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from bitsandbytes.functional import QuantState, quantize_4bit, quantize_blockwise
from bitsandbytes.nn.modules import Linear4bit
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tli.config.parameters import FourBit
from tli.io import progress, resume
from tli.io.errors import CheckFailed, UserError
from tli.io.rows import Row
from tli.io.structured import read_json, write_json
from tli.model import checkpoint, shards, supported
from tli.model.shards import TensorInfo

Dtype = Literal["float32", "bfloat16"]  # of `compute.dtype` in params.yaml
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
ROWS = 256  # of a matrix in full precision at a time: whole chunks of 64 values, whatever the row's length
ROUNDED = "rounded_to"  # where the index says to which dtype the weights were rounded before packing
EMBEDDINGS, OTHERS = "embeddings", "head"  # the first and the last shard


def write_checkpoint(
    base: Path, out: Path, kind: str, settings: FourBit, compute: Dtype, finished: resume.Checkpoints | None = None
) -> None:
    """Writes the checkpoint `base` with every projection of every block packed in 4 bits of type `kind`.

    Weights are cast to `settings.load_dtype` first, as transformers does on loading, then packed in chunks of 64
    values, each with its largest magnitude as scale (2305.14314, section 3; `double_quant` packs the scales too).
    Everything is rounded to `load_dtype`; what is not packed (embeddings, norms, head) is then stored in `compute`, in
    which every product is taken. A few rows of one tensor at a time are held in full precision, and one shard as it is
    written.

    Args:
        base: a transformers checkpoint folder with safetensors files, sharded or not.
        out: the folder to write; its parent exists.
        kind: `nf4` or `fp4`.
        settings: the dtype before packing and whether scales are packed.
        compute: the dtype of every product.
        finished: where shards are kept once written, and taken from where they are already.

    Raises:
        UserError: `base` holds no safetensors file, or lacks a tensor of its architecture, other than a head.
    """
    held = layout(base)
    out.mkdir(parents=True)
    index: dict[str, str] = {}
    for shard, tensors in progress.track(_shards(held).items(), f"quantize {kind}"):
        file, write = out / f"{shard}.safetensors", partial(_write_shard, tensors, kind, settings, compute)
        if finished is None:
            write(file)
        else:
            _link(finished.get_or_make(f"{kind}-{file.name}", write), file)
        index |= dict.fromkeys((key for name in tensors for key in _keys(name, kind, settings, compute)), file.name)
    write_json(out / shards.INDEX, {"metadata": {ROUNDED: settings.load_dtype}, "weight_map": index})
    config = read_json(base / "config.json", "a model's configuration")
    config["dtype"] = compute
    config["architectures"] = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config["model_type"]]]
    config["quantization_config"] = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_compute_dtype=compute,
        bnb_4bit_use_double_quant=settings.double_quant,
    ).to_dict()
    write_json(out / "config.json", config)
    for name in TOKENIZER_FILES:
        if (base / name).exists():
            shutil.copy(base / name, out / name)


def _write_shard(tensors: Mapping[str, TensorInfo], kind: str, settings: FourBit, compute: Dtype, path: Path) -> None:
    stored: dict[str, Tensor] = {}
    for name, info in tensors.items():
        stored |= _stored(name, info, kind, settings, compute)
    # one key alone: safetensors writes several in an order of chance, and other bytes for the same tensors
    save_file(stored, path, metadata={"format": "pt"})


def _link(piece: Path, file: Path) -> None:
    """The same bytes under both names: the piece stays until the output is in place."""
    try:
        os.link(piece, file)
    except OSError:  # a file system without hard links
        shutil.copyfile(piece, file)


def layout(folder: Path) -> dict[str, TensorInfo]:
    """Tensor name -> where it lies, of all that belongs to a language model and stands in the shards' own headers.

    The index beside them does not count: it may be older than a shard (as the published model's is). A classifier's
    head, `score.weight`, is no part of a language model and is left out.
    """
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder}: expected a checkpoint in safetensors files, found none; run `dvc repro base`")
    held = {name: info for name, info in shards.headers(folder).items() if name.startswith(("model.", "lm_head."))}
    for name, tensor in _architecture(folder).state_dict().items():
        packed = f"{name}.absmax" in held  # of this stage's own checkpoints: not in the matrix's shape
        if name in held and not packed and held[name].shape != tuple(tensor.shape):
            raise UserError(
                f"{held[name].file}: {name}: expected the shape {list(tensor.shape)} of config.json, "
                f"got {list(held[name].shape)}; fetch or train the checkpoint again (`dvc repro base --force`)"
            )
        if name not in held and name != checkpoint.HEAD:
            raise UserError(
                f"{folder}: expected {name} in a safetensors file, found none; "
                "the checkpoint is not whole: fetch or train it again (`dvc repro base --force`)"
            )
    return held


def _architecture(folder: Path) -> Any:
    """The language model of the folder's configuration, its tensors without memory or values."""
    return checkpoint.laid_out(folder)


def _shards(held: Mapping[str, TensorInfo]) -> dict[str, dict[str, TensorInfo]]:
    """Shard -> its tensors, sorted by name: embeddings, block after block, then norm and head."""
    groups: dict[str, dict[str, TensorInfo]] = {EMBEDDINGS: {}}
    last: dict[str, TensorInfo] = {}
    for name in sorted(held):
        parts = name.split(".")
        if parts[:2] == ["model", "layers"]:
            groups.setdefault(f"block-{int(parts[2]):03d}", {})[name] = held[name]
        else:
            (groups[EMBEDDINGS] if parts[:2] == ["model", "embed_tokens"] else last)[name] = held[name]
    return dict(sorted(groups.items(), key=lambda item: (item[0] != EMBEDDINGS, item[0]))) | {OTHERS: last}


def _rows(name: str, info: TensorInfo) -> Iterator[Tensor]:
    """A tensor's rows, ROWS at a time. The file is opened for each part: what is mapped of it counts as memory."""
    for start in range(0, info.shape[0], ROWS):
        with safe_open(info.file, framework="pt") as tensors:
            part: Tensor = tensors.get_slice(name)[start : start + ROWS]
        if not bool(part.isfinite().all()):
            raise UserError(
                f"{info.file}: {name}: expected finite numbers, got others in rows {start} to {start + len(part) - 1}; "
                "fetch or train the checkpoint again (`dvc repro base --force`)"
            )
        yield part


def _is_packed(name: str) -> bool:
    return name.startswith("model.layers.") and name.endswith("_proj.weight")


def _stored(name: str, info: TensorInfo, kind: str, settings: FourBit, compute: Dtype) -> dict[str, Tensor]:
    """A projection's packed weight and quantisation state under Linear4bit's own keys; any other tensor rounded.

    A projection is packed as it was loaded, in `load_dtype`: rounded to `compute` first, 1 code in 100 is another.
    """
    load, dtype = getattr(torch, settings.load_dtype), getattr(torch, compute)
    parts = (part.to(load) for part in _rows(name, info))
    if _is_packed(name):
        return _packed(name, info.shape, parts, kind, settings.double_quant, dtype)
    whole = torch.empty(info.shape, dtype=dtype)
    for target, part in zip(whole.split(ROWS), parts, strict=True):
        target.copy_(part)
    return {name: whole}


def _packed(
    name: str, shape: tuple[int, ...], parts: Iterable[Tensor], kind: str, double_quant: bool, dtype: torch.dtype
) -> dict[str, Tensor]:
    """What bitsandbytes makes of the whole matrix on one thread: chunks of 64 are packed each for itself, their scales
    together. Unpacked, it has the dtype `dtype`.
    """
    codes, scales = [], []
    for part in parts:
        code, state = quantize_4bit(part.contiguous(), quant_type=kind)
        codes.append(code)
        scales.append(state.absmax)
    absmax, nested = torch.cat(scales), dict[str, Any]()
    if double_quant:
        with _one_thread():  # two would add in another order
            nested["offset"] = absmax.mean()
        absmax, nested["state2"] = quantize_blockwise(absmax - nested["offset"], blocksize=256)
    whole = QuantState(absmax, torch.Size(shape), state.code, state.blocksize, quant_type=kind, dtype=dtype, **nested)
    return {name: torch.cat(codes)} | {f"{name}.{key}": value for key, value in whole.as_dict(packed=True).items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _keys(name: str, kind: str, settings: FourBit, compute: Dtype) -> Iterable[str]:
    """The keys under which a tensor is stored, in bitsandbytes' order."""
    if not _is_packed(name):
        return (name,)
    return _packed(name, (1, 64), [torch.zeros(1, 64)], kind, settings.double_quant, getattr(torch, compute))


def inspect(folder: Path, kind: str) -> list[Row]:
    """What a 4-bit checkpoint is once loaded: types, dtypes, counts, bytes, as rows of set `kind`.

    Projections are read off the modules that transformers and bitsandbytes load, one block at a time; what is not
    packed off the files' headers.

    Raises:
        CheckFailed: a tensor is missing, a module was loaded with another quantisation type than `kind`, or a
            projection was left unpacked.
    """
    held, model = layout(folder), _architecture(folder)
    config, blocks = model.config, model.config.num_hidden_layers
    found: list[Projection] = []
    for number in range(blocks):
        found += _projections(type(model), folder, held, number)
        gc.collect()  # weights and modules of bitsandbytes refer to each other: blocks would pile up
    types = {each.quant_type for each in found}
    if types != {kind} or len(found) != blocks * 7:
        raise CheckFailed(
            f"{folder}: expected {blocks * 7} projections of type {kind}, "
            f"got {len(found)} of {', '.join(sorted(types)) or 'none'}; remove {folder.parent} and run `dvc repro`"
        )
    tied = config.tie_word_embeddings
    others = [info for name, info in held.items() if "_proj." not in name and not (tied and name == checkpoint.HEAD)]
    head = "loaded" if checkpoint.HEAD in held else "absent"
    values: list[tuple[str, str, float | str]] = [
        ("model", "class", type(model).__name__),
        ("model", "blocks", blocks),
        ("model", "hidden_size", config.hidden_size),
        ("model", "intermediate_size", config.intermediate_size),
        ("model", "heads", config.num_attention_heads),
        ("model", "kv_heads", config.num_key_value_heads),
        ("model", "head_dim", supported.shape(config)["head_dim"]),
        ("model", "vocab_size", held["model.embed_tokens.weight"].shape[0]),
        ("model", "head", "tied to the embeddings" if tied else head),
        ("projections", "quant_type", kind),
        ("projections", "modules", len(found)),
        ("projections", "parameters", sum(each.parameters for each in found)),
        ("projections", "bytes", sum(each.nbytes for each in found)),
        ("projections", "blocksize", found[0].blocksize),
        ("projections", "double_quant", str(found[0].double_quant).lower()),
        ("projections", "loaded_dtype", _rounded_to(folder)),
        ("projections", "compute_dtype", _name({each.compute for each in found})),
        ("projections", "tensors_sha256", shards.digest_of_all(folder)),
        ("others", "dtype", _name({DTYPES[info.dtype] for info in others})),
        ("others", "parameters", sum(math.prod(info.shape) for info in others)),
        ("others", "bytes", sum(info.nbytes for info in others)),
    ]
    return [Row("base", "-", 0, "-", kind, item, "-", measure, value) for item, measure, value in values]


def _rounded_to(folder: Path) -> str:
    """The dtype that the packed weights were rounded to, by the checkpoint's index."""
    return str(read_json(folder / shards.INDEX, "an index of shards")["metadata"].get(ROUNDED, "unknown"))


class Projection(NamedTuple):
    """What a loaded Linear4bit says of itself: `nbytes` of packed codes, the dtype of its arithmetic."""

    quant_type: str
    parameters: int
    nbytes: int
    blocksize: int
    double_quant: bool
    compute: torch.dtype


def _projections(architecture: Any, folder: Path, held: dict[str, TensorInfo], number: int) -> list[Projection]:
    """The packed projections of one block, loaded as the only block of a model without a vocabulary."""
    config: Any = checkpoint.config(folder)
    config.num_hidden_layers, config.vocab_size, config.pad_token_id = 1, 1, None
    if getattr(config, "layer_types", None):  # kept beside the number of blocks by some architectures
        config.layer_types = [config.layer_types[number]]
    own, alone, tensors = f"model.layers.{number}.", "model.layers.0.", {}
    for name, info in held.items():
        if name.startswith(own):
            with safe_open(info.file, framework="pt") as file:
                tensors[alone + name.removeprefix(own)] = file.get_tensor(name)
    loaded: tuple[PreTrainedModel, dict[str, Any]] = architecture.from_pretrained(
        None, config=config, state_dict=tensors, dtype=config.dtype, output_loading_info=True
    )
    if lacking := sorted(name for name in loaded[1]["missing_keys"] if name.startswith(alone)):
        raise CheckFailed(
            f"{folder}: expected every tensor of block {number}, got no {lacking[0]}; "
            f"remove {folder.parent} and run `dvc repro`"
        )
    found = []
    for module in loaded[0].modules():
        if isinstance(module, Linear4bit):
            weight: Any = module.weight
            state = weight.quant_state
            found.append(
                Projection(
                    state.quant_type,
                    state.shape.numel(),
                    weight.numel() * weight.element_size(),
                    state.blocksize,
                    bool(state.nested),
                    module.compute_dtype,
                )
            )
    return found


DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}  # as safetensors' headers name them


def _name(dtypes: set[torch.dtype]) -> str:
    return "+".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
