"""The tables of scores, recomputed from synthetic rows with SciPy and statsmodels; undefined cells; several bases."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import special
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from synthetic import fabricate
from tiny import ROOT
from tli.analysis import render
from tli.analysis.results import Results, read_results, run_name
from tli.analysis.scores import CLASSES, TASKS
from tli.analysis.table import Table
from tli.config import parameters
from tli.config.parameters import Params
from tli.io.errors import UserError
from tli.stages import tables
from tli.stats.bootstrap import paired_bootstrap

SMOKE = parameters.load(ROOT / "tests" / "smoke" / "params.yaml")
SETS = ("xcopa.en", "xcopa.sw", "xnli.en", "xnli.sw")
BY_RANK = ("accuracy_by_rank", "changes", "gap", "calibration", "class_changes")
NAMES = (*BY_RANK, "classes", "baselines", "items")


def read(made: dict[str, Any], params: Params) -> Results:
    return read_results(made["build"], made["metrics"], made["published"], params)


def compute(name: str, results: Results, params: Params) -> Table:
    return tables.compute(name, results, params, lambda *_: None)


def text(table: Table) -> str:
    return render.to_md(table) + render.to_csv(table) + render.to_tex(table)


def sweep(ranks: tuple[int, ...], seeds: tuple[int, ...]) -> Params:
    return SMOKE.model_copy(update={"sweep": SMOKE.sweep.model_copy(update={"ranks": ranks, "seeds": seeds})})


def changed(results: Results, change: Callable[[Any], Any]) -> Results:
    """The same results with another frame of rows."""
    return Results(change(results.frame.copy()), results.metrics, results.published, results.premises)


PARAMS = sweep((2, 4), (0, 1, 2))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Synthetic results, read only."""
    return read(fabricate(tmp_path_factory.mktemp("synthetic"), PARAMS), PARAMS)


@pytest.fixture(scope="module")
def made(results: Results) -> dict[str, Table]:
    return {name: compute(name, results, PARAMS) for name in NAMES}


def values(results: Results, run: str, set_: str, measure: str) -> Any:
    """Item -> value of a run, straight from the frame."""
    frame = results.frame[results.frame["stage"] == "score"]
    chosen = frame[(frame["run"] == run) & (frame["set"] == set_) & (frame["measure"] == measure)]
    return chosen.set_index("item")["value"].astype(float)


def models(results: Results, rank: int, set_: str, measure: str) -> list[Any]:
    """The same of every model of a rank; rank 0 is the base."""
    runs = [run_name(rank, seed) for seed in PARAMS.sweep.seeds] if rank else ["base"]
    return [values(results, run, set_, measure) for run in runs]


def share(results: Results, rank: int, set_: str) -> float:
    return 100 * float(np.mean([right.mean() for right in models(results, rank, set_, "correct")]))


def test_every_number_has_its_key(made: dict[str, Table]) -> None:
    assert set(made["accuracy_by_rank"].values()) >= {
        f"accuracy_by_rank/{row}/accuracy" for row in ("xcopa.sw,base,0", "xcopa.sw,sweep,2", "xnli.en,main,16")
    }
    for key in (
        "changes/xcopa.sw,2/change",
        "gap/xnli,4/english",
        "calibration/xnli.sw,0/ece",
        "class_changes/xcopa.en,first-choice,4/change",
        "classes/xnli.en,neutral/accuracy_after",
        "baselines/xcopa.sw/ceiling",
        "items/xcopa.en,test/items",
    ):
        assert isinstance(made[key.partition("/")[0]].values()[key], int | float), key


def test_captions_are_short_and_notes_name_the_items(made: dict[str, Table]) -> None:
    for name, table in made.items():
        assert len(table.caption.split()) <= 40, name
        assert any("they are not XCOPA and XNLI scores" in note for note in table.notes), name
        assert not re.search(r"(?i:\bnan\b|\binf\b)|\bNone\b", text(table)), name


def test_accuracy_by_rank_is_the_mean_over_seeds_with_exact_mcnemar(results: Results, made: dict[str, Table]) -> None:
    rows = made["accuracy_by_rank"].matching(run="sweep")
    assert len(rows) == len(SETS) * len(PARAMS.sweep.ranks)
    for row in rows:
        set_, start = row["set"], values(results, "base", row["set"], "correct")
        right = models(results, row["rank"], set_, "correct")
        scores = [100 * of_seed.mean() for of_seed in right]
        assert row["accuracy"] == pytest.approx(np.mean(scores))
        assert row["sd"] == pytest.approx(np.std(scores, ddof=1))
        assert row["change"] == pytest.approx(np.mean(scores) - 100 * start.mean())
        p, won, lost = [], 0, 0
        for of_seed in right:
            b, c = int(((start == 1) & (of_seed == 0)).sum()), int(((start == 0) & (of_seed == 1)).sum())
            p += [mcnemar([[0, b], [c, 0]], exact=True).pvalue] if b + c else []
            won, lost = won + c, lost + b
        assert (row["won"], row["lost"], row["n"]) == (won, lost, len(start))
        assert row["p_median"] == pytest.approx(np.median(p))
        assert row["significant"] == sum(value < 0.05 for value in p)


def test_the_accuracy_of_a_single_model_has_wilsons_interval(results: Results, made: dict[str, Table]) -> None:
    rows = [row for row in made["accuracy_by_rank"].rows if row["run"] != "sweep"]
    assert len(rows) == 2 * len(SETS)
    for row in rows:
        right = values(results, row["run"], row["set"], "correct")
        low, high = proportion_confint(right.sum(), len(right), method="wilson")
        assert (row["accuracy"], row["low"], row["high"]) == pytest.approx((100 * right.mean(), 100 * low, 100 * high))


def test_the_interval_of_the_papers_configuration_is_the_bootstrap_over_premises(
    results: Results, made: dict[str, Table]
) -> None:
    table = made["accuracy_by_rank"]
    for row in table.matching(run="main"):
        before, after = (100 * values(results, run, row["set"], "correct").to_numpy() for run in ("base", "main"))
        # Every tenth invented item has the premise of the item before it
        premise = [str(number - (number % 10 == 9)) for number in range(len(before))]
        interval = paired_bootstrap(before, after, draws=200, seed=0, groups=premise)
        assert (row["change_low"], row["change_high"]) == pytest.approx((interval.low, interval.high))
        assert interval != paired_bootstrap(before, after, draws=200, seed=0)
        assert f"{row['set']}: 60 items share 54 premises" in table.notes


def test_gap_and_changes_follow_from_the_rows(results: Results, made: dict[str, Table]) -> None:
    for row in made["gap"].rows:
        task, rank = row["task"], row["rank"]
        assert row["items"] == f"{TASKS[task]}-form"
        start, after = ({code: share(results, r, f"{task}.{code}") for code in ("en", "sw")} for r in (0, rank))
        assert row["english"] == pytest.approx(after["en"] - start["en"], abs=1e-6)
        assert row["gap_before"] == pytest.approx(start["en"] - start["sw"], abs=1e-6)
        assert row["gap"] == pytest.approx(after["en"] - after["sw"], abs=1e-6)
        assert (row["language"], row["worst"], row["models"]) == ("Swahili", row["targets"], 3)
    for row in made["changes"].rows:
        set_, rank = row["set"], row["rank"]
        base = values(results, "base", set_, "correct")
        moved = np.array([right - base for right in models(results, rank, set_, "correct")])
        assert row["change"] == pytest.approx(share(results, rank, set_) - share(results, 0, set_), abs=1e-6)
        assert row["low"] <= row["change"] <= row["high"]
        assert (row["won"], row["lost"]) == pytest.approx((100 * np.mean(moved == 1), 100 * np.mean(moved == -1)))
        margin = [m - values(results, "base", set_, "margin") for m in models(results, rank, set_, "margin")]
        assert row["margin"] == pytest.approx(np.mean(margin))
    assert len(made["gap"].rows) == 4
    assert len(made["changes"].rows) == 8


def test_class_changes_follow_from_the_rows(results: Results, made: dict[str, Table]) -> None:
    for row in made["class_changes"].rows:
        set_, rank = row["set"], row["rank"]
        index = CLASSES[set_.partition(".")[0]].index(row["class"])
        of_class = values(results, "base", set_, "label") == index
        before = values(results, "base", set_, "correct")[of_class]
        right = [model[of_class] for model in models(results, rank, set_, "correct")]
        picked = np.array([model == index for model in models(results, rank, set_, "pred")])
        assert row["n"] == of_class.sum()
        assert row["accuracy"] == pytest.approx(100 * np.mean(right))
        assert row["chosen"] == pytest.approx(100 * np.mean(picked))
        if rank:
            moved = np.array([model - before for model in right])
            assert row["change"] == pytest.approx(100 * np.mean(moved), abs=1e-6)
            assert row["won"] == pytest.approx(100 * np.mean(moved == 1), abs=1e-6)
            assert row["lost"] == pytest.approx(100 * np.mean(moved == -1), abs=1e-6)
    assert len(made["class_changes"].rows) == 10 * 3


def test_calibration_follows_from_the_rows(results: Results, made: dict[str, Table]) -> None:
    for row in made["calibration"].rows:
        set_, rank = row["set"], row["rank"]
        choices = range(len(CLASSES[set_.partition(".")[0]]))
        scores = [models(results, rank, set_, f"loglik.{choice}") for choice in choices]
        p = special.softmax(np.array(scores), axis=0)  # (choices, models, items)
        gold = np.array([label == choice for choice in choices for label in models(results, rank, set_, "label")])
        assert row["brier"] == pytest.approx(((p - gold.reshape(p.shape)) ** 2).sum(axis=0).mean())
        assert row["confidence"] == pytest.approx(p.max(axis=0).mean())
        assert 100 * row["accuracy"] == pytest.approx(share(results, rank, set_), abs=1e-6)
        assert 0 <= row["ece"] <= 1
    assert len(made["calibration"].rows) == len(SETS) * 3


def test_classes_and_baselines_follow_from_the_rows(results: Results, made: dict[str, Table]) -> None:
    for row in made["classes"].rows:
        index = CLASSES[row["set"].partition(".")[0]].index(row["class"])
        of_class = values(results, "base", row["set"], "label") == index
        for when, run in (("before", "base"), ("after", "main")):
            right = values(results, run, row["set"], "correct")
            assert row[f"accuracy_{when}"] == pytest.approx(100 * right[of_class].mean())
            chosen = values(results, run, row["set"], "pred")
            assert row[f"chosen_{when}"] == pytest.approx(100 * (chosen == index).mean())
    baselines = results.frame[results.frame["stage"] == "benchmarks"]
    for row in made["baselines"].rows:
        assert row["chance"] == pytest.approx(100 / len(CLASSES[row["set"].partition(".")[0]]))
        assert row["ceiling"] == 87.5
        for column, run in (("base", "base"), ("main", "main"), ("untrained", "untrained")):
            assert row[column] == pytest.approx(100 * values(results, run, row["set"], "correct").mean())
        for column, run in (("partial", "choice-only"), ("ngram", "ngram")):
            chosen = baselines[(baselines["run"] == run) & (baselines["set"] == row["set"])]
            right = chosen[chosen["measure"] == "correct"]["value"].astype(float)
            assert row[column] == pytest.approx(100 * right.mean())


def test_items_are_the_counts_of_the_stage(results: Results, made: dict[str, Table]) -> None:
    counts = results.metrics["benchmarks"]
    assert [row["set"] for row in made["items"].rows] == list(SETS)
    for row in made["items"].rows:
        assert row["items"] == counts[f"{row['set']}.test.items"] == 60
        assert row["label.0"] == counts[f"{row['set']}.test.label.0"]
        assert "accuracy.ngram" not in row
    assert made["items"].rows[0].get("label.2") is None, "XCOPA has two choices"


def test_an_adapter_that_changes_nothing_gives_defined_cells(results: Results) -> None:
    """lr = 0: every change is 0, McNemar's p is undefined, and nothing is NaN or fails."""

    def unchanged(frame: Any) -> Any:
        scores = frame[frame["stage"] == "score"]
        base = scores[(scores["run"] == "base") & (scores["set"] != "drift")]
        others = frame[(frame["stage"] != "score") | ~frame["run"].isin(runs)]
        return pd.concat([others, *(base.assign(run=run) for run in runs)], ignore_index=True)

    runs = ["main", *(run_name(rank, seed) for rank in PARAMS.sweep.ranks for seed in PARAMS.sweep.seeds)]
    same = changed(results, unchanged)
    for name in NAMES:
        assert not re.search(r"(?i:\bnan\b|\binf\b)|\bNone\b", text(compute(name, same, PARAMS))), name
    for row in same.tables["accuracy_by_rank"].rows:
        if row["run"] != "base":
            assert (row["change"], row["p_median"], row["won"], row["change_low"]) == (0, None, 0, None)
    assert {row["detectable"] for row in same.tables["changes"].rows} == {None}
    assert "no item flips: the smallest detectable effect is undefined" in same.tables["changes"].notes


def test_several_bases_are_the_unit(tmp_path: Path) -> None:
    params = sweep((2, 4), (0, 1))
    bases = []
    for number in range(3):
        made = fabricate(tmp_path / str(number), params, seed=number, pairs=(6, 4), items=20)
        bases.append(changed(read(made, params), lambda frame, number=number: frame.assign(base=number)))
    for name in BY_RANK[1:]:
        module: Any = import_module(f"tli.tables.{name}")
        rows = [*module.rows(bases, params)]
        assert not any("one base" in note for row in rows for note in row.get("note", []))
        assert any("The items are the micro-world's" in note for note in module.notes(bases, params))
        if "models" in rows[0]:
            assert {row["models"] for row in rows} == ({3, 6} if name == "calibration" else {6})
        if name == "class_changes":
            n = sum((values(base, "base", "xnli.sw", "label") == 1).sum() for base in bases)
            assert {row["n"] for row in rows if (row["set"], row["class"]) == ("xnli.sw", "neutral")} == {n}


def without(part: str) -> Callable[[Any], Any]:
    return lambda frame: frame[~frame["set"].str.contains(part, regex=True)]


def all_right(frame: Any) -> Any:
    return frame.assign(value=frame["value"].where(frame["measure"] != "correct", 1.0))


@pytest.mark.parametrize(
    ("ranks", "seeds", "change", "name", "note"),
    [
        ((2,), (1,), None, "changes", "one base"),
        ((2, 4), (0, 1), all_right, "changes", "no item flips"),
        ((2, 4), (0, 1), all_right, "class_changes", "no change varies"),
        ((2, 4), (0, 1), without(r"\.en$"), "gap", "no items in en"),
        ((2, 4), (0, 1), without(r"\.sw$"), "gap", "no target language"),
        ((2, 4), (0, 1), without("xnli"), "gap", "one target language: the worst is the mean"),
    ],
)
def test_what_is_undefined_is_an_empty_cell_and_a_note(
    tmp_path: Path,
    ranks: tuple[int, ...],
    seeds: tuple[int, ...],
    change: Callable[[Any], Any] | None,
    name: str,
    note: str,
) -> None:
    params = sweep(ranks, seeds)
    results = read(fabricate(tmp_path, params, pairs=(6, 4), items=8), params)
    results = results if change is None else changed(results, change)
    for table in (compute(other, results, params) for other in NAMES):
        assert not re.search(r"(?i:\bnan\b|\binf\b)|\bNone\b", text(table)), table.name
    assert any(note in line for line in results.tables[name].notes)
    if len(seeds) == 1:
        assert {row["change_sd"] for row in results.tables["accuracy_by_rank"].matching(run="sweep")} == {None}


def test_without_benchmarks_there_are_no_rows(results: Results) -> None:
    unscored = changed(results, lambda frame: frame[~frame["stage"].isin(["score", "benchmarks", "translate"])])
    empty = Results(unscored.frame, {**results.metrics, "benchmarks": {}}, results.published, {})
    for name in (*NAMES, "translation"):
        assert not compute(name, empty, PARAMS).rows, name


@pytest.mark.parametrize("name", ["accuracy_by_rank", "changes"])
def test_a_run_on_other_items_is_refused(results: Results, name: str) -> None:
    def fewer(frame: Any) -> Any:
        return frame[~((frame["run"] == "r4-s1") & (frame["item"] == "xcopa.sw.test.0003"))]

    with pytest.raises(UserError, match=r"rows of the stage score: expected the base's items, 1 differ"):
        compute(name, changed(results, fewer), PARAMS)


def test_a_corrected_set_replaces_only_the_items_asked_again(results: Results) -> None:
    again = [f"xcopa.sw.test.{number:04}" for number in range(10)]

    def corrected(frame: Any) -> Any:
        extra = frame[frame["item"].isin(again) & (frame["stage"] == "score") & (frame["run"] != "untrained")]
        extra = extra.assign(set="xcopa-corrected.sw")
        extra.loc[extra["measure"] == "correct", "value"] = 1.0
        return pd.concat([frame, extra], ignore_index=True)

    both = changed(results, corrected)
    table = compute("accuracy_by_rank", both, PARAMS)
    for run in ("base", "main"):
        right = values(results, run, "xcopa.sw", "correct").to_dict()
        expected = np.mean([1.0 if item in again else value for item, value in right.items()])
        assert table.number("accuracy", set="xcopa-corrected.sw", run=run) == pytest.approx(100 * expected)
    assert {row["version"] for row in table.matching(set="xcopa-corrected.sw")} == {"corrected"}
    assert {row["set"] for row in compute("changes", both, PARAMS).rows} == set(SETS), "the released questions alone"
