"""DVC's own plots without a network: the curves are the tables', and its page draws them by itself."""

from __future__ import annotations

import csv
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import browser
from checkout import Checkout, clone
from synthetic import fabricate
from tiny import ROOT
from tli.analysis.render import read_model
from tli.config import parameters
from tli.figures import plots
from tli.stages import tables, train
from tli.training.loop import Step

SCREENSHOTS = os.environ.get("TLI_SCREENSHOTS")
DRAWN = {  # title -> curves
    "Loss in training": 1,
    "Cosines in training": 2,
    "Gradient in training": 1,
    "BOS state in training": 1,
    "Cosine by layer": 4,
    "Accuracy by rank, against rank 0": 4,
    "Cosine by rank, against rank 0": 2,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Arguments and outputs of the stage `tables` over synthetic rows; read only."""
    smoke = parameters.load(ROOT / "tests" / "smoke" / "params.yaml", model="microworld")
    arguments = fabricate(tmp_path_factory.mktemp("rows"), smoke, pairs=(8, 4), items=20)
    tables.run(**arguments)
    return arguments


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [*csv.DictReader(file, delimiter="\t")]


def test_the_curves_are_those_of_the_tables(made: dict[str, Any]) -> None:
    """Value by value; the layer as a number, an interval where there is one."""
    curves = {path.stem: lines(path) for path in made["plots_out"].iterdir()}
    assert curves.keys() == {"scan", "score", "alignment"}
    of_run = read_model(made["out"]).tables
    scan = {(row["layer"], row["series"]): float(row["cosine"]) for row in curves["scan"]}
    layers = [row for row in of_run["scan"].rows if str(row["view"])[0].isdigit()]
    assert len(scan) == 2 * len(layers)
    for row in layers:
        layer, pooling, _ = str(row["view"]).split(".")
        where = {"mask": "BOS in", "content": "BOS out"}[pooling]
        assert scan[layer, f"translations, {where}"] == row["cosine"]
        assert scan[layer, f"random pairs, {where}"] == row["random"]
    score = {(int(point["rank"]), point["series"]): point for point in curves["score"]}
    assert len(score) == len(of_run["changes"].rows) == 8
    for row in of_run["changes"].rows:
        point = score[row["rank"], f"{row['task']}, {row['language']}"]
        assert [float(point[key]) for key in ("change", "low", "high")] == [row[k] for k in ("change", "low", "high")]
    ranks = [row for row in of_run["ranks"].rows if row["name"] == "trained_on" and row["rank"]]
    assert len(curves["alignment"]) == 2 * len(ranks) == 4
    for row in ranks:
        wanted = {"rank": str(row["rank"]), "series": "trained pairs"}
        (point,) = (point for point in curves["alignment"] if wanted.items() <= point.items())
        assert float(point["gain"]) == row["gain_trained"]
        assert float(point["high"]) - float(point["low"]) == pytest.approx(2 * float(row["gain_sd_trained"]), rel=1e-6)


def test_the_files_are_those_that_the_pipeline_plots(made: dict[str, Any]) -> None:
    pipeline = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    names = re.findall(r"results/\$\{models\[0\]\}/plots/(\w+\.tsv)", pipeline)
    assert sorted(names) == sorted(path.name for path in made["plots_out"].iterdir())


def test_a_model_without_items_has_every_file(tmp_path: Path) -> None:
    """DVC warns of a plot whose file is not there; one with a header alone is drawn empty."""
    plots.write(tmp_path / "plots", {}, parameters.load(ROOT / "params.yaml", model="smollm2"))
    files = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in (tmp_path / "plots").iterdir()}
    assert files.keys() == {"scan", "score", "alignment"}
    assert all(len(written) == 1 for written in files.values())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, made: dict[str, Any]) -> Checkout:
    """A checkout after a run, as far as DVC's plots go: the curves of `tables` and those of training."""
    checkout = clone(tmp_path_factory.mktemp("plots") / "project")
    results = checkout.root / "results" / checkout.model
    results.mkdir(parents=True)
    shutil.copytree(made["plots_out"], results / "plots")
    train.write_curves(results / "train", [Step(0.4 - 0.01 * n, 0.1 * n, 0.2, 1e-4, 1.0, 9.0) for n in range(6)])
    return checkout


@pytest.fixture(scope="module")
def page(project: Checkout) -> Path:
    """What `dvc plots show` writes; it prints the address."""
    said = project("dvc", "plots", "show")
    found = project.root / "dvc_plots" / "index.html"
    assert said.strip().splitlines()[-1] == found.as_uri()
    return found


def test_the_page_names_no_script_of_another_host(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "{" + "scripts}" not in text
    assert "<script src" not in text
    assert text.count("vegaEmbed('#") == len(DRAWN)


@pytest.fixture(scope="module")
def tab(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Tab]:
    if browser.PROGRAM is None:
        pytest.skip("no browser on this machine: chromium is not in PATH")
    with browser.tab(tmp_path_factory.mktemp("chromium")) as opened:
        opened.open(page.as_uri())
        yield opened


def test_every_plot_is_drawn_and_nothing_is_asked_for(tab: browser.Tab, page: Path, tmp_path: Path) -> None:
    asked = {one["request"]["url"] for one in tab.told("Network.requestWillBeSent")}
    assert asked - {"data:,"} == {page.as_uri()}
    for event in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
        assert tab.told(event) == []
    titles = tab.run("[...document.querySelectorAll('figcaption')].map((one) => one.textContent)")
    curves = "[...document.querySelectorAll('figure')].map((one) => one.querySelectorAll('polyline').length)"
    assert dict(zip(titles, tab.run(curves), strict=True)) == DRAWN
    assert "NaN" not in tab.run("document.body.innerHTML.replaceAll(/<script.*?<.script>/gs, '')")
    folder = Path(SCREENSHOTS) if SCREENSHOTS else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    tab.screenshot(folder / "plots.png", 1100, 1400)


def test_a_plot_without_values_says_so(project: Checkout, tmp_path: Path) -> None:
    """As for a model without items: DVC loads the file, and the page says that there is nothing in it."""
    if browser.PROGRAM is None:
        pytest.skip("no browser on this machine: chromium is not in PATH")
    copy = project.copied(tmp_path / "project")
    path = copy.root / "results" / copy.model / "plots" / "score.tsv"
    path.write_text(path.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    output = copy("dvc", "plots", "show")
    assert "failed to load" not in output
    with browser.tab(tmp_path / "chromium") as opened:
        opened.open((copy.root / "dvc_plots" / "index.html").as_uri())
        empty = "[...document.querySelectorAll('figure')].filter((figure) => !figure.querySelector('svg'))"
        texts = opened.run(f"{empty}.map((figure) => figure.textContent)")
        assert opened.told("Runtime.exceptionThrown") == []
    assert texts == ["Accuracy by rank  against rank 0No values."]


def test_nothing_can_leave_the_page(tab: browser.Tab) -> None:
    said = tab.run("fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.message)")
    assert said == "Failed to fetch"
    told = [one["entry"]["text"] for one in tab.told("Log.entryAdded")]
    assert any("Content Security Policy" in text for text in told)


def test_two_runs_stand_in_one_plot(project: Checkout, tmp_path_factory: pytest.TempPathFactory) -> None:
    """`dvc plots diff`: each curve once a revision, told apart by its dash."""
    if browser.PROGRAM is None:
        pytest.skip("no browser on this machine: chromium is not in PATH")
    project("git", "add", "-A")
    project("git", "commit", "-q", "-m", "one run")
    path = project.root / "results" / project.model / "plots" / "scan.tsv"
    path.write_text(path.read_text(encoding="utf-8").replace("\t0.", "\t0.1"), encoding="utf-8")
    project("dvc", "plots", "diff", "HEAD", "workspace", "--targets", "Cosine by layer", "-o", "two")
    with browser.tab(tmp_path_factory.mktemp("chromium")) as opened:
        opened.open((project.root / "two" / "index.html").as_uri())
        curves = "[...document.querySelectorAll('polyline')]"
        dashes = opened.run(f"{curves}.map((one) => one.getAttribute('stroke-dasharray'))")
        names = opened.run("[...document.querySelectorAll('li')].map((one) => one.textContent.trim())")
    assert sorted(dashes) == ["7 3"] * 4 + ["none"] * 4
    assert len(set(names)) == 8
    assert sum("workspace" in name for name in names) == 4
