"""`tli summary`: what the last run found, on one screen, in the files' own numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from runs import SMOKE, finished, smoke_models
from tli.cli import main
from tli.commands import summary
from tli.config.parameters import Params
from tli.io.structured import read_json, write_json

COLUMNS, LINES = 120, 24


@pytest.fixture(scope="module")
def smoke() -> Params:
    return smoke_models()[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a run of two models leaves, of synthetic rows."""
    folder = tmp_path_factory.mktemp("run")
    for params in smoke_models():
        finished(folder, params)
        costs = folder / "docs" / "costs" / params.model / "costs.json"
        write_json(costs, {"total": {"minutes": 1.5, "peak_memory_gib": 0.9}, "stages": {}})
    return folder


@pytest.fixture
def project(run: Path, tmp_path: Path) -> Path:
    """The same, to be changed at will."""
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def lines(page: str) -> dict[str, str]:
    """First word -> the rest of the line, of the last line that begins so."""
    return {line[: summary.WIDTH].strip(): line[summary.WIDTH :] for line in page.splitlines()}


def test_it_fits_one_screen_and_says_what_the_files_say(project: Path, smoke: Params) -> None:
    page = summary.page(smoke, project)
    assert len(page.splitlines()) <= LINES
    assert max(map(len, page.splitlines())) <= COLUMNS, page
    found = lines(page)
    verdicts = read_json(project / "results" / smoke.model / "verify.json")
    counts = verdicts["verdicts"]
    assert found["verify"] == (
        f"0 of 0 values outside their tolerance; {counts['no expectation']:,} without an expectation"
    )
    assert found["claims"].startswith("18: ")
    measured = read_json(project / "results" / smoke.model / "measured.json")
    gain = f"{measured['align.trained.gain.2.mask.nf4']:+.4f}".replace("-", "−")
    assert f"({gain})" in found["cosine"]
    assert f"{measured['retrieval.all.after.p1_sw_en.2.mask.nf4']:.3f}" in found["P@1"]
    accuracy = measured["transfer.xnli.sw.main.accuracy"]
    assert f"XNLI-form: English {measured['transfer.xnli.en.main.accuracy']:.1f}" in found["accuracy"]
    assert f"Swahili {accuracy:.1f}" in found["accuracy"]
    assert found["time"].startswith("1.5 minutes in all stages")
    assert found["tables"] == "paper/tables/microworld/README.md"


def test_a_model_without_items_has_no_line_on_accuracy(project: Path) -> None:
    lexical = smoke_models()[0]
    page = summary.page(lexical, project)
    assert len(page.splitlines()) <= LINES
    assert {"accuracy"} & lines(page).keys() == set()
    assert lines(page)["tables"] == "paper/tables/smollm2/README.md"


def test_it_says_where_the_paper_lies_or_how_it_is_made(project: Path, smoke: Params) -> None:
    assert lines(summary.page(smoke, project))["paper"] == "not made yet: dvc repro paper"
    (project / "paper" / "artifact.pdf").write_bytes(b"%PDF-")
    found = lines(summary.page(smoke, project))
    assert found["paper"] == "paper/artifact.pdf"
    assert found["report"] == "not made yet: dvc repro report"


def test_values_that_differ_are_named(project: Path, smoke: Params) -> None:
    path = project / "results" / smoke.model / "verify.json"
    verdicts = read_json(path)
    wrong = [*verdicts["values"]][:4]
    write_json(path, verdicts | {"values": dict.fromkeys(wrong, "differs")})
    assert f" ({', '.join(wrong[:3])} …);" in lines(summary.page(smoke, project))["verify"]


def test_before_a_run_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_bytes(SMOKE.read_bytes())
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["--model", "microworld", "summary"])
    assert done.exit_code == 2
    assert "results/microworld/measured.json: no such file" in done.output
