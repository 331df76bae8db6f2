"""Reads and writes files of benchmark items (JSON Lines): the micro-world's sources, and rendered items.

Every field is checked, so that no table is computed from a broken item.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tli.data.benchmarks.prompts import CORRECTED, LABELS, LANGUAGES, QUESTIONS, TEXTS, Item, Source
from tli.io.errors import UserError
from tli.io.files import atomic_write, read_text
from tli.io.structured import parse_json

HALF = "[\ud800-\udfff]"  # a lone surrogate: JSON can write it, but UTF-8 cannot
UNFIT = rf"[\t\r\n]|{HALF}"
WORLD_TASKS, WORLD_SPLITS = ("xcopa", "xnli"), ("dev", "test")
SPLITS = ("dev", "validation", "test")
OPTIONS = {**LABELS, f"xcopa{CORRECTED}": LABELS["xcopa"]}  # task of a rendered item -> number of choices


def read_sources(path: Path) -> list[Source]:
    """Reads the micro-world's items. Fields that begin with `world_` are ignored.

    Raises:
        UserError: a bad item; the message begins with path:line.
    """
    sources: list[Source] = []
    for where, record in _records(path):
        task = text_field(where, record, "task", WORLD_TASKS)
        language = text_field(where, record, "language", LANGUAGES[task])
        texts = read_texts(where, record, task)
        known = {"id", "task", "language", "split", "label", *texts}
        if unknown := [key for key in record if key not in known and not key.startswith("world_")]:
            raise UserError(f"{where}: {unknown[0]}: expected only {', '.join(sorted(known))}; remove the field")
        split, label = text_field(where, record, "split", WORLD_SPLITS), label_field(where, record, LABELS[task])
        sources.append(Source(record["id"], task, language, split, label, texts))
    return sources


def read_items(path: Path | str) -> list[Item]:
    """Reads the rendered items that the stage `benchmarks` wrote.

    Raises:
        UserError: a bad item; the message begins with path:line.
    """
    items: list[Item] = []
    for where, record in _records(path):
        if missing := [name for name in Item._fields if name not in record]:
            raise UserError(f"{where}: {missing[0]}: missing; run `dvc repro`, which writes this file")
        task, options = text_field(where, record, "task", OPTIONS), record["options"]
        count = OPTIONS[task]
        if not isinstance(options, list) or len(options) != count or not all(isinstance(o, str) and o for o in options):
            raise UserError(f"{where}: options: expected {count} texts, got {options!r}; run `dvc repro`")
        if not isinstance(record["context"], str) or re.search(HALF, "".join([record["context"], *options])):
            raise UserError(f"{where}: context: expected a text, got {record['context']!r}; run `dvc repro`")
        language, split = text_field(where, record, "language"), text_field(where, record, "split", SPLITS)
        label = label_field(where, record, count)
        items.append(Item(record["id"], task, language, split, label, record["context"], tuple(options)))
    return items


def write_items(path: Path, items: Iterable[Item]) -> None:
    """Writes one JSON object per line, in the given order, atomically."""
    with atomic_write(path) as file:
        for item in items:
            file.write(json.dumps(item._asdict(), ensure_ascii=False) + "\n")


def _records(path: Path | str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (path:line, object) of each line. Ids must be present, without white space, and unique within a task."""
    lines = read_text(path).split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise UserError(f"{path}:1: expected one JSON object per line, got an empty file; run `dvc repro`")
    first: dict[tuple[str, str], int] = {}
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        record = parse_json(line, where)
        if not isinstance(record, dict):
            raise UserError(f"{where}: expected a JSON object, got {line[:40]!r}; fix the line")
        name = text_field(where, record, "id")
        if re.search(r"\s", name):
            raise UserError(f"{where}: id: expected no white space, got {name!r}; rename it")
        key = (str(record.get("task")), name)
        if key in first:
            raise UserError(f"{where}: id: {name} is also on line {first[key]}; give each item its own id")
        first[key] = number
        yield where, record


def text_field(where: str, record: Mapping[str, Any], name: str, allowed: Iterable[str] | None = None) -> str:
    """The field `name`, which must be a text on one line that is not blank, and one of `allowed` if given."""
    if name not in record:
        raise UserError(f"{where}: {name}: missing; add the field")
    value = record[name]
    if not isinstance(value, str) or not value.strip() or re.search(UNFIT, value):
        raise UserError(f"{where}: {name}: expected a text on one line, got {value!r}; correct the field")
    if allowed is not None and value not in allowed:
        raise UserError(f"{where}: {name}: expected one of {', '.join(allowed)}, got {value!r}; correct the field")
    return value


def read_texts(where: str, record: Mapping[str, Any], task: str) -> dict[str, str]:
    """The texts of an item of a task by the names of their fields."""
    return {name: text_field(where, record, name, QUESTIONS if name == "question" else None) for name in TEXTS[task]}


def label_field(where: str, record: Mapping[str, Any], count: int) -> int:
    """The field `label`, which must be an integer from 0 to count - 1."""
    value = record.get("label")
    if type(value) is not int or not 0 <= value < count:
        raise UserError(f"{where}: label: expected 0 to {count - 1}, got {value!r}; correct the field")
    return value
