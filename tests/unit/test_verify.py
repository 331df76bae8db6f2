"""`verify`: kinds and tolerances, conclusions, the exit status, what was published, and one run against another."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from synthetic import fabricate, named, verdict_files
from tli.analysis import tolerances
from tli.analysis.results import Measured, load_yaml
from tli.analysis.tolerances import Tolerances
from tli.cli import main
from tli.config import parameters
from tli.config.parameters import Params
from tli.io.errors import UserError
from tli.io.structured import read_json, write_json
from tli.paper import tables
from tli.verify import conclusions, expected, judge
from tli.verify import run as verify
from tli.verify.conclusions import Conclusion
from tli.verify.expected import Expected
from tli.verify.judge import AGREES, DIFFERS, NONE, NOT_JUDGED, Judged, Rules

ROOT = Path(__file__).resolve().parents[2]
FILES = verdict_files(ROOT)
SMOKE = ROOT / "tests" / "smoke" / "params.yaml"
COMMITTED = sorted((ROOT / "results").glob("*/measured.json"))
GAIN = "align.trained.gain.2.mask.nf4"


@pytest.fixture(scope="module")
def smoke() -> Params:
    """The smallest parameters, under the name of the model that every conclusion lists."""
    return named(parameters.load(SMOKE), "microworld")


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory, smoke: Params) -> Measured:
    """What a synthetic run measures."""
    made = fabricate(tmp_path_factory.mktemp("run"), smoke)
    tables.run(**made)
    measured: Measured = read_json(made["measured"])
    return measured


@pytest.fixture(scope="module")
def recorded(values: Measured, smoke: Params) -> Expected:
    """The synthetic run as it would be recorded."""
    under = expected.settings(smoke, values)
    return Expected("microworld", under, {expected.PARAMETERS: expected.digest(under)}, values)


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


def change(params: Params, section: str, **updates: Any) -> Params:
    return params.model_copy(update={section: getattr(params, section).model_copy(update=updates)})


def verdicts(judged: Judged) -> dict[str, str]:
    return {check.key: check.verdict for check in judged.checks}


# Kinds and tolerances


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_every_measured_key_is_of_one_kind(path: Path, floors: Tolerances, real: Params) -> None:
    for key in read_json(path):
        assert floors.kind(key, real)


def test_every_synthetic_key_is_of_one_kind(values: Measured, floors: Tolerances, smoke: Params) -> None:
    kinds = {floors.kind(key, smoke) for key in values}
    assert {"cosines, before training, early", "cosines, after training, deep", "exact values"} <= kinds


def test_a_key_of_no_kind_or_of_two_is_one_line(floors: Tolerances, smoke: Params) -> None:
    with pytest.raises(UserError, match=r"expected one measure for the key nothing\.known, got none"):
        floors.kind("nothing.known", smoke)
    twice = Tolerances(floors.measures | {"again": floors.measures["cosines"]._replace(name="again")}, {})
    with pytest.raises(UserError, match="got cosines, again"):
        twice.kind(GAIN, smoke)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("scan.all.cosine.0.mask.nf4", "cosines, before training, early"),
        ("scan.all.cosine.3.mask.nf4", "cosines, before training, early"),
        ("scan.all.cosine.4.mask.nf4", "cosines, before training, deep"),
        ("scan.all.cosine.norm.mask.nf4", "cosines, before training, deep"),
        ("align.trained.before.2.mask.nf4", "cosines, before training, early"),
        ("align.trained.after.2.mask.nf4", "cosines, after training, early"),
        ("align.all.after.bos_norm.norm", "magnitudes, after training, deep"),
        ("setup.train.loss_last", "cosines, after training, early"),
        ("transfer.xcopa.sw.base.accuracy", "scores, before training, deep"),
        ("class.xnli.sw.after.1", "scores, after training, deep"),
        ("rank.span.p1.sw_en.2.mask.nf4", "retrieval, after training, early"),
        ("rank.slope.cosine.trained.2.mask.nf4", "extremes and p"),
        ("sweep.r2.ece.xcopa.en", "extremes and p"),
        ("items.xcopa.en.test.items", "exact values"),
    ],
)
def test_the_kind_says_moment_and_depth(key: str, kind: str, floors: Tolerances, smoke: Params) -> None:
    """The loss reads layer 2, so that layers 0 to 3 are early."""
    assert floors.kind(key, smoke) == kind


@pytest.mark.parametrize(
    ("key", "value", "tolerance"),
    [
        ("retrieval.control.after.p1_sw_en.2.mask.nf4", 0.5, 2 / 12),
        ("pools.trained.after.p1_sw_en.2.mask.nf4", 0.5, 2 / 40),
        ("scan.all.p1_sw_en.2.mask.nf4", 0.5, 2 / 52),
        ("sweep.r2.p1_sw_en.2.mask.nf4", 0.5, 2 / 52),
        ("probe.after.p1.shots0.sum", 0.5, 2 / 12),
        ("projection.after.p1_pca.2.mask.nf4", 0.5, 2 / 10),
        ("transfer.xcopa.sw.main.accuracy", 80.0, 100 * 2 / 60),
        ("sweep.r2.gap_after.xnli", 8.0, 100 * 2 / 60),
        ("transfer.xcopa.sw.main.won", 5, 2),
        ("align.trained.t.2.mask.nf4", -50.0, 1.0),
        ("align.trained.t.2.mask.nf4", 0.1, 0.02),
        ("align.all.after.bos_norm.2", 200.0, 0.2),
        (GAIN, -0.3, 1e-4),
        ("setup.blocks", 4, 0),
        ("setup.class", "LlamaForCausalLM", 0),
        ("align.trained.p.2.mask.nf4", 1e-9, None),
    ],
)
def test_a_floor_is_in_the_unit_of_the_value(
    key: str, value: Any, tolerance: float | None, floors: Tolerances, values: Measured, smoke: Params
) -> None:
    """Two items of the value's set of 40 trained, 12 control pairs and 60 items; 2 % of a t, of 1 at least."""
    width = floors.tolerance(key, value, values, smoke)
    assert width == (None if tolerance is None else pytest.approx(tolerance))


def test_a_class_has_as_many_items_as_it_has_labels(floors: Tolerances, values: Measured, smoke: Params) -> None:
    counted = values | {"items.xnli.sw.test.label.1": 20}
    assert floors.tolerance("class.xnli.sw.after.1", 50.0, counted, smoke) == pytest.approx(100 * 2 / 20)


def test_the_tolerance_is_twice_the_largest_drift(floors: Tolerances, values: Measured, smoke: Params) -> None:
    kind = floors.kind(GAIN, smoke)
    drifts = {kind: {"smollm2": {"avx2": 3e-5, "one-thread": 4e-4}, "microworld": {"avx2": 1e-4}}}
    wider = Tolerances(floors.measures, drifts)
    assert wider.tolerance(GAIN, 0.1, values, smoke) == pytest.approx(8e-4)
    assert wider.without("one-thread").tolerance(GAIN, 0.1, values, smoke) == pytest.approx(2e-4)
    assert wider.without("one-thread").without("avx2").tolerance(GAIN, 0.1, values, smoke) == pytest.approx(1e-4)


def test_a_score_without_a_count_is_one_line(floors: Tolerances, smoke: Params) -> None:
    with pytest.raises(UserError, match=r"expected a count under setup\.pairs\.control, got None"):
        floors.tolerance("retrieval.control.after.p1_sw_en.2.mask.nf4", 0.5, {}, smoke)


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
        (r"inputs\..+", "inputs(", r"measures\.exact values\.keys: no regular expression"),
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


def test_the_recorded_run_agrees_with_itself(recorded: Expected, values: Measured, rules: Rules, smoke: Params) -> None:
    judged = judge.judge(values, recorded, rules, smoke, strict=True)
    assert set(verdicts(judged).values()) == {AGREES, NOT_JUDGED}
    assert not judged.failures
    assert len(judged.outcomes) == len(rules.conclusions) > 25
    assert sum(count.values for count in judged.kinds.values()) == judged.counts[AGREES]


def test_one_value_of_a_large_kind_may_leave_its_tolerance(
    recorded: Expected, values: Measured, rules: Rules, smoke: Params
) -> None:
    key = "geometry.cka.after.2.mask.nf4"
    kind = rules.tolerances.kind(key, smoke)
    moved = values | {key: values[key] + 3e-4}
    judged = judge.judge(moved, recorded, rules, smoke)
    assert verdicts(judged)[key] == DIFFERS
    assert judged.kinds[kind].outside == 1
    assert judged.kinds[kind].values >= 100
    assert judged.kinds[kind].farthest == pytest.approx(3.0, rel=1e-3)
    assert not judged.failures
    (failure,) = judge.judge(moved, recorded, rules, smoke, strict=True).failures
    assert failure.startswith(f"{key}: expected ")


def test_more_than_one_in_a_hundred_of_a_kind_fails(
    recorded: Expected, values: Measured, rules: Rules, smoke: Params
) -> None:
    kind = rules.tolerances.kind("geometry.cka.after.2.mask.nf4", smoke)
    keys = [key for key in values if key.startswith("geometry.") and rules.tolerances.kind(key, smoke) == kind]
    number = sum(rules.tolerances.kind(key, smoke) == kind for key in values)
    few, many = number // 100, number // 100 + 1
    for count, fails in ((few, False), (many, True)):
        moved = values | {key: float(str(values[key])) + 3e-4 for key in keys[:count]}
        failures = judge.judge(moved, recorded, rules, smoke).failures
        assert [failure.startswith(f"{kind}: expected at most 1% of {number} values") for failure in failures] == (
            [True] if fails else []
        )


def test_a_value_that_leaves_its_tolerance_fivefold_fails(
    recorded: Expected, values: Measured, rules: Rules, smoke: Params
) -> None:
    key = "geometry.cka.after.2.mask.nf4"
    for distance, fails in ((4.9e-4, False), (5.1e-4, True)):
        judged = judge.judge(values | {key: values[key] + distance}, recorded, rules, smoke)
        assert bool(judged.failures) is fails
    assert "5.1 times the tolerance" in judged.failures[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("setup.blocks", 5),
        ("setup.class", "Other"),
        (GAIN, None),
        (GAIN, "much"),
        ("setup.train.false_negatives", 1),
    ],
)
def test_an_exact_value_or_a_missing_number_fails(
    key: str, value: Any, recorded: Expected, values: Measured, rules: Rules, smoke: Params
) -> None:
    judged = judge.judge(values | {key: value}, recorded, rules, smoke)
    assert any(failure.startswith(key) for failure in judged.failures)


def test_a_value_that_is_not_measured_any_more_fails(
    recorded: Expected, values: Measured, rules: Rules, smoke: Params
) -> None:
    less = {key: value for key, value in values.items() if key != GAIN}
    judged = judge.judge(less, recorded, rules, smoke)
    assert verdicts(judged)[GAIN] == DIFFERS
    assert judged.failures


def test_an_undefined_statistic_stays_undefined(
    recorded: Expected, values: Measured, rules: Rules, smoke: Params
) -> None:
    key = "align.trained.t.norm.content.nf4"
    undefined = recorded._replace(values=values | {key: None})
    assert not judge.judge(values | {key: None}, undefined, rules, smoke).failures
    assert judge.judge(values, undefined, rules, smoke).failures


def test_what_is_shown_is_never_judged(recorded: Expected, values: Measured, rules: Rules, smoke: Params) -> None:
    shown = [key for key in values if rules.tolerances.kind(key, smoke) == "extremes and p"]
    assert len(shown) > 20
    judged = judge.judge(values | dict.fromkeys(shown, 1e9), recorded, rules, smoke, strict=True)
    assert {verdicts(judged)[key] for key in shown} == {NOT_JUDGED}


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
    section: str, updates: Any, setting: str, recorded: Expected, values: Measured, rules: Rules, smoke: Params
) -> None:
    judged = judge.judge(values, recorded, rules, change(smoke, section, **updates))
    assert judged.other_setting == setting
    assert (set(verdicts(judged).values()) == {NONE}) is bool(setting)
    assert not judged.failures
    assert bool(judged.outcomes) is not bool(setting)


def test_a_packaged_model_is_known_by_its_hash(real: Params, values: Measured) -> None:
    packaged = real.profiles["smollm2"]
    settings = []
    for update in ({}, {"file": "/elsewhere/model.gguf"}, {"sha256": 64 * "0"}):
        profile = packaged.model_copy(update={"model": packaged.model.model_copy(update=update)})
        params = named(real, "smollm2").model_copy(update={"profiles": {"smollm2": profile}})
        settings.append(expected.settings(params, values))
    assert expected.difference(settings[0], settings[1]) == ""
    assert expected.difference(settings[0], settings[2]).startswith("model.sha256 is 000000000000…")


def test_another_word_list_has_no_expectation(
    recorded: Expected, values: Measured, rules: Rules, smoke: Params
) -> None:
    judged = judge.judge(values | {"inputs.pairs": 64 * "0"}, recorded, rules, smoke)
    assert judged.other_setting.startswith("inputs.pairs is 000000000000…, recorded under ")


def test_without_a_recorded_run_nothing_is_expected(values: Measured, rules: Rules, smoke: Params) -> None:
    judged = judge.judge(values, None, rules, smoke, strict=True)
    assert judged.other_setting == "none is recorded"
    assert set(verdicts(judged).values()) == {NONE}
    assert not judged.failures


# Conclusions


@pytest.mark.parametrize(
    ("value", "state"), [(0.021, "above"), (0.02, "within"), (0.0, "within"), (-0.02, "within"), (-0.021, "below")]
)
def test_a_state_is_above_below_or_within(value: float, state: str) -> None:
    assert conclusions.state(value, 0.02) == state


def test_a_conclusion_that_changes_fails(recorded: Expected, values: Measured, rules: Rules, smoke: Params) -> None:
    before = judge.judge(values, recorded, rules, smoke)
    outcome = next(one for one in before.outcomes if one.keys == (GAIN,))
    moved = values | {GAIN: -float(str(values[GAIN]))}
    first, *_ = judge.judge(moved, recorded, rules, smoke).failures
    assert first.startswith(f"conclusion `{outcome.name}`: expected {outcome.expected_state}")
    marked = [one._replace(borderline=True) if one.keys[0].startswith(GAIN[:19]) else one for one in rules.conclusions]
    judged = judge.judge(moved, recorded, rules._replace(conclusions=marked), smoke)
    assert not any(failure.startswith("conclusion") for failure in judged.failures)
    (shown,) = [one for one in judged.outcomes if one.name == outcome.name]
    assert (shown.borderline, shown.changed) == (True, False)
    assert shown.measured_state != shown.expected_state


def test_a_conclusion_may_be_a_difference_at_a_named_view(smoke: Params) -> None:
    one = Conclusion("a", ("scan.all.cosine.{peak}.mask.nf4", "scan.all.random.{peak}.mask.nf4"), 0.02, "", False)
    run = {"scan.trained.peak_layer.mask.nf4": 3, "scan.all.cosine.3.mask.nf4": 0.9, "scan.all.random.3.mask.nf4": 0.8}
    assert conclusions.value_of(one, run, smoke) == (pytest.approx(0.1), "above")
    assert conclusions.value_of(one, run | {"scan.all.random.3.mask.nf4": None}, smoke) == (None, "undefined")
    assert conclusions.value_of(one, {}, smoke) == (None, "not measured")
    named_view = one._replace(keys=("align.trained.gain.{as_described}",))
    assert conclusions.value_of(named_view, {"align.trained.gain.3.mask.nf4": -0.5}, smoke) == (-0.5, "below")
    with pytest.raises(UserError, match=r"expected names of trained_on, .* in braces, got nowhere"):
        conclusions.value_of(one._replace(keys=("a.{nowhere}",)), {}, smoke)


def test_every_declared_conclusion_is_measured_and_judged(values: Measured, floors: Tolerances, smoke: Params) -> None:
    for one in conclusions.load(FILES.conclusions, smoke):
        assert conclusions.tolerance(one, values, floors, smoke) > 0
        assert conclusions.value_of(one, values, smoke)[1] in ("above", "below", "within")
        assert one.why


def test_a_model_has_the_conclusions_that_list_it(smoke: Params) -> None:
    lexical = conclusions.load(FILES.conclusions, named(smoke, "smollm2"))
    assert lexical
    assert not any("xcopa" in key or "xnli" in key for one in lexical for key in one.keys)
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
    return {"inputs.pairs": 64 * "0"} | {key: entry["value"] for part in parts for key, entry in part["keys"].items()}


def compared(values: Measured, params: Params) -> dict[str, str]:
    rules = judge.rules(FILES.tolerances, FILES.conclusions, FILES.reported, params)
    return verdicts(judge.judge(values, None, rules, params))


AFTER = "align.trained.after.2.content.fp4"
BEFORE = "align.control.before.2.content.fp4"


def test_a_run_of_the_published_model_is_judged(published_run: Params) -> None:
    author = change(published_run, "adapter", source="author")
    measured = as_published(published_run) | {"align.trained.after.31.mask.nf4": 0.99}
    for params, unjudged in ((published_run, {"t", "d_z", "gain_sd"}), (author, set())):
        by_key = compared(measured, params)
        assert {key for key, verdict in by_key.items() if verdict == NONE} == {
            "inputs.pairs",
            "align.trained.after.31.mask.nf4",
            *(f"align.{set_}.{key}.2.content.fp4" for set_ in ("trained", "control") for key in unjudged),
        }
        assert set(by_key.values()) == {AGREES, NONE}
    moved = measured | {AFTER: 0.43, BEFORE: 0.33, "scan.trained.cosine.2.mask.nf4": 0.9999}
    for params, wrong in ((published_run, set()), (author, {AFTER})):
        differs = {key for key, verdict in compared(moved, params).items() if verdict == DIFFERS}
        assert differs == {BEFORE, "scan.trained.cosine.2.mask.nf4"} | wrong, (
            "a training of ours may differ by its seed"
        )
    less = {key: value for key, value in measured.items() if key != BEFORE}
    assert compared(less, author)[BEFORE] == DIFFERS, "what is expected must be measured"


def test_a_published_value_outside_its_tolerance_fails(published_run: Params) -> None:
    rules = judge.rules(FILES.tolerances, FILES.conclusions, FILES.reported, published_run)
    measured = as_published(published_run)
    assert not judge.judge(measured, None, rules, published_run).failures
    failures = judge.judge(measured | {BEFORE: 0.5}, None, rules, published_run).failures
    assert failures[0].startswith("published values: expected at most 1% of ")


def test_a_run_of_its_first_blocks_is_judged_at_their_layers(real: Params, published_run: Params) -> None:
    early = change(of_published(real, "lugha_llama_early"), "pairs", source="author")
    early = change(early, "adapter", source="author")
    by_key = compared({}, early)
    pilot = {f"scan.trained.cosine.{layer}.mask.nf4" for layer in (0, 1, 2)}
    assert {key for key in by_key if key.startswith("scan.")} == pilot
    assert "setup.blocks" not in by_key
    assert by_key[BEFORE] == by_key[AFTER] == DIFFERS, "what is expected must be measured"
    measured = {key: value for key, value in as_published(published_run).items() if key in by_key}
    assert set(compared(measured, early).values()) <= {AGREES, NONE}


LISTS = ("setup.pairs.", "scan.", "align.control.before.", "align.trained.after.", "gains.")


@pytest.mark.parametrize(
    ("section", "updates", "unjudged"),
    [
        ("pairs", {"source": "project"}, LISTS),
        ("lora", {"rank": 8}, ("align.trained.after.", "gains.")),
        ("train", {"lr": 1e-3}, ("align.trained.after.", "gains.")),
        ("train", {"seed": 7}, ()),
        ("lora", {"scaling": "rslora"}, ()),
        ("sweep", {"ranks": (1,)}, ()),
    ],
)
def test_what_was_published_is_expected_only_where_it_was_measured_so(
    published_run: Params, section: str, updates: Any, unjudged: tuple[str, ...]
) -> None:
    by_key = compared(as_published(published_run), change(published_run, section, **updates))
    assert by_key["setup.nf4.quant_type"] == AGREES
    for prefix in LISTS:
        wanted = NONE if prefix in unjudged else AGREES
        assert {verdict for key, verdict in by_key.items() if key.startswith(prefix)} == {wanted}, prefix


def test_another_checkpoint_or_model_has_no_published_expectation(published_run: Params, smoke: Params) -> None:
    model = published_run.active.model.model_copy(update={"revision": 40 * "0"})
    profile = published_run.active.model_copy(update={"model": model})
    other = published_run.model_copy(update={"profiles": {"lugha_llama": profile}})
    rules = judge.rules(FILES.tolerances, FILES.conclusions, FILES.reported, other)
    judged = judge.judge(as_published(published_run), None, rules, other)
    assert {check.verdict for check in judged.checks} == {NONE}
    why = {check.key: check.why for check in judged.checks}
    assert why[BEFORE] == f"model.revision is {40 * '0'}, published for 53eea9a3857674c85f3936d8313587f87b094e99"
    assert not judge.published.expectations(load_yaml(FILES.reported), smoke)


def test_a_recorded_value_goes_before_a_published_one(values: Measured, smoke: Params) -> None:
    of_name = named(smoke, "lugha_llama")
    rules = judge.rules(FILES.tolerances, FILES.conclusions, FILES.reported, of_name)
    recorded = Expected("lugha_llama", expected.settings(of_name, values), {}, values)
    checks = {check.key: check for check in judge.judge(values, recorded, rules, of_name).checks}
    assert (checks[BEFORE].verdict, checks[BEFORE].expected) == (AGREES, values[BEFORE])


# The command


@pytest.fixture
def desk(tmp_path: Path, values: Measured, recorded: Expected, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a synthetic run of a model that is recorded, the current folder."""
    root = checkout(tmp_path / "here", values)
    (root / "paper" / "expected").mkdir(parents=True)
    for path in verify.Files():
        if path.suffix:
            shutil.copyfile(ROOT / path, root / path)
    model = parameters.load(root / "params.yaml").model
    under = expected.settings(parameters.load(root / "params.yaml"), values)
    digests = {expected.PARAMETERS: expected.digest(under)}
    write_json(root / "paper" / "expected" / f"{model}.json", Expected(model, under, digests, values)._asdict())
    monkeypatch.chdir(root)
    return root


def checkout(root: Path, values: Measured) -> Path:
    """A folder with the smoke parameters, measured values and one row file."""
    root.mkdir(parents=True)
    shutil.copyfile(SMOKE, root / "params.yaml")
    model = parameters.load(SMOKE).model
    write_json(root / "results" / model / "measured.json", values)
    rows = root / "build" / model / "sweep" / "rows" / "r2"
    rows.mkdir(parents=True)
    (rows / "similarity.tsv").write_text("a row\n")
    (root / "build" / model / "pairs.tsv").write_text("no rows of measurements\n")
    return root


def call(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["verify", *words])
    return done.exit_code, done.output


def put(root: Path, **changes: Any) -> None:
    """Changes measured values; __ stands for a point."""
    path = next((root / "results").glob("*/measured.json"))
    write_json(path, read_json(path) | {key.replace("__", "."): value for key, value in changes.items()})


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
    put(desk, align__trained__gain__2__mask__nf4=-5.0)
    status, output = call("--out", "verdicts.json")
    assert status == 0, output
    written = json.loads(Path("verdicts.json").read_text())
    assert written["verdicts"][DIFFERS] == 1
    assert written["values"][GAIN] == DIFFERS
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
    status, output = call("--measured", "none.json")
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
    assert "expected the keys model, settings, digests, values" in call()[1]


def test_on_a_terminal_it_is_a_rich_table(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    params = parameters.load("params.yaml")
    measured = Path("results") / params.model / "measured.json"
    assert verify.run(measured=measured, files=verify.Files(), params=params) == []
    assert "┃" in capsys.readouterr().out


def test_two_runs_are_compared_by_the_same_rule(desk: Path, tmp_path: Path, values: Measured) -> None:
    other = checkout(tmp_path / "other", values)
    status, output = call("--against", str(other))
    assert status == 0, output
    assert "equal bytes in 1 of 1 row files" in output
    rows = next((other / "build").rglob("similarity.tsv"))
    rows.write_text("another row\n")
    put(other, align__trained__gain__2__mask__nf4=-5.0)
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
def test_a_recorded_run_is_of_the_committed_parameters_and_values(path: Path) -> None:
    """A parameter added since would leave every value without an expectation."""
    recorded = expected.load(path)
    assert recorded is not None
    params = parameters.load(ROOT / "params.yaml", model=path.stem)
    hashes = {key: value for key, value in recorded.settings.items() if key.startswith("inputs.")}
    assert expected.difference(recorded.settings, expected.settings(params, hashes)) == ""
    show = ["git", "show", f"HEAD:results/{path.stem}/measured.json"]
    committed = subprocess.run(show, cwd=ROOT, capture_output=True, text=True, check=False)
    if committed.returncode == 0:  # a copy without git has nothing to compare with
        assert json.loads(committed.stdout) == recorded.values
