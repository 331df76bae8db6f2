"""What the tests of the local executor and those on Slurm share: a checkout up to the sweep, and what disturbs it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from checkout import Checkout, clone
from tli.cluster import tasks

T = TypeVar("T")
WAIT = 300  # seconds until a test gives up on what takes a few where nothing else runs


def begun(root: Path) -> Checkout:
    """A checkout in which dvc has run all that the tasks of the sweep read."""
    checkout = clone(root)
    checkout("dvc", "pull", "-q", "data.dvc")
    checkout("dvc", "repro", "quantize", "benchmarks")
    return checkout


def waited(condition: Callable[[], T]) -> T:
    """What `condition` says once that is true."""
    end = time.monotonic() + WAIT
    while not (found := condition()):
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.05)
    return found


def process_in(checkout: Checkout, stage: str) -> int | None:
    """The process of a task's command, running in the folder of an attempt; None before it runs."""
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            place = Path(os.readlink(link))
        except OSError:
            continue
        if place.parent.name.startswith(f"{stage}.") and place.is_relative_to(checkout.root / tasks.FOLDER):
            return int(link.parent.name)
    return None


def killed_in(checkout: Checkout, stage: str, number: signal.Signals) -> int:
    """Sends a signal to a task's command once it runs; its process."""
    pid = waited(lambda: process_in(checkout, stage))
    os.kill(pid, number)
    return pid
