"""The finished smoke run, copied, whose stages can be run again one by one, in forks (forks.py) that can be killed."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from checkout import Checkout
from forks import Ended, Forks
from tli.io.files import sha256_of


class Stages:
    """A copy of a finished run in `folder`/project. What a stage wrote there, by dvc, is what it is expected to write.

    `before` is put before the command of the process that forks: `unshare`, say.
    """

    def __init__(self, done: Checkout, folder: Path, before: Sequence[str] = ()) -> None:
        shutil.copytree(done.root, folder / "project", symlinks=True)
        self.checkout = Checkout(folder / "project")
        lock = YAML(typ="safe", pure=True).load((done.root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
        # of the one model that the smoke run has, a stage may be named without it
        lock |= {name.removesuffix(f"@{done.model}"): stage for name, stage in lock.items()}
        self.commands = {name: shlex.split(stage["cmd"])[3:] for name, stage in lock.items()}
        self.outs = {name: [out["path"] for out in stage["outs"]] for name, stage in lock.items()}
        self.expected = {name: self.found(name) for name in lock}
        self.hidden = self.hidden_now()
        self.forks = Forks(self.checkout.root, self.checkout.env, folder, before)

    def __call__(self, name: str, **how: Any) -> Ended:
        """Runs the stage in a fork; `how` as for `Forks`."""
        return self.forks(self.commands[name], **how)

    def found(self, name: str) -> dict[str, str]:
        """Path -> SHA-256 of every file that is there now of the stage's outputs, temporary ones left out."""
        places = [self.checkout.root / out for out in self.outs[name]]
        files = [file for place in places for file in (place, *place.rglob("[!.]*")) if file.is_file()]
        return {str(file.relative_to(self.checkout.root)): sha256_of(file) for file in files}

    def pieces(self, name: str) -> list[str]:
        """The pieces that are kept now for the stage's outputs, each as NAME.SHA256."""
        outs = [self.checkout.root / out for out in self.outs[name]]
        return [path.name for out in outs for path in (out.parent / ".kept" / out.name).glob("*/[!.]*")]

    def remove(self, name: str) -> None:
        """What dvc does before it runs a stage."""
        for out in self.outs[name]:
            place = self.checkout.root / out
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)

    def hidden_now(self) -> set[Path]:
        """Temporary files, pieces and locks, wherever stages write."""
        return {path for place in ("build", "results", "paper") for path in (self.checkout.root / place).rglob(".*")}
