"""The cells of the sweep, asked of DVC: what each runs, reads and writes, and how far it has come.

A cell is one stage of the sweep: the training or the measuring of one rank, or of one arm on one base. On its way
through a cluster (`tli submit`, `tli collect`) it has a folder of its own under build/.cluster, named by stage and key:

    key = SHA-256(command, parameters, hashes of what it reads; of what another cell writes, that cell's key)

DVC's own hashes, of the values and files as they are now. So the same work is the same folder however often it is
submitted, and work under other parameters is another folder. Feeds no table.
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

COMMANDS = ("sweep-train", "sweep-score")  # of cells, in either pipeline
OF_GRID = ("base-rows",)  # of cells in the full grid: rank 0 of every arm
FOLDER = Path("build/.cluster")
SPEC, JOB, DONE, FAILED = "cell.json", "job.json", "done.json", "failed.json"
STDOUT, STDERR = "stdout.txt", "stderr.txt"  # of an attempt's command
CONSTANT = "check"  # the stage whose output is the same whatever params.yaml says, so that nothing follows from it


class Cell(NamedTuple):
    """A stage of the sweep.

    `inputs` maps each path that it reads, modules left out, to the stage of the cell that writes it, or to None;
    `stale`: `dvc repro` would run it.
    """

    stage: str
    command: tuple[str, ...]
    inputs: Mapping[str, str | None]
    outs: tuple[str, ...]
    key: str
    stale: bool

    @property
    def kind(self) -> str:
        """The stage's command, without the options before it."""
        return _kind(self.command)

    @property
    def folder(self) -> Path:
        """Where its attempts are, relative to the checkout."""
        return FOLDER / f"{re.sub('[^A-Za-z0-9@_-]+', '-', self.stage)}.{self.key[:16]}"

    @property
    def receipt(self) -> str:
        """Where the command leaves its receipt (`store.receipt`)."""
        return f"{self.command[self.command.index('--out') + 1]}.receipt.json"

    @property
    def after(self) -> list[str]:
        """The stages of the cells whose outputs it reads."""
        return [*dict.fromkeys(writer for writer in self.inputs.values() if writer)]


def asked(targets: Sequence[str]) -> list[Cell]:
    """The cells among `targets` and all that these depend on, in the order of `dvc repro`.

    DVC's status says which stages have changed; those behind them in its graph are stale too.

    Raises:
        UserError: a stale cell reads what a stage that is no cell has yet to write.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

    try:
        with Repo() as repo:
            graph = get_active_graph(repo.index.graph)
            changed = repo.status([*targets], with_deps=True).keys() - {CONSTANT}
            found: dict[str, Cell] = {}
            stale: set[str] = set()
            for stage in plan_repro(graph, collect_stages(repo, targets)):
                name, above = stage.addressing, {each.addressing for each in graph.successors(stage)}
                if name in changed or above & stale:
                    stale.add(name)
                kinds = COMMANDS + OF_GRID if name.startswith("full/") else COMMANDS
                if (command := _command(stage.cmd)) and _kind(command) in kinds:
                    if name in stale and (waits_for := above & stale - found.keys()):
                        raise UserError(_refusal(name, waits_for))
                    found[name] = _cell(stage, command, name in stale, repo.root_dir, found)
    except DvcException as error:
        raise UserError(f"dvc: {' '.join(str(error).split())}") from None
    return [*found.values()]


def _command(cmd: Any) -> tuple[str, ...]:
    """The arguments of `python -m tli` of a stage; none for another command, or for the stage of a .dvc file."""
    words = cmd.split() if isinstance(cmd, str) else []
    return tuple(words[3:]) if words[:3] == ["python", "-m", "tli"] else ()


def _kind(command: Sequence[str]) -> str:
    """The name of the command among the arguments of `tli`, which --model and --set may stand before."""
    first = 0
    while command[first] in ("--model", "--set"):
        first += 2
    return command[first]


def _refusal(name: str, waits_for: Iterable[str]) -> str:
    first = " ".join(sorted(waits_for))
    return f"{name}: expected what it reads to be there or to come from another cell; first run `dvc repro {first}`"


def _cell(stage: Any, command: tuple[str, ...], stale: bool, root: str, found: Mapping[str, Cell]) -> Cell:
    """The cell of a stage of DVC's; `found` has those before it."""
    writers = {out: cell for cell in found.values() for out in cell.outs}
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
    return Cell(stage.addressing, command, inputs, outs, key, stale)


def attempts(folder: Path) -> list[Path]:
    """The attempts at a cell so far, from the first to the last. Each has written to its own folder."""
    return sorted((path for path in folder.glob("*") if path.name.isdigit()), key=lambda path: int(path.name))


def finished(folder: Path) -> Path | None:
    """The attempt at a cell that has all of its outputs, or None."""
    return next((attempt for attempt in attempts(folder) if (attempt / DONE).is_file()), None)


def failure(folder: Path) -> str | None:
    """Why the last attempt since a cell was last submitted failed for a reason of its own; None where it did not."""
    last = attempts(folder)[-1:]
    if not last or int(last[0].name) < read_json(folder / SPEC)["first"] or not (last[0] / FAILED).is_file():
        return None
    return str(read_json(last[0] / FAILED)["line"])


def source() -> Path:
    """Where the source as it is now is copied to for the jobs, so that editing it does not change what they run."""
    package = Path("src/tli")
    lines = (f"{sha256_of(file)}  {file}\n" for file in sorted(package.rglob("*.py")))
    return FOLDER / f"source.{hashlib.sha256(''.join(lines).encode()).hexdigest()[:16]}"


def log(attempt: Path) -> Path:
    """The file with the line to report of an attempt: its standard error, or its standard output if that is blank.

    The two streams have a file each: in one file, the order of their lines would depend on the command's buffers.
    """
    return attempt / (STDERR if last_line(attempt / STDERR) else STDOUT)


def last_line(path: Path) -> str:
    """The last line of a log that is not blank; empty where there is none."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
