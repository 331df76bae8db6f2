"""`verify`: kinds and tolerances, conclusions, the exit status, what was published, and one run against another."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cells import with_cells
from synthetic import fabricate, named, verdict_files
from tli.analysis import tolerances
from tli.analysis.cells import Cells, Counts, TableCell
from tli.analysis.render import ModelTables, read_model, write_model
from tli.analysis.results import Measured, Results, load_yaml, read_results
from tli.analysis.table import Cell
from tli.analysis.tolerances import Tolerances
from tli.cli import main
from tli.config import parameters
from tli.config.parameters import Params
from tli.io.errors import UserError
from tli.io.structured import read_json, write_json
from tli.stages import tables, verify
from tli.verify import conclusions, expected, judge
from tli.verify.conclusions import Conclusion
from tli.verify.expected import Expected
from tli.verify.judge import AGREES, DIFFERS, NONE, NOT_JUDGED, Judged, Rules

ROOT = Path(__file__).resolve().parents[2]
FILES = verdict_files(ROOT)
SMOKE = ROOT / "tests" / "smoke" / "params.yaml"
COMMITTED = sorted((ROOT / "results").glob("*/tables.json"))
GAIN = "before_after/run,2.mask.nf4,trained/gain"
NEIGHBOUR = "gains/run,2.mask.fp4/random_trained"  # of a large kind, in no conclusion


@pytest.fixture(scope="module")
def smoke() -> Params:
    """The smallest parameters, under the name of the model that every conclusion lists."""
    return named(parameters.load(SMOKE), "microworld")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, smoke: Params) -> dict[str, Any]:
    """A synthetic run: the arguments of its stage `tables`, which has run."""
    arguments = fabricate(tmp_path_factory.mktemp("run"), smoke)
    tables.run(**arguments)
    return arguments


@pytest.fixture(scope="module")
def run(made: dict[str, Any]) -> ModelTables:
    """The tables of the synthetic run."""
    return read_model(made["out"])


@pytest.fixture(scope="module")
def cells(run: ModelTables) -> Cells:
    return Cells(run.tables)


@pytest.fixture(scope="module")
def values(cells: Cells) -> Measured:
    return cells.values


@pytest.fixture(scope="module")
def under(run: ModelTables, smoke: Params) -> Measured:
    """The settings of the synthetic run."""
    return expected.settings(smoke, run.pairs_sha256)


@pytest.fixture(scope="module")
def recorded(run: ModelTables, under: Measured) -> Expected:
    """The synthetic run as it would be recorded."""
    return Expected("microworld", under, {expected.PARAMETERS: expected.digest(under)}, run.tables)


@pytest.fixture(scope="module")
def floors() -> Tolerances:
    """The committed measures without any drift: tolerances at their floors."""
    return Tolerances(tolerances.load(FILES.tolerances).measures, {})


@pytest.fixture(scope="module")
def rules(smoke: Params, floors: Tolerances) -> Rules:
    return judge.rules(FILES.tolerances, FILES.conclusions, FILES.reported, smoke)._replace(tolerances=floors)


@pytest.fixture(scope="module")
def real() -> Params:
    """The committed params.yaml."""
    return parameters.load(ROOT / "params.yaml")


@pytest.fixture(scope="module")
def judged(under: Measured, recorded: Expected, rules: Rules, smoke: Params) -> Callable[..., Judged]:
    """Judges values against the recorded run; `changes` are keyword arguments of judge.judge."""

    def call(values: Measured, **changes: Any) -> Judged:
        arguments = {"settings": under, "recorded": recorded, "chosen": rules, "params": smoke} | changes
        return judge.judge(values, **arguments)

    return call


def change(params: Params, section: str, **updates: Any) -> Params:
    return params.model_copy(update={section: getattr(params, section).model_copy(update=updates)})


def verdicts(judged: Judged) -> dict[str, str]:
    return {check.key: check.verdict for check in judged.checks}


# Kinds and tolerances


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_every_committed_cell_is_of_one_kind(path: Path, floors: Tolerances, real: Params) -> None:
    for cell in Cells(read_model(path).tables).by_key.values():
        assert floors.kind(cell, real)


def test_every_synthetic_cell_is_of_one_kind(cells: Cells, floors: Tolerances, smoke: Params) -> None:
    kinds = {floors.kind(cell, smoke) for cell in cells.by_key.values()}
    assert {"cosines, before training, early", "cosines, after training, deep", "exact values"} <= kinds


def test_every_pattern_has_a_cell(cells: Cells, floors: Tolerances) -> None:
    patterns = [pattern for measure in floors.measures.values() for pattern in measure.keys]
    unused = [pattern.pattern for pattern in patterns if not any(map(pattern.fullmatch, cells.by_key))]
    assert not unused


def test_a_key_that_two_patterns_match_is_one_line(cells: Cells, floors: Tolerances, smoke: Params) -> None:
    again = floors.measures["geometry"]._replace(name="again", columns=())
    key = "geometry/2.mask.nf4/cka_after"
    with pytest.raises(UserError, match=r"expected one measure for the key geometry/.*, got geometry, again"):
        Tolerances(floors.measures | {"again": again}, {}).kind(cells.by_key[key], smoke)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("scan/0.mask.nf4/cosine", "cosines, before training, early"),
        ("scan/3.mask.nf4/cosine", "cosines, before training, early"),
        ("scan/4.mask.nf4/cosine", "cosines, before training, deep"),
        ("scan/norm.mask.nf4/cosine", "cosines, before training, deep"),
        ("scan/0.mask.nf4/published", "exact values"),
        ("before_after/run,2.mask.nf4,trained/before", "cosines, before training, early"),
        ("before_after/run,2.mask.nf4,trained/before_sd", "cosines, before training, early"),
        ("before_after/run,2.mask.nf4,trained/after", "cosines, after training, early"),
        ("before_after/run,2.mask.nf4,trained/decreased", "retrieval, after training, early"),
        ("before_after/run,2.mask.nf4,trained/p", "extremes and p"),
        ("before_after/published,2.content.fp4,trained/gain", "exact values"),
        ("before_after/run-in-bfloat16,2.content.fp4,trained/gain", "extremes and p"),
        ("controls/2.mask.nf4,trained,cosine/excess", "cosines, after training, early"),
        ("norms/norm.-.nf4/bos_norm_after", "magnitudes, after training, deep"),
        ("norms/norm.-.nf4/dimension_after", "extremes and p"),
        ("geometry/4.mask.nf4/cka_after", "geometry, after training, deep"),
        ("geometry/4.mask.nf4/participation_sw_before", "magnitudes, before training, deep"),
        ("projection/2.mask.nf4,PCA/ratio_after", "statistics, after training, early"),
        ("projection/2.mask.nf4,t-SNE/ratio_after", "extremes and p"),
        ("adapter/1,q_proj/norm_b", "magnitudes, after training, early"),
        ("setup/train.loss_last/here", "cosines, after training, early"),
        ("setup/peak_layer/here", "extremes and p"),
        ("setup/lr/here", "exact values"),
        ("ranks/2.mask.nf4,0/trained", "cosines, before training, early"),
        ("ranks/norm.content.nf4,2/trained", "cosines, after training, deep"),
        ("translation/0,sum/rank_after", "statistics, after training, deep"),
        ("accuracy_by_rank/xcopa.sw,base,0/accuracy", "scores, before training, deep"),
        ("accuracy_by_rank/xcopa.sw,main,16/won", "scores, after training, deep"),
        ("calibration/xcopa.sw,2/accuracy", "scores, after training, deep"),
        ("calibration/xcopa.sw,2/ece", "extremes and p"),
        ("calibration/xcopa.sw,0/brier", "probabilities, before training, deep"),
        ("classes/xnli.sw,entailment/accuracy_after", "scores, after training, deep"),
        ("baselines/xnli.sw/untrained", "scores, before training, deep"),
        ("baselines/xnli.sw/main", "scores, after training, deep"),
        ("baselines/xnli.sw/ngram", "exact values"),
        ("robustness/xcopa.sw/start", "scores, before training, deep"),
        ("robustness/xcopa.sw/change", "scores, after training, deep"),
        ("robustness_alignment/p1.sw_en/span", "retrieval, after training, early"),
        ("robustness_alignment/excess.control/span", "cosines, after training, early"),
        ("robustness_alignment/excess.control/worst_change", "extremes and p"),
        ("equivalence/cosine.trained/span", "cosines, after training, early"),
        ("equivalence/p1.sw_en/span", "retrieval, after training, early"),
        ("equivalence/xcopa.sw/span", "scores, after training, deep"),
        ("equivalence/xcopa.sw/margin", "exact values"),
        ("trends/cosine.trained/slope", "extremes and p"),
        ("items/xcopa.en,test/items", "exact values"),
        ("audit/word-pairs,pairs/all", "exact values"),
        ("claims/1/here", "extremes and p"),
    ],
)
def test_the_kind_says_moment_and_depth(key: str, kind: str, cells: Cells, floors: Tolerances, smoke: Params) -> None:
    """The loss reads layer 2, so that layers 0 to 3 are early."""
    assert floors.kind(cells.by_key[key], smoke) == kind


def with_value(cell: TableCell, value: Cell) -> TableCell:
    return cell._replace(row={**cell.row, cell.column.key: value})


@pytest.mark.parametrize(
    ("key", "value", "tolerance"),
    [
        ("retrieval/2.mask.nf4,control,sw-en/p1_after", 0.5, 2 / 12),
        ("pools/2.mask.nf4,trained,own,sw-en/p1_after", 0.5, 2 / 40),
        ("scan/2.mask.nf4/p1_sw_en", 0.5, 2 / 52),
        ("ranks/2.mask.nf4,2/p1_sw_en", 0.5, 2 / 52),
        ("robustness_alignment/p1.sw_en/change", 0.5, 2 / 52),
        ("translation/0,sum/p1_after", 0.5, 2 / 12),
        ("projection/2.mask.nf4,PCA/p1_after", 0.5, 2 / 10),
        ("accuracy_by_rank/xcopa.sw,main,16/accuracy", 80.0, 100 * 2 / 60),
        ("accuracy_by_rank/xcopa.sw,main,16/won", 5, 2),
        ("calibration/xcopa.sw,2/accuracy", 0.8, 2 / 60),
        ("gap/xnli,2/gap", 8.0, 100 * 2 / 60),
        ("robustness/xnli.sw/change", 8.0, 100 * 2 / 60),
        ("equivalence/xnli.sw/span", 8.0, 100 * 2 / 60),
        ("before_after/run,2.mask.nf4,trained/decreased", 9, 2),
        ("before_after/run,2.mask.nf4,trained/t", -50.0, 1.0),
        ("before_after/run,2.mask.nf4,trained/t", 0.1, 0.02),
        ("norms/2.-.nf4/bos_norm_after", 200.0, 0.2),
        (GAIN, -0.3, 1e-4),
        ("setup/blocks/here", 4, 0),
        ("setup/class/here", "LlamaForCausalLM", 0),
        ("before_after/run,2.mask.nf4,trained/p", 1e-9, None),
    ],
)
def test_a_floor_is_in_the_unit_of_the_value(
    key: str, value: Cell, tolerance: float | None, floors: Tolerances, cells: Cells, smoke: Params
) -> None:
    """Two items of the value's set of 40 trained, 12 control pairs and 60 items; 2 % of a t, of 1 at least."""
    width = floors.tolerance(with_value(cells.by_key[key], value), cells.counts, smoke)
    assert width == (None if tolerance is None else pytest.approx(tolerance))


def test_a_class_has_as_many_items_as_its_row_says(floors: Tolerances, cells: Cells, smoke: Params) -> None:
    """An answer is right among the items of a class; it is chosen among all 60."""
    right, chosen = (cells.by_key[f"classes/xnli.sw,neutral/{name}_after"] for name in ("accuracy", "chosen"))
    for cell, n in ((right, 20), (chosen, 60)):
        few = cell._replace(row={**cell.row, "n": 20})
        assert floors.tolerance(few, cells.counts, smoke) == pytest.approx(100 * 2 / n)


def test_the_smallest_set_of_a_task_decides(floors: Tolerances, cells: Cells, smoke: Params) -> None:
    fewer = Counts(cells.counts.pairs, {**cells.counts.items, ("xnli.sw", "test"): 30})
    assert floors.tolerance(cells.by_key["gap/xnli,2/gap"], fewer, smoke) == pytest.approx(100 * 2 / 30)
    assert floors.tolerance(cells.by_key["gap/xcopa,2/gap"], fewer, smoke) == pytest.approx(100 * 2 / 60)


def test_the_tolerance_is_twice_the_largest_drift(floors: Tolerances, cells: Cells, smoke: Params) -> None:
    cell = cells.by_key[GAIN]
    drifts = {floors.kind(cell, smoke): {"smollm2": {"avx2": 3e-5, "one-thread": 4e-4}, "microworld": {"avx2": 1e-4}}}
    wider = Tolerances(floors.measures, drifts)
    assert wider.tolerance(cell, cells.counts, smoke) == pytest.approx(8e-4)
    assert wider.without("one-thread").tolerance(cell, cells.counts, smoke) == pytest.approx(2e-4)
    assert wider.without("one-thread").without("avx2").tolerance(cell, cells.counts, smoke) == pytest.approx(1e-4)


def test_a_score_without_a_count_is_one_line(floors: Tolerances, cells: Cells, smoke: Params) -> None:
    nothing = Counts({}, {})
    with pytest.raises(UserError, match=r"expected a count under setup/pairs\.control/here, got None"):
        floors.tolerance(cells.by_key["retrieval/2.mask.nf4,control,sw-en/p1_after"], nothing, smoke)
    with pytest.raises(UserError, match=r"expected a count under items/xcopa\.sw,test/items, got None"):
        floors.tolerance(cells.by_key["robustness/xcopa.sw/change"], nothing, smoke)


# Printed decimals


@pytest.fixture(scope="module")
def results(made: dict[str, Any], smoke: Params) -> Results:
    return read_results(made["build"], made["metrics"], made["published"], smoke)


def test_rows_and_tables_have_the_same_counts(results: Results, cells: Cells, smoke: Params) -> None:
    counts = Counts.of_results(results, smoke)
    assert counts == cells.counts
    assert counts.pairs == {"trained": 40, "control": 12}


@pytest.mark.parametrize(
    ("key", "step"),
    [
        (GAIN, 2 * 3e-3),
        ("before_after/run,2.mask.nf4,trained/before", None),  # no drift is recorded before training
        ("before_after/published,2.content.fp4,trained/gain", None),
        ("before_after/run,2.mask.nf4,trained/p", None),
        ("before_after/run-in-bfloat16,2.content.fp4,trained/gain", 2 * 3e-3),  # as in the other rows
        ("retrieval/2.mask.nf4,control,sw-en/p1_after", 2 * 1.5 / 12),
        ("setup/class/here", None),
    ],
)
def test_a_step_is_twice_the_drift_and_not_the_floor(
    key: str, step: float | None, floors: Tolerances, results: Results, cells: Cells, smoke: Params
) -> None:
    drifts = {
        "cosines, after training, early": {"smollm2": {"avx2": 1e-3}, "microworld": {"avx2": 3e-3}},
        "cosines, before training, early": {"smollm2": {"avx2": 0.0}},
        "retrieval, after training, early": {"smollm2": {"avx2": 1.5}},
    }
    steps = Tolerances(floors.measures, drifts).steps(results, smoke)
    cell = cells.by_key[key]
    assert steps(cell.table, cell.row, cell.column) == (None if step is None else pytest.approx(step))


# tolerances.yaml


def test_the_committed_tolerances_are_short_and_follow_the_rule() -> None:
    raw, chosen = load_yaml(FILES.tolerances), tolerances.load(FILES.tolerances)
    assert len(FILES.tolerances.read_text(encoding="utf-8").splitlines()) <= 45
    for kind, entry in raw["kinds"].items():
        assert entry["tolerance"] == pytest.approx(chosen.drift_limit(kind), rel=0.1)
        assert all(drift >= 0 for by_run in entry["drift"].values() for drift in by_run.values())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("unit: items", "unit: words", r"measures\.\w+: expected a unit of exact, .*, got 'words'"),
        ("floor: 2,", "floor: two,", r"a number as floor, got 'items' and 'two'"),
        ("'claims/.+'", "'claims('", r"measures\.extremes and p\.keys: no regular expression"),
        ("[text, count]", "[text]", r"expected each kind of column \(text, .*, got count in 0"),
        ("[text, count]", "[text, count, p]", r"expected each kind of column \(text, .*, got p in 2"),
        ("[text, count]", "[text, count, word]", r"expected each kind of column \(text, .*, got word in 1"),
        (
            "\nkinds:",
            '\nkinds:\n  "none, after training, deep": {drift: {}}\nrest:',
            r"kinds\.none, after.*tools/record",
        ),
    ],
)
def test_tolerances_that_are_not_of_their_form_are_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = FILES.tolerances.read_text(encoding="utf-8")
    (tmp_path / "t.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        tolerances.load(tmp_path / "t.yaml")
    assert "\n" not in error.value.message


# The rule


def test_the_recorded_run_agrees_with_itself(judged: Callable[..., Judged], values: Measured, rules: Rules) -> None:
    again = judged(values, strict=True)
    assert set(verdicts(again).values()) == {AGREES, NOT_JUDGED}
    assert not again.failures
    assert len(again.outcomes) == len(rules.conclusions) > 25
    assert sum(count.values for count in again.kinds.values()) == again.counts[AGREES]


def test_one_value_of_a_large_kind_may_leave_its_tolerance(
    judged: Callable[..., Judged], values: Measured, cells: Cells, rules: Rules, smoke: Params
) -> None:
    kind = rules.tolerances.kind(cells.by_key[NEIGHBOUR], smoke)
    moved = values | {NEIGHBOUR: values[NEIGHBOUR] + 3e-4}
    once = judged(moved)
    assert verdicts(once)[NEIGHBOUR] == DIFFERS
    assert once.kinds[kind].outside == 1
    assert once.kinds[kind].values >= 100
    assert once.kinds[kind].farthest == pytest.approx(3.0, rel=1e-3)
    assert not once.failures
    (failure,) = judged(moved, strict=True).failures
    assert failure.startswith(f"{NEIGHBOUR}: expected ")


def test_more_than_one_in_a_hundred_of_a_kind_fails(
    judged: Callable[..., Judged], values: Measured, cells: Cells, rules: Rules, smoke: Params
) -> None:
    kind = rules.tolerances.kind(cells.by_key[NEIGHBOUR], smoke)
    of_kind = [
        key
        for key, cell in cells.by_key.items()
        if rules.tolerances.kind(cell, smoke) == kind and cell.value is not None
    ]
    keys = [key for key in of_kind if key.startswith(("lengths/", "before_after/run,2.mask.fp4,"))]
    number = judged(values).kinds[kind].values
    few, many = number // 100, number // 100 + 1
    for count, fails in ((few, False), (many, True)):
        failures = judged(values | {key: float(str(values[key])) + 3e-4 for key in keys[:count]}).failures
        assert [failure.startswith(f"{kind}: expected at most 1% of {number} values") for failure in failures] == (
            [True] if fails else []
        )


def test_a_value_that_leaves_its_tolerance_fivefold_fails(judged: Callable[..., Judged], values: Measured) -> None:
    for distance, fails in ((4.9e-4, False), (5.1e-4, True)):
        failures = judged(values | {NEIGHBOUR: values[NEIGHBOUR] + distance}).failures
        assert bool(failures) is fails
    assert "5.1 times the tolerance" in failures[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("setup/blocks/here", 5),
        ("setup/class/here", "Other"),
        (GAIN, None),
        (GAIN, "much"),
        ("setup/train.false_negatives/here", 1),
        ("before_after/published,2.content.fp4,trained/gain", 0.5),
    ],
)
def test_an_exact_value_or_a_missing_number_fails(
    key: str, value: Any, judged: Callable[..., Judged], values: Measured
) -> None:
    failures = judged(values | {key: value}).failures
    assert any(failure.startswith(key) for failure in failures)


def test_a_value_that_is_not_measured_any_more_fails(judged: Callable[..., Judged], values: Measured) -> None:
    less = judged({key: value for key, value in values.items() if key != GAIN})
    assert verdicts(less)[GAIN] == DIFFERS
    assert less.failures


def test_an_undefined_statistic_stays_undefined(
    judged: Callable[..., Judged], values: Measured, recorded: Expected
) -> None:
    key = "before_after/run,norm.content.nf4,trained/t"
    undefined = replace(recorded, tables=with_cells(recorded.tables, {key: None}))
    assert not judged(values | {key: None}, recorded=undefined).failures
    assert judged(values, recorded=undefined).failures


def test_what_is_shown_is_never_judged(
    judged: Callable[..., Judged], values: Measured, cells: Cells, rules: Rules, smoke: Params
) -> None:
    shown = [key for key, cell in cells.by_key.items() if rules.tolerances.kind(cell, smoke) == "extremes and p"]
    assert len(shown) > 20
    moved = judged(values | dict.fromkeys(shown, 1e9), strict=True)
    assert {verdicts(moved)[key] for key in shown} == {NOT_JUDGED}


@pytest.mark.parametrize(
    ("section", "updates", "setting"),
    [
        ("lora", {"rank": 8}, "lora.rank is 8, recorded under 16"),
        ("train", {"lr": 1e-3}, "train.lr is 0.001, recorded under 0.0002"),
        ("sweep", {"seeds": (0, 1, 2)}, "sweep.seeds is 0, 1, 2, recorded under 0, 1"),
        ("pairs", {"source": "author"}, "pairs.source is author, recorded under project"),
        ("stats", {"confidence": 0.9}, ""),
        ("fetch", {"manifest": "elsewhere.sha256"}, ""),
    ],
)
def test_other_settings_leave_every_value_without_an_expectation(
    section: str,
    updates: Any,
    setting: str,
    judged: Callable[..., Judged],
    run: ModelTables,
    values: Measured,
    smoke: Params,
) -> None:
    params = change(smoke, section, **updates)
    other = judged(values, settings=expected.settings(params, run.pairs_sha256), params=params)
    assert other.other_setting == setting
    assert (set(verdicts(other).values()) == {NONE}) is bool(setting)
    assert not other.failures
    assert bool(other.outcomes) is not bool(setting)


def test_a_packaged_model_is_known_by_its_hash(real: Params) -> None:
    packaged = real.profiles["smollm2"]
    settings = []
    for update in ({}, {"file": "/elsewhere/model.gguf"}, {"sha256": 64 * "0"}):
        profile = packaged.model_copy(update={"model": packaged.model.model_copy(update=update)})
        params = named(real, "smollm2").model_copy(update={"profiles": {"smollm2": profile}})
        settings.append(expected.settings(params, 64 * "1"))
    assert expected.difference(settings[0], settings[1]) == ""
    assert expected.difference(settings[0], settings[2]).startswith("model.sha256 is 000000000000…")


def test_another_word_list_has_no_expectation(judged: Callable[..., Judged], values: Measured, smoke: Params) -> None:
    other = judged(values, settings=expected.settings(smoke, 64 * "0"))
    assert other.other_setting.startswith("inputs.pairs is 000000000000…, recorded under ")


def test_without_a_recorded_run_nothing_is_expected(judged: Callable[..., Judged], values: Measured) -> None:
    alone = judged(values, recorded=None, strict=True)
    assert alone.other_setting == "none is recorded"
    assert set(verdicts(alone).values()) == {NONE}
    assert not alone.failures


# The recorded run's file


def test_a_recorded_run_is_read_as_it_was_written(recorded: Expected, tmp_path: Path) -> None:
    path = tmp_path / "microworld.json"
    expected.write(path, recorded)
    again = expected.load(path)
    assert again is not None
    assert (again.model, again.settings, again.digests) == (recorded.model, recorded.settings, recorded.digests)
    assert again.cells.values == recorded.cells.values
    for name, table in again.tables.items():
        assert [(column.kind, column.id) for column in table.columns] == [
            (column.kind, column.id) for column in recorded.tables[name].columns
        ]
    first = path.read_bytes()
    expected.write(path, again)
    assert path.read_bytes() == first


def test_each_row_of_a_recorded_table_is_one_line(recorded: Expected, tmp_path: Path) -> None:
    """So that a diff of two recordings shows the rows that changed."""
    paths = [tmp_path / name for name in ("a.json", "b.json")]
    expected.write(paths[0], recorded)
    moved = with_cells(recorded.tables, {GAIN: 0.5, "before_after/run,2.mask.nf4,trained/t": 9.5, NEIGHBOUR: 0.25})
    expected.write(paths[1], replace(recorded, tables=moved))
    first, second = (path.read_text(encoding="utf-8").splitlines() for path in paths)
    assert sum(x != y for x, y in zip(first, second, strict=True)) == 2


# Conclusions


@pytest.mark.parametrize(
    ("value", "state"), [(0.021, "above"), (0.02, "within"), (0.0, "within"), (-0.02, "within"), (-0.021, "below")]
)
def test_a_state_is_above_below_or_within(value: float, state: str) -> None:
    assert conclusions.state(value, 0.02) == state


def test_a_conclusion_that_changes_fails(judged: Callable[..., Judged], values: Measured, rules: Rules) -> None:
    outcome = next(outcome for outcome in judged(values).outcomes if outcome.keys == (GAIN,))
    moved = values | {GAIN: -float(str(values[GAIN]))}
    first, *_ = judged(moved).failures
    assert first.startswith(f"conclusion `{outcome.name}`: expected {outcome.expected_state}")
    marked = [
        conclusion._replace(borderline=conclusion.keys[0].startswith("before_after/"))
        for conclusion in rules.conclusions
    ]
    again = judged(moved, chosen=rules._replace(conclusions=marked))
    assert not any(failure.startswith("conclusion") for failure in again.failures)
    (shown,) = [other for other in again.outcomes if other.name == outcome.name]
    assert (shown.borderline, shown.changed) == (True, False)
    assert shown.measured_state != shown.expected_state


def test_a_conclusion_may_be_a_difference_at_a_named_view(smoke: Params) -> None:
    keys = ("scan/{peak}.mask.nf4/cosine", "scan/{peak}.mask.nf4/random")
    excess = Conclusion("a", keys, 0.02, "", False)
    run = {"setup/peak_layer/here": 3, "scan/3.mask.nf4/cosine": 0.9, "scan/3.mask.nf4/random": 0.8}
    assert conclusions.value_of(excess, run, smoke) == (pytest.approx(0.1), "above")
    assert conclusions.value_of(excess, run | {"scan/3.mask.nf4/random": None}, smoke) == (None, "undefined")
    assert conclusions.value_of(excess, {}, smoke) == (None, "not measured")
    named_view = excess._replace(keys=("before_after/run,{as_described},trained/gain",))
    gain = {"before_after/run,3.mask.nf4,trained/gain": -0.5}
    assert conclusions.value_of(named_view, gain, smoke) == (-0.5, "below")
    with pytest.raises(UserError, match=r"expected names of trained_on, .* in braces, got nowhere"):
        conclusions.value_of(excess._replace(keys=("a/{nowhere}",)), {}, smoke)


def test_every_declared_conclusion_is_measured_and_judged(
    cells: Cells, values: Measured, floors: Tolerances, smoke: Params
) -> None:
    for conclusion in conclusions.load(FILES.conclusions, smoke):
        assert conclusions.tolerance(conclusion, cells, floors, smoke) > 0
        assert conclusions.value_of(conclusion, values, smoke)[1] in ("above", "below", "within")
        assert conclusion.why


def test_a_conclusion_on_a_value_that_is_not_judged_is_one_line(
    cells: Cells, floors: Tolerances, smoke: Params
) -> None:
    for key in ("before_after/run,2.mask.nf4,trained/p", "before_after/run,2.mask.nf4,trained/q"):
        with pytest.raises(UserError, match=f"a: expected a value that is measured and judged, got {key}"):
            conclusions.tolerance(Conclusion("a", (key,), 0.02, "", False), cells, floors, smoke)


def test_a_model_has_the_conclusions_that_list_it(smoke: Params) -> None:
    of_smollm2 = {key for c in conclusions.load(FILES.conclusions, named(smoke, "smollm2")) for key in c.keys}
    of_microworld = {key for c in conclusions.load(FILES.conclusions, named(smoke, "microworld")) for key in c.keys}
    assert of_smollm2 & of_microworld
    assert {key for key in of_smollm2 if key.startswith("robustness/")} == {
        "robustness/xcopa.en/change",
        "robustness/xcopa.en/span",
    }, "the other items are not scored at every rank"
    assert "robustness/xcopa.sw/change" in of_microworld
    assert not conclusions.load(FILES.conclusions, named(smoke, "lugha_llama"))


CONCLUSION = (
    "margins: {m: {value: 0.02, why: b}}\nconclusions:\n  - {name: a, models: [microworld], value: k, margin: m}\n"
)


def test_borderline_is_true_or_a_list_of_models(tmp_path: Path, smoke: Params) -> None:
    for marked, borderline in (("true", True), ("[microworld]", True), ("[smollm2]", False), ("false", False)):
        (tmp_path / "c.yaml").write_text(CONCLUSION.replace("margin: m}", f"margin: m, borderline: {marked}}}"))
        assert [one.borderline for one in conclusions.load(tmp_path / "c.yaml", smoke)] == [borderline]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("margin: m}", "margin: n}", "a: margin: expected one of m, got 'n'"),
        ("value: 0.02", "value: 0", "a: margin: expected a number above 0 or one of accuracy"),
        ("value: 0.02", "value: nothing", "got 'nothing'"),
        ("value: k, ", "", "a: expected the keys name, models, value, margin"),
        ("margin: m}\n", "margin: m}\n  - {name: a, models: [microworld], value: l, margin: m}\n", "got 'a' twice"),
    ],
)
def test_conclusions_that_are_not_of_their_form_are_one_line(
    tmp_path: Path, smoke: Params, old: str, new: str, message: str
) -> None:
    (tmp_path / "c.yaml").write_text(CONCLUSION.replace(old, new))
    with pytest.raises(UserError, match=message):
        conclusions.load(tmp_path / "c.yaml", smoke)


# What was published


@pytest.fixture
def published_run(real: Params) -> Params:
    """The published model on the author's lists."""
    return change(of_published(real, "lugha_llama"), "pairs", source="author")


def of_published(params: Params, name: str) -> Params:
    """The profile of the published model, whole or its first blocks, under its name."""
    early = {profile.model.span for profile in params.profiles.values() if profile.model.source == "hub"} - {None}
    assert early, "params.yaml has no model of the first blocks"
    (profile,) = [
        profile
        for profile in params.profiles.values()
        if profile.model.source == "hub"
        and "Lugha" in profile.model.repo
        and (profile.model.span is None) is (name == "lugha_llama")
    ]
    return named(params, name).model_copy(update={"profiles": {name: profile}})


def as_published(params: Params) -> Measured:
    """SYNTHETIC: what a run would measure that gave every published value to the digit. No measurement."""
    parts = judge.published.expectations(load_yaml(FILES.reported), params)
    return {key: entry["value"] for part in parts for key, entry in part["keys"].items()}


def compared(values: Measured, params: Params) -> dict[str, str]:
    rules = judge.rules(FILES.tolerances, FILES.conclusions, FILES.reported, params)
    return verdicts(judge.judge(values, expected.settings(params, ""), None, rules, params))


AFTER = "before_after/run,2.content.fp4,trained/after"
BEFORE = "before_after/run,2.content.fp4,control/before"
DEEP = "before_after/run,31.mask.nf4,trained/after"
SECOND = "scan/2.mask.nf4/trained"


def test_a_run_of_the_published_model_is_judged(published_run: Params) -> None:
    author = change(published_run, "adapter", source="author")
    measured = as_published(published_run) | {DEEP: 0.99}
    for params, unjudged in ((published_run, {"t", "d_z", "gain_sd"}), (author, set())):
        by_key = compared(measured, params)
        assert {key for key, verdict in by_key.items() if verdict == NONE} == {
            DEEP,
            *(f"before_after/run,2.content.fp4,{set_}/{key}" for set_ in ("trained", "control") for key in unjudged),
        }
        assert set(by_key.values()) == {AGREES, NONE}
    moved = measured | {AFTER: 0.43, BEFORE: 0.33, SECOND: 0.9999}
    for params, wrong in ((published_run, set()), (author, {AFTER})):
        differs = {key for key, verdict in compared(moved, params).items() if verdict == DIFFERS}
        assert differs == {BEFORE, SECOND} | wrong, "a training of ours may differ by its seed"
    less = {key: value for key, value in measured.items() if key != BEFORE}
    assert compared(less, author)[BEFORE] == DIFFERS, "what is expected must be measured"


def test_a_published_value_outside_its_tolerance_fails(published_run: Params) -> None:
    rules = judge.rules(FILES.tolerances, FILES.conclusions, FILES.reported, published_run)
    measured, under = as_published(published_run), expected.settings(published_run, "")
    assert not judge.judge(measured, under, None, rules, published_run).failures
    failures = judge.judge(measured | {BEFORE: 0.5}, under, None, rules, published_run).failures
    assert failures[0].startswith("published values: expected at most 1% of ")


def test_a_run_of_its_first_blocks_is_judged_at_their_layers(real: Params, published_run: Params) -> None:
    early = change(of_published(real, "lugha_llama_early"), "pairs", source="author")
    early = change(early, "adapter", source="author")
    by_key = compared({}, early)
    pilot = {f"scan/{layer}.mask.nf4/trained" for layer in (0, 1, 2)}
    assert {key for key in by_key if key.startswith("scan/")} == pilot
    assert "setup/blocks/here" not in by_key
    assert by_key[BEFORE] == by_key[AFTER] == DIFFERS, "what is expected must be measured"
    measured = {key: value for key, value in as_published(published_run).items() if key in by_key}
    assert set(compared(measured, early).values()) <= {AGREES, NONE}


PAIRS, SCAN, GAINS = r"setup/pairs\..+", r"scan/.+", r"gains/run,.+"
CONTROL, TRAINED = r"before_after/run,.+,control/before", r"before_after/run,.+,trained/after"
LISTS = (PAIRS, SCAN, CONTROL, TRAINED, GAINS)


@pytest.mark.parametrize(
    ("section", "updates", "unjudged"),
    [
        ("pairs", {"source": "project"}, LISTS),
        ("lora", {"rank": 8}, (TRAINED, GAINS)),
        ("train", {"lr": 1e-3}, (TRAINED, GAINS)),
        ("train", {"seed": 7}, ()),
        ("lora", {"scaling": "rslora"}, ()),
        ("sweep", {"ranks": (1,)}, ()),
    ],
)
def test_what_was_published_is_expected_only_where_it_was_measured_so(
    published_run: Params, section: str, updates: Any, unjudged: tuple[str, ...]
) -> None:
    by_key = compared(as_published(published_run), change(published_run, section, **updates))
    assert by_key["setup/nf4.quant_type/here"] == AGREES
    for pattern in LISTS:
        wanted = NONE if pattern in unjudged else AGREES
        assert {verdict for key, verdict in by_key.items() if re.fullmatch(pattern, key)} == {wanted}, pattern


def test_another_checkpoint_or_model_has_no_published_expectation(published_run: Params, smoke: Params) -> None:
    model = published_run.active.model.model_copy(update={"revision": 40 * "0"})
    profile = published_run.active.model_copy(update={"model": model})
    other = published_run.model_copy(update={"profiles": {"lugha_llama": profile}})
    rules = judge.rules(FILES.tolerances, FILES.conclusions, FILES.reported, other)
    judged = judge.judge(as_published(published_run), expected.settings(other, ""), None, rules, other)
    assert {check.verdict for check in judged.checks} == {NONE}
    why = {check.key: check.why for check in judged.checks}
    assert why[BEFORE] == f"model.revision is {40 * '0'}, published for 53eea9a3857674c85f3936d8313587f87b094e99"
    assert not judge.published.expectations(load_yaml(FILES.reported), smoke)


def test_a_recorded_value_goes_before_a_published_one(run: ModelTables, values: Measured, smoke: Params) -> None:
    of_name = named(smoke, "lugha_llama")
    rules = judge.rules(FILES.tolerances, FILES.conclusions, FILES.reported, of_name)
    under = expected.settings(of_name, run.pairs_sha256)
    recorded = Expected("lugha_llama", under, {}, run.tables)
    checks = {check.key: check for check in judge.judge(values, under, recorded, rules, of_name).checks}
    assert (checks[BEFORE].verdict, checks[BEFORE].expected) == (AGREES, values[BEFORE])


def test_published_values_stand_beside_cells(values: Measured, smoke: Params) -> None:
    published = verify.published_values(load_yaml(FILES.reported), smoke)
    assert published.keys() <= values.keys()
    assert published["before_after/run,2.content.fp4,trained/gain"] == 0.0901806


# The command


@pytest.fixture
def desk(tmp_path: Path, run: ModelTables, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a synthetic run of a model that is recorded, the current folder."""
    root = checkout(tmp_path / "here", run)
    for path in verify.Files():
        if path.suffix:
            (root / path.parent).mkdir(exist_ok=True)
            shutil.copyfile(ROOT / path, root / path)
    params = parameters.load(root / "params.yaml")
    under = expected.settings(params, run.pairs_sha256)
    recorded = Expected(params.model, under, {expected.PARAMETERS: expected.digest(under)}, run.tables)
    expected.write(expected.file_of(root / "paper" / "expected", params), recorded)
    monkeypatch.chdir(root)
    return root


def checkout(root: Path, run: ModelTables) -> Path:
    """A folder with the smoke parameters, tables and one row file."""
    root.mkdir(parents=True)
    shutil.copyfile(SMOKE, root / "params.yaml")
    model = parameters.load(SMOKE).model
    write_model(root / "results" / model / "tables.json", run)
    rows = root / "build" / model / "sweep" / "rows" / "r2"
    rows.mkdir(parents=True)
    (rows / "similarity.tsv").write_text("a row\n")
    (root / "build" / model / "pairs.tsv").write_text("no rows of measurements\n")
    return root


def call(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["verify", *words])
    return done.exit_code, done.output


def put(root: Path, **changes: Cell) -> None:
    """Changes cells of a checkout's run."""
    path = next((root / "results").glob("*/tables.json"))
    run = read_model(path)
    write_model(path, run._replace(tables=with_cells(run.tables, changes)))


def test_the_command_lists_values_and_ends_with_0_where_they_agree(desk: Path) -> None:
    status, output = call()
    assert status == 0, output
    assert "value" in output
    assert "published  expected" in output
    assert "does not hold" in output
    assert ": 0 of " in output
    assert "values outside their tolerance" in output
    assert not [*desk.glob("results/*/verify.json")], "only the stage writes verdicts"
    assert call("--strict", "--all")[0] == 0


def test_the_stage_writes_its_verdicts_and_fails_for_none(desk: Path) -> None:
    put(desk, **{GAIN: -5.0})
    status, output = call("--out", "verdicts.json")
    assert status == 0, output
    written = json.loads(Path("verdicts.json").read_text())
    assert written["verdicts"][DIFFERS] == 1
    assert written["values"][GAIN] == DIFFERS
    assert {entry["key"] for entry in written["shown"]} == written["values"].keys()
    assert written["failures"]
    assert (written["claims"]["number"], written["claims"]["verified"]) == (18, 13)
    status, output = call()
    assert status == 1
    assert "Error: verify: " in output
    assert f"{GAIN}: expected " in output
    assert call("--out", "verdicts.json", "--strict")[0] == 1


def test_under_other_settings_it_ends_with_0_and_names_one(desk: Path) -> None:
    done = CliRunner().invoke(main, ["--set", "lora.rank=8", "verify", "--strict"])
    assert done.exit_code == 0, done.output
    assert "no expectation: lora.rank is 8, recorded under 16" in done.output


def test_other_base_weights_fail(desk: Path, smoke: Params) -> None:
    base = next((desk / "build").iterdir()) / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"weights")
    path = next((desk / "paper" / "expected").glob("*.json"))
    raw = read_json(path)
    raw["digests"][expected.BASE] = expected.weights(base)
    write_json(path, raw)
    assert call()[0] == 0
    (base / "model.safetensors").write_bytes(b"other weights")
    status, output = call()
    assert status == 1
    assert "expected weights with the digest" in output


def test_a_missing_run_is_the_user_s_mistake(desk: Path) -> None:
    status, output = call("--tables", "none.json")
    assert status == 2
    assert "none.json: no such file" in output


def test_an_expectation_that_was_edited_is_one_line(desk: Path) -> None:
    path = next((desk / "paper" / "expected").glob("*.json"))
    raw = read_json(path)
    write_json(path, raw | {"settings": raw["settings"] | {"lora.rank": 4}})
    status, output = call()
    assert status == 2
    assert "digests.parameters: expected" in output
    write_json(path, {"values": {}})
    assert "expected the keys model, settings, digests, tables" in call()[1]
    write_json(path, raw | {"tables": [{"name": "scan"}]})
    assert "expected a run as tools/record writes it, got KeyError('columns')" in call()[1]


def test_on_a_terminal_it_is_a_rich_table(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    params = parameters.load("params.yaml")
    tables = Path("results") / params.model / "tables.json"
    assert verify.run(tables=tables, files=verify.Files(), params=params) == []
    assert "┃" in capsys.readouterr().out


def test_two_runs_are_compared_by_the_same_rule(desk: Path, tmp_path: Path, run: ModelTables) -> None:
    other = checkout(tmp_path / "other", run)
    status, output = call("--against", str(other))
    assert status == 0, output
    assert "equal bytes in 1 of 1 row files" in output
    rows = next((other / "build").rglob("similarity.tsv"))
    rows.write_text("another row\n")
    put(other, **{GAIN: -5.0})
    status, output = call("--against", str(other))
    assert status == 1
    assert "equal bytes in 0 of 1 row files" in output
    assert f"{GAIN}: expected -5 within " in output
    params = other / "params.yaml"
    params.write_text(params.read_text().replace("rank: 16", "rank: 8"))
    status, output = call("--against", str(other))
    assert status == 2
    assert "lora.rank is 16, recorded under 8; compare runs of the same settings" in output


# What is committed


@pytest.mark.parametrize("path", sorted(FILES.expected.glob("*.json")), ids=lambda path: path.stem)
def test_a_recorded_run_is_of_the_committed_parameters_and_tables(path: Path) -> None:
    """A parameter added since would leave every value without an expectation."""
    recorded = expected.load(path)
    assert recorded is not None
    params = parameters.load(ROOT / "params.yaml", model=path.stem)
    now = expected.settings(params, str(recorded.settings[expected.PAIRS]))
    assert expected.difference(recorded.settings, now) == ""
    for name, table in recorded.tables.items():
        show = ["git", "show", f"HEAD:paper/tables/{name}.csv"]
        committed = subprocess.run(show, cwd=ROOT, capture_output=True, text=True, check=False)
        if committed.returncode == 0:  # a copy without git has nothing to compare with
            shown = [row for row in csv.DictReader(committed.stdout.splitlines()) if row["model"] == path.stem]
            assert len(shown) == len(table.rows), name
            for row, line in zip(table.rows, shown, strict=True):
                for column in table.columns:
                    assert reads(line[column.key], row.get(column.key)), (name, table.row_name(row), column.key)


def reads(text: str, value: Cell) -> bool:
    """Whether a cell of a .csv is this value, up to its last digit."""
    if value is None:
        return text == "-"
    if isinstance(value, str):
        return text.replace(",", "") == value.replace(",", "")
    if text.startswith("<"):
        return value < float(text.removeprefix("<"))
    last_digit = float(Decimal(1).scaleb(int(Decimal(text).as_tuple().exponent)))
    return abs(float(text) - value) <= 0.5 * last_digit + 1e-9 * abs(value)


@pytest.mark.parametrize(
    ("text", "value", "same"),
    [
        ("0.12", 0.1249, True),
        ("0.12", 0.126, False),
        ("1.3e+03", 1340.0, True),
        ("1235", 1234.6, True),
        ("<1e-4", 1e-9, True),
        ("<1e-4", 0.01, False),
        ("-", None, True),
        ("0.0", None, False),
        ("0 to 30 norm", "0 to 30, norm", True),
    ],
)
def test_a_cell_reads_as_its_value(text: str, value: Cell, same: bool) -> None:
    assert reads(text, value) is same
