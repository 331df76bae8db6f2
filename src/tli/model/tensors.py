"""Fetches tensors and rows of a remote checkpoint by byte range, caches them and checks them against the manifest.

Used for a model that is fetched in part (model/part.py). The hub publishes a hash of each whole shard only. So the
first fetch of a header, a tensor or a set of rows records the SHA-256 of its bytes in the manifest, as the line
`FILE#PART`. Anyone with the whole file can recompute this hash; `check_whole_files` does so.
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

LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library


class TensorRequest(NamedTuple):
    """A tensor to fetch, or only the rows `rows` of it."""

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
        """Its byte ranges in its shard."""
        if self.rows is None:
            return [Range(self.info.start, self.info.start + self.info.nbytes)]
        size = self.info.nbytes // self.info.shape[0]
        return [Range(self.info.start + row * size, self.info.start + (row + 1) * size) for row in self.rows]

    def key(self, repo: Repo) -> str:
        """Its name in the manifest."""
        rows = "" if self.rows is None else f"[{len(self.rows)} rows, {rows_name(self.rows)}]"
        return f"{repo.key(self.info.file.name)}#{self.name}{rows}"


def cache_folder(repo: Repo) -> Path:
    """The cache folder of parts, next to the hub's cache of whole files; a cached part needs no request."""
    name = f"{repo.subject.replace('/', '--')}@{repo.revision}"
    return huggingface_hub.cached_assets_path("tli", "parts", name, assets_dir=constants.HF_ASSETS_CACHE)


def check_hashes(hashes: Mapping[str, str], manifest: Path) -> None:
    """Compares hashes with the manifest, and records those that it does not have.

    Raises:
        CheckFailed: the manifest has another hash.
    """
    known = pins.read(manifest)
    for _ in range(2):
        for key, digest_of_part in hashes.items():
            if known.get(key, digest_of_part) != digest_of_part:
                raise CheckFailed(
                    f"{key}: expected SHA-256 {known[key]}, got {digest_of_part}; run again, or remove that line of "
                    f"{manifest} if you know why it differs"
                )
        if not hashes.keys() - known.keys():
            return
        known = pins.note(manifest, hashes)


def check_whole_files(repo: Repo, tensors: Mapping[str, TensorInfo], manifest: Path) -> None:
    """Compares tensors of whole, checked files with the hashes recorded when they were fetched in part.

    Raises:
        CheckFailed: a tensor had other bytes when it was fetched in part.
    """
    for key, recorded in pins.read(manifest).items():
        file, separator, name = key.removeprefix(repo.key("")).partition("#")
        if (
            separator
            and name in tensors
            and tensors[name].file.name == file
            and (got := digest(tensors[name])) != recorded
        ):
            raise CheckFailed(
                f"{manifest}: {key}: expected SHA-256 {recorded}, as fetched in part, got {got} in the whole file, "
                "whose hash is right; remove that line, and do not use what was fetched in part"
            )


def write_header_stub(remote: Remote, folder: Path, manifest: Path) -> str:
    """Writes a sparse file with the shard's header and length, and returns the SHA-256 of the header.

    The safetensors library reads a header only from a file, and checks its offsets against the file's length.

    Raises:
        CheckFailed: the header does not fit the shard.
    """
    cached = cache_folder(remote.repo) / f"{remote.name}.header"
    recorded = pins.read(manifest).get(f"{remote.key}#header")
    if recorded is not None and cached.is_file() and sha256_of(cached) == recorded:
        data, size = cached.read_bytes(), -1
    else:
        size = remote.size
        length_bytes = b"".join(remote.read([Range(0, min(8, size))]))
        length = 8 + int.from_bytes(length_bytes, "little")
        if length > min(size, LONGEST_HEADER):
            raise CheckFailed(
                f"{remote.key}: expected a safetensors file, got a header of {length} bytes in {size}; choose another"
            )
        data = length_bytes + b"".join(remote.read([Range(8, length)]))
    if size < 0:  # from the cache: the length of the shard follows from the header
        entries = json.loads(data[8:])
        size = len(data) + max((entry["data_offsets"][1] for entry in entries.values() if "dtype" in entry), default=0)
    with (folder / remote.name).open("wb") as file:
        file.write(data)
        file.truncate(size)
    headers_of([folder / remote.name], remote.key)
    if not cached.is_file() or cached.read_bytes() != data:
        cached.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def fetch_group(
    repo: Repo, group: str, requests: Sequence[TensorRequest], remotes: Mapping[str, Remote], manifest: Path
) -> Path:
    """Fetches the tensors of a group into one safetensors file in the cache, and checks each against the manifest."""
    path, recorded = cache_folder(repo) / f"{group}.safetensors", pins.read(manifest)
    if path.is_file() and all(request.key(repo) in recorded for request in requests):
        cached = headers_of([path], path)
        cached_digests = {
            request.key(repo): digest(cached[request.name]) for request in requests if request.name in cached
        }
        if all(cached_digests.get(request.key(repo)) == recorded[request.key(repo)] for request in requests):
            return path
        path.unlink()
        raise CheckFailed(
            f"{path}: expected the SHA-256 recorded in {manifest}, got another; it was removed, run again to fetch it"
        )
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{group}.") as folder:
        digests: dict[str, str] = {}
        with (Path(folder) / path.name).open("wb") as file:
            file.write(_header(requests))
            for request in progress.track(requests, f"fetch {group}"):
                sha256 = hashlib.sha256()
                for data in remotes[request.info.file.name].read(request.ranges):
                    sha256.update(data)
                    file.write(data)
                digests[request.key(repo)] = sha256.hexdigest()
        check_hashes(digests, manifest)
        os.replace(file.name, path)
    return path


def _header(requests: Sequence[TensorRequest]) -> bytes:
    """The header of a safetensors file with the tensors one after the other."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for request in requests:
        offsets = [start, start + request.nbytes]
        entries[request.name] = {"dtype": request.info.dtype, "shape": request.shape, "data_offsets": offsets}
        start += request.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def rows_name(rows: Sequence[int]) -> str:
    """A name for a list of rows: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(",".join(map(str, rows)).encode()).hexdigest()[:16]
