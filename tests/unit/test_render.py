"""Tables as data: tables.json gives back what was written, and every other format is generated from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tli.analysis import render
from tli.analysis.render import Figure, ModelTables, read_model, write_model
from tli.analysis.table import Column, Kind, Table, display, from_json, shown, to_json
from tli.io import structured
from tli.io.errors import UserError
from tli.report import cells

KINDS = set(get_args(Kind)) - {"text"}
FIGURES = [Figure("scan.svg", "A scan.", "Four plots.")]


def displayed(table: Table) -> Table:
    return replace(table, text=display(table, lambda *_: None))


TABLE = displayed(
    Table(
        "gain",
        "Gains",
        "What a pair gains. With a bar.",
        (
            Column("view", "view", id=True),
            Column("gain", "|gain|", "cosine_change"),
            Column("p", "p", "p"),
            Column("n", "n", "count"),
        ),
        (
            {"view": "2.mask.nf4", "gain": -0.0902, "p": 1e-240, "n": 1234},
            {"view": "a|b", "p": 0.031623},
        ),
        notes=["one", "two"],
        source=["scan"],
    )
)
SECOND = Table("none", "Nothing", "No rows.", (Column("what", "what", id=True),), (), view="none")
WRITTEN = ModelTables("smollm2", {table.name: table for table in (TABLE, SECOND)}, FIGURES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_model(tmp_path / "tables.json", WRITTEN)
    return tmp_path / "tables.json"


def test_what_was_written_is_read(path: Path) -> None:
    read = read_model(path)
    assert (read.model, [*read.tables], read.figures) == ("smollm2", ["gain", "none"], FIGURES)
    table = read.tables["gain"]
    assert (table.title, table.caption, table.notes, table.source) == ("Gains", TABLE.caption, ["one", "two"], ["scan"])
    assert (tuple(table.columns), tuple(table.rows)) == (tuple(TABLE.columns), tuple(TABLE.rows))
    assert table.text == [["2.mask.nf4", "−0.0902", "<1e-4", "1,234"], ["a|b", "-", "0.0316", "-"]]
    assert table.number("gain", view="2.mask.nf4") == -0.0902
    assert table.number("gain", view="a|b") is None
    assert read.tables["none"].full_caption == "No rows. View: none."


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1), st.sampled_from(sorted(KINDS)))
def test_numbers_come_back_as_nine_digits_of_them(values: list[float], kind: Kind) -> None:
    columns = (Column("line", "line", "count", id=True), Column("x", "x", kind))
    table = Table("t", "t", "t", columns, [{"line": line, "x": value} for line, value in enumerate(values)], view="-")
    again = from_json(json.loads(json.dumps(structured.rounded(to_json(table)))))
    assert [row["x"] for row in again.rows] == [float(f"{value:.9g}") for value in values]


def test_every_format_has_the_cells_of_the_data(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    render.write_pages(folder, ["# Tables"], [WRITTEN], "../figures")
    assert "| smollm2 | 2.mask.nf4 | −0.0902 | <1e-4 | 1,234 |" in (folder / "gain.md").read_text(encoding="utf-8")
    assert "smollm2,2.mask.nf4,-0.0902,<1e-4,1234\n" in (folder / "gain.csv").read_text(encoding="utf-8")
    assert "smollm2 & 2.mask.nf4 & $-0.0902$" in (folder / "gain.tex").read_text(encoding="utf-8")
    for name in ("gain.md", "README.md"):
        assert "Source: `src/tli/tables/gain.py`; rows of the stage `scan`." in (folder / name).read_text("utf-8")


def test_the_paper_and_the_report_show_the_same_cells() -> None:
    shown_table = cells.displayed(TABLE)
    assert shown_table["lines"] == TABLE.text
    assert [column["number"] for column in shown_table["columns"]] == [False, True, True, True]
    texts = cells.texts_by_key(WRITTEN.tables)
    assert texts["gain/2.mask.nf4/gain"] == "−0.0902"
    assert texts["gain/a|b/gain"] == "-"
    assert texts.keys() == TABLE.values().keys()
    row = cells.shown_row(TABLE, view="2.mask.nf4")
    assert (row.mean("gain"), row.texts["gain"]) == (-0.0902, shown(-0.0902, "cosine_change").replace("-", "−"))
    assert cells.shown_row(TABLE, view="a|b").number("gain") is None


def test_a_missing_row_or_column_is_an_error() -> None:
    with pytest.raises(UserError, match="table gain: expected one row with view=3 and a column gain, got 0 rows"):
        TABLE.number("gain", view="3")
    with pytest.raises(UserError, match="a column loss, got 1 rows"):
        TABLE.number("loss", view="a|b")
    with pytest.raises(UserError, match="table gain: expected one row with view=3, got 0 rows"):
        cells.shown_row(TABLE, view="3")


@pytest.mark.parametrize("text", ["{}", '{"tables": [{"name": "x"}]}', "[]", '{"tables": [], "figures": [{"x": 1}]}'])
def test_a_file_of_another_form_is_one_line(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"tables\.json: expected tables as"):
        read_model(path)
    with pytest.raises(UserError, match=r"absent/tables\.json: no such file"):
        read_model(path.parent / "absent" / "tables.json")
