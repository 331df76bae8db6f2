"""Reads benchmark items from local files: JSON Lines with the fields of XCOPA or XNLI.

A line of an XCOPA or COPA file has `premise`, `choice1`, `choice2`, `question` (cause or effect) and `label` (0 or 1).
A line of an XNLI file has `premise`, `hypothesis` and `label` (0 entailment, 1 neutral, 2 contradiction). `idx` is the
item's number in its split, which its translations share; without it, that is the number of the line, from 0. Other
fields are ignored.
"""

from __future__ import annotations

import json
from pathlib import Path

from tli.config.benchmarks import FileBenchmarks, ItemFile
from tli.data.benchmarks.items import label_field, read_texts
from tli.data.benchmarks.prompts import LABELS, LANGUAGES, Source
from tli.data.benchmarks.released import Group, Groups
from tli.io.errors import UserError
from tli.io.files import read_text, sha256_of
from tli.io.structured import parse_json

PROJECT = "project"  # the origin of items that were written for this artifact


def read(settings: FileBenchmarks) -> Groups:
    """Reads every file of the profile, in the files' order.

    Raises:
        UserError: a file is missing or has another hash, or an item is broken or occurs twice; the message begins with
            path:line.
    """
    return {
        (file.task, file.language, file.split): _items(Path(settings.folder) / file.path, file)
        for file in settings.files
    }


def _items(path: Path, file: ItemFile) -> Group:
    """The items of a file by number."""
    if file.language not in LANGUAGES[file.task]:
        raise UserError(
            f"params.yaml: benchmarks.files: {file.path}: language: expected one of "
            f"{', '.join(LANGUAGES[file.task])} for {file.task}, got {file.language}; the harness has no prompt for it"
        )
    published = f"{file.origin}{f' @ {file.commit}' if file.commit else ''}"
    get = "run `dvc pull data.dvc`" if file.origin == PROJECT else f"copy it there from {published}"
    if not path.is_file():
        raise UserError(f"{path}: no such file (SHA-256 {file.sha256}); {get}")
    if (actual := sha256_of(path)) != file.sha256:
        raise UserError(
            f"{path}: expected SHA-256 {file.sha256}, got {actual}; {get}, or set sha256 and origin of yours in "
            "params.yaml"
        )
    group: Group = {}
    first: dict[str, int] = {}
    for number, line in enumerate(read_text(path).removesuffix("\n").split("\n"), start=1):
        where = f"{path}:{number}"
        record = parse_json(line, where)
        if not isinstance(record, dict):
            raise UserError(f"{where}: expected a JSON object, got {line[:40]!r}; fix the line")
        texts = read_texts(where, record, file.task)
        idx = record.get("idx", number - 1)
        if type(idx) is not int or idx < 0 or idx in group:
            raise UserError(f"{where}: idx: expected each number once, got {idx!r}; number the items")
        content = json.dumps(texts, sort_keys=True)
        if content in first:
            raise UserError(f"{where}: expected each item once, got that of line {first[content]} again; remove one")
        first[content] = number
        label = label_field(where, record, LABELS[file.task])
        name = f"{file.task}.{file.language}.{file.split}.{idx:04}"
        group[idx] = Source(name, file.task, file.language, file.split, label, texts)
    if not group:
        raise UserError(f"{path}:1: expected one JSON object per line, got an empty file; restore it")
    return group
