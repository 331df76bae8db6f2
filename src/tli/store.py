"""How everything is written and read: atomic files, long TSV rows, JSON, SHA-256 manifests, receipts, progress.

Nothing here computes a number that a table shows. Feeds every table, by carrying its rows.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import click

T = TypeVar("T")


class UserError(click.ClickException):
    """The user's mistake: one line that says what, where, expected, got and what to do. Exit status 2."""

    exit_code = 2


class CheckFailed(click.ClickException):
    """A check that ran and did not pass. Exit status 1."""

    exit_code = 1


class Row(NamedTuple):
    """One measured value. `-` stands where a column does not apply; rank 0 is the base model."""

    cell: str
    arm: str
    rank: int
    seed: str
    set: str
    item: str
    view: str
    measure: str
    value: float | str


def number(value: float | str) -> str:
    """A value as every row, JSON and table file holds it: nine significant digits, integers without a point."""
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        raise ValueError(f"a row's value must be finite, got {value}")
    return f"{float(value):.9g}"


@contextmanager
def atomic_write(path: Path | str, newline: str = "\n") -> Iterator[IO[str]]:
    """Opens a temporary file beside `path` and renames it over `path` once it is whole and on disk."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def atomic_dir(path: Path | str) -> Iterator[Path]:
    """Yields a temporary folder beside `path` that takes its place once the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        mask = _umask()
        temporary.chmod(0o777 & ~mask)
        for file in temporary.rglob("*"):
            if file.is_file():
                file.chmod(0o666 & ~mask)
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_text(path: Path | str, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text)


def write_json(path: Path | str, value: object) -> None:
    """JSON with floats at nine significant digits and keys in the order given."""
    with atomic_write(path) as file:
        json.dump(_rounded(value), file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(number(value))
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def read_json(path: Path | str) -> Any:
    return json.loads(read_text(path))


def read_text(path: Path | str) -> str:
    """The file's text; a missing file or bytes that are not UTF-8 are the user's to mend."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path (what a stage writes, `dvc repro` makes)") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None


def write_tsv(path: Path | str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A TSV file with a header. A cell may hold neither tab nor line break."""
    with atomic_write(path) as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
        writer.writerow(columns)
        for row in rows:
            writer.writerow([number(cell) if isinstance(cell, float) else cell for cell in row])


def write_rows(path: Path | str, rows: Iterable[Row]) -> None:
    write_tsv(path, Row._fields, rows)


def read_rows(path: Path | str) -> Any:
    """The rows of `path` as a pandas data frame; `value` is numeric unless the file holds a text value."""
    import pandas as pd

    if not Path(path).is_file():
        raise UserError(f"{path}: no such rows; run `dvc repro`, which measures them")
    frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE)
    if tuple(frame.columns) != Row._fields:
        raise UserError(f"{path}:1: expected the columns {' '.join(Row._fields)}, got {' '.join(frame.columns)}")
    frame["rank"] = frame["rank"].astype(int)
    numeric = pd.to_numeric(frame["value"], errors="coerce")
    if not numeric.isna().any():
        frame["value"] = numeric
    return frame


def sha256(path: Path | str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


MANIFEST = "SHA256SUMS"


def write_manifest(folder: Path) -> None:
    """Writes `folder`/SHA256SUMS in the format of sha256sum, one line a file, sorted by path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    write_text(folder / MANIFEST, "".join(f"{sha256(file)}  {file.relative_to(folder)}\n" for file in files))


def check_manifest(folder: Path) -> None:
    """Raises CheckFailed, naming the file, unless every file of `folder` is as its manifest says."""
    listed = dict(line.split("  ", 1)[::-1] for line in read_text(folder / MANIFEST).splitlines())
    for name, expected in listed.items():
        got = sha256(folder / name) if (folder / name).is_file() else "no file"
        if got != expected:
            raise CheckFailed(f"{folder / name}: expected SHA-256 {expected}, got {got}; remove it and run `dvc repro`")


PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "tokenizers", "safetensors", "numpy", "scipy", "dvc")


@contextmanager
def receipt(output: Path | str, inputs: Iterable[Path | str] = ()) -> Iterator[None]:
    """Writes OUTPUT.receipt.json after the block: versions, machine, time, peak memory, revision, inputs' hashes.

    No stage depends on a receipt: it holds what may differ between two runs with the same numbers.
    """
    start, cpu = time.time(), time.process_time()
    yield
    output = Path(output)
    record = {
        "output": str(output),
        "command": sys.argv[1:],
        "seconds": time.time() - start,
        "cpu_seconds": time.process_time() - cpu,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processors": os.cpu_count() or 0,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "revision": revision(),
        "inputs": {str(path): sha256(path) for path in map(Path, inputs) if path.is_file()},
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        record["threads"] = torch.get_num_threads()
        record["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    write_json(output.parent / f"{output.name}.receipt.json", record)


def revision() -> str:
    """The commit of the checkout, with `+` where the tree differs from it; `unknown` without git."""
    call = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"], capture_output=True, text=True
    )
    return call.stdout.strip() or "unknown"


def progress(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yields `items`, telling how far they are: one live line on a terminal, else a plain line every tenth.

    The line holds label, done/total, time left and the process's peak memory, on standard error.
    """
    if total is None:
        total = len(items)  # type: ignore[arg-type]
    start, live, told = time.monotonic(), sys.stderr.isatty(), 0
    for done, item in enumerate(items, start=1):
        yield item
        tenth = 10 * done // max(total, 1)
        if live or tenth > told:
            told = tenth
            left = (time.monotonic() - start) / done * (total - done)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            line = f"{label} {done}/{total}, {left:.0f} s left, peak {peak:.1f} GiB"
            print(f"\r\x1b[2K{line}" if live else line, end="" if live else "\n", file=sys.stderr, flush=True)
    if live and told:
        print(file=sys.stderr)
