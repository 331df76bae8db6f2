"""Fetches files from the Hugging Face hub and from plain URLs, at pinned revisions and with checked hashes.

The client is huggingface_hub, with its usual cache and environment variables (HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE,
HF_TOKEN). A token is never written to a file. At the first fetch a file's hash is compared with the hub's and added to
the manifest (pins.py), which is in git. Every later use, from the network or the cache, must match the manifest.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple
from urllib.parse import quote, urlsplit

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.file_download import http_get

from tli.data.hub import pins, server
from tli.io import progress
from tli.io.errors import CheckFailed, UserError
from tli.io.files import sha256_of
from tli.io.structured import brief

FIRST = "first"  # as a revision: the commit of `main` at the first fetch, and then the one in the manifest
REVISION = re.compile(r"[0-9a-f]{40}")


class Repo(NamedTuple):
    """A repository of the hub at a revision, which is 40 hexadecimal digits or `first`."""

    kind: Literal["model", "dataset"]
    name: str
    revision: str

    @property
    def subject(self) -> str:
        """The repository's name in the manifest."""
        return f"{self.kind}s/{self.name}"

    def key(self, name: str) -> str:
        """Returns the name in the manifest of a file of the repository."""
        return f"{self.subject}@{self.revision}/{name}"


def pinned(repo: Repo, manifest: Path) -> Repo:
    """Returns `repo` with a commit as its revision.

    `first` becomes the commit in the manifest. If the manifest has none, the current commit of `main` is added to it.

    Raises:
        UserError: the revision is a branch or a tag; the message gives the line that pins it.
    """
    if REVISION.fullmatch(repo.revision):
        return repo
    if repo.revision == FIRST:
        known = pins.read(manifest)
        if repo.subject not in known:
            known = pins.note(manifest, {repo.subject: _info(repo._replace(revision="main"))[0]})
        return repo._replace(revision=known[repo.subject])
    problem = (
        f"{repo.subject}: revision: expected 40 hexadecimal digits or {FIRST}, got {repo.revision!r}, which may move"
    )
    try:
        commit, _ = _info(repo)
    except UserError as error:
        raise UserError(f"{problem}; set `revision: <40 digits>` (not looked up: {error.message})") from None
    raise UserError(f"{problem}; set `revision: {commit}`, which it is now")


def _info(repo: Repo) -> tuple[str, list[str]]:
    """The commit of `repo` by the hub, and the names of its files."""

    api = huggingface_hub.HfApi()
    get_info = api.model_info if repo.kind == "model" else api.dataset_info

    def call() -> tuple[str, list[str]]:
        try:
            info = get_info(repo.name, revision=repo.revision, timeout=server.TIMEOUT)
            return str(info.sha), sorted(file.rfilename for file in info.siblings or [])
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError("not the JSON that a hub sends") from error

    return server.ask(f"{repo.subject}@{repo.revision}", call)


def manifest_files(repo: Repo, manifest: Path) -> list[str]:
    """Returns the names of the files of `repo` in the manifest, without parts of files."""
    prefix = repo.key("")
    keys = (key.removeprefix(prefix) for key in pins.read(manifest) if key.startswith(prefix))
    return sorted(key for key in keys if pins.PART not in key)


def listing(repo: Repo, manifest: Path, ending: str = "") -> list[str]:
    """Returns the names of the files of `repo`, by the hub; offline those in the manifest.

    Args:
        repo: a repository at a pinned revision.
        manifest: the manifest of fetched files.
        ending: offline, at least one name must end in this.

    Raises:
        UserError: offline, and the manifest has no such name; or a name that leads out of the folder of the files.
    """
    if constants.is_offline_mode():
        names = manifest_files(repo, manifest)
        if not any(name.endswith(ending) for name in names):
            kind = f"*{ending} files" if ending else "files"
            raise UserError(
                f"{repo.key('')}: HF_HUB_OFFLINE is set and {manifest} names none of its {kind}; unset it to fetch them"
            )
        return names
    commit, names = _info(repo)
    same_commit(repo, commit, repo.key(""))
    for name in names:
        if not name.isprintable() or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UserError(f"{repo.key('')}: expected plain file names, got {name!r}; use another repository")
    return names


def fetch(repo: Repo, names: Sequence[str], manifest: Path) -> dict[str, Path]:
    """Fetches files and checks their hashes against the manifest, or at the first fetch against the hub.

    A file in the cache costs no request. New files are added to the manifest together, after all of them are checked.

    Args:
        repo: a repository at a pinned revision.
        names: the files' paths in it.
        manifest: the manifest of fetched files.

    Returns:
        Name -> path in the hub's cache.

    Raises:
        UserError: no such file, no access, no network or no space; the message says what to do.
        CheckFailed: a file has another hash. It is removed from the cache.
        ValueError: the revision is not pinned.
    """
    if not REVISION.fullmatch(repo.revision):
        raise ValueError(f"pin the revision first, got {repo.revision!r}")
    known = pins.read(manifest)
    _make_room(repo, [name for name in names if _cached(repo, name) is None])
    paths: dict[str, Path] = {}
    new: dict[str, str] = {}
    for name in progress.track(names, f"fetch {repo.name}"):
        path = _cached(repo, name) or _download(repo, name)
        new[repo.key(name)] = _check(repo.key(name), path, known.get(repo.key(name)), manifest)
        paths[name] = path
    if new.keys() - known.keys():
        known = pins.note(manifest, new)
    for key, digest in new.items():
        if known[key] != digest:  # another process has noted other bytes
            raise CheckFailed(f"{manifest}: {key}: expected SHA-256 {known[key]}, got {digest}; run again")
    return paths


def _cached(repo: Repo, name: str) -> Path | None:
    """The path of a file in the hub's cache, or None."""
    call = partial(huggingface_hub.try_to_load_from_cache, repo.name, name, None, repo.revision, repo.kind)
    path = server.ask(repo.key(name), call)
    return Path(path) if isinstance(path, str) else None


def whole(repo: Repo, name: str, manifest: Path) -> Path | None:
    """Returns the path of a whole file in the cache, or None.

    Its hash is checked against the manifest, or else against the hub. It is not added to the manifest, which names the
    files of a model's weights only together.

    Raises:
        CheckFailed: the file has another hash.
    """
    path = _cached(repo, name)
    if path is not None:
        _check(repo.key(name), path, pins.read(manifest).get(repo.key(name)), manifest)
    return path


def _make_room(repo: Repo, missing: Sequence[str]) -> None:
    """Asks the hub for the commit and size of each missing file, and checks that the disk has space for all."""
    if missing and constants.is_offline_mode():
        raise UserError(
            f"{repo.key(missing[0])}: not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set; "
            f"unset it to fetch the missing files ({len(missing)} of those needed)"
        )
    needed = 0
    for name in missing:
        url = huggingface_hub.hf_hub_url(repo.name, name, repo_type=repo.kind, revision=repo.revision)
        metadata = server.ask(
            repo.key(name), partial(huggingface_hub.get_hf_file_metadata, url, timeout=server.TIMEOUT)
        )
        same_commit(repo, metadata.commit_hash, repo.key(name))
        needed += metadata.size or 0
    check_space(Path(constants.HF_HUB_CACHE), needed, "set HF_HOME to a folder on a larger disk")


def same_commit(repo: Repo, commit: str | None, where: str) -> None:
    """Raises UserError if `commit`, from the hub's answer, is not the revision of `repo`."""
    if commit != repo.revision:
        raise UserError(
            f"{where}: expected an answer for commit {repo.revision}, got {commit or 'none'}; "
            "check HF_ENDPOINT, and that the revision is a commit of this repository"
        )


def check_space(folder: Path, needed: int, advice: str) -> None:
    """Raises UserError unless the file system of `folder` has `needed` bytes free. The folder need not exist."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise UserError(
            f"{folder}: expected {needed / 1e9:.3g} GB of free space, got {free / 1e9:.3g} GB; free some, or {advice}"
        )


def _download(repo: Repo, name: str) -> Path:
    def call() -> str:
        return huggingface_hub.hf_hub_download(repo.name, name, repo_type=repo.kind, revision=repo.revision)

    server.ask(repo.key(name), call)
    path = _cached(repo, name)
    if path is None:
        raise UserError(f"{repo.key(name)}: the hub answered for another commit; check HF_ENDPOINT")
    return path


def _check(key: str, path: Path, expected: str | None, manifest: Path) -> str:
    """Checks a file in the cache and returns its SHA-256.

    It must match `expected`, the hash in the manifest, or without one the hub's hash. The cache names a file by the
    hub's hash: SHA-256 for large files, git's blob id for the others.

    Raises:
        UserError: there is no hash to compare with.
        CheckFailed: the hash is another one.
    """
    digest = sha256_of(path)
    if digest == expected:
        return digest
    blob = path.resolve()
    hub_hash = blob.name if path.is_symlink() and re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob.name) else ""
    kind, got = ("git blob id", git_blob_id(path)) if len(hub_hash) == 40 else ("SHA-256", digest)
    if expected is None:
        if not hub_hash:
            raise UserError(
                f"{key}: expected a hash from the hub, got none; if {digest} is right, "
                f"add the line '{digest}  {key}' to {manifest}"
            )
        if got == hub_hash:
            return digest
        wanted = hub_hash
    elif got == hub_hash:
        raise CheckFailed(
            f"{manifest}: {key}: expected SHA-256 {expected}, got {digest}, which is the hub's hash; "
            "remove that line if you know why it differs"
        )
    else:
        kind, wanted, got = "SHA-256", expected, digest
    try:
        blob.unlink()
        path.unlink(missing_ok=True)
        advice = "removed from the cache, run again to fetch it"
    except OSError:
        advice = f"remove {blob} and run again"
    raise CheckFailed(f"{key}: expected {kind} {wanted}, got {got}; {advice}")


def git_blob_id(path: Path) -> str:
    """Returns git's id of a file's content: the SHA-1 of `blob <size>`, a zero byte, and the content."""
    with path.open("rb") as file:
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def fetch_url(url: str, out: Path, *, sha256: str | None = None, git_blob: str | None = None) -> Path:
    """Fetches the file at `url`, checks its hash, and writes it to `out`. Does nothing if `out` has the hash already.

    If the environment variable TLI_MIRROR names a folder, or the URL of one, the file of the same name there is used.

    Args:
        url: the file's address.
        out: the path to write.
        sha256: the expected SHA-256; or instead
        git_blob: the expected git blob id.

    Returns:
        `out`.

    Raises:
        UserError: the file cannot be fetched.
        CheckFailed: the file has another hash. Nothing is written.
    """
    if (sha256 is None) == (git_blob is None):
        raise ValueError("give either sha256 or git_blob")
    kind, expected, hash_of = ("SHA-256", sha256, sha256_of) if sha256 else ("git blob id", git_blob, git_blob_id)
    if out.is_file() and hash_of(out) == expected:
        return out
    name, mirror = PurePosixPath(urlsplit(url).path).name, os.environ.get("TLI_MIRROR", "")
    if "://" in mirror and not re.fullmatch(r"https?://[\w.-]+(:\d{1,5})?(/\S*)?", mirror):
        raise UserError(f"TLI_MIRROR: expected a folder or an http(s) address, got {brief(mirror)}; set another")
    source = f"{mirror.rstrip('/')}/{quote(name) if '://' in mirror else name}" if mirror else url
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        fetched = Path(folder) / out.name

        def call() -> None:
            with fetched.open("wb") as file:
                http_get(source, file, headers={"Accept-Encoding": "identity"})

        if "://" in source:
            server.ask(source, call)
        elif Path(source).is_file():
            shutil.copyfile(source, fetched)
        else:
            raise UserError(f"{source}: no such file; put the file of {url} there, or unset TLI_MIRROR")
        if (got := hash_of(fetched)) != expected:
            raise CheckFailed(
                f"{source}: expected {kind} {expected}, got {got}; nothing was written: run again or check the source"
            )
        os.replace(fetched, out)
    return out
