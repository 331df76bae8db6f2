"""How everything is written and read: atomic files, long TSV rows, JSON, SHA-256 manifests, receipts.

Nothing here computes a number that a table shows. Feeds every table, by carrying its rows.
"""

from __future__ import annotations

import csv
import fcntl
import glob
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import reprlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import click
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tli import terminal


class Told(click.ClickException):
    """What ends a command with one line on standard error, its first word red where colours may be shown."""

    def show(self, file: IO[Any] | None = None) -> None:
        stream = sys.stderr if file is None else file
        first = click.style("Error:", fg="red", bold=True) if terminal.coloured(stream) else "Error:"
        click.echo(f"{first} {self.format_message()}", file=stream)


class UserError(Told):
    """The user's mistake: one line that says what, where, expected, got and what to do. Exit status 2."""

    exit_code = 2


class CheckFailed(Told):
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


def nine_digits(value: float | str) -> str:
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
    _sweep(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline=newline) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        sync(path.parent)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        _name(error, path)
        raise


@contextmanager
def atomic_dir(path: Path | str) -> Iterator[Path]:
    """Yields a temporary folder beside `path` that takes its place once the block ends without an error.

    A folder that stood there is renamed aside, not emptied first: between two renames there is neither, never a part.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    held = os.open(temporary, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield temporary
        sync_tree(temporary)
        if path.is_dir():
            aside = tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.")
            os.replace(path, aside)
            os.replace(temporary, path)
            shutil.rmtree(aside)
        else:
            os.replace(temporary, path)
        sync(path.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _name(error, path)
        raise
    finally:
        os.close(held)


def _name(error: BaseException, path: Path) -> None:
    """Names the output in an error that names no file, as that of a write to a full disk."""
    if isinstance(error, OSError) and error.filename is None:
        error.filename = str(path)


def _sweep(path: Path) -> None:
    """Removes what killed processes left beside `path` on their way to it; who is alive holds a lock on its own."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'[a-z0-9_]' * 8}"):  # as tempfile names them
        with suppress(FileNotFoundError, PermissionError, BlockingIOError):
            handle = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            finally:
                os.close(handle)


def sync(path: Path) -> None:
    """Waits until a file's bytes or a folder's names are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(path: Path) -> None:
    """The same of a folder with all that is in it, or of a file, under the modes that the umask leaves."""
    mask = _umask()
    for each in (*path.rglob("*"), path):
        each.chmod((0o777 if each.is_dir() else 0o666) & ~mask)
        sync(each)


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
        return float(nine_digits(value))
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def read_json(path: Path | str, what: str = "") -> Any:
    """What a JSON file holds; an object, named `what` in the message, where that is given.

    Raises:
        UserError: no such file, no JSON, or no object where one is expected.
    """
    value = parse_json(read_text(path), path)
    if what and not isinstance(value, dict):
        raise UserError(f"{path}: expected {what}, got {brief(value)}; run `dvc repro`, or name another file")
    return value


def parse_json(text: str, where: Path | str) -> Any:
    """The value that `text`, which stands at `where`, holds. UserError where it is no JSON, or has a key twice."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        at = f"{where}:{error.lineno}" if "\n" in text else f"{where}"
        raise UserError(f"{at}: column {error.colno}: not JSON: {error.msg}; mend the line") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in brackets
        raise UserError(f"{where}: not JSON: {' '.join(str(error).split())[:120]}; mend the file") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        raise ValueError(f"the key {next(key for key, _ in pairs if key in seen or seen.add(key))!r} twice")  # type: ignore[func-returns-value]
    return found


def _refuse(name: str) -> float:
    raise ValueError(f"the number {name}")


def read_yaml(path: Path | str, *, made: bool = False) -> Any:
    """What a YAML file holds. UserError, with the line, where it is missing or no YAML."""
    return parse_yaml(read_text(path), path, made=made)


def parse_yaml(text: str, where: Path | str, *, made: bool = False) -> Any:
    """The value that `text`, which stands at `where`, holds, as plain Python. UserError where it is no YAML.

    What a program `made`, or the repository holds, libyaml reads where it is installed, in a fraction of the time.
    It is not for what anyone may hand in: a value nested too deep ends its process.
    """
    try:
        return YAML(typ="safe", pure=not made).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        line = mark.line + 1 if mark else 1
        raise UserError(f"{where}:{line}: not valid YAML: {problem}; mend that line") from None
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:  # what a tag makes of its value
        problem = " ".join(str(error).split())[:120]
        raise UserError(f"{where}: not valid YAML: {problem}; write plain values") from None


def brief(value: object) -> str:
    """A value as a message shows it: on one line, and no longer than a line."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxstring, _SHORT.maxother = 3, 4, 6, 80, 80


def read_text(path: Path | str) -> str:
    """The file's text; a file that is not there or not text is the user's to mend."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path (what a stage writes, `dvc repro` makes)") from None
    except OSError as error:
        raise UserError(f"{path}: expected a file that can be read, got {error.strerror}; check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None


def write_tsv(path: Path | str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A TSV file with a header. A cell may hold neither tab nor line break."""
    with atomic_write(path) as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
        writer.writerow(columns)
        for row in rows:
            writer.writerow([nine_digits(cell) if isinstance(cell, float) else cell for cell in row])


def write_rows(path: Path | str, rows: Iterable[Row]) -> None:
    write_tsv(path, Row._fields, rows)


def join_rows(path: Path | str, parts: Iterable[Path]) -> None:
    """Writes the rows of several row files, one after another, byte by byte as they stand there."""
    with atomic_write(path) as file:
        for number, part in enumerate(parts):
            header, rows = read_text(part).split("\n", 1)
            file.write(rows if number else f"{header}\n{rows}")


WILD = ("", *(sign + word for sign in ("", "+", "-") for word in ("nan", "inf", "infinity")))  # floats, not finite


def read_rows(path: Path | str) -> Any:
    """The rows of `path` as a pandas data frame; `value` is numeric unless the file holds a text value."""
    import pandas as pd

    if not Path(path).is_file():
        raise UserError(f"{path}: no such rows; run `dvc repro`, which measures them")
    again = "remove the file and run `dvc repro`, which measures them"
    try:
        frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE, encoding="utf-8")
    except (ValueError, OSError) as error:  # of pandas' parser and of UTF-8
        problem = " ".join(str(error).split())
        raise UserError(f"{path}: expected rows of {len(Row._fields)} columns, got: {problem}; {again}") from None
    if tuple(frame.columns) != Row._fields or not isinstance(frame.index, pd.RangeIndex):  # pandas': a column too many
        got = " ".join([*(["…"] if tuple(frame.columns) == Row._fields else []), *frame.columns])[:120]
        raise UserError(f"{path}:1: expected the columns {' '.join(Row._fields)}, got {got}; {again}")
    numeric = pd.to_numeric(frame["value"], errors="coerce")
    text = frame["value"].str.strip().str.lower()
    for column, broken, expected in (
        ("rank", ~frame["rank"].str.fullmatch("[0-9]{1,9}"), "a whole number"),
        ("value", text.isin(WILD) | numeric.abs().eq(math.inf), "a finite number or a word"),
    ):
        if broken.any():
            line = int(broken.to_numpy().argmax())
            got = brief(frame[column].tolist()[line])
            raise UserError(f"{path}:{line + 2}: {column}: expected {expected}, got {got}; {again}")
    frame["rank"] = frame["rank"].astype(int)
    if not numeric.isna().any():
        frame["value"] = numeric
    return frame


def sha256_of(path: Path | str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


MANIFEST = "SHA256SUMS"


def write_manifest(folder: Path) -> None:
    """Writes `folder`/SHA256SUMS, the folder's `manifest`."""
    write_text(folder / MANIFEST, manifest_of(folder))


def manifest_of(folder: Path) -> str:
    """The hashes of a folder's files in the format of sha256sum, one line a file, sorted by path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    return "".join(f"{sha256_of(file)}  {file.relative_to(folder)}\n" for file in files)


def check_manifest(folder: Path) -> None:
    """Raises CheckFailed, naming the file, unless every file of `folder` is as its manifest says."""
    listed = dict(line.split("  ", 1)[::-1] for line in read_text(folder / MANIFEST).splitlines())
    for name, expected in listed.items():
        got = sha256_of(folder / name) if (folder / name).is_file() else "no file"
        if got != expected:
            raise CheckFailed(f"{folder / name}: expected SHA-256 {expected}, got {got}; remove it and run `dvc repro`")


PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "tokenizers", "safetensors", "numpy", "scipy", "dvc")


@contextmanager
def write_receipt(
    output: Path | str, inputs: Iterable[Path | str] = (), pace: Mapping[str, float] | None = None
) -> Iterator[None]:
    """Writes OUTPUT.receipt.json after the block: versions, machine, time, peak memory, revision, inputs' hashes.

    No stage depends on a receipt: it holds what may differ between two runs with the same numbers.

    Args:
        pace: what `terminal.progress` measures during the block: label -> seconds an item.
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
        "pace": dict(pace or {}),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processors": os.cpu_count() or 0,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "revision": revision(),
        "inputs": {str(path): sha256_of(path) for path in map(Path, inputs) if path.is_file()},
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        record["threads"] = torch.get_num_threads()
        record["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    write_json(receipt_of(output), record)


def receipt_of(output: Path) -> Path:
    """Where the receipt of an output lies: beside it."""
    return output.parent / f"{output.name}.receipt.json"


def last_receipt(output: Path) -> dict[str, Any]:
    """The receipt of the run before, for the time it took; empty where there is none that can be read."""
    with suppress(OSError, ValueError):
        found = json.loads(receipt_of(output).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def revision() -> str:
    """The commit of the checkout, with `+` where the tree differs from it; `unknown` without git or its history."""
    if shutil.which("git") is None:
        return "unknown"
    call = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"], capture_output=True, text=True
    )
    return call.stdout.strip() or "unknown"
