"""Resume support: only intact checkpoints of the same environment are used; one writer per output; no orphans."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest

from tiny import ROOT
from tli.io import resume
from tli.io.errors import UserError
from tli.io.files import write_manifest


def writes(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


def never(path: Path) -> object:
    raise AssertionError(f"{path} was made again")


def write_folder(path: Path) -> None:
    (path / "sub").mkdir(parents=True)
    (path / "a").write_text("1")
    (path / "sub" / "b").write_text("2")


@contextmanager
def cut_off(out: Path, *inputs: Path, **settings: object) -> Iterator[resume.Checkpoints]:
    """The pieces of a run that ends with an error at the end of the block."""
    with suppress(KeyboardInterrupt), resume.checkpoints(out, inputs, **settings) as found:
        yield found
        raise KeyboardInterrupt


def cut(out: Path, *inputs: Path, **settings: object) -> tuple[Path, Path]:
    """A run that is cut off after two pieces."""
    with cut_off(out, *inputs, **settings) as found:
        return found.get_or_make("one.txt", writes("1")), found.get_or_make("folder", write_folder)


def test_pieces_outlive_a_run_that_is_cut_off_and_no_other(tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = cut(out, rate=1.5)
    with resume.checkpoints(out, (), rate=1.5) as found:
        assert (found.get_or_make("one.txt", never), found.get_or_make("folder", never)) == made
        assert made[0].read_text() == "1"
        assert (made[1] / "sub" / "b").read_text() == "2"
        assert found.get("one") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("harm", ["flip", "truncate", "empty", "add", "remove"])
def test_a_piece_that_is_not_whole_is_made_again(
    tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str], figures: Callable[[str, int], None]
) -> None:
    """A piece that a crash tore or that changed since is not used but made again, and said so."""
    one, folder = cut(tmp_path / "out")
    if harm == "flip":
        one.write_text("2")
        (folder / "a").write_text("2")
    elif harm in ("truncate", "empty"):
        os.truncate(one, 0)
        os.truncate(folder / "sub" / "b", 0)
    else:
        one.unlink()
        (folder / "c").write_text("3") if harm == "add" else (folder / "a").unlink()
    with resume.checkpoints(tmp_path / "out", ()) as found:
        assert found.get("one.txt") is None
        assert found.get("folder") is None
        assert "the bytes do not match the hash in the name; it is computed again" in capsys.readouterr().err
        assert found.get_or_make("one.txt", writes("1")) == one
        assert found.get_or_make("folder", write_folder) == folder
        assert found.get_or_make("folder", never) == folder
    figures("damaged pieces found", 2)


def test_a_write_that_fails_or_is_killed_leaves_no_piece(tmp_path: Path) -> None:
    def fails(path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    out = tmp_path / "out"
    with pytest.raises(OSError, match="disk full"), resume.checkpoints(out, ()) as found:
        found.get_or_make("one", fails)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [], "half a piece may be what fills the disk"
    with resume.checkpoints(out, ()) as found:
        assert list(found.folder.iterdir()) == []
        assert found.get("one") is None
    assert list(tmp_path.iterdir()) == []


def test_a_piece_put_again_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with cut_off(out) as found:
        first = found.put("state", writes("1"))
        older = first.read_bytes()
        second = found.put("state", writes("2"))
        assert found.get("state") == second
        assert list(found.folder.iterdir()) == [second]
        first.write_bytes(older)  # as if killed before it was removed
        os.utime(first, ns=(0, 0))
    with resume.checkpoints(out, ()) as found:
        assert found.get("state") == second
        second.write_text("torn")
        assert found.get("state") == first


def change_input(folder: Path, _: pytest.MonkeyPatch) -> None:
    (folder / "in" / "file").write_text("changed")


def change_manifest(folder: Path, _: pytest.MonkeyPatch) -> None:
    (folder / "listed" / "file").write_text("changed")
    write_manifest(folder / "listed")


def change_packages(_: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(resume.importlib.metadata, "version", lambda _: "0")


def change_threads(_: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sys.modules["torch"], "get_num_threads", lambda: 7)


def change_processor(_: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(resume, "_processor", lambda: "another")


def change_code(folder: Path, patch: pytest.MonkeyPatch) -> None:
    assert all([*(ROOT / "src" / "tli" / name).rglob("*.py")] for name in resume.CODE), "a folder without code"
    (folder / "training").mkdir()
    (folder / "training" / "loop.py").write_text("1")
    patch.setattr(resume, "__file__", str(folder / "io" / "resume.py"))


@pytest.mark.parametrize(
    "change", [change_input, change_manifest, change_packages, change_threads, change_processor, change_code]
)
def test_pieces_of_other_circumstances_are_not_found_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path, pytest.MonkeyPatch], None]
) -> None:
    out = tmp_path / "out"
    inputs = (tmp_path / "in", tmp_path / "listed")
    for folder in inputs:
        folder.mkdir()
        (folder / "file").write_text("as it was")
    write_manifest(inputs[1])
    (made, _) = cut(out, *inputs)
    with cut_off(out, *inputs) as found:
        assert found.get_or_make("one.txt", never) == made
    change(tmp_path, monkeypatch)
    with resume.checkpoints(out, inputs) as found:
        assert found.get("one.txt") is None
        assert not made.exists()


def test_settings_count_by_what_is_in_them(tmp_path: Path) -> None:
    def settings(rank: int) -> SimpleNamespace:
        return SimpleNamespace(rank=rank, inner=SimpleNamespace(seeds=(0, 1)))

    cut(tmp_path / "out", lora=settings(8))
    with cut_off(tmp_path / "out", lora=settings(8)) as found:
        found.get_or_make("one.txt", never)
    with resume.checkpoints(tmp_path / "out", (), lora=settings(9)) as found:
        assert found.get("one.txt") is None


def test_another_output_s_pieces_stay(tmp_path: Path) -> None:
    made = cut(tmp_path / "out.tsv")
    with resume.checkpoints(tmp_path / "out", ()):
        pass
    assert all(path.exists() for path in made)


# The lock.

HOLDS = """
import sys
from pathlib import Path
from tli.io import resume
with resume.lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(out: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(out)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path, figures: Callable[[str, int], None]) -> None:
    """A second run never writes beside a first: it ends at once and says who that is."""
    out = tmp_path / "out"
    with holder(out) as process:
        with pytest.raises(UserError) as error, resume.lock(out):
            pass
        line = rf"{out}: process {process.pid} on \S+, since \d{{4}}-\S+ \S+ \S+, is writing it; wait for that run"
        assert error.match(line)
        assert error.value.exit_code == 2
        with resume.lock(tmp_path / "another"):
            pass
        process.communicate()
    with resume.lock(out):
        pass
    assert list(tmp_path.iterdir()) == []
    figures("second writers refused", 1)


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with holder(tmp_path / "out") as process:
        process.kill()
        process.communicate()
    assert (tmp_path / ".kept" / "out.lock").exists()
    with resume.lock(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_removed_while_one_waits_for_it_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first lock that is got is on a file that its holder has removed meanwhile: another must be made."""
    path, taken = tmp_path / ".kept" / "out.lock", []
    flock = fcntl.flock

    def late(file: object, flags: int) -> None:
        flock(file, flags)  # type: ignore[arg-type]
        taken.append(file)
        if len(taken) == 1:
            path.unlink()

    monkeypatch.setattr(fcntl, "flock", late)
    with resume.lock(tmp_path / "out"):
        assert len(taken) == 2
        assert path.exists()


# The tie to dvc: a process that runs a stage through a shell, as dvc does, and is killed.

STAGE = """
import sys, time
from tli.io import resume
print("begun", flush=True)
sys.stdin.read()
resume.end_with_dvc()
print("tied", flush=True)
time.sleep(60)
print("stayed", flush=True)
"""
RUNNER = """
import os, subprocess, sys
subprocess.run(sys.argv[1:], env=os.environ | {"DVC_STAGE": "base"})
"""


@contextmanager
def running(shell: str) -> Iterator[tuple[subprocess.Popen[str], IO[str], IO[str]]]:
    """A process as dvc, its stage begun, and their input and output; the stage goes on when the input is closed."""
    stage = shlex.join([sys.executable, "-c", STAGE])
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER, shell, "-c", stage],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as dvc:
        assert dvc.stdin is not None
        assert dvc.stdout is not None
        assert dvc.stdout.readline() == "begun\n"
        yield dvc, dvc.stdin, dvc.stdout


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_a_stage_ends_with_its_dvc(shell: str, end: signal.Signals, figures: Callable[[str, int], None]) -> None:
    """However a dvc ends, and whatever shell it runs commands by, its stage ends with it."""
    with running(shell) as (dvc, given, said):
        given.close()
        assert said.readline() == "tied\n"
        dvc.send_signal(end)
        assert said.read() in ("", "Killed\n")  # ends once stage and shell have closed it; dash says what it saw
    figures("stages ended", 1)


def test_a_stage_whose_dvc_has_ended_does_not_begin() -> None:
    with running("/bin/sh") as (dvc, given, said):
        dvc.kill()
        dvc.wait()
        given.close()
        assert "UserError: dvc has ended, and so does the stage that it started" in said.read()


def test_a_stage_started_by_hand_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    before = threading.active_count()
    resume.end_with_dvc()
    assert threading.active_count() == before
