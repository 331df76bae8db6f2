"""Stage `check`: validates params.yaml for every model of the run, and lists the keys of the study.

It computes nothing; every other stage depends on it, directly or by its inputs.

Input: params.yaml.
Outputs: a file with constant text, so that a valid change of params.yaml makes no stage stale. The plan, a folder with
keys.txt and a file KEY.json for each key of the study with all parameters that its rows depend on: DVC compares these
files, so that a changed variant reruns only its own keys. Rows of keys that `study` no longer lists are removed; DVC's
cache keeps them, and listing the key again restores them.

Used by: the stages `study` and `tables`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tli.config.parameters import STUDIED, Params, load
from tli.config.study import settings
from tli.io.files import atomic_dir, write_text
from tli.io.structured import write_json

KEYS = "keys.txt"


def run(
    out: Path,
    path: Path | str = "params.yaml",
    changes: Mapping[str, Any] | None = None,
    model: str | None = None,
    plan: Path | None = None,
) -> Params:
    """Loads `path` for each of its models, which validates it, and writes the plan and then a constant to `out`.

    Args:
        out: the file to write.
        path: params.yaml.
        changes: values that `--set` changes.
        model: a key of `profiles` that is validated too.
        plan: the folder of the plan to write.

    Returns:
        The parameters of `model`, or of the first model of the run.

    Raises:
        UserError: a value is not valid; the message names its key.
    """
    params = load(path, changes, model=model)
    by_model = {listed: load(path, changes, model=listed) for listed in params.models}
    if plan is not None:
        write_plan(plan, by_model.get(STUDIED, params))
    write_text(out, "params.yaml is valid\n")
    return params


def write_plan(out: Path, params: Params) -> None:
    """Writes the plan, and removes the folders beside it that are of no key of the study.

    Args:
        out: the folder to write; the rows of the keys are beside it.
        params: the parameters of the micro-world's model; those of another have no keys.
    """
    names = [str(key) for key in params.keys]
    with atomic_dir(out) as folder:
        write_text(folder / KEYS, "".join(f"{name}\n" for name in names))
        for key in params.keys:
            write_json(folder / f"{key}.json", settings(key, params.of_key(key)))
    for path in out.parent.iterdir():
        if path.is_dir() and not path.name.startswith(".") and path.name not in (out.name, *names):
            shutil.rmtree(path)
            path.with_name(f"{path.name}.receipt.json").unlink(missing_ok=True)
