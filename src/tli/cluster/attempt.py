"""The job of `tli submit`: runs the command of one sweep stage, as DVC would, in a folder for each attempt.

To the command, an attempt's folder looks like the checkout: it contains params.yaml as it was submitted, and the
stage's inputs under the same relative paths. The next attempt takes over the checkpoints (io/resume.py) of an
interrupted one by renaming their folder. So two attempts never write to the same place, even if a node that was
believed dead still runs, and no lock has to work across nodes. A successful attempt writes done.json last: the hashes
of its inputs and outputs.
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

from tli.cluster import tasks
from tli.io import resume
from tli.io.errors import CheckFailed
from tli.io.structured import read_json, write_json

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

WAIT = 120  # seconds to wait for a file that another node wrote to become visible
ENDED = (signal.SIGTERM, signal.SIGINT)  # signals by which somebody ends a stage on purpose


class Attempts:
    """The callable that submitit pickles for a job: only the name of this class and the path of a stage's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __call__(self) -> None:
        """Runs in the job. Makes SIGTERM (preempted or cancelled) end the job; submitit would ignore it."""
        signal.signal(signal.SIGTERM, _end)
        run(Path(self.folder))

    def checkpoint(self) -> DelayedSubmission:
        """Ends the stage, whose checkpoints stay, and asks for a requeue. submitit calls it near the time limit."""
        from submitit.helpers import DelayedSubmission

        for stage in _running:
            stage.kill()
        return DelayedSubmission(self)


_running: list[subprocess.Popen[bytes]] = []


def _end(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def run(folder: Path) -> None:
    """Runs the stage of `folder` until an attempt succeeds.

    A stage that was killed is tried again, as often as task.json allows. A stage that exits with an error is not.

    Args:
        folder: the stage's folder (tasks.Task.folder), with task.json and params.yaml.

    Raises:
        CheckFailed: the stage failed or was interrupted too often; failed.json of the last attempt holds the message.
    """
    spec = read_json(folder / tasks.SPEC)
    while tasks.finished(folder) is None:
        earlier = tasks.attempts(folder)
        if earlier and int(earlier[-1].name) >= spec["last"]:
            _fail(earlier[-1], f"killed {len(earlier)} times; give it more time or memory, and run `tli submit` again")
        attempt = folder / str(int(earlier[-1].name) + 1 if earlier else 1)
        attempt.mkdir()
        try:
            input_hashes = _lay_out(attempt, spec, earlier)
        except (OSError, CheckFailed) as error:
            _fail(attempt, str(error))
        try:
            code = _stage(attempt, spec)
        except RuntimeError as error:  # submitit raises it when the time limit was reached too often
            _fail(attempt, str(error))
        if code > 0:
            _fail(attempt, tasks.last_line(tasks.log(attempt)) or f"exit status {code}")
        if -code in ENDED:
            raise SystemExit(128 - code)
        if code == 0:
            output_hashes = {out: resume.digest(attempt / out) for out in spec["outs"]}
            where = {"host": socket.gethostname(), "job": os.environ.get("SLURM_JOB_ID", "-")}
            write_json(attempt / tasks.DONE, {"inputs": input_hashes, "outs": output_hashes, **where})


def _fail(attempt: Path, line: str) -> None:
    """Writes `line` to failed.json and raises CheckFailed with it."""
    write_json(attempt / tasks.FAILED, {"line": line})
    raise CheckFailed(line)


def _lay_out(attempt: Path, spec: Mapping[str, Any], earlier: list[Path]) -> dict[str, str]:
    """Fills the attempt's folder with what the command reads, and with the checkpoints of earlier attempts.

    Returns:
        Input path -> its hash.

    Raises:
        CheckFailed: an input is not visible within `WAIT` seconds, or differs from what its stage wrote.
    """
    shutil.copyfile(attempt.parent / "params.yaml", attempt / "params.yaml")
    input_hashes = {}
    for path, writer in spec["inputs"].items():
        target = attempt / path
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = _wait_for(Path(spec["root"]), writer, path)
        if writer is None or folder == Path(spec["root"]):
            target.symlink_to(folder / path)
        else:  # a copy, because `tli collect` may move the other stage's outputs while this one reads them
            (shutil.copytree if (folder / path).is_dir() else shutil.copy)(folder / path, target)
            if resume.digest(target) != read_json(folder / tasks.DONE)["outs"][path]:
                raise CheckFailed(f"{folder / path}: differs from the hash in {tasks.DONE}; run that stage again")
        input_hashes[path] = resume.fingerprint(target)
    for out in map(Path, spec["outs"]):
        (attempt / out).parent.mkdir(parents=True, exist_ok=True)
        checkpoints = out.parent / resume.FOLDER / out.name
        for other in reversed(earlier):
            if (other / checkpoints).is_dir():
                (attempt / checkpoints).parent.mkdir(parents=True, exist_ok=True)
                os.replace(other / checkpoints, attempt / checkpoints)
                break
    return input_hashes


def _wait_for(root: Path, writer: str | None, path: str) -> Path:
    """The folder that contains the input `path`: the finished attempt of the stage that writes it, or the checkout.

    Waits up to `WAIT` seconds, because files of another node may become visible late.

    Args:
        root: the checkout.
        writer: the folder of the stage that writes the input, relative to `root`; None if no sweep stage writes it.
        path: the input, relative to the checkout.
    """
    end = time.monotonic() + WAIT
    while True:
        done = tasks.finished(root / writer) if writer else None
        if done or ((writer is None or not (root / writer).exists()) and (root / path).exists()):
            return done or root
        if time.monotonic() > end:
            raise CheckFailed(f"{root / path}: expected this input, got none in {WAIT} s; see the stage that writes it")
        os.listdir(root / writer if writer else (root / path).parent)  # makes a network file system look again
        time.sleep(1)


def _stage(attempt: Path, spec: Mapping[str, Any]) -> int:
    """Runs the command with its output in stdout.txt and stderr.txt.

    As under DVC, the command ends when its parent ends (`resume.end_with_dvc`). Slurm sends its warning before the time
    limit to every process of the job; this process handles it, so the command ignores it.

    Returns:
        The exit status, or minus the number of the signal that killed the command.
    """
    environment = os.environ | {"PYTHONPATH": spec["source"], "DVC_STAGE": spec["stage"]}
    with (attempt / tasks.STDOUT).open("ab") as stdout, (attempt / tasks.STDERR).open("ab") as stderr:
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
