"""The files of the checkout that have a known hash, and their hashes now (for `tli check`, commands/check_files.py).

The outputs that data.dvc and dvc.lock name, the objects of DVC's cache and of remotes inside the repository, which are
named after their content, and the SHA256SUMS of folders. Every byte is read; nothing is taken from times or from DVC's
own notes, and an inode is read once, however many names it has. Feeds no table.
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
NOTED = Path(".dvc", "tmp", "listings")  # by their hash; git and DVC pass it over


class Output(NamedTuple):
    """A file or folder that a lock names; a folder's `md5` is that of its listing, with `.dir` behind."""

    path: Path
    md5: str
    lock: str


class Object(NamedTuple):
    """A file of DVC's cache or of a remote (`home`), and the MD5 that its name says; a `.dir` is a folder's listing."""

    path: Path
    md5: str
    home: Path


class Digest(NamedTuple):
    """Hashes of a file's bytes and how many they are; without MD5 it cannot be read, and `said` says why."""

    md5: str
    sha256: str = ""
    size: int = 0
    said: str = ""


class Tree(NamedTuple):
    """The checkout in the current folder: DVC's cache and, behind it in `homes`, its remotes, with their objects.

    `files` holds each output's files, `sums` what manifests say of a file, `tracked` the blobs of git's index.
    """

    homes: list[Path]
    objects: list[Object]
    files: dict[Output, list[Path]]
    sums: dict[Path, tuple[str, Path]]
    digests: dict[Path, Digest]
    tracked: dict[Path, str]

    def listing(self, output: Output) -> bytes:
        """What DVC would write as the listing of the output's folder, as it is now."""
        return listing({file.relative_to(output.path): self.digests[file].md5 for file in self.files[output]})

    def listed(self, output: Output) -> dict[Path, str] | None:
        """File -> MD5 in the output's folder as the lock has it; None where nobody has the listing that it names.

        It may be an object of the cache or a remote, one that `note` noted, or that of the files in git's index.
        """
        md5, noted = output.md5.removesuffix(".dir"), NOTED / output.md5
        found = [one.path.read_bytes() for one in self.objects if one.path.suffix == ".dir" and one.md5 == md5]
        found += [noted.read_bytes()] if noted.is_file() else []
        for data in found:
            if md5_of(data) == md5:
                return {output.path / entry["relpath"]: entry["md5"] for entry in json.loads(data)}
        inside = {path: blob for path, blob in self.tracked.items() if path.is_relative_to(output.path)}
        of_git = {path: md5_of(data) for path, data in zip(inside, blobs(inside.values()), strict=True)}
        if md5_of(listing({path.relative_to(output.path): each for path, each in of_git.items()})) == md5:
            return of_git
        return None


def listing(files: Mapping[Path, str]) -> bytes:
    """The listing that DVC writes of a folder's files, path within it -> MD5."""
    entries = [{"md5": md5, "relpath": path.as_posix()} for path, md5 in files.items()]
    return json.dumps(sorted(entries, key=lambda entry: entry["relpath"]), sort_keys=True).encode()


def note(output: Output, data: bytes) -> None:
    """Keeps the listing of a whole folder, for the day that a file there has changed, and DVC's own listing perhaps."""
    if not (NOTED / output.md5).is_file():
        write_text(NOTED / output.md5, data.decode())


def md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def read() -> Tree:
    """Finds and hashes all of it.

    Raises:
        UserError: no DVC repository here, or a lock that is none.
    """
    from dvc.config import Config, ConfigError

    if not Path(".dvc").is_dir():
        raise UserError("check: expected a DVC repository in this folder, got none; change to the checkout")
    try:
        config = Config(str(Path(".dvc").absolute()))
    except ConfigError as error:
        raise UserError(f".dvc/config: {' '.join(str(error).split())}; restore it from git") from None
    remotes = [_here(Path(remote["url"])) for remote in config["remote"].values() if "://" not in remote["url"]]
    homes = [_here(Path(".dvc", config["cache"].get("dir", "cache"))), *(r for r in remotes if not r.is_absolute())]
    objects, ignored = [one for home in homes for one in _objects(home)], _ignored()
    files = {output: _files(output.path, ignored) for output in _outputs()}
    own = [file for each in files.values() for file in each]
    sums = dict(_sums(file for file in own if file.name == MANIFEST))
    return Tree(homes, objects, files, sums, digests([*own, *(one.path for one in objects)], sums), _tracked())


def _here(path: Path) -> Path:
    """`path` as seen from here, where it lies below: DVC gives a remote's as a whole."""
    whole = Path(os.path.abspath(path))
    return whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else whole


def _outputs() -> Iterator[Output]:
    """What the locks name; every stage has the checkout's folder as its own (full/dvc.yaml by `wdir`)."""
    for lock in (*sorted(Path().glob("*.dvc")), Path("dvc.lock"), Path("full", "dvc.lock")):
        if lock.is_file():
            try:
                content: Any = YAML(typ="safe").load(read_text(lock))
                stages = {} if lock.suffix == ".dvc" else content["stages"]
                chosen = _of_the_run(stages) if lock == Path("dvc.lock") else [*stages.values()]
                parts = [content] if lock.suffix == ".dvc" else chosen
                outs = [(Path(out["path"]), str(out["md5"])) for part in parts for out in part["outs"]]
            except (YAMLError, KeyError, TypeError, AttributeError):
                raise UserError(f"{lock}: expected a lock of DVC, got something else; restore it") from None
            yield from (Output(path, md5, str(lock)) for path, md5 in outs)


def _objects(home: Path) -> Iterator[Object]:
    for path in sorted((home / "files" / "md5").glob("[0-9a-f][0-9a-f]/*")):
        name = path.parent.name + path.name
        if re.fullmatch(r"[0-9a-f]{32}(\.dir)?", name):  # DVC's temporary files have other names
            yield Object(path, name.removesuffix(".dir"), home)


def _ignored() -> list[str]:
    """The names that .dvcignore keeps out of every folder's listing."""
    lines = read_text(".dvcignore").splitlines() if Path(".dvcignore").is_file() else []
    return [text for text in map(str.strip, lines) if text and not text.startswith(("#", "/"))]


def _files(path: Path, ignored: Sequence[str]) -> list[Path]:
    """The file at `path`, or all in the folder there, links to files among them."""
    if not path.is_dir():
        return [path] if os.path.lexists(path) else []
    inside = sorted(each for each in path.rglob("*") if not each.is_dir())
    names = [each.relative_to(path).parts for each in inside]
    hidden = [any(fnmatch(part, name) for part in parts for name in ignored) for parts in names]
    return [each for each, out in zip(inside, hidden, strict=True) if not out]


def _sums(manifests: Iterable[Path]) -> Iterator[tuple[Path, tuple[str, Path]]]:
    """File -> its SHA-256 and the manifest that has it; a line that is none is seen in the manifest's own MD5."""
    for manifest in manifests:
        for text in manifest.read_text(encoding="utf-8", errors="replace").splitlines():
            if found := re.fullmatch(r"([0-9a-f]{64})  ([^\0]+)", text):
                yield manifest.parent / found[2], (found[1], manifest)


def _tracked() -> dict[Path, str]:
    """Path -> blob of the files in git's index; none without git."""
    try:
        call = subprocess.run(["git", "ls-files", "-s", "-z"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    lines = (line.partition("\t") for line in call.stdout.split("\0") if line)
    return {Path(name): meta.split()[1] for meta, _, name in lines}


def blobs(names: Iterable[str]) -> list[bytes]:
    """The contents of git's blobs of these names; nothing of one that git has lost."""
    if not (names := [*names]):
        return []
    asked = "".join(f"{name}\n" for name in names).encode()
    said = subprocess.run(["git", "cat-file", "--batch"], input=asked, capture_output=True).stdout
    found = []
    for _ in names:
        head, _, said = said.partition(b"\n")  # <name> blob <size>, or <name> missing
        size = int(head.split()[2]) if (there := head.count(b" ") == 2) else 0
        found.append(said[:size])
        said = said[size + there :]
    return found


def digests(paths: Iterable[Path], sums: Mapping[Path, object]) -> dict[Path, Digest]:
    """The hashes of each path, SHA-256 only of those in `sums`; each inode is read once."""
    found: dict[Path, Digest] = {}
    names: dict[tuple[int, int], list[Path]] = {}
    for path in paths:
        try:
            known = path.stat()
            if stat.S_ISREG(known.st_mode):
                names.setdefault((known.st_dev, known.st_ino), []).append(path)
            else:
                found[path] = Digest("", said="no regular file")
        except OSError as error:
            found[path] = Digest("", said=str(error.strerror))

    def read(same: list[Path]) -> Digest:
        return digest(same[0], wide=any(path in sums for path in same))

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing lets go of the interpreter
        for same, one in zip(names.values(), pool.map(read, names.values()), strict=True):
            found |= dict.fromkeys(same, one)
    return found


def digest(path: Path, wide: bool = False) -> Digest:
    """MD5 of the bytes of `path`, `wide`: and their SHA-256, in one reading."""
    hashes = [hashlib.md5(usedforsecurity=False), *([hashlib.sha256()] if wide else [])]
    buffer, size = memoryview(bytearray(CHUNK)), 0
    try:
        with path.open("rb", buffering=0) as file:
            while got := file.readinto(buffer):
                size += got
                for one in hashes:
                    one.update(buffer[:got])
    except OSError as error:
        return Digest("", said=str(error.strerror))
    return Digest(hashes[0].hexdigest(), hashes[1].hexdigest() if wide else "", size)


def _of_the_run(stages: dict[str, Any]) -> list[Any]:
    """The stages of dvc.lock without those of models that `models` does not list, whose outputs need not be there."""
    models = set(read_yaml("params.yaml").get("models", [])) if Path("params.yaml").is_file() else set()
    items = {name: name.partition("@")[2] for name in stages}  # `smollm2`, or `smollm2-16` of a sweep; else empty
    return [stages[name] for name, item in items.items() if not item or {item, item.rpartition("-")[0]} & models]
