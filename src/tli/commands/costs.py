"""`tli costs`: collects time and peak memory of each stage from the receipts beside the outputs.

It writes costs.json and costs.md to docs/costs/<model>. Times differ from run to run, so no stage depends on them and
no table contains them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tli.io.errors import UserError
from tli.io.files import write_text
from tli.io.structured import read_json, write_json

MACHINE = ("machine", "processors", "cpu_capability", "python")  # keys of a receipt that describe the machine


def collect(build: Path) -> dict[str, dict[str, Any]]:
    """Returns stage -> seconds, CPU seconds, peak memory and threads of its last run.

    Reads every receipt under `build`, except those of the study's keys (`study`).
    """
    costs: dict[str, dict[str, Any]] = {}
    for path in sorted(build.rglob("*.receipt.json")):
        receipt = read_json(path)
        command = receipt["command"]
        while command[0] in ("--set", "--model"):
            command = command[2:]
        if command[0] == "study":
            continue
        stage = command[0] + (f"@{command[command.index('--rank') + 1]}" if "--rank" in command else "")
        costs[stage] = {
            "seconds": round(receipt["seconds"], 1),
            "cpu_seconds": round(receipt["cpu_seconds"], 1),
            "peak_memory_gib": round(receipt["peak_memory_bytes"] / 2**30, 2),
            "threads": receipt.get("threads", 1),
        }
    return costs


def study(build: Path) -> str:
    """Returns the time of the study's keys, each at its last run, as text; empty without one."""
    receipts = [read_json(path) for path in sorted((build / "study").glob("*-*.receipt.json"))]
    if not receipts:
        return ""
    minutes, processor = (sum(receipt[key] for receipt in receipts) / 60 for key in ("seconds", "cpu_seconds"))
    return f"; study: {minutes:.0f} minutes for {len(receipts)} keys, {processor:.0f} CPU minutes"


def machine(build: Path) -> dict[str, Any]:
    """Returns processor, Python and torch from the newest receipt of a stage that used torch; empty without one."""
    receipts = [read_json(path) for path in sorted(build.rglob("*.receipt.json"), key=lambda p: p.stat().st_mtime)]
    with_torch = [receipt for receipt in receipts if "cpu_capability" in receipt]
    if not with_torch:
        return {}
    return {key: with_torch[-1][key] for key in MACHINE} | {"torch": with_torch[-1]["packages"]["torch"]}


def run(build: Path, out: Path) -> str:
    """Writes costs.json and costs.md to `out`, and returns a line with the total.

    A stage without a receipt (its output came from DVC's cache) keeps its entry in the earlier costs.json.

    Raises:
        UserError: there is neither a receipt nor an earlier costs.json.
    """
    earlier = read_json(out / "costs.json") if (out / "costs.json").exists() else {}
    stages = earlier.get("stages", {}) | collect(build)
    described = earlier.get("machine", {}) | machine(build)
    if not stages:
        raise UserError(f"{build}: expected receipts of a run, got none; run `dvc repro` first")
    total = {
        "minutes": round(sum(stage["seconds"] for stage in stages.values()) / 60, 1),
        "peak_memory_gib": max(stage["peak_memory_gib"] for stage in stages.values()),
    }
    write_json(out / "costs.json", {"total": total, "machine": described, "stages": stages})
    lines = ["# What the last run of each stage cost", "", "| stage | seconds | CPU seconds | peak GiB | threads |"]
    lines.append("|---|---:|---:|---:|---:|")
    for name, stage in stages.items():
        numbers = (stage["seconds"], stage["cpu_seconds"], stage["peak_memory_gib"], stage["threads"])
        lines.append(f"| {name} | {' | '.join(map(str, numbers))} |")
    summary = f"{total['minutes']} minutes in all stages, {total['peak_memory_gib']} GiB at most{study(build)}"
    lines += ["", f"Together: {summary}. Interpreter start and imports, a few seconds a stage, are not counted.", ""]
    write_text(out / "costs.md", "\n".join(lines))
    return summary
