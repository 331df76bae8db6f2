"""Stage `check`: validates params.yaml for every model of the run.

It computes nothing and is used by no table; every other stage depends on its output.

Input: params.yaml. Output: a file with constant text, so that a valid change of params.yaml makes no stage stale.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tli.config.parameters import Params, load
from tli.io.files import write_text


def run(
    out: Path, path: Path | str = "params.yaml", changes: Mapping[str, Any] | None = None, model: str | None = None
) -> Params:
    """Loads `path` for each of its models, which validates it, and writes a constant to `out`.

    Args:
        out: the file to write.
        path: params.yaml.
        changes: values that `--set` changes.
        model: a key of `profiles` that is validated too.

    Returns:
        The parameters of `model`, or of the first model of the run.

    Raises:
        UserError: a value is not valid; the message names its key.
    """
    params = load(path, changes, model=model)
    for listed in params.models:
        load(path, changes, model=listed)
    write_text(out, "params.yaml is valid\n")
    return params
