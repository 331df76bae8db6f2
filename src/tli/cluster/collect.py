"""`tli collect`: moves the outputs of jobs into the checkout and commits them to DVC; `dvc repro` then does the rest.

A stage is collected only if

- its key (tasks.py) is that of the current commands, parameters and files,
- the current inputs have the hashes that the job noted,
- its outputs have the hashes that the job noted, and
- its receipt names the same command, threads and packages.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tli.cluster import tasks
from tli.cluster.tasks import Task
from tli.config.parameters import Params
from tli.io import resume
from tli.io.errors import CheckFailed
from tli.io.receipts import PACKAGES
from tli.io.structured import read_json


def run(targets: Sequence[str], params: Params) -> None:
    """Collects every stale sweep stage whose job is done, commits them to DVC, and prints how many are left.

    Args:
        targets: stages or files of DVC, as for `dvc repro`.
        params: the current parameters.

    Raises:
        UserError: another stage must run first (see tasks.sweep_tasks).
        CheckFailed: the outputs of a job do not match their hashes, or were made under other inputs or settings.
    """
    stale = [task for task in tasks.sweep_tasks(targets) if task.stale]
    collected, problems, left = list[Task](), list[str](), {task.stage for task in stale}
    for task in stale:
        attempt = tasks.finished(task.folder)
        if attempt is None or not left.isdisjoint(task.after):
            continue
        try:
            _check(task, attempt, params.active.compute.threads)
        except CheckFailed as error:
            problems.append(error.message)
            continue
        _move(task, attempt)
        collected.append(task)
        left.remove(task.stage)
    if collected:
        call = [sys.executable, "-m", "dvc", "commit", "--quiet", "--force", *(task.stage for task in collected)]
        subprocess.run(call, check=True)
        for task in collected:
            shutil.rmtree(task.folder)
        if not list(tasks.FOLDER.glob(f"*/{tasks.SPEC}")):
            shutil.rmtree(tasks.FOLDER)
    click.echo(f"{len(collected)} stages collected, {len(left)} left")
    if problems:
        raise CheckFailed("\n  ".join([f"{len(problems)} stages not collected:", *problems]))


def _check(task: Task, attempt: Path, threads: int) -> None:
    """Raises CheckFailed if a run of the current checkout could differ from the attempt."""
    done = read_json(attempt / tasks.DONE)
    for path, expected in done["inputs"].items():
        _check_equal(f"{task.stage}: the hash of its input {path}", resume.fingerprint(Path(path)), expected)
    for path, expected in done["outs"].items():
        source = attempt / path if (attempt / path).exists() else Path(path)  # an interrupted call has moved it
        if not source.exists():
            raise CheckFailed(f"{task.stage}: expected the output {source}, got none; remove {task.folder}")
        _check_equal(f"{task.stage}: the hash of its output {source}", resume.digest(source), expected)
    receipt = _receipt(task, attempt)
    _check_equal(f"{task.stage}: its command", receipt["command"], [*task.command])
    _check_equal(f"{task.stage}: its threads", receipt["threads"], threads)
    installed = {name: importlib.metadata.version(name) for name in PACKAGES}
    _check_equal(f"{task.stage}: its packages", _public(receipt["packages"]), _public(installed))


def _receipt(task: Task, attempt: Path) -> dict[str, Any]:
    path = attempt / task.receipt
    receipt: dict[str, Any] = read_json(path if path.is_file() else Path(task.receipt))
    return receipt


def _public(versions: dict[str, str]) -> dict[str, str]:
    """The versions without the part that names a build, such as torch's +cpu."""
    return {name: version.partition("+")[0] for name, version in versions.items()}


def _check_equal(what: str, got: object, expected: object) -> None:
    if got != expected:
        raise CheckFailed(f"{what}: expected {expected}, got {got}; remove its folder and submit it again")


def _move(task: Task, attempt: Path) -> None:
    """Moves the outputs and the receipt to the places where the stage would have written them."""
    for path in (*task.outs, task.receipt):
        source, target = attempt / path, Path(path)
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(source, target)
