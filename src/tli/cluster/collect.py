"""`tli collect`: takes what jobs have made into the checkout and DVC's cache, so that `dvc repro` only does the rest.

A cell is taken where it was run under what DVC sees now (its key), read what lies here now, and wrote what its job says
that it wrote; and where its receipt is of that command, these threads and these packages. Feeds no table.
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
    """Collects every cell that is done and stale, commits them to DVC, and says what is left.

    Raises:
        UserError: a stage that is no cell must run first.
        CheckFailed: what lies in a cell's folder is not what its job wrote, or was made otherwise than here.
    """
    found = [cell for cell in cells.asked(targets) if cell.stale]
    taken, refused, left = list[Cell](), list[str](), {cell.stage for cell in found}
    for cell in found:
        attempt = cells.finished(cell.folder)
        if attempt is None or not left.isdisjoint(cell.after):
            continue
        try:
            _check(cell, attempt, params.active.compute.threads)
        except CheckFailed as error:
            refused.append(error.message)
            continue
        _move(cell, attempt)
        taken.append(cell)
        left.remove(cell.stage)
    if taken:
        call = [sys.executable, "-m", "dvc", "commit", "--quiet", "--force", *(cell.stage for cell in taken)]
        subprocess.run(call, check=True)
        for cell in taken:
            shutil.rmtree(cell.folder)
        if not list(cells.FOLDER.glob(f"*/{cells.SPEC}")):
            shutil.rmtree(cells.FOLDER)
    click.echo(f"{len(taken)} cells collected, {len(left)} left")
    if refused:
        raise CheckFailed("\n  ".join([f"{len(refused)} cells not collected:", *refused]))


def _check(cell: Cell, attempt: Path, threads: int) -> None:
    """Raises CheckFailed unless the attempt is what a run here, now, would be."""
    done = read_json(attempt / cells.DONE)
    for path, expected in done["inputs"].items():
        _same(f"{cell.stage}: {path} was read with another hash", resume.fingerprint(Path(path)), expected)
    for path, expected in done["outs"].items():
        source = attempt / path if (attempt / path).exists() else Path(path)  # moved, if an earlier call was cut off
        if not source.exists():
            raise CheckFailed(f"{cell.stage}: expected the output {source}, found none; remove {cell.folder}")
        _same(f"{cell.stage}: {source} was written with another hash", resume.digest(source), expected)
    receipt = _receipt(cell, attempt)
    _same(f"{cell.stage}: another command ran", receipt["command"], [*cell.command])
    _same(f"{cell.stage}: other threads", receipt["threads"], threads)
    here = {name: importlib.metadata.version(name) for name in PACKAGES}
    _same(f"{cell.stage}: other packages", _public(receipt["packages"]), _public(here))


def _receipt(cell: Cell, attempt: Path) -> dict[str, Any]:
    path = attempt / cell.receipt
    receipt: dict[str, Any] = read_json(path if path.is_file() else Path(cell.receipt))
    return receipt


def _public(versions: dict[str, str]) -> dict[str, str]:
    """Versions without what tells one build from another, such as torch's +cpu."""
    return {name: version.partition("+")[0] for name, version in versions.items()}


def _same(what: str, got: object, expected: object) -> None:
    if got != expected:
        raise CheckFailed(f"{what}: expected {expected}, got {got}; remove its folder, and submit it again")


def _move(cell: Cell, attempt: Path) -> None:
    """Moves outputs and receipt to where the stage would have written them."""
    for path in (*cell.outs, cell.receipt):
        source, target = attempt / path, Path(path)
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(source, target)
