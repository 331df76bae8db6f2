"""The manifest of fetched files: a text file in git (used by fetch.py).

It has a line for each file, and one for each revision that was pinned at its first use. The lines are sorted; two
spaces separate the columns:

    <SHA-256>  models/<owner>/<name>@<revision>/<path>
    <SHA-256>  models/<owner>/<name>@<revision>/<path>#<part>
    <revision>  datasets/<owner>/<name>

The hash of a whole file was compared with the hub's hash when it was first fetched. The hub has no hash of a part of a
file, such as a tensor; the line of a part only ensures that later fetches give the same bytes.
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

PART = ".safetensors#"  # separates a file and its part
SUBJECT = r"(?:model|dataset)s/[^@\s]+"
LINE = re.compile(rf"([0-9a-f]{{64}})  ({SUBJECT}@[0-9a-f]{{40}}/\S.*)|([0-9a-f]{{40}})  ({SUBJECT})")


def read(manifest: Path) -> dict[str, str]:
    """Reads the manifest.

    Returns:
        File or repository -> its SHA-256 or revision, in the order of the lines.

    Raises:
        UserError: no such manifest, or a line that is malformed or contradicts an earlier one.
    """
    if not manifest.is_file():
        raise UserError(f"{manifest}: no such manifest; restore it (git checkout {manifest}), or name another")
    pins: dict[str, str] = {}
    for number, line in enumerate(read_text(manifest).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        value, subject = (match[1] or match[3], match[2] or match[4]) if match else ("", "")
        if not match or pins.get(subject, value) != value:
            raise UserError(
                f"{manifest}:{number}: expected '<SHA-256>  models/<owner>/<name>@<revision>/<path>' or "
                f"'<revision>  models/<owner>/<name>', each once, got {line!r}; fix that line"
            )
        pins[subject] = value
    return pins


def note(manifest: Path, new: Mapping[str, str]) -> dict[str, str]:
    """Adds `new` to the manifest. Entries that another process has added stay.

    Returns:
        All entries of the manifest.

    Raises:
        UserError: the manifest cannot be written.
    """
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
    """Locks the file at `path`. Writers replace that file, so the lock counts only if the path still leads to it."""
    while True:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield
                return
