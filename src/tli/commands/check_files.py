"""`tli check`: reads every file of a run to the last byte, compares its hash, and repairs damaged files.

DVC assumes that a file is unchanged if its inode, time and size are. So a flipped bit would go unnoticed into the next
table. This module compares:

- data/ and the outputs of both pipelines with data.dvc, dvc.lock and their SHA256SUMS,
- objects of DVC's cache and of remotes inside the repository with their names, which are hashes,
- the entries of DVC's run cache with their names.

A damaged file is replaced by a copy with the right hash, if there is one. The damaged file is moved to a folder and not
deleted. hashed_files.py finds and hashes the files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import click
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tli.commands import hashed_files
from tli.commands.hashed_files import Output, Tree, md5_of
from tli.io.errors import CheckFailed
from tli.io.files import sync

ASIDE = Path(".dvc", "tmp", "aside")  # git and DVC ignore it
NOTHING = "no file"
REPAIR = "`tli check --repair`"
AGAIN = f"{REPAIR} sets it aside; then `dvc repro` makes it again"


class Copy(NamedTuple):
    """A good copy: its bytes or path, and where it came from."""

    origin: str
    data: Path | bytes


class Finding(NamedTuple):
    """A file whose content is not as expected.

    Attributes:
        path: the file.
        expected: its expected hash.
        got: its actual hash, or why it has none.
        source: the file that states the expected hash.
        advice: what to do if there is no copy.
        copy: a good copy, or None.
    """

    path: Path
    expected: str
    got: str
    source: str
    advice: str = AGAIN
    copy: Copy | None = None

    @property
    def line(self) -> str:
        """The finding as a line of output."""
        advice = f"{REPAIR} puts it back from {self.copy.origin}" if self.copy else self.advice
        if self.source.endswith(".dvc"):
            advice += "; if the change is intended, `dvc repro` accepts it"
        return f"{self.path}: expected {self.expected} ({self.source}), got {self.got}; {advice}"


class Report(NamedTuple):
    """The files that were read, those that are wrong, and the outputs that this checkout has not made."""

    tree: Tree
    findings: list[Finding]
    absent: list[Path]

    def __str__(self) -> str:
        size = sum(digest.size for digest in self.tree.digests.values()) / 1e6
        return f"{len(self.tree.digests)} files, {size:.1f} MB"


def run(repair: bool = False) -> None:
    """Checks the checkout in the current folder, and prints a line to standard error for each damaged file.

    Args:
        repair: also replace or set aside damaged files, and check again.

    Raises:
        CheckFailed: a file is damaged.
        UserError: the folder is no DVC repository, or has a broken lock file.
    """
    report, advice = examine(), f"{REPAIR} restores files that have a copy and sets the others aside"
    for finding in report.findings:
        click.echo(finding.line, err=True)
    if repair and report.findings:
        moved = copied = 0
        for _ in range(2):  # a folder's listing is set aside after the files in it
            moved += fix(report)
            copied += sum(finding.copy is not None for finding in report.findings)
            report = examine()
        click.echo(f"check   {moved} set aside in {ASIDE}, {copied} restored")
        advice = "run `dvc repro`, which makes the files without a copy again, and then `tli check`"
    if report.findings:
        first, more = report.findings[0], len(report.findings) - 1
        raise CheckFailed(
            f"check: expected {report} with the hashes they were written with, got {first.path} ({first.got}) and "
            f"{more} more with others; {advice}"
        )
    absent = f"; missing outputs, which `dvc repro` makes: {len(report.absent)}" if report.absent else ""
    click.echo(f"check   {report}, all unchanged since they were written{absent}")


def examine() -> Report:
    """Reads every file of the current checkout that has a known hash, and compares the hashes."""
    tree, absent = hashed_files.read(), list[Path]()
    findings = [*_check_objects(tree), *_check_runs(tree.homes[0] / "runs")]
    for output in tree.files:
        findings += _check_output(output, tree, absent)
    wrong = {finding.path: finding for finding in reversed(findings)}
    for path, (expected, manifest) in tree.sums.items():
        got = tree.digests[path].sha256 if path in tree.digests else NOTHING
        if got != expected and path not in wrong and manifest not in wrong:
            wrong[path] = Finding(path, f"SHA-256 {expected}", got, str(manifest))
    copies = _copies(tree, wrong) if wrong else {}
    with_copies = [wrong[path]._replace(copy=copies.get(wrong[path].expected)) for path in sorted(wrong)]
    return Report(tree, with_copies, absent)


def _copies(tree: Tree, wrong: Iterable[Path]) -> dict[str, Copy]:
    """`MD5 ...` -> a copy with that hash: another file, a current or noted listing of a folder, or a file in git."""
    tracked = [path for path in wrong if path in tree.tracked]
    copies = {md5_of(data): Copy("git", data) for data in hashed_files.blobs(tree.tracked[path] for path in tracked)}
    copies |= {hashed_files.digest(path).md5: Copy(str(path), path) for path in hashed_files.NOTED.glob("*.dir")}
    for output in tree.files:
        data = tree.listing(output)
        copies[md5_of(data)] = Copy(f"the files of {output.path}", data)
    copies |= {digest.md5: Copy(str(path), path) for path, digest in reversed(tree.digests.items())}
    return {f"MD5 {md5}": copy for md5, copy in copies.items() if md5}


def _check_objects(tree: Tree) -> Iterator[Finding]:
    """Objects whose hash is not their name, and objects that a listing names and that are missing."""
    present = {(obj.home, obj.md5) for obj in tree.objects}
    for obj in tree.objects:
        digest = tree.digests[obj.path]
        advice = AGAIN if obj.home == tree.homes[0] else "restore it from git"
        if digest.md5 != obj.md5:
            yield Finding(obj.path, f"MD5 {obj.md5}", digest.md5 or digest.error, "its name", advice)
        elif obj.path.suffix == ".dir":
            for md5 in (entry["md5"] for entry in json.loads(obj.path.read_bytes())):
                if (obj.home, md5) not in present:
                    path = obj.home / "files" / "md5" / md5[:2] / md5[2:]
                    yield Finding(path, f"MD5 {md5}", NOTHING, str(obj.path), advice)


def _check_runs(folder: Path) -> Iterator[Finding]:
    """Entries of DVC's run cache whose name is not the SHA-256 of their content without sizes."""
    for path in sorted(folder.glob("*/*/*")):
        try:
            content = _without_sizes(YAML(typ="safe").load(path.read_bytes()))
            got = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        except (YAMLError, ValueError, TypeError):
            got = "no YAML"
        if len(path.name) == 64 and got != path.name:
            yield Finding(path, f"SHA-256 {path.name}", got, "its name")


def _without_sizes(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_sizes(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_sizes(item) for key, item in value.items() if key not in ("size", "nfiles")}
    return value


def _check_output(output: Output, tree: Tree, absent: list[Path]) -> Iterator[Finding]:
    """Files of an output that differ from its lock; for a folder without a known listing, the folder itself.

    Adds the output to `absent` if it does not exist here.
    """
    md5, folder, _ = output.md5.partition(".dir")
    files = tree.files[output]
    if not files and not output.path.is_dir():
        cached = any(obj.md5 == md5 and obj.home == tree.homes[0] for obj in tree.objects)
        if not (cached or any(path.is_relative_to(output.path) for path in tree.tracked)):
            absent.append(output.path)
            return
    if folder and md5_of(data := tree.listing(output)) == md5:
        hashed_files.note(output, data)
        return
    expected = tree.listed(output) if folder else {output.path: md5}
    advice = "restore it from git" if output.lock.endswith(".dvc") else AGAIN
    if expected is None:
        got = f"{md5_of(tree.listing(output))}.dir" if files else NOTHING
        yield from [] if got == output.md5 else [Finding(output.path, f"MD5 {output.md5}", got, output.lock, advice)]
        return
    for path, expected_md5 in expected.items():
        digest = tree.digests.get(path)
        if digest is None:
            if_missing = advice if output.lock.endswith(".dvc") else "`dvc repro` makes it again"
            yield Finding(path, f"MD5 {expected_md5}", NOTHING, output.lock, if_missing)
        elif digest.md5 != expected_md5:
            yield Finding(path, f"MD5 {expected_md5}", digest.md5 or digest.error, output.lock, advice)
    for path in files:
        if path not in expected:
            yield Finding(path, NOTHING, f"MD5 {tree.digests[path].md5}", output.lock, f"{REPAIR} sets it aside")


def fix(report: Report) -> int:
    """Sets damaged files aside and puts copies in their places.

    A file without a copy is set aside too, so that `dvc repro` makes it again, unless it is in a remote.

    Returns:
        The number of files set aside.
    """
    cache, *remotes = report.tree.homes
    moved: dict[Path, Path] = {}
    for finding in report.findings:
        path = finding.path
        if finding.copy is None and finding.got == NOTHING and finding.source.endswith(".dir"):
            path = Path(finding.source)  # the listing names a file that does not exist anywhere
        keep = finding.copy is None and any(path.is_relative_to(home) for home in remotes)
        if os.path.lexists(path) and path not in moved and not keep:
            moved[path] = _set_aside(path)
    for finding in report.findings:
        if finding.copy is not None:
            data = finding.copy.data
            if isinstance(data, Path):
                data = moved.get(data, data)  # two files may have been swapped
            _put(data, finding.path, finding.expected.removeprefix("MD5 "))
            if finding.path.is_relative_to(cache):
                finding.path.chmod(0o444)  # like all of DVC's objects
    return len(moved)


def _set_aside(path: Path) -> Path:
    """Moves a file to ASIDE and returns its new path."""
    names = (ASIDE / path.parent / f"{path.name}.{number}" for number in count(1))
    target = next(name for name in names if not os.path.lexists(name))
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, target)
    return target


def _put(data: Path | bytes, path: Path, md5: str) -> None:
    """Writes the bytes to `path` atomically, after a check of their hash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".check.") as folder:
        new = Path(folder, "new")
        if isinstance(data, Path):
            shutil.copyfile(data, new)
        else:
            new.write_bytes(data)
        if (got := hashed_files.digest(new).md5) != md5:
            raise CheckFailed(f"{path}: expected a copy of MD5 {md5}, got {got}; run again")
        sync(new)
        os.replace(new, path)
    sync(path.parent)
