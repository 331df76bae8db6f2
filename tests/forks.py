"""Stages as forks of one process that has imported all they need: each costs its own work, and dies where it is told.

`Forks` starts this file as a program, which forks itself for each call. A fork can be killed just before the n-th
change that Python is about to make to files of the checkout (Python's audit events, and fsync), or after some seconds.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tli.commands.process import PORTABLE

LIMIT = 300  # seconds until a stage that takes a few is given up
STEPS = 5  # from one kept state of pre-training to the next: the smoke parameters have 12 steps in all
CHANGES = {  # audit event -> which of its arguments is the path that changes
    "open": 0,
    "os.rename": 1,
    "os.link": 1,
    "os.symlink": 1,
    "os.mkdir": 0,
    "os.remove": 0,
    "os.rmdir": 0,
    "os.chmod": 0,
    "os.utime": 0,
    "os.truncate": 0,
    "shutil.rmtree": 0,
    "fsync": 0,
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Ended(NamedTuple):
    """How a fork ended: exit status or minus the signal, what it was about to change (event, path), seconds, words."""

    code: int
    changes: list[tuple[str, str]]
    seconds: float
    said: str

    @property
    def pieces(self) -> list[str]:
        """The pieces that it put into `.kept`, each as NAME.SHA256, in order."""
        renamed = (Path(path) for event, path in self.changes if event == "os.rename")
        return [path.name for path in renamed if re.search(r"/\.kept/[^/]+/\w{16}/[^/]+\.\w{64}$", str(path))]


class Forks:
    """Runs `tli` commands in the folder `root`, by forks of one process; `before` is put before its command."""

    def __init__(self, root: Path, env: dict[str, str], scratch: Path, before: Sequence[str] = ()) -> None:
        self.changes, self.said = scratch / "changes", scratch / "said"
        offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [*before, sys.executable, __file__],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # libraries that are imported already choose their code before a stage could set it
            env=env | offline | PORTABLE | {"PYTHONDONTWRITEBYTECODE": "1", "TOKENIZERS_PARALLELISM": "false"},
        )

    def __call__(
        self,
        command: Sequence[str],
        *,
        number: int = signal.SIGKILL,
        change: int | None = None,
        after: float | None = None,
        limits: dict[str, int] | None = None,
    ) -> Ended:
        """Runs `tli COMMAND`.

        Args:
            number: the signal that kills it,
            change: before its change of this number, from 0 on;
            after: or this many seconds after its fork, where it has not ended by then.
            limits: resource (`AS`, `FSIZE`) -> limit in bytes, of AS beyond what is in use at the fork. Changes are
                not noted then.
        """
        asked = {
            "command": [*command],
            "number": int(number),
            "change": change,
            "after": after,
            "limits": limits or {},
            "changes": str(self.changes),
            "said": str(self.said),
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        assert answer, "the process that forks has ended"
        code, seconds = json.loads(answer)
        lines = self.changes.read_text(encoding="utf-8").splitlines()
        changes = [(event, path) for event, path in map(json.loads, lines)]
        return Ended(code, changes, seconds, self.said.read_text(encoding="utf-8"))

    def close(self) -> None:
        self.process.communicate(timeout=LIMIT)


def serve() -> None:
    """Imports everything, then forks for each line of standard input and answers when the fork has ended."""
    import importlib
    import logging
    import pkgutil

    import tli

    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # as every stage does
    for module in pkgutil.walk_packages(tli.__path__, "tli."):
        importlib.import_module(module.name)
    importlib.import_module("dvclive.live")
    importlib.import_module("tli.model.pretrain").STEPS_PER_CHECKPOINT = STEPS
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for line in sys.stdin:
        asked = json.loads(line)
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            try:
                code = run(asked)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
        code = ended(child, asked["after"], asked["number"])
        print(json.dumps([code, time.monotonic() - start]), file=answers, flush=True)


def ended(child: int, after: float | None, number: int) -> int:
    """Waits for the fork, kills it where it is time to, and returns its exit status or minus its signal."""
    start = time.monotonic()
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        passed = time.monotonic() - start
        if passed > LIMIT or (after is not None and passed > after):
            os.kill(child, signal.SIGKILL if passed > LIMIT else number)
            after = None
        time.sleep(0.001)


def run(asked: dict[str, Any]) -> int:
    """The fork's part: a `tli` command with its words in a file, its changes noted in another."""
    from tli.cli import main

    said = os.open(asked["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    null = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, null), (1, said), (2, said)):
        os.dup2(source, target)
    Path(asked["changes"]).write_text("", encoding="utf-8")
    if not asked["limits"]:
        watch(asked["changes"], asked["change"], asked["number"])
    for name, limit in asked["limits"].items():
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if name == "AS" else 0
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (used + limit, used + limit))
    sys.argv = ["tli", *asked["command"]]
    try:
        main(asked["command"], prog_name="tli")
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    return 70


def watch(notes: str, change: int | None, number: int) -> None:
    """Notes each change before it is made, and kills this process before that of number `change`."""
    root, file, seen = os.getcwd(), os.open(notes, os.O_WRONLY | os.O_APPEND), 0
    fsync = os.fsync

    def note(event: str, path: str) -> None:
        nonlocal seen
        if seen == change:
            os.kill(os.getpid(), number)
            signal.pause()
        seen += 1
        os.write(file, f"{json.dumps([event, path])}\n".encode())

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in CHANGES or (event == "open" and not (isinstance(args[2], int) and args[2] & WRITES)):
            return
        path = args[CHANGES[event]]
        if isinstance(path, str | bytes | os.PathLike):
            absolute = os.path.join(root, os.fsdecode(path))  # of a path that is relative to an open folder: its name
            if absolute.startswith(f"{root}/"):
                note(event, os.path.relpath(absolute, root))

    def noted_fsync(handle: int) -> None:
        note("fsync", os.path.relpath(os.readlink(f"/proc/self/fd/{handle}"), root))
        fsync(handle)

    os.fsync = noted_fsync
    sys.addaudithook(hook)


if __name__ == "__main__":
    serve()
