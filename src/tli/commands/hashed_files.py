"""Finds the files of the checkout that have a known hash, and hashes them (for `tli check`, check_files.py).

These are the outputs named in data.dvc and dvc.lock, the objects of DVC's cache and of remotes inside the repository
(whose names are hashes), and the files named in the SHA256SUMS of folders. Every byte is read; file times and DVC's
state database are not used. An inode is read once, however many names it has.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tli.io.errors import UserError
from tli.io.files import MANIFEST, read_text, write_text
from tli.io.structured import read_yaml

CHUNK = 1 << 20  # bytes read at a time
NOTED = Path(".dvc", "tmp", "listings")  # listings of folders, named by their hash; git and DVC ignore it


class Output(NamedTuple):
    """A file or folder named in a lock file. The `md5` of a folder is that of its listing, followed by `.dir`."""

    path: Path
    md5: str
    lock: str


class Object(NamedTuple):
    """A file of DVC's cache or of a remote (`home`), and the MD5 that is its name. A `.dir` is a folder's listing."""

    path: Path
    md5: str
    home: Path


class Digest(NamedTuple):
    """A file's hashes and size. If the file cannot be read, `md5` is empty and `error` gives the reason."""

    md5: str
    sha256: str = ""
    size: int = 0
    error: str = ""


class Tree(NamedTuple):
    """The files of the checkout in the current folder.

    Attributes:
        homes: DVC's cache, and after it the remotes inside the repository.
        objects: the objects in these.
        files: output -> its files.
        sums: file -> its SHA-256 in a manifest, and that manifest.
        digests: file -> its actual hashes.
        tracked: file in git's index -> its blob id.
    """

    homes: list[Path]
    objects: list[Object]
    files: dict[Output, list[Path]]
    sums: dict[Path, tuple[str, Path]]
    digests: dict[Path, Digest]
    tracked: dict[Path, str]

    def listing(self, output: Output) -> bytes:
        """Returns the listing that DVC would write of the output's folder as it is now."""
        return listing({file.relative_to(output.path): self.digests[file].md5 for file in self.files[output]})

    def listed(self, output: Output) -> dict[Path, str] | None:
        """Returns file -> MD5 for the output's folder by the listing that the lock names; None if there is no such one.

        The listing may be an object of the cache or of a remote, a noted one (see `note`), or that of git's index.
        """
        md5, noted = output.md5.removesuffix(".dir"), NOTED / output.md5
        listings = [obj.path.read_bytes() for obj in self.objects if obj.path.suffix == ".dir" and obj.md5 == md5]
        listings += [noted.read_bytes()] if noted.is_file() else []
        for data in listings:
            if md5_of(data) == md5:
                return {output.path / entry["relpath"]: entry["md5"] for entry in json.loads(data)}
        inside = {path: blob for path, blob in self.tracked.items() if path.is_relative_to(output.path)}
        in_git = {path: md5_of(data) for path, data in zip(inside, blobs(inside.values()), strict=True)}
        if md5_of(listing({path.relative_to(output.path): file_md5 for path, file_md5 in in_git.items()})) == md5:
            return in_git
        return None


def listing(files: Mapping[Path, str]) -> bytes:
    """Returns the listing that DVC writes for a folder, given path in the folder -> MD5."""
    entries = [{"md5": md5, "relpath": path.as_posix()} for path, md5 in files.items()]
    return json.dumps(sorted(entries, key=lambda entry: entry["relpath"]), sort_keys=True).encode()


def note(output: Output, data: bytes) -> None:
    """Stores the listing of an intact folder, to find out later which file changed, even without DVC's listing."""
    if not (NOTED / output.md5).is_file():
        write_text(NOTED / output.md5, data.decode())


def md5_of(data: bytes) -> str:
    """Returns the MD5 of bytes in hexadecimal digits."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def read() -> Tree:
    """Finds and hashes all files that have a known hash.

    Raises:
        UserError: the current folder is no DVC repository, or has a broken lock file.
    """
    from dvc.config import Config, ConfigError

    if not Path(".dvc").is_dir():
        raise UserError("check: expected a DVC repository in this folder, got none; change to the checkout")
    try:
        config = Config(str(Path(".dvc").absolute()))
    except ConfigError as error:
        raise UserError(f".dvc/config: {' '.join(str(error).split())}; restore it from git") from None
    remotes = [_relative(Path(remote["url"])) for remote in config["remote"].values() if "://" not in remote["url"]]
    homes = [_relative(Path(".dvc", config["cache"].get("dir", "cache"))), *(r for r in remotes if not r.is_absolute())]
    objects, ignored = [obj for home in homes for obj in _objects(home)], _ignored()
    files = {output: _files(output.path, ignored) for output in _outputs()}
    output_files = [file for paths in files.values() for file in paths]
    sums = dict(_sums(file for file in output_files if file.name == MANIFEST))
    hashed = digests([*output_files, *(obj.path for obj in objects)], sums)
    return Tree(homes, objects, files, sums, hashed, _tracked())


def _relative(path: Path) -> Path:
    """A path inside the current folder as a relative one, another as it is. DVC gives absolute paths of remotes."""
    absolute = Path(os.path.abspath(path))
    return absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute


def _outputs() -> Iterator[Output]:
    """The outputs in the lock files. All paths are relative to the checkout."""
    for lock in (*sorted(Path().glob("*.dvc")), Path("dvc.lock")):
        if lock.is_file():
            try:
                content: Any = YAML(typ="safe").load(read_text(lock))
                stages = {} if lock.suffix == ".dvc" else content["stages"]
                parts = [content] if lock.suffix == ".dvc" else _of_the_run(stages)
                outs = [(Path(out["path"]), str(out["md5"])) for part in parts for out in part["outs"]]
            except (YAMLError, KeyError, TypeError, AttributeError):
                raise UserError(
                    f"{lock}: expected a lock file of DVC, got something else; restore it from git"
                ) from None
            yield from (Output(path, md5, str(lock)) for path, md5 in outs)


def _objects(home: Path) -> Iterator[Object]:
    for path in sorted((home / "files" / "md5").glob("[0-9a-f][0-9a-f]/*")):
        name = path.parent.name + path.name
        if re.fullmatch(r"[0-9a-f]{32}(\.dir)?", name):  # DVC's temporary files have other names
            yield Object(path, name.removesuffix(".dir"), home)


def _ignored() -> list[str]:
    """The name patterns in .dvcignore, which apply to every folder's listing."""
    lines = read_text(".dvcignore").splitlines() if Path(".dvcignore").is_file() else []
    return [text for text in map(str.strip, lines) if text and not text.startswith(("#", "/"))]


def _files(path: Path, ignored: Sequence[str]) -> list[Path]:
    """The file at `path`, or all files in the folder at `path`, including links to files."""
    if not path.is_dir():
        return [path] if os.path.lexists(path) else []
    inside = sorted(file for file in path.rglob("*") if not file.is_dir())
    names = [file.relative_to(path).parts for file in inside]
    hidden = [any(fnmatch(part, pattern) for part in parts for pattern in ignored) for parts in names]
    return [file for file, is_hidden in zip(inside, hidden, strict=True) if not is_hidden]


def _sums(manifests: Iterable[Path]) -> Iterator[tuple[Path, tuple[str, Path]]]:
    """Yields (file, (its SHA-256, manifest)). A malformed line is skipped: the MD5 of the manifest shows the damage."""
    for manifest in manifests:
        for text in manifest.read_text(encoding="utf-8", errors="replace").splitlines():
            if match := re.fullmatch(r"([0-9a-f]{64})  ([^\0]+)", text):
                yield manifest.parent / match[2], (match[1], manifest)


def _tracked() -> dict[Path, str]:
    """Path -> blob id of the files in git's index; empty without git."""
    try:
        call = subprocess.run(["git", "ls-files", "-s", "-z"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    lines = (line.partition("\t") for line in call.stdout.split("\0") if line)
    return {Path(name): meta.split()[1] for meta, _, name in lines}


def blobs(names: Iterable[str]) -> list[bytes]:
    """Returns the contents of git's blobs with these ids; empty bytes for a blob that git does not have."""
    if not (names := [*names]):
        return []
    lines = "".join(f"{name}\n" for name in names).encode()
    output = subprocess.run(["git", "cat-file", "--batch"], input=lines, capture_output=True).stdout
    contents = []
    for _ in names:
        head, _, output = output.partition(b"\n")  # <name> blob <size>, or <name> missing
        size = int(head.split()[2]) if (exists := head.count(b" ") == 2) else 0
        contents.append(output[:size])
        output = output[size + exists :]
    return contents


def digests(paths: Iterable[Path], sums: Mapping[Path, object]) -> dict[Path, Digest]:
    """Hashes files, in parallel.

    Args:
        paths: the files.
        sums: the files that also need a SHA-256.

    Returns:
        Path -> its hashes. A file that cannot be read has an `error`.
    """
    hashes: dict[Path, Digest] = {}
    names: dict[tuple[int, int], list[Path]] = {}
    for path in paths:
        try:
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                names.setdefault((status.st_dev, status.st_ino), []).append(path)
            else:
                hashes[path] = Digest("", error="no regular file")
        except OSError as error:
            hashes[path] = Digest("", error=str(error.strerror))

    def read(same: list[Path]) -> Digest:
        return digest(same[0], sha256=any(path in sums for path in same))

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # threads help because hashing releases the interpreter lock
        for same, result in zip(names.values(), pool.map(read, names.values()), strict=True):
            hashes |= dict.fromkeys(same, result)
    return hashes


def digest(path: Path, sha256: bool = False) -> Digest:
    """Returns the MD5 of a file, and if asked its SHA-256, in one reading."""
    hashes = [hashlib.md5(usedforsecurity=False), *([hashlib.sha256()] if sha256 else [])]
    buffer, size = memoryview(bytearray(CHUNK)), 0
    try:
        with path.open("rb", buffering=0) as file:
            while got := file.readinto(buffer):
                size += got
                for hasher in hashes:
                    hasher.update(buffer[:got])
    except OSError as error:
        return Digest("", error=str(error.strerror))
    return Digest(hashes[0].hexdigest(), hashes[1].hexdigest() if sha256 else "", size)


def _of_the_run(stages: dict[str, Any]) -> list[Any]:
    """The stages of dvc.lock, without those of models and keys of the study that params.yaml does not list."""
    params = read_yaml("params.yaml") if Path("params.yaml").is_file() else {}
    listed = {*params.get("models", []), *params.get("study", [])}
    items = {name: name.partition("@")[2] for name in stages}  # `smollm2`, `smollm2-16` in the sweep, `s1-2r`, or empty
    return [stages[name] for name, item in items.items() if not item or {item, item.rpartition("-")[0]} & listed]
