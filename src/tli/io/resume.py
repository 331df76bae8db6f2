"""Resume support: finished checkpoints, an output lock, and a watchdog that exits with the parent DVC process.

DVC removes a stage's outputs before it runs the stage. So a stage that takes hours stores the parts that it has
finished in `.kept` beside the output, which git and DVC ignore (.gitignore, .dvcignore). A run that was interrupted and
resumed writes the same bytes as a run without an interruption.
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
CODE = ("data", "measure", "model", "stages", "training")  # folders of the package with the code behind checkpoints
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "tokenizers", "safetensors", "numpy")


class Checkpoints:
    """The checkpoints of one output: files or folders, each named by its name and the SHA-256 of its bytes.

    A checkpoint is synced to disk and then renamed to its final name. One whose bytes do not match the hash in its name
    (torn by a crash, or changed since) is not used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str) -> Path | None:
        """Returns the newest intact checkpoint `name`, or None. A damaged one is removed, with a message."""
        paths = [path for path in self.folder.glob("*") if path.name.rpartition(".")[0] == name]
        for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True):
            if digest(path) == path.name.rpartition(".")[2]:
                return path
            click.echo(f"{path}: the bytes do not match the hash in the name; it is computed again", err=True)
            _remove(path)
        return None

    def put(self, name: str, write: Callable[[Path], object]) -> Path:
        """Stores a checkpoint `name` and removes older ones of that name.

        Args:
            name: the checkpoint's name.
            write: is called with a path and writes a file or a folder there.

        Returns:
            The checkpoint's path.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        earlier = [path for path in self.folder.glob("*") if path.name.rpartition(".")[0] == name]
        temporary = Path(tempfile.mkdtemp(dir=self.folder, prefix=TEMPORARY))
        try:
            write(temporary / name)
            sync_tree(temporary / name)
            os.utime(temporary / name)  # writing to a file in a folder does not update the folder's time
            path = self.folder / f"{name}.{digest(temporary / name)}"
            if path not in earlier:
                os.replace(temporary / name, path)
                sync(self.folder)
        finally:
            _remove(temporary)  # at once: an unfinished checkpoint may have filled the disk
        for old in earlier:
            if old != path:
                _remove(old)
        return path

    def get_or_make(self, name: str, write: Callable[[Path], object]) -> Path:
        """Returns the stored checkpoint `name`, or stores what `write` writes (see `put`)."""
        return self.get(name) or self.put(name, write)


TEMPORARY = ".piece-"


@contextmanager
def checkpoints(out: Path, inputs: Iterable[Path], **settings: object) -> Iterator[Checkpoints]:
    """Yields the checkpoints of the output `out`; removes them if the block ends without an error.

    Only a run with the same inputs, settings, code, packages, threads and processor finds them again; checkpoints of
    `out` made under others are removed. The caller holds the output's `lock`.

    Args:
        out: the stage's output; when the block ends, everything that the stage writes is in place.
        inputs: files and folders that the checkpoints depend on; of a folder with a manifest the manifest is hashed.
        settings: parameters that they depend on: values that JSON can hold, or objects with such attributes.
    """
    key = _environment() | {"inputs": {str(path): fingerprint(path) for path in inputs}, "settings": settings}
    text = json.dumps(key, sort_keys=True, separators=(",", ":"), default=vars)
    folder = out.parent / FOLDER / out.name / hashlib.sha256(text.encode()).hexdigest()[:16]
    for path in folder.parent.glob("*"):
        if path != folder:
            _remove(path)
    for path in folder.glob(f"{TEMPORARY}*"):
        _remove(path)
    yield Checkpoints(folder)
    with suppress(FileNotFoundError):  # there were no checkpoints
        shutil.rmtree(folder.parent)
    with suppress(OSError):  # checkpoints or a lock of another output are there
        folder.parent.parent.rmdir()


def _environment() -> dict[str, object]:
    """What a checkpoint depends on besides inputs and settings: code, packages, threads, instructions, processor."""
    package = Path(__file__).parents[1]
    code = hashlib.sha256()
    for file in sorted(file for folder in CODE for file in (package / folder).rglob("*.py")):
        code.update(f"{sha256_of(file)}  {file.relative_to(package)}\n".encode())
    environment: dict[str, object] = {
        "code": code.hexdigest(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "processor": _processor(),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        environment["threads"] = torch.get_num_threads()
        environment["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
        environment["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return environment


def _processor() -> str:
    """The processor's name. Two models may round differently, so their checkpoints must not be mixed."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def fingerprint(path: Path) -> str:
    """Returns the SHA-256 of a file, of a folder's manifest, or of the manifest that the folder would have."""
    manifest = path / MANIFEST
    return sha256_of(manifest) if manifest.is_file() else digest(path)


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file, or of the lines `hash  name` of all files in a folder (files.manifest_of)."""
    if not path.is_dir():
        return sha256_of(path)
    return hashlib.sha256(manifest_of(path).encode()).hexdigest()


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def lock(out: Path) -> Iterator[None]:
    """Locks the output `out` for this process. The kernel frees the lock when the process ends.

    Raises:
        UserError: another process holds the lock; the message says which process, where and since when.
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
            with suppress(OSError):  # checkpoints or another output's lock are there
                path.parent.rmdir()


def _locked(path: Path, out: Path) -> IO[str]:
    """Locks the file at `path` and returns it. Retries if a previous holder removed the file before unlocking it."""
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
    """Makes this process exit when the DVC process that started it ends, because nothing would use its outputs.

    Works on Linux, by a thread that waits on DVC's pidfd. The kernel's parent-death signal would not be enough: DVC
    runs a command through a shell, and dash stays between the two. A stage that a person starts is not affected.

    Raises:
        UserError: DVC has ended already.
    """
    if sys.platform != "linux" or "DVC_STAGE" not in os.environ:
        return
    dvc = _dvc()
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(dvc)
        if _dvc() == dvc and not _adopted(dvc):  # still our ancestor: the handle is not of a later process with its id
            Thread(target=_end_after, args=(handle,), daemon=True).start()
            return
    raise UserError("dvc has ended, and so does the stage that it started; run `dvc repro` again")


def _end_after(handle: int) -> None:
    ended = select.poll()
    ended.register(handle, select.POLLIN)
    ended.poll()
    os.kill(os.getpid(), signal.SIGKILL)


def _dvc() -> int:
    """The id of the nearest ancestor that is neither a stage's command nor the shell that runs it."""
    pid = os.getppid()
    while b"DVC_STAGE=" in _proc(pid, "environ"):
        parent = re.search(rb"^PPid:\t(\d+)$", _proc(pid, "status"), re.M)
        pid = int(parent[1]) if parent else os.getppid()
    return pid


def _adopted(parent: int) -> bool:
    """Whether `parent` adopted us after DVC ended: it is not DVC, and it is process 1 or in another session."""
    return b"dvc" not in _proc(parent, "cmdline") and (parent == 1 or os.getsid(parent) != os.getsid(0))


def _proc(pid: int, name: str) -> bytes:
    """The content of /proc/PID/NAME; empty if we may not read it or the process has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""
