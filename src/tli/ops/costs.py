"""What a run cost: each stage's time and peak memory, collected from the receipts that lie beside the outputs.

Writes results/<profile>/costs.json and costs.md, the one place where times stand: they differ from run to run, so no
stage depends on them and no table holds them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tli import store


def collect(build: Path) -> dict[str, dict[str, Any]]:
    """Stage -> seconds, CPU seconds, peak memory and threads of its last run, from every receipt under `build`."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(build.rglob("*.receipt.json")):
        receipt = store.read_json(path)
        command = receipt["command"]
        stage = command[0] + (f"@{command[command.index('--rank') + 1]}" if "--rank" in command else "")
        found[stage] = {
            "seconds": round(receipt["seconds"], 1),
            "cpu_seconds": round(receipt["cpu_seconds"], 1),
            "peak_memory_gib": round(receipt["peak_memory_bytes"] / 2**30, 2),
            "threads": receipt.get("threads", 1),
        }
    return found


def run(build: Path, results: Path) -> str:
    """Writes costs.json and costs.md to `results` and returns the last line, the sum of it all.

    A stage without a receipt (its output came from DVC's cache) keeps what costs.json said of its last run.

    Raises:
        UserError: neither a receipt nor an earlier costs.json is there.
    """
    known = store.read_json(results / "costs.json")["stages"] if (results / "costs.json").exists() else {}
    stages = known | collect(build)
    if not stages:
        raise store.UserError(f"{build}: expected receipts of a run, found none; run `dvc repro` first")
    total = {
        "minutes": round(sum(stage["seconds"] for stage in stages.values()) / 60, 1),
        "peak_memory_gib": max(stage["peak_memory_gib"] for stage in stages.values()),
    }
    store.write_json(results / "costs.json", {"total": total, "stages": stages})
    lines = ["# What the last run of each stage cost", "", "| stage | seconds | CPU seconds | peak GiB | threads |"]
    lines.append("|---|---:|---:|---:|---:|")
    for name, stage in stages.items():
        numbers = (stage["seconds"], stage["cpu_seconds"], stage["peak_memory_gib"], stage["threads"])
        lines.append(f"| {name} | {' | '.join(map(str, numbers))} |")
    said = f"{total['minutes']} minutes in all stages, {total['peak_memory_gib']} GiB at most"
    lines += ["", f"Together: {said}. Interpreter start and imports, a few seconds a stage, are not counted.", ""]
    store.write_text(results / "costs.md", "\n".join(lines))
    return said
