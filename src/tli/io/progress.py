"""What a person sees while a stage runs: its name, how far it is, the time left, its memory; colour where it helps.

On a terminal one line a stage, rewritten in place; elsewhere (a log, a pipe) plain lines with the time of day. All of
it goes to standard error, computes no number and changes no output. How long things took is kept in the stage's receipt
(store.py), from where the next run takes it.
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

REDRAW = 0.1  # seconds between two drawings of a live line, at least
LONG = 10.0  # seconds: a stage that took less the last time is not announced in a log


def live(stream: IO[Any]) -> bool:
    """Whether `stream` is a terminal on which a line can be rewritten."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def coloured(stream: IO[Any]) -> bool:
    """Whether `stream` may show colours: a terminal, and NO_COLOR is unset or empty (no-color.org)."""
    return live(stream) and not os.environ.get("NO_COLOR")


class Stage:
    """A running stage: what it is called, what the last run of it took, and the pace of this one.

    Args:
        name: as `tli costs` lists it, `sweep-score@4`.
        last: `seconds` in all and `pace`, label -> seconds an item, of the last run; empty where there was none.
    """

    def __init__(self, name: str, last: Mapping[str, Any]) -> None:
        self.name = name
        self.seconds: float | None = last.get("seconds")
        self.last: Mapping[str, float] = last.get("pace", {})
        self.pace: dict[str, float] = {}  # of this run, for the receipt


_running: list[Stage] = []


@contextmanager
def stage(name: str, last: Mapping[str, Any]) -> Iterator[Stage]:
    """Says that a stage begins and how long it took the last time, and when it ends what it took now."""
    own, start = Stage(name, last), time.monotonic()
    _running.append(own)
    took = "" if own.seconds is None else f"{spoken(own.seconds)} the last time"
    if live(sys.stderr) or (own.seconds or 0.0) >= LONG:
        _say(f"{name} begins" + (f", {took}" if took else ""))
    try:
        yield own
    except BaseException:
        _end_line()
        raise
    finally:
        _running.remove(own)
    _say(f"{name} took {spoken(time.monotonic() - start)}, peak {_peak():.1f} GiB")
    _end_line()


def progress(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yields `items`, telling how far they are: on a terminal in place, else a line every tenth.

    The line holds label, done/total, time left and the process's peak memory. With f = done / total, e the seconds so
    far and p those an item took in the stage's last run, where there was one:
        time left = (1 - f) p (total - done) + f e / done (total - done)
    so that it begins with what the last run knew and ends with this run's own pace; without a last run the second term
    alone, f = 1.
    """
    count = len(items) if total is None else total  # type: ignore[arg-type]
    own = _running[-1] if _running else Stage(label, {})
    start, drawn, told = time.monotonic(), -REDRAW, 0
    known = own.last.get(label)
    if known is not None and live(sys.stderr):
        _say(_line(label, 0, count, known * count))
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        pace = (now - start) / done
        share = 1.0 if known is None else done / max(count, 1)
        left = (share * pace + (1 - share) * (known or 0.0)) * (count - done)
        tenth = 10 * done // max(count, 1)
        if (live(sys.stderr) and (now - drawn >= REDRAW or done == count)) or tenth > told:
            drawn, told = now, tenth
            _say(_line(label, done, count, left))
        own.pace[label] = pace
    if not _running:
        _end_line()


def _line(label: str, done: int, total: int, left: float) -> str:
    return f"{label} {done}/{total}, {spoken(left)} left, peak {_peak():.1f} GiB"


def spoken(seconds: float) -> str:
    """A time to two digits or so: `41 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _peak() -> float:
    """GiB of memory that the process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _say(line: str) -> None:
    """Writes a line: over the one before on a terminal, no wider than it; after it, with the time, elsewhere."""
    if live(sys.stderr):
        line = f"\r\x1b[2K{line[: shutil.get_terminal_size().columns - 1]}"
    else:
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n"
    print(line, end="", file=sys.stderr, flush=True)


def _end_line() -> None:
    """Leaves the live line as it stands."""
    if live(sys.stderr):
        print(file=sys.stderr, flush=True)
