"""The pages under docs/ that explain: every stage is drawn, every term is used, every example is one that works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from tiny import ROOT
from tli.cli import main
from tli.config import parameters
from tli.io.errors import UserError

DOCS = ROOT / "docs"


def text(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def test_every_stage_stands_in_the_drawing_and_in_the_list() -> None:
    page = text("how-it-works")
    (drawing,) = re.findall(r"^```text\n(.*?)^```", page, re.M | re.S)
    stages = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    drawn = {word.partition("@")[0] for word in re.findall(r"[a-z][\w@-]*", drawing)}
    assert set(stages) <= drawn
    assert re.findall(r"`([a-z0-9-]+)`", " ".join(re.findall(r"^\| (`.*?) \|", page, re.M))) == [*stages]
    assert max(map(len, drawing.splitlines())) <= 100
    assert len(page.splitlines()) <= 66, "one screen"


def glossary() -> list[tuple[str, str]]:
    return re.findall(r"^\| (?!term|--)(.+?) \| (.+) \|$", text("glossary"), re.M)


def test_the_glossary_is_in_order_and_each_term_once() -> None:
    terms = [term for term, _ in glossary()]
    assert len(terms) > 30
    assert terms == sorted(terms, key=str.casefold)
    assert len({term.casefold() for term in terms}) == len(terms)


def test_every_term_is_used_elsewhere() -> None:
    """In the README, another page, or the tables."""
    tables = (ROOT / "paper" / "tables").rglob("README.md")
    pages = [ROOT / "README.md", *DOCS.rglob("*.md"), *tables, ROOT / "params.yaml"]
    used = " ".join(page.read_text(encoding="utf-8") for page in pages if page.name != "glossary.md").casefold()
    used = re.sub(r"\s+", " ", used)
    for terms, _ in glossary():
        for term in terms.split(", "):
            assert re.search(rf"{re.escape(term.casefold())}s?\b", used), term


def test_the_profile_shown_is_one_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put where the page says, it passes every check, and `tli plan` says what it costs."""
    (section,) = re.findall(r"^```yaml\n(.*?)^```", text("change-it"), re.M | re.S)
    whole = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("\nprofiles:\n", f"\nprofiles:\n{section}")
    (tmp_path / "params.yaml").write_text(whole, encoding="utf-8")
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    loaded = parameters.load(model="qwen")
    assert loaded.active.model.blocks == 28
    commands = re.findall(r"^```sh\n(.*?)^```", text("change-it"), re.M | re.S)[3]
    assert commands.splitlines()[0] == "tli --model qwen plan"
    done = CliRunner().invoke(main, commands.splitlines()[0].split()[1:], catch_exceptions=False)
    assert done.exit_code == 0
    assert "Qwen/Qwen2.5-1.5B@first, 28 blocks" in done.output


def test_every_decision_has_a_date_and_stands_in_the_index() -> None:
    folder = DOCS / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    titles = []
    for page in sorted(set(folder.glob("*.md")) - {folder / "README.md"}):
        for title, first in re.findall(r"^## (.+)\n\n(.+)$", page.read_text(encoding="utf-8"), re.M):
            assert re.match(r"20\d\d-\d\d-\d\d\. ", first), f"{page.name}: {title}"
            anchor = re.sub(r"[^\w\- ]", "", title.casefold()).replace(" ", "-")
            assert f"- [{title}]({page.name}#{anchor})" in index
            titles.append(title)
    assert len(re.findall(r"^- \[", index, re.M)) == len(titles) > 50


def narrowest_rank(changes: dict[str, object]) -> int:
    """The highest rank that every model of the default run allows."""
    params = ROOT / "params.yaml"
    models = parameters.load(params).models
    return min(parameters.load(params, changes=changes, model=model).highest_rank for model in models)


def test_the_ranks_that_the_page_names_are_allowed_and_no_higher_one() -> None:
    (named,) = re.findall(r"sweep\.ranks=\[([\d,]+)\]", text("change-it"))
    ranks = [int(rank) for rank in named.split(",")]
    assert ranks[-1] == narrowest_rank({"sweep.ranks": ranks})
    with pytest.raises(UserError, match="sweep"):
        narrowest_rank({"sweep.ranks": [*ranks, 2 * ranks[-1]]})
