"""`tli submit`: runs the sweep stages that `dvc repro` would run, as jobs on Slurm or on this machine.

This module chooses the stages, prepares their folders, waits and prints a summary. A job runs the stage's command
(attempt.py) and writes only to the stage's folder (tasks.py). Slurm keeps the order between stages, and requeues jobs
that were preempted, ran out of time or lost their node (executors.py).
"""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from tli.cluster import tasks
from tli.cluster.executors import Executor, Local, Slurm
from tli.cluster.tasks import Task
from tli.config.parameters import Cluster, Params
from tli.io.errors import CheckFailed, UserError
from tli.io.files import atomic_dir
from tli.io.structured import read_json, write_json


def run(targets: Sequence[str], params: Params, dry: bool, detach: bool) -> None:
    """Submits the stale sweep stages that are neither done nor queued, and waits for them.

    If the user interrupts it, it cancels the jobs that it submitted and no others.

    Args:
        targets: stages or files of DVC, as for `dvc repro`.
        params: the parameters; the section `cluster` says where and with what resources the jobs run.
        dry: only print what would be submitted.
        detach: do not wait, on Slurm.

    Raises:
        UserError: another stage must run first (see tasks.sweep_tasks), or Slurm's commands are missing.
        CheckFailed: a stage did not finish, or the user interrupted.
    """
    settings = params.cluster
    if settings.executor == "slurm" and not dry and not all(map(shutil.which, ("sbatch", "squeue", "scancel", "srun"))):
        raise UserError("cluster.executor: expected Slurm's commands with slurm, got none; or set it to local")
    stale = [task for task in tasks.sweep_tasks(targets) if task.stale]
    executor = Slurm(settings) if settings.executor == "slurm" else Local(settings)
    working = [] if dry else executor.working(stale)
    todo = [task for task in stale if task.stage not in working and not tasks.finished(task.folder)]
    resources = f"{settings.cpus} cores, {settings.mem} GB, {settings.gpus} GPUs, {settings.time} minutes"
    click.echo(
        f"{len(todo)} stages to submit ({settings.executor}; each {resources}), {len(working)} queued or running, "
        f"{len(stale) - len(todo) - len(working)} done and not collected"
    )
    if dry:
        for task in todo:
            parents = [stage for stage in task.after if any(stage == other.stage for other in todo)]
            click.echo(f"{task.stage}{', after ' + ' and '.join(parents) if parents else ''}")
            click.echo(f"  {shlex.join(command(task, settings))}")
        return
    _prepare(todo, stale, settings)
    try:
        executor.start(todo)
        if not detach or settings.executor == "local":
            _wait([task for task in stale if task in todo or task.stage in working], executor)
    except KeyboardInterrupt:
        executor.cancel()
        raise CheckFailed("interrupted; cancelled the jobs that this command submitted, and no others") from None


def command(task: Task, settings: Cluster) -> list[str]:
    """Returns the words that a job runs: the stage's command, with this Python or with the container's."""
    if settings.runtime == "environment":
        return [sys.executable, "-m", "tli", *task.command]
    gpu = ["--nv"] if settings.gpus else []
    mount = ["--bind", str(Path.cwd()), str(Path(str(settings.image)).resolve())]
    return ["apptainer", "exec", *gpu, *mount, "python", "-m", "tli", *task.command]


def _prepare(todo: Sequence[Task], stale: Sequence[Task], settings: Cluster) -> None:
    """Writes what the jobs read: a copy of the source, and params.yaml and task.json of each stage.

    Args:
        todo: the stages to submit.
        stale: all stale sweep stages, from whose folders others may read.
        settings: the section `cluster` of params.yaml.
    """
    root, source = Path.cwd(), tasks.source()
    if todo and not source.exists():
        with atomic_dir(source) as temporary:
            shutil.copytree("src/tli", temporary / "tli", ignore=shutil.ignore_patterns("__pycache__"))
    folders = {task.stage: str(task.folder) for task in stale}
    for task in todo:
        task.folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile("params.yaml", task.folder / "params.yaml")
        first = len(tasks.attempts(task.folder)) + 1
        spec = {
            "stage": task.stage,
            "key": task.key,
            "command": command(task, settings),
            "root": str(root),
            "source": str(root / source),
            "inputs": {path: folders.get(str(writer)) for path, writer in task.inputs.items()},
            "outs": task.outs,
            "first": first,
            "last": first + settings.retries,
        }
        write_json(task.folder / tasks.SPEC, spec)


def _wait(watched: Sequence[Task], executor: Executor) -> None:
    """Waits until every stage has finished, failed or left the queue, and prints the stages that are not done.

    Raises:
        CheckFailed: a stage is not done; the message has a line for each with the reason.
    """
    waiting, missing, failed = [*watched], dict[str, float](), list[Task]()
    while waiting:
        more, now = executor.step(waiting), time.monotonic()
        working = executor.working(waiting)
        for task in [*waiting]:
            if task.stage in working:
                missing.pop(task.stage, None)
                continue
            done, gone = tasks.finished(task.folder), now - missing.setdefault(task.stage, now) >= executor.grace
            blocked = more or any(other.stage in task.after for other in waiting)
            ended = tasks.failure(task.folder) is not None or any(other.stage in task.after for other in failed)
            if done or ended or (gone and not blocked):
                waiting.remove(task)
                failed += [] if done else [task]
                click.echo(f"{task.stage}: {'done' if done else 'not done'}; {len(waiting)} left")
        if waiting:
            time.sleep(executor.poll)
    if failed:
        lines = [f"{len(failed)} of {len(watched)} stages not done:", *map(unfinished, failed)]
        raise CheckFailed("\n  ".join(lines))
    click.echo(f"{len(watched)} stages done; run `tli collect` to take their outputs into DVC")


def unfinished(task: Task) -> str:
    """Describes a stage that is not done: its name, number of attempts, and the last line and path of its log."""
    attempts, note = tasks.attempts(task.folder), task.folder / tasks.JOB
    job = Path(read_json(note)["log"]) if note.is_file() else None
    logs = (*(tasks.log(attempt) for attempt in attempts[-1:]), job)
    log = next((path for path in logs if path and path.is_file()), None)
    reason = tasks.failure(task.folder) or (tasks.last_line(log) if log else "not started")
    return f"{task.stage}: attempts: {len(attempts)}; last line: {reason}; log: {log or '-'}"
