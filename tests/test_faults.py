"""Runs that are killed: dvc takes its stage down with it, and the next run gives what an undisturbed one gives."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from checkout import Checkout, clone

WAIT = 60  # seconds until a test gives up; what is waited for takes a few


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.02)


def descendants(pid: int) -> list[int]:
    """The processes that `pid` started, and those that these started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [each for child in map(int, children) for each in (child, *descendants(child))]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout up to the stage before `base`. Tests copy it."""
    checkout = clone(tmp_path_factory.mktemp("faults") / "project")
    checkout("dvc", "pull", "-q", "data.dvc")
    checkout("dvc", "repro", "world")
    return checkout


@pytest.fixture(scope="module")
def expected(begun: Checkout, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What `base` and `quantize` give undisturbed."""
    checkout = copied(begun, tmp_path_factory.mktemp("undisturbed"))
    checkout("dvc", "repro", "quantize")
    return checkout.digests("build", "results")


def copied(begun: Checkout, folder: Path) -> Checkout:
    shutil.copytree(begun.root, folder / "project", symlinks=True)
    return Checkout(folder / "project")


@pytest.fixture
def checkout(begun: Checkout, tmp_path: Path) -> Checkout:
    return copied(begun, tmp_path)


def start(checkout: Checkout, *command: str, **env: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, cwd=checkout.root, env=checkout.env | env, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize(("number", "shell"), [(signal.SIGKILL, "/bin/sh"), (signal.SIGTERM, "/bin/bash")])
def test_a_killed_dvc_takes_its_stage_down(
    checkout: Checkout, expected: dict[str, str], number: signal.Signals, shell: str
) -> None:
    lock = checkout.root / "build" / checkout.profile / ".kept" / "base.lock"
    with start(checkout, "dvc", "repro", "quantize", SHELL=shell) as dvc:
        until(lambda: lock.is_file() and lock.read_text())
        (stage,) = (pid for pid in descendants(dvc.pid) if f"process {pid} " in lock.read_text())
        dvc.send_signal(number)
        dvc.wait()
    until(lambda: not alive(stage))
    assert lock.exists(), "the stage should have been killed, not have finished"
    checkout("dvc", "repro", "quantize")
    assert checkout.digests("build", "results") == expected
    assert not list((checkout.root / "build").rglob(".*"))
