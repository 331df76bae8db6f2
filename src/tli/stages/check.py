"""Checks params.yaml for every model of the run (stage: check)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tli.config.parameters import Params, load
from tli.io.files import write_text


def run(
    out: Path, path: Path | str = "params.yaml", changes: Mapping[str, Any] | None = None, model: str | None = None
) -> Params:
    """The `check` stage: loads `path` for each of its models and writes a constant, on which every stage depends.

    Args:
        model: a key of `profiles`, checked beside them.
    """
    params = load(path, changes, model=model)
    for listed in params.models:
        load(path, changes, model=listed)
    write_text(out, "params.yaml is valid\n")
    return params
