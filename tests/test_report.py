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
from synthetic import fabricate, fabricate_grid, verdict_files
from tiny import ROOT
from tli import params as parameters
from tli import store
from tli.data.items import write_items
from tli.data.prompts import Item
from tli.paper import dag, grid, report, tables, verify
from tli.paper.rows import Rows, load_yaml
from tli.params import Params

SMOKE = ROOT / "tests" / "smoke" / "params.yaml"
SCREENSHOTS = os.environ.get("TLI_SCREENSHOTS")  # a folder to keep them in


@pytest.fixture(scope="module")
def smoke() -> Params:
    return parameters.load(SMOKE)


def items(transfer: Path) -> list[Item]:
    """Texts for the invented scores: an item for each, the right option named so."""
    found = []
    rows = Rows(transfer)
    for set_ in rows.sets("label"):
        task, language = set_.split(".")
        for item, label in rows.each("base", set_, "-", "label").items():
            options = tuple(f" {'right' if k == label else 'wrong'} {k}" for k in range(2 if task == "xcopa" else 3))
            found.append(Item(item, task, language, "test", int(label), f"Context <of> {item} because", options))
    return found


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, smoke: Params) -> dict[str, Any]:
    """The arguments of `report.run` over synthetic rows, and its output; read only."""
    folder = tmp_path_factory.mktemp("report")
    made = fabricate(folder, smoke, pairs=(8, 4), items=20)
    tables.run(**made)
    verdicts = folder / "verify.json"
    verify.run(measured=made["measured"], files=verdict_files(), out=verdicts, params=smoke)
    write_items(folder / "items.jsonl", items(made["transfer"]))
    found = {name: made[name] for name in ("tables", "pairs", "align", "transfer", "params")}
    found |= {"source": ROOT / "paper" / "report", "full": folder / "full", "verify": verdicts}
    found |= {"items": folder / "items.jsonl", "pipeline": ROOT / "dvc.yaml", "out": folder / "report.html"}
    found |= {"requirements": ROOT / "requirements" / "run.in"}
    report.run(**found)
    return found


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


def test_the_same_rows_give_the_same_bytes(given: dict[str, Any], tmp_path: Path) -> None:
    report.run(**given | {"out": tmp_path / "again.html"})
    assert (tmp_path / "again.html").read_bytes() == given["out"].read_bytes()


def inside(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(re.findall(r'id="data">(.*?)</script>', path.read_text("utf-8"), re.S)[0])
    return found


def test_the_data_are_the_rows(given: dict[str, Any]) -> None:
    data = inside(given["out"])
    align, transfer = Rows(given["align"]), Rows(given["transfer"])
    at = data["pairs"]["views"].index("2.content.fp4")
    for swahili, _, set_, before, after in data["pairs"]["rows"]:
        for cell, values in (("base", before), ("main", after)):
            assert values[at] == round(align.one(cell, set_, "2.content.fp4", "cosine", swahili), 4)
    (swahili_nli,) = (one for one in data["items"] if one["name"] == "XNLI-form, Swahili")
    chosen = [*transfer.each("main", "xnli.sw", "-", "pred").values()]
    assert [row[6] for row in swahili_nli["rows"]] == chosen
    assert {row[1][row[2]].split()[0] for row in swahili_nli["rows"]} == {"right"}


def test_the_full_grid_s_arms_join_the_curves(given: dict[str, Any], smoke: Params, tmp_path: Path) -> None:
    each = {name: parameters.load(SMOKE, arm=name) for name in (*smoke.sweep.arms, *smoke.sweep.bos_arms)}
    rows = fabricate_grid(tmp_path / "rows", smoke, each)
    grid.run(rows, tmp_path / "full", tmp_path / "figures", tmp_path / "full.json", smoke, each)
    report.run(**given | {"full": tmp_path / "full", "out": tmp_path / "full.html"})
    curves = inside(tmp_path / "full.html")["curves"]
    for arms in curves.values():
        assert {"sweep, this base", "2r, over bases", "bos, over bases"} <= arms.keys()
    assert curves.keys() == inside(given["out"])["curves"].keys()


def test_without_items_and_sweep_their_sections_are_left_out(given: dict[str, Any], tmp_path: Path) -> None:
    tables_of = tmp_path / "tables"
    page = (given["tables"] / "README.md").read_text(encoding="utf-8")
    left_out = r"\[\.csv\]\((changes|robustness|xcopa|xnli|gap|odds|classes|items|baselines)\.csv"
    kept = [part for part in re.split(r"^(?=## )", page, flags=re.M) if not re.search(left_out, part)]
    store.write_text(tables_of / "README.md", "".join(kept))
    for path in given["tables"].glob("*.csv"):
        (tables_of / path.name).write_bytes(path.read_bytes())
    report.run(**given | {"tables": tables_of, "items": tmp_path / "none.jsonl", "out": tmp_path / "less.html"})
    ids = {one.get("id") for _, one in Page((tmp_path / "less.html").read_text(encoding="utf-8")).found}
    assert {"rank", "items"} & ids == set()
    assert {"verdict", "scan", "pairs", "tables", "pipeline"} <= ids


def test_the_drawing_has_every_stage_and_no_edge_that_another_way_implies() -> None:
    pipeline = load_yaml(ROOT / "dvc.yaml")
    found = {stage.name: stage for stage in dag.stages(pipeline)}
    assert found.keys() == pipeline["stages"].keys()
    assert found["world"].after == ("check",)
    assert found["align"].after == ("train",)
    assert found["sweep-train"].after == ("quantize",), "base, before it, has the words"
    assert found["verify"].after == ("tables",)
    drawn = dag.draw([*found.values()])
    assert drawn.count("<rect") == len(found)
    assert drawn.count("<path") == sum(len(stage.after) for stage in found.values())


# In the browser.

SAID = "document.getElementById('{}').textContent"


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


def test_it_renders_without_an_error_and_asks_for_nothing(tab: browser.Tab, given: dict[str, Any]) -> None:
    asked = {one["request"]["url"] for one in tab.told("Network.requestWillBeSent")}
    assert asked - {"data:,"} == {given["out"].as_uri()}
    for event in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
        assert tab.told(event) == []
    assert tab.run("document.querySelectorAll('#pair-plot .dot').length") == 12


def test_nothing_can_leave_the_page(tab: browser.Tab) -> None:
    """Its own policy stops even a script that would ask."""
    said = tab.run("fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.message)")
    assert said == "Failed to fetch"
    told = [one["entry"]["text"] for one in tab.told("Log.entryAdded")]
    assert any("Content Security Policy" in text for text in told)
    tab.events.clear()


def test_search_finds_a_word_in_either_language(tab: browser.Tab) -> None:
    for word in ("NENO3", "word-neno3"):
        put(tab, "pair-search", word)
        assert tab.run(SAID.format("pair-said")).startswith("1 of 12 pairs")
        assert tab.run("document.querySelectorAll('#pair-plot .hit').length") == 1
        assert "neno3 / word-neno3" in tab.run(SAID.format("pair-found"))
    put(tab, "pair-search", "no such word")
    assert tab.run(SAID.format("pair-said")).startswith("0 of 12 pairs")
    put(tab, "pair-search", "")
    tab.run("document.getElementById('pair-control').click()")
    assert tab.run("document.querySelectorAll('#pair-plot .dot').length") == 8
    tab.run("document.getElementById('pair-control').click()")


def test_toggles_change_the_plots(tab: browser.Tab) -> None:
    def path() -> str:
        return str(tab.run("document.querySelector('#scan-plot .line').getAttribute('d')"))

    seen = {path()}
    for name in ("content", "p1", "mask", "cosine"):
        tab.run(f"document.querySelector('#scan input[value={name}]').click()")
        seen.add(path())
    assert len(seen) == 4
    dots = "document.querySelector('#pair-plot .dot').getAttribute('cy')"
    before = tab.run(dots)
    put(tab, "pair-view", "1", "change")
    assert tab.run(dots) != before
    first = tab.run(SAID.format("curve-said"))
    names = tab.run("[...document.querySelectorAll('#curve-outcome option')].map((one) => one.value)")
    put(tab, "curve-outcome", names[-1], "change")
    assert tab.run(SAID.format("curve-said")) != first


def test_the_arrow_keys_read_a_layer(tab: browser.Tab) -> None:
    press = "document.getElementById('scan-plot').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))"
    said = []
    for _ in range(2):
        tab.run(press)
        said.append(tab.run(SAID.format("scan-said")))
    assert [text.split(",")[0] for text in said] == ["Layer 0", "Layer 1"]
    assert "translations 0." in said[1]


def test_the_explorer_keeps_the_flipped_items(tab: browser.Tab, given: dict[str, Any]) -> None:
    transfer = Rows(given["transfer"])
    before, after = (transfer.each(cell, "xcopa.en", "-", "pred") for cell in ("base", "main"))
    flipped = sum(before[item] != after[item] for item in before)
    put(tab, "item-filter", "flipped", "change")
    assert tab.run(SAID.format("item-said")).startswith(f"{flipped} of 20 items")
    assert tab.run("document.querySelectorAll('#item-list .flip').length") == min(flipped, 10)
    put(tab, "item-filter", "all", "change")
    put(tab, "item-search", "xcopa.en.test.0007")
    assert "Context <of> xcopa.en.test.0007 because" in tab.run(SAID.format("item-list"))
    put(tab, "item-search", "")


@pytest.mark.parametrize(("width", "dark"), [(1100, False), (390, True)])
def test_it_fits_a_screen_light_and_dark(tab: browser.Tab, width: int, dark: bool, tmp_path: Path) -> None:
    folder = Path(SCREENSHOTS) if SCREENSHOTS else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"report-{width}{'-dark' if dark else ''}.png"
    tab.screenshot(file, width, 2400, dark)
    assert file.stat().st_size > 20_000
    assert tab.run("document.documentElement.scrollWidth") <= width
    ground = tab.run("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", ground))) < 64) == dark
