"""What a job of `tli submit` does on its node: runs a cell's command, as DVC would, in a folder of its own.

An attempt's folder looks to the command like the checkout: params.yaml as it was submitted, and what the stage reads,
under the same relative paths. What an attempt that was cut off had finished (tli/kept.py) the next one takes over by a
rename. So two attempts never write to one place, even where a node that was given up lives on, and no lock has to hold
across nodes. The last thing that a successful attempt writes is done.json: the hashes of what it read and wrote.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tli.cluster import cells
from tli.io import resume
from tli.io.errors import CheckFailed
from tli.io.structured import read_json, write_json

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

WAIT = 120  # seconds for which a file that another node wrote may stay unseen, at most
ENDED = (signal.SIGTERM, signal.SIGINT)  # of these a stage dies because somebody wants it to


class Attempts:
    """What submitit hands to a job: the name of this class, and a cell's folder. Nothing else is pickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __call__(self) -> None:
        """Runs in the job. SIGTERM, which submitit would pass over, ends it: preempted, cancelled."""
        signal.signal(signal.SIGTERM, _end)
        run(Path(self.folder))

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit before the time is up: ends the stage, whose pieces are kept, and asks to be requeued."""
        from submitit.helpers import DelayedSubmission

        for stage in _running:
            stage.kill()
        return DelayedSubmission(self)


_running: list[subprocess.Popen[bytes]] = []


def _end(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def run(folder: Path) -> None:
    """Attempts at the cell of `folder` until one succeeds.

    A stage that is killed is tried again, as often as cell.json has it; one that fails for its own reason is not.

    Raises:
        CheckFailed: it failed, or was cut off too often; failed.json of the last attempt holds the line.
    """
    spec = read_json(folder / cells.SPEC)
    while cells.finished(folder) is None:
        before = cells.attempts(folder)
        if before and int(before[-1].name) >= spec["last"]:
            _fail(before[-1], f"cut off {len(before)} times; give it more time or memory, and `tli submit` again")
        attempt = folder / str(int(before[-1].name) + 1 if before else 1)
        attempt.mkdir()
        try:
            read = _lay_out(attempt, spec, before)
        except (OSError, CheckFailed) as error:
            _fail(attempt, str(error))
        try:
            code = _stage(attempt, spec)
        except RuntimeError as error:  # submitit's, when the time has been up too often
            _fail(attempt, str(error))
        if code > 0:
            _fail(attempt, cells.last_line(cells.log(attempt)) or f"exit status {code}")
        if -code in ENDED:
            raise SystemExit(128 - code)
        if code == 0:
            wrote = {out: resume.digest(attempt / out) for out in spec["outs"]}
            where = {"host": socket.gethostname(), "job": os.environ.get("SLURM_JOB_ID", "-")}
            write_json(attempt / cells.DONE, {"inputs": read, "outs": wrote, **where})


def _fail(attempt: Path, line: str) -> None:
    write_json(attempt / cells.FAILED, {"line": line})
    raise CheckFailed(line)


def _lay_out(attempt: Path, spec: Mapping[str, Any], before: list[Path]) -> dict[str, str]:
    """Makes the attempt's folder what the command expects; returns the fingerprints of what it will read.

    Raises:
        CheckFailed: an input is not there within `WAIT` seconds, or not what the cell that wrote it says.
    """
    shutil.copyfile(attempt.parent / "params.yaml", attempt / "params.yaml")
    read = {}
    for path, writer in spec["inputs"].items():
        target = attempt / path
        target.parent.mkdir(parents=True, exist_ok=True)
        made = _awaited(Path(spec["root"]), writer, path)
        if writer is None or made == Path(spec["root"]):
            target.symlink_to(made / path)
        else:  # a copy: `tli collect` may move the cell's outputs while this one reads them
            (shutil.copytree if (made / path).is_dir() else shutil.copy)(made / path, target)
            if resume.digest(target) != read_json(made / cells.DONE)["outs"][path]:
                raise CheckFailed(f"{made / path}: not what {cells.DONE} says was written; run that cell again")
        read[path] = resume.fingerprint(target)
    for out in map(Path, spec["outs"]):
        (attempt / out).parent.mkdir(parents=True, exist_ok=True)
        place = out.parent / resume.FOLDER / out.name
        for earlier in reversed(before):
            if (earlier / place).is_dir():
                (attempt / place).parent.mkdir(parents=True, exist_ok=True)
                os.replace(earlier / place, attempt / place)
                break
    return read


def _awaited(root: Path, writer: str | None, path: str) -> Path:
    """The folder under which an input stands: the finished attempt of the cell that writes it, or the checkout.

    Another node's files may be seen late; so they are waited for.
    """
    end = time.monotonic() + WAIT
    while True:
        done = cells.finished(root / writer) if writer else None
        if done or ((writer is None or not (root / writer).exists()) and (root / path).exists()):
            return done or root
        if time.monotonic() > end:
            raise CheckFailed(f"{root / path}: expected this input, found none in {WAIT} s; see who writes it")
        os.listdir(root / writer if writer else (root / path).parent)  # has a network file system look anew
        time.sleep(1)


def _stage(attempt: Path, spec: Mapping[str, Any]) -> int:
    """Runs the command, its output in stdout.txt and stderr.txt; its exit status, or minus the signal that it died of.

    As under DVC it ends with its parent, however that ends (`kept.end_with_dvc`). Slurm's warning before the time is
    up goes to every process of the job: it is ours, so the stage ignores it.
    """
    environment = os.environ | {"PYTHONPATH": spec["source"], "DVC_STAGE": spec["stage"]}
    with (attempt / cells.STDOUT).open("ab") as stdout, (attempt / cells.STDERR).open("ab") as stderr:
        stage = subprocess.Popen(
            spec["command"],
            cwd=attempt,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
        )
        _running.append(stage)
        try:
            return stage.wait()
        finally:
            stage.kill()
            stage.wait()
            _running.remove(stage)
