"""The micro-world's model from data.dvc: weights in bfloat16, with the recipe of their training (stage: base).

Pre-training amplifies rounding errors, so on another processor it gives other weights, as another seed would. Therefore
the weights are versioned data: trained once with `model.source: pretrain`, stored by tools/keep-weights, and read here
by every run. The recipe records corpus, seed and schedule. If params.yaml differs from the recipe, the stage fails.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tli.config.parameters import MicroworldModel
from tli.io.errors import UserError
from tli.io.files import atomic_dir, sha256_of
from tli.io.structured import brief, read_json, write_json
from tli.model import shards
from tli.model.tokenizer import put_bos_first

RECIPE = "recipe.json"
FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
# The keys of the model's section of params.yaml that the weights depend on; the other keys give their location.
MADE_BY = (
    "seed",
    "pretraining",
    "blocks",
    "hidden_size",
    "intermediate_size",
    "heads",
    "kv_heads",
    "head_dim",
    "vocab_size",
    "tied_embeddings",
)


def run(world_path: Path, out: Path, metrics: Path, settings: MicroworldModel) -> None:
    """Copies the versioned checkpoint to `out`, and writes the log of its training to `metrics` (JSON).

    Raises:
        UserError: the weights are missing (data/ was not pulled), do not have the hash in the recipe, or were made from
            a corpus, seed, schedule or shape other than that of params.yaml and the micro-world.
    """
    folder = Path(settings.weights)
    recipe = read_recipe(folder)
    for key, value in made_by(settings).items():
        if (got := recipe["model"].get(key)) != value:
            raise UserError(
                f"params.yaml: model.{key}: expected {brief(got)}, with which the weights in {folder} were trained, "
                f"got {brief(value)}; set the expected value, or set model.source to pretrain, which trains new weights"
            )
    corpus_path = world_path / "corpus.txt"
    if not corpus_path.is_file():
        raise UserError(f"{corpus_path}: no such file; run `dvc repro microworld`")
    if (corpus := sha256_of(corpus_path)) != recipe["corpus_sha256"]:
        raise UserError(
            f"{corpus_path}: expected SHA-256 {recipe['corpus_sha256']}, the corpus of the weights in "
            f"{folder}, got {corpus}; restore data/world and the benchmarks of params.yaml, or set model.source to "
            "pretrain, which trains new weights (results differ)"
        )
    with atomic_dir(out) as temporary:
        for name in FILES:
            shutil.copyfile(folder / name, temporary / name)
        bos = put_bos_first(temporary)
    training_log = {
        **recipe["training"],
        "weights": "versioned",
        "bos": bos,
        "tensors_sha256": recipe["tensors_sha256"],
    }
    write_json(metrics, training_log)


def made_by(settings: MicroworldModel) -> dict[str, Any]:
    """The settings that the weights depend on, as JSON values."""
    values = settings.model_dump(mode="json")
    return {key: values[key] for key in MADE_BY}


def read_recipe(folder: Path) -> Mapping[str, Any]:
    """The recipe in `folder`, after a check of the files next to it.

    Raises:
        UserError: a file is missing, or the tensors do not have the hash in the recipe.
    """
    for name in (RECIPE, *FILES):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder / name}: expected the versioned weights (model.weights), found no such file; "
                "run `dvc pull data.dvc`"
            )
    recipe: Mapping[str, Any] = read_json(folder / RECIPE, "the weights' recipe")
    expected, got = recipe.get("tensors_sha256"), shards.digest_of_all(folder)
    if got != expected:
        raise UserError(
            f"{folder / 'model.safetensors'}: expected tensors of SHA-256 {expected} ({RECIPE}), got {got}; "
            "remove data/ and run `dvc pull data.dvc`"
        )
    return recipe
