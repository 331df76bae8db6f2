"""Executors for the jobs of `tli submit`: Slurm, or the cores of this machine. Both use submitit.

submitit writes a job's batch script, handles the signal before the time limit, and asks Slurm to requeue the job. It
pickles the callable of a job. Here that is only the name of the class `Attempts` and a path; the same Python as at
submission loads them, from the copy of the source made then.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from submitit import Job, LocalExecutor, SlurmExecutor

from tli.cluster import tasks
from tli.cluster.attempt import Attempts
from tli.cluster.tasks import Task
from tli.config.parameters import Cluster
from tli.io.structured import read_json, write_json

WARNING = 90  # seconds before the time limit at which a job gets a signal
JOBS = tasks.FOLDER / "jobs"  # submitit's files and logs


class Executor(ABC):
    """Submits jobs and knows which of them are queued or running.

    Args:
        settings: the section `cluster` of params.yaml.
    """

    poll: float  # seconds between two checks of the jobs
    grace: float  # seconds until the last files of a job are surely visible here

    def __init__(self, settings: Cluster) -> None:
        self.settings = settings
        self.jobs: dict[str, Job[None]] = {}  # stage -> the job that this process submitted
        self.ids: dict[str, str] = {}  # stage -> the id of its queued or running job
        path = [str(Path.cwd() / tasks.source()), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.python = shlex.join(["env", f"PYTHONPATH={os.pathsep.join(path)}", sys.executable])

    def submitted(self, task: Task, job: Job[None]) -> None:
        """Remembers the job of a stage, and writes it to the stage's job.json."""
        self.jobs[task.stage], self.ids[task.stage] = job, job.job_id
        note = {"executor": self.settings.executor, "id": job.job_id, "host": socket.gethostname()}
        write_json(task.folder / tasks.JOB, note | {"log": str(job.paths.stderr)})

    def working(self, candidates: Sequence[Task]) -> list[str]:
        """Returns the names of those stages that have a queued or running job, whoever submitted it."""
        notes = {task.stage: task.folder / tasks.JOB for task in candidates}
        jobs = {stage: read_json(path) for stage, path in notes.items() if path.is_file()}
        jobs = {stage: note for stage, note in jobs.items() if note["executor"] == self.settings.executor}
        alive = self.alive([*jobs.values()]) if jobs else set()
        self.ids = {stage: note["id"] for stage, note in jobs.items() if note["id"] in alive}
        return [*self.ids]

    @abstractmethod
    def alive(self, jobs: Sequence[dict[str, Any]]) -> set[str]:
        """Returns the ids of those jobs (each as in job.json) that are queued or running."""

    @abstractmethod
    def start(self, todo: Sequence[Task]) -> None:
        """Submits the stages, or accepts them for `step` to submit."""

    def step(self, waiting: Sequence[Task]) -> bool:
        """Called at every check. Returns whether some of the stages are still to be submitted."""
        return False

    @abstractmethod
    def cancel(self) -> None:
        """Ends the jobs that this process submitted."""


class Slurm(Executor):
    """Slurm. Stages that can start at once form a job array; those that follow form one that waits task by task."""

    poll, grace = 10.0, 90.0

    def start(self, todo: Sequence[Task]) -> None:
        for group in _groups(todo, self.ids):
            ids = [[self.ids[stage] for stage in task.after if stage in self.ids] for task in group]
            array = ids[0][0].partition("_")[0] if ids[0] else ""
            if not any(ids):
                self._submit(group, None)
            elif len(group) > 1 and ids == [[f"{array}_{number}"] for number in range(len(group))]:
                self._submit(group, f"aftercorr:{array}")
            else:
                for task, task_ids in zip(group, ids, strict=True):
                    self._submit([task], f"afterok:{':'.join(task_ids)}" if task_ids else None)

    def _submit(self, group: Sequence[Task], dependency: str | None) -> None:
        settings, retries = self.settings, self.settings.retries
        executor = SlurmExecutor(JOBS, max_num_timeout=retries, python=self.python)
        # If the process that runs the stage is killed too, the batch script requeues the task. It uses the name
        # ARRAY_TASK, because SLURM_JOB_ID of a task may be the id of the whole array.
        killed = f'[ $code = 137 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {retries} ]'
        array_task = '"${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"'
        gpus = {"gpus_per_node": settings.gpus} if settings.gpus else {}
        executor.update_parameters(
            job_name="tli",
            time=settings.time,
            cpus_per_task=settings.cpus,
            mem=f"{settings.mem}GB",
            **gpus,
            partition=settings.partition,
            account=settings.account,
            constraint=settings.constraint,
            dependency=dependency,
            array_parallelism=settings.at_once,
            signal_delay_s=WARNING,
            srun_args=[f"--cpus-per-task={settings.cpus}"],  # srun no longer takes it from sbatch since Slurm 22.05
            additional_parameters={"requeue": True, "kill-on-invalid-dep": "yes"},
            teardown=["code=$?", f"{killed} && scontrol requeue {array_task}", "exit $code"],
        )
        jobs = executor.submit_array([Attempts(task.folder.resolve()) for task in group])
        for task, job in zip(group, jobs, strict=True):
            self.submitted(task, job)

    def alive(self, jobs: Sequence[dict[str, Any]]) -> set[str]:
        """The jobs that squeue lists. If squeue fails, all of them, so that none is submitted twice or given up."""
        call = subprocess.run(["squeue", "--me", "-h", "--array", "-o", "%i"], capture_output=True, text=True)
        return {note["id"] for note in jobs} if call.returncode else set(call.stdout.split())

    def cancel(self) -> None:
        if self.jobs:
            subprocess.run(["scancel", *(job.job_id for job in self.jobs.values())], check=False)


class Local(Executor):
    """This machine. Runs as many stages at a time as its cores allow, or one at a time if they need a GPU."""

    poll, grace = 0.5, 0.0

    def __init__(self, settings: Cluster) -> None:
        super().__init__(settings)
        self.slots = 1 if settings.gpus else max(1, len(os.sched_getaffinity(0)) // settings.cpus)
        self.starts = Counter[str]()
        self.todo: dict[str, Task] = {}

    def start(self, todo: Sequence[Task]) -> None:
        """Accepts the stages; `step` starts one when enough cores are free and its inputs exist."""
        self.todo = {task.stage: task for task in todo}

    def step(self, waiting: Sequence[Task]) -> bool:
        busy = self.working(waiting)
        ready = [task for task in waiting if task.stage in self.todo and task.stage not in busy and self._ready(task)]
        for task in ready[: max(0, self.slots - len(busy))]:
            executor = LocalExecutor(JOBS, max_num_timeout=self.settings.retries, python=self.python)
            executor.update_parameters(
                timeout_min=self.settings.time, signal_delay_s=WARNING, gpus_per_node=self.settings.gpus
            )
            self.starts[task.stage] += 1
            self.submitted(task, executor.submit(Attempts(task.folder.resolve())))
        return bool(ready)

    def _ready(self, task: Task) -> bool:
        """Whether its inputs exist and it has neither ended nor been started too often."""
        parents = [self.todo[stage].folder for stage in task.after if stage in self.todo]
        ended = tasks.finished(task.folder) or tasks.failure(task.folder) is not None
        return all(map(tasks.finished, parents)) and not ended and self.starts[task.stage] <= self.settings.retries

    def alive(self, jobs: Sequence[dict[str, Any]]) -> set[str]:
        for job in self.jobs.values():
            job.done()  # reaps the processes that ended
        here = [Path("/proc", note["id"], "cmdline") for note in jobs if note["host"] == socket.gethostname()]
        return {path.parent.name for path in here if path.is_file() and b"submitit" in path.read_bytes()}

    def cancel(self) -> None:
        for job in self.jobs.values():
            job.cancel()


def _groups(todo: Sequence[Task], ids: dict[str, str]) -> Iterator[list[Task]]:
    """Groups stages by command and by whether they wait for other stages; groups that do not wait come first."""
    names = {task.stage for task in todo} | ids.keys()
    kinds = {task.stage: (bool(names.intersection(task.after)), task.kind) for task in todo}
    for kind in sorted(set(kinds.values())):
        yield [task for task in todo if kinds[task.stage] == kind]
