"""The 4-bit cache: the base checkpoint quantised block by block with bitsandbytes (stage: quantize).

Writes transformers checkpoints, one safetensors shard a block, in NF4 (training and most views) and in FP4 (the view of
the public evaluation script), and the evidence of what they are, read off the loaded modules. Feeds the setup table.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from bitsandbytes.functional import quantize_4bit
from bitsandbytes.nn.modules import Linear4bit
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import BitsAndBytesConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tli import store
from tli.model import backbone
from tli.params import FourBit, Quantize
from tli.store import Row

COMPUTE_DTYPE = torch.bfloat16
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")


def run(base: Path, out: Path, rows: Path, quantize: Quantize) -> None:
    """The `quantize` stage: OUT/nf4 and OUT/fp4 with a manifest, and the evidence of both as rows."""
    evidence: list[Row] = []
    with store.atomic_dir(out) as folder:
        for kind, settings in (("nf4", quantize.nf4), ("fp4", quantize.fp4)):
            write_checkpoint(base, folder / kind, kind, settings)
            evidence += inspect(folder / kind, kind)
        store.write_manifest(folder)
    store.write_rows(rows, evidence)


def write_checkpoint(base: Path, out: Path, kind: str, settings: FourBit) -> None:
    """Writes the checkpoint `base` with every projection of every block packed in 4 bits of type `kind`.

    Weights are cast to `settings.load_dtype` first, as transformers does on loading, then packed in chunks of 64
    values, each with its largest magnitude as scale (2305.14314, section 3; `double_quant` packs the scales too).
    Embeddings, norms and head keep `load_dtype`. One block at a time is held in full precision.

    Args:
        base: a transformers checkpoint folder with safetensors files, sharded or not.
        out: the folder to write; its parent exists.
        kind: `nf4` or `fp4`.
        settings: the dtype before packing and whether scales are packed.
    """
    out.mkdir(parents=True)
    dtype = getattr(torch, settings.load_dtype)
    index: dict[str, str] = {}
    for name, tensors in _shards(base):
        packed = {
            key: value
            for weight, tensor in tensors.items()
            for key, value in _packed(weight, tensor.to(dtype), kind, settings.double_quant).items()
        }
        save_file(packed, out / f"{name}.safetensors", metadata={"format": "pt"})
        index |= dict.fromkeys(packed, f"{name}.safetensors")
    store.write_json(out / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    config = json.loads((base / "config.json").read_text())
    config["dtype"] = settings.load_dtype
    config["architectures"] = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config["model_type"]]]
    config["quantization_config"] = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_compute_dtype=COMPUTE_DTYPE,
        bnb_4bit_use_double_quant=settings.double_quant,
    ).to_dict()
    store.write_json(out / "config.json", config)
    for file in TOKENIZER_FILES:
        if (base / file).exists():
            shutil.copy(base / file, out / file)


def _shards(base: Path) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """The tensors of `base` grouped as they will be stored: embeddings, block after block, then norm and head.

    What stands in the shards' own headers counts, not the index beside them, which may be older than a shard (as the
    published model's is). A classifier's head, `score.weight`, is no part of a language model and is left out.
    """
    where: dict[str, Path] = {}
    for file in sorted(base.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            names = [name for name in tensors.keys() if name.startswith(("model.", "lm_head."))]  # noqa: SIM118
            where |= dict.fromkeys(names, file)
    if not where:
        raise store.UserError(f"{base}: expected a checkpoint in safetensors files, found none; run `dvc repro base`")
    groups: dict[str, list[str]] = {}
    for name in where:
        parts = name.split(".")
        if parts[:2] == ["model", "layers"]:
            shard = f"block-{int(parts[2]):03d}"
        else:
            shard = "embeddings" if parts[:2] == ["model", "embed_tokens"] else "head"
        groups.setdefault(shard, []).append(name)
    _complete(base, groups)
    for shard in sorted(groups, key=lambda shard: (shard != "embeddings", shard == "head", shard)):
        loaded = {}
        for name in sorted(groups[shard]):
            with safe_open(where[name], framework="pt") as tensors:
                loaded[name] = tensors.get_tensor(name)
        yield shard, loaded


def _complete(base: Path, groups: dict[str, list[str]]) -> None:
    """Raises CheckFailed, naming the tensor, unless every block of the configuration holds what any of them holds."""
    blocks = [f"block-{number:03d}" for number in range(store.read_json(base / "config.json")["num_hidden_layers"])]
    held = [{name.split(".", 3)[3] for name in groups.get(block, [])} for block in blocks]
    for number, names in enumerate(held):
        if lacking := sorted(set().union(*held) - names):
            raise store.CheckFailed(
                f"{base}: expected model.layers.{number}.{lacking[0]} in a safetensors file, found none; "
                "the checkpoint is not whole: fetch or train it again (`dvc repro base --force`)"
            )


def _packed(name: str, tensor: torch.Tensor, kind: str, double_quant: bool) -> dict[str, torch.Tensor]:
    """A projection's packed weight and quantisation state under Linear4bit's own keys; any other tensor as it is."""
    if not (name.startswith("model.layers.") and name.endswith("_proj.weight")):
        return {name: tensor.contiguous()}
    packed, state = quantize_4bit(tensor, quant_type=kind, compress_statistics=double_quant)
    return {name: packed} | {f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}


def inspect(folder: Path, kind: str) -> list[Row]:
    """What a 4-bit checkpoint is once loaded: types, dtypes, counts, bytes, as rows of set `kind`.

    Raises:
        CheckFailed: a module was loaded with another quantisation type than `kind`, or a projection was left unpacked.
    """
    model = backbone.load(folder)
    packed = [module for module in model.modules() if isinstance(module, Linear4bit)]
    expected = len(model.model.layers) * 7
    states: list[Any] = [cast(Any, module.weight).quant_state for module in packed]
    types = {str(state.quant_type) for state in states}
    if types != {kind} or len(packed) != expected:
        raise store.CheckFailed(
            f"{folder}: expected {expected} projections of type {kind}, "
            f"got {len(packed)} of {', '.join(sorted(types)) or 'none'}; remove {folder.parent} and run `dvc repro`"
        )
    inside = {id(parameter) for module in packed for parameter in module.parameters()}
    others = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    config = model.config
    head = "absent" if isinstance(model.lm_head, backbone.NoHead) else "loaded"
    found: list[tuple[str, str, float | str]] = [
        ("model", "class", type(model).__name__),
        ("model", "blocks", len(model.model.layers)),
        ("model", "hidden_size", config.hidden_size),
        ("model", "intermediate_size", config.intermediate_size),
        ("model", "heads", config.num_attention_heads),
        ("model", "kv_heads", config.num_key_value_heads),
        ("model", "vocab_size", model.model.embed_tokens.num_embeddings),
        ("model", "head", "tied to the embeddings" if config.tie_word_embeddings else head),
        ("projections", "quant_type", kind),
        ("projections", "modules", len(packed)),
        ("projections", "parameters", sum(state.shape.numel() for state in states)),
        ("projections", "bytes", sum(module.weight.numel() * module.weight.element_size() for module in packed)),
        ("projections", "blocksize", states[0].blocksize),
        ("projections", "double_quant", str(bool(states[0].nested)).lower()),
        ("projections", "loaded_dtype", _name({state.dtype for state in states})),
        ("projections", "compute_dtype", _name({module.compute_dtype for module in packed})),
        ("others", "dtype", _name({parameter.dtype for parameter in others})),
        ("others", "parameters", sum(parameter.numel() for parameter in others)),
        ("others", "bytes", sum(parameter.numel() * parameter.element_size() for parameter in others)),
    ]
    return [Row("base", "-", 0, "-", kind, item, "-", measure, value) for item, measure, value in found]


def _name(dtypes: set[torch.dtype]) -> str:
    return "+".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
