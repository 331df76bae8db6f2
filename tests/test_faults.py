"""Runs that are killed: dvc takes its stage down with it, and the next run gives what an undisturbed one gives."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from checkout import Checkout, clone
from tli import store

WAIT = 300  # seconds until a test gives up on what takes a few where nothing else runs


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
    """A checkout up to the stages before `base`. Tests copy it."""
    checkout = clone(tmp_path_factory.mktemp("faults") / "project")
    checkout("dvc", "pull", "-q", "data.dvc")
    checkout("dvc", "repro", "pairs", "world")
    return checkout


@pytest.fixture(scope="module")
def undisturbed(begun: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout after `base` and `quantize`."""
    checkout = copied(begun, tmp_path_factory.mktemp("undisturbed"))
    checkout("dvc", "repro", "quantize")
    return checkout


@pytest.fixture(scope="module")
def expected(undisturbed: Checkout) -> dict[str, str]:
    return undisturbed.digests("build", "results")


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


@pytest.mark.slow
def test_stages_killed_anywhere_give_the_same_bytes(checkout: Checkout, undisturbed: Checkout) -> None:
    """`base` and then `quantize`, each killed later and later, by half of its time, until it is through."""
    build = Path("build") / checkout.profile
    commands = {
        "base": ["base", f"{build}/world", "--words", f"{build}/words.txt",
                 "--metrics", f"results/{checkout.profile}/base.json"],
        "quantized": ["quantize", f"{build}/base", "--rows", f"{build}/quantize.tsv"],
    }  # fmt: skip
    for out, command in commands.items():
        whole = store.read_json(undisturbed.root / build / f"{out}.receipt.json")["seconds"]
        lock = checkout.root / build / ".kept" / f"{out}.lock"
        for attempt in count():
            lock.unlink(missing_ok=True)
            with start(checkout, "python", "-m", "tli", *command, "--out", f"{build}/{out}") as stage:
                until(lock.is_file)
                try:
                    code = stage.wait(timeout=attempt * whole / 2)
                except subprocess.TimeoutExpired:
                    number = (signal.SIGKILL, signal.SIGTERM)[attempt % 2]
                    stage.send_signal(number)
                    code = stage.wait()
                    assert code in (-number, 0)
            if code == 0:
                break
        assert attempt, "the stage was never killed"
    assert checkout.digests("build", "results") == undisturbed.digests("build", "results")
    assert not list((checkout.root / "build").rglob(".*"))
