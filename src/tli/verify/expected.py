"""paper/expected/<model>.json: the recorded run of a model that later runs are compared with (stage: verify).

A copy of the cells of the recorded run's tables.json, one line for each row, with the settings of that run, and digests
of its parameters, base weights and items. Only tools/record writes it. Under other settings a value has no expectation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tli.analysis.cells import Cells
from tli.analysis.render import read_model
from tli.analysis.results import Measured, Value, flat
from tli.analysis.table import Column, Table
from tli.config.parameters import Params
from tli.io.errors import UserError
from tli.io.files import sha256_of, write_text
from tli.io.structured import brief, read_json, rounded

PARAMETERS, BASE, ITEMS = "parameters", "base", "items"
PAIRS = "inputs.pairs"  # the setting that holds the SHA-256 of the word list
NAMED_BY_HASH = ("file", "name", "licence")  # of a packaged model, which its sha256 identifies
KEYS = ("model", "settings", "digests", "tables")


@dataclass(frozen=True)
class Expected:
    """The recorded run of one model."""

    model: str
    settings: Measured
    digests: Mapping[str, str | None]
    tables: Mapping[str, Table]

    @cached_property
    def cells(self) -> Cells:
        """Every cell of its tables."""
        return Cells(self.tables)


def settings(params: Params, pairs_sha256: str) -> Measured:
    """What a value may depend on, flat: params.yaml without threads, intervals and other models; the word list's hash.

    How files are fetched and where the sweep runs change no value, nor does what only the study reads. The author's
    files count only where a source says that they are used. Where a packaged model's file lies does not matter.
    """
    others = {
        "models",
        "model",
        "profiles",
        "stats",
        "fetch",
        "author",
        "sweep",
        "study",
        "bases",
        "bos",
        "variants",
        "cluster",
    }
    shared = params.model_dump(mode="json", exclude=others)
    shared["sweep"] = params.sweep.model_dump(mode="json", include={"ranks", "seeds"})
    of_model = params.active.model_dump(mode="json", exclude={"compute": True, "model": set(NAMED_BY_HASH)})
    of_model |= {"compute": {"dtype": params.active.compute.dtype}}
    used = {"trained", "control"} if params.pairs.source == "author" else set()
    used |= {"adapter"} if params.adapter.source == "author" else set()
    author = {"author": params.author.model_dump(mode="json", include=used)} if used else {}
    return flat(shared | of_model | author) | {PAIRS: pairs_sha256}


def difference(recorded: Measured, now: Measured) -> str:
    """The first setting that is not what it was, in words; empty where all are the same."""
    for name in recorded | now:
        if recorded.get(name) != now.get(name):
            return f"{name} is {_brief(now.get(name))}, recorded under {_brief(recorded.get(name))}"
    return ""


def digest(under: Measured) -> str:
    """SHA-256 of settings, in JSON with sorted keys."""
    return hashlib.sha256(json.dumps(under, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def file_of(folder: Path, params: Params) -> Path:
    """The file of this model in the folder paper/expected."""
    return folder / f"{params.model}.json"


def load(path: Path) -> Expected | None:
    """Reads a recorded run; None where none is recorded.

    Raises:
        UserError: the file is not of its form, or its settings were edited after it was recorded.
    """
    if not path.is_file():
        return None
    raw = read_json(path)
    if not isinstance(raw, dict) or raw.keys() != set(KEYS):
        raise UserError(f"{path}: expected the keys {', '.join(KEYS)}, got {brief(raw)}; restore it from git")
    try:
        tables = [_table(table) for table in raw["tables"]]
        expected = Expected(raw["model"], raw["settings"], raw["digests"], {table.name: table for table in tables})
        recorded_digest = expected.digests.get(PARAMETERS)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: expected a run as tools/record writes it, got {error!r}; restore it from git"
        ) from None
    if recorded_digest != digest(expected.settings):
        raise UserError(
            f"{path}: digests.parameters: expected {digest(expected.settings)[:12]}…, the hash of its settings, got "
            f"{brief(recorded_digest)}; restore the file from git or run tools/record"
        )
    return expected


def _table(written: Mapping[str, Any]) -> Table:
    """A table of the file; it has no title, caption or notes."""
    columns = [Column(key, key, kind, id_) for key, kind, id_ in written["columns"]]
    rows = [
        {column.key: cell for column, cell in zip(columns, row, strict=True) if cell is not None}
        for row in written["rows"]
    ]
    return Table(name=written["name"], title="", caption="", columns=columns, rows=rows, view=written["view"])


def write(path: Path, expected: Expected) -> None:
    """Writes a recorded run, with one line for each row of a table, so that a diff shows what changed."""
    head = {"model": expected.model, "settings": expected.settings, "digests": expected.digests}
    start = json.dumps(rounded(head), indent=2, ensure_ascii=False).removesuffix("\n}")
    tables = ",\n".join("\n".join(_lines(table)) for table in expected.tables.values())
    write_text(path, f'{start},\n  "tables": [\n{tables}\n  ]\n}}\n')


def _lines(table: Table) -> Iterator[str]:
    columns = [[column.key, column.kind, column.id] for column in table.columns]
    start = json.dumps({"name": table.name, "view": table.view, "columns": columns}, ensure_ascii=False)
    yield f'    {start.removesuffix("}")}, "rows": ['
    rows = [
        json.dumps(rounded([row.get(column.key) for column in table.columns]), ensure_ascii=False) for row in table.rows
    ]
    yield ",\n".join(f"      {row}" for row in rows)
    yield "    ]}"


def of_run(folder: Path, params: Params) -> Expected:
    """The run in the checkout `folder` as it is recorded.

    Raises:
        UserError: the folder holds no finished run of the model.
    """
    run = read_model(folder / "results" / params.model / "tables.json")
    under, build = settings(params, run.pairs_sha256), folder / "build" / params.model
    items = build / "benchmarks" / "items.jsonl"
    digests = {
        PARAMETERS: digest(under),
        BASE: weights(build / "base"),
        ITEMS: sha256_of(items) if items.is_file() else None,
    }
    return Expected(params.model, under, digests, run.tables)


def weights(base: Path) -> str:
    """SHA-256 over the safetensors files of a checkpoint, in the order of their names.

    Raises:
        UserError: there are none.
    """
    files = sorted(base.glob("*.safetensors"))
    if not files:
        raise UserError(f"{base}: expected a base model's weights (*.safetensors), got none; run `dvc repro`")
    lines = "".join(f"{sha256_of(path)}  {path.name}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _brief(value: Value) -> str:
    """A setting as one word or two; a hash by its first digits."""
    text = "not set" if value is None else str(value)
    return text if len(text) <= 44 else f"{text[:12]}…"
