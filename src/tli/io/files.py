"""Atomic writes and file hashes. A file or folder is written under a temporary name and renamed once it is on disk."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from tli.io.errors import UserError


@contextmanager
def atomic_write(path: Path | str, newline: str = "\n") -> Iterator[IO[str]]:
    """Yields a temporary text file beside `path`, and renames it to `path` when the block ends without an error.

    If the block raises, the temporary file is removed and `path` keeps its content.

    Args:
        path: the file to write; missing parent folders are created.
        newline: what each line feed is written as.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline=newline) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        sync(path.parent)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        _set_filename(error, path)
        raise


@contextmanager
def atomic_dir(path: Path | str) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, and renames it to `path` when the block ends without an error.

    A folder that is at `path` already is renamed first and deleted last. So `path` is the old folder, missing for a
    moment, or the new folder, but never a part of either.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    handle = os.open(temporary, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield temporary
        sync_tree(temporary)
        if path.is_dir():
            old = tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.")
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
        sync(path.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _set_filename(error, path)
        raise
    finally:
        os.close(handle)


def _set_filename(error: BaseException, path: Path) -> None:
    """Adds the output's path to a system error that has none, such as a write to a full disk."""
    if isinstance(error, OSError) and error.filename is None:
        error.filename = str(path)


def _remove_abandoned(path: Path) -> None:
    """Removes temporary files of `path` that killed processes left. A live process holds a lock on its own file."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{'[a-z0-9_]' * 8}"):  # the names that tempfile makes
        with suppress(FileNotFoundError, PermissionError, BlockingIOError):
            handle = os.open(leftover, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            finally:
                os.close(handle)


def sync(path: Path) -> None:
    """Waits until the bytes of a file, or the names in a folder, are on disk (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(path: Path) -> None:
    """Sets the usual permissions (by the umask) on a file, or on a folder and all it contains, and syncs each."""
    mask = _umask()
    for entry in (*path.rglob("*"), path):
        entry.chmod((0o777 if entry.is_dir() else 0o666) & ~mask)
        sync(entry)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_text(path: Path | str, text: str) -> None:
    """Writes `text` to `path` atomically, as UTF-8."""
    with atomic_write(path) as file:
        file.write(text)


def read_text(path: Path | str) -> str:
    """Returns the text of a UTF-8 file.

    Raises:
        UserError: the file is missing, cannot be read, or is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; check the path (`dvc repro` makes the files that stages write)"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: expected a readable file, got {error.strerror}; check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None


def sha256_of(path: Path | str) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


MANIFEST = "SHA256SUMS"


def write_manifest(folder: Path) -> None:
    """Writes the hashes of the folder's files to `folder`/SHA256SUMS."""
    write_text(folder / MANIFEST, manifest_of(folder))


def manifest_of(folder: Path) -> str:
    """Returns the hashes of the folder's files in the format of sha256sum, one line per file, sorted by path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    return "".join(f"{sha256_of(file)}  {file.relative_to(folder)}\n" for file in files)
