"""A published checkpoint, fetched at its revision, held whole, and with a head that was trained.

Feeds every table of a profile whose model comes from the hub. What is there is read off the shards' own headers
(model/shards.py), and what ought to be there off the config, never off the index.
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
from tli.model.shards import INDEX, TensorInfo, headers, headers_of, missing_from_index, same
from tli.model.tensors import hold_whole
from tli.model.tokenizer import put_bos_first

HEAD = "lm_head.weight"
WEIGHTS = ".safetensors"
HEAD_FILE = "head-from.safetensors"
CONFIG_FILES = ("config.json", "generation_config.json")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
OLD_TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.model", "added_tokens.json")  # without a tokenizer.json
PICKLED = (".bin", ".pth", ".pt", ".pkl", ".ckpt")
UNLINKABLE = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES)


def run(out: Path, metrics: Path, settings: HubModel, manifest: Path) -> None:
    """The `base` stage of a profile whose model is fetched: the checkpoint in `out`, what it holds in `metrics`.

    Raises:
        UserError: the shape in params.yaml is not the checkpoint's, or the model is not of a supported kind; the key
            is named, and no weight has been asked for.
    """
    repo = fetch.pinned(Repo("model", settings.repo, settings.revision), manifest)
    sibling = None
    if settings.head_from is not None:
        sibling = fetch.pinned(Repo("model", settings.head_from.repo, settings.head_from.revision), manifest)
    with atomic_dir(out) as folder:
        found = fetch_checkpoint(repo, folder, manifest, sibling, settings)
    write_json(metrics, found)


def check_shape(settings: Shape, folder: Path, where: str) -> None:
    """Compares the shape in params.yaml with config.json in `folder`, which messages call `where`.

    Raises:
        UserError: a field differs; its key is named.
    """
    compare_shape(settings, checkpoint.config(folder), where)


def compare_shape(settings: Shape, config: PretrainedConfig, where: str) -> None:
    """The same of a configuration that messages call `where`."""
    for key, expected in supported.shape(config).items():
        if (got := getattr(settings, key)) != expected:
            raise UserError(
                f"params.yaml: model.{key} of the profile: expected {_yaml(expected)}, as in {where}, "
                f"got {_yaml(got)}; set it so"
            )


def _yaml(value: int | bool) -> str:
    return str(value).lower()


def prepare(folder: Path, where: str, shape: Shape | None = None) -> str:
    """Checks configuration and tokenizer in `folder` before a weight is fetched, and puts BOS in front if it is not.

    Args:
        where: what messages call config.json. shape: the one of params.yaml, to compare with.

    Returns:
        Which token stands in front of a text, and whose choice that is (model/tokenizer.py).

    Raises:
        UserError: the architecture, the shape or the tokenizer is not one that can be used.
    """
    supported.check_configuration(read_json(folder / "config.json", "a model's configuration"), where)
    expected_shapes(folder)
    if shape is not None:
        check_shape(shape, folder, where)
    return put_bos_first(folder, where.removesuffix("/config.json"))


def head(folder: Path) -> Literal["own", "tied", "absent"]:
    """Where the checkpoint in `folder` has its output head: a tensor of its own, the embeddings, or nowhere."""
    if checkpoint.config(folder).tie_word_embeddings:
        return "tied"
    return "own" if HEAD in headers(folder) else "absent"


def fetch_checkpoint(
    repo: Repo, out: Path, manifest: Path, head_from: Repo | None = None, shape: Shape | None = None
) -> dict[str, Any]:
    """Fetches the checkpoint `repo` into the folder `out`, which exists, and says what it holds.

    Configuration and tokenizer come first and are checked (`prepare`), with `shape` that of params.yaml. Files are hard
    links into the hub's cache where the file system allows it. The index is written anew from the shards' headers. Of
    `head_from`, a repository with the same weights, only the head is taken.

    Raises:
        UserError: nothing that could be used, another shape, or not enough space.
        CheckFailed: a tensor of the causal language model, its head aside, is missing or has another shape; or the
            weights of `head_from` differ in any bit.
    """
    names = chosen(repo, _listed(repo, manifest))
    weights = [name for name in names if name.endswith(WEIGHTS)]
    paths = fetch.fetch(repo, [name for name in names if name not in weights], manifest)
    place(paths, out)
    bos = prepare(out, repo.key("config.json"), shape)
    shards = fetch.fetch(repo, weights, manifest)
    place(shards, out)
    paths |= shards
    unlisted, unheld = missing_from_index(out)
    tensors = headers(out)
    expected = expected_shapes(out)
    complete(repo, tensors, expected)
    hold_whole(repo, tensors, manifest)
    where: str = head(out)
    if head_from is not None:
        if where != "absent":
            raise UserError(f"head_from: {repo.key('')} has a head ({where}), got {head_from.name}; set it to null")
        _take_head(tensors, expected, head_from, out, manifest)
        where = f"from {head_from.subject}@{head_from.revision}"
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
        "missing_from_index": unlisted,
        "missing_from_shards": unheld,
        "unused": sorted(tensors.keys() - expected.keys()),
        "head": where,
        "bos": bos,
    }


def _listed(repo: Repo, manifest: Path, weights_only: bool = False) -> list[str]:
    """The repository's files: those that the manifest names, or else what the hub lists.

    `fetch` notes all files of a call together: where the manifest names some weights, it names all.
    """
    names = fetch.manifest_files(repo, manifest)
    if not any(name.endswith(WEIGHTS) for name in names) or not (weights_only or "config.json" in names):
        names = fetch.listing(repo, manifest, WEIGHTS)
    return names


def chosen(repo: Repo, names: Sequence[str], weights_only: bool = False) -> list[str]:
    """The files of a checkpoint among `names`: configuration, tokenizer, safetensors, nothing that could run."""
    weights = [name for name in names if re.fullmatch(r"[^/]+\.safetensors", name)]
    if not weights:
        pickled = [name for name in names if name.endswith(PICKLED)]
        raise UserError(
            f"{repo.key('')}: expected *.safetensors files, got {', '.join(pickled) or 'no weights'}; "
            "choose a repository with safetensors (a pickle runs code when it is read)"
        )
    for name in weights:
        if match := re.fullmatch(r"(.+-)(\d{5})(-of-)(\d{5})(\.safetensors)", name):
            every = {f"{match[1]}{number:05d}{match[3]}{match[4]}{match[5]}" for number in range(1, int(match[4]) + 1)}
            if lacking := sorted(every - set(weights)):
                raise UserError(
                    f"{repo.key('')}: expected {len(every)} shards, {lacking[0]} is missing; choose a whole checkpoint"
                )
    if weights_only:
        return weights
    tokenizer = TOKENIZER_FILES if "tokenizer.json" in names else (*TOKENIZER_FILES, *OLD_TOKENIZER_FILES)
    wanted = [name for name in (*CONFIG_FILES, *tokenizer, INDEX) if name in names]
    for needed in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        if needed not in wanted and not (needed == "tokenizer.json" and set(OLD_TOKENIZER_FILES) & set(wanted)):
            raise UserError(f"{repo.key(needed)}: no such file; choose a repository with config and tokenizer")
    return [*wanted, *weights]


def place(paths: Mapping[str, Path], out: Path) -> None:
    """Links each path of the cache into `out` under its name; copies where the file system will not link."""
    left = sum(path.stat().st_size for path in paths.values())
    for name, path in paths.items():
        blob = path.resolve()
        try:
            try:
                os.link(blob, out / name)
            except OSError as error:
                if error.errno not in UNLINKABLE:
                    raise
                fetch.check_space(out, left, "put HF_HOME on the same disk, where no copy is needed")
                shutil.copyfile(blob, out / name)
        except OSError as error:
            raise UserError(f"{out / name}: cannot be written ({error.strerror}); mend that and run again") from None
        left -= blob.stat().st_size


def expected_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of the config's causal language model, a head only where it is not tied."""
    config = checkpoint.config(folder)
    state = checkpoint.laid_out(folder, config).state_dict()
    return {
        name: tuple(tensor.shape) for name, tensor in state.items() if name != HEAD or not config.tie_word_embeddings
    }


def complete(repo: Repo, tensors: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]]) -> None:
    for name in sorted(expected):
        if name not in tensors and name != HEAD:
            raise CheckFailed(
                f"{repo.key('')}: expected the tensor {name}, no shard holds it; choose a whole checkpoint"
            )
        if name in tensors and tensors[name].shape != expected[name]:
            raise CheckFailed(
                f"{repo.key(tensors[name].file.name)}: {name}: expected the shape {expected[name]} of config.json, "
                f"got {tensors[name].shape}; choose another revision"
            )


def _take_head(
    tensors: Mapping[str, TensorInfo],
    expected: Mapping[str, tuple[int, ...]],
    sibling: Repo,
    out: Path,
    manifest: Path,
) -> None:
    """Writes the sibling's head into `out`, once each tensor that both checkpoints hold is the same in every bit."""
    names = chosen(sibling, _listed(sibling, manifest, weights_only=True), weights_only=True)
    paths = fetch.fetch(sibling, names, manifest)
    theirs = headers_of(paths.values(), sibling.key(""))
    advice = "set head_from to a repository with the same weights"
    for name in (*(name for name in expected if name != HEAD), HEAD):
        if name not in theirs or theirs[name].shape != expected[name]:
            got = theirs[name].shape if name in theirs else "none"
            raise CheckFailed(
                f"head_from: {sibling.key('')}: {name}: expected shape {expected[name]}, got {got}; {advice}"
            )
    for name in progress.track(sorted(tensors.keys() & theirs.keys()), f"compare with {sibling.name}"):
        if not same(tensors[name], theirs[name]):
            raise CheckFailed(f"head_from: {sibling.key('')}: {name}: expected the same bytes, got others; {advice}")
    if (out / "model.safetensors").exists():  # a loader would take it for the whole
        (out / "model.safetensors").rename(out / "weights.safetensors")
    with safe_open(theirs[HEAD].file, framework="pt") as file:
        save_file({HEAD: file.get_tensor(HEAD)}, out / HEAD_FILE, metadata={"format": "pt"})
