"""What a run cost: each stage's time and peak memory, collected from the receipts that lie beside the outputs.

Writes costs.json and costs.md to docs/costs/<model>, the one place where times and the machine stand.
They differ from run to run, so no stage depends on them and no table holds them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tli.io.errors import UserError
from tli.io.files import write_text
from tli.io.structured import read_json, write_json

MACHINE = ("machine", "processors", "cpu_capability", "python")  # what a receipt says of where it was written


def collect(build: Path) -> dict[str, dict[str, Any]]:
    """Stage -> seconds, CPU seconds, peak memory and threads of its last run, from every receipt under `build`.

    Receipts of the full grid, under `build`/full, are left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(build.rglob("*.receipt.json")):
        if path.relative_to(build).parts[0] == "full":
            continue
        receipt = read_json(path)
        command = receipt["command"]
        while command[0] in ("--set", "--model"):
            command = command[2:]
        stage = command[0] + (f"@{command[command.index('--rank') + 1]}" if "--rank" in command else "")
        found[stage] = {
            "seconds": round(receipt["seconds"], 1),
            "cpu_seconds": round(receipt["cpu_seconds"], 1),
            "peak_memory_gib": round(receipt["peak_memory_bytes"] / 2**30, 2),
            "threads": receipt.get("threads", 1),
        }
    return found


def grid(build: Path) -> str:
    """What the full grid's last run took, summed over the receipts under `build`/full; nothing where there are none."""
    receipts = [read_json(path) for path in sorted((build / "full").rglob("*.receipt.json"))]
    if not receipts:
        return ""
    minutes, processor = (sum(receipt[key] for receipt in receipts) / 60 for key in ("seconds", "cpu_seconds"))
    return f"; full grid: {minutes:.0f} minutes in {len(receipts)} stages, {processor:.0f} of the processor"


def machine(build: Path) -> dict[str, Any]:
    """Processor, Python and torch of the newest receipt that knows them: the stages that load torch do."""
    receipts = [read_json(path) for path in sorted(build.rglob("*.receipt.json"), key=lambda p: p.stat().st_mtime)]
    known = [receipt for receipt in receipts if "cpu_capability" in receipt]
    return {key: known[-1][key] for key in MACHINE} | {"torch": known[-1]["packages"]["torch"]} if known else {}


def run(build: Path, out: Path) -> str:
    """Writes costs.json and costs.md to `out` and returns the last line, the sum of it all.

    A stage without a receipt (its output came from DVC's cache) keeps what costs.json said of its last run.

    Raises:
        UserError: neither a receipt nor an earlier costs.json is there.
    """
    known = read_json(out / "costs.json") if (out / "costs.json").exists() else {}
    stages = known.get("stages", {}) | collect(build)
    where = known.get("machine", {}) | machine(build)
    if not stages:
        raise UserError(f"{build}: expected receipts of a run, found none; run `dvc repro` first")
    total = {
        "minutes": round(sum(stage["seconds"] for stage in stages.values()) / 60, 1),
        "peak_memory_gib": max(stage["peak_memory_gib"] for stage in stages.values()),
    }
    found = {"total": total, "machine": where, "stages": stages}
    write_json(out / "costs.json", found)
    lines = ["# What the last run of each stage cost", "", "| stage | seconds | CPU seconds | peak GiB | threads |"]
    lines.append("|---|---:|---:|---:|---:|")
    for name, stage in stages.items():
        numbers = (stage["seconds"], stage["cpu_seconds"], stage["peak_memory_gib"], stage["threads"])
        lines.append(f"| {name} | {' | '.join(map(str, numbers))} |")
    said = f"{total['minutes']} minutes in all stages, {total['peak_memory_gib']} GiB at most{grid(build)}"
    lines += ["", f"Together: {said}. Interpreter start and imports, a few seconds a stage, are not counted.", ""]
    write_text(out / "costs.md", "\n".join(lines))
    return said
