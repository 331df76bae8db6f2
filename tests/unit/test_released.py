"""The released benchmarks: parquet files become items, XCOPA's `question` is held against COPA's, tables show both."""

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
from tli.config import parameters
from tli.config.parameters import Params
from tli.data.benchmarks import items, released
from tli.data.benchmarks.prompts import Source
from tli.io.errors import UserError
from tli.io.rows import Row, read_rows, write_rows
from tli.io.structured import read_json, write_json
from tli.paper import tables
from tli.stages import benchmarks

SMOKE = parameters.load(ROOT / "tests" / "smoke" / "params.yaml")
PUBLISHED = parameters.load(ROOT / "params.yaml").profiles["lugha_llama"]
N = 12  # made-up items a language and split


def params(split: str = "default", limit: int | None = None, **languages: list[str]) -> Params:
    """The smoke parameters with the paper profile's benchmarks: its repositories, fewer languages."""
    settings = PUBLISHED.benchmarks
    assert isinstance(settings, parameters.HubBenchmarks)
    tasks = {
        task: getattr(settings, task).model_copy(update={"languages": tuple(languages.get(task, default))})
        for task, default in (("xcopa", ["sw", "it"]), ("xnli", ["en", "sw"]))
    }
    hub = settings.model_copy(update=tasks | {"limit": limit})
    profile = SMOKE.active.model_copy(update={"benchmarks": hub})
    update = {"profiles": {SMOKE.model: profile}, "transfer": parameters.Transfer(split=split)}
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
    fitted = {set_: set(part["cell"]) for set_, part in rows.groupby("set")}
    assert fitted == {set_: {"choice-only"} for set_ in ("xcopa.it", "xcopa.sw", "xnli.en", "xnli.sw")}, (
        "COPA's test labels are kept back, so nothing can be fitted on them; there is no corpus for n-grams"
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


def test_a_limit_keeps_the_first_items_of_what_is_scored(repositories: Path, tmp_path: Path) -> None:
    whole, _, _ = stage(tmp_path, params())
    asked, metrics, _ = stage(tmp_path, params(limit=4))
    numbers = {(item.task, item.language): 0 for item in whole}
    kept = []
    for item in whole:
        first = item.task == "xcopa-corrected" or numbers[item.task, item.language] < 4
        numbers[item.task, item.language] += 1
        kept += [item] if first and item.id != "xcopa.sw.test.0004" else []
    assert asked == kept
    assert (metrics["xcopa.sw.test.items"], metrics["xcopa.sw.test.released"]) == (4, N)
    assert metrics["xcopa.sw.test.questions_differ"] == 2, "the audit reads the whole split"
    assert metrics["xcopa.sw.validation.items"] == N, "what the baseline is fitted on is whole"


def test_the_same_bytes_twice(repositories: Path, tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        stage(tmp_path / name, params())
        written.append([path.read_bytes() for path in sorted((tmp_path / name).rglob("*")) if path.is_file()])
    assert written[0] == written[1]


# Comparing two lists.


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


def again(path: Path, cells: Callable[[str], bool]) -> None:
    """Adds to transfer rows the first ten Swahili items, asked again, and now all answered rightly."""
    frame = read_rows(path)
    chosen = frame["item"].isin([f"xcopa.sw.test.{n:04}" for n in range(10)]) & frame["cell"].map(cells)
    extra = frame[chosen].assign(set="xcopa-corrected.sw")
    extra.loc[extra["measure"] == "correct", "value"] = 1.0
    rows = [Row(*row) for row in [*frame.itertuples(index=False), *extra.itertuples(index=False)]]
    write_rows(path, rows)


def base_scores(given: dict[str, Any]) -> Path:
    """The transfer rows of the base."""
    path: Path = given["base_rows"] / "score.tsv"
    return path


@pytest.fixture
def given_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Synthetic rows of every language of lugha_llama, without the micro-world's own baselines."""
    profile = PUBLISHED.model_copy(update={"model": SMOKE.active.model})
    hub = SMOKE.model_copy(update={"profiles": {SMOKE.model: profile}})
    chosen = PUBLISHED.benchmarks
    assert isinstance(chosen, parameters.HubBenchmarks)
    sets = [f"xcopa.{language}" for language in ("en", *chosen.xcopa.languages)]
    sets += [f"xnli.{language}" for language in chosen.xnli.languages]
    monkeypatch.setattr(synthetic, "SETS", tuple(sets))
    given = synthetic.fabricate(tmp_path, hub, pairs=(6, 4), items=20)
    baselines = read_rows(given["baselines"])
    kept = baselines[(baselines["cell"] == "choice-only") & (baselines["set"] != "xcopa.en")]
    write_rows(given["baselines"], [Row(*row) for row in kept.itertuples(index=False)])
    transfer = read_rows(base_scores(given))
    kept = transfer[transfer["cell"] != "untrained"]
    write_rows(base_scores(given), [Row(*row) for row in kept.itertuples(index=False)])
    counts = read_json(given["benchmarks"])
    defaults = {f"{set_}.scored": released.scored_split(*set_.split("."), "default") for set_ in sets}
    write_json(given["benchmarks"], counts | defaults)
    write_json(given["world"], {})
    return given


def read(given: dict[str, Any], name: str) -> list[dict[str, str]]:
    import csv

    with (given["tables"] / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_language_reaches_the_tables_under_its_split(given_rows: dict[str, Any]) -> None:
    tables.run(**given_rows)
    lines = read(given_rows, "xcopa")
    assert len({line["language"] for line in lines}) == 12
    assert {(line["language"], line["split"]) for line in lines if "English" in line["language"]} == {
        ("English (COPA)", "validation")
    }
    assert {line["split"] for line in lines if "English" not in line["language"]} == {"test"}
    assert len({line["language"] for line in read(given_rows, "xnli")}) == 15
    assert "on the validation split (20 items a language)" in (given_rows["tables"] / "xnli.md").read_text()
    assert "question" not in lines[0], "no column for a difference that there is not"
    assert "-form" not in (given_rows["tables"] / "README.md").read_text()
    for name in ("xcopa", "xnli", "classes", "baselines", "controls"):  # the items are not the micro-world's
        assert "micro-world" not in (given_rows["tables"] / f"{name}.md").read_text(), name
    for line in read(given_rows, "baselines"):
        missing = {name for name in ("partial", "ngram", "untrained", "ceiling") if line[name] == "-"}
        assert missing == {"ngram", "untrained", "ceiling"} | ({"partial"} if "COPA)" in line["language"] else set())


def test_released_and_corrected_stand_side_by_side(given_rows: dict[str, Any]) -> None:
    again(base_scores(given_rows), lambda cell: cell != "untrained")
    for path in (given_rows["transfer"], *given_rows["sweep"].glob("rows/*/score.tsv")):
        again(path, lambda _cell: True)
    tables.run(**given_rows)
    transfer = pd.concat([read_rows(path) for path in (base_scores(given_rows), given_rows["transfer"])])
    right = transfer[(transfer["measure"] == "correct") & (transfer["set"] == "xcopa.sw")]
    right = right.assign(value=right["value"].astype(float))
    lines = [line for line in read(given_rows, "xcopa") if line["language"] == "Swahili"]
    for cell, name in (("base", "base"), ("main", "paper's cell")):
        values = right[right["cell"] == cell].set_index("item")["value"]
        expected = {"released": 100 * values.mean()}
        values.iloc[:10] = 1
        expected["corrected"] = 100 * values.mean()
        found = {line["version"]: float(line["accuracy"]) for line in lines if line["cell"] == name}
        assert found == pytest.approx(expected)
    assert {line["version"] for line in read(given_rows, "xcopa") if line["language"] == "Italian"} == {"released"}
    measured = read_json(given_rows["measured"])
    assert measured["transfer.xcopa-corrected.sw.base.accuracy"] >= measured["transfer.xcopa.sw.base.accuracy"]
    sweep = [line for line in lines if line["cell"] == "sweep"]
    assert {line["version"] for line in sweep} == {"released", "corrected"}
    assert "asked with English COPA's" in (given_rows["tables"] / "xcopa.md").read_text()
    for name in ("classes", "baselines"):
        assert {line["version"] for line in read(given_rows, name)} == {"released", "corrected"}


def test_what_is_left_out_or_cut_is_said(given_rows: dict[str, Any]) -> None:
    counts = read_json(given_rows["benchmarks"])
    del counts["xcopa.en.scored"]
    counts |= {"xcopa.en.left_out": "the labels of its test split are not released", "xcopa.en.test.hidden_labels": 500}
    write_json(given_rows["benchmarks"], counts)
    scores = (base_scores(given_rows), given_rows["transfer"])
    for path in (*scores, *given_rows["sweep"].glob("rows/*/score.tsv")):
        frame = read_rows(path)
        kept = frame[frame["set"] != "xcopa.en"]
        write_rows(path, [Row(*row) for row in kept.itertuples(index=False)])
    hub = given_rows["params"].active.benchmarks.model_copy(update={"limit": 20})
    profile = given_rows["params"].active.model_copy(update={"benchmarks": hub})
    tables.run(**given_rows | {"params": given_rows["params"].model_copy(update={"profiles": {SMOKE.model: profile}})})
    for name in ("xcopa", "items", "baselines", "classes"):
        text = (given_rows["tables"] / f"{name}.md").read_text()
        assert "XCOPA, English (COPA): not scored, the labels of its test split are not released" in text, name
        assert "Only the first 20 items of each language are scored" in text, name
    assert "English (COPA): not scored" not in (given_rows["tables"] / "xnli.md").read_text()
