"""Stage `study-plan`: lists the study's keys of one model, each with all parameters that its rows depend on.

It computes nothing. DVC compares these files, so that a changed variant reruns only the keys of that variant. Rows of
keys that `study` no longer lists are removed; DVC's cache keeps them, and listing the key again restores them.

Input: params.yaml. Output: a folder with keys.txt and a file KEY.json for each key; only the micro-world has any.
Used by: the stages `study` and `tables`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tli.config.parameters import Params
from tli.config.study import settings
from tli.io.files import atomic_dir, write_text
from tli.io.structured import write_json

KEYS = "keys.txt"


def run(out: Path, params: Params) -> None:
    """Writes the plan, and removes the folders beside it that are of no key of the run."""
    names = [str(key) for key in params.keys]
    with atomic_dir(out) as folder:
        write_text(folder / KEYS, "".join(f"{name}\n" for name in names))
        for key in params.keys:
            write_json(folder / f"{key}.json", settings(key, params.of_key(key)))
    for path in out.parent.iterdir():
        if path.is_dir() and not path.name.startswith(".") and path.name not in (out.name, *names):
            shutil.rmtree(path)
            path.with_name(f"{path.name}.receipt.json").unlink(missing_ok=True)
