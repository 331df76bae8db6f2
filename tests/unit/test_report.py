"""The report: one file that asks for nothing, the same bytes twice, and in a real browser it answers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import browser
from runs import finished, smoke_models
from tiny import ROOT
from tli.analysis.render import read_model
from tli.analysis.results import Rows, load_yaml
from tli.analysis.row_file import read_files
from tli.config.parameters import Params
from tli.data.benchmarks.items import write_items
from tli.data.benchmarks.prompts import Item
from tli.io.errors import UserError
from tli.report import dag
from tli.stages import report, report_data

SCREENSHOTS = os.environ.get("TLI_SCREENSHOTS")  # a folder to keep them in
LEXICAL, SCORED = "smollm2", "microworld"  # the models of the page, without and with items


@pytest.fixture(scope="module")
def models() -> tuple[Params, Params]:
    return smoke_models()


def items(rows: Rows) -> list[Item]:
    """Texts for the invented scores: an item for each, the right choice named so."""
    made = []
    for set_ in rows.sets("label"):
        task, language = set_.split(".")
        for item, label in rows.each("base", set_, "-", "label").items():
            options = tuple(f" {'right' if k == label else 'wrong'} {k}" for k in range(2 if task == "xcopa" else 3))
            made.append(Item(item, task, language, "test", int(label), f"Context <of> {item} because", options))
    return made


def data_of(root: Path, run: dict[str, Any], params: Params) -> dict[str, Any]:
    """The arguments of `report_data.run` for a model of the run under `root`."""
    build = run["build"]
    return {
        "tables": run["out"],
        "verify": run["verify"],
        "pairs": build / "pairs.tsv",
        "items": build / "benchmarks" / "items.jsonl",
        "base_rows": build / "base-rows",
        "similarity": build / "similarity.tsv",
        "score": build / "score.tsv",
        "out": root / "build" / "report" / f"{params.model}.json",
        "params": params,
    }


def scores_of(arguments: dict[str, Any]) -> Rows:
    """The scores of the base and of the paper's configuration."""
    return read_files(arguments["base_rows"] / "score.tsv", arguments["score"])


@pytest.fixture(scope="module")
def gathered(tmp_path_factory: pytest.TempPathFactory, models: tuple[Params, Params]) -> dict[str, dict[str, Any]]:
    """Model -> the arguments of `report_data.run` over synthetic rows, its output written; read only."""
    root = tmp_path_factory.mktemp("report")
    runs = finished(root, *models)
    given = {params.model: data_of(root, runs[params.model], params) for params in models}
    for arguments in given.values():
        write_items(arguments["items"], items(scores_of(arguments)))
        report_data.run(**arguments)
    return given


@pytest.fixture(scope="module")
def given(gathered: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The arguments of `report.run` for both models, and its output; read only."""
    arguments = {"source": ROOT / "paper" / "report", "folder": gathered[SCORED]["out"].parent, "models": [*gathered]}
    arguments |= {"pipeline": ROOT / "dvc.yaml", "requirements": ROOT / "requirements" / "run.in"}
    arguments |= {"out": tmp_path_factory.mktemp("page") / "report.html"}
    report.run(**arguments)
    return arguments


class Page(HTMLParser):
    """What a page loads or names, and whether its elements are closed in order."""

    EMPTY = frozenset({"meta", "link", "input", "br", "hr", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())


def test_the_file_is_whole_and_names_nothing_outside_itself(given: dict[str, Any]) -> None:
    text = given["out"].read_text(encoding="utf-8")
    assert len(text.encode()) < 5_000_000
    page = Page(text)
    assert page.open == []
    names = [one.get(key) or "" for _, one in page.found for key in ("src", "href", "action") if key in one]
    assert names
    assert [name for name in names if not name.startswith(("#", "data:,"))] == []
    assert not re.search(r"url\(|@import|\bfetch\(|XMLHttpRequest|WebSocket|EventSource", text)
    ids = [one["id"] for _, one in page.found if "id" in one]
    assert len(ids) == len(set(ids))
    assert {name[1:] for name in names if name.startswith("#")} <= set(ids)


def test_who_cannot_see_or_point_is_served(given: dict[str, Any]) -> None:
    """A language, one h1, headings without a gap, a name for every drawing, a label for every control."""
    text = given["out"].read_text(encoding="utf-8")
    page = Page(text)
    levels = [int(tag[1]) for tag, _ in page.found if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert dict(page.found[0][1]) == {"lang": "en"}
    assert all(one.get("aria-label") for tag, one in page.found if tag == "svg")
    labelled = re.findall(r"<label>.*?</label>", text, re.S)
    for tag, one in page.found:
        if tag in ("input", "select"):
            name = f'id="{one["id"]}"' if "id" in one else f'value="{one["value"]}"'
            assert any(name in label for label in labelled), one


def test_the_same_rows_give_the_same_bytes(
    given: dict[str, Any], gathered: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    for model, arguments in gathered.items():
        report_data.run(**arguments | {"out": tmp_path / f"{model}.json"})
        assert (tmp_path / f"{model}.json").read_bytes() == arguments["out"].read_bytes()
    report.run(**given | {"out": tmp_path / "again.html"})
    assert (tmp_path / "again.html").read_bytes() == given["out"].read_bytes()


def inside(path: Path) -> dict[str, Any]:
    """Model -> the data of its plots."""
    data: dict[str, Any] = json.loads(re.findall(r'id="data">(.*?)</script>', path.read_text("utf-8"), re.S)[0])
    return data


def ids(path: Path) -> set[str | None]:
    return {attributes.get("id") for _, attributes in Page(path.read_text(encoding="utf-8")).found}


def test_the_data_are_the_rows(given: dict[str, Any], gathered: dict[str, dict[str, Any]]) -> None:
    data = inside(given["out"])
    assert [*data] == [LEXICAL, SCORED]
    for model, arguments in gathered.items():
        similarity = read_files(arguments["base_rows"] / "similarity.tsv", arguments["similarity"])
        at = data[model]["pairs"]["views"].index("2.content.fp4")
        for swahili, _, set_, before, after in data[model]["pairs"]["rows"]:
            for run, values in (("base", before), ("main", after)):
                assert values[at] == round(similarity.one(run, set_, "2.content.fp4", "cosine", swahili), 4)
    assert data[LEXICAL]["items"] == []
    (swahili_nli,) = (set_ for set_ in data[SCORED]["items"] if set_["name"] == "XNLI-form, Swahili")
    chosen = [*scores_of(gathered[SCORED]).each("main", "xnli.sw", "-", "pred").values()]
    assert [row[6] for row in swahili_nli["rows"]] == chosen
    assert {row[1][row[2]].split()[0] for row in swahili_nli["rows"]} == {"right"}


def test_the_curves_are_the_table_of_changes(given: dict[str, Any], gathered: dict[str, dict[str, Any]]) -> None:
    data = inside(given["out"])
    changes = read_model(gathered[SCORED]["tables"]).tables["changes"]
    for name, points in data[SCORED]["curves"].items():
        task, language = name.split(", ")
        rows = changes.matching(task=task, language=language)
        assert points == [[row.get(key) for key in ("rank", "change", "low", "high")] for row in rows]
    assert len(data[SCORED]["curves"]) == 4
    assert data[LEXICAL]["curves"] == {}


def test_every_table_names_its_module_and_stages(given: dict[str, Any], gathered: dict[str, dict[str, Any]]) -> None:
    text = given["out"].read_text(encoding="utf-8")
    names = {name for arguments in gathered.values() for name in read_model(arguments["tables"]).tables}
    assert {name for name in names if f"<code>src/tli/tables/{name}.py</code>" in text} == names
    assert "rows of the stages <code>base-rows</code>, <code>similarity</code>" in text


def test_each_model_has_its_views_and_the_first_of_the_run_comes_first(given: dict[str, Any], tmp_path: Path) -> None:
    """Every view of both models, those of scores where there are items; the page of one model has no switch."""
    both = ids(given["out"])
    for view in ("verdict", "published", "scan", "pairs", "audits", "tables", "receipts"):
        assert {f"{view}-{LEXICAL}", f"{view}-{SCORED}"} <= both
    assert {f"rank-{SCORED}", f"items-{SCORED}", "model", "pipeline"} <= both
    assert {f"rank-{LEXICAL}", f"items-{LEXICAL}"} & both == set()
    text = given["out"].read_text(encoding="utf-8")
    assert text.index(f'data-model="{LEXICAL}"') < text.index(f'data-model="{SCORED}"')
    report.run(**given | {"models": [SCORED], "out": tmp_path / "alone.html"})
    alone = ids(tmp_path / "alone.html")
    assert f"items-{SCORED}" in alone
    assert {"model", f"verdict-{LEXICAL}"} & alone == set()


def test_a_model_whose_data_are_missing_is_one_line(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"qwen3\.json: no such file"):
        report.run(**given | {"models": [SCORED, "qwen3"], "out": tmp_path / "report.html"})
    assert not (tmp_path / "report.html").exists()


def test_a_base_without_items_says_so_and_has_no_empty_views(given: dict[str, Any]) -> None:
    text = given["out"].read_text(encoding="utf-8")
    first, second = text.split('data-model="')[1:]
    assert "no benchmark items in this run" in first
    assert "no benchmark items in this run" not in second


def test_the_drawing_has_every_stage_and_no_edge_that_another_way_implies() -> None:
    pipeline = load_yaml(ROOT / "dvc.yaml")
    stages = {stage.name: stage for stage in dag.stages(pipeline)}
    assert stages.keys() == pipeline["stages"].keys()
    assert stages["microworld"].after == ("check",)
    assert stages["similarity"].after == ("train",)
    assert stages["sweep-train"].after == ("quantize",), "base, before it, has the words"
    assert stages["verify"].after == ("tables",)
    assert stages["paper"].after == stages["report-data"].after == ("verify",)
    assert stages["report"].after == ("report-data",)
    drawing = dag.draw([*stages.values()])
    assert drawing.count("<rect") == len(stages)
    assert drawing.count("<path") == sum(len(stage.after) for stage in stages.values())


# In the browser.


def text_of(name: str) -> str:
    """The code that reads what an element says."""
    return f"document.getElementById({json.dumps(name)}).textContent"


SHOWN = """[...document.querySelectorAll('.model')].filter((part) => part.offsetHeight)
  .map((part) => part.dataset.model)"""


@pytest.fixture(scope="module")
def tab(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Tab]:
    if browser.PROGRAM is None:
        pytest.skip("no browser on this machine: chromium is not in PATH")
    with browser.tab(tmp_path_factory.mktemp("chromium")) as opened:
        opened.open(given["out"].as_uri())
        yield opened


def put(tab: browser.Tab, name: str, value: str, event: str = "input") -> None:
    """Sets a control as a user does."""
    at = f"document.getElementById({json.dumps(name)})"
    tab.run(f"{at}.value = {json.dumps(value)}; {at}.dispatchEvent(new Event('{event}'))")


@pytest.fixture(params=[LEXICAL, SCORED])
def model(request: pytest.FixtureRequest, tab: browser.Tab) -> str:
    """A model, chosen at the top of the page."""
    put(tab, "model", request.param, "change")
    return str(request.param)


def test_it_renders_without_an_error_and_asks_for_nothing(tab: browser.Tab, given: dict[str, Any]) -> None:
    asked = {event["request"]["url"] for event in tab.told("Network.requestWillBeSent")}
    assert asked - {"data:,"} == {given["out"].as_uri()}
    for event in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
        assert tab.told(event) == []


def test_the_switch_shows_one_model_and_its_plots(tab: browser.Tab, model: str) -> None:
    assert tab.run(SHOWN) == [model]
    assert tab.run(f"document.querySelectorAll('#pair-plot-{model} .dot').length") == 12
    assert tab.run(f"document.querySelectorAll('#scan-plot-{model} .line').length") == 2
    assert tab.told("Runtime.exceptionThrown") == []


def test_the_switch_is_reached_and_moved_by_keys(tab: browser.Tab) -> None:
    put(tab, "model", LEXICAL, "change")
    tab.run("document.getElementById('model').focus()")
    for kind in ("keyDown", "keyUp"):
        tab("Input.dispatchKeyEvent", type=kind, key="ArrowDown", code="ArrowDown", windowsVirtualKeyCode=40)
    assert tab.run("document.getElementById('model').value") == SCORED
    assert tab.run(f"document.getElementById('verdict-{SCORED}').offsetParent !== null")


def test_an_address_of_a_section_shows_its_model(tab: browser.Tab) -> None:
    put(tab, "model", LEXICAL, "change")
    changed = "new Promise((done) => addEventListener('hashchange', done, {once: true})).then(() => true)"
    tab.run(f"location.hash = 'items-{SCORED}'; {changed}")
    assert tab.run("document.getElementById('model').value") == SCORED
    tab.run("history.replaceState(null, '', '#')")


def test_print_has_the_chosen_model_alone(tab: browser.Tab, model: str) -> None:
    tab("Emulation.setEmulatedMedia", media="print")
    assert tab.run(SHOWN) == [model]
    assert tab.run("document.getElementById('switch').offsetHeight") == 0
    tab("Emulation.setEmulatedMedia", media="")


def test_nothing_can_leave_the_page(tab: browser.Tab) -> None:
    """Its own policy stops even a script that would ask."""
    answer = tab.run("fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.message)")
    assert answer == "Failed to fetch"
    told = [event["entry"]["text"] for event in tab.told("Log.entryAdded")]
    assert any("Content Security Policy" in text for text in told)
    tab.events.clear()


def test_search_finds_a_word_in_either_language(tab: browser.Tab, model: str) -> None:
    for word in ("NENO3", "word-neno3"):
        put(tab, f"pair-search-{model}", word)
        assert tab.run(text_of(f"pair-text-{model}")).startswith("1 of 12 pairs")
        assert tab.run(f"document.querySelectorAll('#pair-plot-{model} .hit').length") == 1
        assert "neno3 / word-neno3" in tab.run(text_of(f"pair-matches-{model}"))
    put(tab, f"pair-search-{model}", "no such word")
    assert tab.run(text_of(f"pair-text-{model}")).startswith("0 of 12 pairs")
    put(tab, f"pair-search-{model}", "")
    tab.run(f"document.getElementById('pair-control-{model}').click()")
    assert tab.run(f"document.querySelectorAll('#pair-plot-{model} .dot').length") == 8
    tab.run(f"document.getElementById('pair-control-{model}').click()")


def test_toggles_change_the_plots(tab: browser.Tab, model: str) -> None:
    def path() -> str:
        return str(tab.run(f"document.querySelector('#scan-plot-{model} .line').getAttribute('d')"))

    seen = {path()}
    for name in ("content", "p1", "mask", "cosine"):
        tab.run(f"document.querySelector('#scan-{model} input[value={name}]').click()")
        seen.add(path())
    assert len(seen) == 4
    dots = f"document.querySelector('#pair-plot-{model} .dot').getAttribute('cy')"
    before = tab.run(dots)
    put(tab, f"pair-view-{model}", "1", "change")
    assert tab.run(dots) != before
    if model == SCORED:
        first = tab.run(text_of(f"curve-text-{model}"))
        names = tab.run(f"[...document.querySelectorAll('#curve-outcome-{model} option')].map((one) => one.value)")
        put(tab, f"curve-outcome-{model}", names[-1], "change")
        assert tab.run(text_of(f"curve-text-{model}")) != first


def test_the_arrow_keys_read_a_layer(tab: browser.Tab, model: str) -> None:
    at = f"document.getElementById('scan-plot-{model}')"
    lines = []
    for _ in range(2):
        tab.run(f"{at}.dispatchEvent(new KeyboardEvent('keydown', {{key: 'ArrowRight'}}))")
        lines.append(tab.run(text_of(f"scan-text-{model}")))
    assert [line.split(",")[0] for line in lines] == ["Layer 0", "Layer 1"]
    assert "translations 0." in lines[1]


def test_the_explorer_keeps_the_flipped_items(tab: browser.Tab, gathered: dict[str, dict[str, Any]]) -> None:
    put(tab, "model", SCORED, "change")
    scores = scores_of(gathered[SCORED])
    before, after = (scores.each(run, "xcopa.en", "-", "pred") for run in ("base", "main"))
    flipped = sum(before[item] != after[item] for item in before)
    put(tab, f"item-filter-{SCORED}", "flipped", "change")
    assert tab.run(text_of(f"item-text-{SCORED}")).startswith(f"{flipped} of 20 items")
    assert tab.run(f"document.querySelectorAll('#item-list-{SCORED} .flip').length") == min(flipped, 10)
    put(tab, f"item-filter-{SCORED}", "all", "change")
    put(tab, f"item-search-{SCORED}", "xcopa.en.test.0007")
    assert "Context <of> xcopa.en.test.0007 because" in tab.run(text_of(f"item-list-{SCORED}"))
    put(tab, f"item-search-{SCORED}", "")


@pytest.mark.parametrize(("width", "dark"), [(1100, False), (390, True)])
def test_it_fits_a_screen_light_and_dark(tab: browser.Tab, model: str, width: int, dark: bool, tmp_path: Path) -> None:
    folder = Path(SCREENSHOTS) if SCREENSHOTS else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"report-{model}-{width}{'-dark' if dark else ''}.png"
    tab.screenshot(file, width, 2400, dark)
    assert file.stat().st_size > 20_000
    assert tab.run("document.documentElement.scrollWidth") <= width
    ground = tab.run("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", ground))) < 64) == dark
