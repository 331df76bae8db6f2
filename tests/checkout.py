"""A copy of the working tree with a git history, a DVC cache and an environment of its own, for tests that run dvc."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tiny import ROOT
from tli.io.files import sha256_of


class Checkout:
    """A copy of the project with its own git history, DVC cache and source path."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "MAKE", "DVC_"))}
        self.env |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(root / "src"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "DVC_SITE_CACHE_DIR": f"{root}.site",
            "NO_COLOR": "1",
        }

    def __call__(self, *command: str, ok: bool = True) -> str:
        """Runs `command` here; its output, both streams in one, of a success or (ok=False) of a failure."""
        call = subprocess.run(
            command,
            cwd=self.root,
            env=self.env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=900,
        )
        assert (call.returncode == 0) == ok, f"{' '.join(command)}: exit {call.returncode}\n{call.stdout}"
        return call.stdout

    def started(self, *command: str) -> subprocess.Popen[bytes]:
        """Starts `command` here, without a word; it can be interrupted, whatever started the tests."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def copied(self, target: Path) -> Checkout:
        """A copy of this checkout and all that was run in it, with the same settings."""
        shutil.copytree(self.root, target, symlinks=True)
        copy = Checkout(target)
        copy.env = self.env | {"PYTHONPATH": str(target / "src"), "DVC_SITE_CACHE_DIR": f"{target}.site"}
        return copy

    def ran(self, output: str) -> set[str]:
        """The stages that dvc ran, by the name before `@`, from what it printed."""
        return {name.split("@")[0] for name in re.findall(r"^Running stage '([^']+)'", output, re.M)}

    def digests(self, *folders: str) -> dict[str, str]:
        """Path -> SHA-256 of the files under `folders`; receipts and costs, which may differ, are left out."""
        files = [path for folder in folders for path in (self.root / folder).rglob("*") if path.is_file()]
        kept = (path for path in files if not path.name.endswith(".receipt.json") and path.name != "costs.json")
        return {str(path.relative_to(self.root)): sha256_of(path) for path in sorted(kept)}

    def lock(self) -> dict[str, object]:
        """What dvc.lock says of each stage; in which order is that in which they were run or committed."""
        text = (self.root / "dvc.lock").read_text(encoding="utf-8")
        loaded: dict[str, object] = YAML(typ="safe", pure=True).load(text)["stages"]
        return loaded

    @property
    def model(self) -> str:
        """The first model of the run."""
        return str(self.params()["models"][0])

    def params(self) -> dict[str, Any]:
        loaded: dict[str, Any] = YAML(typ="safe", pure=True).load(
            (self.root / "params.yaml").read_text(encoding="utf-8")
        )
        return loaded

    def edit(self, old: str, new: str) -> None:
        path = self.root / "params.yaml"
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{old!r} should stand once in the smoke params.yaml"
        path.write_text(text.replace(old, new), encoding="utf-8")


def clone(target: Path) -> Checkout:
    """The working tree as it is, what git would hold and data/, under the smoke parameters, with nothing of a run."""
    call = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    generated = (
        "results/",
        "paper/tables/",
        "paper/figures/",
        "paper/numbers/",
        "paper/artifact.pdf",
        "paper/report.html",
        "dvc.lock",
    )
    for name in filter(None, names):
        source = ROOT / name
        if source.is_file() and not name.startswith(generated):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / name)
    shutil.copyfile(ROOT / "tests" / "smoke" / "params.yaml", target / "params.yaml")
    checkout = Checkout(target)
    checkout("git", "init", "-q", "-b", "main")
    checkout("git", "config", "user.name", "smoke")
    checkout("git", "config", "user.email", "smoke@localhost")
    checkout("git", "add", "-A")
    checkout("git", "commit", "-q", "-m", "the checkout under smoke parameters")
    return checkout
