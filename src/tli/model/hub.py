"""Fetches a published checkpoint at a pinned revision, and checks that it is complete (stage: base, `source: hub`).

The tensors that exist are read from the headers of the shards (model/shards.py) and compared with those that the
configuration requires; the index file is not trusted. The head must be trained: the checkpoint's, tied to the
embeddings, or taken from a sibling repository with the same weights.
"""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PretrainedConfig

from tli.config.parameters import HubModel, Shape
from tli.data.hub import fetch
from tli.data.hub.fetch import Repo
from tli.io import progress
from tli.io.errors import CheckFailed, UserError
from tli.io.files import atomic_dir
from tli.io.structured import read_json, write_json
from tli.model import checkpoint, supported
from tli.model.shards import INDEX, TensorInfo, headers, headers_of, missing_from_index, same_bytes
from tli.model.tensors import check_whole_files
from tli.model.tokenizer import put_bos_first

HEAD = "lm_head.weight"
WEIGHTS = ".safetensors"
HEAD_FILE = "head-from.safetensors"
CONFIG_FILES = ("config.json", "generation_config.json")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
# Fetched if there is no tokenizer.json.
OLD_TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.model", "added_tokens.json")
PICKLED = (".bin", ".pth", ".pt", ".pkl", ".ckpt")
UNLINKABLE = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES)


def run(out: Path, metrics: Path, settings: HubModel, manifest: Path) -> None:
    """Fetches the checkpoint to `out` and writes its source, sizes and tensors to `metrics` (JSON).

    Raises:
        UserError: the shape in params.yaml is not that of the checkpoint, or the model is not supported. This is
            checked before any weight is fetched; the message names the key.
    """
    repo = fetch.pinned(Repo("model", settings.repo, settings.revision), manifest)
    sibling = None
    if settings.head_from is not None:
        sibling = fetch.pinned(Repo("model", settings.head_from.repo, settings.head_from.revision), manifest)
    with atomic_dir(out) as folder:
        summary = fetch_checkpoint(repo, folder, manifest, sibling, settings)
    write_json(metrics, summary)


def check_shape(settings: Shape, folder: Path, where: str) -> None:
    """Compares the shape in params.yaml with config.json in `folder`; messages call that file `where`.

    Raises:
        UserError: a field differs; the message names its key.
    """
    compare_shape(settings, checkpoint.config(folder), where)


def compare_shape(settings: Shape, config: PretrainedConfig, where: str) -> None:
    """The same for a configuration, which messages call `where`."""
    for key, expected in supported.shape(config).items():
        if (configured := getattr(settings, key)) != expected:
            raise UserError(
                f"params.yaml: model.{key} of the profile: expected {_yaml(expected)}, as in {where}, "
                f"got {_yaml(configured)}; set the expected value"
            )


def _yaml(value: int | bool) -> str:
    return str(value).lower()


def prepare(folder: Path, where: str, shape: Shape | None = None) -> str:
    """Checks configuration and tokenizer in `folder` before weights are fetched; makes the tokenizer put BOS first.

    Args:
        where: the name of config.json in messages.
        shape: the shape in params.yaml, to compare with.

    Returns:
        Which token comes first in a text and why: one of the constants of model/tokenizer.py.

    Raises:
        UserError: the architecture, the shape or the tokenizer cannot be used.
    """
    supported.check_configuration(read_json(folder / "config.json", "a model's configuration"), where)
    expected_shapes(folder)
    if shape is not None:
        check_shape(shape, folder, where)
    return put_bos_first(folder, where.removesuffix("/config.json"))


def head_kind(folder: Path) -> Literal["own", "tied", "absent"]:
    """The output head of the checkpoint in `folder`: its `own` tensor, `tied` to the embeddings, or `absent`."""
    if checkpoint.config(folder).tie_word_embeddings:
        return "tied"
    return "own" if HEAD in headers(folder) else "absent"


def fetch_checkpoint(
    repo: Repo, out: Path, manifest: Path, head_from: Repo | None = None, shape: Shape | None = None
) -> dict[str, Any]:
    """Fetches the checkpoint `repo` into the existing folder `out`, and returns a summary for the stage's metrics.

    Configuration and tokenizer are fetched first and checked (`prepare`). Files are hard links into the hub's cache if
    the file system allows it. The index is written again from the headers of the shards. Only the head is taken from
    `head_from`, a repository with the same weights. `shape` is the shape in params.yaml.

    Raises:
        UserError: the repository cannot be used, the shape differs, or there is not enough disk space.
        CheckFailed: a tensor other than the head is missing or has another shape, or a weight of `head_from` differs
            in any bit.
    """
    names = checkpoint_files(repo, _listed(repo, manifest))
    weights = [name for name in names if name.endswith(WEIGHTS)]
    paths = fetch.fetch(repo, [name for name in names if name not in weights], manifest)
    link_files(paths, out)
    bos = prepare(out, repo.key("config.json"), shape)
    shards = fetch.fetch(repo, weights, manifest)
    link_files(shards, out)
    paths |= shards
    not_in_index, not_in_shards = missing_from_index(out)
    tensors = headers(out)
    expected = expected_shapes(out)
    check_complete(repo, tensors, expected)
    check_whole_files(repo, tensors, manifest)
    head_source: str = head_kind(out)
    if head_from is not None:
        if head_source != "absent":
            raise UserError(
                f"head_from: {repo.key('')} has a head ({head_source}), got {head_from.name}; set it to null"
            )
        _copy_head(tensors, expected, head_from, out, manifest)
        head_source = f"from {head_from.subject}@{head_from.revision}"
        tensors = headers(out)
    if len({info.file for info in tensors.values()}) > 1:
        weight_map = {name: tensors[name].file.name for name in sorted(tensors)}
        total = sum(info.nbytes for info in tensors.values())
        write_json(out / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return {
        "repository": repo.name,
        "revision": repo.revision,
        "files": len(paths),
        "bytes": sum(path.stat().st_size for path in paths.values()),
        "tensors": len(tensors),
        "parameters": sum(math.prod(shape) for name, shape in expected.items() if name in tensors),
        "dtypes": dict(sorted(Counter(info.dtype for info in tensors.values()).items())),
        "missing_from_index": not_in_index,
        "missing_from_shards": not_in_shards,
        "unused": sorted(tensors.keys() - expected.keys()),
        "head": head_source,
        "bos": bos,
    }


def _listed(repo: Repo, manifest: Path, weights_only: bool = False) -> list[str]:
    """The repository's files, from the manifest if it names them, otherwise from the hub.

    `fetch` records all files of a call together, so if the manifest names some weights, it names all of them.
    """
    names = fetch.manifest_files(repo, manifest)
    if not any(name.endswith(WEIGHTS) for name in names) or not (weights_only or "config.json" in names):
        names = fetch.listing(repo, manifest, WEIGHTS)
    return names


def checkpoint_files(repo: Repo, names: Sequence[str], weights_only: bool = False) -> list[str]:
    """The files of a checkpoint among `names`: configuration, tokenizer and safetensors, but no code and no pickle."""
    weights = [name for name in names if re.fullmatch(r"[^/]+\.safetensors", name)]
    if not weights:
        pickled = [name for name in names if name.endswith(PICKLED)]
        raise UserError(
            f"{repo.key('')}: expected *.safetensors files, got {', '.join(pickled) or 'no weights'}; "
            "choose a repository with safetensors (a pickle runs code when it is read)"
        )
    for name in weights:
        if match := re.fullmatch(r"(.+-)(\d{5})(-of-)(\d{5})(\.safetensors)", name):
            all_shards = {
                f"{match[1]}{number:05d}{match[3]}{match[4]}{match[5]}" for number in range(1, int(match[4]) + 1)
            }
            if missing := sorted(all_shards - set(weights)):
                raise UserError(
                    f"{repo.key('')}: expected {len(all_shards)} shards, {missing[0]} is missing; "
                    "choose a complete checkpoint"
                )
    if weights_only:
        return weights
    tokenizer = TOKENIZER_FILES if "tokenizer.json" in names else (*TOKENIZER_FILES, *OLD_TOKENIZER_FILES)
    files = [name for name in (*CONFIG_FILES, *tokenizer, INDEX) if name in names]
    for required in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        if required not in files and not (required == "tokenizer.json" and set(OLD_TOKENIZER_FILES) & set(files)):
            raise UserError(f"{repo.key(required)}: no such file; choose a repository with config and tokenizer")
    return [*files, *weights]


def link_files(paths: Mapping[str, Path], out: Path) -> None:
    """Links each file of the cache into `out` under its name, or copies it if the file system cannot link."""
    bytes_left = sum(path.stat().st_size for path in paths.values())
    for name, path in paths.items():
        blob = path.resolve()
        try:
            try:
                os.link(blob, out / name)
            except OSError as error:
                if error.errno not in UNLINKABLE:
                    raise
                fetch.check_space(out, bytes_left, "put HF_HOME on the same disk, where no copy is needed")
                shutil.copyfile(blob, out / name)
        except OSError as error:
            raise UserError(f"{out / name}: cannot be written ({error.strerror}); mend that and run again") from None
        bytes_left -= blob.stat().st_size


def expected_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of the configuration's causal language model, without a tied head."""
    config = checkpoint.config(folder)
    state = checkpoint.empty_model(folder, config).state_dict()
    return {
        name: tuple(tensor.shape) for name, tensor in state.items() if name != HEAD or not config.tie_word_embeddings
    }


def check_complete(repo: Repo, tensors: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises CheckFailed unless `tensors` has every expected tensor, except the head, in the expected shape."""
    for name in sorted(expected):
        if name not in tensors and name != HEAD:
            raise CheckFailed(
                f"{repo.key('')}: expected the tensor {name}, no shard has it; choose a complete checkpoint"
            )
        if name in tensors and tensors[name].shape != expected[name]:
            raise CheckFailed(
                f"{repo.key(tensors[name].file.name)}: {name}: expected the shape {expected[name]} of config.json, "
                f"got {tensors[name].shape}; choose another revision"
            )


def _copy_head(
    tensors: Mapping[str, TensorInfo],
    expected: Mapping[str, tuple[int, ...]],
    sibling: Repo,
    out: Path,
    manifest: Path,
) -> None:
    """Writes the sibling's head into `out`, after a check that the tensors in both checkpoints have the same bytes."""
    names = checkpoint_files(sibling, _listed(sibling, manifest, weights_only=True), weights_only=True)
    paths = fetch.fetch(sibling, names, manifest)
    sibling_tensors = headers_of(paths.values(), sibling.key(""))
    advice = "set head_from to a repository with the same weights"
    for name in (*(name for name in expected if name != HEAD), HEAD):
        if name not in sibling_tensors or sibling_tensors[name].shape != expected[name]:
            got = sibling_tensors[name].shape if name in sibling_tensors else "none"
            raise CheckFailed(
                f"head_from: {sibling.key('')}: {name}: expected shape {expected[name]}, got {got}; {advice}"
            )
    for name in progress.track(sorted(tensors.keys() & sibling_tensors.keys()), f"compare with {sibling.name}"):
        if not same_bytes(tensors[name], sibling_tensors[name]):
            raise CheckFailed(
                f"head_from: {sibling.key('')}: {name}: expected the same bytes, got different ones; {advice}"
            )
    if (out / "model.safetensors").exists():  # a loader would read only this file
        (out / "model.safetensors").rename(out / "weights.safetensors")
    with safe_open(sibling_tensors[HEAD].file, framework="pt") as file:
        save_file({HEAD: file.get_tensor(HEAD)}, out / HEAD_FILE, metadata={"format": "pt"})
