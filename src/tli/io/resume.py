"""What outlives a stage that is cut off: its finished pieces, and beside them a lock on its output, a tie to its dvc.

DVC removes a stage's outputs before it runs it, so a stage that takes hours keeps what it has finished elsewhere,
in `.kept` beside the output, which git and DVC ignore (.gitignore, .dvcignore). Nothing here computes a number that a
table shows: the pieces of a run that was cut off and the rest of it give the bytes that one run gives.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import IO

import click

from tli.io.errors import UserError
from tli.io.files import MANIFEST, manifest_of, sha256_of, sync, sync_tree

FOLDER = ".kept"
FOLDERS = ("data", "model", "measure", "training", "stages")  # of the package: the code that computes the pieces
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "tokenizers", "safetensors", "numpy")


class Kept:
    """The finished pieces of one output, each a file or a folder under its name and the SHA-256 of its bytes.

    A piece and its hash come into place by one rename, on disk before it; what does not hash to its name (torn by a
    crash, altered since) is not used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str) -> Path | None:
        """The whole piece put last under `name`, or None. What is not whole is removed, and said so."""
        found = [path for path in self.folder.glob("*") if path.name.rpartition(".")[0] == name]
        for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True):
            if digest(path) == path.name.rpartition(".")[2]:
                return path
            click.echo(f"{path}: not as its hash says; it is made again", err=True)
            _remove(path)
        return None

    def put(self, name: str, write: Callable[[Path], object]) -> Path:
        """Keeps what `write` writes at the path it is given, a file or a folder, as `name`, in place of any before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        before = [path for path in self.folder.glob("*") if path.name.rpartition(".")[0] == name]
        inside = Path(tempfile.mkdtemp(dir=self.folder, prefix=TEMPORARY))
        try:
            write(inside / name)
            sync_tree(inside / name)
            os.utime(inside / name)  # a folder's time is that of its last entry, not of its last byte
            path = self.folder / f"{name}.{digest(inside / name)}"
            if path not in before:
                os.replace(inside / name, path)
                sync(self.folder)
        finally:
            _remove(inside)  # at once: half a piece may be what fills the disk
        for old in before:
            if old != path:
                _remove(old)
        return path

    def piece(self, name: str, write: Callable[[Path], object]) -> Path:
        """The piece `name`: the one kept, or what `write` writes now."""
        return self.get(name) or self.put(name, write)


TEMPORARY = ".piece-"


@contextmanager
def pieces(out: Path, inputs: Iterable[Path], **settings: object) -> Iterator[Kept]:
    """The pieces kept for the output `out`; removed when the block ends without an error, kept when it does not.

    They are found again only by a run in which nothing is different that they depend on: the bytes of `inputs` (a
    folder with a manifest by its manifest), `settings`, the modules that compute them, packages, threads and processor.
    What was kept for `out` under another of these is removed. The caller holds the output's `lock`.

    Args:
        out: the stage's output; when the block ends, everything that the stage writes is in place.
        inputs: files and folders that the pieces depend on.
        settings: parameters that they depend on: whatever JSON holds, and objects with attributes that it holds.
    """
    key = _circumstances() | {"inputs": {str(path): fingerprint(path) for path in inputs}, "settings": settings}
    text = json.dumps(key, sort_keys=True, separators=(",", ":"), default=vars)
    own = out.parent / FOLDER / out.name / hashlib.sha256(text.encode()).hexdigest()[:16]
    for path in own.parent.glob("*"):
        if path != own:
            _remove(path)
    for path in own.glob(f"{TEMPORARY}*"):
        _remove(path)
    yield Kept(own)
    with suppress(FileNotFoundError):  # nothing was kept
        shutil.rmtree(own.parent)
    with suppress(OSError):  # another output's pieces or lock are there
        own.parent.parent.rmdir()


def _circumstances() -> dict[str, object]:
    """What a piece depends on beside inputs and settings: code, packages, threads, instruction set, processor."""
    package = Path(__file__).parents[1]
    code = hashlib.sha256()
    for file in sorted(file for folder in FOLDERS for file in (package / folder).rglob("*.py")):
        code.update(f"{sha256_of(file)}  {file.relative_to(package)}\n".encode())
    found: dict[str, object] = {
        "code": code.hexdigest(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "processor": _processor(),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        found["threads"] = torch.get_num_threads()
        found["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
        found["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return found


def _processor() -> str:
    """The processor's name: two kinds may round differently, so that their pieces would not fit together."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def fingerprint(path: Path) -> str:
    """A file's SHA-256; a folder's is that of its manifest, or of the one that it would have."""
    manifest = path / MANIFEST
    return sha256_of(manifest) if manifest.is_file() else digest(path)


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the lines `hash  name` of all files in a folder."""
    if not path.is_dir():
        return sha256_of(path)
    return hashlib.sha256(manifest_of(path).encode()).hexdigest()


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def lock(out: Path) -> Iterator[None]:
    """Holds `out` for this process: a second that would write it ends at once. The kernel frees it when we end.

    Raises:
        UserError: another process holds it; the line says which, where and since when.
    """
    path = out.parent / FOLDER / f"{out.name}.lock"
    with _locked(path, out) as file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S %z')},")
        file.flush()
        try:
            yield
        finally:
            path.unlink()
            with suppress(OSError):  # pieces are kept there, or another output's lock
                path.parent.rmdir()


def _locked(path: Path, out: Path) -> IO[str]:
    """The file at `path`, locked, and still at `path` then: the holder before removes it before it lets go."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError), ExitStack() as stack:
            file = stack.enter_context(path.open("a+", encoding="utf-8"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise UserError(f"{out}: {holder} is writing it; wait for that run, or end it") from None
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                stack.pop_all()
                return file


def end_with_dvc() -> None:
    """Run by DVC on Linux, this process is killed when DVC ends, however it ends: nobody would take up its outputs.

    A thread waits for it on DVC's pidfd. The kernel's own signal at a parent's death would not do: DVC runs a command
    through a shell, and dash stays in between. Started by hand, with nohup say, a stage lives on.

    Raises:
        UserError: DVC has ended already.
    """
    if sys.platform != "linux" or "DVC_STAGE" not in os.environ:
        return
    dvc = _dvc()
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(dvc)
        if _dvc() == dvc and not _adopted(dvc):  # still ours, so that the handle is of no process that came after it
            Thread(target=_end_after, args=(handle,), daemon=True).start()
            return
    raise UserError("dvc has ended, and so does the stage that it started; run `dvc repro` again")


def _end_after(handle: int) -> None:
    ended = select.poll()
    ended.register(handle, select.POLLIN)
    ended.poll()
    os.kill(os.getpid(), signal.SIGKILL)


def _dvc() -> int:
    """The nearest ancestor that is not a stage's command or the shell that runs it."""
    pid = os.getppid()
    while b"DVC_STAGE=" in _proc(pid, "environ"):
        above = re.search(rb"^PPid:\t(\d+)$", _proc(pid, "status"), re.M)
        pid = int(above[1]) if above else os.getppid()
    return pid


def _adopted(parent: int) -> bool:
    """Whether `parent` took us over from a DVC that ended: it is none, and the first process or of another session."""
    return b"dvc" not in _proc(parent, "cmdline") and (parent == 1 or os.getsid(parent) != os.getsid(0))


def _proc(pid: int, name: str) -> bytes:
    """A file of /proc; empty where we may not read it or the process has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""
