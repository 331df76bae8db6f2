"""Fetches a part of a published checkpoint: its first blocks and the embedding rows of a word list (stage: base).

Used by profiles with `model.span`. A hidden state of block i does not depend on later blocks, so measurements up to the
span equal those of the full model, bit for bit. Only the headers of the shards and the required tensors are fetched, by
byte range. The output is an ordinary checkpoint whose config.json has a record of what it is a part of.

What can be checked: whole files (configuration, tokenizer) have a hash on the hub and in the manifest. Of a shard only
the size and the header can be checked. A tensor's only hash is the one that its first fetch recorded in the manifest;
later fetches are compared with it. If the cache has the whole shard, that file is checked by its hash and the tensors
are read from it.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tli.config.parameters import HubModel
from tli.data.hub import fetch, pins
from tli.data.hub.fetch import Repo
from tli.data.hub.ranges import Remote, pieces
from tli.io.errors import UserError
from tli.io.files import atomic_dir, read_text
from tli.io.structured import read_json, write_json
from tli.model import hub
from tli.model.shards import INDEX, TensorInfo, headers, headers_of, missing_from_index
from tli.model.tensors import TensorRequest, cache_folder, check_hashes, fetch_group, rows_name, write_header_stub

EMBEDDINGS, NORM = "model.embed_tokens.weight", "model.norm."
CHECKED = (
    "whole files: SHA-256, the hub's and the manifest's; shards: size and header; tensors: the SHA-256 that the "
    "manifest noted at their first fetch, which no hash of the hub's stands behind"
)


def run(words: Path | None, out: Path, metrics: Path, settings: HubModel, manifest: Path) -> None:
    """Fetches the part to `out` and writes its source, sizes and hashes to `metrics` (JSON).

    Raises:
        UserError: no word list is given, or the shape in params.yaml is not that of the checkpoint.
    """
    if words is None or settings.span is None:
        raise UserError(
            "base: expected --words FILE (model.span is set: only their embeddings are fetched), got none; give it"
        )
    repo = fetch.pinned(Repo("model", settings.repo, settings.revision), manifest)
    word_list = read_text(words).splitlines()
    with atomic_dir(out) as folder:
        summary = fetch_part(repo, folder, manifest, settings, word_list)
    write_json(metrics, summary)


def fetch_part(repo: Repo, out: Path, manifest: Path, settings: HubModel, words: Sequence[str]) -> dict[str, Any]:
    """Fetches the first `settings.span` blocks, the final norm and the embedding rows of `words` into the folder `out`.

    Returns:
        A summary for the stage's metrics.

    Raises:
        UserError: the repository cannot be used, there is no network, the server does not support byte ranges, or there
            is not enough disk space.
        CheckFailed: a header does not fit its shard, a tensor is missing or has another shape, or its bytes are not
            those of the recorded hash.
    """
    span = settings.span or settings.blocks
    names = hub.checkpoint_files(repo, _listed(repo, manifest))
    shards = [name for name in names if name.endswith(hub.WEIGHTS)]
    paths = fetch.fetch(repo, [name for name in names if name not in shards], manifest)
    hub.link_files(paths, out)
    bos = hub.prepare(out, repo.key("config.json"), settings)
    rows = tuple(token_rows(AutoTokenizer.from_pretrained(out, local_files_only=True), words))
    remotes = {name: Remote(repo, name, manifest) for name in shards}
    with tempfile.TemporaryDirectory() as temporary:
        stubs = Path(temporary)
        header_digests = {
            f"{remotes[name].key}#header": write_header_stub(remotes[name], stubs, manifest) for name in shards
        }
        check_hashes(header_digests, manifest)
        tensors = headers_of(sorted(stubs.glob("*.safetensors")), repo.key(""))
        hub.check_complete(repo, tensors, hub.expected_shapes(out))
        if INDEX in paths:
            (stubs / INDEX).write_bytes((out / INDEX).read_bytes())
        not_in_index, not_in_shards = missing_from_index(stubs)
        sizes = {name: (stubs / name).stat().st_size for name in shards}
        groups = _groups(tensors, span, rows)
        fetch.check_space(
            cache_folder(repo),
            sum(request.nbytes for requests in groups.values() for request in requests),
            "set HF_HOME",
        )
        parts = {
            f"{name}.safetensors": fetch_group(repo, name, requests, remotes, manifest)
            for name, requests in groups.items()
        }
    hub.link_files(parts, out)
    config = read_json(out / "config.json", "a model's configuration")
    write_json(out / "config.json", _cut_config(config, span, rows))
    written = headers(out)
    weight_map = {name: written[name].file.name for name in sorted(written)}
    total = sum(info.nbytes for info in written.values())
    write_json(out / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    all_requests = [request for requests in groups.values() for request in requests]
    return {
        "repository": repo.name,
        "revision": repo.revision,
        "blocks_fetched": f"the first {span} of {settings.blocks}",
        "embedding_rows": f"{len(rows)} of {settings.vocab_size}",
        "left_out": "the blocks above, the head and all that needs it",
        "files": len(paths),
        "bytes": sum(path.stat().st_size for path in paths.values()),
        "shards": len(shards),
        "tensors": len(written),
        "parameters": sum(math.prod(info.shape) for info in written.values()),
        "bytes_of_tensors": total,
        "missing_from_index": not_in_index,
        "missing_from_shards": not_in_shards,
        "head": "left out" if hub.HEAD in tensors else "left out; the checkpoint has none of its own",
        "bos": bos,
        "checked": CHECKED,
        "shard_sizes": [{"file": name, "bytes": size} for name, size in sizes.items()],
        "parts": [_request_record(request, repo, manifest) for request in all_requests],
    }


def token_rows(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[int]:
    """The ids, ascending, of all tokens in `words` and of the special tokens (BOS, EOS, pad)."""
    ids: list[list[int]] = tokenizer(list(words), add_special_tokens=True)["input_ids"]
    return sorted({token for sequence in ids for token in sequence} | set(tokenizer.all_special_ids))


def _listed(repo: Repo, manifest: Path) -> list[str]:
    """The repository's files, from the manifest if it names them whole or in part, otherwise from the hub."""
    prefix = repo.key("")
    keys = [key.removeprefix(prefix) for key in pins.read(manifest) if key.startswith(prefix)]
    if not any(key.endswith(f"{pins.PART}header") for key in keys):
        return fetch.listing(repo, manifest, hub.WEIGHTS)
    return sorted({key.partition("#")[0] if pins.PART in key else key for key in keys})


def _groups(tensors: Mapping[str, TensorInfo], span: int, rows: tuple[int, ...]) -> dict[str, list[TensorRequest]]:
    """File to write -> its tensors. The files: embedding rows, one per block, final norm."""
    groups = {f"embeddings-{rows_name(rows)}": [TensorRequest(EMBEDDINGS, tensors[EMBEDDINGS], rows)]}
    for number in range(span):
        block = f"model.layers.{number}."
        groups[f"block-{number:03d}"] = [
            TensorRequest(name, tensors[name], None) for name in tensors if name.startswith(block)
        ]
    groups["norm"] = [TensorRequest(name, tensors[name], None) for name in tensors if name.startswith(NORM)]
    return {
        group: sorted(requests, key=lambda request: (request.info.file.name, request.info.start))
        for group, requests in groups.items()
    }


def _cut_config(config: Mapping[str, Any], span: int, rows: Sequence[int]) -> dict[str, Any]:
    """The part's configuration: `part_of` has the full model's values, `token_rows` the token id of each embedding."""
    part_of = {key: config[key] for key in ("num_hidden_layers", "vocab_size", "layer_types") if key in config}
    changes = {"num_hidden_layers": span, "vocab_size": len(rows), "pad_token_id": None, "tie_word_embeddings": False}
    if config.get("layer_types"):  # some architectures list the type of each block
        changes["layer_types"] = config["layer_types"][:span]
    return {**config, **changes, "part_of": part_of, "token_rows": list(rows)}


def _request_record(request: TensorRequest, repo: Repo, manifest: Path) -> dict[str, Any]:
    """The entry of a tensor in base.json: its file, the bytes requested and its hash."""
    ranges = pieces(request.ranges)
    return {
        "file": request.info.file.name,
        "tensor": request.name,
        "rows": request.shape[0],
        "bytes": request.nbytes,
        "requests": len(ranges),
        "bytes_asked_for": sum(byte_range.size for byte_range in ranges),
        "sha256": pins.read(manifest)[request.key(repo)],
    }
