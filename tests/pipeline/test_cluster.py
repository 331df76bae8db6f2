"""Tasks as jobs: what is asked of DVC, what a job survives, that all comes back to the byte. On this machine's cores.

The same on a real Slurm: tests/cluster.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from submitit.core.utils import cloudpickle_dump

from checkout import Checkout
from cluster.sweep import begun, killed_in, waited
from tiny import ROOT
from tli.cli import main
from tli.cluster import attempt, submit, tasks, workers
from tli.cluster.attempt import Attempts
from tli.cluster.executors import Local, _groups
from tli.cluster.tasks import Task
from tli.config import parameters
from tli.config.parameters import Cluster
from tli.io.errors import CheckFailed
from tli.io.files import sha256_of
from tli.io.structured import read_json, write_json

LOCAL = parameters.load(ROOT / "tests" / "smoke" / "params.yaml").cluster
WRITES = "import pathlib, sys; pathlib.Path('out.txt').write_text(pathlib.Path('in.txt').read_text().upper())"


def loaded(model: str) -> parameters.Params:
    return parameters.load(ROOT / "params.yaml", model=model)


def task(stage: str = "sweep-train@microworld-2", reads: str | None = None, out: str = "out.txt") -> Task:
    return Task(stage, ("sweep-train", "--out", out), {"in.txt": reads}, (out,), "0" * 64, True)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like a checkout, to call things in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").symlink_to(ROOT / "src")
    (tmp_path / "params.yaml").write_text("{}\n")
    (tmp_path / "in.txt").write_text("what is read\n")
    return tmp_path


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has every task run a line of Python in place of a stage."""

    def as_code(code: str) -> None:
        monkeypatch.setattr(submit, "command", lambda *_: [sys.executable, "-c", code])

    return as_code


def prepared(*all_tasks: Task, retries: int = 2) -> list[Path]:
    settings = LOCAL.model_copy(update={"retries": retries})
    submit._prepare(all_tasks, all_tasks, settings)
    return [each.folder.resolve() for each in all_tasks]


# One attempt after another, as a job makes them.


def test_an_attempt_reads_through_links_and_notes_what_it_read_and_wrote(
    place: Path, runs: Callable[[str], None]
) -> None:
    runs(WRITES)
    (folder,) = prepared(task())
    attempt.run(folder)
    assert (folder / "1" / "out.txt").read_text() == "WHAT IS READ\n"
    assert not (place / "out.txt").exists(), "only `tli collect` writes to the checkout"
    done = read_json(folder / "1" / tasks.DONE)
    assert done["inputs"] == {"in.txt": sha256_of(place / "in.txt")}
    assert done["outs"] == {"out.txt": sha256_of(folder / "1" / "out.txt")}
    attempt.run(folder)
    assert [path.name for path in tasks.attempts(folder)] == ["1"], "what is done is not done again"


def test_a_killed_stage_is_tried_again_and_goes_on_where_it_was(place: Path, runs: Callable[[str], None]) -> None:
    """The pieces that it kept are there, and nothing else of the attempt before."""
    runs(
        "import os, pathlib\n"
        "kept = pathlib.Path('.kept/out.txt'); kept.mkdir(parents=True, exist_ok=True)\n"
        "number = len(list(kept.iterdir())); (kept / str(number)).touch()\n"
        "assert not pathlib.Path('left').exists(); pathlib.Path('left').touch()\n"
        "if number < 2: os.kill(os.getpid(), 9)\n"
        "pathlib.Path('out.txt').write_text(str(number))\n"
    )
    (folder,) = prepared(task())
    attempt.run(folder)
    assert tasks.finished(folder) == folder / "3"
    assert (folder / "3" / "out.txt").read_text() == "2"


def test_a_stage_that_is_killed_each_time_is_given_up(place: Path, runs: Callable[[str], None]) -> None:
    runs("import os; print('before', flush=True); os.kill(os.getpid(), 9)")
    (folder,) = prepared(task(), retries=1)
    with pytest.raises(CheckFailed, match="killed 2 times; give it more time or memory"):
        attempt.run(folder)
    assert len(tasks.attempts(folder)) == 2
    prepared(task(), retries=1)
    assert tasks.failure(folder) is None, "submitted again, it has its attempts again"
    with pytest.raises(CheckFailed, match="killed 4 times"):
        attempt.run(folder)


def test_a_stage_that_fails_for_its_own_reason_is_not_tried_again(place: Path, runs: Callable[[str], None]) -> None:
    runs("import sys; print('the first line'); sys.exit('no such rank')")
    (folder,) = prepared(task())
    with pytest.raises(CheckFailed, match="no such rank"):
        attempt.run(folder)
    assert len(tasks.attempts(folder)) == 1
    line = submit.unfinished(task())
    log = task().folder / "1" / tasks.STDERR
    assert line == f"sweep-train@microworld-2: attempts: 1; last line: no such rank; log: {log}"


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("print('progress', file=sys.stderr, flush=True); print('on stdout', flush=True); sys.exit('why')", "why"),
        ("sys.stderr.write('why\\n'); sys.stderr.flush(); print('on stdout', flush=True); sys.exit(1)", "why"),
        ("print('why'); sys.stderr.write(' \\n\\n'); sys.exit(1)", "why"),
        ("sys.exit(3)", "exit status 3"),
    ],
    ids=["stderr after stdout", "stdout after stderr", "stderr blank", "neither"],
)
def test_the_line_of_a_failed_attempt_is_the_last_of_stderr_or_else_of_stdout(
    place: Path, runs: Callable[[str], None], code: str, line: str
) -> None:
    """The same line in whichever order the two streams are written."""
    runs(f"import sys; {code}")
    (folder,) = prepared(task())
    with pytest.raises(CheckFailed) as caught:
        attempt.run(folder)
    assert caught.value.message == line
    assert f"last line: {line}; log: " in submit.unfinished(task())


def test_what_another_task_writes_is_read_from_there_and_checked(place: Path, runs: Callable[[str], None]) -> None:
    first = task()
    second = Task("sweep-score@microworld-2", (), {"out.txt": first.stage}, ("rows",), "1" * 64, True)
    runs(
        "import pathlib; p = pathlib.Path; p('out.txt').exists() and p('rows').write_text(p('out.txt').read_text())\n"
        "p('in.txt').exists() and (p('out.txt').mkdir(), p('out.txt/a').write_text('new'))"
    )
    above, below = prepared(first, second)
    attempt.run(above)
    (above / "1" / "out.txt" / "a").write_text("altered")
    with pytest.raises(CheckFailed, match=r"differs from the hash in done\.json"):
        attempt.run(below)


def test_an_input_that_stays_unseen_is_named(
    place: Path, runs: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "WAIT", 0)
    runs(WRITES)
    (folder,) = prepared(task())
    (place / "in.txt").unlink()
    with pytest.raises(CheckFailed, match=r"in\.txt: expected this input, got none in 0 s"):
        attempt.run(folder)
    assert "got none" in str(tasks.failure(folder))


def test_a_job_is_pickled_as_a_name_and_a_path(tmp_path: Path) -> None:
    """No code and no object of ours crosses to the job: the pickle opens in a Python without torch, dvc or the rest."""
    cloudpickle_dump(Attempts(tmp_path), tmp_path / "job.pkl")
    content = (tmp_path / "job.pkl").read_bytes()
    assert len(content) < 200 + len(str(tmp_path))
    assert pickle.loads(content).folder == str(tmp_path)


# Which tasks, in which order.


def test_a_task_s_kind_is_its_command_whatever_stands_before() -> None:
    command = ("--model", "microworld", "--set", "a=1", "sweep-train", "--out", "out")
    assert Task("t", command, {}, ("out",), "0", True).kind == "sweep-train"


def test_tasks_are_grouped_by_command_those_first_that_wait_for_none() -> None:
    found = [task("t1"), task("t2")] + [
        Task(f"e{n}", ("sweep-score",), {"a": f"t{n}"}, ("b",), str(n), True) for n in (1, 2)
    ]
    assert [[each.stage for each in group] for group in _groups(found, {})] == [["t1", "t2"], ["e1", "e2"]]
    alone = [each for each in found if each.stage != "t2"]
    assert [[each.stage for each in group] for group in _groups(alone, {})] == [["e2"], ["t1"], ["e1"]]
    assert [[each.stage for each in group] for group in _groups(alone, {"t2": "7"})] == [["t1"], ["e1", "e2"]]


def test_one_task_fails_and_the_others_go_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The summary has each that is not done: what failed with its last line and log, what waited for it."""
    code = {"t1": "import sys; sys.exit('bad task')", "t2": WRITES, "e1": "1", "e2": WRITES.replace("out", "new")}
    monkeypatch.setattr(submit, "command", lambda task, _: [sys.executable, "-c", code[task.stage]])
    found = [task("t1"), task("t2")]
    found += [
        Task(f"e{n}", ("sweep-score",), {"in.txt": None, "out.txt": f"t{n}"}, ("new.txt",), str(n), True)
        for n in (1, 2)
    ]
    submit._prepare(found, found, LOCAL)
    executor = Local(LOCAL)
    executor.start(found)
    with pytest.raises(CheckFailed) as caught:
        submit._wait(found, executor)
    head, failed, behind = caught.value.message.splitlines()
    assert head == "2 of 4 stages not done:"
    assert "t1: attempts: 1; last line: bad task; log: build/.cluster/t1." in failed
    assert "e1: attempts: 0; last line: not started" in behind
    assert tasks.finished(found[3].folder)


def test_containers_run_the_same_command() -> None:
    image = {"runtime": "container", "image": "tli.sif", "gpus": 1}
    settings = Cluster.model_validate(LOCAL.model_dump() | image)
    words = submit.command(task(), settings)
    assert words[:4] == ["apptainer", "exec", "--nv", "--bind"]
    assert words[-6:] == ["python", "-m", "tli", "sweep-train", "--out", "out.txt"]
    with pytest.raises(ValueError, match="an image with runtime container"):
        Cluster.model_validate(LOCAL.model_dump() | {"runtime": "container"})


def test_slurm_is_missed_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(main, ["--set", "cluster.executor=slurm", "submit"])
    assert result.exit_code == 2
    assert "expected Slurm's commands with slurm, got none" in result.output
    assert len(result.output.strip().splitlines()) == 1


# The plan.


def test_the_study_has_a_stage_for_each_key() -> None:
    chains = workers.chains(loaded("microworld"))
    assert [*chains] == ["sweep", "study, all 70 keys"]
    assert [sum(chain.tasks for chain in own) for own in chains.values()] == [12, 70]
    assert [sum(chain.adapters for chain in own) for own in chains.values()] == [30, 725]
    assert {chain.layers for chain in chains["study, all 70 keys"]} == {0.5, 1.0, 2.0, 4.0}
    assert [*workers.chains(loaded("lugha_llama_early"))] == ["sweep"]


def test_the_last_task_is_through_when_the_longest_chain_is() -> None:
    own, one = [workers.Chain(2, 5, 1.0)] * 4 + [workers.Chain(2, 30, 1.0)], workers.Seconds(60.0, 60.0, "here")
    start = 2 * workers.START / 3600
    assert workers.hours(own, one, 64) == pytest.approx(1 + start)
    assert workers.hours(own, one, 1) == pytest.approx(10 / 6 + 5 * start)
    assert workers.hours(own, one, 2) == pytest.approx(1 + start)
    key = workers.Chain(1, 5, 1.0, bases=1)
    assert workers.hours([key], one._replace(base=30.0), 1) == pytest.approx((630 + workers.START) / 3600)


def test_what_was_not_measured_is_said_so_and_what_was_is_used(tmp_path: Path) -> None:
    """SYNTHETIC figures of a GPU. No measurement."""
    params, pairs = loaded("lugha_llama"), ROOT / "data" / "pairs.tsv"
    assert workers.page(params, pairs, tmp_path, []).count("not measured") == 5
    lines = [
        {"extra_info": {"name": f"gpu {name}", "table": "T", "line": name, "seconds": 10.0, "flop": 1e15}}
        for name in ("train", "score")
    ]
    write_json(tmp_path / "gpu.json", {"benchmarks": lines})
    one = workers.seconds(params, pairs, tmp_path, [tmp_path / "gpu.json"])
    assert one.train == 10.0
    planned = workers._planned(params, pairs)["sweep-score"].flop / 30
    assert one.measure == pytest.approx(planned / 1e14)
    assert "not measured" not in workers.page(params, pairs, tmp_path, [tmp_path / "gpu.json"])


# The whole way, by the real dvc.


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout up to what the sweep reads. Tests copy it."""
    return begun(tmp_path_factory.mktemp("cluster") / "project")


def test_what_tasks_read_must_be_there(ready: Checkout, tmp_path: Path) -> None:
    copy = ready.copied(tmp_path / "project")
    copy.edit("double_quant: false}\n  fp4", "double_quant: true}\n  fp4")
    said = copy("tli", "submit", "--dry-run", ok=False)
    assert "sweep-train@microworld-2: expected inputs that exist or come from another sweep stage" in said
    assert "`dvc repro quantize@microworld`" in said


def test_local_jobs_give_the_bytes_of_dvc_and_dvc_does_the_rest(ready: Checkout, tmp_path: Path) -> None:
    """One of them killed on the way; submitted twice; one output altered before it is collected."""
    plain, copy = ready.copied(tmp_path / "plain"), ready.copied(tmp_path / "project")
    plain("dvc", "repro", "sweep-score")
    said = copy("tli", "submit", "--dry-run")
    assert [line.split(",")[0] for line in said.splitlines() if line.startswith("sweep")] == [
        "sweep-train@microworld-2",
        "sweep-train@microworld-4",
        "sweep-score@microworld-2",
        "sweep-score@microworld-4",
    ]
    assert "sweep-score@microworld-4, after sweep-train@microworld-4" in said
    assert not (copy.root / tasks.FOLDER).exists()
    with copy.started("tli", "submit") as running:
        killed_in(copy, "sweep-train@microworld-4", signal.SIGKILL)
        again = copy("tli", "submit", "--dry-run")
        assert running.wait(300) == 0
    assert again.startswith("4 stages to submit")
    assert len(tasks.attempts(next((copy.root / tasks.FOLDER).glob("sweep-train@microworld-4.*")))) == 2
    assert copy("tli", "submit").startswith("0 stages to submit")
    (rows,) = copy.root.glob(f"{tasks.FOLDER}/sweep-score@microworld-2.*/1/build/*/sweep/rows/r2/similarity.tsv")
    text = rows.read_text()
    rows.write_text(text.replace("0.", "1.", 1))
    said = copy("tli", "collect", ok=False)
    assert "3 stages collected, 1 left" in said
    assert "sweep-score@microworld-2: " in said
    rows.write_text(text)
    assert "1 stages collected, 0 left" in copy("tli", "collect")
    assert not (copy.root / tasks.FOLDER).exists()
    assert copy.digests("build", "results") == plain.digests("build", "results")
    status = json.loads(copy("dvc", "status", "--json"))
    assert not [name for name in status if name.startswith("sweep")]
    assert not copy.ran(copy("dvc", "repro", "sweep-score"))
    assert copy.lock() == plain.lock()


def test_a_key_of_the_study_is_a_job_too(ready: Checkout, tmp_path: Path) -> None:
    """Its rows are those of DVC; first its plan must be there."""
    copy = ready.copied(tmp_path / "project")
    copy.edit("study: []", "study: [s1-sink]")
    message = copy("tli", "submit", "--dry-run", "study", ok=False)
    assert "study@s1-sink: expected inputs that exist" in message
    assert "`dvc repro check`" in message
    copy("dvc", "repro", "check")
    plain = copy.copied(tmp_path / "plain")
    plain("dvc", "repro", "study")
    assert copy("tli", "submit", "study").startswith("1 stages to submit")
    assert "1 stages collected, 0 left" in copy("tli", "collect", "study")
    assert copy.digests("build/microworld/study") == plain.digests("build/microworld/study")
    assert not copy.ran(copy("dvc", "repro", "study"))
    copy.edit("sink: {ranks: [2], changes: {}", "sink: {ranks: [2], changes: {train.lr: 1.0e-4}")
    assert "`dvc repro check`" in copy("tli", "submit", "--dry-run", "study", ok=False), "an old plan"


def test_interrupted_it_ends_its_own_jobs(ready: Checkout, tmp_path: Path) -> None:
    copy = ready.copied(tmp_path / "project")
    with copy.started("tli", "submit") as running:
        log = waited(lambda: next(copy.root.glob(f"{tasks.FOLDER}/sweep-train@microworld-2.*/1/{tasks.STDERR}"), None))
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 1
    waited(lambda: not left(log.parent))


def left(folder: Path) -> list[str]:
    """Processes that run in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cwd"):
        try:
            found += [process.parent.name] if Path(os.readlink(process)) == folder else []
        except OSError:
            continue
    return found
