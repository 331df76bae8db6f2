"""The benchmarks: prompts equal the harness's own, bad items are named by line, baselines see what they may."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import harness
from harness import write
from tiny import ROOT, SHARED
from tli.config import parameters
from tli.data.benchmarks import baselines, items, prompts
from tli.data.benchmarks.prompts import Item, Source
from tli.io.errors import UserError
from tli.io.rows import read_rows
from tli.io.structured import read_json
from tli.stages import benchmarks

XCOPA = {
    "id": "xcopa.en.test.0001",
    "task": "xcopa",
    "language": "en",
    "split": "test",
    "premise": "The girl fell.",
    "choice1": "She ran too fast.",
    "choice2": "The sun shone.",
    "question": "cause",
    "label": 0,
    "world_p": [0.9, 0.1],
}
XNLI = {
    "id": "xnli.sw.test.0001",
    "task": "xnli",
    "language": "sw",
    "split": "test",
    "premise": "Mtoto anakula mkate.",
    "hypothesis": "Mtoto anakula.",
    "label": 0,
}

SMOKE = ROOT / "tests" / "smoke" / "params.yaml"
PARAMS = parameters.load(SMOKE)


def world(folder: Path) -> Path:
    """A folder as the stage `world` leaves it: eight items a task, language and split, and a corpus."""
    records = []
    for language in ("en", "sw"):
        for split in ("dev", "test"):
            for n in range(8):
                tail = {"language": language, "split": split}
                right, wrong = f"The cat {n} slept.", f"The dog {n} barked."
                pair = {"choice1": right, "choice2": wrong} if n % 2 == 0 else {"choice1": wrong, "choice2": right}
                records.append(
                    XCOPA
                    | tail
                    | pair
                    | {
                        "id": f"xcopa.{language}.{split}.{n:04}",
                        "label": n % 2,
                        "question": ("cause", "effect")[n % 2],
                        "premise": f"It rained on day {n}.",
                    }
                )
                hypothesis = ("It rains.", "It may rain.", "It never rains.")[n % 3]
                records.append(
                    XNLI
                    | tail
                    | {
                        "id": f"xnli.{language}.{split}.{n:04}",
                        "label": n % 3,
                        "hypothesis": hypothesis,
                        "premise": f"Rain fell on day {n}.",
                    }
                )
    folder.mkdir(parents=True)
    write(folder / "items.jsonl", records)
    (folder / "corpus.txt").write_text("It rained because the cat slept.\nThe cat slept.\n", encoding="utf-8")
    return folder


def as_asked(sources: list[Source]) -> list[tuple[str, list[str]]]:
    """Ours in the harness's form."""
    rendered = [prompts.render(source, released=True) for source in sources]
    return [(item.context, [*item.options]) for item in rendered]


@pytest.mark.parametrize(
    ("task", "language"),
    [*(("xcopa", language) for language in prompts.CONNECTORS), *(("xnli", name) for name in prompts.ANSWERS)],
)
def test_prompts_are_the_harness_s_own(task: str, language: str, tmp_path: Path) -> None:
    texts = [
        {"premise": "The Man ran.", "choice1": "Ábc d.", "choice2": "X", "question": "cause", "hypothesis": "A b."},
        {"premise": " Ni yeye! ", "choice1": "yeye.", "choice2": "Élan, no", "question": "effect", "hypothesis": "Z"},
    ]
    records = [{"label": label} | fields for label, fields in enumerate(texts)]
    theirs = harness.task_of(task, language, write(tmp_path / "records.jsonl", records), tmp_path / "cache")
    assert as_asked(harness.sources(task, language, records)) == harness.asked(theirs)


@pytest.mark.parametrize(("task", "language"), harness.REAL)
def test_real_items_are_asked_as_the_harness_asks_them(task: str, language: str, tmp_path: Path) -> None:
    records = harness.real(task, language)
    if records is None:
        pytest.skip(f"no real items here: {SHARED} has none of {task} {language}; TLI_SHARED names such a folder")
    theirs = harness.task_of(task, language, write(tmp_path / "records.jsonl", records[:500]), tmp_path / "cache")
    assert as_asked(harness.sources(task, language, records[:500])) == harness.asked(theirs)


sentence = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1).filter(str.strip)


@given(sentence, sentence, sentence, st.sampled_from([0, 1]), st.sampled_from(sorted(prompts.CONNECTORS)))
def test_xcopa_changes_one_character_of_a_choice(p: str, a: str, b: str, question: int, language: str) -> None:
    texts = {"premise": p, "choice1": a, "choice2": b, "question": prompts.QUESTIONS[question]}
    item = prompts.render(Source("i", "xcopa", language, "test", 1, texts), released=False)
    assert item.context == f"{p[:-1]} {prompts.CONNECTORS[language][question]}"
    for choice, option in zip((a, b), item.options, strict=True):
        assert option.startswith(" ")
        assert option.endswith(choice[1:])
        assert option[1:].casefold() == choice.casefold()


@given(st.lists(st.tuples(st.text(), sentence, sentence, st.integers(0, 1)), min_size=1, max_size=5))
@settings(deadline=None)
def test_items_read_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[str, str, str, int]]
) -> None:
    path = tmp_path_factory.mktemp("items") / "items.jsonl"
    written = [
        Item(f"xcopa.sw.dev.{n}", "xcopa", "sw", "dev", label, context, (" " + first, " " + second))
        for n, (context, first, second, label) in enumerate(drawn)
    ]
    items.write_items(path, written)
    assert items.read_items(path) == written


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (XCOPA | {"task": "copa"}, "task: expected one of xcopa, xnli, got 'copa'"),
        (XCOPA | {"language": "fr"}, "language: expected one of en, et"),
        (XNLI | {"language": "it"}, "language: expected one of ar, bg, de, el, en, "),
        (XCOPA | {"split": "train"}, "split: expected one of dev, test, got 'train'"),
        (XCOPA | {"label": 2}, "label: expected 0 to 1, got 2"),
        (XCOPA | {"label": True}, "label: expected 0 to 1, got True"),
        (XNLI | {"label": "0"}, "label: expected 0 to 2, got '0'"),
        (XCOPA | {"question": "why"}, "question: expected one of cause, effect, got 'why'"),
        (XCOPA | {"choice2": " "}, "choice2: expected a text on one line, got ' '"),
        (XCOPA | {"premise": "a\nb"}, "premise: expected a text on one line"),
        (XCOPA | {"id": "a b"}, "id: expected no white space, got 'a b'"),
        (XCOPA | {"choice3": "C."}, "choice3: expected only choice1"),
        ({key: value for key, value in XNLI.items() if key != "hypothesis"}, "hypothesis: missing"),
        ({key: value for key, value in XNLI.items() if key != "label"}, "label: expected 0 to 2, got None"),
        (XCOPA | {"id": "first"}, "id: first is also on line 1"),
    ],
)
def test_a_bad_item_is_named_by_line_and_nothing_is_written(
    record: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = world(tmp_path / "world")
    path = write(folder / "items.jsonl", [XCOPA | {"id": "first"}, record])
    out = tmp_path / "out"
    out.mkdir()
    (out / "items.jsonl").write_text("kept", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        benchmarks.run(folder, out, tmp_path / "metrics.json", PARAMS)
    assert caught.value.message.startswith(f"{path}:2: {message}")
    assert "\n" not in caught.value.message
    assert [path.read_text(encoding="utf-8") for path in out.iterdir()] == ["kept"]
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: expected one JSON object per line, got an empty file"),
        ("{}\n", ":1: id: missing"),
        ('{"id": }\n', ":1: column 8: not JSON"),
        ("[]\n", ":1: expected a JSON object, got '[]'"),
        (json.dumps(XCOPA) + "\n\n" + json.dumps(XNLI) + "\n", ":2: column 1: not JSON"),
    ],
)
def test_lines_that_are_no_items(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        items.read_sources(path)
    assert caught.value.message.startswith(f"{path}{message}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": ["one"]}, "options: expected 2 texts, got ['one']"),
        ({"options": ["a", ""]}, "options: expected 2 texts"),
        ({"context": None}, "context: expected a text, got None"),
        ({"label": 3}, "label: expected 0 to 1, got 3"),
    ],
)
def test_rendered_items_are_checked_too(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    item = prompts.render(items.read_sources(write(tmp_path / "world.jsonl", [XCOPA]))[0], released=False)
    write(path, [item._asdict() | change])
    with pytest.raises(UserError) as caught:
        items.read_items(path)
    assert caught.value.message.startswith(f"{path}:1: {message}")


def test_the_audit_counts_what_is_unfair(tmp_path: Path) -> None:
    records = [
        XCOPA | {"id": "1", "split": "dev"},
        XCOPA | {"id": "2"},
        XCOPA | {"id": "3", "label": 1},
        XCOPA | {"id": "4", "choice2": "she ran too fast.", "premise": "The girl fell"},
        XNLI | {"id": "5", "label": 2},
    ]
    sources = items.read_sources(write(tmp_path / "items.jsonl", records))
    assert benchmarks.audit(sources, [prompts.render(source, released=False) for source in sources]) == {
        "xcopa.en.dev.items": 1,
        "xcopa.en.dev.label.0": 1,
        "xcopa.en.dev.equal_options": 0,
        "xcopa.en.dev.no_final_mark": 0,
        "xcopa.en.dev.right_choice_longer": 1,
        "xcopa.en.dev.right_choice_shorter": 0,
        "xcopa.en.dev.duplicate_prompts": 0,
        "xcopa.en.test.items": 3,
        "xcopa.en.test.label.0": 2,
        "xcopa.en.test.label.1": 1,
        "xcopa.en.test.equal_options": 1,
        "xcopa.en.test.no_final_mark": 1,
        "xcopa.en.test.right_choice_longer": 1,
        "xcopa.en.test.right_choice_shorter": 1,
        "xcopa.en.test.duplicate_prompts": 1,
        "xcopa.en.test.seen_in_dev": 1,
        "xnli.sw.test.items": 1,
        "xnli.sw.test.label.2": 1,
        "xnli.sw.test.equal_options": 0,
        "xnli.sw.test.duplicate_prompts": 0,
        "xnli.sw.test.seen_in_dev": 0,
    }


def test_the_stage_writes_the_same_bytes_twice_and_needs_no_torch(tmp_path: Path) -> None:
    folder = world(tmp_path / "world")
    code = (
        "import sys; from pathlib import Path; from tli.config import parameters; from tli.stages import benchmarks;"
        f"p = parameters.load({str(SMOKE)!r}); benchmarks.run(*map(Path, sys.argv[1:]), p);"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    outputs = []
    for name in ("one", "two"):
        out, metrics = tmp_path / name, tmp_path / f"{name}.json"
        subprocess.run([sys.executable, "-W", "error", "-c", code, folder, out, metrics], check=True)
        outputs.append([path.read_bytes() for path in (*sorted(out.iterdir()), metrics)])
        assert [path.name for path in sorted(out.iterdir())] == ["baselines.tsv", "items.jsonl"]
    assert outputs[0] == outputs[1]

    asked = items.read_items(tmp_path / "one" / "items.jsonl")
    sources = items.read_sources(folder / "items.jsonl")
    assert {item.id for item in asked} == {source.id for source in sources if source.split == "test"}
    rows = read_rows(tmp_path / "one" / "baselines.tsv")
    assert set(rows["run"]) == {"choice-only", "ngram"}
    assert set(rows["item"]) == {item.id for item in asked}
    assert len(rows) == 2 * 3 * 32
    wide = rows.pivot(index=["run", "item"], columns="measure", values="value")
    assert ((wide["label"] == wide["pred"]) == (wide["correct"] == 1)).all()

    metrics = read_json(tmp_path / "one.json")
    accuracy = rows[rows["measure"] == "correct"].groupby(["set", "run"])["value"].mean()
    assert {f"{name}.test.accuracy.{cell}": value for (name, cell), value in accuracy.items()} == {
        key: value for key, value in metrics.items() if ".accuracy." in key
    }
    assert metrics["xnli.en.test.accuracy.choice-only"] == 1, "the hypotheses of this world give their labels away"


@pytest.mark.parametrize(("chosen", "split"), [("default", "test"), ("test", "test"), ("validation", "dev")])
def test_the_split_that_is_scored_is_the_one_chosen(chosen: str, split: str, tmp_path: Path) -> None:
    params = PARAMS.model_copy(update={"score": PARAMS.score.model_copy(update={"split": chosen})})
    benchmarks.run(world(tmp_path / "world"), tmp_path / "out", tmp_path / "metrics.json", params)
    assert {item.split for item in items.read_items(tmp_path / "out" / "items.jsonl")} == {split}
    metrics = read_json(tmp_path / "metrics.json")
    assert {metrics[f"{task}.{language}.scored"] for task in ("xcopa", "xnli") for language in ("en", "sw")} == {split}
    accuracies = {key.split(".")[2] for key in metrics if ".accuracy." in key}
    assert accuracies == {split}, "the baselines are scored where the model is"


def test_without_dev_items_of_two_labels_there_is_no_baseline(tmp_path: Path) -> None:
    folder = world(tmp_path / "world")
    write(folder / "items.jsonl", [XNLI, XNLI | {"id": "d", "split": "dev"}])
    with pytest.raises(UserError, match=r"^xnli\.sw: expected dev items with at least two labels, got 1 items of 1"):
        benchmarks.run(folder, tmp_path / "out", tmp_path / "metrics.json", PARAMS)


def test_choice_only_learns_what_the_choices_give_away_and_nothing_else() -> None:
    told = [baselines.Question((f"it {n} good.", f"it {n} bad.")[:: 1 - 2 * (n % 2)], n % 2) for n in range(20)]
    assert baselines.choice_only(told, told) == [question.label for question in told]
    alike = [baselines.Question(("the same", "the same"), question.label) for question in told]
    assert baselines.choice_only(told, alike) == [0] * 20


documents_of = st.lists(st.lists(st.sampled_from("abc"), max_size=6).map(" ".join), min_size=1, max_size=6)


@given(documents_of, st.lists(st.sampled_from("abcd")))
def test_trigram_probabilities_sum_to_one(documents: list[str], history: list[str]) -> None:
    model = baselines.Trigrams.fit(documents)
    seen = {word for document in documents for word in document.split()}
    total = sum(model.probability(word, history) for word in (*seen, "<never seen>"))
    assert total == pytest.approx(1)


def test_trigrams_by_hand() -> None:
    """Corpus `a b` / `a c`: four words, three kinds; after <s> <s> only a, twice; after <s> a: b and c, once each."""
    model = baselines.Trigrams.fit(["a b", "A c"])
    unigram_a, unigram_b = (2 + 3 / 4) / 7, (1 + 3 / 4) / 7
    assert model.probability("a", ["<s>", "<s>"]) == pytest.approx((2 + (2 + unigram_a) / 3) / 3)
    after_a = (1 + 2 * unigram_b) / 4
    assert model.probability("b", ["<s>", "a"]) == pytest.approx((1 + 2 * after_a) / 4)
    assert model.probability("b", ["x", "a"]) == pytest.approx(after_a), "an unseen history leaves the shorter one's"
    both = model.score("", "a b")
    assert both == pytest.approx(model.score("", "a") + model.score("a", "b"))
    assert both == pytest.approx(math.log((2 + (2 + unigram_a) / 3) / 3 * (1 + 2 * after_a) / 4))
