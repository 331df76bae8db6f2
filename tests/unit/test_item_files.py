"""Items from local files: what is read and refused, what the sweep scores of them; the artifact's own items."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import harness
from tiny import ROOT, SHARED
from tli.config import parameters
from tli.config.benchmarks import FileBenchmarks, ItemFile, Swept
from tli.config.parameters import Params
from tli.data.benchmarks import files
from tli.data.benchmarks.baselines import Question, cross_validated
from tli.data.words.lexicon import Pair
from tli.io.errors import UserError
from tli.io.files import sha256_of
from tli.io.rows import read_rows
from tli.io.structured import read_json
from tli.stages import benchmarks, sweep_score, sweep_train, words
from tli.stats.proportions import wilson

COMMITTED = ROOT / "params.yaml"
NATURAL = parameters.load(COMMITTED, model="smollm2")
RELEASED = parameters.load(COMMITTED, model="smollm2_benchmarks")
CONFIDENCE = 0.95


def copa(n: int, language: str = "en", **changes: Any) -> dict[str, Any]:
    question = ("cause", "effect")[n % 2]
    texts = {"premise": f"P{n} {language}.", "choice1": f"One {n}.", "choice2": f"Two {n}.", "question": question}
    return {**texts, "label": n // 2 % 2, "idx": n} | changes


def nli(n: int, language: str = "en") -> dict[str, Any]:
    return {"premise": f"P{n // 3} {language}.", "hypothesis": f"H{n}.", "label": n % 3}


def file_of(path: Path, task: str, language: str, split: str = "test", use: str = "score") -> ItemFile:
    names = {"path": path.name, "sha256": sha256_of(path), "origin": "somewhere", "commit": None}
    return ItemFile(task=task, language=language, split=split, use=use, **names)


def settings(folder: Path, *listed: ItemFile, **changes: Any) -> FileBenchmarks:
    defaults: dict[str, Any] = {"source": "files", "folder": str(folder), "items_of": "released"}
    return FileBenchmarks(**defaults | {"files": listed, "limit": None, "sweep": None} | changes)


def with_benchmarks(params: Params, chosen: FileBenchmarks) -> Params:
    profile = params.active.model_copy(update={"benchmarks": chosen})
    return params.model_copy(update={"profiles": {params.model: profile}})


@pytest.fixture
def made(tmp_path: Path) -> FileBenchmarks:
    """English and Swahili files of both forms; in Swahili, item 2 asks another question."""
    listed = []
    for language in ("en", "sw"):
        again = {"question": "effect"} if language == "sw" else {}
        records = [copa(n, language, **(again if n == 2 else {})) for n in range(12)]
        listed.append(file_of(harness.write(tmp_path / f"c.{language}.jsonl", records), "xcopa", language))
        path = harness.write(tmp_path / f"n.{language}.jsonl", [nli(n, language) for n in range(12)])
        listed.append(file_of(path, "xnli", language))
    return settings(tmp_path, *listed)


def test_the_stage_reads_files_as_it_reads_the_hub(made: FileBenchmarks, params: Params, tmp_path: Path) -> None:
    benchmarks.run(tmp_path, tmp_path / "out", tmp_path / "metrics.json", with_benchmarks(params, made))
    items = harness.read(tmp_path / "out" / "items.jsonl")
    counted = Counter(f"{item['task']}.{item['language']}" for item in items)
    assert counted == {"xcopa.en": 12, "xcopa.sw": 12, "xnli.en": 12, "xnli.sw": 12, "xcopa-corrected.sw": 1}
    metrics = read_json(tmp_path / "metrics.json")
    assert metrics["xcopa.sw.test.questions_differ"] == 1
    assert metrics["xcopa.sw.test.origin"] == "somewhere"
    rows = read_rows(tmp_path / "out" / "baselines.tsv")
    assert {*rows["run"]} == {"choice-only"}
    assert {*rows["set"]} == {"xcopa.en", "xcopa.sw", "xnli.en", "xnli.sw"}, "cross-validated: there is one split"


Broken = Callable[[Path], str]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (lambda path: path.read_text().replace('"label": 0', '"label": 2', 1), ":1: label: expected 0 to 1, got 2"),
        (lambda path: path.read_text().replace('"cause"', '"why"', 1), ":1: question: expected one of cause, effect"),
        (lambda path: path.read_text().replace('"idx": 3', '"idx": 2'), ":4: idx: expected each number once, got 2"),
        (
            lambda path: path.read_text() + json.dumps(copa(1, idx=99)),
            ":13: expected each item once, got that of line 2",
        ),
        (lambda path: path.read_text() + "{", ":13: "),
        (lambda path: path.read_text() + "[1]", ":13: expected a JSON object"),
        (lambda path: path.read_text().replace("One 5.", " "), ":6: choice1: expected a text on one line"),
        (lambda path: "", ":1: "),
    ],
)
def test_a_broken_item_is_one_line(line: Broken, message: str, tmp_path: Path, params: Params) -> None:
    path = harness.write(tmp_path / "c.jsonl", [copa(n) for n in range(12)])
    path.write_text(line(path), encoding="utf-8")
    chosen = with_benchmarks(params, settings(tmp_path, file_of(path, "xcopa", "en")))
    with pytest.raises(UserError) as caught:
        benchmarks.run(tmp_path, tmp_path / "out", tmp_path / "metrics.json", chosen)
    assert caught.value.message.startswith(f"{path}{message}")
    assert "\n" not in caught.value.message
    assert not (tmp_path / "out").exists()


def test_a_missing_or_other_file_is_refused(made: FileBenchmarks, tmp_path: Path) -> None:
    path = tmp_path / "c.en.jsonl"
    path.write_text(path.read_text() + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="expected SHA-256"):
        files.read(made)
    path.unlink()
    with pytest.raises(UserError, match=r"no such file \(SHA-256 \w+\); copy it there from somewhere"):
        files.read(made)


@given(
    st.integers(0, 4),
    st.sampled_from([1, 2, 4, 8, 16, 32]),
    st.sampled_from(["xcopa.en", "xcopa.sw"]),
    st.integers(1, 5),
)
def test_what_the_sweep_scores(seed: int, rank: int, set_: str, seeds: int) -> None:
    swept = Swept(seeds=seeds, sets=("xcopa.en",), others=(2, 16))
    chosen = NATURAL.active.benchmarks.model_copy(update={"sweep": swept})
    params = with_benchmarks(NATURAL, chosen)
    assert params.sweep_scores(set_, rank, seed) == (seed < seeds and (set_ == "xcopa.en" or rank in (2, 16)))
    everything = with_benchmarks(NATURAL, chosen.model_copy(update={"sweep": None}))
    assert everything.sweep_scores(set_, rank, seed)


def test_a_set_that_is_not_scored_cannot_be_swept(made: FileBenchmarks) -> None:
    raw = made.model_dump()
    with pytest.raises(ValidationError, match=r"sweep.sets: expected some of xcopa.en, xcopa.sw, .*, got xcopa.it"):
        FileBenchmarks.model_validate(raw | {"sweep": {"seeds": 1, "sets": ("xcopa.it",), "others": ()}})


def test_the_sweep_leaves_out_what_it_is_told_to(
    made: FileBenchmarks, params: Params, pairs: list[Pair], tiny_quantized: Path, tmp_path: Path
) -> None:
    swept = Swept(seeds=1, sets=("xcopa.en", "xnli.en"), others=(4,))
    chosen = with_benchmarks(params, made.model_copy(update={"sweep": swept}))
    benchmarks.run(tmp_path, tmp_path / "items", tmp_path / "metrics.json", chosen)
    word_list, ranks = tmp_path / "pairs.tsv", {2: "r2", 4: "r4"}
    words.write_tsv(word_list, Pair._fields, pairs)
    sweep_train.run(word_list, tiny_quantized, ranks, tmp_path / "adapters", tmp_path / "train.tsv", chosen)
    items, rows = tmp_path / "items" / "items.jsonl", tmp_path / "rows"
    sweep_score.run(word_list, items, tiny_quantized, tmp_path / "adapters", ranks, rows, chosen)
    first, *others = chosen.sweep.seeds
    assert others, "the smoke parameters have one seed"
    scored = read_rows(rows / "score.tsv")
    by_run = {run: {*part["set"]} for run, part in scored.groupby("run")}
    english, swahili = {"xcopa.en", "xnli.en"}, {"xcopa.sw", "xnli.sw", "xcopa-corrected.sw"}
    assert by_run == {f"r2-s{first}": english, f"r4-s{first}": english | swahili}
    assert len({*read_rows(rows / "similarity.tsv")["run"]}) == 2 * len(chosen.sweep.seeds)


def test_a_cue_is_found_and_premises_stay_together() -> None:
    questions = [Question((("never" if n % 2 else "maybe") + f" w{n}",), n % 2) for n in range(40)]
    assert cross_validated(questions, [f"P{n}" for n in range(40)]) == [n % 2 for n in range(40)]
    leaking = [Question((f"w{n // 2}",), n // 2 % 2) for n in range(40)]
    together = cross_validated(leaking, [f"P{n // 2}" for n in range(40)])
    apart = cross_validated(leaking, [f"P{n}" for n in range(40)])
    rights = [sum(pick == q.label for pick, q in zip(picks, leaking, strict=True)) for picks in (together, apart)]
    assert rights[0] < rights[1] == 40, "a word of the premise's other item gives the label away"


# The items of this artifact


def natural() -> files.Groups:
    chosen = NATURAL.active.benchmarks
    assert isinstance(chosen, FileBenchmarks)
    return files.read(chosen.model_copy(update={"folder": str(ROOT / chosen.folder)}))


def test_natural_items_are_complete_balanced_and_aligned() -> None:
    groups = {(task, language): group for (task, language, _), group in natural().items()}
    sizes = {key: len(group) for key, group in groups.items()}
    assert sizes == {("xcopa", "en"): 200, ("xcopa", "sw"): 100, ("xnli", "en"): 180, ("xnli", "sw"): 120}
    for (task, language), group in groups.items():
        labels = Counter(item.label for item in group.values())
        assert len({*labels.values()}) == 1, f"{task}.{language}: {labels}"
        assert {idx: item.label for idx, item in group.items()}.items() <= {
            idx: item.label for idx, item in groups[task, "en"].items()
        }.items(), "a translation has the label of its item"
        if task == "xcopa":
            assert len({*Counter((item.texts["question"], item.label) for item in group.values()).values()}) == 1
        else:
            of_premise = Counter(item.texts["premise"] for item in group.values())
            assert {*of_premise.values()} == {3}


def test_nothing_but_the_premise_tells_the_answer() -> None:
    """Neither the words nor the lengths of the choices predict the label better than chance."""
    for (task, language, _), group in natural().items():
        items = [*group.values()]
        questions = [Question(item.candidates, item.label) for item in items]
        picks = cross_validated(questions, [item.texts["premise"] for item in items])
        right = sum(pick == item.label for pick, item in zip(picks, items, strict=True))
        interval = wilson(right, len(items), CONFIDENCE)
        assert interval is not None
        chance = 1 / (2 if task == "xcopa" else 3)
        assert interval[0] <= chance <= interval[1], f"{task}.{language}: {right} of {len(items)}"
        if task == "xcopa":
            differ = [(len(i.candidates[i.label]) > len(i.candidates[1 - i.label])) for i in items]
            longer = wilson(sum(differ), len(items), CONFIDENCE)
            assert longer is not None
            assert longer[0] <= 0.5 <= longer[1] + 0.1, f"{language}: the right choice is longer in {sum(differ)}"


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real benchmarks' files are not in {SHARED}")
def test_no_sentence_is_from_a_benchmark() -> None:
    known: set[str] = set()
    for path in sorted(SHARED.glob("*copa/**/*.jsonl")) + sorted(SHARED.glob("xnli/*.jsonl")):
        for record in harness.read(path):
            known |= {str(value).strip().casefold() for value in record.values() if isinstance(value, str)}
    assert len(known) > 5000
    own = {text.casefold() for group in natural().values() for item in group.values() for text in item.texts.values()}
    assert own & known <= {"cause", "effect"}


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real benchmarks' files are not in {SHARED}")
def test_the_released_files_have_the_known_hashes_and_defects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = RELEASED.active.benchmarks
    assert isinstance(chosen, FileBenchmarks)
    params = with_benchmarks(RELEASED, chosen.model_copy(update={"folder": str(SHARED)}))
    monkeypatch.chdir(tmp_path)
    benchmarks.run(tmp_path, tmp_path / "out", tmp_path / "metrics.json", params)
    metrics = read_json(tmp_path / "metrics.json")
    assert metrics["xcopa.sw.test.questions_differ"] == 37
    assert metrics["xcopa.sw.validation.questions_differ"] == 6
    assert metrics["xnli.sw.validation.with_quotes"] == 0 < metrics["xnli.sw.validation.released"] == 2490
    items = harness.read(tmp_path / "out" / "items.jsonl")
    counted = Counter(f"{item['task']}.{item['language']}" for item in items)
    assert counted["xcopa-corrected.sw"] == 37
    assert counted["xnli.en"] == counted["xnli.sw"] == 498, "whole premises of at most 500 items"
    english, swahili = (
        {i["id"][-4:] for i in items if i["task"] == "xnli" and i["language"] == x} for x in ("en", "sw")
    )
    assert english == swahili
    whole = harness.read(SHARED / "xnli" / "xnli.dev.en.jsonl")
    premises = Counter(whole[int(number)]["premise"] for number in english)
    assert all(count == sum(row["premise"] == premise for row in whole) for premise, count in premises.items())
