"""tools/record and tools/drift: what is recorded of several runs, what is refused, and runs that are resumed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cells import with_cells
from scripts import script
from synthetic import fabricate, verdict_files
from tli.analysis import tolerances
from tli.analysis.cells import Cells
from tli.analysis.render import ModelTables, read_model, write_model
from tli.analysis.results import load_yaml
from tli.analysis.table import Cell, Column, Table
from tli.config import parameters
from tli.io.errors import CheckFailed
from tli.stages import tables, verify
from tli.verify import expected

ROOT = Path(__file__).resolve().parents[2]
FILES = verdict_files(ROOT)
SMOKE = ROOT / "tests" / "smoke" / "params.yaml"
MODEL = parameters.load(SMOKE).model
GAIN = "before_after/run,2.mask.nf4,trained/gain"
Make = Callable[..., Path]


record, drift = script("record"), script("drift")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> ModelTables:
    """The tables of a synthetic run."""
    made = fabricate(tmp_path_factory.mktemp("run"), parameters.load(SMOKE))
    tables.run(**made)
    return read_model(made["out"])


@pytest.fixture(scope="module")
def gain(reference: ModelTables) -> float:
    return float(str(Cells(reference.tables).values[GAIN]))


@pytest.fixture
def run(tmp_path: Path, reference: ModelTables) -> Make:
    """Makes a checkout with a finished run: the synthetic tables with `changes`, cosines moved by noise of `scale`."""

    def make(
        name: str,
        scale: float = 0.0,
        changes: dict[str, Cell] | None = None,
        base: bytes = b"base",
        more: dict[str, Table] | None = None,
    ) -> Path:
        rng, root = np.random.default_rng(len(name)), tmp_path / name
        (root / "build" / MODEL / "base").mkdir(parents=True)
        (root / "build" / MODEL / "base" / "model.safetensors").write_bytes(base)
        shutil.copyfile(SMOKE, root / "params.yaml")
        chosen, params = tolerances.load(FILES.tolerances), parameters.load(SMOKE)
        moved: dict[str, Cell] = {
            key: cell.value + scale * rng.choice([-1, 1])
            for key, cell in Cells(reference.tables).by_key.items()
            if isinstance(cell.value, float) and chosen.kind(cell, params).startswith("cosines")
        }
        changed = with_cells(reference.tables, moved | (changes or {})) | (more or {})
        write_model(root / "results" / MODEL / "tables.json", reference._replace(tables=changed))
        return root

    return make


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout without anything recorded, with two conclusions."""
    folder = tmp_path / "root"
    (folder / "paper" / "expected").mkdir(parents=True)
    for path in (FILES.reported, FILES.tolerances):
        shutil.copyfile(path, folder / path.relative_to(ROOT))
    tolerances_file = folder / FILES.tolerances.relative_to(ROOT)
    measures = tolerances_file.read_text(encoding="utf-8").partition("\nkinds:")[0]
    tolerances_file.write_text(f"{measures}\nkinds: {{}}\n", encoding="utf-8")
    conclude(folder, 0.02)
    return folder


def conclude(folder: Path, margin: float, borderline: str = "false") -> None:
    text = f"margins:\n  m: {{value: {margin!r}, why: a test}}\nconclusions:\n"
    text += f'  - {{name: the gain, models: [{MODEL}], value: "{GAIN}", margin: m, borderline: {borderline}}}\n'
    (folder / "paper" / "conclusions.yaml").write_text(text, encoding="utf-8")


def call(root: Path, **runs: Path) -> Result:
    words = [word for name, folder in runs.items() for word in ("--run", f"{name.replace('_', '-')}={folder}")]
    return CliRunner().invoke(record.main, [MODEL, *words, "--root", str(root)])


def test_it_writes_the_reference_and_the_drift(root: Path, run: Make, reference: ModelTables) -> None:
    done = call(root, own=run("own"), avx2=run("avx2", 3e-4), one_thread=run("one", 1e-4))
    assert done.exit_code == 0, done.output
    recorded = expected.load(root / "paper" / "expected" / f"{MODEL}.json")
    assert recorded is not None
    assert recorded.cells.values == Cells(reference.tables).values
    assert recorded.settings["lora.rank"] == 16
    assert not any("threads" in name for name in recorded.settings)
    assert recorded.digests["base"] == expected.weights(root.parent / "own" / "build" / MODEL / "base")
    raw = load_yaml(root / "paper" / "tolerances.yaml")
    kind = raw["kinds"]["cosines, after training, early"]
    assert kind["drift"][MODEL] == {"avx2": pytest.approx(3e-4, rel=0.1), "one-thread": pytest.approx(1e-4, rel=0.1)}
    assert kind["tolerance"] == pytest.approx(6e-4, rel=0.1), "twice the largest drift"
    assert raw["kinds"]["retrieval, after training, deep"]["tolerance"] == 2, "the floor"
    page = (root / "docs" / "reproducibility.md").read_text(encoding="utf-8")
    assert f"| kind | unit | {MODEL}, avx2 | {MODEL}, one-thread | tolerance |" in page
    assert len(page.splitlines()) < 60
    files = verify.Files(*(root / path for path in verify.Files()))
    for folder in ("own", "avx2", "one"):
        params = parameters.load(SMOKE)
        written = root.parent / folder / "results" / MODEL / "tables.json"
        assert verify.run(tables=written, files=files, params=params, strict=True) == [], "each recorded run passes"


def test_recording_again_gives_the_same_files(root: Path, run: Make) -> None:
    runs = {"own": run("own"), "avx2": run("avx2", 3e-4)}
    first = call(root, **runs)
    bytes_ = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert (first.exit_code, call(root, **runs).exit_code) == (0, 0)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == bytes_


def test_it_says_whether_the_tolerances_without_a_run_pass_on_it(root: Path, run: Make) -> None:
    done = call(root, own=run("own"), avx2=run("avx2", 3e-4), one_thread=run("one", 1e-4))
    assert "without one-thread: the tolerances pass on it" in done.output
    (number,) = re.findall(
        r"without avx2: (\d+) failures; the recorded tolerance is the largest over all runs", done.output
    )
    assert int(number) >= 1
    assert "cosines, after training, early: expected at most 1% of" in done.output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"setup/blocks/here": 5}, "setup/blocks/here: expected 4 in every run, got 5 in avx2"),
        ({GAIN: None}, f"{GAIN}: expected "),
    ],
)
def test_a_value_that_must_be_equal_is_refused(root: Path, run: Make, changes: dict[str, Cell], message: str) -> None:
    done = call(root, own=run("own"), avx2=run("avx2", changes=changes))
    assert done.exit_code == 1
    assert message in done.output
    assert not [*(root / "paper" / "expected").iterdir()], "nothing is written"


def test_a_value_that_one_run_lacks_is_refused(root: Path, run: Make) -> None:
    columns = (Column("id", "id", id=True), Column("here", "here", "number"))
    table = Table("new", "A table", "", columns, [{"id": "a", "here": 1.0}], view="none")
    own, more = run("own"), run("avx2", more={"new": table})
    for runs in ({"own": own, "avx2": more}, {"avx2": more, "own": own}):
        done = call(root, **runs)
        assert done.exit_code == 1
        assert "new/a/here: expected it in every run, got it in only one" in done.output


def test_a_conclusion_that_is_not_safe_is_refused_unless_it_is_marked(root: Path, run: Make, gain: float) -> None:
    """The gain lies 5e-5 below the margin and the floor of its tolerance is 1e-4."""
    runs = {"own": run("own"), "avx2": run("avx2")}
    conclude(root, gain + 5e-5)
    done = call(root, **runs)
    assert done.exit_code == 1
    assert "conclusion `the gain`: within " in done.output
    assert "with a tolerance of 0.0001; mark it borderline" in done.output
    assert not [*(root / "paper" / "expected").iterdir()]
    conclude(root, gain + 5e-5, f"[{MODEL}]")
    assert call(root, **runs).exit_code == 0


def test_runs_that_disagree_on_a_conclusion_are_refused(root: Path, run: Make, gain: float) -> None:
    runs = {"own": run("own"), "avx2": run("avx2", changes={GAIN: -gain})}
    done = call(root, **runs)
    assert done.exit_code == 1
    assert "conclusion `the gain`: above " in done.output
    assert "in the reference, below " in done.output
    conclude(root, 0.02, "true")
    assert call(root, **runs).exit_code == 0


def test_runs_of_other_settings_or_bases_are_the_user_s_mistake(root: Path, run: Make) -> None:
    own, other = run("own"), run("other")
    params = other / "params.yaml"
    params.write_text(params.read_text().replace("rank: 16", "rank: 8"))
    done = call(root, own=own, avx2=other)
    assert done.exit_code == 2
    assert "lora.rank is 8, recorded under 16; record runs of the same settings" in done.output
    done = call(root, own=own, avx2=run("rebased", base=b"another base"))
    assert done.exit_code == 2
    assert "base: expected the digest" in done.output
    assert call(root, own=own).exit_code == 2, "one run shows no drift"
    twice = CliRunner().invoke(record.main, [MODEL, "--run", f"a={own}", "--run", f"a={own}"])
    assert "expected each name once" in twice.output
    assert "expected NAME=FOLDER, got 'a'" in CliRunner().invoke(record.main, [MODEL, "--run", "a"]).output
    unfinished = run("unfinished")
    next(unfinished.rglob("*.safetensors")).unlink()
    assert "expected a base model's weights" in call(root, own=own, avx2=unfinished).output


def test_the_drifts_of_other_models_stay(root: Path, run: Make) -> None:
    assert call(root, own=run("own"), avx2=run("avx2", 3e-4)).exit_code == 0
    path = root / "paper" / "tolerances.yaml"
    path.write_text(path.read_text().replace(f"{MODEL}: {{", "other: {"))
    assert call(root, own=root.parent / "own", avx2=run("again", 1e-5)).exit_code == 0
    kind = load_yaml(path)["kinds"]["cosines, after training, early"]
    assert kind["drift"]["other"] == {"avx2": pytest.approx(3e-4, rel=0.1)}
    assert kind["drift"][MODEL] == {"avx2": pytest.approx(1e-5, rel=0.1)}
    assert kind["tolerance"] == pytest.approx(6e-4, rel=0.1), "the largest over models"


def test_the_committed_page_is_of_the_committed_tolerances() -> None:
    page = (ROOT / "docs" / "reproducibility.md").read_text(encoding="utf-8")
    assert page == record.page(tolerances.load(FILES.tolerances)), "run tools/record"


# tools/drift


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small repository with one DVC stage that notes how it was run; its second version has another stage."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "params.yaml").write_text("profiles:\n  a:\n    compute: {threads: 2, device: cpu}\n")
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull}
    for words in (
        ["git", "init", "-q"],
        ["git", "config", "user.email", "a@b"],
        ["git", "config", "user.name", "a"],
    ):
        subprocess.run(words, cwd=folder, check=True, env=environment)
    return folder


def commit(folder: Path) -> str:
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
    subprocess.run(["git", "commit", "-q", "-m", "a"], cwd=folder, check=True)
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_clone_runs_from_the_start_and_keeps_what_it_has_done(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The committed dvc.lock is not the run's; at a later commit the run's own lock stays, so that DVC goes on."""
    monkeypatch.setattr(drift, "ROOT", project)
    (project / "dvc.lock").write_text("committed\n")
    first, folder = commit(project), tmp_path / "drift" / "one-thread"
    drift.prepare(folder, first, drift.VARIATIONS["one-thread"])
    assert not (folder / "dvc.lock").exists()
    assert "threads: 1" in (folder / "params.yaml").read_text()
    (folder / "dvc.lock").write_text("the run's\n")
    drift.prepare(folder, first, drift.VARIATIONS["one-thread"])
    (project / "code.py").write_text("new\n")
    second = commit(project)
    drift.prepare(folder, second, drift.VARIATIONS["one-thread"])
    assert (folder / "code.py").is_file()
    assert (folder / "dvc.lock").read_text() == "the run's\n"
    assert "threads: 1" in (folder / "params.yaml").read_text()
    assert "threads: 2," in (project / "params.yaml").read_text()


def test_finished_runs_are_skipped_and_a_failed_one_is_tried_again(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(SMOKE, project / "params.yaml")
    commit(project)
    monkeypatch.setattr(drift, "ROOT", project)
    tried: list[tuple[str, dict[str, str]]] = []
    failing = {"avx2"}

    def execute(folder: Path, variation: drift.Variation, targets: tuple[str, ...]) -> None:
        tried.append((folder.name, dict(variation.environment)))
        if folder.name in failing:
            raise CheckFailed("the stage failed")

    monkeypatch.setattr(drift, "execute", execute)
    build = ["--build", str(tmp_path / "drift")]
    assert CliRunner().invoke(drift.main, build).exit_code == 1
    assert tried == [("portable", {}), ("own", drift.OWN), ("avx2", drift.AVX2)]
    failing.clear()
    tried.clear()
    done = CliRunner().invoke(drift.main, build)
    assert done.exit_code == 0, done.output
    assert [name for name, _ in tried] == ["avx2", "one-thread"]
    (line,) = [line for line in done.output.splitlines() if line.startswith("tools/record ")]
    assert line == f"tools/record {MODEL} " + " ".join(
        f"--run {name}={tmp_path / 'drift' / name}" for name in ("portable", "own", "avx2", "one-thread")
    )
    assert CliRunner().invoke(drift.main, ["thread", *build]).exit_code == 2


def test_threads_are_set_in_every_profile_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    shutil.copyfile(ROOT / "params.yaml", path)
    drift.set_threads(path, 1)
    before, after = (load_yaml(file)["profiles"] for file in (ROOT / "params.yaml", path))
    assert {profile["compute"]["threads"] for profile in after.values()} == {1}
    for name, profile in after.items():
        assert profile | {"compute": before[name]["compute"]} == before[name]
