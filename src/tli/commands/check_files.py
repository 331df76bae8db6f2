"""`tli check`: every file that a run rests on, held to its last byte against what it was written as, and mended.

DVC takes a file for unchanged while its inode, time and size are: a bit that flips under an old time goes into the next
table. Here data/ and the outputs of both pipelines are held against data.dvc, dvc.lock and their SHA256SUMS, the
objects of DVC's cache and of a remote inside the repository against their names, and DVC's memory of runs likewise
(commands/hashed_files.py reads them). What is mended comes from a copy that hashes right; what is replaced is set
aside, never destroyed. Feeds no table.
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

ASIDE = Path(".dvc", "tmp", "aside")  # git and DVC pass it over
NOTHING = "no file"
REPAIR = "`tli check --repair`"
AGAIN = f"{REPAIR} sets it aside, then `dvc repro` makes it again"


class Copy(NamedTuple):
    """Where the right bytes are: a file, or the bytes themselves, and what they are out of."""

    origin: str
    data: Path | bytes


class Finding(NamedTuple):
    """A file that is not as `source` says, and what to do where no copy of it is found."""

    path: Path
    expected: str
    got: str
    source: str
    advice: str = AGAIN
    copy: Copy | None = None

    @property
    def line(self) -> str:
        advice = f"{REPAIR} puts it back from {self.copy.origin}" if self.copy else self.advice
        if self.source.endswith(".dvc"):
            advice += "; if it was changed on purpose, `dvc repro` takes it up"
        return f"{self.path}: expected {self.expected} ({self.source}), got {self.got}; {advice}"


class Report(NamedTuple):
    """What was read, what of it is wrong, and the outputs that were not made here."""

    tree: Tree
    findings: list[Finding]
    absent: list[Path]

    def __str__(self) -> str:
        size = sum(digest.size for digest in self.tree.digests.values()) / 1e6
        return f"{len(self.tree.digests)} files, {size:.1f} MB"


def run(repair: bool = False) -> None:
    """Examines the checkout in the current folder; with `repair` mends what can be mended, and examines it again.

    Raises:
        CheckFailed: a file is not as it was written; each is told in a line of its own on standard error.
        UserError: no DVC repository here, or a lock that is none.
    """
    report, advice = examine(), f"{REPAIR} puts back what has a copy and sets the rest aside"
    for finding in report.findings:
        click.echo(finding.line, err=True)
    if repair and report.findings:
        moved = copied = 0
        for _ in range(2):  # a listing goes once what it lists has gone
            moved += mend(report)
            copied += sum(finding.copy is not None for finding in report.findings)
            report = examine()
        click.echo(f"check   {moved} set aside in {ASIDE}, {copied} put back")
        advice = "run `dvc repro`, which makes again what had no copy, and then `tli check`"
    if report.findings:
        first, more = report.findings[0], len(report.findings) - 1
        raise CheckFailed(
            f"check: expected {report} as they were written, got {first.path} ({first.got}) and {more} more that are "
            f"not; {advice}"
        )
    absent = f"; outputs not here, which `dvc repro` makes: {len(report.absent)}" if report.absent else ""
    click.echo(f"check   {report}, all as they were written{absent}")


def examine() -> Report:
    """Reads every file of the checkout in the current folder that a hash is known of."""
    tree, absent = hashed_files.read(), list[Path]()
    found = [*_of_objects(tree), *_of_runs(tree.homes[0] / "runs")]
    for output in tree.files:
        found += _of_output(output, tree, absent)
    wrong = {finding.path: finding for finding in reversed(found)}
    for path, (expected, manifest) in tree.sums.items():
        got = tree.digests[path].sha256 if path in tree.digests else NOTHING
        if got != expected and path not in wrong and manifest not in wrong:
            wrong[path] = Finding(path, f"SHA-256 {expected}", got, str(manifest))
    copies = _copies(tree, wrong) if wrong else {}
    findings = [wrong[path]._replace(copy=copies.get(wrong[path].expected)) for path in sorted(wrong)]
    return Report(tree, findings, absent)


def _copies(tree: Tree, wrong: Iterable[Path]) -> dict[str, Copy]:
    """`MD5 ...` -> bytes that hash so: a file, a listing of a folder as it is or was, what git has of a wrong file."""
    tracked = [path for path in wrong if path in tree.tracked]
    found = {md5_of(data): Copy("git", data) for data in hashed_files.blobs(tree.tracked[path] for path in tracked)}
    found |= {hashed_files.digest(path).md5: Copy(str(path), path) for path in hashed_files.NOTED.glob("*.dir")}
    for output in tree.files:
        data = tree.listing(output)
        found[md5_of(data)] = Copy(f"the files of {output.path}", data)
    found |= {digest.md5: Copy(str(path), path) for path, digest in reversed(tree.digests.items())}
    return {f"MD5 {md5}": copy for md5, copy in found.items() if md5}


def _of_objects(tree: Tree) -> Iterator[Finding]:
    """Objects that are not what their names say, and entries of listings that are not there."""
    there = {(one.home, one.md5) for one in tree.objects}
    for one in tree.objects:
        digest = tree.digests[one.path]
        advice = AGAIN if one.home == tree.homes[0] else "restore it from git"
        if digest.md5 != one.md5:
            yield Finding(one.path, f"MD5 {one.md5}", digest.md5 or digest.said, "its own name", advice)
        elif one.path.suffix == ".dir":
            for md5 in (entry["md5"] for entry in json.loads(one.path.read_bytes())):
                if (one.home, md5) not in there:
                    path = one.home / "files" / "md5" / md5[:2] / md5[2:]
                    yield Finding(path, f"MD5 {md5}", NOTHING, str(one.path), advice)


def _of_runs(folder: Path) -> Iterator[Finding]:
    """DVC's memory of what stages gave, each entry named by the SHA-256 of what it says, sizes left out."""
    for path in sorted(folder.glob("*/*/*")):
        try:
            content = _without_sizes(YAML(typ="safe").load(path.read_bytes()))
            got = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        except (YAMLError, ValueError, TypeError):
            got = "no YAML"
        if len(path.name) == 64 and got != path.name:
            yield Finding(path, f"SHA-256 {path.name}", got, "its own name")


def _without_sizes(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_sizes(each) for each in value]
    if isinstance(value, dict):
        return {key: _without_sizes(each) for key, each in value.items() if key not in ("size", "nfiles")}
    return value


def _of_output(output: Output, tree: Tree, absent: list[Path]) -> Iterator[Finding]:
    """What differs in an output from what its lock says, file by file; of a folder nobody has a listing of, itself."""
    md5, folder, _ = output.md5.partition(".dir")
    files = tree.files[output]
    if not files and not output.path.is_dir():
        cached = any(one.md5 == md5 and one.home == tree.homes[0] for one in tree.objects)
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
    for path, each in expected.items():
        digest = tree.digests.get(path)
        if digest is None:
            lost = advice if output.lock.endswith(".dvc") else "`dvc repro` makes it again"
            yield Finding(path, f"MD5 {each}", NOTHING, output.lock, lost)
        elif digest.md5 != each:
            yield Finding(path, f"MD5 {each}", digest.md5 or digest.said, output.lock, advice)
    for path in files:
        if path not in expected:
            yield Finding(path, NOTHING, f"MD5 {tree.digests[path].md5}", output.lock, f"{REPAIR} sets it aside")


def mend(report: Report) -> int:
    """Sets wrong files aside and puts copies in their places; returns how many went aside.

    In the cache and the outputs what has no copy goes too, for `dvc repro` to make it again; in a remote it stays.
    """
    cache, *remotes = report.tree.homes
    moved: dict[Path, Path] = {}
    for finding in report.findings:
        path = finding.path
        if finding.copy is None and finding.got == NOTHING and finding.source.endswith(".dir"):
            path = Path(finding.source)  # lists what nobody has
        stays = finding.copy is None and any(path.is_relative_to(home) for home in remotes)
        if os.path.lexists(path) and path not in moved and not stays:
            moved[path] = _set_aside(path)
    for finding in report.findings:
        if finding.copy is not None:
            data = finding.copy.data
            if isinstance(data, Path):
                data = moved.get(data, data)  # of two that changed places
            _put(data, finding.path, finding.expected.removeprefix("MD5 "))
            if finding.path.is_relative_to(cache):
                finding.path.chmod(0o444)  # as DVC has its objects
    return len(moved)


def _set_aside(path: Path) -> Path:
    names = (ASIDE / path.parent / f"{path.name}.{number}" for number in count(1))
    target = next(name for name in names if not os.path.lexists(name))
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, target)
    return target


def _put(data: Path | bytes, path: Path, md5: str) -> None:
    """Writes the bytes to `path`, whole and under their hash or not at all."""
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
