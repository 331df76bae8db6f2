"""The stage `tables` on synthetic rows: what every table has, what is refused, the same bytes twice; printed digits."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthetic import fabricate
from tli.analysis import render
from tli.analysis.results import COLUMNS as FRAME
from tli.analysis.results import flat, read_results
from tli.analysis.table import DECIMALS, SIGNED, Column, Table, shown
from tli.config import parameters
from tli.config.parameters import Params
from tli.io.errors import UserError
from tli.io.rows import read_rows
from tli.stages import pages, tables

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def smoke() -> Params:
    return parameters.load(ROOT / "tests" / "smoke" / "params.yaml")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, smoke: Params) -> dict[str, Any]:
    """Synthetic rows and what the stage made of them; read only."""
    given = fabricate(tmp_path_factory.mktemp("synthetic"), smoke)
    tables.run(**given)
    return given


@pytest.fixture(scope="module")
def written(made: dict[str, Any]) -> render.ModelTables:
    return render.read_model(made["out"])


@pytest.fixture
def fresh(tmp_path: Path, smoke: Params) -> dict[str, Any]:
    """Synthetic rows of one's own, to break."""
    return fabricate(tmp_path, smoke, pairs=(6, 4), items=6)


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    """Changes the rows of a file as a data frame."""
    change(read_rows(path)).to_csv(path, sep="\t", index=False)


# What every table has.


def test_a_module_for_each_table_and_a_table_for_each_module(written: render.ModelTables) -> None:
    modules = {path.stem for path in (ROOT / "src" / "tli" / "tables").glob("*.py")} - {"__init__"}
    assert modules == set(tables.ORDER)
    assert {*written.tables} == {name for name in tables.ORDER if not name.startswith("study_")}


def test_committed_pages_are_those_of_modules() -> None:
    pages_ = {path.stem for path in (ROOT / "paper" / "tables").glob("*.md")} - {"README"}
    assert pages_ <= set(tables.ORDER)
    assert {"before_after", "scan", "robustness"} <= pages_


@pytest.mark.parametrize("name", tables.ORDER)
def test_a_table_module_keeps_to_its_contract(name: str, smoke: Params) -> None:
    module = tables.MODULES[name]
    assert module.__doc__
    caption = module.CAPTION.format(params=smoke)
    assert len(caption.split()) <= 40, f"{name}: a caption has at most 40 words, this one {len(caption.split())}"
    assert "{" not in caption
    assert set(module.SOURCE) <= {path.stem.replace("_", "-") for path in (ROOT / "src/tli/stages").glob("*.py")} | {
        "sweep-train",
        "sweep-score",
    }


def test_every_number_has_one_key(written: render.ModelTables) -> None:
    keys = [key for table in written.tables.values() for key, _, _ in table.cells()]
    assert len(keys) == len(set(keys)) > 1000
    assert all(key.count("/") == 2 for key in keys)
    assert all(re.fullmatch(r"[\w./,+:()≤≥'%&;=-]+", key) for key in keys), [
        key for key in keys if not re.fullmatch(r"[\w./,+:()≤≥'%&;=-]+", key)
    ][:5]


def test_every_table_has_text_for_each_cell_and_a_view(written: render.ModelTables) -> None:
    for table in written.tables.values():
        assert len(table.text) == len(table.rows) > 0
        assert all(len(line) == len(table.columns) for line in table.text)
        assert table.view or all(row["view"] for row in table.rows), table.name
        assert not re.search(r"(?i:\bnan\b|\binf\b)|\bNone\b", json.dumps(table.text)), table.name


def test_models_stand_side_by_side(made: dict[str, Any], smoke: Params, tmp_path: Path) -> None:
    """The pages hold every row of every model, under a column `model`; a note of one model names it."""
    first = render.read_model(made["out"])
    other = first._replace(model="other", tables={**first.tables})
    del other.tables["odds"]  # type: ignore[attr-defined]
    for one in (first, other):
        render.write_model(tmp_path / "results" / one.model / "tables.json", one)
    profiles = {**smoke.profiles, "other": smoke.active}
    models = [smoke.model_copy(update={"model": one.model, "profiles": profiles}) for one in (first, other)]
    pages.run(results=tmp_path / "results", figures=tmp_path / "figures", out=tmp_path / "tables", models=models)
    joined = {table.name: table for table in render.side_by_side([first, other])}
    assert [row["model"] for row in joined["scan"].rows] == [first.model] * 12 + ["other"] * 12
    assert {row["model"] for row in joined["odds"].rows} == {first.model}
    for name, table in joined.items():
        text = (tmp_path / "tables" / f"{name}.md").read_text(encoding="utf-8")
        assert text.endswith(f"{table.source_line}\n")
        assert f"src/tli/tables/{name}.py" in text
    assert sorted(path.suffix for path in (tmp_path / "tables").iterdir()).count(".tex") == len(joined)


def test_readme_links_every_table_and_shows_every_figure(made: dict[str, Any], smoke: Params, tmp_path: Path) -> None:
    written = render.read_model(made["out"])
    render.write_model(tmp_path / "results" / smoke.model / "tables.json", written)
    pages.run(results=tmp_path / "results", figures=tmp_path / "figures", out=tmp_path / "tables", models=[smoke])
    text = (tmp_path / "tables" / "README.md").read_text(encoding="utf-8")
    anchors = {render._anchor(line.removeprefix("## ")) for line in text.splitlines() if line.startswith("## ")}
    assert set(re.findall(r"\]\(#(.+?)\)", text)) == anchors
    for link in re.findall(r"\]\(([^#)]+\.(?:md|csv|tex))\)", text):
        assert (tmp_path / "tables" / link).is_file(), link
    images = re.findall(r"!\[(.+?)\]\((.+?)\)", text)
    assert len(images) == len(list(made["figures_out"].iterdir())) >= 4
    assert all(len(alt) > 80 for alt, _ in images), "a figure's text says what it shows"


def test_the_frame_holds_every_row(made: dict[str, Any], smoke: Params) -> None:
    results = read_results(made["build"], made["metrics"], made["published"], smoke)
    assert tuple(results.frame.columns) == FRAME
    files = [path for path in made["build"].rglob("*.tsv") if path.name != "pairs.tsv"]
    assert len(results.frame) == sum(len(read_rows(path)) for path in files)
    assert set(results.frame["model"]) == {smoke.model}
    sweep = results.frame[results.frame["run"] == "r4-s1"]
    assert (set(sweep["rank"]), set(sweep["seed"])) == ({4}, {"1"})


def test_headline_is_short_and_says_what_the_tables_say(made: dict[str, Any], written: render.ModelTables) -> None:
    headline = json.loads(made["headline"].read_text())
    assert 5 < len(headline) < 16
    assert max(map(len, headline)) < 11
    gain = written.tables["before_after"].values()["before_after/run,2.mask.nf4,trained/gain"]
    assert headline["gain"] == pytest.approx(gain, abs=1e-4)


def test_two_runs_write_the_same_bytes(made: dict[str, Any], tmp_path: Path, smoke: Params) -> None:
    again = fabricate(tmp_path, smoke)
    code = f"""
import sys; sys.path[:0] = [{str(ROOT / "tests")!r}, {str(ROOT / "src")!r}]
from pathlib import Path
from synthetic import fabricate
from tli.config import parameters
from tli.stages import tables
tables.run(**fabricate(Path({str(tmp_path)!r}), parameters.load({str(ROOT / "tests/smoke/params.yaml")!r})))
assert "torch" not in sys.modules, "tables are made from files, without torch"
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    assert made["out"].read_bytes() == again["out"].read_bytes()
    first, second = made["figures_out"], again["figures_out"]
    assert sorted(path.name for path in first.iterdir()) == sorted(path.name for path in second.iterdir())
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


def test_figures_are_svg_without_dates_or_fonts_of_the_machine(made: dict[str, Any]) -> None:
    for path in made["figures_out"].iterdir():
        text = path.read_text(encoding="utf-8")
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert "<text" not in text, "glyphs are paths"
        assert not re.search(r"<dc:date>|20\d\d-\d\d-\d\d", text)


# What is refused.


def test_a_missing_sweep_file_or_run_is_one_line(fresh: dict[str, Any]) -> None:
    path = fresh["build"] / "sweep" / "rows" / "r4" / "similarity.tsv"
    kept = path.read_text()
    rewrite(path, lambda rows: rows[rows["run"] != "r4-s1"])
    with pytest.raises(UserError, match=r"similarity\.tsv: no rows of r4-s1, though sweep\.seeds lists 1"):
        tables.run(**fresh)
    path.write_text(kept)
    (fresh["build"] / "sweep" / "train" / "r2.tsv").unlink()
    with pytest.raises(UserError, match=r"r2\.tsv: no rows of rank 2, which sweep\.ranks lists"):
        tables.run(**fresh)
    assert not fresh["out"].exists(), "nothing is written by a run that fails"


def test_exactly_the_sweep_of_params_is_read(fresh: dict[str, Any], smoke: Params) -> None:
    (fresh["build"] / "sweep" / "rows" / "r64").mkdir()
    (fresh["build"] / "sweep" / "rows" / "r64" / "similarity.tsv").write_text("left over from another sweep")
    less = smoke.model_copy(update={"sweep": smoke.sweep.model_copy(update={"ranks": (2,), "seeds": (1,)})})
    tables.run(**fresh | {"params": less})
    ranks = render.read_model(fresh["out"]).tables["ranks"]
    assert {row["rank"] for row in ranks.rows} == {0, 2}
    assert {row.get("gain_sd_trained") for row in ranks.rows} == {None}, "no SD over one seed, and no NaN"
    assert any("SD needs two values" in note for note in ranks.notes)


def test_missing_rows_unequal_items_and_rows_twice_are_one_line(fresh: dict[str, Any]) -> None:
    rewrite(fresh["build"] / "similarity.tsv", lambda rows: rows[rows["item"] != "neno0"])
    with pytest.raises(UserError, match=r"similarity: expected the items of base in trained for main, 1 differ"):
        tables.run(**fresh)
    scan = fresh["build"] / "scan.tsv"
    rewrite(scan, lambda rows: rows[rows["measure"] != "bos_norm"])
    with pytest.raises(UserError, match=r"scan: .*view 0\.-\.nf4, measure bos_norm, found none"):
        tables.run(**fresh)
    rewrite(scan, lambda rows: rows.iloc[[0, 0]])
    with pytest.raises(UserError, match=r"scan\.tsv: expected one row for base trained"):
        tables.run(**fresh)


def test_an_adapter_that_changes_nothing_gives_defined_cells(fresh: dict[str, Any]) -> None:
    """lr = 0: every gain is 0, t and McNemar's p are undefined, and nothing is NaN or fails."""
    for name in ("similarity", "score"):
        rows = read_rows(fresh["build"] / "base-rows" / f"{name}.tsv")
        base = rows[(rows["run"] == "base") & (rows["set"] != "drift")]
        base.assign(run="main").to_csv(fresh["build"] / f"{name}.tsv", sep="\t", index=False)
    tables.run(**fresh)
    written = render.read_model(fresh["out"]).tables
    lines = written["before_after"].matching(values="run")
    assert {(line["gain"], line.get("t"), line.get("p")) for line in lines} == {(0, None, None)}
    assert any("every pair changes alike" in note for note in written["before_after"].notes)
    main = written["accuracy_by_rank"].matching(run="main")
    assert {(line["change"], line.get("p_median"), line["won"]) for line in main} == {(0, None, 0)}


def test_a_changed_target_layer_moves_the_trained_view(tmp_path: Path, smoke: Params) -> None:
    moved = smoke.model_copy(update={"train": smoke.train.model_copy(update={"layer": 1})})
    given = fabricate(tmp_path, moved, pairs=(6, 4), items=6)
    tables.run(**given)
    names = {row["view"]: row["name"] for row in render.read_model(given["out"]).tables["before_after"].rows}
    assert names["1.mask.nf4"] == "trained_on"
    assert names["2.mask.nf4"] == "neighbour"


# Tables as data.

COLUMNS = (Column("what", "what", id=True), Column("x", "x", "cosine"), Column("p", "p", "p"))


def test_a_table_without_a_view_or_with_rows_of_one_name_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a view"):
        Table("t", "T", "c", COLUMNS, [{"what": "a"}])
    with pytest.raises(ValueError, match="cells without a column: y"):
        Table("t", "T", "c", COLUMNS, [{"y": 1}], view="v")
    with pytest.raises(ValueError, match="two rows are named a"):
        Table("t", "T", "c", COLUMNS, [{"what": "a"}, {"what": "a"}], view="v")


def test_keys_of_cells() -> None:
    table = Table("t", "T", "c", COLUMNS, [{"what": "sw→en, all/x", "x": 0.5}, {"x": 1.0}], view="v")
    assert table.values() == {
        "t/sw-en-all-x/x": 0.5,
        "t/sw-en-all-x/p": None,
        "t/-/x": 1.0,
        "t/-/p": None,
    }


# Printed digits.


def test_formats() -> None:
    assert shown(0.99998, "cosine") == "0.999980"
    assert shown(0.3153, "cosine") == "0.3153"
    assert shown(-0.00001, "cosine_change") == "0.0000"
    assert shown(0.09018, "cosine_change") == "+0.0902"
    assert shown(4128768, "count") == "4,128,768"
    assert shown(None, "p") == "-"
    assert shown(0.34567, "p") == "0.35"
    assert shown(0.05, "p") == "0.0500"
    assert shown(1.332e-240, "p") == "<1e-4"
    assert shown(12345.6, "magnitude") == "1.235e+04"
    with pytest.raises(ValueError, match="finite"):
        shown(float("nan"), "t")


@pytest.mark.parametrize(
    ("value", "kind", "step", "text"),
    [
        (0.912345, "cosine", 4.2e-4, "0.912"),
        (0.912345, "cosine", 2.9e-3, "0.91"),
        (0.999976, "cosine", 3.4e-7, "0.999976"),
        (0.999976, "cosine", 4.2e-4, "1.000"),
        (12.3456, "t", 0.8, "12"),
        (0.912345, "cosine", None, "0.9123"),
        (61.25, "percent", 2.5, "61"),
        (123.456, "magnitude", 6.0, "123"),
        (73.2, "number", 25.0, "73"),
        (123456.7, "number", None, "1.235e+05"),
    ],
)
def test_decimals_are_those_that_processors_agree_on(value: float, kind: Any, step: float | None, text: str) -> None:
    assert shown(value, kind, step) == text


@given(st.floats(-2, 2), st.sampled_from(sorted(DECIMALS)), st.floats(1e-8, 0.3))
def test_the_last_printed_decimal_is_not_finer_than_the_drift(value: float, kind: Any, step: float) -> None:
    text = shown(value, kind, step)
    decimals = len(text.partition(".")[2])
    assert 10.0**-decimals >= step * (1 - 1e-6) or decimals == 0
    assert abs(float(text) - value) <= 0.5000001 * 10.0**-decimals
    assert text.startswith("+") == (kind in SIGNED and float(text) > 0)
    assert not text.startswith("-") or float(text) < 0


@given(st.floats(1e-300, 1))
def test_a_shown_p_is_rounded_or_a_bound(p: float) -> None:
    text = shown(p, "p")
    if text == "<1e-4":
        assert p < 1e-4
    else:
        assert math.isclose(float(text), p, abs_tol=5.1e-5 if p < 0.1 else 5.1e-3)


def test_markdown_and_tex_escape_what_they_must() -> None:
    rows = [{"what": "a|b & c_d", "x": -0.5, "p": 1e-30}]
    text = [["a|b & c_d", "−0.5000", "<1e-4"]]
    table = Table("t", "T_1 & co", "50 % of `x_y`", COLUMNS, rows, view="none", source=("scan",), text=text)
    markdown, tex = render.to_md(table), render.to_tex(table)
    assert "| a\\|b & c_d | −0.5000 | <1e-4 |" in markdown
    assert r"a\textbar{}b \& c\_d & $-0.5000$" in tex
    assert r"50 \% of \texttt{x\_y}" in tex
    assert render.to_csv(table) == "what,x,p,view\na|b & c_d,-0.5000,<1e-4,none\n"
    assert tex.count("{") == tex.count("}")


def test_flat_keys() -> None:
    nested = {"a": {"b": 1, "c": [1, 2]}, "log": [{"step": 1}], "d": True, "e": None, "f": 0.5}
    assert flat(nested) == {"a.b": 1, "a.c": "1, 2", "d": "true", "e": None, "f": 0.5}
