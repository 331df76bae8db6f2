"""The sweep on a real Slurm of one node: jobs killed, timed out, failed and cancelled, and dvc's bytes in the end.

    make cluster-test

Five minutes on two cores, where Slurm is installed or root can install it; elsewhere skipped, with the reason.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import node
import pytest
from sweep import begun, killed_in, process_in, waited

from checkout import Checkout
from tli.cluster import tasks
from tli.io.structured import read_json, write_json


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a client of the node, which runs until the last test of this module."""
    if reason := node.missing():
        pytest.skip(reason)
    with node.running(tmp_path_factory.mktemp("slurm") / "node") as environment:
        yield environment


@pytest.fixture(scope="module")
def ready(slurm: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout up to what the sweep reads, set to submit to the node."""
    checkout = begun(tmp_path_factory.mktemp("project") / "project")
    checkout.edit("executor: local", "executor: slurm")
    checkout.env |= slurm
    return checkout


def queue(checkout: Checkout) -> dict[str, str]:
    """Id -> state of every job that is queued or runs."""
    return dict(line.split() for line in checkout("squeue", "-h", "--array", "-o", "%i %T").splitlines())


def folder(checkout: Checkout, stage: str) -> Path:
    (found,) = (checkout.root / tasks.FOLDER).glob(f"{stage}.*")
    return found


def ids(checkout: Checkout) -> set[str]:
    """The jobs that a checkout has submitted."""
    return {read_json(path)["id"] for path in (checkout.root / tasks.FOLDER).glob(f"*/{tasks.JOB}")}


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture(scope="module", autouse=True)
def disturbed(ready: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout with its tasks on their way, three of them disturbed; Slurm begins what is requeued after two minutes.

    kill -9 of a stage and of a job's own process, the signal before the time is up; submitted twice on the way.
    """
    copy = ready.copied(tmp_path_factory.mktemp("disturbed") / "project")
    assert copy("tli", "submit", "--detach").startswith("4 stages to submit (slurm;")
    assert len(queue(copy)) == 4
    runner = parent(waited(lambda: process_in(copy, "sweep-train@microworld-4")))
    os.kill(runner, signal.SIGKILL)
    killed_in(copy, "sweep-train@microworld-2", signal.SIGKILL)
    waited(lambda: process_in(copy, "sweep-score@microworld-2"))
    job = read_json(folder(copy, "sweep-score@microworld-2") / tasks.JOB)["id"]
    copy("scancel", "--signal=USR2", job)  # what Slurm sends before the time is up
    said = copy("tli", "submit", "--detach")
    assert said.startswith("0 stages to submit"), said
    assert ", 3 queued or running, 1 done and not collected" in said
    return copy


def test_a_task_that_fails_stops_what_is_behind_it_and_nothing_else(ready: Checkout, tmp_path: Path) -> None:
    copy = ready.copied(tmp_path / "project")
    with copy.started("tli", "submit") as running:
        place = waited(lambda: next((copy.root / tasks.FOLDER).glob("sweep-train@microworld-4.*/task.json"), None))
        spec = read_json(place)
        write_json(place, spec | {"command": ["/bin/sh", "-c", "echo no such rank; exit 3"]})
        assert running.wait(300) == 1
    assert tasks.finished(folder(copy, "sweep-score@microworld-2"))
    assert tasks.failure(folder(copy, "sweep-train@microworld-4")) == "no such rank"
    assert not tasks.attempts(folder(copy, "sweep-score@microworld-4"))
    assert not ids(copy) & queue(copy).keys()
    assert "2 stages collected, 2 left" in copy("tli", "collect")


def test_interrupted_it_cancels_its_own_jobs_and_no_others(ready: Checkout, tmp_path: Path) -> None:
    copy = ready.copied(tmp_path / "project")
    other = copy("sbatch", "--parsable", "--output=/dev/null", "--begin=now+1hour", "--wrap=true").strip()
    with copy.started("tli", "submit") as running:
        own = waited(lambda: found if len(found := ids(copy)) == 4 else None)
        before = queue(copy).keys() - own
        assert other in before
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 1
    waited(lambda: not own & queue(copy).keys())
    assert before <= queue(copy).keys()
    subprocess.run(["scancel", other], env=copy.env, check=True)


def test_jobs_that_are_killed_and_timed_out_give_the_bytes_of_dvc(
    ready: Checkout, disturbed: Checkout, tmp_path: Path
) -> None:
    plain, copy = ready.copied(tmp_path / "plain"), disturbed
    plain("dvc", "repro", "sweep-score")
    assert "stages done; run `tli collect` to take their outputs into DVC" in copy("tli", "submit")
    tried = {path.name.partition(".")[0]: len(tasks.attempts(path)) for path in (copy.root / tasks.FOLDER).glob("sw*")}
    trainings = {"sweep-train@microworld-2": 2, "sweep-train@microworld-4": 2}
    assert tried == trainings | {"sweep-score@microworld-2": 2, "sweep-score@microworld-4": 1}
    assert "4 stages collected, 0 left" in copy("tli", "collect")
    assert copy.digests("build", "results") == plain.digests("build", "results")
    ours, theirs = copy.lock(), plain.lock()
    assert ours.pop("check") != theirs.pop("check"), "params.yaml was edited, and only dvc runs `check` for it"
    assert ours == theirs
    assert not [name for name in json.loads(copy("dvc", "status", "--json")) if name.startswith("sweep")]
