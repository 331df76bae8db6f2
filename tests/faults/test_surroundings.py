"""What machines do to a run: a full disk, no permission, no memory, no network, no home, an odd path, a second run.

Where something is refused, a command ends in one line and leaves nothing; where it must not matter, bytes are the same.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch
from test_faults import descendants, start, until

from checkout import Checkout, clone
from stages import Stages
from tli.io import faults
from tli.io.receipts import revision
from tli.io.structured import read_json

Figures = Callable[[str, int], None]


class Said(NamedTuple):
    """Exit status and standard error of a process."""

    code: int
    text: str


def refused(said: Said, *words: str) -> None:
    """The process ended with exit status 2 and one line, its last, that holds `words`."""
    assert said.code == 2, said.text
    assert "Traceback" not in said.text
    line = said.text.strip().rpartition("\n")[2]
    assert line.startswith("Error: "), said.text
    for word in words:
        assert word in line


def tli(checkout: Checkout, *arguments: str, before: Sequence[str] = ()) -> Said:
    """`tli` in the checkout; `before` is put before its command."""
    call = subprocess.run(
        [*before, "python", "-m", "tli", *arguments],
        cwd=checkout.root,
        env=checkout.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    return Said(call.returncode, call.stderr)


def shell(script: str, *before: str) -> list[str]:
    """A command to put before another: a shell that runs `script`, which runs the other by "$@"."""
    return [*before, "sh", "-ec", script, "sh"]


def allowed(*command: str) -> bool:
    return subprocess.run([*command, "true"], capture_output=True, stdin=subprocess.DEVNULL).returncode == 0


def mounting() -> list[str]:
    """A command to put before another, which may then mount file systems that only it sees; not only root can."""
    return ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]


def needs(*command: str) -> None:
    """Skips the test, saying why, where this user or this container may not run `command`."""
    if not allowed(*command):
        pytest.skip(f"`{' '.join(command)}` is not allowed here")


def world(out: str) -> tuple[str, ...]:
    """A stage of a second, with its outputs in the folder `out`."""
    return ("microworld", "data/pairs.tsv", "data/world", "--out", f"{out}/world", "--metrics", f"{out}/world.json")


@pytest.fixture
def place(stages: Stages) -> Iterator[str]:
    """An empty folder in the checkout, by its relative name."""
    folder = stages.checkout.root / "build" / "place"
    folder.mkdir()
    yield str(folder.relative_to(stages.checkout.root))
    folder.chmod(0o755)
    shutil.rmtree(folder)


# A full disk.


@pytest.mark.parametrize("name", ["microworld", "base", "quantize", "train", "score", "tables"])
def test_no_space_for_a_file_is_one_line(stages: Stages, name: str, figures: Figures) -> None:
    """A disk that fills up ends a stage in one line, leaves nothing that is not whole, and the next run is as ever.

    A limit on the size of a file, half of that of the stage's largest, stands in for the disk: the same calls fail.
    """
    limit = max((stages.checkout.root / path).stat().st_size for path in stages.expected[name]) // 2
    stages.remove(name)
    ended = stages(name, limits={"FSIZE": limit})
    refused(Said(ended.code, ended.said), "no space left (File too large); free some and run again")
    assert stages.found(name).items() <= stages.expected[name].items()
    again = stages(name)
    assert again.code == 0, again.said
    assert stages.found(name) == stages.expected[name]
    assert stages.hidden_now() == stages.hidden
    figures("refusals in one line", 1)


@pytest.mark.parametrize("name", ["microworld", "base"])
def test_a_full_disk_is_one_line_and_nothing_is_left_on_it(
    stages: Stages, place: str, name: str, figures: Figures
) -> None:
    """A full disk, a real one, ends a stage in one line, and all that it had written there is removed."""
    mount = f"mount -t tmpfs -o size=64k none {shlex.quote(str(stages.checkout.root / place))}"
    needs(*shell(f'{mount}; "$@"', *mounting()))
    command = world(place)
    if name == "base":
        build = f"build/{stages.checkout.model}"
        command = ("base", f"{build}/microworld", "--out", f"{place}/base", "--metrics", f"{place}/base.json")
    script = f'{mount}; code=0; "$@" || code=$?; ls -A {place} >&2; exit $code'
    said = tli(stages.checkout, *command, before=shell(script, *mounting()))
    *_, line = said.text.strip().splitlines()
    refused(said, "no space left (No space left on device); free some and run again")
    assert line.startswith("Error: "), "the folder should be empty"
    figures("refusals in one line", 1)


# A folder or a file that is not ours.


def test_a_read_only_folder_is_one_line(stages: Stages, place: str, figures: Figures) -> None:
    """A file system mounted read-only ends a stage in one line that names the folder."""
    folder = shlex.quote(str(stages.checkout.root / place))
    before = shell(f'mount --bind {folder} {folder}; mount -o remount,ro,bind {folder}; "$@"', *mounting())
    needs(*before)
    refused(tli(stages.checkout, *world(place), before=before), f"{place}/.kept: Read-only file system; ")
    assert list((stages.checkout.root / place).iterdir()) == []
    figures("refusals in one line", 1)


def unprivileged() -> list[str]:
    """A command to put before another, which may then read and write no more than modes allow: root may everything."""
    if os.geteuid():
        return []
    before = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    needs(*before)
    return before


def test_no_permission_to_write_is_one_line(stages: Stages, place: str, figures: Figures) -> None:
    """A folder that the user may not write ends a stage in one line that names it."""
    (stages.checkout.root / place).chmod(0o555)
    said = tli(stages.checkout, *world(place), before=unprivileged())
    refused(said, f"{place}/.kept: Permission denied; expected a place that this user may read and write")
    assert list((stages.checkout.root / place).iterdir()) == []
    figures("refusals in one line", 1)


def test_no_permission_to_read_is_one_line(stages: Stages, place: str, figures: Figures) -> None:
    """An input that the user may not read ends a stage in one line that names it."""
    pairs = stages.checkout.root / place / "pairs.tsv"
    shutil.copyfile(stages.checkout.root / "data" / "pairs.tsv", pairs)
    pairs.chmod(0)
    command = ("words", f"{place}/pairs.tsv", "--out", f"{place}/out.tsv", "--audit", f"{place}/audit.json")
    said = tli(stages.checkout, *command, before=unprivileged())
    refused(said, f"Path '{place}/pairs.tsv' is not readable")
    assert [path.name for path in pairs.parent.iterdir()] == ["pairs.tsv"]
    figures("refusals in one line", 1)


# No memory.


def test_no_memory_is_one_line_that_names_the_batch_size(stages: Stages, figures: Figures) -> None:
    """A limit on memory ends a stage in one line that names compute.batch_size; nothing is made smaller unasked."""
    name = "tables"
    stages.remove(name)
    ended = stages(name, limits={"AS": 1 << 20})
    refused(Said(ended.code, ended.said), f"{name}: out of memory", "lower the profile's compute.batch_size")
    assert stages.found(name) == {}
    assert stages(name).code == 0
    assert stages.found(name) == stages.expected[name]
    figures("refusals in one line", 1)


@pytest.mark.parametrize(
    ("allocate", "said"),
    [
        (lambda: torch.empty(1 << 50), "(4503599627370496 bytes more were requested)"),
        (lambda: np.empty(1 << 50), "(8.00 PiB more were requested)"),
        (lambda: bytearray(1 << 60), "out of memory; free some"),
    ],
    ids=["torch", "numpy", "python"],
)
def test_whoever_gets_no_memory_is_understood(allocate: Callable[[], object], said: str) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as error:
        allocate()
    line = faults.explain(error.value, "scan")
    assert line is not None
    assert line.startswith("scan: out of memory")
    assert said in line


def test_what_is_not_the_machine_s_fault_keeps_its_traceback() -> None:
    assert faults.explain(ValueError("a row's value must be finite"), "scan") is None
    assert faults.explain(BrokenPipeError(32, "Broken pipe"), "scan") is None


# Streams.


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_no_byte(stages: Stages, place: str, closed: str, figures: Figures) -> None:
    """With standard output closed, and input and errors too, a stage writes the same bytes as ever."""
    said = tli(stages.checkout, *world(place), before=shell(f'"$@" {closed}'))
    assert said.code == 0, said.text
    made = stages.checkout.digests(place)
    assert sorted(made.values()) == sorted(stages.expected["microworld"].values())
    figures("runs", 1)


def test_a_reader_that_has_enough_is_no_error(stages: Stages) -> None:
    said = tli(stages.checkout, "plan", before=["bash", "-c", '"$@" | true', "bash"])
    assert said == Said(0, "")


# Two runs at once.


def test_a_second_run_in_the_checkout_says_who_is_there(stages: Stages, figures: Figures) -> None:
    """Of two runs at once in a checkout the second, by dvc or by hand, says who holds the lock, and writes nothing."""
    checkout, name = stages.checkout, "base"
    lock = checkout.root / "build" / checkout.model / ".kept" / f"{name}.lock"
    stages.remove(name)
    repro = ("dvc", "repro", "--single-item", "--no-run-cache", name)
    with start(checkout, *repro) as first:
        until(lambda: lock.is_file() and lock.read_text())
        (stage,) = (pid for pid in descendants(first.pid) if f"process {pid} " in lock.read_text())
        os.kill(stage, signal.SIGSTOP)
        try:
            assert stages.found(name) == {}, "the stage should have been stopped before it was through"
            second = checkout(*repro, ok=False)
            by_hand = stages(name)
        finally:
            os.kill(stage, signal.SIGCONT)
        assert first.wait() == 0
    assert f"(PID {first.pid})" in second
    assert "Traceback" not in second
    refused(Said(by_hand.code, by_hand.said), f"process {stage} on ", " is writing it; wait for that run, or end it")
    assert stages.found(name) == stages.expected[name]
    assert stages.hidden_now() == stages.hidden
    figures("second runs refused", 2)


# Elsewhere: all at once, since a run takes a minute.


def without_network() -> list[str]:
    """A command to put before another, which then has no network, not even a loopback; empty where not allowed."""
    ways = (["unshare", "--net"], ["unshare", "--net", "--map-current-user"])
    return next((way for way in ways if allowed(*way)), [])


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """`dvc repro` in a folder with an odd name, in the locale C, without HOME, git history, terminal and network."""
    checkout = clone(tmp_path_factory.mktemp("a path, with ñ and 文 in it") / "the project")
    checkout("dvc", "pull", "-q", "data.dvc")
    shutil.rmtree(checkout.root / ".git")
    checkout("dvc", "config", "--local", "core.no_scm", "true")  # as `make setup` does where there is no .git
    left_out = ("HOME", "TERM", "LANG", "LC_", "XDG_")
    checkout.env = {key: value for key, value in checkout.env.items() if not key.startswith(left_out)}
    checkout.env |= {"LC_ALL": "C", "HF_HUB_OFFLINE": "0"}
    checkout(*without_network(), "setsid", "--wait", "dvc", "repro")
    return checkout


@pytest.mark.slow
def test_a_run_elsewhere_gives_the_same_bytes(elsewhere: Checkout, done: Checkout, figures: Figures) -> None:
    """Locale C, a path with spaces and other letters, no HOME, no .git, no terminal: all bytes are as ever."""
    folders = ("build", "results", "paper")
    assert elsewhere.digests(*folders) == done.digests(*folders)
    assert (elsewhere.root / "dvc.lock").read_bytes() == (done.root / "dvc.lock").read_bytes()
    assert read_json(elsewhere.root / "build" / done.model / "base.receipt.json")["revision"] == "unknown"
    figures("files the same", len(done.digests(*folders)))


@pytest.mark.slow
def test_a_run_needs_no_network(elsewhere: Checkout, figures: Figures) -> None:
    """After fetching no stage needs a network: the whole pipeline ran where there was none."""
    before = without_network()
    if not before:
        pytest.skip("`unshare --net` is not allowed here: the pipeline ran with the network that there is")
    assert elsewhere(*before, "cat", "/proc/net/route").splitlines()[1:] == [], "below the header stand routes"
    assert (elsewhere.root / "paper" / "artifact.pdf").is_file()
    figures("stages run without a network", len(list((elsewhere.root / "build").rglob("*.receipt.json"))))


def test_no_git_at_all_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert revision() == "unknown"
