"""The study: by DVC from a finished run and back, and its stages in this process: rows, checkpoints, attention sink."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from checkout import Checkout
from tiny import ROOT
from tli.config import parameters, study
from tli.config.parameters import Key, Params
from tli.data.words.lexicon import read_pairs
from tli.io.errors import UserError
from tli.io.files import sha256_of
from tli.io.rows import read_rows
from tli.model import lora
from tli.stages import check
from tli.stages import study as stage

SMOKE = ROOT / "tests" / "smoke" / "params.yaml"
PAIRS, VOCABULARY = ROOT / "data" / "pairs.tsv", ROOT / "data" / "world"


# By DVC.


def study_of(checkout: Checkout) -> Path:
    return checkout.root / "build" / checkout.model / "study"


def keys_run(output: str) -> list[str]:
    """The keys whose stage DVC ran, from what it printed."""
    marker = "Running stage 'study@"
    return [line.removeprefix(marker).rstrip("':") for line in output.splitlines() if line.startswith(marker)]


@pytest.fixture(scope="module")
def repro(done: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A finished run, in which two keys of the study were then added and run: one with an attention sink."""
    checkout = done.copied(tmp_path_factory.mktemp("study") / "project")
    checkout.edit("study: []", "study: [s1-2r, s1-sink]")
    checkout.edit("2r: {ranks: [2, 4]", "2r: {ranks: [2]")
    output = checkout("dvc", "repro")
    assert keys_run(output) == ["s1-2r", "s1-sink"]
    measured = {
        "microworld",
        "base",
        "quantize",
        "base-rows",
        "train",
        "similarity",
        "score",
        "sweep-train",
        "sweep-score",
    }
    assert not checkout.ran(output) & measured, "a study measures nothing of the run again"
    return checkout


def test_a_study_reaches_the_tables_by_dvc_repro(repro: Checkout) -> None:
    assert repro("dvc", "status", "--json").strip() == "{}"
    assert {path.name for path in study_of(repro).iterdir() if path.is_dir()} == {"plan", "s1-2r", "s1-sink"}
    tables = json.loads((repro.root / "results" / repro.model / "tables.json").read_text(encoding="utf-8"))
    names = [table["name"] for table in tables["tables"]]
    assert {"study_similarity", "study_scores", "study_controls", "study_sink", "study_sink_training"} <= {*names}


def test_without_its_keys_all_is_as_before_and_dvc_s_cache_has_their_rows(
    done: Checkout, repro: Checkout, tmp_path: Path
) -> None:
    checkout = repro.copied(tmp_path / "project")
    checkout.edit("study: [s1-2r, s1-sink]", "study: []")
    checkout.edit("2r: {ranks: [2]", "2r: {ranks: [2, 4]")
    checkout("dvc", "repro")
    assert [path.name for path in study_of(checkout).iterdir() if path.is_dir()] == ["plan"]
    lock = done.lock()
    assert {name: entry for name, entry in checkout.lock().items() if name in lock and name != "check"} == {
        name: entry for name, entry in lock.items() if name != "check"
    }
    assert checkout.digests("results", "paper") == done.digests("results", "paper")
    checkout.edit("study: []", "study: [s1-sink]")
    assert keys_run(checkout("dvc", "repro", "study")) == [], "its rows come from DVC's cache"
    assert study_of(checkout).joinpath("s1-sink", "similarity.tsv").is_file()


def test_a_changed_variant_runs_its_own_keys_alone(repro: Checkout, tmp_path: Path) -> None:
    checkout = repro.copied(tmp_path / "project")
    checkout.edit("sink: {ranks: [2], changes: {}", "sink: {ranks: [2], changes: {train.lr: 1.0e-4}")
    assert keys_run(checkout("dvc", "repro", "study")) == ["s1-sink"]
    checkout.edit("shuffled: {ranks: [2]", "shuffled: {ranks: [4]")
    assert keys_run(checkout("dvc", "repro", "study")) == []


def test_every_key_is_a_stage_of_the_pipeline(repro: Checkout, tmp_path: Path) -> None:
    """`tli study-keys` gives what `dvc exp run -S` takes, and DVC makes a stage of each key."""
    checkout = repro.copied(tmp_path / "project")
    printed = checkout("tli", "study-keys").strip()
    checkout.edit("study: [s1-2r, s1-sink]", printed.replace("=", ": ").replace(",", ", "))
    listed = checkout("dvc", "stage", "list", "--name-only").split()
    keys = [str(key) for key in study.keys(parameters.load(checkout.root / "params.yaml"))]
    assert [name.removeprefix("study@") for name in listed if name.startswith("study@")] == keys
    assert len(keys) == 14


# In this process.


def planned(text: str, folder: Path) -> tuple[Key, Path, Params]:
    """A key, its file of the plan and its parameters."""
    whole = parameters.load(SMOKE, {"study": [text]})
    check.write_plan(folder / "plan", whole)
    return whole.key(text), folder / "plan" / f"{text}.json", parameters.load(SMOKE, {"study": [text]}, key=text)


def run(text: str, folder: Path) -> Path:
    """Runs a key as the stage does; returns the folder of its rows."""
    key, plan, params = planned(text, folder / f"plan-of-{text}")
    stage.run(key, plan, PAIRS, VOCABULARY, folder / text, params)
    return folder / text


def test_an_interrupted_key_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base and the first rank are kept, and the rows are those of a key that was not interrupted."""
    whole, done = run("s1-2r", tmp_path / "whole"), list[int]()
    rank_of = stage.run_rank

    def cut_off(variant: str, rank: int, *paths: object) -> None:
        done.append(rank)
        if rank == 4 and done.count(4) == 1:
            raise KeyboardInterrupt
        rank_of(variant, rank, *paths)  # type: ignore[arg-type]

    monkeypatch.setattr(stage, "run_rank", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run("s1-2r", tmp_path / "cut")
    kept = {path.name.rpartition(".")[0] for path in (tmp_path / "cut" / ".kept" / "s1-2r").glob("*/*")}
    assert kept == {"base", "base-rows", "r2"}
    monkeypatch.setattr(stage, "make_base", lambda *_: pytest.fail("the base is made twice"))
    resumed = run("s1-2r", tmp_path / "cut")
    assert done == [2, 4, 4]
    assert {path.name: sha256_of(path) for path in resumed.iterdir()} == {
        path.name: sha256_of(path) for path in whole.iterdir()
    }
    assert not (tmp_path / "cut" / ".kept").exists()


def test_a_plan_of_other_parameters_is_refused(tmp_path: Path) -> None:
    key, plan, params = planned("s1-2r", tmp_path)
    other = params.model_copy(update={"train": params.train.model_copy(update={"lr": 1.0})})
    with pytest.raises(UserError, match=r"s1-2r\.json: expected the parameters of params\.yaml, got others; run `dvc"):
        stage.run(key, plan, PAIRS, VOCABULARY, tmp_path / "out", other)


def test_the_plan_removes_rows_of_other_keys(tmp_path: Path) -> None:
    for name in ("s1-2r", "s9-gone", ".kept"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.receipt.json").touch()
    planned("s1-2r", tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"plan", "s1-2r", ".kept"}
    assert not (tmp_path / "s9-gone.receipt.json").exists()
    assert (tmp_path / "plan" / check.KEYS).read_text(encoding="utf-8") == "s1-2r\n"


def test_a_plan_names_what_a_key_depends_on_and_nothing_else() -> None:
    base = parameters.load(SMOKE)

    def plan(text: str, **changes: object) -> dict[str, object]:
        dotted = {key.replace("__", "."): value for key, value in changes.items()}
        return study.settings(base.key(text), parameters.load(SMOKE, dotted, key=text))

    for change in (
        {"lora__rank": 8},
        {"train__seed": 3},
        {"sweep__ranks": [8]},
        {"translate__shots": 1},
        {"sink__ratio": 9.0},
    ):
        assert plan("s1-2r") == plan("s1-2r", **change), change
    for change in ({"lora__dropout": 0.1}, {"sweep__seeds": [7]}, {"variants__2r__ranks": [8]}):
        assert plan("s1-2r") != plan("s1-2r", **change), change
    assert plan("s1-sink") != plan("s1-sink", sink__ratio=9.0)
    assert plan("s1-shuffled")["train"] != plan("s1-2r")["train"]
    profile = {"model", "benchmarks", "compute"}
    assert {*plan("s1-2r")} == {
        "base",
        "variant",
        "quantize",
        "lora",
        "train",
        "measure",
        "score",
        "sweep",
        "sink",
        *profile,
    }


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of every variant on one base, and of the first on another."""
    folder = tmp_path_factory.mktemp("every")
    for key in study.keys(parameters.load(SMOKE), ["s1-*", "s2-2r"]):
        run(str(key), folder)
    return folder


@pytest.mark.slow
def test_every_key_has_the_ranks_and_seeds_of_its_variant(every: Path) -> None:
    params = parameters.load(SMOKE)
    for name, variant in params.variants.items():
        runs = {f"r{rank}-s{seed}" for rank in variant.ranks for seed in params.sweep.seeds}
        for file in ("similarity.tsv", "score.tsv"):
            rows = read_rows(every / f"s1-{name}" / file)
            assert set(rows["run"]) - {"untrained"} == {"base", *runs}
            of_runs = rows[rows["rank"] > 0]
            assert set(of_runs["variant"]) == {name}
            assert {*of_runs["measure"]} == {*rows[rows["rank"] == 0]["measure"]} - {"padding_drift"}


@pytest.mark.slow
def test_bases_differ_and_no_two_variants_train_the_same_adapter(every: Path) -> None:
    for file in ("items.jsonl", "similarity.tsv", "base.json"):
        assert sha256_of(every / "s1-2r" / file) != sha256_of(every / "s2-2r" / file), file
    assert len(read_pairs(PAIRS)) > 600
    means = []
    for name in parameters.load(SMOKE).variants:
        rows = read_rows(every / f"s1-{name}" / "similarity.tsv")
        chosen = rows[(rows["run"] == "r2-s0") & (rows["set"] == "trained") & (rows["measure"] == "cosine_mean")]
        means.append(tuple(chosen["value"]))
    assert len(set(means)) == len(means)


def mean(rows: Path, view: str, measure: str) -> float:
    """A measure of the base, over all pairs."""
    frame = read_rows(rows / "similarity.tsv")
    chosen = frame[(frame["run"] == "base") & (frame["view"] == view) & (frame["set"] == "all")]
    return float(chosen[chosen["measure"] == measure]["value"].astype(float).mean())


@pytest.mark.slow
def test_with_a_sink_words_are_as_before_and_any_two_look_alike_with_bos_in(every: Path) -> None:
    plain, sink = every / "s1-2r", every / "s1-sink"
    for layer in ("1", "2"):
        for measure in ("cosine_mean", "random_cosine_mean", "p_at_1.sw_en"):
            values = [mean(rows, f"{layer}.content.nf4", measure) for rows in (plain, sink)]
            assert values[0] == pytest.approx(values[1], abs=0.02), (layer, measure)
    rows = read_rows(sink / stage.SINK).pivot_table(index="view", columns="measure", values="value")
    assert rows["ratio_before"].max() < 20
    np.testing.assert_allclose(rows["ratio"][1:], parameters.load(SMOKE).sink.ratio, rtol=0.1)
    assert rows["leak"].max() < 0.05
    assert mean(plain, "2.mask.nf4", "random_cosine_mean") < 0.999
    assert mean(sink, "2.mask.nf4", "random_cosine_mean") > 0.9999
    assert not (plain / stage.SINK).exists()


@pytest.mark.slow
def test_lora_on_all_blocks_learns_in_those_that_the_loss_reaches(tmp_path: Path) -> None:
    params = parameters.load(SMOKE, key="s1-all-blocks")
    stage.make_base(False, PAIRS, VOCABULARY, params, tmp_path / "base")
    stage.run_rank("all-blocks", 2, PAIRS, tmp_path / "base", params, tmp_path / "all-blocks")
    zero = {where: norm.b_is_zero for where, norm in lora.norms(tmp_path / "all-blocks" / "adapters" / "s0").items()}
    assert {block for block, _ in zero} == set(range(1, params.active.model.blocks + 1))
    assert {block for (block, _), is_zero in zero.items() if not is_zero} == set(range(1, params.train.layer + 1))
    last = parameters.load(SMOKE, key="s1-layer-last")
    stage.run_rank("layer-last", 2, PAIRS, tmp_path / "base", last, tmp_path / "last")
    assert not any(norm.b_is_zero for norm in lora.norms(tmp_path / "last" / "adapters" / "s0").values())


def test_what_a_sink_changes_of_the_weights(tmp_path: Path) -> None:
    """It adds neurons to each MLP and leaves every weight that is there."""
    from safetensors.torch import load_file

    params = parameters.load(SMOKE, key="s1-sink")
    stage.make_base(True, PAIRS, VOCABULARY, params, tmp_path)
    before, after = (load_file(tmp_path / kind / "model.safetensors") for kind in ("weights", "sink"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        unchanged = after[name][tuple(slice(size) for size in tensor.shape)]
        assert (unchanged == tensor).all(), name
        assert (after[name].shape != tensor.shape) == ("mlp" in name)
