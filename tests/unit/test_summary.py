"""`tli summary`: the last run on one screen, with the numbers of its tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from runs import SMOKE, finished, smoke_models
from tli.analysis.render import read_model
from tli.cli import main
from tli.commands import summary
from tli.config.parameters import Params
from tli.io.structured import read_json, write_json
from tli.report.cells import texts_by_key

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


def test_it_fits_one_screen_and_shows_the_numbers_of_the_tables(project: Path, smoke: Params) -> None:
    page = summary.page(smoke, project)
    assert len(page.splitlines()) <= LINES
    assert max(map(len, page.splitlines())) <= COLUMNS, page
    shown = lines(page)
    results = project / "results" / smoke.model
    counts = read_json(results / "verify.json")["verdicts"]
    assert shown["verify"] == (
        f"0 of 0 values outside their tolerance; {counts['no expectation']:,} without an expectation"
    )
    assert shown["claims"].startswith("18: ")
    texts = texts_by_key(read_model(results / "tables.json").tables)
    before, after, gain = (texts[f"before_after/run,2.mask.nf4,trained/{key}"] for key in ("before", "after", "gain"))
    assert f"trained pairs {before} → {after} ({gain})" in shown["cosine"]
    assert f"random pairs {texts['gains/run,2.mask.nf4/random_trained']}, " in shown["cosine"]
    assert f" → {texts['retrieval/2.mask.nf4,all,sw-en/p1_after']}, en→sw" in shown["P@1"]
    key = f"accuracy_by_rank/xnli.{{}},main,{smoke.lora.rank}/"
    english, swahili = (texts[key.format(language) + "accuracy"] for language in ("en", "sw"))
    assert shown["accuracy"].startswith(f"XNLI-form: English {english} (")
    assert f"Swahili {swahili} ({texts[key.format('sw') + 'change']})" in shown["accuracy"]
    assert shown["time"].startswith("1.5 minutes in all stages")


def test_a_model_without_items_has_no_line_on_accuracy(project: Path) -> None:
    lexical = smoke_models()[0]
    page = summary.page(lexical, project)
    assert len(page.splitlines()) <= LINES
    assert {"accuracy"} & lines(page).keys() == set()


def test_it_says_where_the_paper_is_or_how_to_make_it(project: Path, smoke: Params) -> None:
    shown = lines(summary.page(smoke, project))
    assert shown["tables"] == "not made yet: dvc repro pages"
    assert shown["paper"] == "not made yet: dvc repro paper"
    (project / "paper" / "tables").mkdir()
    for path in ("paper/tables/README.md", "paper/artifact.pdf"):
        (project / path).write_bytes(b"")
    shown = lines(summary.page(smoke, project))
    assert (shown["tables"], shown["paper"]) == ("paper/tables/README.md", "paper/artifact.pdf")
    assert shown["report"] == "not made yet: dvc repro report"


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
    assert "results/microworld/tables.json: no such file" in done.output
