"""The maintainers' scripts in the folder tools, as modules."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from types import ModuleType

from tiny import ROOT


def script(name: str) -> ModuleType:
    """The script tools/NAME as a module."""
    loader = SourceFileLoader(f"tools_{name}", str(ROOT / "tools" / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
