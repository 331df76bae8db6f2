"""`tli collect`: moves the outputs of jobs into the checkout and commits them to DVC; `dvc repro` then does the rest.

A stage is collected only if

- its key (cells.py) is that of the current commands, parameters and files,
- the current inputs have the hashes that the job noted,
- its outputs have the hashes that the job noted, and
- its receipt names the same command, threads and packages.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tli.cluster import cells
from tli.cluster.cells import Cell
from tli.config.parameters import Params
from tli.io import resume
from tli.io.errors import CheckFailed
from tli.io.receipts import PACKAGES
from tli.io.structured import read_json


def run(targets: Sequence[str], params: Params) -> None:
    """Collects every stale sweep stage whose job is done, commits them to DVC, and prints how many are left.

    Args:
        targets: stages or files of DVC, as for `dvc repro`.
        params: the current parameters.

    Raises:
        UserError: another stage must run first (see cells.sweep_cells).
        CheckFailed: the outputs of a job do not match their hashes, or were made under other inputs or settings.
    """
    stale = [cell for cell in cells.sweep_cells(targets) if cell.stale]
    collected, problems, left = list[Cell](), list[str](), {cell.stage for cell in stale}
    for cell in stale:
        attempt = cells.finished(cell.folder)
        if attempt is None or not left.isdisjoint(cell.after):
            continue
        try:
            _check(cell, attempt, params.active.compute.threads)
        except CheckFailed as error:
            problems.append(error.message)
            continue
        _move(cell, attempt)
        collected.append(cell)
        left.remove(cell.stage)
    if collected:
        call = [sys.executable, "-m", "dvc", "commit", "--quiet", "--force", *(cell.stage for cell in collected)]
        subprocess.run(call, check=True)
        for cell in collected:
            shutil.rmtree(cell.folder)
        if not list(cells.FOLDER.glob(f"*/{cells.SPEC}")):
            shutil.rmtree(cells.FOLDER)
    click.echo(f"{len(collected)} stages collected, {len(left)} left")
    if problems:
        raise CheckFailed("\n  ".join([f"{len(problems)} stages not collected:", *problems]))


def _check(cell: Cell, attempt: Path, threads: int) -> None:
    """Raises CheckFailed if a run of the current checkout could differ from the attempt."""
    done = read_json(attempt / cells.DONE)
    for path, expected in done["inputs"].items():
        _check_equal(f"{cell.stage}: the hash of its input {path}", resume.fingerprint(Path(path)), expected)
    for path, expected in done["outs"].items():
        source = attempt / path if (attempt / path).exists() else Path(path)  # an interrupted call has moved it
        if not source.exists():
            raise CheckFailed(f"{cell.stage}: expected the output {source}, got none; remove {cell.folder}")
        _check_equal(f"{cell.stage}: the hash of its output {source}", resume.digest(source), expected)
    receipt = _receipt(cell, attempt)
    _check_equal(f"{cell.stage}: its command", receipt["command"], [*cell.command])
    _check_equal(f"{cell.stage}: its threads", receipt["threads"], threads)
    installed = {name: importlib.metadata.version(name) for name in PACKAGES}
    _check_equal(f"{cell.stage}: its packages", _public(receipt["packages"]), _public(installed))


def _receipt(cell: Cell, attempt: Path) -> dict[str, Any]:
    path = attempt / cell.receipt
    receipt: dict[str, Any] = read_json(path if path.is_file() else Path(cell.receipt))
    return receipt


def _public(versions: dict[str, str]) -> dict[str, str]:
    """The versions without the part that names a build, such as torch's +cpu."""
    return {name: version.partition("+")[0] for name, version in versions.items()}


def _check_equal(what: str, got: object, expected: object) -> None:
    if got != expected:
        raise CheckFailed(f"{what}: expected {expected}, got {got}; remove its folder and submit it again")


def _move(cell: Cell, attempt: Path) -> None:
    """Moves the outputs and the receipt to the places where the stage would have written them."""
    for path in (*cell.outs, cell.receipt):
        source, target = attempt / path, Path(path)
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(source, target)
