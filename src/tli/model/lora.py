"""Early-layer LoRA: made, attached, checked, saved and loaded in PEFT's own format (trained: model/batched_lora.py).

LoRA (2106.09685, section 4.1) adds to a frozen projection W a product of two thin matrices:
    h = W x + s B A dropout(x),    A: (r, d_in), B: (d_out, r), B = 0 at the start,    s = alpha / r.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from tli.config.parameters import Lora, Params
from tli.io.errors import UserError
from tli.io.files import atomic_dir, write_text
from tli.io.structured import brief, read_json, write_json
from tli.model import backbone, checkpoint

WEIGHTS, SETTINGS, CARD = "adapter_model.safetensors", "adapter_config.json", "README.md"


def alpha(lora: Lora) -> int:
    """LoRA's alpha, from which `scaling` sets s.

    `2r` gives alpha = 2r, so s = 2 at every rank; `fixed32` gives alpha = 32, so s = 32 / r; `rslora` gives alpha = 8
    and s = 8 / sqrt(r) (2312.03732, equation 7). At r = 16 all three are 2, as in the paper.
    """
    return {"2r": 2 * lora.rank, "fixed32": 32, "rslora": 8}[lora.scaling]


def config(lora: Lora, blocks: int) -> LoraConfig:
    """PEFT's configuration for LoRA on the first `blocks` blocks."""
    return LoraConfig(
        r=lora.rank,
        lora_alpha=alpha(lora),
        use_rslora=lora.scaling == "rslora",
        lora_dropout=lora.dropout,
        target_modules=sorted(lora.targets),
        layers_to_transform=list(range(blocks)),
        layers_pattern="layers",
        bias="none",
        task_type=TaskType.CAUSAL_LM,
    )


def scaling_and_rank(folder: Path) -> tuple[str, int]:
    """What the adapter in `folder` says of itself in adapter_config.json: how alpha follows from r, and r.

    At r = 16 `2r` and `fixed32` are the same adapter, named `2r`; another alpha is named by its value.
    """
    settings = read_json(folder / SETTINGS, "an adapter's settings")
    if missing := [key for key in ("r", "lora_alpha", "use_rslora") if key not in settings]:
        raise UserError(f"{folder / SETTINGS}: {missing[0]}: expected a number, got none; run `dvc repro`")
    rank, value = settings["r"], settings["lora_alpha"]
    if settings["use_rslora"]:
        return "rslora", rank
    return "2r" if value == 2 * rank else "fixed32" if value == 32 else f"alpha{value}", rank


def attach(model: PreTrainedModel, lora: Lora, blocks: int, seed: int) -> PeftModel:
    """`model` with a fresh adapter on its first `blocks` blocks, A drawn from a generator of its own seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config(lora, blocks))
    checkpoint.keep_unpacked(adapted)
    return adapted


def save(
    tensors: Mapping[str, Tensor], lora: Lora, blocks: int, folder: Path, base: str, card: str | None = None
) -> None:
    """Writes an adapter on the first `blocks` blocks as PEFT does: safetensors and adapter_config.json.

    `tensors` are under PEFT's names. The same adapter gives the same bytes: PEFT's configuration holds sets, whose
    order changes from run to run, and is sorted here; PEFT's model card, which names versions, gives way to `card`
    (model/card.py).
    """
    made = config(lora, blocks)
    made.inference_mode = True
    with atomic_dir(folder) as temporary:
        made.save_pretrained(str(temporary))
        save_file(dict(tensors), temporary / WEIGHTS, metadata={"format": "pt"})
        settle(temporary, base)
        if card is not None:
            write_text(temporary / CARD, card)


def settle(folder: Path, base: str, revision: str | None = None) -> None:
    """Writes PEFT's configuration in `folder` again, its keys and targets sorted, `base` as the model's name."""
    settings = read_json(folder / SETTINGS)
    settings["target_modules"] = sorted(settings["target_modules"])
    settings |= {"base_model_name_or_path": base, "revision": revision}
    write_json(folder / SETTINGS, dict(sorted(settings.items())))


def load(model: PreTrainedModel, folder: Path, merge: bool = False) -> PeftModel | PreTrainedModel:
    """`model` with the adapter of `folder`, in evaluation mode.

    With `merge` the adapter is folded into the weights: a 4-bit weight is dequantised, changed and packed again, which
    rounds once more. This is what the public evaluation script does.

    Raises:
        UserError: the folder holds no whole adapter of this model in this project's own form (`hold`).
    """
    hold(folder, model)
    adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    checkpoint.keep_unpacked(adapted)
    if not merge:
        adapted.eval()
        return adapted
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Merge lora module to 4-bit linear")  # the rounding is the point
        merged: PreTrainedModel = adapted.merge_and_unload()
    checkpoint.keep_unpacked(merged)
    merged.eval()
    return merged


FREE = ("r", "lora_alpha", "use_rslora", "lora_dropout", "layers_to_transform", "target_modules")  # what `config` sets
SILENT = (*FREE, "base_model_name_or_path", "peft_version")


def hold(folder: Path, model: PreTrainedModel) -> None:
    """UserError unless `folder` has what `save` writes: known settings, every tensor of the right shape, and finite.

    PEFT alone would load a pickle where there is no safetensors file, ask the hub where there is no folder, and leave a
    tensor that the file lacks as it is at the start of training.
    """
    path, again = folder / SETTINGS, "run `dvc repro`, which trains it"
    given = read_json(path, "an adapter's settings")
    layers = backbone.body_of(model).layers

    def refuse(key: str, expected: str) -> UserError:
        return UserError(f"{path}: {key}: expected {expected}, got {brief(given.get(key))}; {again}")

    for key, kind in (("r", int), ("lora_alpha", int), ("use_rslora", bool), ("lora_dropout", float | int)):
        if not isinstance(given.get(key), kind) or (isinstance(given[key], bool) != (kind is bool)) or given[key] < 0:
            raise refuse(key, "a number" if kind is not bool else "true or false")
    widths = {name: layer for name, layer in layers[0].self_attn.named_children() if name.endswith("_proj")}
    targets, blocks = given.get("target_modules"), given.get("layers_to_transform")
    if not isinstance(targets, list) or not targets or any(name not in [*widths] for name in targets):
        raise refuse("target_modules", f"some of {', '.join(widths)}")
    whole = isinstance(blocks, list) and bool(blocks) and all(type(block) is int and block >= 0 for block in blocks)
    most = math.inf if isinstance(backbone.body_of(model).norm, nn.Identity) else len(layers)  # of a cut model: any
    if not whole or sorted(set(blocks)) != blocks or blocks[0] >= len(layers) or blocks[-1] >= most:
        raise refuse("layers_to_transform", f"numbers of blocks from 0 to {len(layers) - 1}, ascending")
    if not 1 <= given["r"] <= 4096 or given["lora_dropout"] >= 1:
        raise refuse("r" if given["lora_dropout"] < 1 else "lora_dropout", "1 or more" if given["r"] < 1 else "less")
    ours = {key: given[key] for key in FREE}
    plain = LoraConfig(
        **ours, layers_pattern="layers", bias="none", task_type=TaskType.CAUSAL_LM, inference_mode=True
    ).to_dict()
    for key in sorted((plain.keys() | given.keys()) - {*SILENT}):
        if given.get(key) != plain.get(key):
            raise refuse(key, f"{brief(plain.get(key))} as this project writes it")
    expected = {
        f"base_model.model.model.layers.{block}.self_attn.{target}.lora_{matrix}.weight": shape
        for block in blocks
        for target in targets
        for matrix, shape in (
            ("A", [given["r"], widths[target].in_features]),
            ("B", [widths[target].out_features, given["r"]]),
        )
    }
    _fits(folder / WEIGHTS, _tensors(folder / WEIGHTS, again), expected, f"{path.name}", again)


def _fits(
    file: Path, found: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]], settings: str, advice: str
) -> None:
    """UserError unless the tensors are, name by name and shape by shape, those expected, and finite."""
    for name in [*expected, *sorted(found.keys() - expected.keys())]:
        want = list(expected[name]) if name in expected else "no such tensor"
        got = list(found[name].shape) if name in found else "none"
        if want != got:
            raise UserError(f"{file}: {name}: expected {want} ({settings}), got {got}; {advice}")
        if not (found[name].is_floating_point() and bool(found[name].isfinite().all())):
            kind = str(found[name].dtype).removeprefix("torch.")
            raise UserError(f"{file}: {name}: expected finite numbers, got others ({kind}); fetch it again")


def unload(adapted: nn.Module) -> PreTrainedModel:
    """The model as it was before the adapter, which is left out of it; adapters can follow one another on one model."""
    base: PreTrainedModel = cast(Any, adapted).unload()
    return base


def size(params: Params, blocks: int) -> int:
    """Parameters of the adapter of `params.lora` on that many blocks: blocks x the sum of r (d_in + d_out) a target."""
    return blocks * sum(params.lora.rank * sum(params.widths(target)) for target in params.lora.targets)


def shapes(folder: Path, lora: Lora) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of an adapter on all blocks of the model in `folder`, as PEFT saves them.

    Where the checkpoint is a part (model/part.py), of the model that it is cut from.
    """
    settings: Any = checkpoint.config(folder)
    for key, value in (getattr(settings, "part_of", None) or {}).items():
        setattr(settings, key, value)
    model = checkpoint.laid_out(folder, settings)
    with torch.device("meta"):
        adapted = get_peft_model(model, config(lora, settings.num_hidden_layers), low_cpu_mem_usage=True)
    state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def adopt(file: Path, checkpoint: Path, lora: Lora, folder: Path, card: str | None = None) -> int:
    """Writes the adapter in `file`, made elsewhere on all blocks of the model in `checkpoint`, in PEFT's format.

    Returns the number of its parameters.

    Raises:
        UserError: `file` is no safetensors file (nothing else is ever read), or its tensors are not, name by name and
            shape by shape, those of LoRA of this rank on these targets; or one holds a value that is not finite.
    """
    found, expected = _tensors(file, "name the author's safetensors file in author.adapter"), shapes(checkpoint, lora)
    settings = f"LoRA of rank {lora.rank} on {', '.join(lora.targets)} of every block"
    advice = "set lora.rank, lora.targets and the profile to the model that it was trained on"
    _fits(file, found, expected, settings, advice)
    blocks = len({place(name).block for name in expected})
    save({name: found[name] for name in expected}, lora, blocks, folder, checkpoint.as_posix(), card)
    return sum(tensor.numel() for tensor in found.values())


def _tensors(file: Path, advice: str) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"{file}: expected a safetensors file, got something else ({said}); {advice} (a pickle is never loaded)"
        ) from None


class Place(NamedTuple):
    """Where a tensor of an adapter sits: block, from 1 (block i gives hidden_states[i]), projection, and A or B."""

    block: int
    projection: str
    matrix: str


def place(name: str) -> Place:
    """The place that PEFT's name of a tensor says."""
    found = re.search(r"\.layers\.(\d+)\..*?(\w+)\.lora_([AB])\.", name)
    if found is None:
        raise ValueError(f"expected the name of a LoRA tensor, got {name}")
    return Place(int(found[1]) + 1, found[2], found[3])


class Norms(NamedTuple):
    """Frobenius norms of one projection's matrices and of their product, without alpha / r; is B all zeros?"""

    a: float
    b: float
    ba: float
    b_is_zero: bool


def norms(folder: Path) -> dict[tuple[int, str], Norms]:
    """Per (block, projection) of the adapter in `folder`, in that order: ||A||, ||B||, ||BA||, and whether B = 0.

    ||BA||^2 = tr(B^T B A A^T), which needs no d_out x d_in matrix; in float64.
    """
    pairs: dict[tuple[int, str], dict[str, Tensor]] = {}
    tensors: Mapping[str, Tensor] = load_file(folder / WEIGHTS)
    for name, tensor in tensors.items():
        at = place(name)
        pairs.setdefault((at.block, at.projection), {})[at.matrix] = tensor.double()
    return {where: _norms(pairs[where]["A"], pairs[where]["B"]) for where in sorted(pairs)}


def _norms(a: Float[Tensor, "r d_in"], b: Float[Tensor, "d_out r"]) -> Norms:
    squared = ((b.T @ b) * (a @ a.T)).sum().clamp(min=0)
    return Norms(float(a.norm()), float(b.norm()), float(squared.sqrt()), not bool(b.any()))
