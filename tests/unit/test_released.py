"""The released benchmarks: parquet files become items, XCOPA's `question` is compared with COPA's, tables show both."""

from __future__ import annotations

import json
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import synthetic
from tiny import ROOT, SHARED
from tli.analysis import render
from tli.analysis.results import read_results
from tli.analysis.table import Table
from tli.config import parameters
from tli.config.benchmarks import HubBenchmarks, Limit
from tli.config.parameters import Params
from tli.data.benchmarks import items, released
from tli.data.benchmarks.prompts import Source
from tli.io.errors import UserError
from tli.io.rows import Row, read_rows, write_rows
from tli.io.structured import read_json, write_json
from tli.stages import benchmarks, tables

SMOKE = parameters.load(ROOT / "tests" / "smoke" / "params.yaml")
PUBLISHED = parameters.load(ROOT / "params.yaml").profiles["lugha_llama"]
N = 12  # made-up items a language and split


def params(split: str = "default", limit: int | None = None, **languages: list[str]) -> Params:
    """The smoke parameters with the paper profile's benchmarks: its repositories, fewer languages."""
    settings = PUBLISHED.benchmarks
    assert isinstance(settings, HubBenchmarks)
    tasks = {
        task: getattr(settings, task).model_copy(update={"languages": tuple(languages.get(task, default))})
        for task, default in (("xcopa", ["sw", "it"]), ("xnli", ["en", "sw"]))
    }
    hub = settings.model_copy(update=tasks | {"limit": limit and Limit(items=limit, seed=0)})
    profile = SMOKE.active.model_copy(update={"benchmarks": hub})
    update = {"profiles": {SMOKE.model: profile}, "score": parameters.Score(split=split)}
    return SMOKE.model_copy(update=update)


def choices(language: str, n: int, **changes: Any) -> dict[str, Any]:
    """Item n of made-up COPA in a language: causes are asked for even n, effects for odd."""
    row = {
        "premise": f"P{n} {language}.",
        "choice1": f"One {n}.",
        "choice2": f"Two {n}.",
        "question": ("cause", "effect")[n % 2],
        "label": n % 2,
        "idx": n,
        "changed": False,
    }
    return row | changes


def pair(language: str, n: int) -> dict[str, Any]:
    return {"premise": f"P{n} {language}", "hypothesis": ("So.", "Maybe.", "Never.")[n % 3], "label": n % 3}


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows).to_parquet(path)


@pytest.fixture
def repositories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Made-up repositories in the layout of the real ones, in place of the hub; a folder each.

    XCOPA sw: questions 0 and 4 of test and 2 of validation are released as `effect`; its splits have two files. COPA's
    test labels are kept back, as they are on the hub.
    """
    root = tmp_path / "repositories"
    for split in released.SPLITS:
        wrong = (0, 4) if split == "test" else (2,)
        swahili = [choices("sw", n, **({"question": "effect"} if n in wrong else {})) for n in range(N)]
        parquet(root / "xcopa" / "sw" / f"{split}-00000-of-00002.parquet", swahili[:5])
        parquet(root / "xcopa" / "sw" / f"{split}-00001-of-00002.parquet", swahili[5:])
        parquet(root / "xcopa" / "it" / f"{split}-00000-of-00001.parquet", [choices("it", n) for n in range(N)])
        hidden = {"label": released.HIDDEN} if split == "test" else {}
        english = [choices("en", n, **hidden) for n in range(N)]
        parquet(root / "super_glue" / "copa" / f"{split}-00000-of-00001.parquet", english)
        for language in ("en", "sw"):
            rows = [pair(language, n) for n in range(N)]
            parquet(root / "xnli" / language / f"{split}-00000-of-00001.parquet", rows)
    for name in ("xcopa", "super_glue", "xnli"):
        parquet(root / name / "other" / "train-00000-of-00001.parquet", [{"x": 1}])

    def folder(repo: released.fetch.Repo) -> Path:
        return root / repo.name.rpartition("/")[2]

    def listing(repo: released.fetch.Repo, _manifest: Path) -> list[str]:
        assert len(repo.revision) == 40, "what is listed is pinned"
        return [str(path.relative_to(folder(repo))) for path in folder(repo).rglob("*.parquet")]

    def fetch(repo: released.fetch.Repo, names: list[str], _manifest: Path) -> dict[str, Path]:
        assert not [name for name in names if fnmatch(name, "*train*")], "no training split is fetched"
        return {name: folder(repo) / name for name in names}

    monkeypatch.setattr(released.fetch, "pinned", lambda repo, _manifest: repo._replace(revision="0" * 40))
    monkeypatch.setattr(released.fetch, "listing", listing)
    monkeypatch.setattr(released.fetch, "fetch", fetch)
    return root


def stage(folder: Path, chosen: Params) -> tuple[list[items.Item], dict[str, Any], Any]:
    """Items, metrics and baseline rows of the stage `benchmarks`; the world's folder is not there."""
    benchmarks.run(folder / "no-world", folder / "out", folder / "metrics.json", chosen)
    rows = read_rows(folder / "out" / "baselines.tsv")
    return items.read_items(folder / "out" / "items.jsonl"), read_json(folder / "metrics.json"), rows


def split_by_set(asked: list[items.Item]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for item in asked:
        found.setdefault(f"{item.task}.{item.language}", set()).add(item.split)
    return found


def test_each_task_is_scored_on_the_harness_s_own_split(repositories: Path, tmp_path: Path) -> None:
    asked, metrics, rows = stage(tmp_path, params())
    assert split_by_set(asked) == {
        "xcopa.en": {"validation"},
        "xcopa.sw": {"test"},
        "xcopa.it": {"test"},
        "xcopa-corrected.sw": {"test"},
        "xnli.en": {"validation"},
        "xnli.sw": {"validation"},
    }
    swahili = [item for item in asked if (item.task, item.language) == ("xcopa", "sw")]
    assert [item.id for item in swahili] == [f"xcopa.sw.test.{n:04}" for n in range(N)], "every file, in order"
    assert [item.label for item in swahili] == [n % 2 for n in range(N)]
    english = next(item for item in asked if item.id == "xcopa.en.validation.0001")
    assert (english.context, english.options) == ("P1 en therefore", ("  one 1.", "  two 1."))
    assert metrics["xnli.sw.scored"] == "validation"
    assert metrics["xcopa.sw.test.released"] == N
    fitted = {set_: set(part["run"]) for set_, part in rows.groupby("set")}
    assert fitted == {set_: {"choice-only"} for set_ in ("xcopa.en", "xcopa.it", "xcopa.sw", "xnli.en", "xnli.sw")}, (
        "COPA's test labels are kept back, so it is cross-validated; there is no corpus for n-grams"
    )


def test_items_with_another_question_are_asked_a_second_time(repositories: Path, tmp_path: Path) -> None:
    asked, metrics, _ = stage(tmp_path, params())
    again = [item for item in asked if item.task == "xcopa-corrected"]
    assert [item.id for item in again] == ["xcopa.sw.test.0000", "xcopa.sw.test.0004"]
    first = {item.id: item for item in asked if item.task == "xcopa"}
    for item in again:
        assert item.context.removesuffix("kwa sababu") == first[item.id].context.removesuffix("kwa hiyo")
        assert item.options == first[item.id].options
    audited = {key: value for key, value in metrics.items() if "question" in key or "compared" in key}
    hidden = "idx alone: English COPA's labels are kept back"
    expected = {}
    for key, differ, basis in (
        ("sw.validation", 1, "idx and labels"),
        ("sw.test", 2, hidden),
        ("it.validation", 0, "idx and labels"),
        ("it.test", 0, hidden),
    ):
        found = {"questions_compared": N, "questions_differ": differ, "compared_by": basis}
        expected |= {f"xcopa.{key}.{name}": value for name, value in found.items()}
    assert audited == expected


def test_english_without_labels_is_left_out_and_said_so(repositories: Path, tmp_path: Path) -> None:
    asked, metrics, _ = stage(tmp_path, params(split="test"))
    assert split_by_set(asked).keys() == {"xcopa.sw", "xcopa.it", "xcopa-corrected.sw", "xnli.en", "xnli.sw"}
    assert {split for splits in split_by_set(asked).values() for split in splits} == {"test"}
    assert metrics["xcopa.en.left_out"] == "the labels of its test split are not released"
    assert metrics["xcopa.en.test.hidden_labels"] == N
    assert "xcopa.en.scored" not in metrics
    asked, metrics, _ = stage(tmp_path, params(split="validation"))
    assert split_by_set(asked).keys() >= {"xcopa.en", "xcopa-corrected.sw"}
    assert {split for splits in split_by_set(asked).values() for split in splits} == {"validation"}


def test_a_limit_keeps_the_same_items_of_every_language(repositories: Path, tmp_path: Path) -> None:
    whole, _, _ = stage(tmp_path, params())
    asked, metrics, _ = stage(tmp_path, params(limit=10))
    assert asked == [item for item in whole if item in asked], "in the order of the file"
    numbers: dict[str, set[str]] = {}
    for item in asked:
        numbers.setdefault(f"{item.task}.{item.language}", set()).add(item.id.rpartition(".")[2])
    assert len(numbers["xcopa.sw"]) == 10
    assert numbers["xcopa.sw"] == numbers["xcopa.it"]
    assert numbers["xnli.en"] == numbers["xnli.sw"]
    assert (metrics["xcopa.sw.test.items"], metrics["xcopa.sw.test.released"]) == (10, N)
    assert metrics["xcopa.sw.test.questions_differ"] == 2, "the audit reads the whole split"
    assert metrics["xcopa.sw.validation.items"] == N, "what the baseline is fitted on is whole"


def test_the_same_bytes_twice(repositories: Path, tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        stage(tmp_path / name, params())
        written.append([path.read_bytes() for path in sorted((tmp_path / name).rglob("*")) if path.is_file()])
    assert written[0] == written[1]


# Comparing two lists.


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(10, 40), st.integers(0, 5))
def test_a_limit_takes_whole_premises(premises: list[int], most: int, seed: int) -> None:
    texts = [{"premise": f"P{premise}.", "hypothesis": f"H{idx}."} for idx, premise in enumerate(premises)]
    items_by_idx = {idx: Source(f"i{idx}", "xnli", "en", "test", 0, text) for idx, text in enumerate(texts)}
    chosen = released.whole_premises(items_by_idx, Limit(items=most, seed=seed))
    assert len(chosen) <= most
    inside = {premises[idx] for idx in chosen}
    assert chosen == {idx for idx, premise in enumerate(premises) if premise in inside}
    assert chosen == released.whole_premises(items_by_idx, Limit(items=most, seed=seed))
    if len(premises) <= most:
        assert chosen == {*items_by_idx}


def group(questions: list[str], labels: list[int]) -> released.Group:
    texts = [{"premise": "p", "choice1": "a", "choice2": "b", "question": question} for question in questions]
    return {
        n: Source(f"i{n}", "xcopa", "sw", "test", label, text)
        for n, (label, text) in enumerate(zip(labels, texts, strict=True))
    }


@given(
    st.lists(st.tuples(st.sampled_from(released.QUESTIONS), st.integers(0, 1), st.booleans()), min_size=1),
    st.booleans(),
)
def test_what_differs_is_found_and_nothing_else(drawn: list[tuple[str, int, bool]], known: bool) -> None:
    english = group([question for question, _, _ in drawn], [label if known else -1 for _, label, _ in drawn])
    other = {"cause": "effect", "effect": "cause"}
    own = group(
        [other[question] if flip else question for question, _, flip in drawn], [label for _, label, _ in drawn]
    )
    found = released.compare(own, english)
    assert found.compared == len(drawn)
    assert found.differing == {n: question for n, (question, _, flip) in enumerate(drawn) if flip}
    assert ("labels" in found.basis.partition(":")[0]) == known
    assert {item.task for item in released.corrections(own, found)} <= {"xcopa-corrected"}


@pytest.mark.parametrize(
    ("wrong", "basis", "compared"),
    [
        (0, "idx and labels", 100),
        (5, "idx and labels, of which 5 differ and are left out", 95),
        (6, "not compared: 6 of 100 labels differ from English COPA's", 0),
    ],
)
def test_lists_whose_labels_differ_are_not_compared(wrong: int, basis: str, compared: int) -> None:
    english = group(["cause"] * 100, [0] * 100)
    own = group(["effect"] * 100, [1] * wrong + [0] * (100 - wrong))
    found = released.compare(own, english)
    assert (found.basis, found.compared) == (basis, compared)
    assert found.differing == dict.fromkeys(range(wrong, wrong + compared), "cause")


REAL = {
    ("sw", "test"): (500, 37),
    ("sw", "val"): (100, 6),
    ("it", "test"): (500, 4),
    ("it", "val"): (100, 5),
    ("zh", "test"): (500, 0),
    ("zh", "val"): (100, 0),
}


@pytest.mark.parametrize(("language", "split"), REAL)
@pytest.mark.parametrize("hidden", [False, True], ids=["labels known", "labels kept back"])
def test_the_released_defect(language: str, split: str, hidden: bool) -> None:
    """Read off the released files: in every item that differs, a cause is asked for as an effect."""
    read = {}
    for name, file in (("own", f"xcopa/{language}/{split}.{language}.jsonl"), ("en", f"copa/copa.{split}.en.jsonl")):
        if not (SHARED / file).is_file():
            pytest.skip(f"no real items here: {SHARED / file} is missing; TLI_SHARED names the folder that holds them")
        rows = [json.loads(line) for line in (SHARED / file).read_text(encoding="utf-8").split("\n") if line]
        rows = [row | {"label": -1} for row in rows] if hidden and name == "en" else rows
        read[name] = dict(released._items(file, "xcopa", language, split, rows))
    found = released.compare(read["own"], read["en"])
    assert (found.compared, len(found.differing)) == REAL[language, split]
    assert set(found.differing.values()) <= {"cause"}
    assert {read["own"][idx].texts["question"] for idx in found.differing} <= {"effect"}
    shuffled = {idx: read["own"][(idx + 1) % len(read["own"])] for idx in read["own"]}
    assert released.compare(shuffled, read["en"]).basis.startswith("idx alone" if hidden else "not compared")


# What is refused.


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "why"}, "row 3: question: expected cause or effect, got 'why'"),
        ({"label": 2}, "row 3: label: expected -1 to 1, got 2"),
        ({"choice2": " "}, "row 3: choice2: expected a text, got ' '"),
        ({"idx": 1}, "row 3: idx: expected each number once, got 1"),
    ],
)
def test_a_row_that_is_no_item_is_one_line(
    row: dict[str, Any], message: str, repositories: Path, tmp_path: Path
) -> None:
    rows = [choices("it", n, **(row if n == 3 else {})) for n in range(N)]
    parquet(repositories / "xcopa" / "it" / "test-00000-of-00001.parquet", rows)
    with pytest.raises(UserError) as caught:
        stage(tmp_path, params())
    assert caught.value.message.startswith(f"cambridgeltl/xcopa/it/test-00000-of-00001.parquet: {message}")
    assert "\n" not in caught.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (params(xcopa=["en"]), "params.yaml: benchmarks.xcopa.languages: expected some of et, ht, id"),
        (params(xnli=["it"]), "params.yaml: benchmarks.xnli.languages: expected some of ar, bg, de"),
        (
            params(xcopa=["et"]),
            "cambridgeltl/xcopa@" + "0" * 40 + ": expected files et/validation-*.parquet, got none",
        ),
    ],
)
def test_a_language_that_is_not_there_is_one_line(
    chosen: Params, message: str, repositories: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        stage(tmp_path, chosen)
    assert caught.value.message.startswith(message)


def test_a_file_that_is_no_parquet_is_one_line(repositories: Path, tmp_path: Path) -> None:
    path = repositories / "xnli" / "sw" / "validation-00000-of-00001.parquet"
    path.write_bytes(b"an error page")
    with pytest.raises(UserError) as caught:
        stage(tmp_path, params())
    assert caught.value.message.startswith(f"{path}: expected a parquet file of a dataset, got: ")
    assert "\n" not in caught.value.message


# The tables.


def again(path: Path, runs: Callable[[str], bool]) -> None:
    """Adds to score rows the first ten Swahili items, asked again, and now all answered rightly."""
    frame = read_rows(path)
    chosen = frame["item"].isin([f"xcopa.sw.test.{n:04}" for n in range(10)]) & frame["run"].map(runs)
    extra = frame[chosen].assign(set="xcopa-corrected.sw")
    extra.loc[extra["measure"] == "correct", "value"] = 1.0
    rows = [Row(*row) for row in [*frame.itertuples(index=False), *extra.itertuples(index=False)]]
    write_rows(path, rows)


def filtered(path: Path, keep: Callable[[Any], Any]) -> None:
    """Leaves the rows for which `keep` holds."""
    frame = read_rows(path)
    write_rows(path, [Row(*row) for row in frame[keep(frame)].itertuples(index=False)])


def score_files(made: dict[str, Any]) -> list[Path]:
    """The score rows: of the base, of the paper's configuration, of the sweep."""
    build: Path = made["build"]
    return [build / "base-rows" / "score.tsv", build / "score.tsv", *build.glob("sweep/rows/*/score.tsv")]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Synthetic rows of every language of lugha_llama, without the micro-world's own baselines."""
    profile = PUBLISHED.model_copy(update={"model": SMOKE.active.model})
    hub = SMOKE.model_copy(update={"profiles": {SMOKE.model: profile}})
    chosen = PUBLISHED.benchmarks
    assert isinstance(chosen, HubBenchmarks)
    sets = [f"xcopa.{language}" for language in ("en", *chosen.xcopa.languages)]
    sets += [f"xnli.{language}" for language in chosen.xnli.languages]
    monkeypatch.setattr(synthetic, "SETS", tuple(sets))
    made = synthetic.fabricate(tmp_path, hub, pairs=(6, 4), items=20)
    baselines = made["build"] / "benchmarks" / "baselines.tsv"
    filtered(baselines, lambda rows: (rows["run"] == "choice-only") & (rows["set"] != "xcopa.en"))
    filtered(score_files(made)[0], lambda rows: rows["run"] != "untrained")
    counts = read_json(made["metrics"] / "benchmarks.json")
    defaults = {f"{set_}.scored": released.scored_split(*set_.split("."), "default") for set_ in sets}
    write_json(made["metrics"] / "benchmarks.json", counts | defaults)
    write_json(made["metrics"] / "microworld.json", {})
    return made


def compute(made: dict[str, Any], *names: str) -> dict[str, Table]:
    results = read_results(made["build"], made["metrics"], made["published"], made["params"])
    return {name: tables.compute(name, results, made["params"], lambda *_: None) for name in names}


def test_every_language_reaches_the_tables_under_its_split(made: dict[str, Any]) -> None:
    by_name = compute(made, "accuracy_by_rank", "changes", "gap", "calibration", "classes", "baselines", "items")
    rows = by_name["accuracy_by_rank"].rows
    xcopa, xnli = ([row for row in rows if row["task"] == task] for task in ("XCOPA", "XNLI"))
    assert len({row["language"] for row in xcopa}) == 12
    english = {(row["language"], row["split"]) for row in xcopa if "English" in row["language"]}
    assert english == {("English (COPA)", "validation")}
    assert {row["split"] for row in xcopa if "English" not in row["language"]} == {"test"}
    assert len({row["language"] for row in xnli}) == 15
    assert {(row["split"], row["n"]) for row in xnli} == {("validation", 20)}
    columns = [column.key for column in by_name["accuracy_by_rank"].columns]
    assert "version" not in columns, "no column for a difference that does not exist"
    for name, table in by_name.items():  # the items are not the micro-world's
        text = render.to_md(table)
        assert "-form" not in text, name
        assert "micro-world" not in text, name
    for row in by_name["baselines"].rows:
        missing = {name for name in ("partial", "ngram", "untrained", "ceiling") if row[name] is None}
        assert missing == {"ngram", "untrained", "ceiling"} | ({"partial"} if "COPA)" in row["language"] else set())


def test_released_and_corrected_stand_side_by_side(made: dict[str, Any]) -> None:
    for path in score_files(made):
        again(path, lambda run: run != "untrained")
    by_name = compute(made, "accuracy_by_rank", "classes", "baselines")
    table = by_name["accuracy_by_rank"]
    scores = pd.concat([read_rows(path) for path in score_files(made)[:2]])
    right = scores[(scores["measure"] == "correct") & (scores["set"] == "xcopa.sw")]
    right = right.assign(value=right["value"].astype(float))
    for run in ("base", "main"):
        values = right[right["run"] == run].set_index("item")["value"]
        expected = {"released": 100 * values.mean()}
        values.iloc[:10] = 1
        expected["corrected"] = 100 * values.mean()
        rows = [row for row in table.matching(run=run) if row["set"].endswith(".sw") and row["task"] == "XCOPA"]
        assert {row["version"]: row["accuracy"] for row in rows} == pytest.approx(expected)
    assert {row["version"] for row in table.matching(set="xcopa.it")} == {"released"}
    accuracies = [table.number("accuracy", set=set_, run="base") for set_ in ("xcopa.sw", "xcopa-corrected.sw")]
    assert accuracies == sorted(accuracies)
    assert table.matching(set="xcopa-corrected.sw", run="sweep")
    assert any("asked with English COPA's" in note for note in table.notes)
    for name in ("classes", "baselines"):
        assert {row["version"] for row in by_name[name].rows} == {"released", "corrected"}


def test_what_is_left_out_or_cut_is_a_note(made: dict[str, Any]) -> None:
    counts = read_json(made["metrics"] / "benchmarks.json")
    del counts["xcopa.en.scored"]
    counts |= {"xcopa.en.left_out": "the labels of its test split are not released", "xcopa.en.test.hidden_labels": 500}
    write_json(made["metrics"] / "benchmarks.json", counts)
    for path in score_files(made):
        filtered(path, lambda rows: rows["set"] != "xcopa.en")
    hub = made["params"].active.benchmarks.model_copy(update={"limit": Limit(items=20, seed=0)})
    profile = made["params"].active.model_copy(update={"benchmarks": hub})
    made["params"] = made["params"].model_copy(update={"profiles": {SMOKE.model: profile}})
    for name, table in compute(made, "accuracy_by_rank", "changes", "items", "baselines", "classes").items():
        assert "XCOPA, English (COPA): not scored, the labels of its test split are not released" in table.notes, name
        assert any("At most 20 items of each set are scored" in note for note in table.notes), name
