"""What a person sees: one line on a terminal, lines with the time elsewhere; colour where it was not refused."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest

from tli.io import progress
from tli.io.errors import CheckFailed, UserError
from tli.io.receipts import last_receipt, receipt_of, write_receipt

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


class Screen(io.StringIO):
    """Standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True

    @property
    def left(self) -> list[str]:
        """What still stands on it: each line as it was last drawn."""
        return [line.rpartition("\r\x1b[2K")[2] for line in self.getvalue().split("\n")]


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def count(self, items: int, each: float) -> Iterator[int]:
        for item in range(items):
            self.now += each
            yield item


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("tli.io.progress.time.monotonic", made)
    return made


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    made = Screen()
    monkeypatch.setattr("tli.io.progress.sys", SimpleNamespace(stderr=made))  # pytest holds the real one
    return made


def test_a_log_gets_a_line_with_the_time_every_tenth(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    assert list(progress.track(clock.count(40, 2.0), "count", 40)) == list(range(40))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert all(re.fullmatch(rf"{TIME} count \d+/40, \d+ s left, peak \d+\.\d GiB", line) for line in lines)
    assert [re.findall(r"(\d+)/40, (\d+) s", line)[0] for line in lines[:2]] == [("4", "72"), ("8", "64")]


def test_a_terminal_keeps_one_line_a_stage(screen: Screen, clock: Clock) -> None:
    with progress.stage("scan", {}):
        list(progress.track(clock.count(40, 1.0), "scan", 40))
    assert re.fullmatch(r"scan took 40 s, peak \d+\.\d GiB", screen.left[0])
    assert screen.left[1:] == [""]
    assert "scan 20/40, 20 s left" in screen.getvalue()
    assert not re.search(TIME, screen.getvalue())


def test_a_live_line_is_never_wider_than_the_terminal(screen: Screen, clock: Clock) -> None:
    list(progress.track(clock.count(3, 1.0), "x" * 200, 3))
    assert max(map(len, screen.left)) == 79


def test_a_terminal_is_drawn_at_most_ten_times_a_second(screen: Screen, clock: Clock) -> None:
    list(progress.track(clock.count(1000, 0.001), "fast", 1000))
    assert 10 <= screen.getvalue().count("\r") <= 22, "once a tenth of a second, and at every tenth of the way"
    assert screen.left[0].startswith("fast 1000/1000, 0 s left")


def test_the_time_left_begins_with_the_last_run_s_pace_and_ends_with_this_one_s(screen: Screen, clock: Clock) -> None:
    """The last run took 10 s an item, this one takes 2 s."""
    last = {"seconds": 400.0, "pace": {"count": 10.0}}
    with progress.stage("count", last) as told:
        list(progress.track(clock.count(40, 2.0), "count", 40))
    drawn = screen.getvalue()
    assert "count begins, 7 min the last time" in drawn
    assert "count 0/40, 7 min left" in drawn
    for done in (1, 20, 39):
        share = done / 40
        left = (share * 2 + (1 - share) * 10) * (40 - done)
        assert f"count {done}/40, {progress.duration(left)} left" in drawn
    assert told.pace == {"count": 2.0}


def test_receipts_carry_the_pace_to_the_next_run(tmp_path: Path, clock: Clock) -> None:
    out = tmp_path / "out.tsv"
    assert last_receipt(out) == {}
    with progress.stage("count", last_receipt(out)) as told, write_receipt(out, pace=told.pace):
        list(progress.track(clock.count(4, 3.0), "count", 4))
    assert last_receipt(out)["pace"] == {"count": 3.0}
    for broken in ("{", "[]", "\xff"):
        receipt_of(out).write_text(broken, encoding="latin-1")
        assert last_receipt(out) == {}


def test_a_log_hears_of_a_long_stage_s_beginning_and_of_every_end(
    capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    for seconds in (9.0, 24.0):
        with progress.stage("tables", {"seconds": seconds}):
            clock.now += 5
    said = [line[20:] for line in capsys.readouterr().err.splitlines()]
    assert [re.sub(r"peak .*", "peak", line) for line in said] == [
        "tables took 5 s, peak",
        "tables begins, 24 s the last time",
        "tables took 5 s, peak",
    ]


def test_a_stage_that_fails_does_not_say_what_it_took(screen: Screen, clock: Clock) -> None:
    items = chain(clock.count(3, 1.0), map(int, ["no number"]))
    with pytest.raises(ValueError, match="no number"), progress.stage("scan", {}):
        list(progress.track(items, "scan", 4))
    assert "took" not in screen.getvalue()
    assert screen.getvalue().endswith("\n"), "the error stands on a line of its own"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "0 s"), (99.4, "99 s"), (100.0, "2 min"), (5999.0, "100 min"), (12600.0, "3.5 h")]
)
def test_times_as_people_say_them(seconds: float, said: str) -> None:
    assert progress.duration(seconds) == said


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_an_error_is_red_on_a_terminal_unless_refused(
    variables: dict[str, str], coloured: bool, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    UserError("params.yaml: expected this, got that").show(screen)
    first = "\x1b[31m\x1b[1mError:\x1b[0m" if coloured else "Error:"
    assert screen.getvalue() == f"{first} params.yaml: expected this, got that\n"


def test_no_colour_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    CheckFailed("a value differs").show()
    assert capsys.readouterr().err == "Error: a value differs\n"
