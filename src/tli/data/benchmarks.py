"""XCOPA and XNLI items in one schema, asked as lm-evaluation-harness 0.4.13 asks them (stage: benchmarks).

Reads the micro-world's items, checks every field, renders each item as one context and its options, audits the whole,
and scores two baselines that never see a model. Feeds the baselines table, the data audit and every transfer table.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tli import store
from tli.data.baselines import Question, Trigrams, choice_only

SPLITS = ("dev", "test")
LABELS = {"xcopa": 2, "xnli": 3}

# Language -> what joins premise and choice where the question asks for the cause, for the effect. English is COPA's.
CONNECTORS = {
    "en": ("because", "therefore"),
    "et": ("sest", "seetõttu"),
    "ht": ("poukisa", "donk sa"),
    "id": ("karena", "maka"),
    "it": ("perché", "quindi"),
    "qu": ("imataq", "chaymi"),
    "sw": ("kwa sababu", "kwa hiyo"),
    "ta": ("காரணமாக", "எனவே"),
    "th": ("เพราะ", "ดังนั้น"),
    "tr": ("çünkü", "bu yüzden"),
    "vi": ("bởi vì", "vì vậy"),
    "zh": ("因为", "所以"),
}
QUESTIONS = ("cause", "effect")

# Language -> the question word, then the answers for entailment, neutral, contradiction.
ANSWERS = {
    "en": ("right", "Yes", "Also", "No"),
    "sw": ("sahihi", "Ndiyo", "Hivyo", "Hapana"),
}
LANGUAGES: dict[str, Mapping[str, object]] = {"xcopa": CONNECTORS, "xnli": ANSWERS}
TEXTS = {"xcopa": ("premise", "choice1", "choice2", "question"), "xnli": ("premise", "hypothesis")}


class Item(NamedTuple):
    """One scored question: log p(option | context) for each option, `label` the index of the right one."""

    id: str
    task: str
    language: str
    split: str
    label: int
    context: str
    options: tuple[str, ...]


class Source(NamedTuple):
    """An item as its benchmark releases it: `texts` by field name, XCOPA's or XNLI's."""

    id: str
    task: str
    language: str
    split: str
    label: int
    texts: dict[str, str]

    @property
    def candidates(self) -> tuple[str, ...]:
        """What a reader sees who is not shown the premise: both choices, or the hypothesis."""
        names = ("choice1", "choice2") if self.task == "xcopa" else ("hypothesis",)
        return tuple(self.texts[name] for name in names)


def run(world: Path, out: Path, metrics: Path) -> None:
    """The `benchmarks` stage: `out`/items.jsonl and `out`/baselines.tsv from the world's folder; the audit's counts."""
    sources = read_sources(world / "items.jsonl")
    items = [render(source) for source in sources]
    model = Trigrams.fit(store.read_text(world / "corpus.txt").splitlines())
    rows = [*_rows("choice-only", items, without_premise(sources)), *_rows("ngram", items, by_ngrams(items, model))]
    with store.atomic_dir(out) as folder:
        write_items(folder / "items.jsonl", items)
        store.write_rows(folder / "baselines.tsv", rows)
    store.write_json(metrics, audit(sources, items) | _accuracies(rows))


def read_sources(path: Path) -> list[Source]:
    """The items as released, every field checked; fields that begin with `world_` are passed over.

    Raises:
        UserError: path:line of the first bad item: what was expected, what stood there.
    """
    sources: list[Source] = []
    for where, record in _records(path):
        task = _text(where, record, "task", LABELS)
        language = _text(where, record, "language", LANGUAGES[task])
        texts = {name: _text(where, record, name, QUESTIONS if name == "question" else None) for name in TEXTS[task]}
        known = {"id", "task", "language", "split", "label", *texts}
        if unknown := [key for key in record if key not in known and not key.startswith("world_")]:
            raise store.UserError(f"{where}: {unknown[0]}: expected only {', '.join(sorted(known))}; remove the field")
        split, label = _text(where, record, "split", SPLITS), _label(where, record, LABELS[task])
        sources.append(Source(record["id"], task, language, split, label, texts))
    return sources


def read_items(path: Path | str) -> list[Item]:
    """The rendered items that the stage wrote, checked. Raises UserError with path:line."""
    items: list[Item] = []
    for where, record in _records(path):
        if missing := [name for name in Item._fields if name not in record]:
            raise store.UserError(f"{where}: {missing[0]}: missing; run `dvc repro`, which writes this file")
        task, options = _text(where, record, "task", LABELS), record["options"]
        count = LABELS[task]
        if not isinstance(options, list) or len(options) != count or not all(isinstance(o, str) and o for o in options):
            raise store.UserError(f"{where}: options: expected {count} texts, got {options!r}; run `dvc repro`")
        if not isinstance(record["context"], str):
            raise store.UserError(f"{where}: context: expected a text, got {record['context']!r}; run `dvc repro`")
        language, split = _text(where, record, "language"), _text(where, record, "split", SPLITS)
        label = _label(where, record, count)
        items.append(Item(record["id"], task, language, split, label, record["context"], tuple(options)))
    return items


def write_items(path: Path, items: Iterable[Item]) -> None:
    """One JSON object a line, in the order given; nothing is left of a write that fails."""
    with store.atomic_write(path) as file:
        for item in items:
            file.write(json.dumps(item._asdict(), ensure_ascii=False) + "\n")


def _records(path: Path | str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path:line, object) of each line; ids are present, without white space, and occur once."""
    lines = store.read_text(path).split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise store.UserError(f"{path}:1: expected one JSON object a line, got an empty file; run `dvc repro`")
    first: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise store.UserError(f"{where}: column {error.colno}: not JSON: {error.msg}; mend the line") from None
        if not isinstance(record, dict):
            raise store.UserError(f"{where}: expected a JSON object, got {line[:40]!r}; mend the line")
        name = _text(where, record, "id")
        if re.search(r"\s", name):
            raise store.UserError(f"{where}: id: expected no white space, got {name!r}; rename it")
        if name in first:
            raise store.UserError(f"{where}: id: {name} stands in line {first[name]} too; give each item its own")
        first[name] = number
        yield where, record


def _text(where: str, record: Mapping[str, Any], name: str, among: Iterable[str] | None = None) -> str:
    """The field `name`: a text with something in it, one of `among` where that is given."""
    if name not in record:
        raise store.UserError(f"{where}: {name}: missing; add the field")
    value = record[name]
    if not isinstance(value, str) or not value.strip() or re.search(r"[\t\r\n]", value):
        raise store.UserError(f"{where}: {name}: expected a text on one line, got {value!r}; correct the field")
    if among is not None and value not in among:
        raise store.UserError(f"{where}: {name}: expected one of {', '.join(among)}, got {value!r}; correct the field")
    return value


def _label(where: str, record: Mapping[str, Any], count: int) -> int:
    value = record.get("label")
    if type(value) is not int or not 0 <= value < count:
        raise store.UserError(f"{where}: label: expected 0 to {count - 1}, got {value!r}; correct the field")
    return value


def render(source: Source) -> Item:
    """The item as the harness's default prompt asks it: (context, option) are the two strings handed to a model.

    XCOPA: context = premise, stripped, without its last character, + " " + connector; options = " " + choice with its
    first character in lower case. XNLI: no context; options = " " + "{premise}, right? Yes|Also|No, {hypothesis}", the
    whole sentence. The leading space is the harness's `target_delimiter`. (For English COPA its task adds a space
    of its own, so that the harness asks with two; here English is asked as XCOPA's other languages are, with one.)
    """
    texts = source.texts
    if source.task == "xcopa":
        connector = CONNECTORS[source.language][QUESTIONS.index(texts["question"])]
        context = f"{texts['premise'].strip()[:-1]} {connector}"
        options = tuple(f" {choice[0].lower()}{choice[1:]}" for choice in source.candidates)
    else:
        asked, *answers = ANSWERS[source.language]
        context = ""
        options = tuple(f" {texts['premise']}, {asked}? {answer}, {texts['hypothesis']}" for answer in answers)
    return Item(source.id, source.task, source.language, source.split, source.label, context, options)


def audit(sources: Sequence[Source], items: Sequence[Item]) -> dict[str, int]:
    """Counts, flat: items and labels of each task.language.split, and what would make an item unfair.

    equal_options: options that are the same text. no_final_mark: XCOPA premises that end in a letter or digit, which
    the prompt drops. duplicate_prompts: items whose context and options an earlier item of the split has.
    seen_in_dev: test items whose context and options stand in dev.
    """
    found: Counter[str] = Counter()
    seen: dict[str, set[tuple[str, tuple[str, ...]]]] = {}
    for source, item in zip(sources, items, strict=True):
        key = f"{item.task}.{item.language}.{item.split}"
        found.update({f"{key}.{name}": 0 for name in ("equal_options", "duplicate_prompts")})
        found[f"{key}.items"] += 1
        found[f"{key}.label.{item.label}"] += 1
        found[f"{key}.equal_options"] += len(set(item.options)) < len(item.options)
        if item.task == "xcopa":
            found[f"{key}.no_final_mark"] += source.texts["premise"].strip()[-1].isalnum()
        asked = (item.context, item.options)
        found[f"{key}.duplicate_prompts"] += asked in seen.setdefault(key, set())
        seen[key].add(asked)
    for key, prompts in seen.items():
        if key.endswith(".test"):
            found[f"{key}.seen_in_dev"] = len(prompts & seen.get(f"{key.removesuffix('test')}dev", set()))
    return dict(sorted(found.items()))


def without_premise(sources: Sequence[Source]) -> dict[str, int]:
    """Test item id -> what `baselines.choice_only` picks, fitted on the dev split of the same task and language."""
    chosen: dict[str, int] = {}
    for task, language in dict.fromkeys((source.task, source.language) for source in sources):
        own = [source for source in sources if (source.task, source.language) == (task, language)]
        dev, test = ([source for source in own if source.split == split] for split in SPLITS)
        if not test:
            continue
        try:
            picks = choice_only(*([Question(s.candidates, s.label) for s in part] for part in (dev, test)))
        except ValueError as error:
            raise store.UserError(f"{task}.{language}: {error}; the choice-only baseline is fitted on them") from None
        chosen.update(zip((source.id for source in test), picks, strict=True))
    return chosen


def by_ngrams(items: Sequence[Item], model: Trigrams) -> dict[str, int]:
    """Test item id -> argmax over options of log p(option | context) under word trigrams, the first on a tie."""
    chosen: dict[str, int] = {}
    for item in items:
        if item.split == "test":
            scores = [model.score(item.context, option) for option in item.options]
            chosen[item.id] = scores.index(max(scores))
    return chosen


def _rows(cell: str, items: Iterable[Item], chosen: Mapping[str, int]) -> list[store.Row]:
    """Per test item: label, prediction, whether it is right."""
    rows: list[store.Row] = []
    for item in items:
        if item.id in chosen:
            values = {"label": item.label, "pred": chosen[item.id], "correct": int(chosen[item.id] == item.label)}
            where = (cell, "-", 0, "-", f"{item.task}.{item.language}", item.id, "-")
            rows += [store.Row(*where, measure, value) for measure, value in values.items()]
    return rows


def _accuracies(rows: Iterable[store.Row]) -> dict[str, float]:
    """Flat: task.language.test.accuracy.cell."""
    right: dict[str, list[float]] = {}
    for row in rows:
        if row.measure == "correct":
            right.setdefault(f"{row.set}.test.accuracy.{row.cell}", []).append(float(row.value))
    return {key: sum(values) / len(values) for key, values in right.items()}
