"""Receipts: what may differ between two runs with the same numbers (time, memory, versions, machine)."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tli.io.files import sha256_of
from tli.io.structured import write_json

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "tokenizers", "safetensors", "numpy", "scipy", "dvc")


@contextmanager
def write_receipt(
    output: Path | str, inputs: Iterable[Path | str] = (), pace: Mapping[str, float] | None = None
) -> Iterator[None]:
    """Writes OUTPUT.receipt.json after the block: versions, machine, time, peak memory, revision, inputs' hashes.

    No stage depends on a receipt: it holds what may differ between two runs with the same numbers.

    Args:
        pace: what `terminal.progress` measures during the block: label -> seconds an item.
    """
    start, cpu = time.time(), time.process_time()
    yield
    output = Path(output)
    record = {
        "output": str(output),
        "command": sys.argv[1:],
        "seconds": time.time() - start,
        "cpu_seconds": time.process_time() - cpu,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "pace": dict(pace or {}),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processors": os.cpu_count() or 0,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "revision": revision(),
        "inputs": {str(path): sha256_of(path) for path in map(Path, inputs) if path.is_file()},
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        record["threads"] = torch.get_num_threads()
        record["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    write_json(receipt_of(output), record)


def receipt_of(output: Path) -> Path:
    """Where the receipt of an output lies: beside it."""
    return output.parent / f"{output.name}.receipt.json"


def last_receipt(output: Path) -> dict[str, Any]:
    """The receipt of the run before, for the time it took; empty where there is none that can be read."""
    with suppress(OSError, ValueError):
        found = json.loads(receipt_of(output).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def revision() -> str:
    """The commit of the checkout, with `+` where the tree differs from it; `unknown` without git or its history."""
    if shutil.which("git") is None:
        return "unknown"
    call = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"], capture_output=True, text=True
    )
    return call.stdout.strip() or "unknown"
