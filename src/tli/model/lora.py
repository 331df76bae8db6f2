"""Early-layer LoRA: made, attached, saved and loaded in PEFT's own format.

LoRA (2106.09685, section 4.1) adds to a frozen projection W a product of two thin matrices:
    h = W x + s B A dropout(x),    A: (r, d_in), B: (d_out, r), B = 0 at the start,    s = alpha / r.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from tli import store
from tli.model import backbone
from tli.params import Lora


def config(lora: Lora, blocks: int) -> LoraConfig:
    """PEFT's configuration for LoRA on the first `blocks` blocks.

    `scaling` sets s: `2r` gives alpha = 2r, so s = 2 at every rank; `fixed32` gives alpha = 32, so s = 32 / r; `rslora`
    gives s = 8 / sqrt(r) (2312.03732, equation 7). At r = 16 all three are 2, as in the paper.
    """
    alpha = {"2r": 2 * lora.rank, "fixed32": 32, "rslora": 8}[lora.scaling]
    return LoraConfig(
        r=lora.rank,
        lora_alpha=alpha,
        use_rslora=lora.scaling == "rslora",
        lora_dropout=lora.dropout,
        target_modules=sorted(lora.targets),
        layers_to_transform=list(range(blocks)),
        layers_pattern="layers",
        bias="none",
        task_type=TaskType.CAUSAL_LM,
    )


def attach(model: PreTrainedModel, lora: Lora, blocks: int, seed: int) -> PeftModel:
    """`model` with a fresh adapter on its first `blocks` blocks, A drawn from a generator of its own seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config(lora, blocks))
    backbone.keep_unpacked(adapted)
    return adapted


def save(adapted: PeftModel, folder: Path, base: str) -> None:
    """Writes the adapter as PEFT does (safetensors and adapter_config.json), the same bytes for the same adapter.

    PEFT keeps sets in its configuration, whose order changes from run to run, and a model card that names versions; the
    former is sorted and the latter left out.
    """
    with store.atomic_dir(folder) as temporary:
        adapted.save_pretrained(str(temporary), safe_serialization=True)
        (temporary / "README.md").unlink(missing_ok=True)
        settings = store.read_json(temporary / "adapter_config.json")
        settings["target_modules"] = sorted(settings["target_modules"])
        settings["base_model_name_or_path"] = base
        store.write_json(temporary / "adapter_config.json", dict(sorted(settings.items())))


def load(model: PreTrainedModel, folder: Path, merge: bool = False) -> PeftModel | PreTrainedModel:
    """`model` with the adapter of `folder`, in evaluation mode.

    With `merge` the adapter is folded into the weights: a 4-bit weight is dequantised, changed and packed again, which
    rounds once more. This is what the public evaluation script does.
    """
    adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    backbone.keep_unpacked(adapted)
    if not merge:
        adapted.eval()
        return adapted
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Merge lora module to 4-bit linear")  # the rounding is the point
        merged: PreTrainedModel = adapted.merge_and_unload()
    backbone.keep_unpacked(merged)
    merged.eval()
    return merged


def unload(adapted: nn.Module) -> PreTrainedModel:
    """The model as it was before the adapter, which is left out of it; adapters can follow one another on one model."""
    base: PreTrainedModel = cast(Any, adapted).unload()
    return base


def trainable_parameters(adapted: PeftModel) -> int:
    """Number of parameters that training changes: the sum of r (d_in + d_out) over the adapted projections."""
    return sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
