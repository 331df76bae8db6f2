"""The tables of the study on synthetic rows: recomputed with pandas and SciPy; a known effect; refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib import style
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from synthetic import fabricate_study
from tiny import ROOT
from tli.analysis.results import Results
from tli.analysis.study import study_of
from tli.analysis.table import Table
from tli.config import parameters, study
from tli.config.parameters import Params
from tli.figures import study as figure
from tli.figures.drawing import STYLE, svg
from tli.io.errors import UserError
from tli.io.rows import read_rows
from tli.stages import tables

SMOKE = ROOT / "tests" / "smoke" / "params.yaml"
NAMES = [name for name in tables.ORDER if name.startswith("study_")]


def with_keys(*patterns: str, **changes: Any) -> Params:
    """The smoke parameters with the keys that match the patterns, of all keys without one."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    keys = study.keys(parameters.load(SMOKE, dotted), patterns)
    return parameters.load(SMOKE, dotted | {"study": list(map(str, keys))})


def compute(folder: Path, params: Params) -> dict[str, Table]:
    """The tables of the study of the rows in `folder`."""
    results = Results(pd.DataFrame({"stage": []}), {}, {}, {}, study=folder)
    return {name: tables.compute(name, results, params, lambda *_: None) for name in NAMES}


def frame(table: Table) -> pd.DataFrame:
    """The rows with all columns; an undefined number is NaN."""
    return pd.DataFrame([{column.key: row.get(column.key) for column in table.columns} for row in table.rows])


@pytest.fixture(scope="module")
def smoke() -> Params:
    return with_keys()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, smoke: Params) -> Path:
    return fabricate_study(tmp_path_factory.mktemp("study"), smoke)


@pytest.fixture(scope="module")
def made(rows: Path, smoke: Params) -> dict[str, Table]:
    return compute(rows, smoke)


def of_run(rows: Path, key: str, rank: int, file: str, **wanted: str) -> float:
    """The mean of the chosen values of one rank of a key, over seeds, by pandas."""
    values = read_rows(rows / key / file)
    chosen = (values["rank"] == rank) & (values["run"] != "untrained")
    for column, value in wanted.items():
        chosen &= values[column] == value
    return float(values[chosen]["value"].astype(float).mean())


def changes(rows: Path, params: Params, variant: str, rank: int, file: str, **wanted: str) -> list[float]:
    """One value per base: that of a rank minus that of the base."""
    keys = [f"s{base}-{variant}" for base in params.bases]
    return [of_run(rows, key, rank, file, **wanted) - of_run(rows, key, 0, file, **wanted) for key in keys]


def test_every_table_has_rows_and_a_name_for_each(made: dict[str, Table]) -> None:
    for name, table in made.items():
        assert table.rows, name
        assert table.source == ("study",)
        text = json.dumps([table.text, table.notes, table.full_caption])
        assert not re.search(r"(?i:\bnan\b|\binf\b)|\bNone\b", text), name
        keys = [key for key, _, _ in table.cells()]
        assert len(keys) == len(set(keys))
        assert all(re.fullmatch(r"[\w./,+:()≤≥'%&;=-]+", key) for key in keys)


def test_similarity_has_each_variant_and_rank_as_the_mean_of_its_bases(
    rows: Path, made: dict[str, Table], smoke: Params
) -> None:
    table = frame(made["study_similarity"])
    wanted = {(name, rank) for name, variant in smoke.variants.items() for rank in variant.ranks}
    assert {*zip(table["variant"], table["rank"], strict=True)} == wanted
    assert set(table["bases"]) == {2}
    for name, rank in sorted(wanted):
        row = table[(table["variant"] == name) & (table["rank"] == rank) & (table["view"] == "2.mask.nf4")].iloc[0]
        where = {"set": "trained", "view": "2.mask.nf4"}
        gain = changes(rows, smoke, name, rank, "similarity.tsv", measure="cosine_mean", **where)
        random = changes(rows, smoke, name, rank, "similarity.tsv", measure="random_cosine_mean", **where)
        assert row["gain_trained"] == pytest.approx(np.mean(gain), abs=1e-7)
        excess = np.subtract(gain, random)
        assert row["excess_trained"] == pytest.approx(excess.mean(), abs=1e-7)
        assert row["sd_trained"] == pytest.approx(excess.std(ddof=1), abs=1e-7)


def test_the_interval_of_a_control_is_student_s_over_bases(made: dict[str, Table], smoke: Params) -> None:
    table = frame(made["study_controls"])
    assert table["control"].tolist()[0] == "as trained"
    first = table.iloc[0]
    assert first["excess"] == pytest.approx(first["gain"] - first["random"], abs=1e-7)
    assert first["low"] < first["excess"] < first["high"]
    # t = mean / (half width / t quantile) gives back the p, which is then corrected over the rows
    halves, df = (table["high"] - table["low"]) / 2, len(smoke.bases) - 1
    t = table["excess"] / (halves / scipy_stats.t.ppf(0.975, df))
    wanted = multipletests(2 * scipy_stats.t.sf(abs(t), df), method="holm")[1]
    assert table["p_holm"].to_numpy() == pytest.approx(wanted, rel=1e-4)
    shuffled = table[table["control"] == "variant shuffled"]
    assert shuffled["view"].tolist() == ["2.mask.nf4", "2.content.nf4"]
    assert (shuffled["excess"].abs() < 0.3 * first["excess"]).all(), "synthetic shuffled pairs gain nothing"


def test_the_tests_of_the_rank_are_over_bases(made: dict[str, Table]) -> None:
    trends = frame(made["study_trends"])
    assert set(trends["variant"]) == {"2r"}, "the other variants have one rank"
    assert set(trends["units"]) == {"2 bases"}
    assert (trends[trends["outcome"].str.startswith("cosine, ")]["slope"] > 0).all()


def test_scores_are_compared_with_the_reference_base_by_base(rows: Path, made: dict[str, Table], smoke: Params) -> None:
    table = frame(made["study_scores"])
    assert table[table["variant"] == "2r"]["against"].isna().all()
    margin = smoke.stats.margins.accuracy
    tests: dict[str, list[tuple[float, float]]] = {}  # task -> (p by SciPy, the corrected p of the table)
    for _, row in table.iterrows():
        of_task = tests.setdefault(row["set"].partition(".")[0], [])
        where = {"set": row["set"], "measure": "correct"}
        values = 100 * np.array(changes(rows, smoke, row["variant"], row["rank"], "score.tsv", **where))
        assert row["change"] == pytest.approx(values.mean(), abs=1e-6)
        of_task.append((p_of(values, 0, "two-sided"), row["p_holm"]))
        assert np.isnan(row["against"]) == (row["variant"] in ("2r", "sink"))
        if not np.isnan(row["against"]):
            apart = values - 100 * np.array(changes(rows, smoke, "2r", row["rank"], "score.tsv", **where))
            assert row["against"] == pytest.approx(apart.mean(), abs=1e-6)
            of_task.append((p_of(apart, 0, "two-sided"), row["against_p_holm"]))
            alike = max(p_of(apart, -margin, "greater"), p_of(apart, margin, "less"))
            of_task.append((alike, row["alike_p_holm"]))
    for of_task in tests.values():
        p, corrected = np.array(of_task).T
        known = ~np.isnan(p)
        # a test without a p counts in its family; Holm by statsmodels, with 1 in its place
        expected = multipletests(np.where(known, p, 1.0), method="holm")[1]
        assert corrected[known] == pytest.approx(expected[known], rel=1e-5)
        assert known.sum() >= 10


def p_of(values: Any, against: float, alternative: str) -> float:
    if np.ptp(values) < 1e-9:
        return float("nan")
    return float(scipy_stats.ttest_1samp(values, against, alternative=alternative).pvalue)


def test_training_with_a_sink_stands_beside_the_same_training_without(
    rows: Path, made: dict[str, Table], smoke: Params
) -> None:
    table = frame(made["study_sink_training"])
    assert {*zip(table["base"], table["variant"], strict=True)} == {("as it is", "2r"), ("attention sink", "sink")}
    assert len(table) == 2 * 2 * (smoke.active.model.blocks + 2)
    for variant in ("2r", "sink"):
        line = table[(table["variant"] == variant) & (table["view"] == "2.content.nf4")].iloc[0]
        for measure, key in (("cosine_mean", "cosine"), ("random_cosine_mean", "random"), ("p_at_1.sw_en", "p1")):
            where = {"set": "all", "view": "2.content.nf4", "measure": measure}
            for rank, when in ((0, "before"), (2, "after")):
                values = [of_run(rows, f"s{base}-{variant}", rank, "similarity.tsv", **where) for base in smoke.bases]
                assert line[f"{key}_{when}"] == pytest.approx(np.mean(values), abs=1e-7)
        moved = [line[f"{key}_after"] - line[f"{key}_before"] for key in ("cosine", "random")]
        assert line["excess"] == pytest.approx(moved[0] - moved[1], abs=1e-7)
        assert line["low"] < line["excess"] < line["high"]
    before = frame(made["study_sink"])
    assert before["base"].unique().tolist() == ["as it is", "attention sink"]
    both = before.merge(table, on=["base", "view"], suffixes=("", "_of_training"))
    assert both["cosine"].to_numpy() == pytest.approx(both["cosine_before"].to_numpy(), abs=1e-7)


def test_the_tables_of_one_base_hold_over_several(made: dict[str, Table], smoke: Params) -> None:
    """Those with the items: one row per rank of the reference variant, with the models of every base."""
    models = len(smoke.bases) * len(smoke.sweep.seeds)
    for name in ("study_gap", "study_calibration"):
        table = frame(made[name])
        assert set(table["variant"]) == {"2r"}
        assert set(table[table["rank"] > 0]["models"]) == {models}
    for name in ("study_changes", "study_class_changes"):
        assert {2, 4} <= set(frame(made[name])["rank"])


@pytest.mark.parametrize("effect", [0.0005, 0.05])
def test_a_known_effect_over_five_bases_is_found(tmp_path: Path, effect: float) -> None:
    """Of synthetic rows: cosines gain `effect` a doubling, random pairs half of it; shuffled pairs gain nothing."""
    params = with_keys("*-2r", "*-shuffled", "*-sink", bases=[1, 2, 3, 4, 5])
    made = compute(fabricate_study(tmp_path, params, effect), params)
    trends = frame(made["study_trends"]).set_index("key")
    for key, slope in (("cosine.trained", effect), ("excess.trained", effect / 2)):
        assert trends["slope"][key] == pytest.approx(slope, abs=0.01)
    verdicts = frame(made["study_verdicts"]).set_index("key")
    large = effect > 0.01
    words = {"differs"} if large else {"equivalent", "differs within margin"}
    assert set(verdicts["rank_2r"][["cosine.trained", "cosine.control"]]) <= words
    assert not large or verdicts["place_2r"]["cosine.trained"] == "above"
    assert set(verdicts["stable_2r"]) <= {"stable", "borderline", "-"}
    assert ((verdicts["stable_2r"] == "-") == verdicts["rank_2r"].isin(["undefined", "at chance"])).all()
    summary = pd.concat([frame(made[name]) for name in ("study_robustness", "study_robustness_alignment")])
    assert (summary.set_index("key")["verdict"][verdicts.index] == verdicts["rank_2r"]).all()
    controls = frame(made["study_controls"]).set_index(["control", "view"]).sort_index()
    trained = controls.loc[("as trained", "2.mask.nf4")]
    assert trained["excess"] == pytest.approx(effect, abs=0.005)  # half of two doublings at rank 2
    assert not large or trained["p_holm"] < 0.05
    shuffled = controls.loc[("variant shuffled", "2.mask.nf4")]
    assert shuffled["p_holm"] > 0.05
    assert shuffled["low"] < 0 < shuffled["high"]
    assert frame(made["study_sink_training"])["excess"].to_numpy() == pytest.approx(effect, abs=0.005)


def test_the_same_rows_give_the_same_tables_and_figure(rows: Path) -> None:
    params = with_keys("s1-2r")
    assert compute(rows, params) == compute(rows, params)
    drawn = []
    for _ in range(2):
        with style.context(["default", STYLE]):
            drawing = figure.figure(Results(pd.DataFrame({"stage": []}), {}, {}, {}, study=rows), params)
            assert drawing is not None
            drawn.append((svg(drawing[0]), *drawing[1:]))
    assert drawn[0] == drawn[1]
    assert ElementTree.fromstring(drawn[0][0]).tag.endswith("svg")
    assert "2r is lowest at rank" in drawn[0][2]


def test_a_run_without_a_study_has_no_tables_of_it(tmp_path: Path) -> None:
    params = parameters.load(SMOKE)
    assert params.study == ()
    assert not [name for name, table in compute(tmp_path, params).items() if table.rows]
    results = Results(pd.DataFrame({"stage": []}), {}, {}, {})
    assert figure.figure(results, params) is None


def test_rows_of_other_keys_are_not_read(rows: Path) -> None:
    """The keys are those of params.yaml, whatever stands in the folder."""
    params = with_keys("s1-content")
    table = frame(compute(rows, params)["study_similarity"])
    assert set(table["variant"]) == {"content"}
    assert set(table["bases"]) == {1}


def test_a_missing_key_and_a_missing_seed_are_named(tmp_path: Path) -> None:
    params = with_keys("*-content")
    rows = fabricate_study(tmp_path, params)
    path = rows / "s2-content" / "similarity.tsv"
    text = path.read_text(encoding="utf-8")
    path.write_text("".join(line for line in text.splitlines(True) if not line.startswith("r2-s1")), encoding="utf-8")
    with pytest.raises(UserError, match=r"s2-content/similarity.tsv: no rows of r2-s1, which variants.content lists"):
        compute(rows, params)
    path.unlink()
    with pytest.raises(UserError, match=r"s2-content/similarity.tsv: no such row file; run `dvc repro`"):
        compute(rows, params)


def test_a_variant_is_compared_on_the_bases_that_it_shares_with_the_reference(rows: Path) -> None:
    params = with_keys("s1-2r", "*-shuffled")
    read = study_of(Results(pd.DataFrame({"stage": []}), {}, {}, {}, study=rows), params)
    shuffled, reference = (read.change(name, 2, "xcopa.sw", "-", "accuracy").values for name in ("shuffled", "2r"))
    assert read.against_reference("shuffled", 2, "xcopa.sw", "-", "accuracy") == [shuffled[0] - reference[0]]
    with pytest.raises(UserError, match=r"expected rows of variant 2r, rank 8, .*, got none"):
        read.change("2r", 8, "xcopa.sw", "-", "accuracy")


@pytest.mark.parametrize("kind", ["one of each", "one language", "all right"])
def test_a_tiny_study_gives_defined_cells(tmp_path: Path, kind: str) -> None:
    """One base, one seed, one rank; one language; every answer right: a note, never a crash, NaN or None in a table."""
    tiny = {"sweep__seeds": [0], "variants__2r__ranks": [2]} if kind == "one of each" else {}
    params = with_keys(*(["s1-2r", "s1-shuffled"] if tiny else ["*-2r", "*-shuffled"]), **tiny)
    rows = fabricate_study(tmp_path, params)
    for path in rows.rglob("score.tsv"):
        values = read_rows(path)
        if kind == "one language":
            values = values[values["set"] == "xnli.sw"]
        if kind == "all right":
            values = values.assign(value=values["value"].where(values["measure"] != "correct", 1.0))
        values.to_csv(path, sep="\t", index=False)
    made = compute(rows, params)
    text = json.dumps([[table.text, table.notes] for table in made.values()])
    assert not re.search(r"(?i:\bnan\b|\binf\b)|\bNone\b", text)
    expected = {
        "one of each": "SD needs two values",
        "one language": "no items in en",
        "all right": "every answer is right",
    }
    assert expected[kind] in text
