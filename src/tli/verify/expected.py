"""paper/expected/<model>.json: the recorded run of a model that later runs are compared with (stage: verify).

A copy of the recorded run's measured.json with the settings that it was made under, and digests of its parameters, base
weights and items. Only tools/record writes it. Under other settings a value has no expectation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tli.analysis.results import Measured, Value, flat
from tli.config.parameters import Params
from tli.io.errors import UserError
from tli.io.files import sha256_of
from tli.io.structured import brief, read_json

PARAMETERS, BASE, ITEMS = "parameters", "base", "items"
NAMED_BY_HASH = ("file", "name", "licence")  # of a packaged model, which its sha256 identifies


class Expected(NamedTuple):
    """The recorded run of one model."""

    model: str
    settings: Measured
    digests: Mapping[str, str | None]
    values: Measured


def settings(params: Params, measured: Measured) -> Measured:
    """What a value may depend on, flat: params.yaml without threads, intervals and other models; hashes of inputs.

    How files are fetched and where the sweep runs change no value, nor does what only the full grid reads. The author's
    files count only where a source says that they are used. Where a packaged model's file lies does not matter.
    """
    others = {"models", "model", "profiles", "stats", "fetch", "author", "arms", "bos", "sweep", "cluster"}
    shared = params.model_dump(mode="json", exclude=others)
    shared["sweep"] = params.sweep.model_dump(mode="json", include={"ranks", "seeds"})
    of_model = params.active.model_dump(mode="json", exclude={"compute": True, "model": set(NAMED_BY_HASH)})
    of_model |= {"compute": {"dtype": params.active.compute.dtype}}
    used = {"trained", "control"} if params.pairs.source == "author" else set()
    used |= {"adapter"} if params.adapter.source == "author" else set()
    author = {"author": params.author.model_dump(mode="json", include=used)} if used else {}
    hashes = {key: value for key, value in measured.items() if key.startswith("inputs.")}
    return flat(shared | of_model | author) | hashes


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
    if not isinstance(raw, dict) or raw.keys() != set(Expected._fields):
        raise UserError(
            f"{path}: expected the keys {', '.join(Expected._fields)}, got {brief(raw)}; restore it from git"
        )
    expected = Expected(**raw)
    if expected.digests.get(PARAMETERS) != digest(expected.settings):
        raise UserError(
            f"{path}: digests.parameters: expected {digest(expected.settings)[:12]}…, the hash of its settings, got "
            f"{brief(expected.digests.get(PARAMETERS))}; restore the file from git or run tools/record"
        )
    return expected


def of_run(folder: Path, params: Params) -> Expected:
    """The run in the checkout `folder` as it is recorded.

    Raises:
        UserError: the folder holds no finished run of the model.
    """
    measured: Measured = read_json(folder / "results" / params.model / "measured.json", "measured values by key")
    under, build = settings(params, measured), folder / "build" / params.model
    items = build / "benchmarks" / "items.jsonl"
    digests = {
        PARAMETERS: digest(under),
        BASE: weights(build / "base"),
        ITEMS: sha256_of(items) if items.is_file() else None,
    }
    return Expected(params.model, under, digests, measured)


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
