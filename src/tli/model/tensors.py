"""Tensors and rows of a remote checkpoint's shards: fetched by range, kept in a cache, held against the manifest.

Feeds every table of a profile whose model is fetched in part (model/part.py). The hub gives a hash of the whole shard
alone, so that each header, each tensor and each set of rows gets a line of its own in the manifest at its first fetch,
`FILE#PART`: the SHA-256 of its own bytes, which whoever has the whole file can recompute, and `hold_whole` does.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
from huggingface_hub import constants

from tli.data.hub import pins
from tli.data.hub.fetch import Repo
from tli.data.hub.ranges import Range, Remote
from tli.io import progress
from tli.io.errors import CheckFailed
from tli.io.files import sha256_of
from tli.model.shards import TensorInfo, digest, headers_of

LONGEST = 100_000_000  # bytes of a header, the library's own bound


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
        rows = "" if self.rows is None else f"[{len(self.rows)} rows, {rows_name(self.rows)}]"
        return f"{repo.key(self.info.file.name)}#{self.name}{rows}"


def cache(repo: Repo) -> Path:
    """Where parts are kept, beside the hub's cache of whole files: what is there costs no request."""
    name = f"{repo.subject.replace('/', '--')}@{repo.revision}"
    return huggingface_hub.cached_assets_path("tli", "parts", name, assets_dir=constants.HF_ASSETS_CACHE)


def hold(new: Mapping[str, str], manifest: Path) -> None:
    """Holds hashes against the manifest and notes those that it does not name.

    Raises:
        CheckFailed: the manifest knows another.
    """
    known = pins.read(manifest)
    for _ in range(2):
        for key, got in new.items():
            if known.get(key, got) != got:
                raise CheckFailed(
                    f"{key}: expected SHA-256 {known[key]}, got {got}; run again, or remove that line of {manifest} "
                    "if you know why it differs"
                )
        if not new.keys() - known.keys():
            return
        known = pins.note(manifest, new)


def hold_whole(repo: Repo, tensors: Mapping[str, TensorInfo], manifest: Path) -> None:
    """Holds the tensors of whole, checked files against what was noted of those that once came in parts.

    Raises:
        CheckFailed: a tensor had other bytes when it came in parts.
    """
    for key, noted in pins.read(manifest).items():
        file, of_shard, name = key.removeprefix(repo.key("")).partition("#")
        if of_shard and name in tensors and tensors[name].file.name == file and (got := digest(tensors[name])) != noted:
            raise CheckFailed(
                f"{manifest}: {key}: expected SHA-256 {noted}, as fetched in part, got {got} in the whole file, whose "
                "hash is right; remove that line, and do not use what came in parts"
            )


def stub(remote: Remote, folder: Path, manifest: Path) -> str:
    """Writes a file with the shard's own header and the shard's length, empty behind it; returns the header's SHA-256.

    The library reads a header only from a file, and holds its offsets against each other and against the length.

    Raises:
        CheckFailed: the header is not true of the shard.
    """
    kept = cache(remote.repo) / f"{remote.name}.header"
    known = pins.read(manifest).get(f"{remote.key}#header")
    if known is not None and kept.is_file() and sha256_of(kept) == known:
        data, size = kept.read_bytes(), -1
    else:
        size = remote.size
        start = b"".join(remote.read([Range(0, min(8, size))]))
        length = 8 + int.from_bytes(start, "little")
        if length > min(size, LONGEST):
            raise CheckFailed(
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


def file_of(repo: Repo, group: str, wanted: Sequence[Wanted], remotes: Mapping[str, Remote], manifest: Path) -> Path:
    """The tensors of a group as one safetensors file in the cache, each held against the manifest."""
    path, known = cache(repo) / f"{group}.safetensors", pins.read(manifest)
    if path.is_file() and all(one.key(repo) in known for one in wanted):
        held = headers_of([path], path)
        got = {one.key(repo): digest(held[one.name]) for one in wanted if one.name in held}
        if all(got.get(one.key(repo)) == known[one.key(repo)] for one in wanted):
            return path
        path.unlink()
        raise CheckFailed(f"{path}: not as noted in {manifest}; removed from the cache, run again to fetch it")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{group}.") as folder:
        digests: dict[str, str] = {}
        with (Path(folder) / path.name).open("wb") as file:
            file.write(_header(wanted))
            for one in progress.track(wanted, f"fetch {group}"):
                found = hashlib.sha256()
                for data in remotes[one.info.file.name].read(one.ranges):
                    found.update(data)
                    file.write(data)
                digests[one.key(repo)] = found.hexdigest()
        hold(digests, manifest)
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


def rows_name(rows: Sequence[int]) -> str:
    """A name for a list of rows: 16 digits of its SHA-256."""
    return hashlib.sha256(",".join(map(str, rows)).encode()).hexdigest()[:16]
