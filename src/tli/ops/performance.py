"""docs/performance.md: what the benchmarks measured (`make bench`, `make bench-8b`), from pytest-benchmark's JSON.

Each benchmark says of itself which table and line it belongs to and what was aimed at (tests/bench); every figure on
the page is measured or divided here. A floor is the time that a line's matrix products alone would take at the best
rate that this machine's were measured at, or that its bytes would take at the rate of copying.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tli.io.errors import UserError
from tli.io.files import write_text
from tli.io.structured import read_json

Lines = Mapping[str, dict[str, Any]]
HEADER = ("| | seconds | peak GB | share of the floor | aimed at |", "|---|---:|---:|---:|---|")
GPU = "on a GPU"  # in the name of the table of tests/bench/gpu.py, whose report names its device


def run(measured: Sequence[Path], out: Path) -> None:
    """Writes the page `out` from the JSON files `measured`, each of one run; together they hold the machine's rates.

    Raises:
        UserError: no file holds the rates, or two files are of different machines.
    """
    reports = [read_json(path, "a report of pytest-benchmark") for path in measured]
    lines = {
        each["extra_info"]["name"]: each["extra_info"]
        for report in reports
        for each in report.get("benchmarks", [])
        if "name" in each["extra_info"]
    }
    named = ", ".join(map(str, measured))
    if "rates" not in lines:
        raise UserError(f"{named}: expected the benchmarks of `make bench-8b`, found none; run it")
    here = [report for report in reports if "device" not in report]
    machines = {f"{cpu['brand_raw']}, {cpu['count']} cores" for cpu in (one["machine_info"]["cpu"] for one in here)}
    if len(machines) > 1:
        raise UserError(f"{named}: expected one machine, got {sorted(machines)}; run the benchmarks again on one")
    commits = dict.fromkeys(f"{one['datetime'][:10]} at commit {one['commit_info']['id'][:12]}" for one in here)
    rates = lines["rates"]
    text = [
        "# Performance",
        "",
        "Written by `make bench` and `make bench-8b`. Every ratio is of two measurements of one run. The tables say "
        "against what; where they name Llama-3.1-8B's shape, it has 32 blocks, hidden size 4,096 and random weights. "
        "The scan's floor counts every word's tokens: above 100 % those that words share were run once.",
        "",
        f"{', '.join(machines)}; {' and '.join(commits)}. Matrix products: "
        + "; ".join(
            f"{dtype} {max(own.values()) / 1e9:.0f} GFLOP/s "
            f"({', '.join(f'{value / 1e9:.0f} for {n} tokens' for n, value in own.items())})"
            for dtype, own in rates["matmul"].items()
        )
        + f". Copying: {rates['copy'] / 1e9:.1f} GB/s. "
        f"Memory after imports: {lines['imports']['peak_bytes'] / 1e9:.2f} GB.",
    ]
    for table in dict.fromkeys(line["table"] for line in lines.values()):
        own = {name: line for name, line in lines.items() if line["table"] == table and "seconds" in line}
        rows = [*_rows(own, lines)]
        text += ["", f"## {table}", "", *HEADER, *rows] if rows else []
    if not any(GPU in line["table"] for line in lines.values()):
        text += ["", f"## Training, scan and scoring {GPU}", "", "Not measured yet (`python tests/bench/gpu.py`)."]
    write_text(out, "\n".join([*text, ""]))


def _rows(own: Lines, lines: Lines) -> Iterator[str]:
    for line in own.values():
        floor = _floor(line, lines["rates"])
        share = None if floor is None else floor / line["seconds"]
        memory = f"{line['peak_bytes'] / 1e9:.2f}" if "peak_bytes" in line else "–"
        scaled = f" ({line['scaled']}, scaled)" if "scaled" in line else ""
        aims = "; ".join(_aims(line.get("aims", {}), line, lines, share or 0.0))
        shown = "–" if share is None else f"{share:.0%}"
        yield f"| {line['line']} | {line['seconds']:.3g}{scaled} | {memory} | {shown} | {aims} |"


def _floor(line: Mapping[str, Any], rates: Mapping[str, Any]) -> float | None:
    """Seconds that the operations or the bytes of a line need at least, where it counts any."""
    if "flop" in line:
        best = line.get("rate") or max(rates["matmul"][line.get("dtype", "bfloat16")].values())
        return float(line["flop"] / best)
    return float(line["copied_bytes"] / rates["copy"]) if "copied_bytes" in line else None


def _aims(aims: Mapping[str, Any], line: dict[str, Any], lines: Lines, share: float) -> Iterator[str]:
    """Each aim with what was reached and whether that is it."""

    def said(what: str, reached: float, aim: float, met: bool) -> str:
        return f"{what} {reached:.3g} (aim {aim:g}: {'met' if met else 'missed'})"

    for other, aim in aims.get("times", {}).items():
        times = lines[other]["seconds"] / line["seconds"]
        yield said(f"times as fast as “{lines[other]['line']}”:", times, aim, times >= aim)
    if "gb" in aims:
        gigabytes = line["peak_bytes"] / 1e9
        yield said("peak GB", gigabytes, aims["gb"], gigabytes <= aims["gb"])
    if "fetched_gb" in aims:
        gigabytes = line["fetched_bytes"] / 1e9
        yield said("GB fetched", gigabytes, aims["fetched_gb"], gigabytes <= aims["fetched_gb"])
    if "floor" in aims:
        yield said("share of the floor", share, aims["floor"], share >= aims["floor"])
    if "seconds" in aims:
        yield said("seconds", line["seconds"], aims["seconds"], line["seconds"] <= aims["seconds"])
