"""The stages of the sweep and the study as DVC lists them: command, inputs, outputs, and state on the cluster.

A `Task` is one such stage: it trains or measures one rank of the sweep, or runs one key of the study. `tli submit` and
`tli collect` use a folder for each stage under build/.cluster, named by the stage and its key:

    key = SHA-256(command, parameters, hash of each input; for an input that another sweep stage writes, its key)

The hashes are those that DVC computes from the current values and files. So the same work always has the same folder,
and work under other parameters has another one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tli.io.errors import UserError
from tli.io.files import sha256_of
from tli.io.structured import read_json

COMMANDS = ("sweep-train", "sweep-score", "study")  # the commands of these stages
FOLDER = Path("build/.cluster")
SPEC, JOB, DONE, FAILED = "task.json", "job.json", "done.json", "failed.json"
STDOUT, STDERR = "stdout.txt", "stderr.txt"  # the output of an attempt's command
CONSTANT = "check"  # stale after any edit of params.yaml; of its outputs only the plan of the study can change


class Task(NamedTuple):
    """A stage of the sweep.

    Attributes:
        stage: its name in DVC.
        command: the arguments of `python -m tli`.
        inputs: each path that it reads, without source code -> the sweep stage that writes it, or None.
        outs: the paths that it writes.
        key: the hash that names its work (see the module).
        stale: whether `dvc repro` would run it.
    """

    stage: str
    command: tuple[str, ...]
    inputs: Mapping[str, str | None]
    outs: tuple[str, ...]
    key: str
    stale: bool

    @property
    def kind(self) -> str:
        """The name of its command."""
        return _kind(self.command)

    @property
    def folder(self) -> Path:
        """The folder of its attempts, relative to the checkout."""
        return FOLDER / f"{re.sub('[^A-Za-z0-9@_-]+', '-', self.stage)}.{self.key[:16]}"

    @property
    def receipt(self) -> str:
        """The path of the receipt that the command writes (io/receipts.py)."""
        return f"{self.command[self.command.index('--out') + 1]}.receipt.json"

    @property
    def after(self) -> list[str]:
        """The sweep stages whose outputs it reads."""
        return [*dict.fromkeys(writer for writer in self.inputs.values() if writer)]


def sweep_tasks(targets: Sequence[str]) -> list[Task]:
    """Returns the sweep stages among `targets` and everything they depend on, in the order of `dvc repro`.

    A stage is stale if DVC's status lists it as changed, or if it depends on a stale stage.

    Args:
        targets: stages or files of DVC, as for `dvc repro`.

    Raises:
        UserError: a stale sweep stage needs the output of a stale stage that is not in the sweep; params.yaml changed
            since the study's plan was written; or DVC failed.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

    try:
        with Repo() as repo:
            graph = get_active_graph(repo.index.graph)
            changed = {*repo.status([*targets], with_deps=True)}
            tasks: dict[str, Task] = {}
            stale: set[str] = set()
            for stage in plan_repro(graph, collect_stages(repo, targets)):
                name, parents = stage.addressing, {parent.addressing for parent in graph.successors(stage)}
                if name != CONSTANT and (name in changed or parents & stale):
                    stale.add(name)
                if (command := _command(stage.cmd)) and _kind(command) in COMMANDS:
                    if _kind(command) == "study" and CONSTANT in changed:  # its plan may be missing or old
                        raise UserError(_missing_inputs(name, [CONSTANT]))
                    if name in stale and (missing := parents & stale - tasks.keys()):
                        raise UserError(_missing_inputs(name, missing))
                    tasks[name] = _task(stage, command, name in stale, repo.root_dir, tasks)
    except DvcException as error:
        raise UserError(f"dvc: {' '.join(str(error).split())}") from None
    return [*tasks.values()]


def _command(cmd: Any) -> tuple[str, ...]:
    """The arguments of a stage's `python -m tli`; empty for another command and for the stage of a .dvc file."""
    words = cmd.split() if isinstance(cmd, str) else []
    return tuple(words[3:]) if words[:3] == ["python", "-m", "tli"] else ()


def _kind(command: Sequence[str]) -> str:
    """The name of the command in the arguments of `tli`, after any --model and --set."""
    first = 0
    while command[first] in ("--model", "--set"):
        first += 2
    return command[first]


def _missing_inputs(name: str, stages: Iterable[str]) -> str:
    targets = " ".join(sorted(stages))
    return f"{name}: expected inputs that exist or come from another sweep stage; first run `dvc repro {targets}`"


def _task(stage: Any, command: tuple[str, ...], stale: bool, root: str, earlier: Mapping[str, Task]) -> Task:
    """The `Task` of a stage object of DVC, given the sweep stages before it."""
    writers = {out: task for task in earlier.values() for out in task.outs}
    inputs: dict[str, str | None] = {}
    parts: list[Any] = [command]
    for dep in stage.deps:
        path = os.path.relpath(dep.fs_path, root)
        writer = writers.get(path)
        parts.append([path, writer.key if writer else dep.get_hash().value])
        if path != "params.yaml" and not path.startswith("src/"):
            inputs[path] = writer.stage if writer else None
    outs = tuple(os.path.relpath(out.fs_path, root) for out in stage.outs)
    key = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
    return Task(stage.addressing, command, inputs, outs, key, stale)


def attempts(folder: Path) -> list[Path]:
    """Returns the folders of the attempts so far, in order."""
    return sorted((path for path in folder.glob("*") if path.name.isdigit()), key=lambda path: int(path.name))


def finished(folder: Path) -> Path | None:
    """Returns the successful attempt, or None."""
    return next((attempt for attempt in attempts(folder) if (attempt / DONE).is_file()), None)


def failure(folder: Path) -> str | None:
    """Returns the error message of the last attempt, or None if it did not fail.

    Attempts of an earlier submission and attempts that were killed do not count.
    """
    last = attempts(folder)[-1:]
    if not last or int(last[0].name) < read_json(folder / SPEC)["first"] or not (last[0] / FAILED).is_file():
        return None
    return str(read_json(last[0] / FAILED)["line"])


def source() -> Path:
    """Returns the folder for the jobs' copy of the current source, named by its hash.

    Jobs run the copy, so that editing the source does not change what they run.
    """
    package = Path("src/tli")
    lines = (f"{sha256_of(file)}  {file}\n" for file in sorted(package.rglob("*.py")))
    return FOLDER / f"source.{hashlib.sha256(''.join(lines).encode()).hexdigest()[:16]}"


def log(attempt: Path) -> Path:
    """Returns an attempt's standard error file, or its standard output file if standard error is blank.

    The two streams have separate files: in one file, the order of the lines would depend on the command's buffers.
    """
    return attempt / (STDERR if last_line(attempt / STDERR) else STDOUT)


def last_line(path: Path) -> str:
    """Returns the last line of a log that is not blank; empty if there is none."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
