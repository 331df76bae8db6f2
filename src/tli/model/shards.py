"""What the safetensors files of a checkpoint hold, read off their own headers.

Feeds every table of a profile whose model comes from the hub. An index that dates from an earlier upload lets a loader
leave a tensor at random values; the headers cannot be out of date.
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
CHUNK = 1 << 22  # bytes compared at a time


class TensorInfo(NamedTuple):
    """Where a tensor lies and what it is, by the header of its file: `nbytes` bytes from byte `start` on."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


def headers(folder: Path) -> dict[str, TensorInfo]:
    """Tensor name -> what the *.safetensors files of `folder` say of it in their own headers.

    Raises:
        UserError: no such file, a header that is not true of its file, or a tensor that two files hold.
    """
    return headers_of(sorted(folder.glob("*.safetensors")), folder)


def headers_of(files: Iterable[Path], where: Path | str) -> dict[str, TensorInfo]:
    """The same of `files`; `where` names them together."""
    found: dict[str, TensorInfo] = {}
    for file in files:
        for name, info in _header(file).items():
            if name in found:
                raise UserError(
                    f"{file}: expected each tensor once, got {name} here and in {found[name].file.name}; "
                    "choose a checkpoint without copies"
                )
            found[name] = info
    if not found:
        raise UserError(f"{where}: expected tensors in *.safetensors files, got none; choose another checkpoint")
    return found


def _header(file: Path) -> dict[str, TensorInfo]:
    try:
        with safe_open(file, framework="pt"):
            pass  # the library holds sizes, types and offsets against each other and against the file's length
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: expected a safetensors file, got: {reason}; remove it and fetch it anew") from None
    with file.open("rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(size))
    return {
        name: TensorInfo(
            file,
            info["dtype"],
            tuple(info["shape"]),
            8 + size + info["data_offsets"][0],
            info["data_offsets"][1] - info["data_offsets"][0],
        )
        for name, info in header.items()
        if name != "__metadata__"
    }


def missing_from_index(folder: Path) -> tuple[list[str], list[str]]:
    """Tensors that the shards of `folder` hold and its index does not list, and those that it lists and no shard holds.

    Both are empty where there is no index.
    """
    if not (folder / INDEX).is_file():
        return [], []
    index = read_json(folder / INDEX, "an index of shards").get("weight_map")
    if not isinstance(index, dict):
        raise UserError(f"{folder / INDEX}: expected a mapping weight_map, got {type(index).__name__}")
    held = headers(folder)
    return sorted(held.keys() - index.keys()), sorted(index.keys() - held.keys())


def same(ours: TensorInfo, theirs: TensorInfo) -> bool:
    """Whether two tensors have one type, one shape and the same bytes, read a few at a time."""
    if (ours.dtype, ours.shape, ours.nbytes) != (theirs.dtype, theirs.shape, theirs.nbytes):
        return False
    with ours.file.open("rb") as a, theirs.file.open("rb") as b:
        a.seek(ours.start)
        b.seek(theirs.start)
        for done in range(0, ours.nbytes, CHUNK):
            size = min(CHUNK, ours.nbytes - done)
            if a.read(size) != b.read(size):
                return False
    return True


def digest(info: TensorInfo) -> str:
    """SHA-256 of a tensor's bytes."""
    found = hashlib.sha256()
    with info.file.open("rb") as file:
        file.seek(info.start)
        for done in range(0, info.nbytes, CHUNK):
            found.update(file.read(min(CHUNK, info.nbytes - done)))
    return found.hexdigest()


def digest_of_all(folder: Path) -> str:
    """SHA-256 over the lines `name dtype shape sha256` of a checkpoint's tensors, sorted by name."""
    lines = (
        f"{name} {info.dtype} {'x'.join(map(str, info.shape))} {digest(info)}\n"
        for name, info in sorted(headers(folder).items())
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()
