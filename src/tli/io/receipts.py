"""Receipts: time, memory, versions and machine of a stage's run, in a file beside its output.

All of these may differ between two runs with the same results, so no stage depends on a receipt.
"""

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
    """Writes OUTPUT.receipt.json after the block: versions, machine, time, peak memory, revision and input hashes.

    Args:
        output: the stage's output.
        inputs: the files that the stage reads; a path that is no file is left out.
        pace: label -> seconds per item, filled during the block by `progress.track`.
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
    """Returns the path of an output's receipt, which is beside the output."""
    return output.parent / f"{output.name}.receipt.json"


def last_receipt(output: Path) -> dict[str, Any]:
    """Returns the receipt of the last run, or an empty dict if there is none or it cannot be read."""
    with suppress(OSError, ValueError):
        receipt = json.loads(receipt_of(output).read_text(encoding="utf-8"))
        return receipt if isinstance(receipt, dict) else {}
    return {}


def revision() -> str:
    """Returns the commit of the checkout, with `+` if files differ from it; `unknown` without git or a history."""
    if shutil.which("git") is None:
        return "unknown"
    call = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"], capture_output=True, text=True
    )
    return call.stdout.strip() or "unknown"
