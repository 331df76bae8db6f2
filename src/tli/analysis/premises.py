"""Which items of a benchmark share a premise: the clusters of every interval and odds ratio of answers.

XNLI asks three hypotheses of a premise, XCOPA some premises twice (for the cause, for the effect): such items are not
independent. The rendered items do not keep the premise; it is recovered from the strings that every model is asked.
Used by the tables accuracy_by_rank, changes, class_changes, odds and robustness.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

from tli.data.benchmarks.items import read_items
from tli.data.benchmarks.prompts import ANSWERS, CONNECTORS, CORRECTED, Item
from tli.io.errors import UserError

Premises = Mapping[str, Mapping[str, str]]  # set -> item -> its premise


def premise(item: Item) -> str:
    """The premise of an item as `data.benchmarks.prompts.render` put it into the strings.

    XCOPA: the context without the connector at its end. XNLI: the common beginning of the choices up to the question
    word; the choices differ from the answer word on, which follows it.

    Raises:
        ValueError: the item does not have that form.
    """
    if item.task != "xnli":
        for connector in CONNECTORS[item.language]:
            if item.context.endswith(f" {connector}"):
                return item.context.removesuffix(f" {connector}")
        raise ValueError(f"expected a context that ends in a connector, got {item.context!r}")
    shared = takewhile(lambda characters: len(set(characters)) == 1, zip(*item.options, strict=False))
    beginning = "".join(characters[0] for characters in shared)
    text, question, _ = beginning.rpartition(f", {ANSWERS[item.language][0]}? ")
    if not question:
        raise ValueError(f"expected options that share a premise and a question word, got {item.options[0]!r}")
    return text.strip()


def read_premises(path: Path) -> dict[str, dict[str, str]]:
    """Set -> item -> premise, from the items that the stage `benchmarks` wrote; corrected items are a set of their own.

    Raises:
        UserError: the file is missing or broken, or an item is not in a form of `data.benchmarks.prompts.render`.
    """
    premises: dict[str, dict[str, str]] = {}
    for item in read_items(path):
        try:
            premises.setdefault(item.set, {})[item.id] = premise(item)
        except ValueError as error:
            raise UserError(f"{path}: {item.id}: {error}; run `dvc repro`, which writes this file") from None
    return premises


def of_items(premises: Premises, set_: str, items: Mapping[str, float]) -> list[str]:
    """The premise of each item of a set; the items of a corrected set are those of the released one.

    Raises:
        UserError: a scored item is not among the benchmark's items.
    """
    task, _, language = set_.partition(".")
    known = premises.get(f"{task.removesuffix(CORRECTED)}.{language}", {})
    if missing := [item for item in items if item not in known]:
        raise UserError(
            f"benchmarks/items.jsonl: expected item {missing[0]} of {set_}, which was scored, found none; "
            "run `dvc repro`"
        )
    return [known[item] for item in items]
