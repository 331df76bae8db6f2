"""Runs that are killed: dvc takes its stage down with it, and the next run gives what an undisturbed one gives."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from checkout import Checkout
from forks import Ended
from stages import Stages

WAIT = 300  # seconds until a test gives up on what takes a few where nothing else runs
SOAK = "TLI_SOAK" in os.environ
KILLS = 20 if SOAK else 3  # of each long stage
SWEPT = ("sweep-train@microworld-2", "sweep-score@microworld-2")
LONG = (
    *(f"{name}@microworld" for name in ("base", "quantize", "base-rows", "train", "similarity", "score")),
    *SWEPT,
    "tables@microworld",
)
BY_DVC = LONG if SOAK else SWEPT[1:]  # the run after the last kill is dvc's own, ten seconds; else a fork


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


@pytest.fixture
def checkout(done: Checkout, tmp_path: Path) -> Checkout:
    """The finished run without what `base` and `quantize` wrote."""
    shutil.copytree(done.root, tmp_path / "project", symlinks=True)
    for name in ("base", "quantized"):
        shutil.rmtree(tmp_path / "project" / "build" / done.model / name)
    return Checkout(tmp_path / "project")


def start(checkout: Checkout, *command: str, **env: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        cwd=checkout.root,
        env=checkout.env | env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(("number", "shell"), [(signal.SIGKILL, "/bin/sh"), (signal.SIGTERM, "/bin/bash")])
def test_a_killed_dvc_takes_its_stage_down(
    checkout: Checkout, done: Checkout, number: signal.Signals, shell: str, figures: Callable[[str, int], None]
) -> None:
    """A killed `dvc` takes its stage down with it, and the next `dvc repro` gives what an undisturbed one gives."""
    lock = checkout.root / "build" / checkout.model / ".kept" / "base.lock"
    with start(checkout, "dvc", "repro", "--no-run-cache", "quantize", SHELL=shell) as dvc:
        until(lambda: lock.is_file() and lock.read_text())
        (stage,) = (pid for pid in descendants(dvc.pid) if f"process {pid} " in lock.read_text())
        dvc.send_signal(number)
        dvc.wait()
    until(lambda: not alive(stage))
    assert lock.exists(), "the stage should have been killed, not have finished"
    checkout("dvc", "repro", "--no-run-cache", "quantize")
    assert checkout.digests("build", "results") == done.digests("build", "results")
    assert not list((checkout.root / "build").rglob(".*"))
    figures("kills survived", 1)


def points(name: str, whole: Ended) -> list[dict[str, Any]]:
    """Where to kill a stage: before changes spread over all it makes, every third time at any instant; both signals."""
    random, found = Random(name), []
    for index in range(KILLS):
        at = (index + random.random()) / KILLS
        where = {"after": at * whole.seconds} if index % 3 == 2 else {"change": int(at * len(whole.changes))}
        found.append(where | {"number": (signal.SIGKILL, signal.SIGTERM)[index % 2]})
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_a_stage_killed_anywhere_ends_as_if_it_had_not_been(
    stages: Stages, name: str, figures: Callable[[str, int], None]
) -> None:
    """Killed anywhere, a stage leaves nothing wrong, and its next run gives the bytes of an undisturbed one.

    Nor does the next run make again what was finished: before the outputs are in place no piece that is kept.
    """
    stages.remove(name)
    whole = stages(name)
    assert whole.code == 0, whole.said
    assert stages.found(name) == stages.expected[name], "a fork should do what dvc does"
    spared = 0
    for index, point in enumerate(points(name, whole)):
        stages.remove(name)
        cut = stages(name, **point)
        assert cut.code == -point["number"] or ("after" in point and cut.code == 0), f"{point}: {cut}"
        assert stages.found(name).items() <= stages.expected[name].items(), f"{point}: what is in place is whole"
        reached = max((whole.pieces.index(piece) + 1 for piece in stages.pieces(name)), default=0)
        done = stages.found(name) == stages.expected[name]
        if index % 2:
            stages.remove(name)
        if index == KILLS - 1 and name in BY_DVC:
            stages.checkout("dvc", "repro", "--single-item", "--force", "--no-run-cache", name)
        else:
            again = stages(name)
            assert again.code == 0, again.said
            assert done or again.pieces == whole.pieces[reached:], f"{point}: pieces kept were made again"
        spared += reached
        assert stages.found(name) == stages.expected[name], f"{point}: other bytes"
        assert stages.hidden_now() == stages.hidden, f"{point}: something temporary was left"
    figures("kills survived", KILLS)
    figures("finished pieces not made again", spared)
