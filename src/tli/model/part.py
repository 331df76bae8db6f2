"""A part of a published checkpoint: its first blocks, and of the embeddings the rows of a word list (stage: base).

Feeds every table of a profile with `model.span`. A hidden state of block i depends on no later block, so that what is
measured up to the span is what the whole model gives, bit for bit. Every shard's header is read by range, then the
tensors wanted, and nothing else. Written is an ordinary checkpoint, whose config.json says what it is a part of.

What can be checked: whole files (config, tokenizer) against the hub's hash and the manifest. Of a shard only its size
and its header; a tensor has no hash anywhere but the one that its first fetch noted in the manifest, to which every
later one is held. Where the cache has a shard whole, that is hash-checked and the tensors are read from it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
from huggingface_hub import constants
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tli import store
from tli.data import fetch, pins
from tli.data.fetch import Repo
from tli.data.ranges import Range, Remote, pieces
from tli.model import hub
from tli.model.shards import CHUNK, INDEX, TensorInfo, headers, headers_of, missing_from_index, read_json
from tli.params import HubModel

EMBEDDINGS, NORM = "model.embed_tokens.weight", "model.norm."
LONGEST = 100_000_000  # bytes of a header, the library's own bound
CHECKED = (
    "whole files: SHA-256, the hub's and the manifest's; shards: size and header; tensors: the SHA-256 that the "
    "manifest noted at their first fetch, which no hash of the hub's stands behind"
)


class Wanted(NamedTuple):
    """A tensor, or the rows `rows` of one, as it will be stored."""

    name: str
    info: TensorInfo
    rows: tuple[int, ...] | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.info.shape if self.rows is None else (len(self.rows), *self.info.shape[1:])

    @property
    def nbytes(self) -> int:
        return self.info.nbytes if self.rows is None else len(self.rows) * self.info.nbytes // self.info.shape[0]

    @property
    def ranges(self) -> list[Range]:
        """Where it lies in its shard."""
        if self.rows is None:
            return [Range(self.info.start, self.info.start + self.info.nbytes)]
        size = self.info.nbytes // self.info.shape[0]
        return [Range(self.info.start + row * size, self.info.start + (row + 1) * size) for row in self.rows]

    def key(self, repo: Repo) -> str:
        """How the manifest names it."""
        rows = "" if self.rows is None else f"[{len(self.rows)} rows, {_digest(self.rows)}]"
        return f"{repo.key(self.info.file.name)}#{self.name}{rows}"


def run(words: Path | None, out: Path, metrics: Path, settings: HubModel, manifest: Path) -> None:
    """The `base` stage of a profile with `model.span`: the part in `out`, what it holds and came from in `metrics`.

    Raises:
        UserError: no words are given, or the shape in params.yaml is not the checkpoint's.
    """
    if words is None or settings.span is None:
        raise store.UserError("base: expected --words FILE with model.span, the words to fetch embeddings of; name it")
    repo = fetch.pinned(Repo("model", settings.repo, settings.revision), manifest)
    listed = store.read_text(words).splitlines()
    with store.atomic_dir(out) as folder:
        found = fetch_part(repo, folder, manifest, settings, listed)
    store.write_json(metrics, found)


def fetch_part(
    repo: Repo, out: Path, manifest: Path, settings: HubModel, words: Sequence[str]
) -> dict[str, Any]:
    """Fetches the first `settings.span` blocks, the final norm and the embedding rows of `words` into the folder `out`.

    Raises:
        UserError: nothing that could be used, no network, a server without byte ranges, not enough space.
        CheckFailed: a header that lies, a tensor that is missing or of another shape, or other bytes than were noted.
    """
    span = settings.span or settings.blocks
    names = hub.chosen(repo, _listed(repo, manifest))
    shards = [name for name in names if name.endswith(".safetensors")]
    paths = fetch.fetch(repo, [name for name in names if name not in shards], manifest)
    hub.place(paths, out)
    hub.check_shape(settings, out, repo)
    rows = tuple(token_rows(AutoTokenizer.from_pretrained(out, local_files_only=True), words))
    remotes = {name: Remote(repo, name, manifest) for name in shards}
    with tempfile.TemporaryDirectory() as temporary:
        stubs = Path(temporary)
        noted = {f"{remotes[name].key}#header": _stub(remotes[name], stubs, manifest) for name in shards}
        _hold(noted, manifest)
        tensors = headers_of(sorted(stubs.glob("*.safetensors")), repo.key(""))
        hub.complete(repo, tensors, hub.expected_shapes(out))
        if INDEX in paths:
            (stubs / INDEX).write_bytes((out / INDEX).read_bytes())
        unlisted, unheld = missing_from_index(stubs)
        sizes = {name: (stubs / name).stat().st_size for name in shards}
        groups = _groups(tensors, span, rows)
        fetch.check_space(_cache(repo), sum(one.nbytes for each in groups.values() for one in each), "set HF_HOME")
        parts = {f"{name}.safetensors": _part(repo, name, each, remotes, manifest) for name, each in groups.items()}
    hub.place(parts, out)
    config = read_json(out / "config.json")
    store.write_json(out / "config.json", _cut(config, span, rows))
    held = headers(out)
    weight_map = {name: held[name].file.name for name in sorted(held)}
    total = sum(info.nbytes for info in held.values())
    store.write_json(out / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
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
        return fetch.listing(repo, manifest)
    return sorted({key.partition("#")[0] if pins.PART in key else key for key in keys})


def _cache(repo: Repo) -> Path:
    """Where parts are kept, beside the hub's cache of whole files: what is there costs no request."""
    name = f"{repo.subject.replace('/', '--')}@{repo.revision}"
    return huggingface_hub.cached_assets_path("tli", "parts", name, assets_dir=constants.HF_ASSETS_CACHE)


def _hold(new: Mapping[str, str], manifest: Path) -> None:
    """Holds hashes against the manifest and notes those that it does not name.

    Raises:
        CheckFailed: the manifest knows another.
    """
    known = pins.read(manifest)
    for _ in range(2):
        for key, digest in new.items():
            if known.get(key, digest) != digest:
                raise store.CheckFailed(
                    f"{key}: expected SHA-256 {known[key]}, got {digest}; run again, or remove that line of {manifest} "
                    "if you know why it differs"
                )
        if not new.keys() - known.keys():
            return
        known = pins.note(manifest, new)


def _stub(remote: Remote, folder: Path, manifest: Path) -> str:
    """Writes a file with the shard's own header and the shard's length, empty behind it; returns the header's SHA-256.

    The library reads a header only from a file, and holds its offsets against each other and against the length.
    """
    kept = _cache(remote.repo) / f"{remote.name}.header"
    known = pins.read(manifest).get(f"{remote.key}#header")
    if known is not None and kept.is_file() and store.sha256(kept) == known:
        data, size = kept.read_bytes(), -1
    else:
        size = remote.size
        start = b"".join(remote.read([Range(0, min(8, size))]))
        length = 8 + int.from_bytes(start, "little")
        if length > min(size, LONGEST):
            raise store.CheckFailed(
                f"{remote.key}: expected a safetensors file, got a header of {length} bytes in {size}; choose another"
            )
        data = start + b"".join(remote.read([Range(8, length)]))
    if size < 0:  # as noted: the header gives the length that it was held against
        entries = json.loads(data[8:])
        size = len(data) + max((entry["data_offsets"][1] for entry in entries.values() if "dtype" in entry), default=0)
    with (folder / remote.name).open("wb") as file:
        file.write(data)
        file.truncate(size)
    headers_of([folder / remote.name], remote.key)
    if not kept.is_file() or kept.read_bytes() != data:
        kept.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _groups(tensors: Mapping[str, TensorInfo], span: int, rows: tuple[int, ...]) -> dict[str, list[Wanted]]:
    """File to write -> its tensors: the embeddings' rows, each block, the final norm."""
    found = {f"embeddings-{_digest(rows)}": [Wanted(EMBEDDINGS, tensors[EMBEDDINGS], rows)]}
    for number in range(span):
        block = f"model.layers.{number}."
        found[f"block-{number:03d}"] = [Wanted(name, tensors[name], None) for name in tensors if name.startswith(block)]
    found["norm"] = [Wanted(name, tensors[name], None) for name in tensors if name.startswith(NORM)]
    return {group: sorted(each, key=lambda one: (one.info.file.name, one.info.start)) for group, each in found.items()}


def _part(repo: Repo, group: str, wanted: Sequence[Wanted], remotes: Mapping[str, Remote], manifest: Path) -> Path:
    """The tensors of a group as one safetensors file in the cache, each held against the manifest."""
    path, known = _cache(repo) / f"{group}.safetensors", pins.read(manifest)
    if path.is_file() and all(one.key(repo) in known for one in wanted):
        held = headers_of([path], path)
        got = {one.key(repo): _hashed(held[one.name]) for one in wanted if one.name in held}
        if all(got.get(one.key(repo)) == known[one.key(repo)] for one in wanted):
            return path
        path.unlink()
        raise store.CheckFailed(f"{path}: not as noted in {manifest}; removed from the cache, run again to fetch it")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{group}.") as folder:
        digests: dict[str, str] = {}
        with (Path(folder) / path.name).open("wb") as file:
            file.write(_header(wanted))
            for one in store.progress(wanted, f"fetch {group}"):
                digest = hashlib.sha256()
                for data in remotes[one.info.file.name].read(one.ranges):
                    digest.update(data)
                    file.write(data)
                digests[one.key(repo)] = digest.hexdigest()
        _hold(digests, manifest)
        os.replace(file.name, path)
    return path


def _header(wanted: Sequence[Wanted]) -> bytes:
    """The header of a safetensors file that holds the tensors one after the other."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for one in wanted:
        offsets = [start, start + one.nbytes]
        entries[one.name] = {"dtype": one.info.dtype, "shape": one.shape, "data_offsets": offsets}
        start += one.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _hashed(info: TensorInfo) -> str:
    digest = hashlib.sha256()
    with info.file.open("rb") as file:
        file.seek(info.start)
        for done in range(0, info.nbytes, CHUNK):
            digest.update(file.read(min(CHUNK, info.nbytes - done)))
    return digest.hexdigest()


def _digest(rows: Sequence[int]) -> str:
    """A name for a list of rows: 16 digits of its SHA-256."""
    return hashlib.sha256(",".join(map(str, rows)).encode()).hexdigest()[:16]


def _cut(config: Mapping[str, Any], span: int, rows: Sequence[int]) -> dict[str, Any]:
    """The part's configuration: `part_of` says what it is cut from, `token_rows` which token each embedding is of."""
    whole = {key: config[key] for key in ("num_hidden_layers", "vocab_size")}
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
