"""The micro-world's weights as data: kept by tools/keep-weights, read by the base stage, refused where they do not fit.

A tiny base is pre-trained under the smoke parameters and kept; what the stage then writes is compared with it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaForCausalLM

from tiny import ROOT
from tli.config import parameters
from tli.config.parameters import MicroworldModel
from tli.io.errors import UserError
from tli.io.files import sha256_of
from tli.io.structured import read_json
from tli.model import pretrain, shards, versioned
from tli.stages import microworld

SMOKE = ROOT / "tests" / "smoke" / "params.yaml"
KEPT = "kept"


@pytest.fixture(scope="module")
def settings() -> MicroworldModel:
    """The smoke parameters' model, its weights read from the folder `kept`."""
    model = parameters.load(SMOKE).active.model
    assert isinstance(model, MicroworldModel)
    return model.model_copy(update={"source": "versioned", "weights": KEPT})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, settings: MicroworldModel) -> Path:
    """A folder with build/microworld, build/base (pre-trained), base.json, and kept/ from tools/keep-weights."""
    folder = tmp_path_factory.mktemp("versioned")
    shutil.copyfile(SMOKE, folder / "params.yaml")
    build = folder / "build"
    items = parameters.load(SMOKE).active.benchmarks
    microworld.run(
        ROOT / "data" / "pairs.tsv", ROOT / "data" / "world", build / "microworld", folder / "world.json", items
    )
    pretrain.run(build / "microworld", build / "base", folder / "base.json", settings)
    call = subprocess.run(
        [sys.executable, ROOT / "tools" / "keep-weights", "build", KEPT, "base.json"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert call.returncode == 0, call.stderr
    assert shards.digest_of_all(folder / KEPT) in call.stdout
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, the current folder."""
    shutil.copytree(trained, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def run(settings: MicroworldModel) -> None:
    versioned.run(Path("build/microworld"), Path("out/base"), Path("out/base.json"), settings)


def test_the_stage_writes_the_trained_weights_rounded_to_bfloat16(place: Path, settings: MicroworldModel) -> None:
    run(settings)
    before, after = (load_file(place / folder / "model.safetensors") for folder in ("build/base", "out/base"))
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor.view(torch.int16), before[name].bfloat16().view(torch.int16)), name
    assert any(not torch.equal(tensor.float(), before[name]) for name, tensor in after.items())
    model = LlamaForCausalLM.from_pretrained(place / "out" / "base", local_files_only=True)
    assert model.config.num_hidden_layers == settings.blocks


def test_the_tokenizer_is_the_trained_one(place: Path, settings: MicroworldModel) -> None:
    run(settings)
    texts = ["mbwa", "Mwalimu alinunua embe.", "The teacher bought the mango."]
    before, after = (
        AutoTokenizer.from_pretrained(place / folder, local_files_only=True)(texts)["input_ids"]
        for folder in ("build/base", "out/base")
    )
    assert before == after
    assert len({tuple(ids[:1]) for ids in after}) == 1, "BOS comes first"


def test_the_log_is_that_of_the_training_and_says_where_the_weights_come_from(
    place: Path, settings: MicroworldModel
) -> None:
    run(settings)
    record, log = read_json(Path("out/base.json")), read_json(Path("base.json"))
    assert record["weights"] == "versioned"
    assert record["tensors_sha256"] == shards.digest_of_all(place / "out" / "base")
    assert record["tensors_sha256"] != log["tensors_sha256"], "those of bfloat16, not of float32"
    assert {key: record[key] for key in ("log", "steps", "parameters", "tokens_seen")} == {
        key: log[key] for key in ("log", "steps", "parameters", "tokens_seen")
    }


def test_twice_gives_the_same_bytes_and_leaves_the_data_alone(place: Path, settings: MicroworldModel) -> None:
    def digests(folder: str) -> dict[str, str]:
        return {str(path): sha256_of(path) for path in sorted(Path(folder).rglob("*")) if path.is_file()}

    data = digests(KEPT)
    for path in Path(KEPT).iterdir():
        path.chmod(0o444)  # as DVC links it
    run(settings)
    first = digests("out")
    shutil.rmtree("out")
    run(settings)
    assert digests("out") == first
    assert digests(KEPT) == data


def remove(name: str) -> Callable[[], object]:
    return lambda: Path(KEPT, name).unlink()


def cut() -> None:
    path = Path(KEPT, "model.safetensors")
    os.truncate(path, path.stat().st_size // 2)


def flip() -> None:
    path = Path(KEPT, "model.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def as_trained() -> None:
    """The weights in float32, which the recipe does not name."""
    shutil.copyfile(Path("build/base/model.safetensors"), Path(KEPT, "model.safetensors"))


def renamed() -> None:
    path = Path(KEPT, "model.safetensors")
    tensors = load_file(path)
    tensors["model.norm.scale"] = tensors.pop("model.norm.weight")
    save_file(tensors, path, metadata={"format": "pt"})


def without_model() -> None:
    recipe = json.loads(Path(KEPT, "recipe.json").read_text(encoding="utf-8"))
    Path(KEPT, "recipe.json").write_text(json.dumps({**recipe, "model": {}}), encoding="utf-8")


def write(path: str, text: str) -> Callable[[], object]:
    return lambda: Path(path).write_text(text, encoding="utf-8")


MISSING = r"expected the versioned weights .*run `dvc pull data\.dvc`"
OTHER = r"model\.safetensors: expected tensors of SHA-256 \w{64} \(recipe\.json\), got \w{64}; .*dvc pull data\.dvc"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda: shutil.rmtree(KEPT), MISSING),
        *((remove(name), f"{name}: {MISSING}") for name in (versioned.RECIPE, *versioned.FILES)),
        (cut, r"model\.safetensors: expected a safetensors file"),
        (flip, OTHER),
        (as_trained, OTHER),
        (renamed, OTHER),
        (write(f"{KEPT}/recipe.json", "{"), r"recipe\.json: column 2: not JSON"),
        (write(f"{KEPT}/recipe.json", "[]"), r"recipe\.json: expected the weights' recipe"),
        (without_model, r"params\.yaml: model\.seed: expected None"),
        (
            write("build/microworld/corpus.txt", "mbwa = mbwa, dog\n"),
            r"corpus\.txt: expected SHA-256 .*source to pretrain",
        ),
        (lambda: Path("build/microworld/corpus.txt").unlink(), r"corpus\.txt: no such file"),
    ],
)
def test_weights_that_do_not_fit_are_one_line_and_nothing_is_written(
    place: Path, settings: MicroworldModel, spoil: Callable[[], object], message: str
) -> None:
    spoil()
    with pytest.raises(UserError, match=message) as caught:
        run(settings)
    assert "\n" not in caught.value.message
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("blocks", 5),
        ("hidden_size", 128),
        ("intermediate_size", 96),
        ("heads", 2),
        ("kv_heads", 4),
        ("head_dim", 32),
        ("vocab_size", 1056),
        ("tied_embeddings", True),
        ("steps", 13),
        ("lr", 1e-3),
        ("batch_tokens", 1024),
        ("warmup_steps", 5),
        ("weight_decay", 0.0),
    ],
)
def test_weights_made_by_other_settings_are_one_line(
    place: Path, settings: MicroworldModel, key: str, value: Any
) -> None:
    """Every setting that the weights depend on: the seed, the shape and the schedule."""
    plan = settings.pretraining
    schedule = key in type(plan).model_fields
    changes = {"pretraining": plan.model_copy(update={key: value})} if schedule else {key: value}
    named = "pretraining" if schedule else key
    with pytest.raises(UserError, match=rf"params\.yaml: model\.{named}: expected .*, with which .*") as caught:
        run(settings.model_copy(update=changes))
    assert "\n" not in caught.value.message
    assert "model.source to pretrain" in caught.value.message
    assert not (place / "out").exists()


def test_every_setting_is_compared_or_says_only_where_the_weights_are() -> None:
    """A new key of the model cannot be forgotten."""
    assert {*MicroworldModel.model_fields} == {*versioned.MADE_BY, "source", "weights"}


def test_the_committed_weights_fit_the_committed_parameters() -> None:
    """Those of the default run and of every base of the study; each recipe has its seed."""
    params = parameters.load(ROOT / "params.yaml", model="microworld")
    model = params.active.model
    assert isinstance(model, MicroworldModel)
    assert model.source == "versioned"
    folders = sorted((ROOT / "data" / "weights").iterdir())
    expected = {Path(model.weights).name, *(f"microworld-s{seed}" for seed in params.bases)}
    assert {folder.name for folder in folders} == expected
    for folder in folders:
        recipe = versioned.read_recipe(folder)
        seed = int(folder.name.partition("-s")[2] or model.seed)
        assert recipe["model"] == versioned.made_by(model.model_copy(update={"seed": seed})), folder.name
        assert recipe["training"]["steps"] == model.pretraining.steps
