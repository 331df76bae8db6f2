"""The tensors of a checkpoint's safetensors files: locations, shapes and hashes, read from the files' headers.

The index file is not trusted: if it is older than a shard, a loader may leave a tensor at random values. The headers
cannot be out of date.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from tli.io.errors import UserError
from tli.io.structured import read_json

INDEX = "model.safetensors.index.json"
CHUNK = 1 << 22  # bytes read at a time


class TensorInfo(NamedTuple):
    """A tensor's location, dtype and shape from the header of its file: `nbytes` bytes from byte `start`."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


def headers(folder: Path) -> dict[str, TensorInfo]:
    """Tensor name -> its location, for all *.safetensors files in `folder`.

    Raises:
        UserError: there is no such file, a header does not fit its file, or two files have the same tensor.
    """
    return headers_of(sorted(folder.glob("*.safetensors")), folder)


def headers_of(files: Iterable[Path], where: Path | str) -> dict[str, TensorInfo]:
    """The same for `files`; messages call them `where`."""
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        for name, info in _header(file).items():
            if name in tensors:
                raise UserError(
                    f"{file}: expected each tensor once, got {name} here and in {tensors[name].file.name}; "
                    "choose a checkpoint without copies"
                )
            tensors[name] = info
    if not tensors:
        raise UserError(f"{where}: expected tensors in *.safetensors files, got none; choose another checkpoint")
    return tensors


def _header(file: Path) -> dict[str, TensorInfo]:
    try:
        with safe_open(file, framework="pt"):
            pass  # the library checks sizes, types and offsets against the file's length
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: expected a safetensors file, got: {reason}; remove it and fetch it again") from None
    with file.open("rb") as handle:
        header_length = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(header_length))
    return {
        name: TensorInfo(
            file,
            info["dtype"],
            tuple(info["shape"]),
            8 + header_length + info["data_offsets"][0],
            info["data_offsets"][1] - info["data_offsets"][0],
        )
        for name, info in header.items()
        if name != "__metadata__"
    }


def missing_from_index(folder: Path) -> tuple[list[str], list[str]]:
    """Tensors that are in the shards of `folder` but not in its index, and tensors in the index but in no shard.

    Both lists are empty if there is no index.
    """
    if not (folder / INDEX).is_file():
        return [], []
    listed = read_json(folder / INDEX, "an index of shards").get("weight_map")
    if not isinstance(listed, dict):
        raise UserError(f"{folder / INDEX}: expected a mapping weight_map, got {type(listed).__name__}")
    tensors = headers(folder)
    return sorted(tensors.keys() - listed.keys()), sorted(listed.keys() - tensors.keys())


def same_bytes(first: TensorInfo, second: TensorInfo) -> bool:
    """Whether two tensors have the same type, shape and bytes."""
    if (first.dtype, first.shape, first.nbytes) != (second.dtype, second.shape, second.nbytes):
        return False
    with first.file.open("rb") as a, second.file.open("rb") as b:
        a.seek(first.start)
        b.seek(second.start)
        for offset in range(0, first.nbytes, CHUNK):
            size = min(CHUNK, first.nbytes - offset)
            if a.read(size) != b.read(size):
                return False
    return True


def digest(info: TensorInfo) -> str:
    """SHA-256 of a tensor's bytes."""
    sha256 = hashlib.sha256()
    with info.file.open("rb") as file:
        file.seek(info.start)
        for offset in range(0, info.nbytes, CHUNK):
            sha256.update(file.read(min(CHUNK, info.nbytes - offset)))
    return sha256.hexdigest()


def digest_of_all(folder: Path) -> str:
    """SHA-256 over the lines `name dtype shape sha256` of a checkpoint's tensors, sorted by name."""
    lines = (
        f"{name} {info.dtype} {'x'.join(map(str, info.shape))} {digest(info)}\n"
        for name, info in sorted(headers(folder).items())
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()
