"""4-bit checkpoints: quantises a base checkpoint with bitsandbytes, one block at a time (stage: quantize).

Each projection matrix is packed in chunks of 64 values w with scale c = max |w| (2305.14314, section 3):

    w ~ c q,    q one of the 16 values of the type (NF4 or FP4)

Writes transformers checkpoints with one safetensors shard per block: NF4 for training and most views, FP4 for the view
of the public evaluation script. `inspect` reads their types and sizes from the loaded modules. Shards already written
are used again after an interruption (io/resume.py).
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

Dtype = Literal["float32", "bfloat16"]  # the values of `compute.dtype` in params.yaml
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
ROWS = 256  # rows of a matrix in full precision at a time; 256 rows of any length are whole chunks of 64 values
ROUNDED = "rounded_to"  # the index key with the dtype that the weights were rounded to before packing
EMBEDDINGS, OTHERS = "embeddings", "head"  # the first and the last shard


def write_checkpoint(
    base: Path, out: Path, kind: str, settings: FourBit, compute: Dtype, finished: resume.Checkpoints | None = None
) -> None:
    """Writes the checkpoint `base` with every projection of every block packed in 4 bits of type `kind`.

    All weights are first cast to `settings.load_dtype`, as transformers does on loading. Projections are then packed in
    chunks of 64 values, each with its largest magnitude as scale (2305.14314, section 3; `double_quant` packs the
    scales too). The other tensors (embeddings, norms, head) are stored in `compute`, the dtype of all products. Only a
    few rows of a tensor are in memory in full precision at a time, and one shard.

    Args:
        base: a transformers checkpoint folder with one or several safetensors files.
        out: the folder to write; its parent exists.
        kind: `nf4` or `fp4`.
        settings: the dtype before packing, and whether the scales are packed.
        compute: the dtype of all products.
        finished: where written shards are saved as checkpoints, and read if they are there already.

    Raises:
        UserError: `base` has no safetensors file, or lacks a tensor of its architecture other than the head.
    """
    locations = layout(base)
    out.mkdir(parents=True)
    index: dict[str, str] = {}
    for shard, tensors in progress.track(_group_by_shard(locations).items(), f"quantize {kind}"):
        file, write = out / f"{shard}.safetensors", partial(_write_shard, tensors, kind, settings, compute)
        if finished is None:
            write(file)
        else:
            _link(finished.get_or_make(f"{kind}-{file.name}", write), file)
        index |= dict.fromkeys(
            (key for name in tensors for key in _stored_keys(name, kind, settings, compute)), file.name
        )
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
    # one metadata key only: safetensors writes several in random order, so that the bytes would differ
    save_file(stored, path, metadata={"format": "pt"})


def _link(source: Path, target: Path) -> None:
    """Links `source` as `target`: the checkpoint stays until the output is in place."""
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def layout(folder: Path) -> dict[str, TensorInfo]:
    """Tensor name -> its location, for all tensors of the language model, from the headers of the shards.

    The index file is not used: it may be older than a shard, as in the published model. A classifier's head,
    `score.weight`, does not belong to a language model and is left out.

    Raises:
        UserError: there is no safetensors file, a tensor is missing, or its shape is not that of the configuration.
    """
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder}: expected a checkpoint in safetensors files, found none; run `dvc repro base`")
    tensors = {name: info for name, info in shards.headers(folder).items() if name.startswith(("model.", "lm_head."))}
    for name, tensor in _architecture(folder).state_dict().items():
        is_packed = f"{name}.absmax" in tensors  # in a checkpoint of this stage a packed matrix has another shape
        if name in tensors and not is_packed and tensors[name].shape != tuple(tensor.shape):
            raise UserError(
                f"{tensors[name].file}: {name}: expected the shape {list(tensor.shape)} of config.json, "
                f"got {list(tensors[name].shape)}; fetch or train the checkpoint again (`dvc repro base --force`)"
            )
        if name not in tensors and name != checkpoint.HEAD:
            raise UserError(
                f"{folder}: expected {name} in a safetensors file, found none; "
                "the checkpoint is not complete: fetch or train it again (`dvc repro base --force`)"
            )
    return tensors


def _architecture(folder: Path) -> Any:
    """The language model of the folder's configuration, with tensors on the meta device (no values)."""
    return checkpoint.empty_model(folder)


def _group_by_shard(tensors: Mapping[str, TensorInfo]) -> dict[str, dict[str, TensorInfo]]:
    """Shard -> its tensors, sorted by name. The shards: embeddings, one per block, then norm and head."""
    shard_tensors: dict[str, dict[str, TensorInfo]] = {EMBEDDINGS: {}}
    others: dict[str, TensorInfo] = {}
    for name in sorted(tensors):
        parts = name.split(".")
        if parts[:2] == ["model", "layers"]:
            shard_tensors.setdefault(f"block-{int(parts[2]):03d}", {})[name] = tensors[name]
        else:
            (shard_tensors[EMBEDDINGS] if parts[:2] == ["model", "embed_tokens"] else others)[name] = tensors[name]
    return dict(sorted(shard_tensors.items(), key=lambda item: (item[0] != EMBEDDINGS, item[0]))) | {OTHERS: others}


def _rows(name: str, info: TensorInfo) -> Iterator[Tensor]:
    """Yields a tensor's rows, ROWS at a time. The file is opened each time, because mapped pages count as memory."""
    for start in range(0, info.shape[0], ROWS):
        with safe_open(info.file, framework="pt") as tensors:
            rows: Tensor = tensors.get_slice(name)[start : start + ROWS]
        if not bool(rows.isfinite().all()):
            raise UserError(
                f"{info.file}: {name}: expected finite numbers, got NaN or infinity in rows {start} to "
                f"{start + len(rows) - 1}; "
                "fetch or train the checkpoint again (`dvc repro base --force`)"
            )
        yield rows


def _is_packed(name: str) -> bool:
    return name.startswith("model.layers.") and name.endswith("_proj.weight")


def _stored(name: str, info: TensorInfo, kind: str, settings: FourBit, compute: Dtype) -> dict[str, Tensor]:
    """A projection's packed weight and quantisation state under Linear4bit's keys; other tensors rounded to `compute`.

    A projection is packed in `load_dtype`. Rounding it to `compute` first would change 1 code in 100.
    """
    load, dtype = getattr(torch, settings.load_dtype), getattr(torch, compute)
    row_groups = (rows.to(load) for rows in _rows(name, info))
    if _is_packed(name):
        return _packed(name, info.shape, row_groups, kind, settings.double_quant, dtype)
    rounded = torch.empty(info.shape, dtype=dtype)
    for target, rows in zip(rounded.split(ROWS), row_groups, strict=True):
        target.copy_(rows)
    return {name: rounded}


def _packed(
    name: str, shape: tuple[int, ...], row_groups: Iterable[Tensor], kind: str, double_quant: bool, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The packed matrix as bitsandbytes computes it from the whole matrix on one thread.

    Each chunk of 64 values is packed by itself, and the scales together. `dtype` is the dtype after unpacking.
    """
    codes, scales = [], []
    for rows in row_groups:
        code, state = quantize_4bit(rows.contiguous(), quant_type=kind)
        codes.append(code)
        scales.append(state.absmax)
    absmax, scale_state = torch.cat(scales), dict[str, Any]()
    if double_quant:
        with _one_thread():  # two threads would sum in another order
            scale_state["offset"] = absmax.mean()
        absmax, scale_state["state2"] = quantize_blockwise(absmax - scale_state["offset"], blocksize=256)
    state_of_matrix = QuantState(
        absmax, torch.Size(shape), state.code, state.blocksize, quant_type=kind, dtype=dtype, **scale_state
    )
    return {name: torch.cat(codes)} | {
        f"{name}.{key}": value for key, value in state_of_matrix.as_dict(packed=True).items()
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _stored_keys(name: str, kind: str, settings: FourBit, compute: Dtype) -> Iterable[str]:
    """The keys that a tensor is stored under, in the order of bitsandbytes."""
    if not _is_packed(name):
        return (name,)
    return _packed(name, (1, 64), [torch.zeros(1, 64)], kind, settings.double_quant, getattr(torch, compute))


def inspect(folder: Path, kind: str) -> list[Row]:
    """Rows of set `kind` that describe a 4-bit checkpoint: types, dtypes, numbers of parameters, bytes.

    Values of projections are read from the modules that transformers and bitsandbytes load, one block at a time; those
    of the other tensors from the headers of the files.

    Raises:
        CheckFailed: a tensor is missing, a module was loaded with a quantisation type other than `kind`, or a
            projection is not packed.
    """
    tensors, model = layout(folder), _architecture(folder)
    config, blocks = model.config, model.config.num_hidden_layers
    projections: list[Projection] = []
    for number in range(blocks):
        projections += _projections(type(model), folder, tensors, number)
        gc.collect()  # bitsandbytes leaves reference cycles: blocks would accumulate
    types = {projection.quant_type for projection in projections}
    if types != {kind} or len(projections) != blocks * 7:
        raise CheckFailed(
            f"{folder}: expected {blocks * 7} projections of type {kind}, "
            f"got {len(projections)} of {', '.join(sorted(types)) or 'none'}; "
            f"remove {folder.parent} and run `dvc repro`"
        )
    tied = config.tie_word_embeddings
    others = [info for name, info in tensors.items() if "_proj." not in name and not (tied and name == checkpoint.HEAD)]
    head = "loaded" if checkpoint.HEAD in tensors else "absent"
    values: list[tuple[str, str, float | str]] = [
        ("model", "class", type(model).__name__),
        ("model", "blocks", blocks),
        ("model", "hidden_size", config.hidden_size),
        ("model", "intermediate_size", config.intermediate_size),
        ("model", "heads", config.num_attention_heads),
        ("model", "kv_heads", config.num_key_value_heads),
        ("model", "head_dim", supported.shape(config)["head_dim"]),
        ("model", "vocab_size", tensors["model.embed_tokens.weight"].shape[0]),
        ("model", "head", "tied to the embeddings" if tied else head),
        ("projections", "quant_type", kind),
        ("projections", "modules", len(projections)),
        ("projections", "parameters", sum(projection.parameters for projection in projections)),
        ("projections", "bytes", sum(projection.nbytes for projection in projections)),
        ("projections", "blocksize", projections[0].blocksize),
        ("projections", "double_quant", str(projections[0].double_quant).lower()),
        ("projections", "loaded_dtype", _rounded_to(folder)),
        ("projections", "compute_dtype", _dtype_name({projection.compute for projection in projections})),
        ("projections", "tensors_sha256", shards.digest_of_all(folder)),
        ("others", "dtype", _dtype_name({DTYPES[info.dtype] for info in others})),
        ("others", "parameters", sum(math.prod(info.shape) for info in others)),
        ("others", "bytes", sum(info.nbytes for info in others)),
    ]
    return [Row("base", "-", 0, "-", kind, item, "-", measure, value) for item, measure, value in values]


def _rounded_to(folder: Path) -> str:
    """The dtype that the weights were rounded to before packing, from the checkpoint's index."""
    return str(read_json(folder / shards.INDEX, "an index of shards")["metadata"].get(ROUNDED, "unknown"))


class Projection(NamedTuple):
    """The properties of a loaded Linear4bit: `nbytes` is the size of its packed codes, `compute` the compute dtype."""

    quant_type: str
    parameters: int
    nbytes: int
    blocksize: int
    double_quant: bool
    compute: torch.dtype


def _projections(architecture: Any, folder: Path, locations: dict[str, TensorInfo], number: int) -> list[Projection]:
    """The packed projections of block `number`, loaded as the only block of a model without a vocabulary."""
    config: Any = checkpoint.config(folder)
    config.num_hidden_layers, config.vocab_size, config.pad_token_id = 1, 1, None
    if getattr(config, "layer_types", None):  # some architectures list the type of each block
        config.layer_types = [config.layer_types[number]]
    block_prefix, only_block_prefix, tensors = f"model.layers.{number}.", "model.layers.0.", {}
    for name, info in locations.items():
        if name.startswith(block_prefix):
            with safe_open(info.file, framework="pt") as file:
                tensors[only_block_prefix + name.removeprefix(block_prefix)] = file.get_tensor(name)
    loaded: tuple[PreTrainedModel, dict[str, Any]] = architecture.from_pretrained(
        None, config=config, state_dict=tensors, dtype=config.dtype, output_loading_info=True
    )
    if missing := sorted(name for name in loaded[1]["missing_keys"] if name.startswith(only_block_prefix)):
        raise CheckFailed(
            f"{folder}: expected every tensor of block {number}, got no {missing[0]}; "
            f"remove {folder.parent} and run `dvc repro`"
        )
    projections = []
    for module in loaded[0].modules():
        if isinstance(module, Linear4bit):
            weight: Any = module.weight
            state = weight.quant_state
            projections.append(
                Projection(
                    state.quant_type,
                    state.shape.numel(),
                    weight.numel() * weight.element_size(),
                    state.blocksize,
                    bool(state.nested),
                    module.compute_dtype,
                )
            )
    return projections


# The names of dtypes in the headers of safetensors files.
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def _dtype_name(dtypes: set[torch.dtype]) -> str:
    return "+".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
