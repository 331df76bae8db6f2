"""A part of a published checkpoint: its first blocks, and of the embeddings the rows of a word list (stage: base).

Feeds every table of a profile with `model.span`. A hidden state of block i depends on no later block, so that what is
measured up to the span is what the whole model gives, bit for bit. Every shard's header is read by range, then the
tensors wanted, and nothing else. Written is an ordinary checkpoint, whose config.json says what it is a part of.

What can be checked: whole files (config, tokenizer) against the hub's hash and the manifest. Of a shard only its size
and its header; a tensor has no hash anywhere but the one that its first fetch noted in the manifest, to which every
later one is held. Where the cache has a shard whole, that is hash-checked and the tensors are read from it.
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
from tli.model.tensors import Wanted, cache, file_of, hold, rows_name, stub

EMBEDDINGS, NORM = "model.embed_tokens.weight", "model.norm."
CHECKED = (
    "whole files: SHA-256, the hub's and the manifest's; shards: size and header; tensors: the SHA-256 that the "
    "manifest noted at their first fetch, which no hash of the hub's stands behind"
)


def run(words: Path | None, out: Path, metrics: Path, settings: HubModel, manifest: Path) -> None:
    """The `base` stage of a profile with `model.span`: the part in `out`, what it holds and came from in `metrics`.

    Raises:
        UserError: no words are given, or the shape in params.yaml is not the checkpoint's.
    """
    if words is None or settings.span is None:
        raise UserError("base: expected --words FILE with model.span, the words to fetch embeddings of; name it")
    repo = fetch.pinned(Repo("model", settings.repo, settings.revision), manifest)
    listed = read_text(words).splitlines()
    with atomic_dir(out) as folder:
        found = fetch_part(repo, folder, manifest, settings, listed)
    write_json(metrics, found)


def fetch_part(repo: Repo, out: Path, manifest: Path, settings: HubModel, words: Sequence[str]) -> dict[str, Any]:
    """Fetches the first `settings.span` blocks, the final norm and the embedding rows of `words` into the folder `out`.

    Raises:
        UserError: nothing that could be used, no network, a server without byte ranges, not enough space.
        CheckFailed: a header that lies, a tensor that is missing or of another shape, or other bytes than were noted.
    """
    span = settings.span or settings.blocks
    names = hub.chosen(repo, _listed(repo, manifest))
    shards = [name for name in names if name.endswith(hub.WEIGHTS)]
    paths = fetch.fetch(repo, [name for name in names if name not in shards], manifest)
    hub.place(paths, out)
    bos = hub.prepare(out, repo.key("config.json"), settings)
    rows = tuple(token_rows(AutoTokenizer.from_pretrained(out, local_files_only=True), words))
    remotes = {name: Remote(repo, name, manifest) for name in shards}
    with tempfile.TemporaryDirectory() as temporary:
        stubs = Path(temporary)
        noted = {f"{remotes[name].key}#header": stub(remotes[name], stubs, manifest) for name in shards}
        hold(noted, manifest)
        tensors = headers_of(sorted(stubs.glob("*.safetensors")), repo.key(""))
        hub.complete(repo, tensors, hub.expected_shapes(out))
        if INDEX in paths:
            (stubs / INDEX).write_bytes((out / INDEX).read_bytes())
        unlisted, unheld = missing_from_index(stubs)
        sizes = {name: (stubs / name).stat().st_size for name in shards}
        groups = _groups(tensors, span, rows)
        fetch.check_space(cache(repo), sum(one.nbytes for each in groups.values() for one in each), "set HF_HOME")
        parts = {f"{name}.safetensors": file_of(repo, name, each, remotes, manifest) for name, each in groups.items()}
    hub.place(parts, out)
    config = read_json(out / "config.json", "a model's configuration")
    write_json(out / "config.json", _cut(config, span, rows))
    held = headers(out)
    weight_map = {name: held[name].file.name for name in sorted(held)}
    total = sum(info.nbytes for info in held.values())
    write_json(out / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    wanted = [one for each in groups.values() for one in each]
    return {
        "repository": repo.name,
        "revision": repo.revision,
        "blocks_fetched": f"the first {span} of {settings.blocks}",
        "embedding_rows": f"{len(rows)} of {settings.vocab_size}",
        "left_out": "the blocks above, the head and all that needs it",
        "files": len(paths),
        "bytes": sum(path.stat().st_size for path in paths.values()),
        "shards": len(shards),
        "tensors": len(held),
        "parameters": sum(math.prod(info.shape) for info in held.values()),
        "bytes_of_tensors": total,
        "missing_from_index": unlisted,
        "missing_from_shards": unheld,
        "head": "left out" if hub.HEAD in tensors else "left out; the checkpoint has none of its own",
        "bos": bos,
        "checked": CHECKED,
        "shard_sizes": [{"file": name, "bytes": size} for name, size in sizes.items()],
        "parts": [_said(one, repo, manifest) for one in wanted],
    }


def token_rows(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[int]:
    """The token ids that `words` can bring into a model, ascending: their own and the special ones (BOS, EOS, pad)."""
    ids: list[list[int]] = tokenizer(list(words), add_special_tokens=True)["input_ids"]
    return sorted({token for sequence in ids for token in sequence} | set(tokenizer.all_special_ids))


def _listed(repo: Repo, manifest: Path) -> list[str]:
    """The repository's files: those that the manifest names whole or in parts, or else by the hub."""
    prefix = repo.key("")
    keys = [key.removeprefix(prefix) for key in pins.read(manifest) if key.startswith(prefix)]
    if not any(key.endswith(f"{pins.PART}header") for key in keys):
        return fetch.listing(repo, manifest, hub.WEIGHTS)
    return sorted({key.partition("#")[0] if pins.PART in key else key for key in keys})


def _groups(tensors: Mapping[str, TensorInfo], span: int, rows: tuple[int, ...]) -> dict[str, list[Wanted]]:
    """File to write -> its tensors: the embeddings' rows, each block, the final norm."""
    found = {f"embeddings-{rows_name(rows)}": [Wanted(EMBEDDINGS, tensors[EMBEDDINGS], rows)]}
    for number in range(span):
        block = f"model.layers.{number}."
        found[f"block-{number:03d}"] = [Wanted(name, tensors[name], None) for name in tensors if name.startswith(block)]
    found["norm"] = [Wanted(name, tensors[name], None) for name in tensors if name.startswith(NORM)]
    return {group: sorted(each, key=lambda one: (one.info.file.name, one.info.start)) for group, each in found.items()}


def _cut(config: Mapping[str, Any], span: int, rows: Sequence[int]) -> dict[str, Any]:
    """The part's configuration: `part_of` says what it is cut from, `token_rows` which token each embedding is of."""
    whole = {key: config[key] for key in ("num_hidden_layers", "vocab_size", "layer_types") if key in config}
    cut = {"num_hidden_layers": span, "vocab_size": len(rows), "pad_token_id": None, "tie_word_embeddings": False}
    if config.get("layer_types"):  # kept beside the number of blocks by some architectures
        cut["layer_types"] = config["layer_types"][:span]
    return {**config, **cut, "part_of": whole, "token_rows": list(rows)}


def _said(one: Wanted, repo: Repo, manifest: Path) -> dict[str, Any]:
    """What base.json says of a tensor: where it lay, what was asked for, and its hash."""
    asked = pieces(one.ranges)
    return {
        "file": one.info.file.name,
        "tensor": one.name,
        "rows": one.shape[0],
        "bytes": one.nbytes,
        "requests": len(asked),
        "bytes_asked_for": sum(piece.size for piece in asked),
        "sha256": pins.read(manifest)[one.key(repo)],
    }
