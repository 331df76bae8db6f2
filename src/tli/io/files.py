"""Files are written as a whole or not at all: a temporary file or folder is renamed once it is on disk. Hashes."""

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
    """Opens a temporary file beside `path` and renames it over `path` once it is whole and on disk."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
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
        _name(error, path)
        raise


@contextmanager
def atomic_dir(path: Path | str) -> Iterator[Path]:
    """Yields a temporary folder beside `path` that takes its place once the block ends without an error.

    A folder that stood there is renamed aside, not emptied first: between two renames there is neither, never a part.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    held = os.open(temporary, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield temporary
        sync_tree(temporary)
        if path.is_dir():
            aside = tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.")
            os.replace(path, aside)
            os.replace(temporary, path)
            shutil.rmtree(aside)
        else:
            os.replace(temporary, path)
        sync(path.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _name(error, path)
        raise
    finally:
        os.close(held)


def _name(error: BaseException, path: Path) -> None:
    """Names the output in an error that names no file, as that of a write to a full disk."""
    if isinstance(error, OSError) and error.filename is None:
        error.filename = str(path)


def _sweep(path: Path) -> None:
    """Removes what killed processes left beside `path` on their way to it; who is alive holds a lock on its own."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'[a-z0-9_]' * 8}"):  # as tempfile names them
        with suppress(FileNotFoundError, PermissionError, BlockingIOError):
            handle = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            finally:
                os.close(handle)


def sync(path: Path) -> None:
    """Waits until a file's bytes or a folder's names are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(path: Path) -> None:
    """The same of a folder with all that is in it, or of a file, under the modes that the umask leaves."""
    mask = _umask()
    for each in (*path.rglob("*"), path):
        each.chmod((0o777 if each.is_dir() else 0o666) & ~mask)
        sync(each)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_text(path: Path | str, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text)


def read_text(path: Path | str) -> str:
    """The file's text; a file that is not there or not text is the user's to mend."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path (what a stage writes, `dvc repro` makes)") from None
    except OSError as error:
        raise UserError(f"{path}: expected a file that can be read, got {error.strerror}; check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None


def sha256_of(path: Path | str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


MANIFEST = "SHA256SUMS"


def write_manifest(folder: Path) -> None:
    """Writes `folder`/SHA256SUMS, the folder's `manifest`."""
    write_text(folder / MANIFEST, manifest_of(folder))


def manifest_of(folder: Path) -> str:
    """The hashes of a folder's files in the format of sha256sum, one line a file, sorted by path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    return "".join(f"{sha256_of(file)}  {file.relative_to(folder)}\n" for file in files)
