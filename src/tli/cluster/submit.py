"""`tli submit`: runs the cells that `dvc repro` would have to run, as jobs of Slurm or of this machine, by submitit.

A job runs the stage's own command (cluster/attempt.py); what is to be collected lies in the cell's folder
(cluster/cells.py)
and nowhere else. Slurm keeps the order between cells and starts again what was preempted, out of time or on a lost
node (cluster/executors.py). Here is what is left: which cells, with what, and the summary. Feeds no table.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from tli.cluster import cells
from tli.cluster.cells import Cell
from tli.cluster.executors import Executor, Local, Slurm
from tli.config.parameters import Cluster, Params
from tli.io.errors import CheckFailed, UserError
from tli.io.files import atomic_dir
from tli.io.structured import read_json, write_json


def run(targets: Sequence[str], params: Params, dry: bool, detach: bool) -> None:
    """Submits what is neither done nor on its way, and waits for all of it unless `detach`.

    Interrupted, it cancels the jobs that it submitted and no others.

    Raises:
        UserError: a stage that is no cell must run first, or the executor is not there.
        CheckFailed: a cell did not finish, or the user interrupted.
    """
    settings = params.cluster
    if settings.executor == "slurm" and not dry and not all(map(shutil.which, ("sbatch", "squeue", "scancel", "srun"))):
        raise UserError("cluster.executor: expected Slurm's commands with slurm, found none; or set it to local")
    found = [cell for cell in cells.asked(targets) if cell.stale]
    executor = Slurm(settings) if settings.executor == "slurm" else Local(settings)
    working = [] if dry else executor.working(found)
    todo = [cell for cell in found if cell.stage not in working and not cells.finished(cell.folder)]
    each = f"{settings.cpus} cores, {settings.mem} GB, {settings.gpus} GPUs, {settings.time} minutes"
    click.echo(
        f"{len(todo)} cells to submit ({settings.executor}; each {each}), {len(working)} on their way, "
        f"{len(found) - len(todo) - len(working)} done and not collected"
    )
    if dry:
        for cell in todo:
            behind = [stage for stage in cell.after if any(stage == other.stage for other in todo)]
            click.echo(f"{cell.stage}{', after ' + ' and '.join(behind) if behind else ''}")
            click.echo(f"  {shlex.join(command(cell, settings))}")
        return
    _prepare(todo, found, settings)
    try:
        executor.start(todo)
        if not detach or settings.executor == "local":
            _wait([cell for cell in found if cell in todo or cell.stage in working], executor)
    except KeyboardInterrupt:
        executor.cancel()
        raise CheckFailed("interrupted; cancelled the jobs that this command submitted, and no others") from None


def command(cell: Cell, settings: Cluster) -> list[str]:
    """What a job runs: the stage's command, by this Python or by the container's."""
    if settings.runtime == "environment":
        return [sys.executable, "-m", "tli", *cell.command]
    gpu = ["--nv"] if settings.gpus else []
    bound = ["--bind", str(Path.cwd()), str(Path(str(settings.image)).resolve())]
    return ["apptainer", "exec", *gpu, *bound, "python", "-m", "tli", *cell.command]


def _prepare(todo: Sequence[Cell], found: Sequence[Cell], settings: Cluster) -> None:
    """Writes what the jobs read: source and params.yaml as they are now, and what each cell is."""
    root, source = Path.cwd(), cells.source()
    if todo and not source.exists():
        with atomic_dir(source) as temporary:
            shutil.copytree("src/tli", temporary / "tli", ignore=shutil.ignore_patterns("__pycache__"))
    stale = {cell.stage: str(cell.folder) for cell in found}
    for cell in todo:
        cell.folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile("params.yaml", cell.folder / "params.yaml")
        first = len(cells.attempts(cell.folder)) + 1
        spec = {
            "stage": cell.stage,
            "key": cell.key,
            "command": command(cell, settings),
            "root": str(root),
            "source": str(root / source),
            "inputs": {path: stale.get(str(by)) for path, by in cell.inputs.items()},
            "outs": cell.outs,
            "first": first,
            "last": first + settings.retries,
        }
        write_json(cell.folder / cells.SPEC, spec)


def _wait(watched: Sequence[Cell], executor: Executor) -> None:
    """Looks until every cell has finished, failed or left the queue; then says what is not done, and why.

    Raises:
        CheckFailed: not all are done.
    """
    waiting, missing, failed = [*watched], dict[str, float](), list[Cell]()
    while waiting:
        more, now = executor.step(waiting), time.monotonic()
        working = executor.working(waiting)
        for cell in [*waiting]:
            if cell.stage in working:
                missing.pop(cell.stage, None)
                continue
            done, gone = cells.finished(cell.folder), now - missing.setdefault(cell.stage, now) >= executor.grace
            behind = more or any(other.stage in cell.after for other in waiting)
            ended = cells.failure(cell.folder) is not None or any(other.stage in cell.after for other in failed)
            if done or ended or (gone and not behind):
                waiting.remove(cell)
                failed += [] if done else [cell]
                click.echo(f"{cell.stage}: {'done' if done else 'not done'}; {len(waiting)} left")
        if waiting:
            time.sleep(executor.poll)
    if failed:
        lines = [f"{len(failed)} of {len(watched)} cells not done:", *map(unfinished, failed)]
        raise CheckFailed("\n  ".join(lines))
    click.echo(f"{len(watched)} cells done; `tli collect` takes them in")


def unfinished(cell: Cell) -> str:
    """A cell that is not done: its stage, attempts, the last line of its log, and where to read on."""
    tried, note = cells.attempts(cell.folder), cell.folder / cells.JOB
    job = Path(read_json(note)["log"]) if note.is_file() else None
    logs = (*(cells.log(attempt) for attempt in tried[-1:]), job)
    log = next((path for path in logs if path and path.is_file()), None)
    said = cells.failure(cell.folder) or (cells.last_line(log) if log else "not started")
    return f"{cell.stage}: attempts: {len(tried)}; last line: {said}; log: {log or '-'}"
