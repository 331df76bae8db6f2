"""The code that runs is that of the current folder: in an experiment's folder, a git worktree and a second clone too.

The environment of the tests knows the project's own checkout; the copies here differ from it by one line.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from checkout import Checkout, clone

STAGE = "words@microworld"
CHANGED = 'raise SystemExit("this is the changed code")\n'


@pytest.fixture
def project(tmp_path: Path) -> Checkout:
    """A clone whose commands run in the environment of the project's own checkout, without a path to their code."""
    checkout = clone(tmp_path / "project")
    del checkout.env["PYTHONPATH"]
    checkout("dvc", "pull", "-q", "data.dvc")
    return checkout


def change(root: Path) -> None:
    with (root / "src" / "tli" / "stages" / "words.py").open("a", encoding="utf-8") as file:
        file.write(CHANGED)


def test_a_second_clone_runs_its_own_code(project: Checkout) -> None:
    project("dvc", "repro", STAGE)
    change(project.root)
    assert "this is the changed code" in project("dvc", "repro", STAGE, ok=False)


def test_a_git_worktree_runs_its_own_code(project: Checkout) -> None:
    project("git", "worktree", "add", "-q", "../tree")
    tree = Checkout(project.root.parent / "tree")
    del tree.env["PYTHONPATH"]
    tree("dvc", "pull", "-q", "data.dvc")
    change(tree.root)
    assert "this is the changed code" in tree("dvc", "repro", STAGE, ok=False)
    project("dvc", "repro", STAGE)


def test_an_experiment_in_a_temporary_folder_runs_the_code_there(project: Checkout) -> None:
    change(project.root)
    assert "this is the changed code" in project("dvc", "exp", "run", "--temp", STAGE, ok=False)


def test_a_queued_experiment_runs_the_code_that_was_queued(project: Checkout) -> None:
    project.env["PYTHONPATH"] = str(project.root / "src")  # as in the project's own environment
    project("dvc", "exp", "run", "--queue", "-S", "lora.rank=2", "--name", "queued", STAGE)
    change(project.root)
    project("dvc", "queue", "start")
    end = time.monotonic() + 120
    while (status := state(project)) in ("Queued", "Running") and time.monotonic() < end:
        time.sleep(0.5)
    assert status == "Success", project("dvc", "queue", "logs", "queued")


def state(project: Checkout) -> str:
    """What DVC says of the experiment `queued`."""
    lines = [line.split() for line in project("dvc", "queue", "status").splitlines()]
    return next(line[-1] for line in lines if "queued" in line)


def test_code_that_cannot_be_found_is_refused_in_one_line(project: Checkout) -> None:
    project.env["TLI_CODE"] = str(project.root / "src")  # as after a start that did not help
    output = project("python", "-m", "tli", "check", ok=False)
    assert output.startswith(f"Error: tli: expected the code of this folder ({project.root / 'src'}), got that of ")
    assert output.count("\n") == 1
