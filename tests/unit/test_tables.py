"""Tables and figures from synthetic rows: what they say, how they are written, what they refuse, the same twice."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar

from synthetic import as_paper, fabricate, with_blocks
from tli.analysis import published, render
from tli.analysis.render import Column, Table, shown
from tli.analysis.results import Rows, flat, load_yaml
from tli.config import parameters
from tli.config.parameters import Params
from tli.io.errors import UserError
from tli.io.files import sha256_of
from tli.io.rows import read_rows
from tli.io.structured import read_json
from tli.paper import tables
from tli.stats.bootstrap import paired_bootstrap

ROOT = Path(__file__).resolve().parents[2]
OF_BASE = {"align": "similarity.tsv", "transfer": "score.tsv"}  # the base's rows, by the stage whose rows follow them


@pytest.fixture(scope="module")
def smoke() -> Params:
    return parameters.load(ROOT / "tests" / "smoke" / "params.yaml")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, smoke: Params) -> dict[str, Any]:
    """Synthetic rows and what the stage made of them; read only."""
    given = fabricate(tmp_path_factory.mktemp("synthetic"), smoke)
    tables.run(**given)
    return given


@pytest.fixture
def fresh(tmp_path: Path, smoke: Params) -> dict[str, Any]:
    """Synthetic rows of one's own, to break."""
    return fabricate(tmp_path, smoke, pairs=(6, 4), items=6)


def read(made: dict[str, Any], name: str) -> list[dict[str, str]]:
    with (made["tables"] / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def own(made: dict[str, Any], name: str) -> list[dict[str, str]]:
    """The lines that this run measured, without those that hold published values."""
    return [line for line in read(made, name) if not line["name"].startswith("published")]


def frame(made: dict[str, Any], name: str) -> Any:
    """The rows of a stage: of `align` and `transfer` those of the base, of stage base-rows, first."""
    rows = read_rows(made[name])
    if name not in OF_BASE:
        return rows
    return pd.concat([read_rows(made["base_rows"] / OF_BASE[name]), rows], ignore_index=True)


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    """Changes the rows of a file as a data frame."""
    change(read_rows(path)).to_csv(path, sep="\t", index=False)


NAMES = {
    "setup",
    "scan",
    "norms",
    "before_after",
    "gains",
    "retrieval",
    "ranks",
    "xcopa",
    "xnli",
    "classes",
    "baselines",
    "audit",
    "items",
    "claims",
    "adapter",
    "lengths",
    "controls",
    "changes",
    "gap",
    "calibration",
    "robustness",
    "robustness_alignment",
    "trends",
    "equivalence",
    "odds",
    "geometry",
    "pools",
    "class_changes",
    "probe",
    "projection",
}


def test_every_table_comes_thrice_with_its_view_and_without_nan(made: dict[str, Any]) -> None:
    assert {path.stem for path in made["tables"].glob("*.csv")} == NAMES
    assert {path.name for path in made["tables"].iterdir()} == {
        f"{name}.{kind}" for name in NAMES for kind in ("csv", "md", "tex")
    } | {"README.md", "tables.json"}
    for path in made["tables"].iterdir():
        assert not re.search(r"(?i:\bnan\b|\binf\b)|\bNone\b", path.read_text(encoding="utf-8")), path.name
    for name in NAMES:
        assert all(row["view"] for row in read(made, name)), name


def test_readme_holds_every_table_and_shows_every_figure(made: dict[str, Any]) -> None:
    text = (made["tables"] / "README.md").read_text(encoding="utf-8")
    anchors = {render._anchor(line.removeprefix("## ")) for line in text.splitlines() if line.startswith("## ")}
    assert set(re.findall(r"\]\(#(.+?)\)", text)) == anchors
    for link in re.findall(r"\]\(([^#)]+)\)", text):
        assert (made["tables"] / link).is_file(), link
    images = re.findall(r"!\[(.+?)\]\((.+?)\)", text)
    assert len(images) == len(list(made["figures_out"].iterdir())) == 5
    assert all(len(alt) > 80 for alt, _ in images), "a figure's text says what it shows"
    assert text.startswith("# Tables, model `microworld`\n")
    assert "they are not XCOPA and XNLI scores" in text


def test_before_after_is_scipys_paired_test_on_the_rows(made: dict[str, Any]) -> None:
    rows, compute = frame(made, "align"), re.compile(", in bfloat16$")
    for line in own(made, "before_after"):
        if compute.search(line["name"]):
            continue
        chosen = rows[(rows["set"] == line["set"]) & (rows["view"] == line["view"]) & (rows["measure"] == "cosine")]
        wide = chosen.pivot_table(index="item", columns="cell", values="value")
        test = scipy_stats.ttest_rel(wide["main"], wide["base"])
        assert float(line["t"]) == pytest.approx(test.statistic)
        assert float(line["p"]) == pytest.approx(test.pvalue)
        assert float(line["low"]) == pytest.approx(test.confidence_interval(0.95).low)
        assert int(line["n"]) == len(wide)
    names = {line["view"]: line["name"] for line in own(made, "before_after") if not compute.search(line["name"])}
    assert names["2.content.fp4"] == "as_scripted"
    assert names["norm.content.nf4"] == "final"
    assert names["2.mask.nf4"] == "trained_on"
    assert names["3.mask.nf4"] == "as_described"
    assert {"2.mask.fp4", "3.content.nf4"} <= names.keys(), "the named views stand beside their neighbours"


def test_before_after_has_the_paper_s_cell_in_bfloat16_too(made: dict[str, Any]) -> None:
    rows = read_rows(made["bfloat16"])
    lines = [line for line in own(made, "before_after") if line["name"].endswith(", in bfloat16")]
    assert [line["set"] for line in lines] == ["trained", "control"]
    assert {line["view"] for line in lines} == {"2.content.fp4"}
    for line in lines:
        chosen = rows[(rows["set"] == line["set"]) & (rows["measure"] == "cosine")]
        wide = chosen.pivot_table(index="item", columns="cell", values="value")
        test = scipy_stats.ttest_rel(wide["main-bfloat16"], wide["base-bfloat16"])
        assert float(line["t"]) == pytest.approx(test.statistic)
        assert float(line["after"]) == pytest.approx(wide["main-bfloat16"].mean())


def test_scan_has_every_layer_under_both_poolings(made: dict[str, Any]) -> None:
    lines = read(made, "scan")
    wanted = [f"{layer}.{pooling}.nf4" for layer in (0, 1, 2, 3, 4, "norm") for pooling in ("mask", "content")]
    assert [line["view"] for line in lines] == wanted
    for line in lines:
        assert float(line["difference"]) == pytest.approx(float(line["cosine"]) - float(line["random"]), abs=1e-8)


def test_the_pilot_stands_beside_layers_whose_number_means_the_same(made: dict[str, Any], smoke: Params) -> None:
    reported = load_yaml(made["reported"])
    pilot = reported["pilot"]
    beside = {line["view"]: line["published"] for line in read(made, "scan") if line["published"] != "-"}
    wanted = {"0.mask.nf4": pilot[0], "1.mask.nf4": pilot[1], "2.mask.nf4": pilot[2], "3.mask.nf4": pilot[31]}
    assert {view: float(value) for view, value in beside.items()} == wanted, "layer 3 is L - 1 of this model"
    assert "another model than this run's" in (made["tables"] / "scan.md").read_text()
    itself = as_paper(smoke)
    assert published.pilot(reported, itself) == {str(layer): value for layer, value in pilot.items()}
    assert published.whose(itself) == ""
    shallow = published.pilot(reported, with_blocks(smoke, 3))
    assert shallow == {"0": pilot[0], "1": pilot[1], "2": pilot[2]}, "a layer keeps its number's value where L - 1 is 2"


def test_the_one_published_result_stands_at_both_readings(made: dict[str, Any]) -> None:
    reported = load_yaml(made["reported"])["before_after"]
    lines = [line for line in read(made, "before_after") if line["name"].startswith("published")]
    assert [(line["view"], line["name"], line["set"]) for line in lines] == [
        (view, f"published, {name}", set_)
        for view, name in (("2.content.fp4", "as_scripted"), ("31.mask.nf4", "as_described"))
        for set_ in ("trained", "control")
    ]
    for line in lines:
        for key in ("n", "before", "before_sd", "after", "after_sd", "gain", "gain_sd", "t", "d_z", "decreased"):
            assert float(line[key]) == reported[line["set"]][key], key
    assert {line["p"] for line in lines} == {"1.332e-240", "7.1724e-27"}
    for name in ("before_after", "gains"):
        text = (made["tables"] / f"{name}.md").read_text()
        assert "cast to float16 before packing and the adapter is merged into them, as in the public scripts" in text
        assert "both of its readings" in text
    (line, _) = [line for line in read(made, "gains") if line["name"].startswith("published")]
    assert float(line["difference"]) == pytest.approx(0.0011632)
    given = load_yaml(made["reported"])["gain_difference"]
    assert float(line["difference"]) == pytest.approx(given["difference"], abs=5e-5)
    assert float(line["t"]) == pytest.approx(given["t"], abs=5e-3)


def test_retrieval_has_every_named_view(made: dict[str, Any]) -> None:
    names = {line["view"]: line["name"] for line in read(made, "retrieval")}
    assert {"trained_on", "as_scripted", "as_described", "final"} <= set(names.values())
    assert {"2.mask.nf4", "2.content.nf4", "2.content.fp4", "3.content.nf4", "3.mask.nf4"} <= names.keys()


def test_norms_before_and_after_and_their_ratio(made: dict[str, Any]) -> None:
    rows = frame(made, "align")
    lines = read(made, "norms")
    assert [line["view"] for line in lines] == [f"{layer}.-.nf4" for layer in (0, 1, 2, 3, 4, "norm")]
    for line in lines:
        for when, cell in (("before", "base"), ("after", "main")):
            chosen = rows[(rows["cell"] == cell) & (rows["view"] == line["view"])].set_index("measure")["value"]
            assert float(line[f"bos_norm_{when}"]) == pytest.approx(chosen["bos_norm"])
            assert float(line[f"ratio_{when}"]) == pytest.approx(chosen["bos_norm"] / chosen["content_norm"])
            assert float(line[f"times_{when}"]) == pytest.approx(chosen["bos_peak"] / chosen["median_magnitude"])
            assert int(line[f"dimension_{when}"]) == 7


@pytest.mark.parametrize(
    ("peak", "said"),
    [
        (30.0, "none by this criterion; relative to the median the largest is at layer 1, dimension 7, magnitude 30,"),
        (100.0, "none by this criterion"),
        (101.0, "first at layer 1, dimension 7, magnitude 101, 2525 times the median; met at 4 of the layers 1 to 4"),
        (99999.0, "met at 4 of"),
    ],
)
def test_the_line_on_massive_activations(fresh: dict[str, Any], peak: float, said: str) -> None:
    def raised(rows: Any) -> Any:
        rows.loc[(rows["measure"] == "bos_peak") & (rows["view"] != "0.-.nf4"), "value"] = str(peak)
        return rows.assign(value=rows["value"].where(rows["measure"] != "median_magnitude", "0.04"))

    rewrite(fresh["scan"], raised)
    tables.run(**fresh)
    assert said in (fresh["tables"] / "scan.md").read_text()
    first = read_json(fresh["measured"])["scan.massive.first_layer"]
    assert first == (None if "none" in said else 1)


def test_rank_tables_are_means_over_seeds_and_exact_mcnemar(made: dict[str, Any], smoke: Params) -> None:
    base = frame(made, "transfer")
    languages = {"English": "en", "Swahili": "sw"}
    lines = [(task, line) for task in ("xcopa", "xnli") for line in read(made, task) if line["cell"] == "sweep"]
    for task, line in lines:
        set_ = f"{task}.{languages[line['language']]}"
        rows = read_rows(made["sweep"] / "rows" / f"r{line['rank']}" / "score.tsv")
        rows = rows[(rows["set"] == set_) & (rows["measure"] == "correct")]
        right = {cell: part.set_index("item")["value"] for cell, part in rows.groupby("cell")}
        start = base[(base["cell"] == "base") & (base["set"] == set_) & (base["measure"] == "correct")]
        start = start.set_index("item")["value"]
        scores = [100 * right[f"r{line['rank']}-s{seed}"].mean() for seed in smoke.sweep.seeds]
        assert float(line["accuracy"]) == pytest.approx(np.mean(scores))
        assert float(line["sd"]) == pytest.approx(np.std(scores, ddof=1))
        assert float(line["change"]) == pytest.approx(np.mean(scores) - 100 * start.mean())
        p, won, lost = [], 0, 0
        for cell in right.values():
            b, c = int(((start == 1) & (cell == 0)).sum()), int(((start == 0) & (cell == 1)).sum())
            p += [mcnemar([[0, b], [c, 0]], exact=True).pvalue] if b + c else []
            won, lost = won + c, lost + b
        assert (int(line["won"]), int(line["lost"])) == (won, lost)
        assert float(line["p_median"]) == pytest.approx(np.median(p))
        assert int(line["significant"]) == sum(value < 0.05 for value in p)
    assert {int(line["rank"]) for line in read(made, "ranks")} == {0, *smoke.sweep.ranks}
    shares = {line["rank"]: line["share_v_proj"] for line in read(made, "ranks")}
    assert float(shares["4"]) == 4 / smoke.active.model.kv_width


def test_the_interval_of_one_adapter_is_the_bootstrap_over_premises(made: dict[str, Any], smoke: Params) -> None:
    rows = frame(made, "transfer")
    for line in (x for task in ("xcopa", "xnli") for x in read(made, task) if x["cell"] == "paper's cell"):
        language = {"English": "en", "Swahili": "sw"}[line["language"]]
        task = "xcopa" if line in read(made, "xcopa") else "xnli"
        chosen = rows[(rows["set"] == f"{task}.{language}") & (rows["measure"] == "correct")]
        wide = chosen.pivot_table(index="item", columns="cell", values="value")
        # Every tenth invented item stands on the premise of the one before
        premise = [str(number - (number % 10 == 9)) for number in range(len(wide))]
        before, after = (100 * wide[cell].to_numpy(float) for cell in ("base", "main"))
        found = paired_bootstrap(before, after, draws=200, seed=0, groups=premise)
        assert (float(line["change_low"]), float(line["change_high"])) == pytest.approx((found.low, found.high))
        assert found != paired_bootstrap(before, after, draws=200, seed=0)
        assert "premises; McNemar's test takes the items as independent" in (made["tables"] / f"{task}.md").read_text()


def test_every_layer_s_retrieval_and_geometry_are_the_rows(made: dict[str, Any], smoke: Params) -> None:
    keys = ["cell", "set", "view", "measure", "item"]
    rows = frame(made, "align").set_index(keys)["value"].astype(float).sort_index()
    views = 2 * (smoke.active.model.blocks + 2)
    lines = own(made, "pools")
    assert len(lines) == views * 2 * 2 * 2
    for line in lines:
        for short, measure in (("p1", "p_at_1"), ("p5", "p_at_5"), ("mrr", "mrr"), ("csls", "csls_at_1")):
            name = f"{'own_' if line['pool'] == 'own' else ''}{measure}.{line['direction'].replace('→', '_')}"
            for when, cell in (("before", "base"), ("after", "main")):
                want = rows[cell, line["set"], line["view"], name, "-"]
                assert float(line[f"{short}_{when}"]) == pytest.approx(want, rel=1e-8)
    lines = own(made, "geometry")
    assert len(lines) == views
    for line in lines:
        for when, cell in (("before", "base"), ("after", "main")):
            of = rows[cell, "all", line["view"]].droplevel("item")
            for scaled in ("centred", "standardised"):
                left = of[f"{scaled}_cosine_mean"] - of[f"{scaled}_random_cosine_mean"]
                assert float(line[f"{scaled}_{when}"]) == pytest.approx(left, abs=1e-8)
            assert float(line[f"random_{when}"]) == pytest.approx(of["random_cosine_mean"], abs=1e-8)
            assert float(line[f"participation_sw_{when}"]) == pytest.approx(of["participation_ratio.sw"], rel=1e-8)


def test_measured_and_headline_are_what_the_tables_say(made: dict[str, Any]) -> None:
    measured = json.loads(made["measured"].read_text())
    line = next(x for x in read(made, "before_after") if (x["set"], x["view"]) == ("trained", "2.mask.nf4"))
    assert measured["align.trained.gain.2.mask.nf4"] == float(line["gain"])
    assert measured["align.trained.before.2.mask.nf4"] == float(line["before"])
    assert measured["inputs.pairs"] == sha256_of(made["pairs"])
    assert measured["setup.nf4.quant_type"] == "nf4"
    assert all(value is None or isinstance(value, int | float | str) for value in measured.values())
    headline = json.loads(made["headline"].read_text())
    assert 5 < len(headline) < 16
    assert max(map(len, headline)) < 11
    assert headline["gain"] == pytest.approx(float(line["gain"]), abs=1e-4)


def test_two_runs_write_the_same_bytes(made: dict[str, Any], tmp_path: Path, smoke: Params) -> None:
    again = fabricate(tmp_path, smoke)
    code = f"""
import sys; sys.path[:0] = [{str(ROOT / "tests")!r}, {str(ROOT / "src")!r}]
from pathlib import Path
from synthetic import as_paper, fabricate, with_blocks
from tli.config import parameters
from tli.paper import tables
tables.run(**fabricate(Path({str(tmp_path)!r}), parameters.load({str(ROOT / "tests/smoke/params.yaml")!r})))
assert "torch" not in sys.modules, "the paper room reads files, never torch"
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    for name in ("tables", "figures_out"):
        first, second = made[name], again[name]
        assert sorted(path.name for path in first.iterdir()) == sorted(path.name for path in second.iterdir())
        for path in first.iterdir():
            assert path.read_bytes() == (second / path.name).read_bytes(), path.name
    assert made["measured"].read_bytes() == again["measured"].read_bytes()


def test_figures_are_svg_without_dates_or_fonts_of_the_machine(made: dict[str, Any]) -> None:
    for path in made["figures_out"].iterdir():
        text = path.read_text(encoding="utf-8")
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert "<text" not in text, "glyphs are paths"
        assert not re.search(r"<dc:date>|20\d\d-\d\d-\d\d", text)


def test_a_missing_sweep_file_or_cell_is_one_line(fresh: dict[str, Any]) -> None:
    path = fresh["sweep"] / "rows" / "r4" / "similarity.tsv"
    kept = path.read_text()
    rewrite(path, lambda rows: rows[rows["cell"] != "r4-s1"])
    with pytest.raises(UserError, match=r"similarity\.tsv: no rows of r4-s1, though sweep\.seeds lists 1"):
        tables.run(**fresh)
    path.write_text(kept)
    (fresh["sweep"] / "train" / "r2.tsv").unlink()
    with pytest.raises(UserError, match=r"r2\.tsv: no rows of rank 2, which sweep\.ranks lists"):
        tables.run(**fresh)
    assert not fresh["tables"].exists(), "nothing is written by a run that fails"


def test_exactly_the_sweep_of_params_is_read(fresh: dict[str, Any], smoke: Params) -> None:
    (fresh["sweep"] / "rows" / "r64").mkdir()
    (fresh["sweep"] / "rows" / "r64" / "similarity.tsv").write_text("left over from another sweep")
    less = smoke.model_copy(update={"sweep": smoke.sweep.model_copy(update={"ranks": (2,), "seeds": (1,)})})
    tables.run(**fresh | {"params": less})
    lines = read(fresh, "ranks")
    assert {line["rank"] for line in lines} == {"0", "2"}
    assert {line["gain_sd_trained"] for line in lines} == {"-"}, "no SD over one seed, and no NaN"
    assert "SD needs two values" in (fresh["tables"] / "ranks.md").read_text()


def test_missing_rows_and_unequal_items_are_one_line(fresh: dict[str, Any]) -> None:
    rewrite(fresh["align"], lambda rows: rows[rows["item"] != "neno0"])
    with pytest.raises(UserError, match=r"similarity\.tsv: expected the items of base in trained for main, 1 differ"):
        tables.run(**fresh)
    rewrite(fresh["scan"], lambda rows: rows[rows["measure"] != "bos_norm"])
    with pytest.raises(UserError, match=r"scan\.tsv: .*view 0\.-\.nf4, measure bos_norm, found none"):
        tables.run(**fresh)
    rewrite(fresh["scan"], lambda rows: rows.iloc[[0, 0]])
    with pytest.raises(UserError, match="expected one row for base trained"):
        Rows(fresh["scan"])


def test_an_adapter_that_changes_nothing_gives_defined_cells(fresh: dict[str, Any]) -> None:
    """lr = 0: every gain is 0, t and McNemar's p are undefined, and nothing is NaN or fails."""
    for name, file in OF_BASE.items():
        rows = read_rows(fresh["base_rows"] / file)
        base = rows[(rows["cell"] == "base") & (rows["set"] != "drift")]
        base.assign(cell="main").to_csv(fresh[name], sep="\t", index=False)
    tables.run(**fresh)
    lines = [line for line in own(fresh, "before_after") if not line["name"].endswith(", in bfloat16")]
    assert {(line["gain"], line["t"], line["p"]) for line in lines} == {("0", "-", "-")}
    assert "every pair changes alike" in (fresh["tables"] / "before_after.md").read_text()
    main = [line for line in read(fresh, "xcopa") if line["cell"] == "paper's cell"]
    assert {(line["change"], line["p_median"], line["won"]) for line in main} == {("0", "-", "0")}


def test_a_changed_target_layer_moves_the_trained_view(tmp_path: Path, smoke: Params) -> None:
    moved = smoke.model_copy(update={"train": smoke.train.model_copy(update={"layer": 1})})
    given = fabricate(tmp_path, moved, pairs=(6, 4), items=6)
    tables.run(**given)
    names = {line["view"]: line["name"] for line in read(given, "before_after")}
    assert names["1.mask.nf4"] == "trained_on"
    assert names["2.mask.nf4"] == "neighbour"


COLUMNS = (Column("what", "what"), Column("x", "x", "similarity"), Column("p", "p", "p"))


def test_a_table_without_a_view_is_refused() -> None:
    with pytest.raises(ValueError, match="no cell without its view"):
        Table("t", "T", "c", COLUMNS, [{"what": "a"}])
    with pytest.raises(ValueError, match="cells without a column: y"):
        Table("t", "T", "c", COLUMNS, [{"y": 1}], view="v")


def test_formats() -> None:
    assert shown(0.99998, "similarity") == "0.999980"
    assert shown(0.3153, "similarity") == "0.3153"
    assert shown(-0.00001, "change") == "0.0000"
    assert shown(0.09018, "change") == "+0.0902"
    assert shown(4128768, "count") == "4,128,768"
    assert shown(None, "p") == "-"
    assert shown(1.332e-240, "p") == "1.33e-240"
    assert shown(9.999e-5, "p") == "1.00e-4"
    assert shown(0.05, "p") == "0.0500"
    assert shown(1e-300, "p") == "≤1.00e-300"
    assert shown(1.8e-299, "p") == "≤1.80e-299", "of a family of 18"
    with pytest.raises(ValueError, match="finite"):
        shown(float("nan"), "t")


@given(st.floats(-296, 0))
def test_a_shown_p_is_within_rounding_of_its_value(log10: float) -> None:
    text = shown(10**log10, "p")
    if "e" in text:
        assert float(text) == pytest.approx(10**log10, rel=0.00501)
        assert 1 <= float(text.partition("e")[0]) < 10
    else:
        assert float(text) == pytest.approx(10**log10, abs=5.01e-5)


def test_markdown_and_tex_escape_what_they_must() -> None:
    table = Table(
        "t", "T_1 & co", "50 % of `x_y`", COLUMNS, [{"what": "a|b & c_d", "x": -0.5, "p": 1e-30}], view="none"
    )
    markdown, tex = render.to_md(table), render.to_tex(table)
    assert "| a\\|b & c_d | −0.5000 | 1.00e-30 |" in markdown
    assert r"a\textbar{}b \& c\_d & $-0.5000$ & $1.00\times 10^{-30}$ \\" in tex
    assert r"50 \% of \texttt{x\_y}" in tex
    assert render.to_csv(table) == "what,x,p,view\na|b & c_d,-0.5,1e-30,none\n"
    assert tex.count("{") == tex.count("}")


def test_flat_keys() -> None:
    nested = {"a": {"b": 1, "c": [1, 2]}, "log": [{"step": 1}], "d": True, "e": None, "f": 0.5}
    assert flat(nested) == {"a.b": 1, "a.c": "1, 2", "d": "true", "e": None, "f": 0.5}
