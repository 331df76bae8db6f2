"""Claims and verdicts: what each kind of evidence may say, what a changed param leaves judged, and tolerances."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthetic import fabricate
from tli import params as parameters
from tli import store
from tli.paper import claims, expected, tables, verify
from tli.paper.rows import Measured, load_yaml
from tli.params import Params

ROOT = Path(__file__).resolve().parents[1]
REPORTED = ROOT / "paper" / "reported.yaml"
VIEW = "2.mask.nf4"
Section = dict[str, Any]


@pytest.fixture(scope="module")
def smoke() -> Params:
    return parameters.load(ROOT / "tests" / "smoke" / "params.yaml")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, smoke: Params) -> list[Path]:
    """measured.json of five synthetic base seeds, the first of which stands for the default run."""
    folder = tmp_path_factory.mktemp("runs")
    made = fabricate(folder, smoke)
    tables.run(**made)
    default = store.read_json(made["measured"])
    return [made["measured"], *(_moved(default, folder / f"{seed}.json", 0.01, seed) for seed in range(1, 5))]


def _moved(default: Measured, path: Path, scale: float, seed: int) -> Path:
    """A copy of a run with every fraction moved by noise; counts and texts stay."""
    rng = np.random.default_rng(seed)
    moved = {key: value + rng.normal(0, scale) if isinstance(value, float) else value for key, value in default.items()}
    store.write_json(path, moved)
    return path


@pytest.fixture(scope="module")
def recorded(runs: list[Path], tmp_path_factory: pytest.TempPathFactory, smoke: Params) -> Path:
    """expected.yaml as `record` writes it, with an AVX2 run that drifts a fifth as far as base seeds do."""
    folder = tmp_path_factory.mktemp("recorded")
    avx2 = _moved(store.read_json(runs[0]), folder / "avx2.json", 0.002, 99)
    expected.record(runs=runs, avx2=avx2, out=folder / "expected.yaml", params=smoke)
    return folder / "expected.yaml"


@pytest.fixture(scope="module")
def section(recorded: Path, smoke: Params) -> Section:
    return expected.load(recorded, smoke)


def change(params: Params, section: str, **values: Any) -> Params:
    return params.model_copy(update={section: getattr(params, section).model_copy(update=values)})


def verdicts(section: Section, measured: Measured, params: Params) -> dict[str, str]:
    return {check.key: check.verdict for check in expected.judge(measured, section, params)}


def test_the_claims_are_those_of_the_study() -> None:
    entries = load_yaml(REPORTED)["claims"]
    assert [entry["id"] for entry in entries] == [*range(1, 19)]
    confidence = [24, 22, 19, 19, 14, 21, 19, 14, 25, 20, 13, 19, 12, 10, 19, 20, 21, 28]
    assert [round(100 * entry["confidence"]) for entry in entries] == confidence
    assert [entry["id"] for entry in entries if not entry["verified"]] == [5, 8, 11, 13, 14]
    kinds = {"configuration", "data", "recomputed", "measured"}
    assert {entry["evidence"] for entry in entries} == kinds


def test_embedded_profile_claims_nothing_of_the_published_model(runs: list[Path], smoke: Params) -> None:
    measured, reported = store.read_json(runs[0]), load_yaml(REPORTED)
    found = {claim.id: claim for claim in claims.study_claims(measured, reported, smoke)}
    assert {number for number, claim in found.items() if claim.verdict == claims.NEEDS} == {*range(1, 8), 10, 11}
    assert found[9].verdict == claims.HOLDS
    assert found[16].verdict == claims.FAILS
    assert "hidden_states[31] of 33" in found[16].reason
    assert {found[number].verdict for number in (8, 12, 13, 14, 15, 17, 18)} <= {claims.IMPLEMENTED, claims.OTHERWISE}
    assert found[12].verdict == found[14].verdict == claims.IMPLEMENTED
    assert found[8].verdict == claims.OTHERWISE, "the synthetic list has 12 control pairs, not 63"
    assert "0.3205" in found[5].reason
    assert found[6].here.count(" at ") == 2
    assert all("{" not in claim.reason + claim.here for claim in found.values())
    counted = claims.table([*found.values()]).caption
    assert "The 18 claims" in counted
    assert "13 of them" in counted


def test_the_paper_profile_judges_measured_claims(runs: list[Path], smoke: Params) -> None:
    paper = smoke.model_copy(update={"profile": "paper", "profiles": {"paper": smoke.active}})
    measured, reported = store.read_json(runs[0]), load_yaml(REPORTED)
    measured["scan.trained.cosine.2.mask.nf4"] = 0.99998
    measured["scan.trained.cosine.1.mask.nf4"] = 0.5
    measured["setup.model"] = "Lugha-Llama/Lugha-Llama-8B-wura"
    found = {claim.id: claim.verdict for claim in claims.study_claims(measured, reported, paper)}
    assert (found[2], found[3], found[10]) == (claims.FAILS, claims.HOLDS, claims.IMPLEMENTED)
    assert claims.NEEDS not in found.values()


def test_published_statistics_are_recomputed_within_their_rounding() -> None:
    reported = load_yaml(REPORTED)
    again = claims.recomputed(reported)
    assert len(again) == 6
    assert all(one.agrees for one in again)
    assert all(one.tolerance < 1e-2 for one in again)
    reported["before_after"]["trained"]["t"] = 54.9
    wrong = [one.statistic for one in claims.recomputed(reported) if not one.agrees]
    assert wrong == ["t, trained"]


def test_record_takes_the_default_value_and_the_drift(section: Section, runs: list[Path], smoke: Params) -> None:
    default = store.read_json(runs[0])
    assert section["keys"].keys() == default.keys()
    assert section["recorded_under"]["params"]["lora.rank"] == smoke.lora.rank
    assert "model.blocks" in section["recorded_under"]["params"]
    assert not any("compute" in name for name in section["recorded_under"]["params"])
    key = f"align.trained.before.{VIEW}"
    entry = section["keys"][key]
    assert entry["value"] == default[key]
    assert "base seeds" in entry["why"]
    spread = np.std([store.read_json(run)[key] for run in runs], ddof=1)
    assert 0.1 * 8.61 * spread <= entry["tolerance"] <= math.sqrt(2) * 8.62 * spread
    assert entry["tolerance"] / (8.61 * spread) == pytest.approx(0.2, abs=0.15), "the drift was a fifth of the spread"
    assert section["keys"]["setup.blocks"] == {"value": 4, "tolerance": 0.0, "why": "the same in every run"}
    assert section["keys"]["setup.nf4.quant_type"]["tolerance"] is None


def test_ranks_that_other_runs_leave_out_are_bounded_by_the_drift_alone(
    runs: list[Path], tmp_path: Path, smoke: Params
) -> None:
    default = store.read_json(runs[0])
    for number, run in enumerate(runs[1:]):
        few = {key: value for key, value in store.read_json(run).items() if not key.startswith("sweep.r2.")}
        store.write_json(tmp_path / f"{number}.json", few)
    avx2 = {key: value for key, value in default.items() if not key.startswith("sweep.r2.")}
    avx2 = {key: value + 0.5 if key.startswith("sweep.r4.accuracy_mean") else value for key, value in avx2.items()}
    store.write_json(tmp_path / "avx2.json", avx2)
    others = [tmp_path / f"{number}.json" for number in range(len(runs) - 1)]
    expected.record(runs=[runs[0], *others], avx2=tmp_path / "avx2.json", out=tmp_path / "e.yaml", params=smoke)
    keys = expected.load(tmp_path / "e.yaml", smoke)["keys"]
    lone = keys["sweep.r2.accuracy_mean.xcopa.en"]
    assert lone["tolerance"] == pytest.approx(3.2905 * 0.5, rel=1e-3)
    assert "RMS drift 0.5" in lone["why"]


def test_reruns_on_another_cpu_agree_and_real_changes_differ(
    section: Section, runs: list[Path], tmp_path: Path, smoke: Params
) -> None:
    default = store.read_json(runs[0])
    assert set(verdicts(section, default, smoke).values()) == {expected.AGREES}
    for seed in range(20):
        again = store.read_json(_moved(default, tmp_path / "again.json", 0.002, 1000 + seed))
        counts = Counter(verdicts(section, again, smoke).values())
        assert counts[expected.DIFFERS] <= 0.01 * len(default)
    far = default | {f"align.trained.gain.{VIEW}": default[f"align.trained.gain.{VIEW}"] + 0.1, "setup.blocks": 5}
    found = verdicts(section, far, smoke)
    assert {key for key, verdict in found.items() if verdict == expected.DIFFERS} == {
        f"align.trained.gain.{VIEW}", "setup.blocks"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("part", "values", "judged", "unjudged"),
    [
        ("lora", {"rank": 8}, ["scan.", "sweep.", "align.trained.before.", "audit.", "transfer.xcopa.sw.base."],
         ["align.trained.gain.", "transfer.xcopa.sw.main.", "gains.", "setup.train.", "retrieval.all.after."]),
        ("lora", {"scaling": "rslora"}, ["scan.", "align.control.before."], ["sweep.", "align.control.after."]),
        ("train", {"seed": 1}, ["scan.", "sweep."], ["align.trained.after.", "class.xnli.sw.after."]),
        ("train", {"lr": 1e-3}, ["scan.", "baseline."], ["sweep.", "align.trained.t."]),
        ("sweep", {"seeds": (0, 1, 2)}, ["scan.", "align."], ["sweep."]),
        ("sweep", {"ranks": (2, 4, 8)}, ["scan.", "align.", "sweep."], []),
        ("measure", {"random_seeds": (0,)}, ["align.trained.gain.", "sweep."], ["scan."]),
        ("stats", {"confidence": 0.9}, ["scan.", "align.", "sweep."], []),
    ],
)  # fmt: skip
def test_a_changed_param_leaves_what_it_cannot_change_judged(
    section: Section,
    runs: list[Path],
    smoke: Params,
    part: str,
    values: Any,
    judged: list[str],
    unjudged: list[str],
) -> None:
    found = verdicts(section, store.read_json(runs[0]), change(smoke, part, **values))
    for prefix in judged:
        assert {verdict for key, verdict in found.items() if key.startswith(prefix)} == {expected.AGREES}, prefix
    for prefix in unjudged:
        assert {verdict for key, verdict in found.items() if key.startswith(prefix)} == {expected.NONE}, prefix


def test_another_word_list_has_no_expectation(section: Section, runs: list[Path], smoke: Params) -> None:
    other = store.read_json(runs[0]) | {"inputs.pairs": "0" * 64}
    assert set(verdicts(section, other, smoke).values()) == {expected.NONE}


def test_what_is_missing_differs_unless_params_say(section: Section, runs: list[Path], smoke: Params) -> None:
    less = {key: value for key, value in store.read_json(runs[0]).items() if not key.startswith("sweep.r4.")}
    gone = {check.key: check for check in expected.judge(less, section, smoke) if check.key.startswith("sweep.r4.")}
    assert {check.verdict for check in gone.values()} == {expected.DIFFERS}
    fewer = change(smoke, "sweep", ranks=(2,))
    gone = {check.key: check for check in expected.judge(less, section, fewer) if check.key.startswith("sweep.r4.")}
    assert {check.verdict for check in gone.values()} == {expected.NONE}
    assert all("sweep.ranks is 2, recorded under 2, 4" in check.why for check in gone.values())


def test_an_undefined_statistic_is_expected_to_stay_undefined(runs: list[Path], tmp_path: Path, smoke: Params) -> None:
    key, files = f"align.trained.t.{VIEW}", []
    for number, run in enumerate(runs):
        files.append(tmp_path / f"{number}.json")
        store.write_json(files[-1], store.read_json(run) | {key: None})
    expected.record(runs=files, avx2=files[0], out=tmp_path / "expected.yaml", params=smoke)
    same, section = store.read_json(files[0]), expected.load(tmp_path / "expected.yaml", smoke)
    assert verdicts(section, same, smoke)[key] == expected.AGREES
    assert verdicts(section, same | {key: 3.0}, smoke)[key] == expected.DIFFERS


def test_record_keeps_other_profiles_and_wants_five_runs(
    recorded: Path, section: Section, runs: list[Path], tmp_path: Path, smoke: Params
) -> None:
    out = tmp_path / "expected.yaml"
    out.write_bytes(recorded.read_bytes())
    other = smoke.model_copy(update={"profile": "other", "profiles": {"other": smoke.active}})
    expected.record(runs=runs, avx2=runs[0], out=out, params=other)
    sections = load_yaml(out)["profiles"]
    assert sections.keys() == {smoke.profile, "other"}
    assert sections[smoke.profile] == section
    with pytest.raises(store.UserError, match="expected five runs or more, one a base seed, got 4"):
        expected.record(runs=runs[:4], avx2=runs[0], out=out, params=smoke)


def test_verify_writes_prints_and_fails_only_when_strict(
    recorded: Path, runs: list[Path], tmp_path: Path, smoke: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "verify.json"
    given = {"reported": REPORTED, "expected": recorded, "out": out, "params": smoke}
    verify.run(measured=runs[0], strict=True, **given)
    said = capsys.readouterr().out
    assert "value" in said
    assert "published  expected" in said
    assert "does not hold" in said
    assert f"agrees; all in {out}" in said
    written = json.loads(out.read_text())
    assert written["verdicts"]["differs"] == 0
    assert (written["claims"]["number"], written["claims"]["verified"]) == (18, 13)
    wrong = store.read_json(runs[0]) | {f"align.trained.gain.{VIEW}": 0.9}
    store.write_json(tmp_path / "wrong.json", wrong)
    verify.run(measured=tmp_path / "wrong.json", **given)
    assert json.loads(out.read_text())["verdicts"]["differs"] == 1
    with pytest.raises(
        store.CheckFailed, match=rf"align\.trained\.gain\.{VIEW}: expected .* within .*, got 0\.9"
    ) as failed:
        verify.run(measured=tmp_path / "wrong.json", strict=True, **given)
    assert failed.value.exit_code == 1
    assert "\n" not in failed.value.message
    with pytest.raises(store.UserError, match="no such file") as missing:
        verify.run(measured=tmp_path / "none.json", strict=True, **given)
    assert missing.value.exit_code == 2


def test_verify_on_a_terminal_is_a_rich_table(
    recorded: Path, runs: list[Path], tmp_path: Path, smoke: Params, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    verify.run(
        measured=runs[0], reported=REPORTED, expected=recorded, out=tmp_path / "v.json", params=smoke, every=True
    )
    assert "┃" in capsys.readouterr().out


def test_the_committed_expectations_load() -> None:
    sections = load_yaml(ROOT / "paper" / "expected.yaml")["profiles"]
    for section in sections.values():
        assert len(section["recorded_under"]["sha256"]) == 64
        for entry in section["keys"].values():
            assert entry.keys() == {"value", "tolerance", "why"}
