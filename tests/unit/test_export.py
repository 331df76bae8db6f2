"""Exports: scores as lm-evaluation-harness writes them for the same items and model; tables with nine digits."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import make_table

import harness
from synthetic import fabricate
from tiny import ROOT
from tli.analysis.render import ModelTables, write_model
from tli.analysis.row_file import read_files
from tli.analysis.table import Column, Table
from tli.cli import main
from tli.commands import export_results
from tli.config import parameters
from tli.config.parameters import Params
from tli.data.benchmarks import prompts
from tli.io.rows import read_rows, write_rows
from tli.io.structured import read_json
from tli.measure import scoring
from tli.measure.views import BASE
from tli.model import checkpoint

TASKS = {("xcopa", "sw"): "xcopa_sw", ("xcopa", "en"): "copa", ("xnli", "sw"): "xnli_sw"}
COUNTS: dict[str, Any] = {
    "xcopa.sw.scored": "test",
    "xcopa.en.scored": "validation",
    "xnli.sw.scored": "validation",
}


@pytest.fixture
def hub(params: Params) -> Params:
    """The tiny model's parameters with the published benchmarks."""
    published = parameters.load(ROOT / "params.yaml").profiles["lugha_llama"]
    profile = params.active.model_copy(update={"benchmarks": published.benchmarks})
    return params.model_copy(update={"profiles": {params.model: profile}})


def test_the_export_is_what_the_harness_says(tiny_base: Path, hub: Params, tmp_path: Path) -> None:
    """Its own three tasks on one model, made-up items: the same sections, names, accuracies and standard errors."""
    model, tokenizer = checkpoint.load(tiny_base).float(), checkpoint.tokenizer(tiny_base)
    words = ["the dog is here", "a cat", "mbwa ni mtoto", "the water", "the sun is bread", "a tree"]
    records = [
        {
            "premise": f"{words[n % 6]} {words[n % 5]}.",
            "choice1": words[n % 6],
            "choice2": words[(n + 1 + n % 4) % 6],
            "hypothesis": words[n % 3],
            "question": ("cause", "effect")[n % 2],
            "label": n % 2,
            "idx": n,
        }
        for n in range(12)
    ]
    path = harness.write(tmp_path / "records.jsonl", records)
    tasks = [harness.task_of(*key, path, tmp_path / "cache") for key in TASKS]
    theirs = harness.evaluate(HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, device="cpu"), *tasks)
    sources = [source for key in TASKS for source in harness.sources(*key, records)]
    items = [prompts.render(source, released=True) for source in sources]
    write_rows(tmp_path / "rows.tsv", scoring.measure(BASE, scoring.prepare(items, tokenizer, 4), model))
    found = export_results.results(read_files(tmp_path / "rows.tsv"), "base", COUNTS, hub)
    for name in ("versions", "n-shot", "higher_is_better", "n-samples", "group_subtasks"):
        assert found[name] == theirs[name], name
    assert found["results"].keys() == theirs["results"].keys() == set(TASKS.values())
    for task, values in theirs["results"].items():
        assert found["results"][task] == pytest.approx(values), task
    assert theirs.keys() - found.keys() == {"samples"}
    ours = export_results.samples(read_files(tmp_path / "rows.tsv"), "base", COUNTS, hub)
    for task, samples in theirs["samples"].items():
        for mine, their in zip(ours[task], sorted(samples, key=lambda sample: sample["doc_id"]), strict=True):
            assert mine.keys() <= their.keys()
            assert their.keys() - mine.keys() == {"arguments", "doc_hash", "prompt_hash", "target_hash"}
            same = ("doc_id", "acc", "filter", "metrics")
            assert [mine[name] for name in same] == [their[name] for name in same]
            assert mine["target"] == str(their["doc"]["label"])
            for name in ("resps", "filtered_resps"):
                flat = [response[0] if name == "resps" else response for response in mine[name]]
                expected = [response[0] if name == "resps" else response for response in their[name]]
                assert [float(p) for p, _ in flat] == pytest.approx([p for p, _ in expected], abs=5e-4)
    for task, config in found["configs"].items():
        assert config.keys() <= theirs["configs"][task].keys() | {"dataset_name", "validation_split"}
    assert make_table(found) == make_table(theirs), "the harness's own table can be made of it"


@pytest.mark.parametrize(
    ("set_", "split", "name"),
    [
        ("xcopa.sw", "test", "xcopa_sw"),
        ("xcopa.en", "validation", "copa"),
        ("xnli.zh", "validation", "xnli_zh"),
        ("xcopa.sw", "validation", "xcopa_sw_validation"),
        ("xnli.sw", "test", "xnli_sw_test"),
        ("xcopa-corrected.sw", "test", "xcopa_sw_question_corrected"),
    ],
)
def test_a_name_is_the_harness_s_where_all_is_its_own(set_: str, split: str, name: str, hub: Params) -> None:
    task = set_.partition(".")[0].partition("-")[0]
    assert export_results.task_name(export_results.Shown(set_, task, "-", "released", split), hub) == name


@pytest.fixture(scope="module")
def known_tasks() -> set[str]:
    """The names of the harness's tasks in the folders of XCOPA, XNLI and COPA."""
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent
    files = [file for part in ("xcopa", "xnli", "super_glue") for file in (folder / part).rglob("*.yaml")]
    return {line.split(":")[1].strip() for file in files for line in file.read_text().splitlines() if "task: " in line}


def test_the_command_names_the_micro_world(tmp_path: Path, known_tasks: set[str], monkeypatch: Any) -> None:
    smoke = parameters.load(ROOT / "tests" / "smoke" / "params.yaml")
    given = fabricate(tmp_path, smoke, pairs=(6, 4), items=6)
    scores, metrics = given["build"] / "score.tsv", given["metrics"] / "benchmarks.json"
    monkeypatch.chdir(ROOT / "tests" / "smoke")
    call = ["export-results", "main", "--out", str(tmp_path / "results.json"), "--rows", str(scores)]
    call += ["--samples", str(tmp_path / "samples")]
    done = CliRunner().invoke(main, [*call, "--metrics", str(metrics)])
    assert done.exit_code == 0, done.output
    found = read_json(tmp_path / "results.json")
    languages = [(task, language) for task in ("xcopa", "xnli") for language in ("en", "sw")]
    assert set(found["results"]) == {f"micro_world_{task}_form_{language}" for task, language in languages}
    assert not set(found["results"]) & known_tasks
    assert {"xcopa_sw", "xnli_sw", "copa"} <= known_tasks
    assert set(found["versions"].values()) == {None}
    assert found["config"]["model_args"]["rank"] == smoke.lora.rank
    lines = harness.read(tmp_path / "samples" / "samples_micro_world_xnli_form_sw.jsonl")
    assert len(lines) == 6
    assert {*lines[0]["doc"]} == {"id"}, "no text of an item"
    right = [row for row in read_rows(scores).itertuples() if row.run == "main"]
    values = [float(row.value) for row in right if (row.set, row.measure) == ("xnli.sw", "correct")]
    assert found["results"]["micro_world_xnli_form_sw"]["acc,none"] == pytest.approx(sum(values) / len(values))

    done = CliRunner().invoke(main, ["export-results", "nobody", *call[2:], "--metrics", str(metrics)])
    assert done.exit_code == 2
    assert "expected one of main, got 'nobody'" in done.output


@pytest.mark.parametrize(
    ("run", "file"),
    [
        ("main", "score.tsv"),
        ("base", "base-rows/score.tsv"),
        ("untrained", "base-rows/score.tsv"),
        ("r8-s0", "sweep/rows/r8/score.tsv"),
    ],
)
def test_without_a_file_that_of_the_pipeline_is_read(
    run: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smoke = parameters.load(ROOT / "tests" / "smoke" / "params.yaml")
    smoke = smoke.model_copy(update={"sweep": smoke.sweep.model_copy(update={"ranks": (8,)})})
    build = fabricate(tmp_path, smoke, pairs=(6, 4), items=6)["build"]
    text = (ROOT / "tests" / "smoke" / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["export-results", run, "--out", "results.json"])
    assert done.exit_code == 0, done.output
    right = [*read_files(build / file).each(run, "xnli.sw", "-", "correct").values()]
    found = read_json(tmp_path / "results.json")
    assert found["results"]["micro_world_xnli_form_sw"]["acc,none"] == pytest.approx(sum(right) / len(right))


TABLE = Table(
    "gains",
    "Gains",
    "What a pair gains.",
    (Column("view", "view", id=True), Column("n", "n", "count"), Column("gain", "gain", "cosine_change")),
    ({"view": "2.mask.nf4", "n": 1234, "gain": -1 / 3}, {"view": "a, b", "n": 0}),
    text=(("2.mask.nf4", "1,234", "−0.3333"), ("a, b", "0", "-")),
)
SCORES = Table("scores", "Scores", "", (Column("set", "set", id=True), Column("p", "p", "p")), (), view="no layer")


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder after the stage `tables`."""
    text = (ROOT / "tests" / "smoke" / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    made = ModelTables("microworld", {table.name: table for table in (TABLE, SCORES)}, [])
    write_model(tmp_path / "results" / "microworld" / "tables.json", made)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_tables_are_exported_with_nine_digits_as_csv(written: Path) -> None:
    done = CliRunner().invoke(main, ["export", "tables"])
    assert done.exit_code == 0, done.output
    folder = written / "build" / "microworld" / "export" / "tables"
    assert {path.name for path in folder.iterdir()} == {"gains.csv", "scores.csv"}
    with (folder / "gains.csv").open(encoding="utf-8", newline="") as file:
        assert [*csv.reader(file)] == [
            ["view", "n", "gain"],
            ["2.mask.nf4", "1234", "-0.333333333"],
            ["a, b", "0", ""],
        ]
    assert (folder / "scores.csv").read_text(encoding="utf-8") == "set,p,view\n"


def test_tables_are_exported_as_json_with_the_keys_of_their_rows(written: Path) -> None:
    done = CliRunner().invoke(main, ["export", "tables", "--format", "json", "--out", "ready"])
    assert done.exit_code == 0, done.output
    table = json.loads((written / "ready" / "gains.json").read_text(encoding="utf-8"))
    assert table["columns"]["gain"] == {"title": "gain", "kind": "cosine_change"}
    assert table["rows"] == [
        {"key": "gains/2.mask.nf4", "view": "2.mask.nf4", "n": 1234, "gain": -0.333333333},
        {"key": "gains/a-b", "view": "a, b", "n": 0, "gain": None},
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tables", "--rank", "4"], "export tables: expected no --rank and no --seed, got one"),
        (["tables", "--format", "xml"], "export: invalid value for '--format'"),
        (["figures"], "export: invalid value for"),
    ],
)
def test_what_cannot_be_exported_is_one_line(written: Path, arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(main, ["export", *arguments])
    assert done.exit_code == 2
    assert message in done.output
    assert not (written / "build").exists()


def test_tables_of_no_run_are_one_line(written: Path) -> None:
    (written / "results" / "microworld" / "tables.json").unlink()
    done = CliRunner().invoke(main, ["export", "tables"])
    assert done.exit_code == 2
    assert "results/microworld/tables.json: no such file" in done.output
