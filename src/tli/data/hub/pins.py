"""The manifest of what was fetched: a text file in git, read, held against and added to (data/hub/fetch.py).

Feeds no table. One line a file, and one for each revision that was pinned on first use, sorted, two spaces in between:

    <SHA-256>  models/<owner>/<name>@<revision>/<path>
    <SHA-256>  models/<owner>/<name>@<revision>/<path>#<part>
    <revision>  datasets/<owner>/<name>

A whole file was held against the hub's own hash when it was noted. A part, a tensor of a file say, could not be: the
hub has no hash of it, so that its line says no more than that the same bytes come again.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tli.io.errors import UserError
from tli.io.files import read_text, write_text

PART = ".safetensors#"  # between a file and its part
SUBJECT = r"(?:model|dataset)s/[^@\s]+"
LINE = re.compile(rf"([0-9a-f]{{64}})  ({SUBJECT}@[0-9a-f]{{40}}/\S.*)|([0-9a-f]{{40}})  ({SUBJECT})")


def read(manifest: Path) -> dict[str, str]:
    """Subject -> hash or revision, in the manifest's order."""
    if not manifest.is_file():
        raise UserError(f"{manifest}: no such manifest; restore it (git checkout {manifest}), or name another")
    found: dict[str, str] = {}
    for number, line in enumerate(read_text(manifest).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        value, subject = (match[1] or match[3], match[2] or match[4]) if match else ("", "")
        if not match or found.get(subject, value) != value:
            raise UserError(
                f"{manifest}:{number}: expected '<SHA-256>  models/<owner>/<name>@<revision>/<path>' or "
                f"'<revision>  models/<owner>/<name>', each once, got {line!r}; mend that line"
            )
        found[subject] = value
    return found


def note(manifest: Path, new: Mapping[str, str]) -> dict[str, str]:
    """Adds `new` to the manifest, where what another process noted first stays; returns all that it holds then."""
    try:
        with _locked(manifest):
            lines = read_text(manifest).splitlines()
            merged = {**new, **read(manifest)}
            comments = [line for line in lines if line.startswith("#")]
            write_text(
                manifest,
                "".join(f"{line}\n" for line in [*comments, *(f"{merged[key]}  {key}" for key in sorted(merged))]),
            )
    except OSError as error:
        raise UserError(f"{manifest}: cannot be written ({error.strerror}); make it writable") from None
    return merged


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock on `path`, which writers replace: the lock counts only on the file that still has the name."""
    while True:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield
                return
