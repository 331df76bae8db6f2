"""Early-layer LoRA: adapters are created, attached, checked, saved and loaded here, in PEFT's format.

LoRA (2106.09685, section 4.1) adds the product of two low-rank matrices to a frozen projection W:

    h = W x + s B A dropout(x),    A: (r, d_in), B: (d_out, r), B = 0 at the start,    s = alpha / r

rsLoRA (2312.03732) has s = alpha / sqrt(r). Training is in model/batched_lora.py and training/loop.py.
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
    """LoRA's alpha for the configured scaling and rank.

    - `2r`: alpha = 2r, so s = 2 at every rank.
    - `fixed32`: alpha = 32, so s = 32 / r.
    - `rslora`: alpha = 8, so s = 8 / sqrt(r) (2312.03732, equation 7).

    At r = 16 all three give s = 2, as in the paper.
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
    """The scaling (`2r`, `fixed32`, `rslora` or `alphaN`) and the rank r of an adapter, from its adapter_config.json.

    At r = 16 `2r` and `fixed32` are the same adapter, which is called `2r`. Any other alpha is named by its value.

    Raises:
        UserError: adapter_config.json lacks one of its keys.
    """
    settings = read_json(folder / SETTINGS, "an adapter's settings")
    if missing := [key for key in ("r", "lora_alpha", "use_rslora") if key not in settings]:
        raise UserError(f"{folder / SETTINGS}: {missing[0]}: expected a number, got none; run `dvc repro`")
    rank, lora_alpha = settings["r"], settings["lora_alpha"]
    if settings["use_rslora"]:
        return "rslora", rank
    return "2r" if lora_alpha == 2 * rank else "fixed32" if lora_alpha == 32 else f"alpha{lora_alpha}", rank


def attach(model: PreTrainedModel, lora: Lora, blocks: int, seed: int) -> PeftModel:
    """`model` with a new adapter on its first `blocks` blocks; A is drawn from `seed`, B is 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft_model = get_peft_model(model, config(lora, blocks))
    checkpoint.disable_repacking(peft_model)
    return peft_model


def save(
    tensors: Mapping[str, Tensor], lora: Lora, blocks: int, folder: Path, base: str, card: str | None = None
) -> None:
    """Writes an adapter on the first `blocks` blocks in PEFT's format: safetensors and adapter_config.json.

    The same adapter always gives the same bytes: the sets in PEFT's configuration, whose order changes from run to run,
    are sorted, and PEFT's model card, which names versions, is replaced by `card` (model/card.py).

    Args:
        tensors: the adapter's matrices under PEFT's names.
        base: the name of the base model in adapter_config.json.
    """
    peft_config = config(lora, blocks)
    peft_config.inference_mode = True
    with atomic_dir(folder) as temporary:
        peft_config.save_pretrained(str(temporary))
        save_file(dict(tensors), temporary / WEIGHTS, metadata={"format": "pt"})
        write_settings(temporary, base)
        if card is not None:
            write_text(temporary / CARD, card)


def write_settings(folder: Path, base: str, revision: str | None = None) -> None:
    """Rewrites PEFT's configuration in `folder` with sorted keys and targets, and with `base` as the base model."""
    settings = read_json(folder / SETTINGS)
    settings["target_modules"] = sorted(settings["target_modules"])
    settings |= {"base_model_name_or_path": base, "revision": revision}
    write_json(folder / SETTINGS, dict(sorted(settings.items())))


def load(model: PreTrainedModel, folder: Path, merge: bool = False) -> PeftModel | PreTrainedModel:
    """`model` with the adapter of `folder`, in evaluation mode.

    With `merge` the adapter is added to the weights, W + s B A: a 4-bit weight is dequantised, changed and packed
    again, which rounds once more. The public evaluation script does this.

    Raises:
        UserError: the folder has no complete adapter for this model (see `check_adapter`).
    """
    check_adapter(folder, model)
    peft_model = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    checkpoint.disable_repacking(peft_model)
    if not merge:
        peft_model.eval()
        return peft_model
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Merge lora module to 4-bit linear")  # the rounding is intended
        merged: PreTrainedModel = peft_model.merge_and_unload()
    checkpoint.disable_repacking(merged)
    merged.eval()
    return merged


# The settings that `config` sets from the parameters.
VARIED_SETTINGS = ("r", "lora_alpha", "use_rslora", "lora_dropout", "layers_to_transform", "target_modules")
UNCHECKED_SETTINGS = (*VARIED_SETTINGS, "base_model_name_or_path", "peft_version")


def check_adapter(folder: Path, model: PreTrainedModel) -> None:
    """Checks the adapter in `folder`: known settings, and every tensor present, finite and of the right shape.

    PEFT does not check this: it would load a pickle if there is no safetensors file, ask the hub if there is no folder,
    and leave a missing tensor at its initial values.

    Raises:
        UserError: the settings or tensors are not those that `save` writes for this model.
    """
    path, advice = folder / SETTINGS, "run `dvc repro`, which trains it"
    settings = read_json(path, "an adapter's settings")
    layers = backbone.body_of(model).layers

    def refuse(key: str, expected: str) -> UserError:
        return UserError(f"{path}: {key}: expected {expected}, got {brief(settings.get(key))}; {advice}")

    for key, kind in (("r", int), ("lora_alpha", int), ("use_rslora", bool), ("lora_dropout", float | int)):
        if (
            not isinstance(settings.get(key), kind)
            or (isinstance(settings[key], bool) != (kind is bool))
            or settings[key] < 0
        ):
            raise refuse(key, "a number" if kind is not bool else "true or false")
    projections = {name: layer for name, layer in layers[0].self_attn.named_children() if name.endswith("_proj")}
    targets, blocks = settings.get("target_modules"), settings.get("layers_to_transform")
    if not isinstance(targets, list) or not targets or any(name not in [*projections] for name in targets):
        raise refuse("target_modules", f"some of {', '.join(projections)}")
    valid_blocks = (
        isinstance(blocks, list) and bool(blocks) and all(type(block) is int and block >= 0 for block in blocks)
    )
    is_cut = isinstance(backbone.body_of(model).norm, nn.Identity)
    limit = math.inf if is_cut else len(layers)  # a cut model accepts adapters with more blocks
    if not valid_blocks or sorted(set(blocks)) != blocks or blocks[0] >= len(layers) or blocks[-1] >= limit:
        raise refuse("layers_to_transform", f"block numbers from 0 to {len(layers) - 1}, ascending")
    if not 1 <= settings["r"] <= 4096 or settings["lora_dropout"] >= 1:
        raise refuse(
            "r" if settings["lora_dropout"] < 1 else "lora_dropout", "1 or more" if settings["r"] < 1 else "less"
        )
    varied = {key: settings[key] for key in VARIED_SETTINGS}
    expected_settings = LoraConfig(
        **varied, layers_pattern="layers", bias="none", task_type=TaskType.CAUSAL_LM, inference_mode=True
    ).to_dict()
    for key in sorted((expected_settings.keys() | settings.keys()) - {*UNCHECKED_SETTINGS}):
        if settings.get(key) != expected_settings.get(key):
            raise refuse(key, f"{brief(expected_settings.get(key))} as in the adapters of this project")
    expected = {
        f"base_model.model.model.layers.{block}.self_attn.{target}.lora_{matrix}.weight": shape
        for block in blocks
        for target in targets
        for matrix, shape in (
            ("A", [settings["r"], projections[target].in_features]),
            ("B", [projections[target].out_features, settings["r"]]),
        )
    }
    _check_tensors(folder / WEIGHTS, _tensors(folder / WEIGHTS, advice), expected, f"{path.name}", advice)


def _check_tensors(
    file: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]], settings: str, advice: str
) -> None:
    """Raises UserError unless the tensors have exactly the expected names and shapes and are finite."""
    for name in [*expected, *sorted(tensors.keys() - expected.keys())]:
        expected_shape = list(expected[name]) if name in expected else "no such tensor"
        got = list(tensors[name].shape) if name in tensors else "none"
        if expected_shape != got:
            raise UserError(f"{file}: {name}: expected {expected_shape} ({settings}), got {got}; {advice}")
        if not (tensors[name].is_floating_point() and bool(tensors[name].isfinite().all())):
            kind = str(tensors[name].dtype).removeprefix("torch.")
            raise UserError(f"{file}: {name}: expected finite numbers, got others ({kind}); fetch it again")


def unload(peft_model: nn.Module) -> PreTrainedModel:
    """Removes the adapter and returns the model as it was before; another adapter can then be attached."""
    base: PreTrainedModel = cast(Any, peft_model).unload()
    return base


def parameter_count(params: Params, blocks: int) -> int:
    """Parameters of an adapter of `params.lora` on `blocks` blocks: blocks x sum over targets of r (d_in + d_out)."""
    return blocks * sum(params.lora.rank * sum(params.widths(target)) for target in params.lora.targets)


def shapes(folder: Path, lora: Lora) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that PEFT saves for an adapter on all blocks of the model in `folder`.

    If the checkpoint is a part (model/part.py), of the full model that it was cut from.
    """
    settings: Any = checkpoint.config(folder)
    for key, value in (getattr(settings, "part_of", None) or {}).items():
        setattr(settings, key, value)
    model = checkpoint.empty_model(folder, settings)
    with torch.device("meta"):
        peft_model = get_peft_model(model, config(lora, settings.num_hidden_layers), low_cpu_mem_usage=True)
    state = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def import_adapter(file: Path, checkpoint: Path, lora: Lora, folder: Path, card: str | None = None) -> int:
    """Writes the adapter in `file`, trained elsewhere on all blocks of the model in `checkpoint`, in PEFT's format.

    Returns:
        The number of its parameters.

    Raises:
        UserError: `file` is not a safetensors file (no other format is read), its tensors do not have the names and
            shapes of LoRA with this rank and these targets, or a value is not finite.
    """
    tensors, expected = _tensors(file, "name the author's safetensors file in author.adapter"), shapes(checkpoint, lora)
    settings = f"LoRA of rank {lora.rank} on {', '.join(lora.targets)} of every block"
    advice = "set lora.rank, lora.targets and the profile to the model that it was trained on"
    _check_tensors(file, tensors, expected, settings, advice)
    blocks = len({place(name).block for name in expected})
    save({name: tensors[name] for name in expected}, lora, blocks, folder, checkpoint.as_posix(), card)
    return sum(tensor.numel() for tensor in tensors.values())


def _tensors(file: Path, advice: str) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as weights:
            return {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{file}: expected a safetensors file, got something else ({reason}); {advice} (a pickle is never loaded)"
        ) from None


class Place(NamedTuple):
    """The position of an adapter's tensor: block (from 1; block i gives hidden_states[i]), projection, and A or B."""

    block: int
    projection: str
    matrix: str


def place(name: str) -> Place:
    """The position of a tensor, parsed from its name in PEFT."""
    match = re.search(r"\.layers\.(\d+)\..*?(\w+)\.lora_([AB])\.", name)
    if match is None:
        raise ValueError(f"expected the name of a LoRA tensor, got {name}")
    return Place(int(match[1]) + 1, match[2], match[3])


class Norms(NamedTuple):
    """Frobenius norms ||A||, ||B|| and ||B A|| of one projection, without the factor s, and whether B = 0."""

    a: float
    b: float
    ba: float
    b_is_zero: bool


def norms(folder: Path) -> dict[tuple[int, str], Norms]:
    """(block, projection) -> norms of the adapter in `folder`, sorted.

    ||B A||^2 = tr(B^T B A A^T), computed in float64 without a d_out x d_in matrix.
    """
    matrices: dict[tuple[int, str], dict[str, Tensor]] = {}
    tensors: Mapping[str, Tensor] = load_file(folder / WEIGHTS)
    for name, tensor in tensors.items():
        position = place(name)
        matrices.setdefault((position.block, position.projection), {})[position.matrix] = tensor.double()
    return {key: _norms(matrices[key]["A"], matrices[key]["B"]) for key in sorted(matrices)}


def _norms(a: Float[Tensor, "r d_in"], b: Float[Tensor, "d_out r"]) -> Norms:
    squared = ((b.T @ b) * (a @ a.T)).sum().clamp(min=0)
    return Norms(float(a.norm()), float(b.norm()), float(squared.sqrt()), not bool(b.any()))
