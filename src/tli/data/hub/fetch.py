"""Files from the Hugging Face hub and from plain addresses: pinned, hashed, held against a manifest that is in git.

Feeds every table of the profiles whose model and benchmarks come from the network. The client is huggingface_hub; its
cache and its environment (HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN) mean here what they mean there, and a token
is written nowhere. A file that the manifest (data/hub/pins.py) does not name yet is fetched, held against the hash
that the hub itself gives it, and noted; every later fetch, from the network or the cache, is held against the note.
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

FIRST = "first"  # as a revision: what `main` is when it is first asked for, then the manifest's
REVISION = re.compile(r"[0-9a-f]{40}")


class Repo(NamedTuple):
    """A repository of the hub at a revision: 40 hexadecimal digits, or `first`."""

    kind: Literal["model", "dataset"]
    name: str
    revision: str

    @property
    def subject(self) -> str:
        """How the manifest names the repository."""
        return f"{self.kind}s/{self.name}"

    def key(self, name: str) -> str:
        """How the manifest names a file of the repository."""
        return f"{self.subject}@{self.revision}/{name}"


def pinned(repo: Repo, manifest: Path) -> Repo:
    """`repo` with a revision that cannot move. `first` becomes the manifest's; the hub's `main` where it has none yet.

    Raises:
        UserError: the revision is a branch or a tag; the line that would pin it is in the message.
    """
    if REVISION.fullmatch(repo.revision):
        return repo
    if repo.revision == FIRST:
        known = pins.read(manifest)
        if repo.subject not in known:
            known = pins.note(manifest, {repo.subject: _info(repo._replace(revision="main"))[0]})
        return repo._replace(revision=known[repo.subject])
    refused = (
        f"{repo.subject}: revision: expected 40 hexadecimal digits or {FIRST}, got {repo.revision!r}, which may move"
    )
    try:
        commit, _ = _info(repo)
    except UserError as error:
        raise UserError(f"{refused}; set `revision: <40 digits>` (not looked up: {error.message})") from None
    raise UserError(f"{refused}; set `revision: {commit}`, which it is now")


def _info(repo: Repo) -> tuple[str, list[str]]:
    """The commit that the hub answers for `repo`, and the files it has there."""

    api = huggingface_hub.HfApi()
    asked = api.model_info if repo.kind == "model" else api.dataset_info

    def call() -> tuple[str, list[str]]:
        try:
            info = asked(repo.name, revision=repo.revision, timeout=server.TIMEOUT)
            return str(info.sha), sorted(file.rfilename for file in info.siblings or [])
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError("not the JSON that a hub sends") from error

    return server.ask(f"{repo.subject}@{repo.revision}", call)


def noted(repo: Repo, manifest: Path) -> list[str]:
    """The files of `repo` at its revision that the manifest names, parts of files left out."""
    prefix = repo.key("")
    keys = (key.removeprefix(prefix) for key in pins.read(manifest) if key.startswith(prefix))
    return sorted(key for key in keys if pins.PART not in key)


def listing(repo: Repo, manifest: Path, ending: str = "") -> list[str]:
    """The files that `repo` has at its revision, by the hub; offline those that the manifest names.

    Raises:
        UserError: offline with none noted whose name ends in `ending`, or a name that would leave the folder it is put
            in.
    """
    if constants.is_offline_mode():
        names = noted(repo, manifest)
        if not any(name.endswith(ending) for name in names):
            kind = f"*{ending} files" if ending else "files"
            raise UserError(
                f"{repo.key('')}: HF_HUB_OFFLINE is set and {manifest} names none of its {kind}; unset it once"
            )
        return names
    commit, names = _info(repo)
    same_commit(repo, commit, repo.key(""))
    for name in names:
        if not name.isprintable() or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UserError(f"{repo.key('')}: expected plain file names, got {name!r}; do not use this repository")
    return names


def fetch(repo: Repo, names: Sequence[str], manifest: Path) -> dict[str, Path]:
    """The files `names` of a pinned `repo` as paths in the hub's cache, each held against the manifest.

    What the cache has costs no request. New files are noted together once all are there and checked, so that the
    manifest never names a part of what was asked for.

    Raises:
        UserError: no such file, no access, no network, no space; what to do is in the message.
        CheckFailed: the bytes are not those that the manifest, or else the hub, gives the hash of. Broken bytes are
            removed from the cache.
    """
    if not REVISION.fullmatch(repo.revision):
        raise ValueError(f"pin the revision first, got {repo.revision!r}")
    known = pins.read(manifest)
    _make_room(repo, [name for name in names if _cached(repo, name) is None])
    found: dict[str, Path] = {}
    new: dict[str, str] = {}
    for name in progress.track(names, f"fetch {repo.name}"):
        path = _cached(repo, name) or _download(repo, name)
        new[repo.key(name)] = _check(repo.key(name), path, known.get(repo.key(name)), manifest)
        found[name] = path
    if new.keys() - known.keys():
        known = pins.note(manifest, new)
    for key, digest in new.items():
        if known[key] != digest:  # another process noted other bytes meanwhile
            raise CheckFailed(f"{manifest}: {key}: expected SHA-256 {known[key]}, got {digest}; run again")
    return found


def _cached(repo: Repo, name: str) -> Path | None:
    call = partial(huggingface_hub.try_to_load_from_cache, repo.name, name, None, repo.revision, repo.kind)
    path = server.ask(repo.key(name), call)
    return Path(path) if isinstance(path, str) else None


def whole(repo: Repo, name: str, manifest: Path) -> Path | None:
    """The file in the cache, held against the manifest, else the hub's own hash; None where the cache has it not.

    Nothing is noted: the manifest names weights only together.
    """
    path = _cached(repo, name)
    if path is not None:
        _check(repo.key(name), path, pins.read(manifest).get(repo.key(name)), manifest)
    return path


def _make_room(repo: Repo, missing: Sequence[str]) -> None:
    """Asks the hub for commit and size of each file that is to come, before the first byte of any."""
    if missing and constants.is_offline_mode():
        raise UserError(
            f"{repo.key(missing[0])}: not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set; "
            f"unset it to fetch what is missing ({len(missing)} of the files asked for)"
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
    """Raises UserError where the hub's answer is for another commit than the one that was asked for."""
    if commit != repo.revision:
        raise UserError(
            f"{where}: expected an answer for commit {repo.revision}, got {commit or 'none'}; "
            "check HF_ENDPOINT, and that the revision is a commit of this repository"
        )


def check_space(folder: Path, needed: int, advice: str) -> None:
    """Raises UserError unless the file system of `folder`, which need not exist yet, has `needed` bytes free."""
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free
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
    """The SHA-256 of `path`, held against the manifest's `expected`, else against the hub's own hash.

    The cache names its blobs after that: SHA-256 for large files, git's blob id for the others.
    """
    digest = sha256_of(path)
    if digest == expected:
        return digest
    blob = path.resolve()
    given = blob.name if path.is_symlink() and re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob.name) else ""
    kind, got = ("git blob id", git_blob_id(path)) if len(given) == 40 else ("SHA-256", digest)
    if expected is None:
        if not given:
            raise UserError(
                f"{key}: the hub gives no hash to hold it against; where {digest} is right, "
                f"add the line '{digest}  {key}' to {manifest}"
            )
        if got == given:
            return digest
    elif got == given:
        raise CheckFailed(
            f"{manifest}: {key}: expected SHA-256 {expected}, got {digest}, which is the hub's own; "
            "remove that line if you know why it differs"
        )
    else:
        kind, given, got = "SHA-256", expected, digest
    try:
        blob.unlink()
        path.unlink(missing_ok=True)
        advice = "removed from the cache, run again to fetch it anew"
    except OSError:
        advice = f"remove {blob} and run again"
    raise CheckFailed(f"{key}: expected {kind} {given}, got {got}; {advice}")


def git_blob_id(path: Path) -> str:
    """The id that git gives a file's content: SHA-1 of `blob <bytes>`, a zero byte, and the content."""
    with path.open("rb") as file:
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def fetch_url(url: str, out: Path, *, sha256: str | None = None, git_blob: str | None = None) -> Path:
    """Writes the file at `url` to `out` once its hash is right; an `out` that is already right stays as it is.

    The environment's TLI_MIRROR names a folder, or the address of one, whose file of the same name is taken instead.

    Raises:
        UserError: not to be had.
        CheckFailed: other bytes than those of `sha256`, or of the git blob id `git_blob`. Nothing is written.
    """
    if (sha256 is None) == (git_blob is None):
        raise ValueError("give either sha256 or git_blob")
    kind, expected, hashed = ("SHA-256", sha256, sha256_of) if sha256 else ("git blob id", git_blob, git_blob_id)
    if out.is_file() and hashed(out) == expected:
        return out
    name, mirror = PurePosixPath(urlsplit(url).path).name, os.environ.get("TLI_MIRROR", "")
    if "://" in mirror and not re.fullmatch(r"https?://[\w.-]+(:\d{1,5})?(/\S*)?", mirror):
        raise UserError(
            f"TLI_MIRROR: expected a folder or an address in http or https, got {brief(mirror)}; set another"
        )
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
        if (got := hashed(fetched)) != expected:
            raise CheckFailed(
                f"{source}: expected {kind} {expected}, got {got}; nothing written, run again or check the source"
            )
        os.replace(fetched, out)
    return out
