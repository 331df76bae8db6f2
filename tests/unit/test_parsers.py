"""What reads files from outside, given any bytes: a value that survives being written again, or one line, no more.

Each parser gets bytes without any order and good files with a few bytes changed, which get further; in `make soak`
also what atheris makes of the good file, led by the lines that it reaches (tests/fuzz.py), where atheris is installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from test_transfer import ITEMS

from tiny import ROOT, WORDS
from tli.commands import audit
from tli.config import parameters
from tli.data.benchmarks.items import read_items, write_items
from tli.data.words.author import read_author_list
from tli.data.words.lexicon import Pair, read_pairs
from tli.io.errors import UserError
from tli.io.rows import Row, read_rows, write_rows
from tli.io.structured import read_json, write_tsv
from tli.model import checkpoint, shards

T = TypeVar("T")
BUDGET = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
PAIRS = [Pair(sw, en, "noun", "any", "trained") for sw, en in WORDS[:3]]
SMOKE = (ROOT / "tests" / "smoke" / "params.yaml").read_bytes()
ROWS = [Row("main", "2r", 16, "0", "xcopa.en", f"c{n}", "-", "correct", n) for n in range(3)]
TENSORS = save({"a": torch.arange(4.0), "b": torch.zeros(2, 2, dtype=torch.int64)}, {"format": "pt"})
RESULTS = b"swahili,english,sim_pre_tli,sim_post_tli,group,improvement\nmbwa,dog,0.25,0.5,trained,0.25\n"
PILOT = b"layer,avg_cosine_similarity\n0,0.25\n1,0.5\n"


def spoilt(good: bytes) -> st.SearchStrategy[bytes]:
    """Any bytes, or the good file with up to four places replaced by others, longer or shorter."""
    change = st.tuples(st.integers(0, len(good)), st.integers(0, 12), st.binary(max_size=12))

    def changed(changes: list[tuple[int, int, bytes]]) -> bytes:
        data = good
        for place, length, new in changes:
            data = data[:place] + new + data[place + length :]
        return data

    return st.one_of(st.binary(max_size=200), st.lists(change, max_size=4).map(changed))


def written(write: Callable[[Path], object], folder: Path) -> bytes:
    write(folder / "good")
    return (folder / "good").read_bytes()


def held(read: Callable[[Path], T], write: Callable[[Path, T], object], data: bytes, folder: Path) -> bool:
    """Whether `data` is read: then it is written and read again as it was; else it is refused in one line."""
    path = folder / "file.safetensors"
    path.write_bytes(data)
    try:
        value = read(path)
    except UserError as error:
        said = error.format_message()
    else:
        said = ""
    if said:
        assert "\n" not in said
        assert str(path) in said
        return False
    write(folder / "again.safetensors", value)
    assert read(folder / "again.safetensors") == value
    return True


def as_list(path: Path, pairs: list[Pair]) -> None:
    path.write_text(json.dumps([{"swahili": pair.swahili, "english": pair.english} for pair in pairs]))


def as_results(path: Path, results: list[audit.Result]) -> None:
    lines = [(r.swahili, r.english, repr(r.before), repr(r.after), r.group, repr(r.after - r.before)) for r in results]
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in line) for line in [audit.RESULTS, *lines]]
    path.write_bytes(("\n".join(quoted) + "\n").encode())


def as_pilot(path: Path, layers: dict[int, float]) -> None:
    lines = [",".join(audit.PILOT), *(f"{layer},{value!r}" for layer, value in layers.items())]
    path.write_text("\n".join([*lines, ""]))


def as_rows(path: Path, found: list[Row]) -> None:
    """With every digit, where the stages write nine."""
    write_tsv(path, Row._fields, [[*row[:-1], str(row.value)] for row in found])


def rows(path: Path) -> list[Row]:
    return [Row(*row) for row in read_rows(path).itertuples(index=False)]


def header(path: Path) -> dict[str, tuple[object, ...]]:
    """Name -> all that the header says of the tensor; the two readers of headers must agree about the file."""
    found: dict[str, tuple[object, ...]] = {}
    for name, info in shards.headers_of([path], path).items():
        assert 0 <= info.start <= info.start + info.nbytes <= path.stat().st_size
        found[name] = info[1:]
    assert checkpoint.CheckpointFiles(path.parent).file_of.keys() >= found.keys()
    return found


def copied(path: Path, _: object) -> None:
    path.write_bytes((path.parent / "file.safetensors").read_bytes())
    (path.parent / "file.safetensors").unlink()


PARSERS: dict[str, tuple[Callable[[Path], Any], Callable[[Path, Any], object], Callable[[Path], bytes]]] = {
    "word pairs": (
        read_pairs,
        lambda path, pairs: write_tsv(path, Pair._fields, pairs),
        lambda folder: written(lambda path: write_tsv(path, Pair._fields, PAIRS), folder),
    ),
    "word pairs in JSON": (
        lambda path: read_author_list(path, "trained"),
        as_list,
        lambda folder: written(lambda path: as_list(path, PAIRS), folder),
    ),
    "items": (read_items, write_items, lambda folder: written(lambda path: write_items(path, ITEMS), folder)),
    "rows": (rows, as_rows, lambda folder: written(lambda path: write_rows(path, ROWS), folder)),
    "results": (audit.read_results, as_results, lambda _: RESULTS),
    "pilot": (audit.read_pilot, as_pilot, lambda _: PILOT),
    "safetensors headers": (header, copied, lambda _: TENSORS),
    "JSON": (
        lambda path: read_json(path),
        lambda path, value: path.write_text(json.dumps(value)),
        lambda _: b'{"a": [1, 2.5, "x\\u00e9"], "b": {"c": null}}',
    ),
    "params.yaml": (
        lambda path: parameters.load(path),
        # `model` is no key of the file: it is the first of `models`
        lambda path, value: path.write_text(json.dumps(value.model_dump(mode="json", exclude={"model"}))),
        lambda _: SMOKE,
    ),
}


def is_read(name: str, data: bytes, folder: Path) -> bool:
    """`held` for a parser by name, in a folder that is used again and again."""
    for path in folder.glob("*.safetensors"):
        path.unlink()
    read, write, _ = PARSERS[name]
    return held(read, write, data, folder)


@pytest.mark.parametrize("name", PARSERS)
def test_any_bytes_are_read_or_refused(name: str, tmp_path: Path, figures: Callable[[str, int], None]) -> None:
    read, write, good = PARSERS[name]
    intact = good(tmp_path)
    assert held(read, write, intact, tmp_path), "the file that is spoilt should be good"
    refused = 0

    @BUDGET
    @given(spoilt(intact))
    def attempt(data: bytes) -> None:
        nonlocal refused
        refused += not is_read(name, data, tmp_path)

    attempt()
    assert refused
    figures(f"arbitrary bytes refused, {name}", refused)


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="no atheris here (pip install atheris)")
@pytest.mark.skipif("TLI_SOAK" not in os.environ, reason="`make soak` alone: a minute a parser")
@pytest.mark.parametrize("name", PARSERS)
def test_bytes_led_by_coverage_are_read_or_refused(
    name: str, tmp_path: Path, figures: Callable[[str, int], None]
) -> None:
    """Inputs that atheris grows from a good file, towards lines not reached yet, are read or refused in one line."""
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "fuzz.py"), name, str(tmp_path / "fuzz"), "60"],
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    kept = [f"{path}: {path.read_bytes()!r}" for path in (tmp_path / "fuzz" / "found").glob("*")]
    assert (kept, done.returncode) == ([], 0), done.stderr[-4000:]
    counted = re.search(r"^stat::number_of_executed_units: *(\d+)$", done.stderr, re.M)
    assert counted is not None, done.stderr[-4000:]
    figures(f"inputs led by coverage, {name}", int(counted[1]))
