"""The premise read back from what a model is asked: every language's words, awkward premises, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from tli.analysis.premises import of_items, premise, read_premises
from tli.data.benchmarks.items import write_items
from tli.data.benchmarks.prompts import ANSWERS, CONNECTORS, QUESTIONS, Source, corrected, render
from tli.io.errors import UserError

PREMISES = ("Mtu alikunywa maji.", "She left, right? Yes, she said", "Because", "猫が寝た。")


def source(task: str, language: str, text: str, **other: str) -> Source:
    texts = {"premise": text, "hypothesis": "No, it was not."}
    if task == "xcopa":
        texts = {"premise": text, "choice1": "One.", "choice2": "Two.", "question": "cause"} | other
    return Source(f"{task}.{language}.test.0001", task, language, "test", 0, texts)


@pytest.mark.parametrize("text", PREMISES)
def test_the_premise_is_what_was_rendered(text: str) -> None:
    for language in ANSWERS:
        assert premise(render(source("xnli", language, text), released=True)) == text
    for language in CONNECTORS:
        for question in QUESTIONS:
            one = source("xcopa", language, text, question=question)
            assert premise(render(one, released=True)) == text[:-1]
            assert premise(corrected(one, "effect")) == text[:-1]


def test_what_was_not_rendered_is_refused() -> None:
    for task, broken in (("xcopa", {"context": "No connector"}), ("xnli", {"options": (" Yes", " Also", " No")})):
        with pytest.raises(ValueError, match="expected"):
            premise(render(source(task, "en", "It rained."), released=False)._replace(**broken))


def test_items_of_a_file_by_set(tmp_path: Path) -> None:
    copa = source("xcopa", "sw", "A b.")
    items = [render(source("xnli", "en", "It rained."), released=False), corrected(copa, "cause")]
    items += [render(copa, released=False)]
    write_items(tmp_path / "items.jsonl", items)
    found = read_premises(tmp_path / "items.jsonl")
    assert found["xnli.en"] == {"xnli.en.test.0001": "It rained."}
    assert of_items(found, "xcopa-corrected.sw", {"xcopa.sw.test.0001": 1.0}) == ["A b"]
    with pytest.raises(UserError, match=r"expected item xnli.en.test.0002 of xnli.en, which was scored"):
        of_items(found, "xnli.en", {"xnli.en.test.0001": 1.0, "xnli.en.test.0002": 0.0})
    write_items(tmp_path / "items.jsonl", [items[0]._replace(options=(" Yes", " Also", " No"))])
    with pytest.raises(UserError, match=r"items.jsonl: xnli.en.test.0001: expected options that share a premise"):
        read_premises(tmp_path / "items.jsonl")
