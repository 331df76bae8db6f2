"""Progress of a stage on standard error: its name, items done, time left and peak memory.

A terminal shows one line per stage, rewritten in place. A log or a pipe gets plain lines with the time of day. Nothing
here changes an output. The pace of a run is stored in the stage's receipt (io/receipts.py); the next run estimates its
time from it.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, TypeVar

T = TypeVar("T")

REDRAW = 0.1  # least number of seconds between two drawings of a live line
LONG = 10.0  # seconds: a log announces a stage only if its last run took at least this long


def live(stream: IO[Any]) -> bool:
    """Whether `stream` is a terminal on which a line can be rewritten."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def coloured(stream: IO[Any]) -> bool:
    """Whether `stream` may show colours: it is a terminal, and NO_COLOR is unset or empty (no-color.org)."""
    return live(stream) and not os.environ.get("NO_COLOR")


class Stage:
    """A running stage: its name, the duration and pace of its last run, and the pace of this run.

    Args:
        name: the name that `tli costs` lists, such as `sweep-score@4`.
        last: the last run's `seconds` in total and its `pace` (label -> seconds per item); empty if there is none.
    """

    def __init__(self, name: str, last: Mapping[str, Any]) -> None:
        self.name = name
        self.seconds: float | None = last.get("seconds")
        self.last: Mapping[str, float] = last.get("pace", {})
        self.pace: dict[str, float] = {}  # of this run, for the receipt


_running: list[Stage] = []


@contextmanager
def stage(name: str, last: Mapping[str, Any]) -> Iterator[Stage]:
    """Prints that a stage begins, with the duration of its last run, and at its end how long it took.

    Args: as of `Stage`. A stage that raises prints no duration.
    """
    current, start = Stage(name, last), time.monotonic()
    _running.append(current)
    last_duration = "" if current.seconds is None else f"{duration(current.seconds)} the last time"
    if live(sys.stderr) or (current.seconds or 0.0) >= LONG:
        _print_line(f"{name} begins" + (f", {last_duration}" if last_duration else ""))
    try:
        yield current
    except BaseException:
        _end_line()
        raise
    finally:
        _running.remove(current)
    _print_line(f"{name} took {duration(time.monotonic() - start)}, peak {_peak():.1f} GiB")
    _end_line()


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yields `items` and prints how many are done: in place on a terminal, else a line after every tenth of them.

    The line shows label, done/total, time left and the process's peak memory. With f = done / total, e the seconds so
    far and p the seconds per item of the stage's last run:
        time left = (1 - f) p (total - done) + f e / done (total - done)
    So the estimate begins with the pace of the last run and ends with the pace of this one. Without a last run only the
    second term counts, with f = 1.

    Args:
        items: what to iterate over.
        label: the name of this loop, in the line and in the receipt.
        total: the number of items; len(items) if not given.
    """
    count = len(items) if total is None else total  # type: ignore[arg-type]
    current = _running[-1] if _running else Stage(label, {})
    start, drawn, printed_tenth = time.monotonic(), -REDRAW, 0
    last_pace = current.last.get(label)
    if last_pace is not None and live(sys.stderr):
        _print_line(_line(label, 0, count, last_pace * count))
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        pace = (now - start) / done
        share = 1.0 if last_pace is None else done / max(count, 1)
        left = (share * pace + (1 - share) * (last_pace or 0.0)) * (count - done)
        tenth = 10 * done // max(count, 1)
        if (live(sys.stderr) and (now - drawn >= REDRAW or done == count)) or tenth > printed_tenth:
            drawn, printed_tenth = now, tenth
            _print_line(_line(label, done, count, left))
        current.pace[label] = pace
    if not _running:
        _end_line()


def _line(label: str, done: int, total: int, left: float) -> str:
    return f"{label} {done}/{total}, {duration(left)} left, peak {_peak():.1f} GiB"


def duration(seconds: float) -> str:
    """Formats a time with about two digits: `41 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _peak() -> float:
    """The process's peak memory in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _print_line(line: str) -> None:
    """Prints a line: on a terminal over the last one and cut to its width, elsewhere below it and with the time."""
    if live(sys.stderr):
        line = f"\r\x1b[2K{line[: shutil.get_terminal_size().columns - 1]}"
    else:
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n"
    print(line, end="", file=sys.stderr, flush=True)


def _end_line() -> None:
    """Moves below the live line, so that it stays on the screen."""
    if live(sys.stderr):
        print(file=sys.stderr, flush=True)
