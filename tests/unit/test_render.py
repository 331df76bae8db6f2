"""Tables as data: tables.json gives back what was written, and every other format is generated from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tli.analysis import render
from tli.analysis.render import Column, Figure, Page, Table
from tli.io import structured
from tli.io.errors import UserError

TABLE = Table(
    "gain",
    "Gains",
    "What a pair gains. With a bar.",
    (
        Column("view", "view"),
        Column("gain", "|gain|", "change"),
        Column("p", "p", "p"),
        Column("n", "n", "count"),
    ),
    (
        {"view": "2.mask.nf4", "gain": -0.0902, "p": 1e-240, "n": 1234},
        {"view": "a|b", "gain": None, "p": 0.31623, "n": None},
    ),
    notes=("one", "two"),
)
SECOND = Table("none", "Nothing", "No rows.", (Column("what", "what"),), (), view="none")
KINDS = set(get_args(render.Kind)) - {"text"}
FIGURES = [Figure("scan.svg", "A scan.", "Four plots.")]


PAGE = Page(["# Tables"], {table.name: table for table in (TABLE, SECOND)}, FIGURES, bases="5 bases", revision="abc")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    render.write(tmp_path / "tables", PAGE, "../figures")
    return tmp_path / "tables"


def test_what_was_written_is_read(folder: Path) -> None:
    page = render.read(folder)
    assert [*page.tables] == ["gain", "none"]
    table = page.tables["gain"]
    assert (table.title, table.caption, table.notes) == (TABLE.title, TABLE.caption, ["one", "two"])
    assert tuple(table.columns) == TABLE.columns
    assert table.lines == [["2.mask.nf4", "−0.0902", "1.00e-240", "1,234"], ["a|b", "-", "0.3162", "-"]]
    assert table.number("gain", view="2.mask.nf4") == -0.0902
    assert table.number("gain", view="a|b") is None
    assert (page.tables["none"].lines, page.tables["none"].full_caption) == ([], "No rows. View: none.")
    assert (page.figures, page.bases, page.revision) == (FIGURES, "5 bases", "abc")


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1), st.sampled_from(sorted(KINDS)))
def test_numbers_come_back_as_nine_digits_of_them(values: list[float], kind: render.Kind) -> None:
    table = Table("t", "t", "t", (Column("x", "x", kind),), [{"x": value} for value in values], view="-")
    written = json.loads(json.dumps(structured.rounded(render.to_json(Page([], {"t": table}, [])))))
    (again,) = (render.from_json(each) for each in written["tables"])
    assert [row["x"] for row in again.rows] == [float(f"{value:.9g}") for value in values]


def test_every_format_has_the_cells_of_the_data(folder: Path) -> None:
    assert "| 2.mask.nf4 | −0.0902 | 1.00e-240 | 1,234 |" in (folder / "gain.md").read_text(encoding="utf-8")
    assert "2.mask.nf4,-0.0902,1e-240,1234\n" in (folder / "gain.csv").read_text(encoding="utf-8")
    assert r"$1.00\times 10^{-240}$" in (folder / "gain.tex").read_text(encoding="utf-8")
    assert (folder / "README.md").read_text(encoding="utf-8") == render.readme(render.read(folder), "../figures")


def test_a_missing_row_or_column_is_an_error(folder: Path) -> None:
    table = render.read(folder).tables["gain"]
    with pytest.raises(UserError, match="table gain: expected one row with view=3 and a column gain, got 0 rows"):
        table.number("gain", view="3")
    with pytest.raises(UserError, match="a column loss, got 1 rows"):
        table.number("loss", view="a|b")


@pytest.mark.parametrize("text", ["{}", '{"tables": [{"name": "x"}]}', "[]", '{"tables": [], "figures": [{"x": 1}]}'])
def test_a_file_of_another_form_is_one_line(folder: Path, text: str) -> None:
    (folder / render.FILE).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"tables\.json: expected tables as"):
        render.read(folder)
    with pytest.raises(UserError, match=r"absent/tables\.json: no such file"):
        render.read(folder / "absent")
