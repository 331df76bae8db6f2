"""Sets of the benchmarks at chance, and sets that were scored at some ranks of the sweep only."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from statsmodels.stats.proportion import proportion_confint

from synthetic import fabricate, fabricate_study
from tiny import ROOT
from tli.analysis import robustness
from tli.analysis.outcomes import by_item
from tli.analysis.results import Results, Rows, read_results, run_name
from tli.analysis.scores import AT_CHANCE, CHANCE_NOTE, at_chance, scores_of
from tli.analysis.study import study_of
from tli.analysis.table import Table
from tli.commands import summary
from tli.commands.export_results import results as exported
from tli.config import parameters, study
from tli.config.parameters import Params
from tli.figures import plots
from tli.figures import ranks as figure
from tli.figures import study as study_figure
from tli.io.rows import read_rows
from tli.report.page_data import curves
from tli.stages import tables
from tli.verify import conclusions
from tli.verify.headline import headline_values

SMOKE = parameters.load(ROOT / "tests" / "smoke" / "params.yaml")
BY_RANK = ("changes", "gap", "calibration", "class_changes")
TESTED = ("robustness", "trends", "equivalence", "odds")
SCORES = ("accuracy_by_rank", *BY_RANK, *TESTED, "classes", "baselines")
P_VALUES = ("p", "p_holm", "span_p_holm", "any_p_holm", "doubling_p_holm", "against_p_holm", "alike_p_holm")
RANKS = (2, 4, 8)
PARAMS = SMOKE.model_copy(update={"sweep": SMOKE.sweep.model_copy(update={"ranks": RANKS, "seeds": (0, 1, 2)})})
Change = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Synthetic results, read only; no set is at chance."""
    made = fabricate(tmp_path_factory.mktemp("synthetic"), PARAMS, pairs=(8, 4))
    return read_results(made["build"], made["metrics"], made["published"], PARAMS)


def changed(results: Results, *changes: Change) -> Results:
    """The same results with another frame of rows."""
    frame = results.frame.copy()
    for change in changes:
        frame = change(frame)
    return Results(frame, results.metrics, results.published, results.premises)


def compute(results: Results, *names: str) -> dict[str, Table]:
    return {name: tables.compute(name, results, PARAMS, lambda *_: None) for name in names}


@pytest.fixture(scope="module")
def made(results: Results) -> dict[str, Table]:
    return compute(changed(results), *SCORES)


def guessing(set_: str, *runs: str, share: int = 3) -> Change:
    """Every third answer of these runs is right, by default those of the base: chance, of three choices."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        chosen = (frame["set"] == set_) & (frame["measure"] == "correct") & frame["run"].isin(runs or ("base",))
        number = frame.loc[chosen, "item"].str[-4:].astype(int)
        return frame.assign(value=frame["value"].mask(chosen, (number % share == 0).astype(float)))

    return change


def without_runs(set_: str, *, ranks: tuple[int, ...] = RANKS, seeds: tuple[int, ...] = (0, 1, 2)) -> Change:
    """Without the scores of these runs of the sweep on a set."""
    runs = [run_name(rank, seed) for rank in ranks for seed in seeds]
    return lambda frame: frame[(frame["set"] != set_) | ~frame["run"].isin(runs)]


def with_french(results: Results, *changes: Change) -> Results:
    """A third language of the XNLI-form items: the rows of Swahili under another name."""

    def french(text: str) -> str:
        return text.replace("xnli.sw", "xnli.fr")

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        rows = frame[frame["set"] == "xnli.sw"]
        return pd.concat([frame, rows.assign(set="xnli.fr", item=rows["item"].map(french))], ignore_index=True)

    counts = results.metrics["benchmarks"]
    counts = counts | {french(key): value for key, value in counts.items() if key.startswith("xnli.sw")}
    premises = {french(item): text for item, text in results.premises["xnli.sw"].items()}
    more = Results(
        results.frame,
        {**results.metrics, "benchmarks": counts},
        results.published,
        {**results.premises, "xnli.fr": premises},
    )
    return changed(more, change, *changes)


def texts(table: Table) -> str:
    return json.dumps([table.text, table.notes])


@pytest.fixture(scope="module")
def guessed(results: Results) -> dict[str, Table]:
    """The tables where the base guesses on the XNLI-form items in Swahili; every adapter answers well."""
    return compute(changed(results, guessing("xnli.sw")), *SCORES)


ADAPTERS = ("main", *(run_name(rank, seed) for rank in RANKS for seed in (0, 1, 2)))
LOSS = guessing("xnli.en", *ADAPTERS, share=10)  # of English, so that a test of the family has a small p


@pytest.mark.parametrize("name", SCORES)
def test_a_set_at_chance_is_marked_in_every_table(made: dict[str, Table], guessed: dict[str, Table], name: str) -> None:
    table, plain = guessed[name], made[name]
    assert AT_CHANCE not in texts(plain)
    assert table.notes.count(CHANCE_NOTE) == 1
    assert [table.row_name(row) for row in table.rows] == [plain.row_name(row) for row in plain.rows], "ids stay"
    for row in table.rows:
        set_ = row.get("set", row.get("key"))
        shown = str(row.get("language" if "set" in row else "outcome"))
        if name != "gap":
            assert shown.endswith(", at chance") == (set_ == "xnli.sw"), row


@pytest.mark.parametrize("name", TESTED)
def test_a_set_at_chance_is_described_but_not_tested(guessed: dict[str, Table], name: str) -> None:
    (row,) = guessed[name].matching(key="xnli.sw")
    assert row.get("verdict", AT_CHANCE) == AT_CHANCE
    assert {row.get(key) for key in P_VALUES} == {None}
    assert row.get("detectable") is None
    numbers = {"robustness": "change", "trends": "slope", "equivalence": "span", "odds": "any"}
    assert isinstance(row[numbers[name]], float)


def test_the_others_are_tested_as_if_it_were_absent(results: Results) -> None:
    """Holm does not count its tests."""
    guessed = compute(changed(results, LOSS, guessing("xnli.sw")), *TESTED)
    absent = compute(changed(results, LOSS, lambda frame: frame[frame["set"] != "xnli.sw"]), *TESTED)
    tested = compute(changed(results, LOSS), *TESTED)
    for name in TESTED:
        others = [row for row in guessed[name].rows if row["key"] != "xnli.sw"]
        assert others == [*absent[name].rows]
        if name in ("robustness", "odds"):
            assert others != [row for row in tested[name].rows if row["key"] != "xnli.sw"], "a tested set counts"


def test_chance_is_the_base_s_and_not_the_adapters(results: Results) -> None:
    """Adapters that guess where the base does not have lost: that has a verdict."""
    after = compute(changed(results, guessing("xnli.sw", *ADAPTERS)), *SCORES)
    for name in SCORES:
        assert AT_CHANCE not in texts(after[name]), name
    (row,) = after["robustness"].matching(key="xnli.sw")
    assert row["change"] is not None
    assert float(str(row["change"])) < -20
    assert row["p_holm"] is not None
    untrained = compute(changed(results, guessing("xnli.sw", "untrained")), "baselines")["baselines"]
    assert AT_CHANCE not in texts(untrained)


@pytest.mark.parametrize("right", range(0, 61, 3))
@pytest.mark.parametrize("set_", ["xcopa.sw", "xnli.sw"])
def test_chance_is_inside_wilsons_interval(set_: str, right: int) -> None:
    low, high = proportion_confint(right, 60, method="wilson")
    chance = 1 / 2 if set_.startswith("xcopa") else 1 / 3
    assert at_chance([answers(set_, right, 60)], set_, PARAMS) == (low <= chance <= high)


def answers(set_: str, right: int, items: int) -> Rows:
    lines = [("base", set_, f"{set_}.test.{n:04d}", "-", "correct", float(n < right)) for n in range(items)]
    return Rows(pd.DataFrame(lines, columns=["run", "set", "item", "view", "measure", "value"]), "score")


def test_the_items_of_several_bases_are_pooled() -> None:
    one = answers("xcopa.sw", 34, 60)
    assert at_chance([one], "xcopa.sw", PARAMS)
    assert not at_chance([one] * 5, "xcopa.sw", PARAMS), "170 of 300 are above chance"
    apart = [answers("xcopa.sw", right, 60) for right in (45, 15)]
    assert not any(at_chance([base], "xcopa.sw", PARAMS) for base in apart)
    assert at_chance(apart, "xcopa.sw", PARAMS)


def test_a_corrected_set_is_judged_by_its_own_answers(results: Results) -> None:
    again = [f"xcopa.sw.test.{number:04}" for number in range(40)]

    def corrected(frame: pd.DataFrame) -> pd.DataFrame:
        extra = frame[frame["item"].isin(again) & (frame["stage"] == "score") & (frame["run"] != "untrained")]
        return pd.concat([frame, extra.assign(set="xcopa-corrected.sw")], ignore_index=True)

    both = changed(results, corrected, guessing("xcopa-corrected.sw", share=2))
    table = compute(both, "accuracy_by_rank")["accuracy_by_rank"]
    marked = {row["set"] for row in table.rows if str(row["language"]).endswith(AT_CHANCE)}
    assert marked == {"xcopa-corrected.sw"}
    assert at_chance(scores_of(both), "xcopa-corrected.sw", PARAMS)


def test_tests_of_single_models_are_blank_too(guessed: dict[str, Table]) -> None:
    for row in guessed["accuracy_by_rank"].rows:
        if row["run"] != "base":
            assert (row["p_median"] is None and row["significant"] is None) == (row["set"] == "xnli.sw")
            assert isinstance(row["change"], float)
    assert {row["detectable"] for row in guessed["changes"].matching(set="xnli.sw")} == {None}


def test_sentences_give_no_verdict_at_chance(results: Results, guessed: dict[str, Table]) -> None:
    first, *others = guessed["robustness"].notes
    assert first.startswith("Of 4 outcomes, mean of the ranks against rank 0: ")
    assert first.endswith("; at chance: no loss could show in 1")
    words = re.findall(r"\d+", first.partition("verdict on the rank: ")[2].rpartition(";")[0])
    assert sum(map(int, words)) == 3
    assert "XNLI-form, Swahili, at chance: no loss could show." in others
    assert len([note for note in others if "Swahili, at chance" in note and note.endswith("no loss could show.")]) == 1
    nothing = changed(results, *(guessing(f"{task}.{code}", share=n) for task, n in CHOICES for code in ("en", "sw")))
    effects = robustness.of_scores(nothing, PARAMS)
    assert robustness.counted(effects, PARAMS) == "Of 4 outcomes, at chance: no loss could show in 4"


CHOICES = (("xcopa", 2), ("xnli", 3))


def test_summary_headline_and_plots_mark_it(guessed: dict[str, Table], made: dict[str, Table], tmp_path: Path) -> None:
    lines = [content for _, content in [*summary._scores(guessed), *summary._rank(guessed)]]
    assert any("Swahili, at chance " in line and line.startswith("XNLI-form") for line in lines)
    assert "at chance: no loss could show in 1" in lines
    assert headline_values(guessed, PARAMS)["at_chance"] == "xnli.sw"
    assert "at_chance" not in headline_values(made, PARAMS)
    assert "XNLI-form, Swahili, at chance" in curves(guessed["changes"])
    assert "XNLI-form, Swahili, at chance" in {point[1] for point in plots.score(guessed["changes"])}


def test_a_conclusion_on_it_is_at_chance(guessed: dict[str, Table], made: dict[str, Table]) -> None:
    conclusion = conclusions.Conclusion("rank", ("robustness/xnli.sw/span",), 2.0, "", False)
    assert conclusions.value_of(conclusion, guessed["robustness"].values(), PARAMS) == (None, AT_CHANCE)
    assert conclusions.value_of(conclusion, made["robustness"].values(), PARAMS)[1] != AT_CHANCE
    other = conclusion._replace(keys=("robustness/xnli.en/span",))
    assert isinstance(conclusions.value_of(other, guessed["robustness"].values(), PARAMS)[0], float)


def drawn(results: Results) -> tuple[dict[str, list[list[float]]], str]:
    """Title -> the places of each curve of its panel, and the caption of the figure `ranks`."""
    compute(results, "changes")
    made = figure.figure(results, PARAMS)
    assert made is not None
    canvas, caption, _ = made
    panels = {
        axes.get_title(): [[round(float(x), 2) for x in line.get_xdata()] for line in axes.lines]
        for axes in canvas.axes
        if axes.get_visible()
    }
    plt.close(canvas)
    return panels, caption


def test_the_figure_marks_it(results: Results) -> None:
    panels, caption = drawn(changed(results, guessing("xnli.sw")))
    assert [title for title in panels if AT_CHANCE in title] == ["XNLI-form, Swahili, at chance"]
    assert caption.endswith("At chance: no loss could show.")
    assert AT_CHANCE not in str(drawn(changed(results)))


def losing(set_: str) -> Change:
    """Every adapter answers each item wrongly."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        swept = frame["run"].str.fullmatch(r"r\d+-s\d+")
        chosen = (frame["set"] == set_) & (frame["measure"] == "correct") & swept
        return frame.assign(value=frame["value"].mask(chosen, 0.0))

    return change


def test_the_worst_language_is_not_one_at_chance_unless_all_are(results: Results) -> None:
    lost = compute(with_french(results, losing("xnli.sw")), "gap")["gap"]
    assert {row["language"] for row in lost.matching(task="xnli")} == {"Swahili"}
    some = compute(with_french(results, losing("xnli.sw"), guessing("xnli.sw")), "gap")["gap"]
    changes = compute(with_french(results), "changes")["changes"]
    for row in some.matching(task="xnli"):
        assert row["language"] == "French"
        assert row["worst"] == pytest.approx(changes.number("change", set="xnli.fr", rank=row["rank"]))
        assert row["targets"] < row["worst"], "the mean of the targets holds every language"
    assert "XNLI-form, at chance: 1 of 2 target languages (Swahili)" in some.notes
    guesses = (guessing("xnli.sw"), guessing("xnli.fr"), guessing("xnli.en"))
    every = compute(with_french(results, losing("xnli.sw"), *guesses), "gap")["gap"]
    assert {row["language"] for row in every.matching(task="xnli")} == {"Swahili, at chance"}
    assert "XNLI-form, at chance: English and 2 of 2 target languages (Swahili, French)" in every.notes
    assert every.notes.count(CHANCE_NOTE) == 1


def test_a_set_that_the_sweep_was_not_scored_on(results: Results, made: dict[str, Table]) -> None:
    unswept = changed(results, without_runs("xnli.sw"))
    table = compute(unswept, *SCORES)
    runs = [row["run"] for row in table["accuracy_by_rank"].matching(set="xnli.sw")]
    assert runs == ["base", "main"]
    for name in ("accuracy_by_rank", "classes", "baselines"):
        plain = [row for row in made[name].rows if row["set"] != "xnli.sw" or row.get("run") != "sweep"]
        assert [*table[name].rows] == plain, name
    for name in ("changes", "calibration", "class_changes"):
        assert [*table[name].rows] == [row for row in made[name].rows if row["set"] != "xnli.sw"], name
    for name in TESTED:
        assert "xnli.sw" not in {row["key"] for row in table[name].rows}
        assert "no verdict over the ranks: XNLI-form, Swahili (scored at no rank of the sweep)" in table[name].notes
    for row in table["gap"].matching(task="xnli"):
        filled = {key for key, value in row.items() if value is not None}
        assert filled == {"task", "items", "rank", "models", "english", "english_sd"}
        assert row["english"] == made["gap"].number("english", task="xnli", rank=row["rank"])
        assert row["models"] == 3
    assert [*table["gap"].matching(task="xcopa")] == [*made["gap"].matching(task="xcopa")]
    panels, _ = drawn(changed(results, without_runs("xnli.sw")))
    assert [*panels] == ["XCOPA-form, English", "XCOPA-form, Swahili", "XNLI-form, English"]
    for name in SCORES:
        assert not re.search(r"(?i:\bnan\b|\binf\b)|\bNone\b", texts(table[name])), name


def test_a_mark_without_a_row_has_no_note(results: Results) -> None:
    """A set at chance that a table does not show leaves no note there."""
    table = compute(changed(results, guessing("xnli.sw"), without_runs("xnli.sw")), *SCORES)
    for name in SCORES:
        shown = name in ("accuracy_by_rank", "classes", "baselines")
        assert table[name].notes.count(CHANCE_NOTE) == shown, name


def test_a_set_at_two_ranks(results: Results, made: dict[str, Table]) -> None:
    table = compute(changed(results, without_runs("xnli.sw", ranks=(4,))), *SCORES)
    ranks = [row["rank"] for row in table["accuracy_by_rank"].matching(set="xnli.sw", run="sweep")]
    assert ranks == [2, 8]
    for name in ("accuracy_by_rank", "changes", "calibration", "class_changes"):
        kept = [row for row in made[name].rows if (row["set"], row["rank"]) != ("xnli.sw", 4)]
        assert [*table[name].rows] == kept, name
    for name in TESTED:
        assert [row["key"] for row in table[name].rows if "xnli" in str(row["key"])] == ["xnli.en"]
        assert "no verdict over the ranks: XNLI-form, Swahili (scored at ranks 2 and 8 only)" in table[name].notes
        assert AT_CHANCE not in texts(table[name])
    for row in table["gap"].matching(task="xnli"):
        (plain,) = made["gap"].matching(task="xnli", rank=row["rank"])
        if row["rank"] == 4:
            assert (row["english"], row["models"]) == (plain["english"], 3)
            assert {row[key] for key in ("targets", "worst", "language", "gap", "gap_before", "margin")} == {None}
        else:
            assert row == plain
    assert "XNLI-form, Swahili: scored at ranks 2 and 8 only" in table["gap"].notes
    panels, _ = drawn(changed(results, without_runs("xnli.sw", ranks=(4,))))
    assert panels["XNLI-form, Swahili"][-1] == [0, 2], "the places of ranks 2 and 8"
    assert panels["XNLI-form, English"][-1] == [0, 1, 2]


def test_a_set_at_one_rank_says_so(results: Results) -> None:
    table = compute(changed(results, without_runs("xnli.sw", ranks=(2, 8))), "robustness")["robustness"]
    assert "no verdict over the ranks: XNLI-form, Swahili (scored at rank 4 only)" in table.notes


def test_fewer_seeds_are_as_many_models(results: Results, made: dict[str, Table]) -> None:
    """English with two of three seeds at every rank, Swahili with all: each number is over the models that have it."""
    fewer = changed(results, without_runs("xnli.en", seeds=(1,)))
    table = compute(fewer, *SCORES)
    for name in SCORES:
        key = "key" if name in TESTED else "task" if name == "gap" else "set"
        assert {row[key] for row in table[name].rows} == {row[key] for row in made[name].rows}, name
    swept = table["accuracy_by_rank"].matching(run="sweep")
    assert {(row["set"], row["seeds"]) for row in swept if row["set"].startswith("xnli")} == {
        ("xnli.en", 2),
        ("xnli.sw", 3),
    }
    models = {row["models"] for row in table["calibration"].rows if row["set"] == "xnli.en" and row["rank"]}
    assert models == {2}
    assert [row["cells"] for row in table["odds"].matching(key="xnli.en")] == [1 + 2 * len(RANKS)]
    right = by_item(fewer, "xnli.en", "correct", PARAMS)
    assert {key[1] for key in right.tuned} == {0, 2}
    for row in table["gap"].matching(task="xnli"):
        before = right.start[0].mean()
        english = [100 * float(x.mean() - before) for key, x in right.tuned.items() if key[2] == row["rank"]]
        assert row["english"] == pytest.approx(np.mean(english))
        assert row["targets"] == made["gap"].number("targets", task="xnli", rank=row["rank"])
        assert row["models"] == 3
    assert any(note.startswith("models: those scored in any language") for note in table["gap"].notes)
    assert not any(note.startswith("models: those scored") for note in made["gap"].notes)
    assert "2 to 3 seeds" in drawn(fewer)[1]


def test_a_run_is_exported_with_the_sets_it_was_scored_on(results: Results) -> None:
    rows = changed(results, without_runs("xnli.sw", ranks=(4,))).of("score")
    counts = results.metrics["benchmarks"]
    names = {run: {*exported(rows, run, counts, PARAMS)["results"]} for run in ("main", "r4-s0")}
    assert names["main"] - names["r4-s0"] == {"micro_world_xnli_form_sw"}


STUDY_TESTED = tuple(f"study_{name}" for name in TESTED)
STUDY_SCORES = (*STUDY_TESTED, "study_scores", "study_verdicts", *(f"study_{name}" for name in BY_RANK))


def study_params() -> Params:
    keys = study.keys(parameters.load(ROOT / "tests" / "smoke" / "params.yaml"), ("*-2r", "*-shuffled"))
    return parameters.load(ROOT / "tests" / "smoke" / "params.yaml", {"study": list(map(str, keys))})


def compute_study(folder: Path, params: Params, *names: str) -> dict[str, Table]:
    results = Results(pd.DataFrame({"stage": []}), {}, {}, {}, study=folder)
    return {name: tables.compute(name, results, params, lambda *_: None) for name in names}


def rewrite(folder: Path, *changes: Change) -> None:
    for path in folder.rglob("score.tsv"):
        rows = read_rows(path)
        for change in changes:
            rows = change(rows)
        rows.to_csv(path, sep="\t", index=False)


def test_a_set_at_chance_in_the_study(tmp_path: Path) -> None:
    params = study_params()
    folder = fabricate_study(tmp_path / "guessed", params)
    rewrite(folder, LOSS, guessing("xnli.sw"))
    made = compute_study(folder, params, *STUDY_SCORES)
    rewrite(fabricate_study(tmp_path / "absent", params), LOSS, lambda rows: rows[rows["set"] != "xnli.sw"])
    absent = compute_study(tmp_path / "absent", params, *STUDY_SCORES)
    for name in (*STUDY_TESTED, "study_scores"):
        key, shown = ("set", "items") if name == "study_scores" else ("key", "outcome")
        chance = [row for row in made[name].rows if row[key] == "xnli.sw"]
        assert chance
        for row in chance:
            assert row[shown] == "XNLI-form, Swahili, at chance"
            assert row.get("verdict", AT_CHANCE) == AT_CHANCE
            assert {row.get(p) for p in P_VALUES} == {None}
        assert [row for row in made[name].rows if row[key] != "xnli.sw"] == [*absent[name].rows], name
    (verdicts,) = made["study_verdicts"].matching(key="xnli.sw")
    assert (verdicts["place_2r"], verdicts["rank_2r"]) == (AT_CHANCE, AT_CHANCE)
    for name in STUDY_SCORES:
        assert sum(note.endswith(CHANCE_NOTE) for note in made[name].notes) == 1, name
        assert AT_CHANCE in texts(made[name])
        assert AT_CHANCE not in texts(absent[name])
    drawing = study_figure.figure(Results(pd.DataFrame({"stage": []}), {}, {}, {}, study=folder), params)
    assert drawing is not None
    assert "XNLI-form, Swahili, at chance" in [axes.get_title() for axes in drawing[0].axes]
    plt.close(drawing[0])


def test_a_set_at_some_ranks_of_the_study(tmp_path: Path) -> None:
    params = study_params()
    full = compute_study(fabricate_study(tmp_path, params), params, *STUDY_SCORES)
    rewrite(tmp_path, without_runs("xnli.sw", ranks=(4,)))
    made = compute_study(tmp_path, params, *STUDY_SCORES)
    for name in STUDY_TESTED:
        assert "xnli.sw" not in {row["key"] for row in made[name].rows}
        assert "2r: no verdict over the ranks: XNLI-form, Swahili (scored at rank 2 only)" in made[name].notes
    wanted = [table.row_name(row) for table in [full["study_scores"]] for row in table.rows]
    wanted.remove("2r,4,xnli.sw")
    assert [made["study_scores"].row_name(row) for row in made["study_scores"].rows] == wanted
    assert {row["rank"] for row in made["study_changes"].matching(set="xnli.sw")} == {2}
    results = Results(pd.DataFrame({"stage": []}), {}, {}, {}, study=tmp_path)
    assert study_of(results, params).ranks("2r", "xnli.sw") == [2]
    drawing = study_figure.figure(results, params)
    assert drawing is not None
    plt.close(drawing[0])
